//! A model file with the precisions that its layers are predicted in.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
};

use super::answer::WhatIf;
use crate::{
    device::{
        Conditions, Kernel, extract_under,
        fit::{Case, What, table::everywhere},
        mark_sparse,
    },
    error::{Error, Result},
    graph::{
        Model,
        layer::Layers,
        model::{PRECISION_KEY, SPARSE_KEY},
        shape::{self, Pins, Shapes},
    },
    precision::Precision,
    space::limits,
};

/// A model, the precision of its nodes by name, FP16 where absent, and the nodes with 4:2 sparsity.
pub(in crate::cli) struct Network {
    model: Model,
    precision: BTreeMap<String, Precision>,
    sparse: BTreeSet<String>,
    pins: Pins,
}

impl Network {
    /// Reads a float model, or one that gulliver compressed; `pins` fix the shapes of inputs.
    pub fn load(path: &Path, pins: Pins) -> Result<Self> {
        let model = Model::load(path)?;
        let damaged =
            |e: serde_json::Error| Error::model(&model.name, format!("its gulliver metadata is damaged: {e}"), "compress the model again");
        let precision = model.metadata(PRECISION_KEY).map(serde_json::from_str).transpose().map_err(damaged)?.unwrap_or_default();
        let sparse = model.metadata(SPARSE_KEY).map(serde_json::from_str).transpose().map_err(damaged)?.unwrap_or_default();
        Ok(Self { model, precision, sparse, pins })
    }

    /// Reads a model to compare with: it may lack inputs that are pinned.
    pub fn load_beside(path: &Path, pins: Pins) -> Result<Self> {
        let mut network = Self::load(path, pins)?;
        let inputs: HashSet<&str> = network.model.inputs().map(|i| i.name()).collect();
        network.pins.retain(|name, _| inputs.contains(name.as_str()));
        Ok(network)
    }

    /// Name of the file.
    pub fn name(&self) -> String {
        Path::new(&self.model.name).file_name().map_or_else(|| self.model.name.clone(), |n| n.to_string_lossy().into_owned())
    }

    /// Asks for a precision in every layer that can take it; those that cannot take 4-bit weights are asked for INT8.
    pub(super) fn ask_for(&mut self, wanted: Precision, batch: usize) -> Result<WhatIf> {
        if !self.precision.is_empty() {
            let message = "it was compressed and has precisions of its own";
            return Err(Error::model(&self.model.name, message, "leave --precision out, or give the float model"));
        }
        let shapes = self.shapes(batch)?;
        let kernels = extract_under(&self.model, &shapes, &BTreeMap::new(), Conditions::default());
        let constant: HashSet<String> = kernels.into_iter().filter_map(|k| k.layer).collect();
        let found = Layers::find(&self.model, &shapes);
        let can = |name: &str, p: Precision| {
            let layer = found.position(name).map(|l| &found.layers[l]);
            layer.is_none_or(|layer| limits::why_not_precision(layer, p).is_none())
        };
        for (name, precision) in everywhere(&self.model, wanted).into_iter().filter(|(name, _)| constant.contains(name)) {
            let milder = if wanted.weight_bits() == 4 { Precision::Int8 } else { Precision::Fp16 };
            let precision = [precision, milder].into_iter().find(|&p| can(&name, p)).unwrap_or(Precision::Fp16);
            self.precision.insert(name, precision);
        }
        let mut layers = BTreeMap::new();
        for name in &constant {
            *layers.entry(self.precision.get(name).copied().unwrap_or(Precision::Fp16)).or_default() += 1;
        }
        Ok(WhatIf { precision: wanted, layers })
    }

    /// The kernels at a batch.
    pub fn kernels(&self, batch: usize, conditions: Conditions) -> Result<Vec<Kernel>> {
        let mut kernels = extract_under(&self.model, &self.shapes(batch)?, &self.precision, conditions);
        mark_sparse(&mut kernels, &self.sparse);
        Ok(kernels)
    }

    /// The batch it really runs at when asked for one: its own where its first input has a fixed one.
    pub fn batch(&self, asked: usize) -> Result<usize> {
        let shapes = self.shapes(asked)?;
        let first = self.model.inputs().next().and_then(|i| shapes.dims(i.name())).and_then(|d| d.first());
        Ok(first.copied().filter(|&d| d > 0).unwrap_or(asked))
    }

    /// A measured time of the model, ms.
    pub fn measured(&self, batch: usize, ms: f64, conditions: Conditions) -> Result<Case> {
        let what = What::Network(self.kernels(batch, conditions)?);
        Ok(Case { network: self.name(), family: String::new(), batch, precision: Precision::Fp16, what, ms })
    }

    fn shapes(&self, batch: usize) -> Result<Shapes> {
        shape::infer(&self.model, batch, &self.pins)
    }
}
