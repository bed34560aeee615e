//! Who reads what in which precision: quantization at the edges between layers, and the bytes that move.

use std::collections::{HashMap, HashSet};

use super::{
    extract::Draft,
    fuse::View,
    kernel::{Access, Kernel, Op, Traffic, Vector, pad},
};
use crate::precision::Precision;

/// Gives every value its precisions, adds the quantization kernels that fuse with nothing, and counts the traffic.
pub(super) fn settle(view: &View, drafts: Vec<Draft>) -> Vec<Kernel> {
    let mut wanted: HashMap<&str, Vec<Precision>> = HashMap::new();
    for (value, precision) in drafts.iter().flat_map(|d| &d.inputs) {
        let list = wanted.entry(value).or_default();
        if !list.contains(precision) {
            list.push(*precision);
        }
    }
    let chained = chains(&drafts);
    let mut ready: HashSet<(&str, Precision)> = HashSet::new();
    let mut touched: HashMap<&str, u64> = HashMap::new();
    let mut moved = 0u64;
    let mut kernels = Vec::with_capacity(drafts.len());
    for Draft { mut kernel, inputs, outputs, quantizes } in drafts {
        for &(value, precision) in inputs.iter().filter(|(_, p)| *p != Precision::Fp16) {
            if ready.insert((value, precision)) {
                let half = Traffic { distance: distance(&touched, value, moved), ..traffic(view, value, Precision::Fp16, &chained) };
                let out = traffic(view, value, precision, &chained);
                let quantize = Kernel {
                    name: format!("{value}.quant.{precision}"),
                    op: Op::Quantize,
                    nodes: Vec::new(),
                    layer: None,
                    precision: Precision::Fp16,
                    cube: None,
                    vector: Vector { plain: 2.0 * view.shapes.elements(value).unwrap_or(0) as f64, ..Vector::default() },
                    access: Access::Blocks,
                    reads: vec![half],
                    writes: vec![out],
                };
                moved = moved.saturating_add(quantize.bytes());
                touched.insert(value, moved);
                kernels.push(quantize);
            }
        }
        kernel
            .reads
            .extend(inputs.iter().map(|&(v, p)| Traffic { distance: distance(&touched, v, moved), ..traffic(view, v, p, &chained) }));
        for &value in &outputs {
            let list = wanted.get(value).map_or(&[][..], Vec::as_slice);
            let integers = list.iter().copied().filter(|&p| quantizes && p != Precision::Fp16);
            for precision in integers.clone() {
                ready.insert((value, precision));
                kernel.writes.push(traffic(view, value, precision, &chained));
            }
            if integers.count() == 0 || list.contains(&Precision::Fp16) || view.is_output(value) {
                kernel.writes.push(traffic(view, value, Precision::Fp16, &chained));
            }
        }
        moved = moved.saturating_add(kernel.bytes());
        touched.extend(inputs.iter().map(|&(v, _)| v).chain(outputs).map(|v| (v, moved)));
        kernels.push(kernel);
    }
    kernels
}

/// Values that dense convolutions make and only dense convolutions read.
fn chains<'m>(drafts: &[Draft<'m>]) -> HashSet<&'m str> {
    let dense = |d: &&Draft| d.kernel.op == Op::Conv;
    let made = drafts.iter().filter(dense).flat_map(|d| d.outputs.iter().copied());
    let broken: HashSet<&str> = drafts.iter().filter(|d| !dense(d)).flat_map(|d| d.inputs.iter().map(|i| i.0)).collect();
    made.filter(|v| !broken.contains(v)).collect()
}

fn distance(touched: &HashMap<&str, u64>, value: &str, moved: u64) -> u64 {
    touched.get(value).map_or(u64::MAX, |at| moved - at)
}

fn traffic(view: &View, value: &str, precision: Precision, chained: &HashSet<&str>) -> Traffic {
    let dims = view.shapes.dims(value).unwrap_or(&[0]);
    let bits = u64::from(precision.weight_bits());
    let mut elements = dims.iter().map(|&d| d as u64).fold(1, u64::saturating_mul);
    if let ([_, c, _, ..], true) = (dims, dims.len() >= 4) {
        elements = (elements / (*c as u64).max(1)).saturating_mul(pad(*c as u64, 256 / bits));
    }
    Traffic { bytes: elements.saturating_mul(bits).div_ceil(8), bits, distance: 0, chained: chained.contains(value) }
}
