//! Confidence intervals of the difference between two models on the same samples.
//!
//! Two compressions of one network agree on most samples, so the paired difference is far more certain than the difference of two
//! accuracies. For right-or-wrong scores: Bonett and Price, "Adjusted Wald Confidence Interval for a Difference of
//! Binomial Proportions Based on Paired Data", J. Educational and Behavioral Statistics 37 (2012). Else Student's interval of a mean.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A mean paired difference `float − candidate`, and where the true one lies at some confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The difference on these samples.
    pub drop: f64,
    /// Lower end, not above `drop`.
    pub low: f64,
    /// Upper end, not below `drop`.
    pub high: f64,
}

/// The mean of `float − candidate`, as [`paired_proportions`] if every score is 0 or 1, else as [`paired_means`].
///
/// # Errors
/// The slices differ in length or are empty, or `confidence` is not between 0 and 1 (bugs of the caller).
pub fn paired(float: &[f64], candidate: &[f64], confidence: f64) -> Result<Interval> {
    if float.iter().chain(candidate).all(|s| *s == 0.0 || *s == 1.0) {
        paired_proportions(float, candidate, confidence)
    } else {
        paired_means(float, candidate, confidence)
    }
}

/// The difference of two paired proportions, from scores of 0 and 1: the adjusted Wald interval of Bonett and Price, cut to −1…1 and
/// widened to hold the observed difference.
///
/// # Errors
/// As [`paired`].
pub fn paired_proportions(float: &[f64], candidate: &[f64], confidence: f64) -> Result<Interval> {
    let n = check(float, candidate, confidence)?;
    let only = |a: &[f64], b: &[f64]| a.iter().zip(b).filter(|(a, b)| a > b).count() as f64;
    let (lost, won) = (only(float, candidate), only(candidate, float));
    let (p12, p21) = ((lost + 1.0) / (n + 2.0), (won + 1.0) / (n + 2.0));
    let (centre, drop) = (p12 - p21, (lost - won) / n);
    let half = inverse_normal(0.5 + confidence / 2.0) * ((p12 + p21 - centre * centre) / (n + 2.0)).sqrt();
    Ok(Interval { drop, low: (centre - half).max(-1.0).min(drop), high: (centre + half).min(1.0).max(drop) })
}

/// The mean of `float − candidate` with Student's interval; endless for a single sample.
///
/// # Errors
/// As [`paired`].
pub fn paired_means(float: &[f64], candidate: &[f64], confidence: f64) -> Result<Interval> {
    let n = check(float, candidate, confidence)?;
    let differences = || float.iter().zip(candidate).map(|(f, c)| f - c);
    let drop = differences().sum::<f64>() / n;
    if n < 2.0 {
        return Ok(Interval { drop, low: f64::NEG_INFINITY, high: f64::INFINITY });
    }
    let variance = differences().map(|d| (d - drop) * (d - drop)).sum::<f64>() / (n - 1.0);
    let half = student_quantile(0.5 + confidence / 2.0, n - 1.0) * (variance / n).sqrt();
    Ok(Interval { drop, low: drop - half, high: drop + half })
}

fn check(float: &[f64], candidate: &[f64], confidence: f64) -> Result<f64> {
    if float.len() != candidate.len() || float.is_empty() || !(confidence > 0.0 && confidence < 1.0) {
        let message = format!("an interval of {} and {} scores at confidence {confidence}", float.len(), candidate.len());
        return Err(Error::Internal(message));
    }
    Ok(float.len() as f64)
}

/// Student's quantile of `p` for `freedom` degrees: exact for 1 and 2, else the expansion about the normal's (Abramowitz and
/// Stegun 26.7.5), within 0.5 % at 95 % from 3 degrees on.
pub fn student_quantile(p: f64, freedom: f64) -> f64 {
    if freedom <= 1.0 {
        return (std::f64::consts::PI * (p - 0.5)).tan();
    }
    if freedom <= 2.0 {
        return (2.0 * p - 1.0) / (2.0 * p * (1.0 - p)).sqrt();
    }
    let z = inverse_normal(p);
    let s = z * z;
    let g1 = z * (s + 1.0) / 4.0;
    let g2 = z * ((5.0 * s + 16.0) * s + 3.0) / 96.0;
    let g3 = z * (((3.0 * s + 19.0) * s + 17.0) * s - 15.0) / 384.0;
    let g4 = z * ((((79.0 * s + 776.0) * s + 1482.0) * s - 1920.0) * s - 945.0) / 92_160.0;
    z + (g1 + (g2 + (g3 + g4 / freedom) / freedom) / freedom) / freedom
}

/// The standard normal's quantile: x with Φ(x) = `p`, to 16 digits; infinite at 0 and 1, NaN outside.
///
/// Wichura, "Algorithm AS 241: The Percentage Points of the Normal Distribution", Applied Statistics 37 (1988), PPND16.
pub fn inverse_normal(p: f64) -> f64 {
    const A: [f64; 8] = [
        3.387_132_872_796_366_6,
        1.331_416_678_917_843_8e2,
        1.971_590_950_306_551_3e3,
        1.373_169_376_550_946e4,
        4.592_195_393_154_987e4,
        6.726_577_092_700_87e4,
        3.343_057_558_358_813e4,
        2.509_080_928_730_122_7e3,
    ];
    const B: [f64; 8] = [
        1.0,
        4.231_333_070_160_091e1,
        6.871_870_074_920_579e2,
        5.394_196_021_424_751e3,
        2.121_379_430_158_659_7e4,
        3.930_789_580_009_271e4,
        2.872_908_573_572_194_3e4,
        5.226_495_278_852_854e3,
    ];
    const C: [f64; 8] = [
        1.423_437_110_749_683_5,
        4.630_337_846_156_546,
        5.769_497_221_460_691,
        3.647_848_324_763_204_5,
        1.270_458_252_452_368_4,
        2.417_807_251_774_506e-1,
        2.272_384_498_926_918_4e-2,
        7.745_450_142_783_414e-4,
    ];
    const D: [f64; 8] = [
        1.0,
        2.053_191_626_637_759,
        1.676_384_830_183_803_8,
        6.897_673_349_851e-1,
        1.481_039_764_274_800_8e-1,
        1.519_866_656_361_645_7e-2,
        5.475_938_084_995_345e-4,
        1.050_750_071_644_416_9e-9,
    ];
    const E: [f64; 8] = [
        6.657_904_643_501_103,
        5.463_784_911_164_114,
        1.784_826_539_917_291_3,
        2.965_605_718_285_048_7e-1,
        2.653_218_952_657_612_4e-2,
        1.242_660_947_388_078_4e-3,
        2.711_555_568_743_487_6e-5,
        2.010_334_399_292_288_1e-7,
    ];
    const F: [f64; 8] = [
        1.0,
        5.998_322_065_558_88e-1,
        1.369_298_809_227_358e-1,
        1.487_536_129_085_061_5e-2,
        7.868_691_311_456_133e-4,
        1.846_318_317_510_054_8e-5,
        1.421_511_758_316_446e-7,
        2.044_263_103_389_939_8e-15,
    ];
    if !(p > 0.0 && p < 1.0) {
        return match p {
            0.0 => f64::NEG_INFINITY,
            1.0 => f64::INFINITY,
            _ => f64::NAN,
        };
    }
    let ratio = |above: &[f64; 8], below: &[f64; 8], r: f64| horner(above, r) / horner(below, r);
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        return q * ratio(&A, &B, 0.180_625 - q * q);
    }
    let r = (-p.min(1.0 - p).ln()).sqrt();
    let tail = if r <= 5.0 { ratio(&C, &D, r - 1.6) } else { ratio(&E, &F, r - 5.0) };
    tail.copysign(q)
}

fn horner(coefficients: &[f64; 8], x: f64) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, c| sum * x + c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance, "{a} is not within {tolerance} of {b}");
    }

    /// `both` right with both, `lost` by the candidate only, `won` by it only, `neither`.
    fn table(both: usize, lost: usize, won: usize, neither: usize) -> (Vec<f64>, Vec<f64>) {
        let pairs = [(both, 1., 1.), (lost, 1., 0.), (won, 0., 1.), (neither, 0., 0.)];
        pairs.iter().flat_map(|(n, f, c)| std::iter::repeat_n((*f, *c), *n)).unzip()
    }

    #[test]
    fn the_normal_quantile_matches_the_tables() {
        for (p, z) in [
            (0.5, 0.0),
            (0.75, 0.674_489_750_196_081_7),
            (0.975, 1.959_963_984_540_054),
            (0.995, 2.575_829_303_548_900_4),
            (0.001, -3.090_232_306_167_813_5),
            (1e-20, -9.262_340_089_798_408),
        ] {
            near(inverse_normal(p), z, 1e-13 * z.abs());
        }
        assert!(inverse_normal(1.0).is_infinite() && inverse_normal(0.0) < 0.0 && inverse_normal(1.5).is_nan());
    }

    #[test]
    fn students_quantile_matches_the_tables() {
        for (freedom, t, tolerance) in
            [(1., 12.706, 1e-3), (2., 4.303, 1e-3), (3., 3.182, 0.02), (5., 2.571, 2e-3), (10., 2.228, 1e-3), (1e9, 1.96, 1e-3)]
        {
            near(student_quantile(0.975, freedom), t, tolerance);
        }
    }

    #[test]
    fn bonett_and_price_by_hand() {
        // n = 100, lost 8, won 2: p12 = 9/102, p21 = 3/102, centre 6/102 = 0.0588235,
        // half = 1.959964·sqrt((12/102 − (6/102)²)/102) = 1.959964·sqrt(0.114187/102) = 0.0655777.
        let (float, candidate) = table(80, 8, 2, 10);
        let interval = paired(&float, &candidate, 0.95).unwrap();
        near(interval.drop, 0.06, 1e-12);
        near(interval.low, 0.058_823_5 - 0.065_577_7, 1e-6);
        near(interval.high, 0.058_823_5 + 0.065_577_7, 1e-6);
    }

    #[test]
    fn no_difference_seen_is_not_certainty() {
        let (float, candidate) = table(90, 0, 0, 10);
        let interval = paired(&float, &candidate, 0.95).unwrap();
        near(interval.high, 1.959_964 * (2.0_f64 / 102.0 / 102.0).sqrt(), 1e-6);
        assert_eq!((interval.drop, interval.low), (0.0, -interval.high));
    }

    #[test]
    fn the_interval_holds_the_observed_difference() {
        let (float, candidate) = table(0, 3, 0, 0);
        let interval = paired(&float, &candidate, 0.1).unwrap();
        assert_eq!((interval.drop, interval.high), (1.0, 1.0));
        assert!(interval.low < 1.0 && interval.low > -1.0);
    }

    #[test]
    fn a_mean_of_real_scores_by_hand() {
        // Differences 0.1 0.2 0.3 0.4: mean 0.25, variance 0.05/3, standard error 0.0645497, t(3) = 3.1824.
        let interval = paired(&[1.1, 1.2, 1.3, 1.4], &[1.0; 4], 0.95).unwrap();
        near(interval.drop, 0.25, 1e-12);
        near(interval.high, 0.25 + 3.1824 * 0.064_549_7, 1e-3);
        near(interval.low, 0.25 - 3.1824 * 0.064_549_7, 1e-3);
    }

    #[test]
    fn one_real_sample_says_nothing_about_the_mean() {
        assert_eq!(paired(&[0.5], &[0.25], 0.95).unwrap(), Interval { drop: 0.25, low: f64::NEG_INFINITY, high: f64::INFINITY });
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        assert!(paired(&[1.0], &[], 0.95).is_err());
        assert!(paired(&[], &[], 0.95).is_err());
        assert!(paired(&[1.0], &[1.0], 1.0).is_err());
    }
}
