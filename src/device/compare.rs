//! Where the time went between two predictions: by kind of kernel, and kernel by kernel.
//!
//! Kernels that run a node of the same name belong together, however each network fuses it: they form a part. A layer that compression
//! split into `NAME.first` and `NAME.last` belongs to `NAME` of the other network.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    f64::consts::SQRT_2,
};

use super::{
    breakdown::by_kind,
    evidence::{Evidence, nine_in_ten},
    kernel::Op,
    latency::{KernelTime, Prediction},
};

/// Ends of the names that decomposition gives the two halves of a layer.
const HALVES: [&str; 2] = [".first", ".last"];

/// Two networks at one batch on one chip; pairs are this network's figure and the other's.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// Times of the batch, ms.
    pub latency_ms: [f64; 2],
    /// This network's time over the other's.
    pub ratio: f64,
    /// Whether the difference is larger than the model errs.
    pub verdict: Verdict,
    /// Median error of a ratio that the verdict is by, relative; none where the chip was never measured.
    pub ratio_error: Option<f64>,
    /// Share of both times that stands in parts that both have.
    pub common: f64,
    /// By kind of kernel, the largest difference first.
    pub kinds: Vec<KindPair>,
    /// By part, the largest difference first.
    pub parts: Vec<PartPair>,
}

/// What can be said of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Within the median error of a ratio: the two are not told apart.
    NotToldApart,
    /// Larger than the median error, within what nine in ten errors keep to.
    Likely,
    /// Larger than nine in ten errors.
    ToldApart,
    /// Nothing is known of the errors.
    Unknown,
}

/// All kernels of a kind in both networks.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct KindPair {
    /// The kind.
    pub op: Op,
    /// How many.
    pub kernels: [usize; 2],
    /// Their time, µs.
    pub us: [f64; 2],
}

/// Kernels of both networks that run the same nodes.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PartPair {
    /// Name of the first kernel, the other network's if it has one.
    pub name: String,
    /// How many kernels; 0 where the part is in one network only.
    pub kernels: [usize; 2],
    /// Their time, µs.
    pub us: [f64; 2],
}

/// Compares a network with another.
pub fn compare(this: &Prediction, other: &Prediction, evidence: Option<&Evidence>) -> Comparison {
    let parts = parts([&this.kernels, &other.kernels]);
    let sum = |of: &dyn Fn(&PartPair) -> bool| parts.iter().filter(|p| of(p)).map(|p| p.us[0] + p.us[1]).sum::<f64>();
    let common = sum(&|p| p.kernels.iter().all(|&n| n > 0)) / sum(&|_| true).max(f64::MIN_POSITIVE);
    let ratio = this.latency_ms / other.latency_ms;
    // The error of a ratio is that of two predictions for one network; of two networks both err on their own.
    let ratio_error = evidence.map(|e| if common < 0.5 { e.median_error * SQRT_2 } else { e.ratio_error });
    let verdict = ratio_error.map_or(Verdict::Unknown, |error| match ratio.max(1.0 / ratio) {
        apart if apart <= 1.0 + error => Verdict::NotToldApart,
        apart if apart <= nine_in_ten(error) => Verdict::Likely,
        _ => Verdict::ToldApart,
    });
    Comparison { latency_ms: [this.latency_ms, other.latency_ms], ratio, verdict, ratio_error, common, kinds: kinds(this, other), parts }
}

fn kinds(this: &Prediction, other: &Prediction) -> Vec<KindPair> {
    let mut pairs: BTreeMap<Op, KindPair> = BTreeMap::new();
    for (side, prediction) in [this, other].into_iter().enumerate() {
        for kind in by_kind(prediction) {
            let pair = pairs.entry(kind.op).or_insert(KindPair { op: kind.op, kernels: [0; 2], us: [0.0; 2] });
            (pair.kernels[side], pair.us[side]) = (kind.kernels, kind.us);
        }
    }
    let mut pairs: Vec<KindPair> = pairs.into_values().collect();
    pairs.sort_by(|a, b| gap(&b.us).total_cmp(&gap(&a.us)));
    pairs
}

fn gap(us: &[f64; 2]) -> f64 {
    (us[0] - us[1]).abs()
}

fn parts(sides: [&[KernelTime]; 2]) -> Vec<PartPair> {
    let names = sides.map(|kernels| kernels.iter().flat_map(words).collect::<HashSet<&str>>());
    let all: Vec<(usize, &KernelTime)> = [1, 0].into_iter().flat_map(|side| sides[side].iter().map(move |k| (side, k))).collect();
    let mut part: Vec<usize> = (0..all.len()).collect();
    let mut holder: HashMap<&str, usize> = HashMap::new();
    for (k, (side, kernel)) in all.iter().enumerate() {
        for word in words(kernel) {
            let first = *holder.entry(whole(word, &names[1 - side])).or_insert(k);
            let (a, b) = (root(&part, first), root(&part, k));
            part[a.max(b)] = a.min(b);
        }
    }
    let mut pairs: BTreeMap<usize, PartPair> = BTreeMap::new();
    for (k, (side, kernel)) in all.iter().enumerate() {
        let pair = pairs.entry(root(&part, k)).or_insert_with(|| PartPair { name: kernel.name.clone(), kernels: [0; 2], us: [0.0; 2] });
        pair.kernels[*side] += 1;
        pair.us[*side] += kernel.us;
    }
    let mut pairs: Vec<PartPair> = pairs.into_values().collect();
    pairs.sort_by(|a, b| gap(&b.us).total_cmp(&gap(&a.us)));
    pairs
}

/// What a kernel is known by: its nodes, or its name where it has none.
fn words(kernel: &KernelTime) -> impl Iterator<Item = &str> {
    kernel.nodes.iter().map(String::as_str).chain(std::iter::once(kernel.name.as_str()).filter(|_| kernel.nodes.is_empty()))
}

/// A node's name, or that of the layer it is half of where only the other network has the layer whole.
fn whole<'n>(word: &'n str, others: &HashSet<&str>) -> &'n str {
    let layer = HALVES.iter().find_map(|half| word.strip_suffix(half));
    layer.filter(|layer| !others.contains(word) && others.contains(layer)).unwrap_or(word)
}

fn root(part: &[usize], mut of: usize) -> usize {
    while part[of] != of {
        of = part[of];
    }
    of
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        device::{
            evidence::tests::sample,
            latency::{Bound, Parts},
        },
        precision::Precision,
    };

    /// A kernel of these nodes that takes so many µs.
    pub(in crate::device) fn kernel(name: &str, op: Op, nodes: &[&str], us: f64) -> KernelTime {
        KernelTime {
            name: name.into(),
            op,
            nodes: nodes.iter().map(|n| n.to_string()).collect(),
            layer: None,
            precision: Precision::Fp16,
            us,
            bound: Bound::Memory,
            parts: Parts { cube: 0.0, vector: 0.0, l2: us, ddr: 0.0 },
            macs: 0,
            bytes: 0,
        }
    }

    /// A prediction of these kernels and a fixed cost, µs.
    pub(in crate::device) fn prediction(kernels: Vec<KernelTime>, fixed_us: f64) -> Prediction {
        let latency_ms = (kernels.iter().map(|k| k.us).sum::<f64>() + fixed_us) / 1e3;
        Prediction { latency_ms, fixed_us, interval_ms: None, extrapolated: Vec::new(), kernels }
    }

    fn conv(nodes: &[&str], us: f64) -> KernelTime {
        kernel(nodes[0], Op::Conv, nodes, us)
    }

    /// Parts as "name: kernels, times".
    fn told(this: Vec<KernelTime>, other: Vec<KernelTime>) -> Vec<String> {
        let compared = compare(&prediction(this, 0.0), &prediction(other, 0.0), None);
        compared.parts.iter().map(|p| format!("{}: {:?} {:?}", p.name, p.kernels, p.us)).collect()
    }

    #[test]
    fn kernels_of_the_same_nodes_belong_together_however_they_are_fused() {
        let this = vec![conv(&["a", "r"], 5.0), conv(&["b"], 7.0)];
        let other = vec![conv(&["a"], 4.0), kernel("r", Op::Elementwise, &["r"], 2.0), conv(&["b"], 3.0)];
        assert_eq!(told(this, other), ["b: [1, 1] [7.0, 3.0]", "a: [1, 2] [5.0, 6.0]"]);
    }

    #[test]
    fn the_halves_of_a_decomposed_layer_belong_to_the_layer() {
        let this = vec![conv(&["a.first"], 2.0), conv(&["a.last", "r"], 3.0), kernel("x.quant.int8", Op::Quantize, &[], 1.0)];
        assert_eq!(told(this, vec![conv(&["a", "r"], 9.0)]), ["a: [2, 1] [5.0, 9.0]", "x.quant.int8: [1, 0] [1.0, 0.0]"]);
        let own = || vec![conv(&["a.first"], 2.0), conv(&["a"], 3.0)];
        assert_eq!(told(own(), own()).len(), 2, "the user's own names are left alone");
    }

    #[test]
    fn kinds_stand_side_by_side() {
        let this = prediction(vec![conv(&["a"], 5.0), kernel("q", Op::Quantize, &[], 1.0)], 3.0);
        let other = prediction(vec![conv(&["a"], 9.0)], 3.0);
        let compared = compare(&this, &other, None);
        let kinds: Vec<_> = compared.kinds.iter().map(|k| (k.op, k.kernels, k.us)).collect();
        assert_eq!(kinds, [(Op::Conv, [1, 1], [5.0, 9.0]), (Op::Quantize, [1, 0], [1.0, 0.0])]);
        assert!((compared.ratio - 0.75).abs() < 1e-12 && (compared.common - 14.0 / 15.0).abs() < 1e-12);
        assert_eq!(compared.verdict, Verdict::Unknown);
    }

    #[test]
    fn a_difference_counts_only_beyond_the_models_error() {
        let verdict = |this: f64, name: &str| {
            let pair = [prediction(vec![conv(&["a"], this)], 0.0), prediction(vec![conv(&[name], 100.0)], 0.0)];
            compare(&pair[0], &pair[1], Some(&sample())).verdict
        };
        assert_eq!([97.0, 104.0].map(|us| verdict(us, "a")), [Verdict::NotToldApart; 2]);
        assert_eq!([91.0, 109.0].map(|us| verdict(us, "a")), [Verdict::Likely; 2]);
        assert_eq!([80.0, 120.0].map(|us| verdict(us, "a")), [Verdict::ToldApart; 2]);
        assert_eq!([112.0, 120.0].map(|us| verdict(us, "b")), [Verdict::NotToldApart, Verdict::Likely], "two networks err on their own");
    }
}
