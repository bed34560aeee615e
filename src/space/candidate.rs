//! A point of the space.

use serde::{Deserialize, Serialize};

/// An option's index for every axis of the space.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Candidate(pub Vec<u16>);
