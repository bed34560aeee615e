//! The walk that finds out how channels are tied: one rule an operator.

use std::collections::HashMap;

use super::{
    Index,
    group::{Channels, ShapeEntry, Slice},
    layer::{LayerOp, Layers},
    model::{captured, int_attribute, ints_attribute},
    proto::NodeProto,
    shape::Shapes,
};

/// Channels of a value: the atom of every index along an axis.
#[derive(Debug, Clone)]
struct Map {
    axis: usize,
    atoms: Vec<usize>,
}

/// State of the walk.
pub(super) struct Tracer<'a> {
    layers: &'a Layers,
    shapes: &'a Shapes,
    index: &'a Index<'a>,
    layer_at: HashMap<usize, usize>,
    maps: HashMap<&'a str, Map>,
    leader: Vec<usize>,
    frozen: HashMap<usize, String>,
    rows: Vec<Vec<usize>>,
    columns: Vec<Vec<usize>>,
    slices: Vec<(String, usize, Vec<usize>)>,
    entries: Vec<(String, usize, Vec<usize>)>,
}

impl<'a> Tracer<'a> {
    pub(super) fn new(layers: &'a Layers, shapes: &'a Shapes, index: &'a Index<'a>) -> Self {
        let n = layers.layers.len();
        Self {
            layers,
            shapes,
            index,
            layer_at: layers.layers.iter().enumerate().map(|(l, layer)| (layer.node, l)).collect(),
            maps: HashMap::new(),
            leader: Vec::new(),
            frozen: HashMap::new(),
            rows: vec![Vec::new(); n],
            columns: vec![Vec::new(); n],
            slices: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Forbids removing any channel of a value.
    pub(super) fn freeze(&mut self, value: &str, reason: &str) {
        let Some(map) = self.maps.get(value) else { return };
        for atom in map.atoms.clone() {
            self.freeze_atom(atom, reason);
        }
    }

    fn freeze_atom(&mut self, atom: usize, reason: &str) {
        let root = self.find(atom);
        self.frozen.entry(root).or_insert_with(|| reason.to_string());
    }

    fn find(&mut self, mut x: usize) -> usize {
        while self.leader[x] != x {
            self.leader[x] = self.leader[self.leader[x]];
            x = self.leader[x];
        }
        x
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        if a == b {
            return;
        }
        let (low, high) = (a.min(b), a.max(b));
        self.leader[high] = low;
        if let Some(reason) = self.frozen.remove(&high) {
            self.frozen.entry(low).or_insert(reason);
        }
    }

    fn fresh(&mut self, n: usize) -> Vec<usize> {
        let start = self.leader.len();
        self.leader.extend(start..start + n);
        (start..start + n).collect()
    }

    fn rank(&self, value: &str) -> Option<usize> {
        self.shapes.dims(value).map(<[usize]>::len)
    }

    /// Applies the rule of one node.
    pub(super) fn visit(&mut self, i: usize, node: &'a NodeProto) {
        if let Some(&layer) = self.layer_at.get(&i) {
            return self.layer(layer, node);
        }
        let domain_ok = matches!(node.domain(), "" | "ai.onnx");
        let op = if domain_ok { node.op_type() } else { "custom" };
        let known = match op {
            "Relu" | "LeakyRelu" | "Clip" | "Sigmoid" | "HardSigmoid" | "HardSwish" | "Tanh" | "Elu" | "Selu" | "Celu" | "Softplus"
            | "Softsign" | "Erf" | "Gelu" | "Mish" | "Abs" | "Neg" | "Exp" | "Sqrt" | "Reciprocal" | "Floor" | "Ceil" | "Round"
            | "Sign" | "Identity" | "Dropout" | "Cast" => self.pass(node, Some),
            "BatchNormalization" | "InstanceNormalization" => self.per_channel_parameters(node),
            "MaxPool" | "AveragePool" | "LpPool" | "GlobalAveragePool" | "GlobalMaxPool" => {
                self.pass(node, |axis| (axis == 1).then_some(1))
            }
            "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" | "PRelu" | "Sum" | "Pow" => self.elementwise(node),
            "Concat" => self.concat(node),
            "Flatten" => self.flatten(node),
            "Reshape" => self.reshape(node),
            "Transpose" => self.transpose(node),
            "ReduceMean" | "ReduceSum" | "ReduceMax" => self.reduce(node),
            "Squeeze" | "Unsqueeze" => self.squeeze(node),
            "Resize" | "Upsample" => self.resize(node),
            "Pad" => self.pad(node),
            _ => None,
        };
        let inner = captured(node);
        if known.is_none() || !inner.is_empty() {
            for input in node.input.iter().map(String::as_str).chain(inner) {
                self.freeze(input, &format!("{} {} reads its channels", node.op_type(), node.name()));
            }
        }
    }

    /// Passes the first input's channels to the first output, at the axis that `to` gives.
    fn pass(&mut self, node: &'a NodeProto, to: impl Fn(usize) -> Option<usize>) -> Option<()> {
        let Some(map) = self.maps.get(node.input.first()?.as_str()) else { return Some(()) };
        let axis = to(map.axis)?;
        let map = Map { axis, atoms: map.atoms.clone() };
        self.maps.insert(node.output.first()?, map);
        Some(())
    }

    fn layer(&mut self, l: usize, node: &'a NodeProto) {
        let layer = &self.layers.layers[l];
        let convolution = matches!(layer.op, LayerOp::Conv | LayerOp::ConvTranspose);
        let in_axis = if convolution { Some(1) } else { self.rank(&layer.input).map(|r| r.saturating_sub(1)) };
        let out_axis = if convolution { Some(1) } else { self.rank(&layer.output).map(|r| r.saturating_sub(1)) };
        let input = self.maps.get(layer.input.as_str()).cloned().filter(|m| Some(m.axis) == in_axis && m.atoms.len() == layer.channels_in);
        if input.is_none() {
            self.freeze(&layer.input, &format!("{} reads another axis of it", layer.name));
        }
        let Some(output) = node.output.first() else { return };
        if layer.is_depthwise() {
            let Some(map) = input else { return };
            self.slices.push((layer.weight.clone(), 0, map.atoms.clone()));
            if let Some(bias) = &layer.bias {
                self.slices.push((bias.clone(), self.bias_axis(bias), map.atoms.clone()));
            }
            self.rows[l] = map.atoms.clone();
            self.columns[l] = map.atoms.clone();
            self.maps.insert(output, map);
            return;
        }
        if let Some(map) = input {
            if layer.groups == 1 {
                self.slices.push((layer.weight.clone(), layer.in_axis, map.atoms.clone()));
                self.columns[l] = map.atoms;
            } else {
                let reason = format!("the grouped convolution {} reads its channels", layer.name);
                map.atoms.into_iter().for_each(|a| self.freeze_atom(a, &reason));
            }
        }
        let Some(axis) = out_axis else { return };
        let atoms = self.fresh(layer.channels_out);
        if layer.groups == 1 {
            self.slices.push((layer.weight.clone(), layer.out_axis, atoms.clone()));
            if let Some(bias) = &layer.bias {
                self.slices.push((bias.clone(), self.bias_axis(bias), atoms.clone()));
            }
        } else {
            atoms.iter().for_each(|&a| self.freeze_atom(a, "it is a grouped convolution"));
        }
        self.rows[l] = atoms.clone();
        self.maps.insert(output, Map { axis, atoms });
    }

    fn bias_axis(&self, bias: &str) -> usize {
        self.index.constants.get(bias).map_or(0, |t| t.dims.len().saturating_sub(1))
    }

    fn per_channel_parameters(&mut self, node: &'a NodeProto) -> Option<()> {
        let Some(map) = self.maps.get(node.input.first()?.as_str()).cloned() else { return Some(()) };
        if map.axis != 1 {
            return None;
        }
        for parameter in &node.input[1..] {
            if self.index.readers(parameter).len() != 1 || !self.index.constants.contains_key(parameter.as_str()) {
                return None;
            }
        }
        for parameter in &node.input[1..] {
            self.slices.push((parameter.clone(), 0, map.atoms.clone()));
        }
        self.maps.insert(node.output.first()?, map);
        Some(())
    }

    fn elementwise(&mut self, node: &'a NodeProto) -> Option<()> {
        let out = node.output.first()?;
        let out_rank = self.rank(out)?;
        let tracked: Vec<(usize, Map)> =
            node.input.iter().filter_map(|v| self.maps.get(v.as_str()).map(|m| (self.rank(v).unwrap_or(0), m.clone()))).collect();
        if tracked.is_empty() {
            return Some(());
        }
        let aligned = |rank: usize, axis: usize| axis + out_rank - rank.min(out_rank);
        let (rank0, widest) = tracked.iter().max_by_key(|(_, m)| m.atoms.len())?;
        let (axis, n) = (aligned(*rank0, widest.axis), widest.atoms.len());
        let widest = widest.clone();
        let mut cuts: Vec<(String, usize)> = Vec::new();
        for value in &node.input {
            let dims = self.shapes.dims(value)?;
            let own_axis = (axis + dims.len()).checked_sub(out_rank);
            let own = own_axis.and_then(|a| dims.get(a)).copied().unwrap_or(1);
            match self.maps.get(value.as_str()) {
                Some(map) if aligned(dims.len(), map.axis) != axis => return None,
                Some(map) if map.atoms.len() == n => {}
                Some(_) => return None,
                None if own == 1 => {}
                None if self.index.constants.contains_key(value.as_str()) && self.index.readers(value).len() == 1 => {
                    cuts.push((value.clone(), own_axis?));
                }
                None => return None,
            }
        }
        for (_, map) in &tracked {
            for (&a, &b) in widest.atoms.iter().zip(&map.atoms) {
                self.join(a, b);
            }
        }
        for (tensor, own_axis) in cuts {
            self.slices.push((tensor, own_axis, widest.atoms.clone()));
        }
        self.maps.insert(out, Map { axis, atoms: widest.atoms });
        Some(())
    }

    fn concat(&mut self, node: &'a NodeProto) -> Option<()> {
        let out = node.output.first()?;
        let axis = axis_of(int_attribute(node, "axis", 0), self.rank(out)?)?;
        let maps: Vec<Option<Map>> = node.input.iter().map(|v| self.maps.get(v.as_str()).cloned()).collect();
        if maps.iter().all(Option::is_none) {
            return Some(());
        }
        if maps.iter().flatten().any(|m| m.axis != axis) {
            return None;
        }
        let mut atoms = Vec::new();
        for (value, map) in node.input.iter().zip(maps) {
            match map {
                Some(map) => atoms.extend(map.atoms),
                None => {
                    let n = *self.shapes.dims(value)?.get(axis)?;
                    let fixed = self.fresh(n);
                    fixed.iter().for_each(|&a| self.freeze_atom(a, "it is not made by a layer"));
                    atoms.extend(fixed);
                }
            }
        }
        self.maps.insert(out, Map { axis, atoms });
        Some(())
    }

    fn flatten(&mut self, node: &'a NodeProto) -> Option<()> {
        let input = node.input.first()?;
        let Some(map) = self.maps.get(input.as_str()) else { return Some(()) };
        let axis = axis_of(int_attribute(node, "axis", 1), self.rank(input)?)?;
        if axis != 1 || map.axis != 1 {
            return None;
        }
        let inner: usize = self.shapes.dims(input)?.get(2..)?.iter().product();
        let atoms = map.atoms.iter().flat_map(|&a| std::iter::repeat_n(a, inner)).collect();
        self.maps.insert(node.output.first()?, Map { axis: 1, atoms });
        Some(())
    }

    /// Only reshapes that flatten everything after the batch, or change nothing.
    fn reshape(&mut self, node: &'a NodeProto) -> Option<()> {
        let (input, target) = (node.input.first()?, node.input.get(1)?);
        let Some(map) = self.maps.get(input.as_str()).cloned() else { return Some(()) };
        let (from, to) = (self.shapes.dims(input)?, self.shapes.dims(node.output.first()?)?);
        if map.axis != 1 || from.first() != to.first() || to.get(1)? % map.atoms.len() != 0 {
            return None;
        }
        let flattened = to.len() == 2 && from.len() >= 2;
        if !flattened && from != to {
            return None;
        }
        let inner = if flattened { from[2..].iter().product() } else { 1 };
        let atoms: Vec<usize> = map.atoms.iter().flat_map(|&a| std::iter::repeat_n(a, inner)).collect();
        let shape = self.index.ints(target)?;
        if shape.get(1).is_some_and(|&d| d > 0) {
            if self.index.readers(target).len() != 1 {
                return None;
            }
            self.entries.push((target.clone(), 1, atoms.clone()));
        }
        self.maps.insert(node.output.first()?, Map { axis: 1, atoms });
        Some(())
    }

    fn transpose(&mut self, node: &'a NodeProto) -> Option<()> {
        let perm = ints_attribute(node, "perm")?;
        self.pass(node, |axis| perm.iter().position(|&p| usize::try_from(p) == Ok(axis)))
    }

    fn reduce(&mut self, node: &'a NodeProto) -> Option<()> {
        let input = node.input.first()?;
        if !self.maps.contains_key(input.as_str()) {
            return Some(());
        }
        let rank = self.rank(input)?;
        let axes = ints_attribute(node, "axes").or_else(|| node.input.get(1).and_then(|a| self.index.ints(a)))?;
        let axes: Vec<usize> = axes.into_iter().map(|a| axis_of(a, rank)).collect::<Option<_>>()?;
        let keep = int_attribute(node, "keepdims", 1) == 1;
        self.pass(node, |axis| {
            let before = axes.iter().filter(|&&a| a < axis).count();
            (!axes.contains(&axis)).then_some(if keep { axis } else { axis - before })
        })
    }

    fn squeeze(&mut self, node: &'a NodeProto) -> Option<()> {
        let (input, output) = (node.input.first()?, node.output.first()?);
        let axes = ints_attribute(node, "axes").or_else(|| node.input.get(1).and_then(|a| self.index.ints(a)))?;
        let squeeze = node.op_type() == "Squeeze";
        let rank = if squeeze { self.rank(input)? } else { self.rank(output)? };
        let axes: Vec<usize> = axes.into_iter().map(|a| axis_of(a, rank)).collect::<Option<_>>()?;
        self.pass(node, |axis| {
            if squeeze {
                (!axes.contains(&axis)).then(|| axis - axes.iter().filter(|&&a| a < axis).count())
            } else {
                (0..rank).filter(|a| !axes.contains(a)).nth(axis)
            }
        })
    }

    fn resize(&mut self, node: &'a NodeProto) -> Option<()> {
        let fixed_sizes = node.input.get(3).is_some_and(|s| !s.is_empty());
        if fixed_sizes && self.maps.contains_key(node.input.first()?.as_str()) {
            return None;
        }
        self.pass(node, |axis| (axis == 1).then_some(1))
    }

    fn pad(&mut self, node: &'a NodeProto) -> Option<()> {
        let pads = ints_attribute(node, "pads").or_else(|| node.input.get(1).and_then(|p| self.index.ints(p)))?;
        let rank = pads.len() / 2;
        self.pass(node, |axis| (pads.get(axis) == Some(&0) && pads.get(axis + rank) == Some(&0)).then_some(axis))
    }

    /// Numbers the units and hands over to the groups.
    pub(super) fn finish(mut self) -> Channels {
        let mut number: HashMap<usize, usize> = HashMap::new();
        let mut resolve = |tracer: &mut Self, atoms: Vec<usize>| -> Vec<Option<usize>> {
            let roots: Vec<usize> = atoms.into_iter().map(|a| tracer.find(a)).collect();
            roots
                .into_iter()
                .map(|root| {
                    let next = number.len();
                    Some(*number.entry(root).or_insert(next))
                })
                .collect()
        };
        let rows: Vec<_> = std::mem::take(&mut self.rows).into_iter().map(|a| resolve(&mut self, a)).collect();
        let columns: Vec<_> = std::mem::take(&mut self.columns).into_iter().map(|a| resolve(&mut self, a)).collect();
        let slices = std::mem::take(&mut self.slices)
            .into_iter()
            .map(|(tensor, axis, atoms)| Slice { tensor, axis, units: resolve(&mut self, atoms) })
            .collect();
        let entries = std::mem::take(&mut self.entries)
            .into_iter()
            .map(|(tensor, position, atoms)| ShapeEntry { tensor, position, units: resolve(&mut self, atoms) })
            .collect();
        let frozen = self.frozen.iter().filter_map(|(root, why)| number.get(root).map(|&n| (n, why.clone()))).collect();
        Channels::assemble(self.layers, rows, columns, slices, entries, &frozen)
    }
}

fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|&a| i64::try_from(a).is_ok_and(|a| a < rank.max(1)))
}
