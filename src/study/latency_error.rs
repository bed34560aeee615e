//! What errors of predicted latencies mean for a front: the interval of each point, and the points that latency does not tell apart.
//!
//! An interval is about one prediction by itself. Between points of a front most of that error cancels, as all are of one network: what is left
//! is the error of a ratio.

use super::summary::{Baseline, FrontPoint, LatencyError};
use crate::{
    device::{Evidence, Extrapolated, Prediction},
    error::Result,
    space::Plan,
};

/// What predictions are judged by, and the predictions.
pub struct Judged<'a> {
    /// Errors on measurements.
    pub evidence: &'a Evidence,
    /// The float model's prediction.
    pub float: Prediction,
    /// A plan's prediction.
    pub predict: &'a dyn Fn(&Plan) -> Result<Prediction>,
}

impl Judged<'_> {
    /// Writes into a front what is known of its latencies. `shown` is the trial that reports are about.
    ///
    /// # Errors
    /// If the shapes of a point's plan cannot be inferred.
    pub(super) fn mark(
        &self,
        baseline: &mut Baseline,
        front: &mut [FrontPoint],
        plan_of: &dyn Fn(usize) -> Option<Plan>,
        shown: Option<usize>,
    ) -> Result<LatencyError> {
        let Evidence { ratio_error, median_error, factor_90, noise_floor, rows, networks, families, .. } = *self.evidence;
        let mut extrapolated = self.float.extrapolated.clone();
        baseline.latency_interval_ms = self.float.interval_ms;
        for point in front.iter_mut() {
            let Some(plan) = plan_of(point.trial) else { continue };
            let prediction = (self.predict)(&plan)?;
            point.latency_interval_ms = prediction.interval_ms;
            if Some(point.trial) == shown {
                let new = |e: &Extrapolated| extrapolated.iter().all(|known| known.kernel != e.kernel);
                let more: Vec<Extrapolated> = prediction.extrapolated.into_iter().filter(new).collect();
                extrapolated.extend(more);
            }
        }
        tell_apart(front, baseline.latency_ms, ratio_error);
        Ok(LatencyError { ratio_error, median_error, factor_90, noise_floor, rows, networks, families, extrapolated })
    }
}

/// Writes down for each point which others, and whether the float model, differ from it by less than the error of a ratio.
pub fn tell_apart(front: &mut [FrontPoint], float_ms: f64, ratio_error: f64) {
    let near = |a: f64, b: f64| (a / b).ln().abs() < ratio_error.ln_1p();
    let all: Vec<(usize, f64)> = front.iter().map(|p| (p.trial, p.latency_ms)).collect();
    for point in front {
        let alike = all.iter().filter(|(trial, ms)| *trial != point.trial && near(*ms, point.latency_ms));
        point.not_told_apart = alike.map(|(trial, _)| *trial).collect();
        point.told_from_float = Some(!near(float_ms, point.latency_ms));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::device::Profile;

    fn point(trial: usize, latency_ms: f64) -> FrontPoint {
        FrontPoint {
            trial,
            accuracy: 0.9,
            drop: 0.0,
            drop_low: None,
            drop_high: None,
            samples: 1,
            latency_ms,
            latency_interval_ms: None,
            not_told_apart: Vec::new(),
            told_from_float: None,
            bytes: 1,
            predicted_drop: None,
            finetuned: false,
            layers: BTreeMap::new(),
        }
    }

    fn told(latencies: &[f64], float_ms: f64, ratio_error: f64) -> Vec<(Vec<usize>, bool)> {
        let mut front: Vec<FrontPoint> = latencies.iter().enumerate().map(|(i, ms)| point(i + 1, *ms)).collect();
        tell_apart(&mut front, float_ms, ratio_error);
        front.into_iter().map(|p| (p.not_told_apart, p.told_from_float.unwrap())).collect()
    }

    #[test]
    fn points_closer_than_the_error_of_a_ratio_are_not_told_apart() {
        // 1.09 is within 10 % of 1, 1.18 within 10 % of 1.09 but not of 1; 1.09 × 1.1 = 1.199. Float: 1.18 × 1.1 = 1.298.
        let expected = [(vec![2], true), (vec![1, 3], true), (vec![2], false)];
        assert_eq!(told(&[1.0, 1.09, 1.18], 1.29, 0.1), expected);
    }

    #[test]
    fn the_rule_is_the_same_both_ways() {
        // ln(1/0.92) = 0.0834 < ln 1.09 = 0.0862, though 1 − 0.92 and 1/0.92 − 1 lie on either side of 8.3 %.
        assert_eq!(told(&[0.92, 1.0], 9.0, 0.09), [(vec![2], true), (vec![1], true)]);
        assert_eq!(told(&[0.92, 1.0], 9.0, 0.08), [(vec![], true), (vec![], true)]);
    }

    #[test]
    fn a_model_that_never_errs_tells_all_apart_and_a_figure_that_is_none_is_near_nothing() {
        assert_eq!(told(&[1.0, 1.000_001], 2.0, 0.0), [(vec![], true), (vec![], true)]);
        assert_eq!(told(&[f64::NAN, 1.0], 1.0, 0.5), [(vec![], true), (vec![], false)]);
    }

    const EVIDENCE: &str = "
data: made up
date: 2026-11-01
rows: 40
networks: 8
families: 4
median_error: 0.1
p90_error: 0.3
ratio_error: 0.1
noise_floor: 0.04
factor_90: 2.0
seen: {}
";

    fn prediction(latency_ms: f64, unlike: &[&str]) -> Prediction {
        let unlike = unlike.iter().map(|k| Extrapolated { kernel: (*k).into(), why: "large".into() }).collect();
        Prediction {
            latency_ms,
            fixed_us: 0.0,
            interval_ms: Some([latency_ms / 2.0, latency_ms * 2.0]),
            extrapolated: unlike,
            kernels: Vec::new(),
        }
    }

    #[test]
    fn a_front_gets_its_intervals_and_the_kernels_of_the_float_model_and_of_the_shown_plan() {
        let evidence: Evidence = serde_yaml::from_str(EVIDENCE).unwrap();
        let predict = |_: &Plan| Ok(prediction(4.0, &["a", "b"]));
        let judged = Judged { evidence: &evidence, float: prediction(5.0, &["a"]), predict: &predict };
        let mut baseline =
            Baseline { accuracy: 0.9, latency_ms: 5.0, latency_interval_ms: None, normalised_latency_ms: 5.0, bytes: 1, file_bytes: 1 };
        let mut front = [point(1, 4.0)];
        let plan = |_| Some(Plan { treatments: Vec::new() });
        let names = |error: &LatencyError| error.extrapolated.iter().map(|e| e.kernel.clone()).collect::<Vec<_>>();
        let error = judged.mark(&mut baseline, &mut front, &plan, Some(1)).unwrap();
        assert_eq!((baseline.latency_interval_ms, front[0].latency_interval_ms), (Some([2.5, 10.0]), Some([2.0, 8.0])));
        assert_eq!((front[0].told_from_float, error.ratio_error, names(&error)), (Some(true), 0.1, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(names(&judged.mark(&mut baseline, &mut front, &plan, None).unwrap()), ["a"]);
    }

    #[test]
    fn an_error_of_a_ratio_that_is_no_error_is_refused() {
        let mut profile = Profile::load("ascend310p3").unwrap();
        profile.evidence = Some(Evidence { ratio_error: -0.1, ..serde_yaml::from_str(EVIDENCE).unwrap() });
        let refused = Profile::parse("own", &profile.to_yaml().unwrap()).unwrap_err().to_string();
        assert!(refused.contains("ratio_error is -0.1"), "{refused}");
    }
}
