//! One measured time of the user's network beside its prediction; [`fit::anchor`](super::fit::anchor) bends the others to it.

use super::evidence::Evidence;

/// A factor between measured and predicted that no chip explains: something else was measured.
const ABSURD: f64 = 3.0;

/// A measured point and the prediction for it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Anchor {
    /// Samples of an inference.
    pub batch: usize,
    /// Predicted time of the batch before, ms.
    pub predicted_ms: f64,
    /// Measured time of the batch, ms.
    pub measured_ms: f64,
    /// Measured over predicted.
    pub factor: f64,
    /// What may be wrong, where the two are further apart than the model errs.
    pub warning: Option<String>,
}

impl Anchor {
    /// A measurement of `measured_ms` for a batch beside its prediction. Both must be above 0.
    pub fn new(batch: usize, measured_ms: f64, predicted_ms: f64, evidence: Option<&Evidence>) -> Self {
        let factor = measured_ms / predicted_ms;
        let most = evidence.map_or(ABSURD, |e| e.factor_90.min(ABSURD));
        let apart = factor.max(1.0 / factor);
        let warning = (apart > most).then(|| {
            let (slower, causes) = if factor > 1.0 {
                let causes = "does the measured time hold the host's work (copies, preprocessing; --host-us counts it), was the model compiled \
                              in a wider precision, did something else run on the chip, is it the time of another batch?";
                ("slower", causes)
            } else {
                let causes = "is it the throughput of a card with several chips, the time of one sample instead of the batch, a model \
                              compiled in a narrower precision (--precision), or one whose image comes through AIPP (--aipp)?";
                ("faster", causes)
            };
            let why = match evidence {
                Some(e) if e.factor_90 < ABSURD => format!("nine in ten networks lay within a factor of {:.2}", e.factor_90),
                _ => "more than a wrong cost model explains".into(),
            };
            format!("measured {apart:.2} times {slower} than predicted, {why}; {causes}")
        });
        Self { batch, predicted_ms, measured_ms, factor, warning }
    }

    /// Nine in ten measurements of the same network at another batch lie between these, ms; none at the measured batch, and none where
    /// nothing is known of the chip's errors.
    pub fn interval_ms(&self, batch: usize, latency_ms: f64, evidence: Option<&Evidence>) -> Option<[f64; 2]> {
        let factor = evidence.filter(|_| batch != self.batch)?.factor_beside_a_measurement();
        Some([latency_ms / factor, latency_ms * factor])
    }
}

#[cfg(test)]
mod tests {
    use super::super::evidence::tests::sample;
    use super::*;

    #[test]
    fn a_measurement_within_the_models_error_gives_a_factor_and_no_warning() {
        let anchor = Anchor::new(8, 2.6, 2.0, Some(&sample()));
        assert!((anchor.factor - 1.3).abs() < 1e-12);
        assert_eq!(anchor.warning, None);
    }

    #[test]
    fn a_measurement_further_off_is_doubted_by_its_direction() {
        let doubt = |measured, evidence| Anchor::new(8, measured, 2.0, evidence).warning.unwrap_or_default();
        let known = sample();
        assert!(
            doubt(3.0, Some(&known))
                .starts_with("measured 1.50 times slower than predicted, nine in ten networks lay within a factor of 1.40")
        );
        assert!(doubt(1.0, Some(&known)).contains("2.00 times faster") && doubt(1.0, Some(&known)).contains("several chips"));
        assert_eq!(doubt(5.9, None), "");
        assert!(doubt(6.1, None).contains("more than a wrong cost model explains; does the measured time hold the host's work"));
    }

    #[test]
    fn the_interval_beside_a_measurement_is_that_of_a_ratio() {
        let anchor = Anchor::new(8, 2.6, 2.0, None);
        let [low, high] = anchor.interval_ms(1, 1.0, Some(&sample())).unwrap();
        assert!((low * high - 1.0).abs() < 1e-12 && (high - 1.1264).abs() < 1e-3);
        assert_eq!(anchor.interval_ms(8, 2.6, Some(&sample())), None);
        assert_eq!(anchor.interval_ms(1, 1.0, None), None);
    }
}
