//! A prediction by kind of kernel.

use std::collections::BTreeMap;

use super::{kernel::Op, latency::Prediction};

/// All kernels of one kind.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Kind {
    /// The kind.
    pub op: Op,
    /// How many kernels.
    pub kernels: usize,
    /// Their time, µs, launches included.
    pub us: f64,
    /// Share of the whole time, fixed cost included.
    pub share: f64,
}

/// Time of each kind of kernel, the longest first.
pub fn by_kind(prediction: &Prediction) -> Vec<Kind> {
    let mut sums: BTreeMap<Op, (usize, f64)> = BTreeMap::new();
    for kernel in &prediction.kernels {
        let sum = sums.entry(kernel.op).or_default();
        *sum = (sum.0 + 1, sum.1 + kernel.us);
    }
    let whole = (prediction.latency_ms * 1e3).max(f64::MIN_POSITIVE);
    let mut kinds: Vec<Kind> = sums.into_iter().map(|(op, (kernels, us))| Kind { op, kernels, us, share: us / whole }).collect();
    kinds.sort_by(|a, b| b.us.total_cmp(&a.us));
    kinds
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::{kernel, prediction};
    use super::*;

    #[test]
    fn kinds_are_counted_and_the_longest_stands_first() {
        let kernels = vec![kernel("p", Op::Pool, &["p"], 10.0), kernel("a", Op::Conv, &["a"], 30.0), kernel("b", Op::Conv, &["b"], 40.0)];
        let kinds = by_kind(&prediction(kernels, 20.0));
        assert_eq!(kinds.iter().map(|k| (k.op, k.kernels, k.us)).collect::<Vec<_>>(), [(Op::Conv, 2, 70.0), (Op::Pool, 1, 10.0)]);
        assert!((kinds[0].share - 0.7).abs() < 1e-12 && (kinds[1].share - 0.1).abs() < 1e-12);
    }
}
