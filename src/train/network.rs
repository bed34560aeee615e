//! A network as it is trained: its parameters are inputs, and quantized layers read values and weights through fake quantizers with learned steps.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array1, ArrayD};

use super::differentiate::{
    float_value,
    quantize::{FAKE_QUANTIZE, fake_quantize},
};
use crate::{
    compress::{Prepared, QuantizedLayer, from_matrix},
    error::{Error, Result},
    graph::{
        Index, Model,
        layer::{Layer, Layers},
        model::int_attribute,
        patch::Patch,
        proto::NodeProto,
        shape::{self, Pins, Shapes},
        tensor,
    },
};

/// What a parameter does, which decides how it is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A layer's weight: decays.
    Weight,
    /// A bias, or scale and shift of a normalisation.
    Bias,
    /// Steps of a quantizer: stay positive.
    Step,
    /// A running mean or variance of a BatchNormalization in training mode: follows the batches, has no gradient.
    Statistic,
}

/// A constant of the network that training changes.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Name of the constant, or of the quantizer's steps.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Its value.
    pub value: ArrayD<f32>,
    /// Whether its zeros stay zeros (4:2 sparsity).
    pub keeps_zeros: bool,
}

/// A network with its parameters apart.
#[derive(Debug, Clone)]
pub struct Network {
    /// The graph; parameters are inputs behind its own.
    pub model: Model,
    /// The parameters, in the order of the inputs.
    pub parameters: Vec<Parameter>,
    /// New values of statistics that the graph gives: name of the parameter → name of the value.
    pub statistics: BTreeMap<String, String>,
    /// Quantized values: (layer, steps of its input, steps of its weight).
    quantizers: BTreeMap<String, (Option<String>, String)>,
}

impl Network {
    /// A float network: all its layers and normalisations are trained.
    ///
    /// # Errors
    /// If a constant cannot be read.
    pub fn plain(model: &Model, pins: &Pins) -> Result<Self> {
        Self::build(model, &[], &BTreeSet::new(), pins)
    }

    /// The network of a plan, with the integers it was given as the start.
    ///
    /// # Errors
    /// As [`Network::plain`].
    pub fn of_plan(prepared: &Prepared, pins: &Pins) -> Result<Self> {
        Self::build(&prepared.model, &prepared.layers, &prepared.sparse, pins)
    }

    fn build(model: &Model, quantized: &[(Layer, QuantizedLayer)], sparse: &BTreeSet<String>, pins: &Pins) -> Result<Self> {
        let shapes = shape::infer(model, 1, pins)?;
        let layers = Layers::find(model, &shapes);
        let index = Index::new(model);
        let mut parameters: Vec<Parameter> = Vec::new();
        let mut add = |name: &str, role: Role, keeps_zeros: bool| -> Result<()> {
            let tensor = index.constants.get(name).filter(|t| tensor::is_float(t) && !parameters.iter().any(|p| p.name == name));
            let Some(tensor) = tensor else { return Ok(()) };
            parameters.push(Parameter { name: name.to_string(), role, value: tensor::to_f32(tensor)?, keeps_zeros });
            Ok(())
        };
        for layer in &layers.layers {
            add(&layer.weight, Role::Weight, sparse.contains(&layer.name))?;
            layer.bias.as_ref().map_or(Ok(()), |bias| add(bias, Role::Bias, false))?;
        }
        for node in &model.graph().node {
            trained_slots(node).iter().try_for_each(|&slot| add(node.input.get(slot).map_or("", String::as_str), Role::Bias, false))?;
        }
        let mut statistics = BTreeMap::new();
        for node in model.graph().node.iter().filter(|n| updates_statistics(n)) {
            for (slot, output) in [(3, 1), (4, 2)] {
                if let (Some(name), Some(new)) = (node.input.get(slot), node.output.get(output)) {
                    add(name, Role::Statistic, false)?;
                    statistics.insert(name.clone(), new.clone());
                }
            }
        }
        let mut network = Self { model: model.clone(), parameters, statistics, quantizers: BTreeMap::new() };
        network.quantize(quantized)?;
        network.take_out()?;
        Ok(network)
    }

    /// Puts fake quantizers in front of quantized layers.
    fn quantize(&mut self, quantized: &[(Layer, QuantizedLayer)]) -> Result<()> {
        let mut patch = Patch::new("fake quantizers with learned steps");
        let mut done: BTreeMap<String, String> = BTreeMap::new();
        let mut biases: Vec<(String, String)> = Vec::new();
        for (layer, found) in quantized {
            let mut nodes = Vec::new();
            let mut node = self.model.graph().node[layer.node].clone();
            let mut of_input = None;
            if let Some(grid) = found.activations {
                let key = format!("{}/fake/{}bit/{:08x}/{}", layer.input, grid.bits, grid.scale.to_bits(), grid.offset);
                let steps = format!("{key}/step");
                if done.insert(key.clone(), steps.clone()).is_none() {
                    let (low, high) = grid.limits();
                    let limits = ((low - grid.offset) as f32, (high - grid.offset) as f32);
                    nodes.push(fake_quantize(&format!("{key}/node"), &layer.input, &steps, &key, limits, 0));
                    self.step(&steps, vec![grid.scale], &mut patch);
                }
                node.input[layer.data_slot()].clone_from(&key);
                of_input = Some(steps);
            }
            let (weight, steps) = (format!("{}/fake", layer.weight), format!("{}/fake/step", layer.weight));
            let bits = found.precision.weight_bits();
            let top = f32::from(1_u16 << (bits - 1));
            nodes.push(fake_quantize(&format!("{weight}/node"), &layer.weight, &steps, &weight, (-top, top - 1.0), layer.out_axis));
            let scales = per_channel(layer, &found.weight.scales);
            self.step(&steps, scales.clone(), &mut patch);
            node.input[layer.slot].clone_from(&weight);
            if let (Some(of_input), Some(bias), Some(_)) = (&of_input, &layer.bias, &found.bias) {
                // On the chip a bias is a multiple of both steps together; with few bits that is coarse.
                let (both, rounded) = (format!("{bias}/fake/step"), format!("{bias}/fake"));
                nodes.push(tensor::node("Mul", &format!("{both}/node"), &[of_input, &steps], &[&both], vec![]));
                let most = -(i32::MIN as f32);
                nodes.push(fake_quantize(&format!("{rounded}/node"), bias, &both, &rounded, (-most, most), 0));
                biases.push((bias.clone(), rounded));
            }
            nodes.push(node);
            patch.replace.insert(layer.node, nodes);
            self.start_at(layer, found, &scales)?;
            self.quantizers.insert(layer.name.clone(), (of_input, steps));
        }
        // The bias of a matrix product is read by the Add behind it.
        for (i, node) in self.model.graph().node.iter().enumerate() {
            let nodes = patch.replace.entry(i).or_insert_with(|| vec![node.clone()]);
            let reads = nodes.iter_mut().filter(|n| n.op_type() != FAKE_QUANTIZE).flat_map(|n| &mut n.input);
            for input in reads {
                if let Some((_, rounded)) = biases.iter().find(|(bias, _)| bias == input) {
                    input.clone_from(rounded);
                }
            }
        }
        self.model = patch.apply(&self.model)?;
        Ok(())
    }

    fn step(&mut self, name: &str, values: Vec<f32>, patch: &mut Patch) {
        let value = Array1::from(values).into_dyn();
        patch.tensors.insert(name.to_string(), tensor::from_f32(name, &value));
        self.parameters.push(Parameter { name: name.to_string(), role: Role::Step, value, keeps_zeros: false });
    }

    /// Starts a weight where it was, as far as it still becomes the integers it was given: those see more than the nearest ones would.
    fn start_at(&mut self, layer: &Layer, found: &QuantizedLayer, scales: &[f32]) -> Result<()> {
        let integers = from_matrix(&found.weight.integers, &layer.weight_dims, layer.out_axis)?;
        for parameter in &mut self.parameters {
            if parameter.name == layer.weight {
                for ((i, w), q) in parameter.value.indexed_iter_mut().zip(&integers) {
                    let step = scales[if scales.len() == 1 { 0 } else { i[layer.out_axis] }];
                    *w = w.clamp((q - NEAR) * step, (q + NEAR) * step);
                }
            }
            if let Some(bias) = found.bias.as_ref().filter(|_| Some(&parameter.name) == layer.bias.as_ref()) {
                parameter.value = ArrayD::from_shape_vec(parameter.value.raw_dim(), bias.clone())
                    .map_err(|e| Error::Internal(format!("{}: {e}", parameter.name)))?;
            }
        }
        Ok(())
    }

    /// Makes inputs of the parameters.
    fn take_out(&mut self) -> Result<()> {
        let names: BTreeSet<&str> = self.parameters.iter().map(|p| p.name.as_str()).collect();
        let graph = self.model.proto.graph.get_or_insert_default();
        graph.initializer.retain(|t| !names.contains(t.name()));
        graph.node.retain(|n| n.op_type() != "Constant" || !n.output.iter().any(|o| names.contains(o.as_str())));
        graph.input.retain(|i| !names.contains(i.name()));
        let inputs = self.parameters.iter().map(|p| float_value(&p.name, Some(p.value.shape())));
        graph.input.extend(inputs);
        crate::graph::patch::check(&self.model)
    }

    /// Samples of a batch that go through the network at once for a step to take no more than so many bytes: all, or the batch halved as often as it takes.
    ///
    /// # Errors
    /// If the shapes are not known.
    pub fn at_once(&self, batch: usize, max_memory: u64, pins: &Pins) -> Result<usize> {
        // Values stay until their gradient is known: one copy of each, and of the widest what its gradient is made with.
        let shapes = shapes(&self.model, batch, pins)?;
        let values = self.model.graph().node.iter().flat_map(|n| &n.output).filter_map(|v| shapes.elements(v));
        let (sum, widest) = values.fold((0, 0), |(sum, widest): (u64, u64), n| (sum + n as u64, widest.max(n as u64)));
        let held = 4 * 4 * self.parameters.iter().map(|p| p.value.len() as u64).sum::<u64>();
        let mut at_once = batch;
        while held + 4 * (sum + 4 * widest) * at_once as u64 / batch as u64 > max_memory && at_once.is_multiple_of(2) {
            at_once /= 2;
        }
        Ok(at_once)
    }

    /// The value of a parameter.
    pub fn value(&self, name: &str) -> Option<&ArrayD<f32>> {
        self.parameters.iter().find(|p| p.name == name).map(|p| &p.value)
    }

    /// What training made of a plan's network: its weights, and integers on the learned steps.
    ///
    /// # Errors
    /// If a weight was lost, a bug.
    pub fn settle(&self, prepared: &Prepared) -> Result<Prepared> {
        let mut out = prepared.clone();
        let mut patch = Patch::new("trained weights");
        for parameter in self.parameters.iter().filter(|p| p.role != Role::Step) {
            patch.tensors.insert(parameter.name.clone(), tensor::from_f32(&parameter.name, &parameter.value));
        }
        out.model = patch.apply(&prepared.model)?;
        for (layer, found) in &mut out.layers {
            let lost = || Error::Internal(format!("the parameters of {} were lost", layer.name));
            let (input, steps) = self.quantizers.get(&layer.name).ok_or_else(lost)?;
            let weight = self.value(&layer.weight).ok_or_else(lost)?;
            let steps = self.value(steps).ok_or_else(lost)?;
            let scales: Vec<f32> = steps.iter().copied().collect();
            if let (Some(grid), Some(step)) = (&mut found.activations, input.as_ref().and_then(|n| self.value(n)?.first())) {
                grid.scale = *step;
            }
            found.retrain(weight, &scales, layer.out_axis);
            if let Some(bias) = layer.bias.as_ref().and_then(|b| self.value(b)).filter(|_| found.bias.is_some()) {
                found.bias = Some(bias.iter().copied().collect());
            }
        }
        Ok(out)
    }

    /// The network as it answers once it is trained: normalisations by their statistics, not by the batch.
    pub fn answering(&self) -> Model {
        let mut model = self.model.clone();
        for node in model.graph_mut().node.iter_mut().filter(|n| updates_statistics(n)) {
            node.attribute.retain(|a| a.name() != "training_mode");
            node.output.truncate(1);
        }
        model
    }

    /// The answering network with the values that its parameters have now.
    pub fn filled(&self) -> Model {
        let mut model = self.answering();
        let names: BTreeSet<&str> = self.parameters.iter().map(|p| p.name.as_str()).collect();
        let graph = model.graph_mut();
        graph.input.retain(|i| !names.contains(i.name()));
        graph.initializer.extend(self.parameters.iter().map(|p| tensor::from_f32(&p.name, &p.value)));
        model
    }
}

/// Shapes of all values of a network with fake quantizers, which shape inference does not know, at a batch.
///
/// # Errors
/// As [`shape::infer`].
pub fn shapes(model: &Model, batch: usize, pins: &Pins) -> Result<Shapes> {
    let mut plain = model.clone();
    for node in plain.graph_mut().node.iter_mut().filter(|n| n.op_type() == FAKE_QUANTIZE) {
        *node = tensor::node("Identity", node.name(), &[&node.input[0]], &[&node.output[0]], vec![]);
    }
    shape::infer(&plain, batch, pins)
}

/// How far from its integer a weight may start, in steps.
const NEAR: f32 = 0.45;

/// Steps along the axis of the output channels: convolutions have one for each, matrix products one.
fn per_channel(layer: &Layer, scales: &[f32]) -> Vec<f32> {
    let equal = scales.windows(2).all(|w| w[0] == w[1]);
    let (per_row, first) = (layer.op.is_convolution(), scales.first().copied().unwrap_or(1.0));
    if !per_row && equal {
        return vec![first];
    }
    (0..layer.weight_dims[layer.out_axis]).map(|i| scales.get(i).copied().unwrap_or(first)).collect()
}

/// Inputs of a node that are trained besides those of layers.
fn trained_slots(node: &NodeProto) -> &'static [usize] {
    match node.op_type() {
        "BatchNormalization" | "InstanceNormalization" | "LayerNormalization" | "GroupNormalization" => &[1, 2],
        "PRelu" => &[1],
        _ => &[],
    }
}

fn updates_statistics(node: &NodeProto) -> bool {
    node.op_type() == "BatchNormalization" && int_attribute(node, "training_mode", 0) == 1
}
