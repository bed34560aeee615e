//! The walk that finds out how channels are tied: its state, and the rules of layers. The rules of other operators
//! are in [`super::channel_rules`], [`super::channel_forms`].

use std::{collections::HashMap, rc::Rc};

use super::{
    Index, Model,
    grid::{Grid, LIMIT},
    group::{Channels, EntryPlace, ShapeEntry, Slice},
    layer::{LayerOp, Layers},
    model::captured,
    proto::NodeProto,
    shape::Shapes,
};

/// A constant whose entries along some axes belong to a grid's atoms.
struct Cut {
    tensor: String,
    /// Position of an axis in the grid, and the constant's axis it lies on.
    axes: Vec<(usize, usize)>,
    grid: Grid,
}

/// A number that counts the indices along one axis of a grid.
struct Count {
    place: EntryPlace,
    position: usize,
    grid: Grid,
    axis: usize,
}

/// State of the walk.
pub(super) struct Tracer<'a> {
    layers: &'a Layers,
    pub(super) shapes: &'a Shapes,
    pub(super) index: &'a Index<'a>,
    pub(super) nodes: &'a [NodeProto],
    pub(super) opset: i64,
    layer_at: HashMap<usize, usize>,
    pub(super) maps: HashMap<&'a str, Grid>,
    leader: Vec<usize>,
    frozen: HashMap<usize, Rc<str>>,
    rows: Vec<Vec<usize>>,
    columns: Vec<Vec<usize>>,
    cuts: Vec<Cut>,
    counts: Vec<Count>,
    /// Grids of several axes: what goes must leave them rectangular.
    grids: Vec<Grid>,
    /// Grids with an axis that must stay whole.
    whole: Vec<(Grid, usize, String)>,
}

impl<'a> Tracer<'a> {
    pub(super) fn new(model: &'a Model, layers: &'a Layers, shapes: &'a Shapes, index: &'a Index<'a>) -> Self {
        let n = layers.layers.len();
        Self {
            layers,
            shapes,
            index,
            nodes: &model.graph().node,
            opset: model.opset(),
            layer_at: layers.layers.iter().enumerate().map(|(l, layer)| (layer.node, l)).collect(),
            maps: HashMap::new(),
            leader: Vec::new(),
            frozen: HashMap::new(),
            rows: vec![Vec::new(); n],
            columns: vec![Vec::new(); n],
            cuts: Vec::new(),
            counts: Vec::new(),
            grids: Vec::new(),
            whole: Vec::new(),
        }
    }

    /// Forbids removing any channel of a value.
    pub(super) fn freeze(&mut self, value: &str, reason: &str) {
        if let Some(grid) = self.maps.get(value) {
            self.freeze_atoms(grid.atoms.clone(), reason);
        }
    }

    pub(super) fn freeze_atoms(&mut self, atoms: impl IntoIterator<Item = usize>, reason: &str) {
        let reason: Rc<str> = reason.into();
        for atom in atoms {
            let root = self.find(atom);
            self.frozen.entry(root).or_insert_with(|| Rc::clone(&reason));
        }
    }

    fn find(&mut self, mut x: usize) -> usize {
        while self.leader[x] != x {
            self.leader[x] = self.leader[self.leader[x]];
            x = self.leader[x];
        }
        x
    }

    pub(super) fn join(&mut self, a: usize, b: usize) {
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

    pub(super) fn fresh(&mut self, n: usize) -> Vec<usize> {
        let start = self.leader.len();
        self.leader.extend(start..start + n);
        (start..start + n).collect()
    }

    pub(super) fn rank(&self, value: &str) -> Option<usize> {
        self.shapes.dims(value).map(<[usize]>::len)
    }

    /// Says which channels a value has.
    pub(super) fn set(&mut self, value: &'a str, grid: Grid) {
        let fits = |dims: &[usize]| grid.axes.iter().zip(&grid.dims).all(|(&a, d)| dims.get(a) == Some(d));
        if !self.shapes.dims(value).is_some_and(fits) {
            return self.freeze_atoms(grid.atoms, &format!("the shape of {value} is not known, or not what its makers say"));
        }
        if grid.axes.len() > 1 {
            self.grids.push(grid.clone());
        }
        self.maps.insert(value, grid);
    }

    /// Notes a constant that is cut with a grid: `axes` are pairs of a position in the grid and an axis of the constant.
    pub(super) fn cut(&mut self, tensor: &str, axes: Vec<(usize, usize)>, grid: &Grid) {
        self.cuts.push(Cut { tensor: tensor.to_string(), axes, grid: grid.clone() });
    }

    /// Notes a number that counts the indices of a grid's axis.
    pub(super) fn count(&mut self, place: EntryPlace, position: usize, grid: &Grid, axis: usize) {
        self.counts.push(Count { place, position, grid: grid.clone(), axis });
    }

    /// Notes that an axis of a grid must stay whole.
    pub(super) fn keep_whole(&mut self, grid: &Grid, axis: usize, reason: String) {
        self.whole.push((grid.clone(), axis, reason));
    }

    /// Applies the rule of one node.
    pub(super) fn visit(&mut self, i: usize, node: &'a NodeProto) {
        if let Some(&layer) = self.layer_at.get(&i) {
            return self.layer(layer, node);
        }
        let inner = captured(node);
        let known = self.rule(i, node);
        if known.is_none() || !inner.is_empty() {
            let reason = super::channel_rules::reason(node);
            for input in node.input.iter().map(String::as_str).chain(inner) {
                self.freeze(input, &reason);
            }
        }
    }

    fn layer(&mut self, l: usize, node: &'a NodeProto) {
        let layer = &self.layers.layers[l];
        let axis_of = |axis: isize, value: &str| {
            let rank = self.rank(value)?;
            usize::try_from(if axis < 0 { axis + rank.cast_signed() } else { axis }).ok().filter(|&a| a < rank)
        };
        let (in_axis, out_axis) = (axis_of(layer.input_axis(), &layer.input), axis_of(layer.output_axis(), &layer.output));
        let line = self.maps.get(layer.input.as_str()).and_then(Grid::as_line);
        let input = line.filter(|(axis, atoms)| Some(*axis) == in_axis && atoms.len() == layer.channels_in).map(|(_, a)| a.to_vec());
        if input.is_none() {
            self.freeze(&layer.input, &format!("{} reads another axis of it", layer.name));
        }
        let (Some(output), Some(axis)) = (node.output.first(), out_axis) else {
            self.freeze(&layer.input, &format!("the shape that {} makes is unknown", layer.name));
            return;
        };
        let (name, weight) = (layer.name.clone(), layer.weight.clone());
        let (groups, outputs) = (layer.groups, layer.channels_out);
        if layer.shares_weight {
            let reason = format!("{name} shares its weight with another node");
            self.freeze_atoms(input.unwrap_or_default(), &reason);
            let atoms = self.fresh(outputs);
            self.freeze_atoms(atoms.clone(), &reason);
            self.rows[l].clone_from(&atoms);
            self.set(output, Grid::line(axis, atoms));
            return;
        }
        let atoms = match input {
            // The outputs of a group depend on its inputs only: whole groups go, with all their inputs and outputs.
            Some(input) if groups > 1 => {
                let width = input.len() / groups;
                for group in input.chunks(width) {
                    group[1..].iter().for_each(|&a| self.join(group[0], a));
                }
                self.columns[l].clone_from(&input);
                let atoms: Vec<usize> = (0..outputs).map(|o| input[o / (outputs / groups) * width]).collect();
                if layer.op == LayerOp::ConvTranspose {
                    self.cut(&weight, vec![(0, 0)], &Grid::line(0, input));
                } else {
                    self.cut(&weight, vec![(0, 0)], &Grid::line(0, atoms.clone()));
                }
                atoms
            }
            None if groups > 1 => {
                let atoms = self.fresh(outputs);
                self.freeze_atoms(atoms.clone(), &format!("the channels that the grouped {name} reads cannot be cut"));
                atoms
            }
            input => {
                if let Some(input) = input {
                    self.cut(&weight, vec![(0, layer.in_axis)], &Grid::line(0, input.clone()));
                    self.columns[l] = input;
                }
                let atoms = self.fresh(outputs);
                self.cut(&weight, vec![(0, layer.out_axis)], &Grid::line(0, atoms.clone()));
                atoms
            }
        };
        // The bias of a MatMul is cut by the Add that brings it.
        if let (Some(bias), None) = (&layer.bias, layer.bias_node) {
            let bias_axis = self.index.constants.get(bias.as_str()).map_or(0, |t| t.dims.len().saturating_sub(1));
            self.cut(bias, vec![(0, bias_axis)], &Grid::line(0, atoms.clone()));
        }
        self.rows[l].clone_from(&atoms);
        if atoms.len() <= LIMIT {
            self.set(output, Grid::line(axis, atoms));
        } else {
            self.freeze_atoms(atoms, "it has too many channels to follow");
        }
    }

    /// The axis of a grid along which all entries at an index belong to one unit.
    fn uniform(&mut self, grid: &Grid) -> Option<usize> {
        (0..grid.axes.len()).find(|&p| {
            let mut roots = vec![None; grid.dims[p]];
            grid.along(p).all(|(i, atom)| {
                let root = self.find(atom);
                *roots[i].get_or_insert(root) == root
            })
        })
    }

    /// Numbers the units and hands over to the groups.
    pub(super) fn finish(mut self) -> Channels {
        for grid in std::mem::take(&mut self.grids) {
            if self.uniform(&grid).is_none() {
                let last = grid.axes.len() - 1;
                let edge = grid.edge(last);
                grid.along(last).for_each(|(i, atom)| self.join(edge[i], atom));
            }
        }
        for (grid, position, reason) in std::mem::take(&mut self.whole) {
            let first = self.find(grid.atoms[0]);
            let several = grid.atoms.iter().any(|&a| self.find(a) != first);
            if several && self.uniform(&grid) == Some(position) {
                self.freeze_atoms(grid.atoms, &reason);
            }
        }
        let mut slices = Vec::new();
        for cut in std::mem::take(&mut self.cuts) {
            let uniform = self.uniform(&cut.grid);
            for (position, axis) in cut.axes.into_iter().filter(|(p, _)| Some(*p) == uniform) {
                slices.push((cut.tensor.clone(), axis, cut.grid.edge(position)));
            }
        }
        let mut entries = Vec::new();
        for count in std::mem::take(&mut self.counts) {
            if self.uniform(&count.grid) == Some(count.axis) {
                entries.push((count.place, count.position, count.grid.edge(count.axis)));
            }
        }
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
        let slices = slices.into_iter().map(|(tensor, axis, atoms)| Slice { tensor, axis, units: resolve(&mut self, atoms) }).collect();
        let entries =
            entries.into_iter().map(|(place, position, atoms)| ShapeEntry { place, position, units: resolve(&mut self, atoms) }).collect();
        let frozen = self.frozen.iter().filter_map(|(root, why)| number.get(root).map(|&n| (n, why.to_string()))).collect();
        Channels::assemble(self.layers, rows, columns, slices, entries, &frozen)
    }
}
