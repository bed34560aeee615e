//! What is known of one value after calibration: its distribution, and extremes and moments of each channel.

use ndarray::ArrayViewD;

use super::histogram::Histogram;

/// Statistics of one value over the calibration samples, in memory that does not grow with their number.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Statistics {
    /// Distribution of all entries.
    pub histogram: Histogram,
    /// Each channel.
    pub channels: Vec<Channel>,
    /// Entries of a channel.
    pub entries: u64,
    /// Of how many entries the histogram counts one; extremes and moments are of all.
    thinning: usize,
    samples: usize,
}

/// Extremes and moments of one channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Channel {
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
    /// Sum.
    pub sum: f64,
    /// Sum of squares.
    pub squares: f64,
}

impl Default for Channel {
    fn default() -> Self {
        Self { min: f32::INFINITY, max: f32::NEG_INFINITY, sum: 0.0, squares: 0.0 }
    }
}

impl Channel {
    /// Largest magnitude.
    pub fn magnitude(&self) -> f32 {
        self.max.max(-self.min).max(0.0)
    }

    fn add(&mut self, values: &[f32]) {
        const LANES: usize = 16;
        let mut low = [f32::INFINITY; LANES];
        let mut high = [f32::NEG_INFINITY; LANES];
        // Short runs in single precision, summed up in double.
        for run in values.chunks(64 * LANES) {
            let (mut sum, mut squares) = ([0.0_f32; LANES], [0.0_f32; LANES]);
            let (whole, rest) = run.as_chunks::<LANES>();
            for chunk in whole {
                for i in 0..LANES {
                    let v = chunk[i];
                    low[i] = if v < low[i] { v } else { low[i] };
                    high[i] = if v > high[i] { v } else { high[i] };
                    sum[i] += v;
                    squares[i] += v * v;
                }
            }
            for (i, &v) in rest.iter().enumerate() {
                low[i] = low[i].min(v);
                high[i] = high[i].max(v);
                sum[i] += v;
                squares[i] += v * v;
            }
            self.sum += sum.iter().map(|&s| f64::from(s)).sum::<f64>();
            self.squares += squares.iter().map(|&s| f64::from(s)).sum::<f64>();
        }
        self.min = low.iter().copied().fold(self.min, f32::min);
        self.max = high.iter().copied().fold(self.max, f32::max);
    }
}

impl Statistics {
    /// Mean of every channel.
    pub fn means(&self) -> Vec<f64> {
        self.channels.iter().map(|c| c.sum / (self.entries as f64).max(1.0)).collect()
    }

    /// Mean square of every channel.
    pub fn mean_squares(&self) -> Vec<f64> {
        self.channels.iter().map(|c| c.squares / (self.entries as f64).max(1.0)).collect()
    }

    /// With a histogram that counts one of so many entries.
    pub fn thinned(thinning: usize) -> Self {
        Self { thinning, ..Self::default() }
    }

    /// From what was kept of finished ones.
    pub(super) fn finished(histogram: Histogram, channels: Vec<Channel>, entries: u64) -> Self {
        Self { histogram, channels, entries, thinning: 0, samples: 0 }
    }

    /// As it is when no more is added.
    pub(super) fn finish(self) -> Self {
        Self::finished(self.histogram, self.channels, self.entries)
    }

    /// Adds an array of so many samples whose channels run along `axis`, counted from the end if negative.
    ///
    /// # Errors
    /// The first value that is not finite.
    pub fn add(&mut self, array: &ArrayViewD<'_, f32>, samples: usize, axis: isize) -> Result<(), f32> {
        let standard = array.as_standard_layout();
        let Some(data) = standard.as_slice() else { return Ok(()) };
        let rank = array.ndim();
        let axis = usize::try_from(if axis < 0 { axis + rank.cast_signed() } else { axis }).unwrap_or(0);
        let (channels, inner) = match array.shape().get(axis) {
            Some(&channels) => (channels, array.shape()[axis + 1..].iter().product::<usize>()),
            None => (1, data.len()),
        };
        if data.is_empty() {
            return Ok(());
        }
        self.channels.resize(channels, Channel::default());
        self.entries += (data.len() / channels) as u64;
        if inner == 1 {
            for row in data.chunks_exact(channels) {
                for (c, &v) in self.channels.iter_mut().zip(row) {
                    (c.min, c.max) = (c.min.min(v), c.max.max(v));
                    c.sum += f64::from(v);
                    c.squares += f64::from(v) * f64::from(v);
                }
            }
        } else {
            for (i, run) in data.chunks_exact(inner).enumerate() {
                self.channels[i % channels].add(run);
            }
        }
        if !self.channels.iter().all(|c| c.sum.is_finite())
            && let Some(bad) = data.iter().find(|v| !v.is_finite())
        {
            return Err(*bad);
        }
        let low = self.channels.iter().map(|c| c.min).fold(f32::INFINITY, f32::min);
        let high = self.channels.iter().map(|c| c.max).fold(f32::NEG_INFINITY, f32::max);
        if self.thinning <= 1 {
            self.histogram.add_within(data, low, high);
            return Ok(());
        }
        // Each sample starts elsewhere, so that no position is always passed over.
        let mut few = Vec::with_capacity(data.len() / self.thinning + samples);
        for sample in data.chunks(data.len().div_ceil(samples.max(1)).max(1)) {
            few.extend(sample.iter().skip(self.samples * 7 % self.thinning).step_by(self.thinning));
            self.samples += 1;
        }
        self.histogram.add_within(&few, low, high);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array, ArrayD, IxDyn};

    use super::*;

    fn values(dims: &[usize]) -> ArrayD<f32> {
        let n: usize = dims.iter().product();
        let v = (0..n).map(|i| ((i * 7919 % 1013) as f32 - 400.0) / 97.0).collect();
        Array::from_shape_vec(IxDyn(dims), v).unwrap()
    }

    fn by_hand(array: &ArrayD<f32>, axis: usize) -> Vec<(f32, f32, f64, f64)> {
        let of = |view: ndarray::ArrayViewD<'_, f32>| {
            let all = || view.iter().copied();
            let (low, high) = (all().fold(f32::INFINITY, f32::min), all().fold(f32::NEG_INFINITY, f32::max));
            (low, high, all().map(f64::from).sum(), all().map(|v| f64::from(v).powi(2)).sum())
        };
        array.axis_iter(ndarray::Axis(axis)).map(of).collect()
    }

    #[test]
    fn channels_are_told_apart_wherever_their_axis_is() {
        for (dims, axis, from_front) in [(vec![3, 5, 7, 11], 1, 1), (vec![4, 6, 9], -1, 2), (vec![9, 4], -2, 0)] {
            let array = values(&dims);
            let mut s = Statistics::default();
            s.add(&array.view(), dims[0], axis).unwrap();
            for (c, (low, high, sum, squares)) in s.channels.iter().zip(by_hand(&array, from_front)) {
                assert_eq!((c.min, c.max), (low, high));
                assert!((c.sum - sum).abs() < 1e-3 && (c.squares - squares).abs() < 1e-2 * squares, "{dims:?}");
            }
            assert_eq!(s.histogram.count, array.len() as u64);
        }
    }

    #[test]
    fn batches_of_any_size_give_the_same_to_the_bit() {
        for thinning in [1, 7] {
            let array = values(&[6, 3, 20, 30]);
            let mut whole = Statistics::thinned(thinning);
            whole.add(&array.view(), 6, 1).unwrap();
            let mut parts = Statistics::thinned(thinning);
            for part in array.axis_chunks_iter(ndarray::Axis(0), 4) {
                parts.add(&part, part.shape()[0], 1).unwrap();
            }
            assert_eq!(whole, parts);
            assert!(whole.histogram.count.abs_diff(array.len() as u64 / thinning as u64) <= 6);
        }
    }

    #[test]
    fn a_value_that_is_no_number_is_handed_back() {
        let mut array = values(&[2, 3, 8]);
        array[[1, 2, 3]] = f32::NAN;
        assert!(Statistics::default().add(&array.view(), 2, 1).unwrap_err().is_nan());
    }
}
