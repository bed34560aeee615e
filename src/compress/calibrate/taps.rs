//! Which values are tapped together, so that memory keeps under a ceiling.
//!
//! A tapped value lives until the end of a run, in ONNX Runtime and once more as we read it. Batches shrink first; where
//! even one sample is too much, the values are taken in groups, each with a pass of its own.

use std::collections::BTreeSet;

use super::{Effort, Wanted, gram::Collector};
use crate::graph::{Model, shape::Shapes};

/// Samples run at once at most.
const BATCH: usize = 8;
/// Bytes of tapped values that a larger batch may take: more brings no speed.
const COMFORT: u64 = 64 << 20;

/// How a calibration runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taps {
    /// Values tapped in each pass.
    pub(super) groups: Vec<BTreeSet<String>>,
    /// Samples run at once.
    pub(super) batch: usize,
    /// Columns of a block of a Gram matrix at most.
    pub(super) widest: usize,
}

impl Taps {
    /// Groups and batch for a ceiling of memory.
    pub(super) fn plan(model: &Model, shapes: &Shapes, wanted: &Wanted, effort: Effort) -> Self {
        let matrices = |widest: usize| wanted.grams.iter().map(|(_, _, w)| Collector::bytes(w, widest)).sum::<u64>();
        let max_memory = effort.max_memory;
        let mut widest = effort.widest;
        while widest > 64 && matrices(widest) > max_memory / 2 {
            widest /= 2;
        }
        let room = max_memory.saturating_sub(matrices(widest)).max(1);
        let values: BTreeSet<&str> =
            wanted.values.iter().map(|w| w.value.as_str()).chain(wanted.grams.iter().map(|(_, value, _)| value.as_str())).collect();
        let bytes = |value: &str| 2 * 4 * shapes.elements(value).unwrap_or(1 << 20) as u64;
        let all: u64 = values.iter().map(|v| bytes(v)).sum();
        let batch = usize::try_from(room.min(COMFORT) / all.max(1)).unwrap_or(BATCH).clamp(1, BATCH);
        let mut groups: Vec<BTreeSet<String>> = vec![BTreeSet::new()];
        let mut used = 0;
        // In the order of the graph, so that a group's values lie near each other.
        let made = model.inputs().map(|i| i.name()).chain(model.graph().node.iter().flat_map(|n| n.output.iter().map(String::as_str)));
        for value in made.filter(|v| values.contains(v)) {
            if used > 0 && used + bytes(value) > room {
                groups.push(BTreeSet::new());
                used = 0;
            }
            used += bytes(value);
            groups.last_mut().into_iter().for_each(|g| g.extend([value.to_string()]));
        }
        Self { groups, batch, widest }
    }
}
