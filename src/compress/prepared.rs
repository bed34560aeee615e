//! A plan's network before its twin is made: what training starts from, and what it gives back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ndarray::ArrayD;

use super::{
    decompose::as_matrix,
    quantize::Rounding,
    twin::{QuantizedLayer, twin},
};
use crate::{
    error::Result,
    graph::{Model, layer::Layer},
    precision::Precision,
};

/// A plan's network in floats, with the integers of its quantized layers beside it.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The network with the plan's channels, ranks and balance; its weights are not rounded.
    pub model: Model,
    /// Its quantized layers, in the order in which they were rounded.
    pub layers: Vec<(Layer, QuantizedLayer)>,
    /// Precision of each node that does a layer's work.
    pub precision: BTreeMap<String, Precision>,
    /// Nodes whose weights have 4:2 sparsity.
    pub sparse: BTreeSet<String>,
    /// The plan, as YAML.
    pub plan: String,
}

impl Prepared {
    /// The fake-quant twin.
    ///
    /// # Errors
    /// If a bias does not fit INT32 at its layer's scales.
    pub fn twin(&self) -> Result<Model> {
        twin(&self.model, &self.layers, (&self.precision, &self.sparse), &self.plan)
    }
}

impl QuantizedLayer {
    /// Gives the layer the integers nearest to a weight on other scales: one, or one for each index of `out_axis`.
    pub fn retrain(&mut self, weight: &ArrayD<f32>, scales: &[f32], out_axis: usize) {
        let mut integers = as_matrix(weight, out_axis);
        let scales: Vec<f32> = (0..integers.nrows()).map(|r| scales[if scales.len() == 1 { 0 } else { r }]).collect();
        let top = f32::from(1_u16 << (self.precision.weight_bits() - 1));
        let nearest = |w: f32, s: f32| (w / s).clamp(-top, top - 1.0).round_ties_even();
        integers.rows_mut().into_iter().zip(&scales).for_each(|(mut row, &s)| row.mapv_inplace(|w| nearest(w, s)));
        self.weight = Arc::new(Rounding { integers, scales });
    }
}
