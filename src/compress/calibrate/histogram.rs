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
    /// Adds finite values.
    pub fn add(&mut self, values: &[f32]) {
        let low = values.iter().copied().fold(self.min, f32::min);
        let high = values.iter().copied().fold(self.max, f32::max);
        self.add_within(values, low, high);
    }

    /// Adds finite values whose extremes, with those seen before, are known.
    pub fn add_within(&mut self, values: &[f32], low: f32, high: f32) {
        if low > high {
            return;
        }
        (self.min, self.max) = (low, high);
        self.grow(low.abs().max(high.abs()));
        // A power of two: the product is exact.
        let scale = (HALF as f64 / f64::powi(2.0, self.exponent)) as f32;
        // Every other value in a table of its own, where there are many: runs of equal values, as behind a ReLU, would wait for each other.
        let mut second = vec![0_u32; if values.len() > 8 * HALF { 2 * HALF } else { 0 }];
        let mut bins = [0_i32; 512];
        for chunk in values.chunks(bins.len()) {
            for (bin, &v) in bins.iter_mut().zip(chunk) {
                // floor() without a call into the maths library, which this loop would spend most of its time on
                let x = v * scale;
                let whole = x as i32;
                *bin = whole - i32::from((whole as f32) > x) + HALF as i32;
            }
            let (pairs, rest) = bins[..chunk.len()].as_chunks::<2>();
            for &[a, b] in pairs {
                self.counts[a as usize % (2 * HALF)] += 1;
                let table = second.get_mut(b as usize);
                table.map_or_else(|| self.counts[b as usize % (2 * HALF)] += 1, |n| *n += 1);
            }
            rest.iter().for_each(|&b| self.counts[b as usize % (2 * HALF)] += 1);
        }
        self.counts.iter_mut().zip(second).for_each(|(a, b)| *a += u64::from(b));
        self.count += values.len() as u64;
    }

    /// Adds what another histogram has seen.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let mut other = other.clone();
        (self.min, self.max) = (self.min.min(other.min), self.max.max(other.max));
        let extreme = self.min.abs().max(self.max.abs());
        self.grow(extreme);
        other.grow(extreme);
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
        self.count += other.count;
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

    /// Its parts, for a file: exponent of the range and counts of the bins.
    pub fn parts(&self) -> (i32, &[u64]) {
        (self.exponent, &self.counts)
    }

    /// From the parts of a file; none if there are not as many bins as there must be.
    pub fn from_parts(exponent: i32, counts: Vec<u64>, (min, max): (f32, f32)) -> Option<Self> {
        let count = counts.iter().sum();
        (counts.len() == 2 * HALF).then_some(Self { exponent, counts, min, max, count })
    }

    /// Width of a bin.
    pub fn width(&self) -> f64 {
        f64::powi(2.0, self.exponent) / HALF as f64
    }

    /// Centres and counts of the bins that are not empty, from the lowest. Centres lie within the extremes.
    pub fn bins(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let width = self.width();
        let (low, high) = (f64::from(self.min), f64::from(self.max));
        self.counts.iter().enumerate().filter(|(_, n)| **n > 0).map(move |(i, &n)| {
            let centre = (i as f64 - HALF as f64 + 0.5) * width;
            (centre.max(low).min(high), n)
        })
    }

    /// The range that holds a share of the values, cutting both tails alike; to the width of a bin.
    pub fn percentile(&self, share: f64) -> (f32, f32) {
        let tail = (self.count as f64 * (1.0 - share) / 2.0).floor() as u64;
        let width = self.width() as f32;
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
    fn two_histograms_merge_to_that_of_all_values() {
        let values: Vec<f32> = (0..3000).map(|i| ((i * 71 % 997) as f32 - 300.0) / 7.0).collect();
        let mut whole = Histogram::default();
        whole.add(&values);
        let (mut small, mut large) = (Histogram::default(), Histogram::default());
        values.iter().for_each(|&v| if v.abs() < 1.0 { small.add(&[v]) } else { large.add(&[v]) });
        let mut merged = small.clone();
        merged.merge(&large);
        large.merge(&small);
        merged.merge(&Histogram::default());
        assert!(merged == whole && large == whole);
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
