//! A streaming histogram of constant memory whose result does not depend on the order of what it saw.
//!
//! Bins divide [−2ᵏ, 2ᵏ) evenly. When a value falls outside, k grows and pairs of bins merge, so that the counts are
//! those of a histogram that had the final range from the start.

const HALF: usize = 4096;

/// Histogram with 8192 bins over a power-of-two range, and exact extremes.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    exponent: i32,
    counts: Vec<u64>,
    /// Smallest value seen.
    pub min: f32,
    /// Largest value seen.
    pub max: f32,
    /// Values seen.
    pub count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { exponent: i32::MIN, counts: vec![0; 2 * HALF], min: f32::INFINITY, max: f32::NEG_INFINITY, count: 0 }
    }
}

impl Histogram {
    /// Adds values; those that are not finite are passed over.
    pub fn add(&mut self, values: &[f32]) {
        let (mut low, mut high) = (self.min, self.max);
        for &v in values.iter().filter(|v| v.is_finite()) {
            low = low.min(v);
            high = high.max(v);
        }
        if low > high {
            return;
        }
        (self.min, self.max) = (low, high);
        self.grow(low.abs().max(high.abs()));
        let scale = HALF as f64 / f64::powi(2.0, self.exponent);
        for &v in values.iter().filter(|v| v.is_finite()) {
            // floor() without a call into the maths library, which this loop spends most of its time on else
            let x = f64::from(v) * scale;
            let whole = x as i64;
            let bin = whole - i64::from((whole as f64) > x) + HALF as i64;
            self.counts[(bin.max(0) as usize).min(2 * HALF - 1)] += 1;
            self.count += 1;
        }
    }

    fn grow(&mut self, extreme: f32) {
        let needed = if extreme == 0.0 { -60 } else { (f64::from(extreme).log2().floor() as i32 + 1).max(-60) };
        if self.exponent == i32::MIN {
            self.exponent = needed;
        }
        while self.exponent < needed {
            let old = std::mem::replace(&mut self.counts, vec![0; 2 * HALF]);
            for (i, n) in old.into_iter().enumerate() {
                self.counts[HALF / 2 + i / 2] += n;
            }
            self.exponent += 1;
        }
    }

    /// Centres and counts of the bins that are not empty, from the lowest. Centres lie within the extremes.
    pub fn bins(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let width = f64::powi(2.0, self.exponent) / HALF as f64;
        let (low, high) = (f64::from(self.min), f64::from(self.max));
        self.counts.iter().enumerate().filter(|(_, n)| **n > 0).map(move |(i, &n)| {
            let centre = (i as f64 - HALF as f64 + 0.5) * width;
            (centre.max(low).min(high), n)
        })
    }

    /// The range that holds a share of the values, cutting both tails alike; to the width of a bin.
    pub fn percentile(&self, share: f64) -> (f32, f32) {
        let tail = (self.count as f64 * (1.0 - share) / 2.0).floor() as u64;
        let width = (f64::powi(2.0, self.exponent) / HALF as f64) as f32;
        let cut = |bins: &mut dyn Iterator<Item = (f64, u64)>| {
            let mut seen = 0;
            for (centre, n) in bins {
                seen += n;
                if seen > tail {
                    return centre as f32;
                }
            }
            0.0
        };
        if tail == 0 {
            return (self.min, self.max);
        }
        let low = cut(&mut self.bins()) - width / 2.0;
        let mut reversed: Vec<_> = self.bins().collect();
        reversed.reverse();
        let high = cut(&mut reversed.into_iter()) + width / 2.0;
        (low.max(self.min), high.min(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_values_does_not_matter() {
        let values = [0.001_f32, -3.0, 0.5, 100.0, 0.0, -0.25, 7.75];
        let mut forward = Histogram::default();
        let mut backward = Histogram::default();
        values.iter().for_each(|v| forward.add(&[*v]));
        values.iter().rev().for_each(|v| backward.add(&[*v]));
        assert_eq!(forward, backward);
        assert_eq!((forward.min, forward.max, forward.count), (-3.0, 100.0, 7));
    }

    #[test]
    fn percentiles_cut_both_tails() {
        let mut h = Histogram::default();
        let values: Vec<f32> = (0..10_000).map(|i| i as f32 / 10_000.0).collect();
        h.add(&values);
        let (low, high) = h.percentile(0.9);
        assert!((low - 0.05).abs() < 1e-3 && (high - 0.95).abs() < 1e-3, "{low} {high}");
    }

    #[test]
    fn all_zeros_and_nothing_are_harmless() {
        let mut h = Histogram::default();
        h.add(&[]);
        h.add(&[0.0; 10]);
        assert_eq!((h.min, h.max), (0.0, 0.0));
        assert_eq!(h.bins().map(|b| b.1).sum::<u64>(), 10);
        assert_eq!(h.percentile(0.99), (0.0, 0.0));
    }
}
