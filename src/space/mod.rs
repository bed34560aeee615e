//! The space of candidates and what they mean.
pub mod candidate;
pub use candidate::Candidate;
