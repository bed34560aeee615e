//! What a profile's predictions were judged by, and the interval that follows from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::kernel::{Kernel, Op};

/// How far outside the fitted range a size may lie before the prediction counts as extrapolated.
const REACH: f64 = 4.0;

/// Errors of predictions for networks whose family was left out of the fit, and what the fit saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// What was measured, by whom, where it lies.
    pub data: String,
    /// Day of the fit, YYYY-MM-DD.
    pub date: String,
    /// Rows (a network at a batch) used.
    pub rows: usize,
    /// Networks.
    pub networks: usize,
    /// Families of networks; each was predicted by a fit to the others.
    pub families: usize,
    /// Median of the absolute relative error of held-out predictions.
    pub median_error: f64,
    /// Nine in ten held-out predictions are at least this close.
    pub p90_error: f64,
    /// Median error of a ratio between two predictions for one network, after the same ratio measured.
    pub ratio_error: f64,
    /// By how much two published values of one point differ in the median: no model can do better.
    pub noise_floor: f64,
    /// A held-out measurement lies between prediction / factor and prediction × factor nine times in ten.
    pub factor_90: f64,
    /// Sizes of the kernels that the fit saw, by kind of work.
    pub seen: BTreeMap<Op, Range>,
}

/// Smallest and largest sizes of one kind of kernel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Bytes moved.
    pub bytes: [u64; 2],
    /// Multiply-adds.
    pub macs: [u64; 2],
}

impl Range {
    /// The range of one kernel.
    pub fn of(kernel: &Kernel) -> Self {
        let macs = kernel.cube.map_or(0, |c| c.macs());
        Self { bytes: [kernel.bytes(); 2], macs: [macs; 2] }
    }

    /// Smallest range around both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let join = |a: [u64; 2], b: [u64; 2]| [a[0].min(b[0]), a[1].max(b[1])];
        Self { bytes: join(self.bytes, other.bytes), macs: join(self.macs, other.macs) }
    }

    /// Why a kernel is far from what was seen, if it is: larger by [`REACH`] than any. Small kernels are their launch, which was fitted.
    fn why_far(&self, kernel: &Kernel) -> Option<String> {
        let own = Self::of(kernel);
        let beyond = |what: &str, own: u64, seen: u64| {
            let times = own as f64 / seen.max(1) as f64;
            (times > REACH).then(|| format!("{what} {times:.0} times the largest that was fitted"))
        };
        beyond("it moves", own.bytes[0], self.bytes[1]).or_else(|| beyond("its multiply-adds are", own.macs[0], self.macs[1]))
    }
}

/// Half of a normal distribution's central 90 % over the median of its absolute values: 1.645 / 0.6745.
const HALF_90_OVER_MEDIAN: f64 = 2.439;

/// The factor that nine in ten errors keep within where the median of their absolute values is `median` (relative) and their logarithms
/// are normal: (1 + median)^2.44.
pub fn nine_in_ten(median: f64) -> f64 {
    (1.0 + median).powf(HALF_90_OVER_MEDIAN)
}

impl Evidence {
    /// A measurement lies between prediction / factor and prediction × factor nine times in ten where another batch or another plan of
    /// the same network was measured and the prediction scaled by it: what is left is the error of a ratio ([`nine_in_ten`]).
    pub fn factor_beside_a_measurement(&self) -> f64 {
        nine_in_ten(self.ratio_error)
    }

    /// Why the prediction for a kernel is extrapolated, if it is.
    pub fn why_extrapolated(&self, kernel: &Kernel) -> Option<String> {
        match (kernel.op, self.seen.get(&kernel.op)) {
            (Op::Other, _) => Some("no model of this operator: counted as one pass over its data".into()),
            (op, None) => Some(format!("no {} was among the measurements", op.words())),
            (_, Some(range)) => range.why_far(kernel),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Evidence with median errors of 10 % (a time) and 5 % (a ratio), and nothing seen.
    pub(in crate::device) fn sample() -> Evidence {
        Evidence {
            data: "a table".into(),
            date: "2025-01-01".into(),
            rows: 10,
            networks: 5,
            families: 3,
            median_error: 0.1,
            p90_error: 0.3,
            ratio_error: 0.05,
            noise_floor: 0.02,
            factor_90: 1.4,
            seen: BTreeMap::new(),
        }
    }

    #[test]
    fn a_measurement_of_the_same_network_narrows_the_interval_to_the_error_of_a_ratio() {
        let factor = sample().factor_beside_a_measurement();
        assert!((factor - 1.1264).abs() < 1e-3, "{factor}");
        assert_eq!(Evidence { ratio_error: 0.0, ..sample() }.factor_beside_a_measurement(), 1.0);
    }
}
