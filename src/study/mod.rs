//! A study: the loop, its journal and its result.
pub mod summary;
