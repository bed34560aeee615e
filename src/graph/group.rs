//! Which channels can only be removed together.
//!
//! Every channel a layer makes is an *atom*. Walking the graph once, each operator says how the channels of its
//! output relate to those of its inputs: passed on, joined one to one (residual Add), laid side by side (Concat), told
//! apart (Split), repeated (Flatten), rearranged (channel shuffle, attention heads), or tied so that none may go
//! (*frozen*, with the reason). Joined atoms form one *unit*: the
//! rows of all layers that make it and the columns of all layers that read it go at once. Layers that share units
//! form a group.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Index, Model, layer::Layers, shape::Shapes};
use crate::graph::channels::Tracer;

/// Layers whose output channels can only be removed together.
#[derive(Debug, Clone)]
pub struct Group {
    /// Name: its first layer's.
    pub name: String,
    /// Positions of its layers, depthwise followers included.
    pub layers: Vec<usize>,
    /// Units of the group, by kind: units of one kind touch the same layers, and the same share of each kind is kept.
    pub kinds: Vec<Vec<usize>>,
    /// Why no channel may be removed, if so.
    pub frozen: Option<String>,
}

impl Group {
    /// Number of units.
    pub fn units(&self) -> usize {
        self.kinds.iter().map(Vec::len).sum()
    }
}

/// A constant whose entries along an axis belong to units.
#[derive(Debug, Clone)]
pub struct Slice {
    /// Name of the constant.
    pub tensor: String,
    /// Axis that runs over channels.
    pub axis: usize,
    /// Unit of every entry along the axis; none for entries that always stay.
    pub units: Vec<Option<usize>>,
}

/// Where a list of integers stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryPlace {
    /// A constant by name.
    Constant(String),
    /// An attribute of a node.
    Attribute(usize, String),
}

/// A number that counts channels: an entry of a Reshape's target, a part of a Split, an end of a Slice.
#[derive(Debug, Clone)]
pub struct ShapeEntry {
    /// The list it stands in.
    pub place: EntryPlace,
    /// Which entry.
    pub position: usize,
    /// Unit of every index it counts.
    pub units: Vec<Option<usize>>,
}

/// The channel structure of a model.
#[derive(Debug, Clone)]
pub struct Channels {
    /// Groups by first layer.
    pub groups: Vec<Group>,
    /// Group of each layer's output channels.
    pub group_of: Vec<Option<usize>>,
    /// Constants to cut when units go.
    pub slices: Vec<Slice>,
    /// Numbers to correct when units go.
    pub shape_entries: Vec<ShapeEntry>,
    /// Unit of every output channel of each layer.
    pub rows: Vec<Vec<Option<usize>>>,
    /// Unit of every input channel of each layer.
    pub columns: Vec<Vec<Option<usize>>>,
}

impl Channels {
    /// Analyses a model. Shapes may be of any batch; weights may be without data.
    pub fn analyse(model: &Model, layers: &Layers, shapes: &Shapes) -> Self {
        let index = Index::new(model);
        let mut tracer = Tracer::new(model, layers, shapes, &index);
        for (i, node) in model.graph().node.iter().enumerate() {
            tracer.visit(i, node);
        }
        for output in &model.graph().output {
            tracer.freeze(output.name(), "its channels are an output of the network");
        }
        tracer.finish()
    }

    /// Assembles groups from units: layers that make a common unit go together.
    pub(super) fn assemble(
        layers: &Layers,
        rows: Vec<Vec<Option<usize>>>,
        columns: Vec<Vec<Option<usize>>>,
        slices: Vec<Slice>,
        shape_entries: Vec<ShapeEntry>,
        frozen: &HashMap<usize, String>,
    ) -> Self {
        let mut makers: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for (layer, units) in rows.iter().enumerate() {
            for unit in units.iter().flatten() {
                makers.entry(*unit).or_default().insert(layer);
            }
        }
        let mut leader: Vec<usize> = (0..rows.len()).collect();
        fn find(leader: &mut [usize], mut x: usize) -> usize {
            while leader[x] != x {
                leader[x] = leader[leader[x]];
                x = leader[x];
            }
            x
        }
        for set in makers.values() {
            let mut members = set.iter();
            if let Some(&first) = members.next() {
                for &other in members {
                    let (a, b) = (find(&mut leader, first), find(&mut leader, other));
                    leader[a.max(b)] = a.min(b);
                }
            }
        }
        let read: BTreeSet<usize> = columns.iter().flatten().flatten().copied().collect();
        let mut groups: Vec<Group> = Vec::new();
        let mut group_of = vec![None; rows.len()];
        for l in 0..rows.len() {
            if rows[l].iter().all(Option::is_none) {
                continue;
            }
            let root = find(&mut leader, l);
            let g = match group_of[root] {
                Some(g) => g,
                None => {
                    groups.push(Group { name: layers.layers[l].name.clone(), layers: Vec::new(), kinds: Vec::new(), frozen: None });
                    groups.len() - 1
                }
            };
            group_of[root] = Some(g);
            group_of[l] = Some(g);
            groups[g].layers.push(l);
        }
        for group in &mut groups {
            let mut kinds: BTreeMap<&BTreeSet<usize>, Vec<usize>> = BTreeMap::new();
            let units: BTreeSet<usize> = group.layers.iter().flat_map(|&l| rows[l].iter().flatten().copied()).collect();
            for unit in units {
                if let Some(reason) = frozen.get(&unit) {
                    group.frozen.get_or_insert_with(|| reason.clone());
                }
                if !read.contains(&unit) {
                    group.frozen.get_or_insert_with(|| "no layer that can be cut reads its channels".into());
                }
                if let Some(set) = makers.get(&unit) {
                    kinds.entry(set).or_default().push(unit);
                }
            }
            group.kinds = kinds.into_values().collect();
            if group.units() == 1 {
                group.frozen.get_or_insert_with(|| "its channels only go all at once".into());
            }
        }
        Self { groups, group_of, slices, shape_entries, rows, columns }
    }
}
