//! What `gulliver latency` found: the JSON document, and what the text is made from.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Serialize;

use crate::{
    device::{Anchor, Comparison, Conditions, Evidence, Kind, Prediction},
    precision::Precision,
};

/// The predictions of a model on a chip.
#[derive(Serialize)]
pub(super) struct Answer {
    pub model: PathBuf,
    pub device: String,
    pub known_error: String,
    #[serde(skip)]
    pub evidence: Option<Evidence>,
    pub conditions: Conditions,
    pub host_us: f64,
    /// Where a precision was asked for.
    pub what_if: Option<WhatIf>,
    /// Where a measurement was given.
    pub measured: Option<Anchor>,
    /// The model compared with.
    pub other: Option<PathBuf>,
    pub batches: Vec<OfBatch>,
}

/// A precision for every layer that can take it.
#[derive(Serialize)]
pub(super) struct WhatIf {
    pub precision: Precision,
    /// How many layers ask for which precision.
    pub layers: BTreeMap<Precision, usize>,
}

/// One batch; the prediction's own fields stand beside these.
#[derive(Serialize)]
pub(super) struct OfBatch {
    pub batch: usize,
    pub fps: f64,
    pub kinds: Vec<Kind>,
    pub compare: Option<Comparison>,
    #[serde(flatten)]
    pub prediction: Prediction,
}
