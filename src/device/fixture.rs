//! Networks of `datasets/latency` for tests.

use std::{collections::BTreeMap, path::Path};

use super::{Kernel, extract, fit::table::everywhere};
use crate::{
    graph::{Model, shape},
    precision::Precision,
};

/// The kernels of a network at a batch, every layer in a precision.
pub fn kernels(network: &str, batch: usize, precision: Precision) -> Vec<Kernel> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("datasets/latency/{network}.onnx"));
    let model = Model::load(&path).unwrap();
    extract(&model, &shape::infer(&model, batch, &BTreeMap::new()).unwrap(), &everywhere(&model, precision))
}
