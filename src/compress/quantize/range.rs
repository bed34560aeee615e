//! Ranges of activations, from their histogram.

use super::{grid::Grid, least::least, scale::round};
use crate::{
    compress::calibrate::Histogram,
    spec::{QuantizeSpec, RangeRule},
};

/// Share of values inside the range that IFMR starts from.
const IFMR_PERCENTILE: f64 = 0.999_999;
/// Share of the counts that HFMG drops at a step.
const HFMG_STEP: f64 = 1e-5;

/// The activation grid of a tensor by a rule.
pub fn activation_grid(histogram: &Histogram, bits: u32, rule: RangeRule, spec: &QuantizeSpec) -> Grid {
    let make = |low: f64, high: f64| {
        if spec.offset { Grid::asymmetric(low as f32, high as f32, bits) } else { Grid::symmetric(low as f32, high as f32, bits) }
    };
    let (min, max) = (f64::from(histogram.min.min(0.0)), f64::from(histogram.max.max(0.0)));
    match rule {
        RangeRule::MinMax => make(min, max),
        RangeRule::Percentile => {
            let (low, high) = histogram.percentile(spec.percentile.0);
            make(f64::from(low), f64::from(high))
        }
        RangeRule::Mse => squared(histogram, (min, max), make),
        RangeRule::Kl => divergence(histogram, (min, max), make),
        RangeRule::Ifmr => ifmr(histogram, spec.offset, make),
        RangeRule::Hfmg => {
            let (low, high) = hfmg(histogram, bits);
            make(low, high)
        }
    }
}

/// Mean square of what a grid does to the values of a histogram, by rounding and by clipping.
pub fn grid_error(histogram: &Histogram, grid: Grid) -> f64 {
    error(&histogram.bins().collect::<Vec<_>>(), grid) / (histogram.count as f64).max(1.0)
}

/// Squared error of a grid over a histogram.
fn error(bins: &[(f64, u64)], grid: Grid) -> f64 {
    let (low, high) = grid.limits();
    let (low, high) = (f64::from(low), f64::from(high));
    let (scale, offset) = (f64::from(grid.scale), f64::from(grid.offset));
    let one = |&(x, n): &(f64, u64)| {
        let q = round(x / scale + offset).clamp(low, high);
        let e = x - (q - offset) * scale;
        e * e * n as f64
    };
    bins.iter().map(one).sum()
}

/// Both ends cut alike, then each on its own.
fn squared(histogram: &Histogram, (min, max): (f64, f64), make: impl Fn(f64, f64) -> Grid) -> Grid {
    let bins: Vec<(f64, u64)> = histogram.bins().collect();
    let both = least(|cut| error(&bins, make(min * cut, max * cut)), (0.1, 1.0), 90);
    let high = least(|cut| error(&bins, make(min * both, max * cut)), (0.5 * both, (1.3 * both).min(1.0)), 16);
    let low =
        if min < 0.0 { least(|cut| error(&bins, make(min * cut, max * high)), (0.5 * both, (1.3 * both).min(1.0)), 16) } else { both };
    make(min * low, max * high)
}

/// The cut of both ends with the least Kullback-Leibler divergence of the rounded from the clipped histogram.
fn divergence(histogram: &Histogram, (min, max): (f64, f64), make: impl Fn(f64, f64) -> Grid) -> Grid {
    let bins: Vec<(f64, u64)> = histogram.bins().collect();
    // What is exactly 0 stays 0 in any grid; behind a ReLU it would hide the rest.
    let bins: Vec<(f64, u64)> = bins.into_iter().filter(|(x, _)| x.abs() > histogram.width()).collect();
    if bins.is_empty() {
        return make(min, max);
    }
    let total: f64 = bins.iter().map(|b| b.1 as f64).sum();
    let of_cut = |cut: f64| {
        let grid = make(min * cut, max * cut);
        let (low, high) = grid.limits();
        let level = |x: f64| round(x / f64::from(grid.scale) + f64::from(grid.offset)).clamp(f64::from(low), f64::from(high));
        let ends = (min * cut, max * cut);
        // Clipped: what lies outside counts at the ends. Rounded: each level spreads its own counts evenly over its filled bins.
        let inside: Vec<&(f64, u64)> = bins.iter().filter(|(x, _)| (ends.0..=ends.1).contains(x)).collect();
        if inside.is_empty() {
            return f64::INFINITY;
        }
        let mut clipped: Vec<f64> = inside.iter().map(|b| b.1 as f64).collect();
        let last = clipped.len() - 1;
        clipped[0] += bins.iter().filter(|(x, _)| *x < ends.0).map(|b| b.1 as f64).sum::<f64>();
        clipped[last] += bins.iter().filter(|(x, _)| *x > ends.1).map(|b| b.1 as f64).sum::<f64>();
        let mut sum = 0.0;
        let mut i = 0;
        while i < inside.len() {
            let here = level(inside[i].0);
            let end = (i..inside.len()).find(|&j| level(inside[j].0) != here).unwrap_or(inside.len());
            let own: f64 = inside[i..end].iter().map(|b| b.1 as f64).sum();
            let even = own / (end - i) as f64;
            sum += clipped[i..end].iter().map(|&p| p / total * (p / even).ln()).sum::<f64>();
            i = end;
        }
        // The counts outside are missing in the rounded histogram.
        let kept: f64 = inside.iter().map(|b| b.1 as f64).sum();
        sum + (kept / total).ln()
    };
    let cut = least(of_cut, (0.1, 1.0), 90);
    make(min * cut, max * cut)
}

/// AMCT's IFMR, on the histogram in place of the data: candidates in steps of a hundredth; with an offset the minimum stays.
fn ifmr(histogram: &Histogram, offset: bool, make: impl Fn(f64, f64) -> Grid) -> Grid {
    let bins: Vec<(f64, u64)> = histogram.bins().collect();
    let total = bins.iter().map(|b| b.1).sum::<u64>();
    // The k-th largest and smallest value, k = n − ⌊share · n⌋.
    let k = total - (IFMR_PERCENTILE * total as f64) as u64;
    let find = |list: &mut dyn Iterator<Item = &(f64, u64)>| {
        let mut seen = 0;
        for (x, n) in list {
            seen += n;
            if seen >= k.max(1) {
                return *x;
            }
        }
        0.0
    };
    let (mut low, mut high) = (find(&mut bins.iter()).min(0.0), find(&mut bins.iter().rev()).max(0.0));
    if k <= 1 {
        (low, high) = (f64::from(histogram.min).min(0.0), f64::from(histogram.max).max(0.0));
    }
    let reach = high.max(-low);
    let candidate = |i: u32| {
        let ratio = 0.7 + 0.01 * f64::from(i);
        if offset { make(low, high * ratio) } else { make(-reach * ratio, reach * ratio) }
    };
    (0..60)
        .map(candidate)
        .map(|g| (error(&bins, g), g))
        .reduce(|a, b| if b.0 < a.0 { b } else { a })
        .map_or_else(|| make(low, high), |b| b.1)
}

/// AMCT's HFMG: the ends move inwards, each time the one that drops more bins for the same counts, down to a quarter of the
/// bins; the range with the least error counts, where each bin is evenly filled and goes to the middle of its target.
fn hfmg(histogram: &Histogram, bits: u32) -> (f64, f64) {
    let (min, width) = (f64::from(histogram.min), histogram.width());
    let mut counts: Vec<u64> = Vec::new();
    for (x, n) in histogram.bins() {
        let at = ((x - min) / width) as usize;
        counts.resize(counts.len().max(at + 1), 0);
        counts[at] += n;
    }
    let total: u64 = counts.iter().sum();
    let step = ((total as f64 * HFMG_STEP).ceil() as u64).max(1);
    let (mut left, mut right) = (0, counts.len());
    let filled: Vec<(usize, u64)> = counts.iter().copied().enumerate().filter(|c| c.1 > 0).collect();
    let loss = |left: usize, right: usize| even_error(&filled, (left, right), 1 << bits);
    let mut best = ((left, right), loss(left, right));
    while right - left > (counts.len() / 4).max(1) {
        let dropped = |bins: &mut dyn Iterator<Item = &u64>| {
            let mut seen = 0;
            for (i, n) in bins.enumerate() {
                seen += n;
                if seen >= step {
                    return i + 1;
                }
            }
            right - left
        };
        let (from_left, from_right) = (dropped(&mut counts[left..right].iter()), dropped(&mut counts[left..right].iter().rev()));
        if from_left > from_right {
            left += from_left
        } else {
            right -= from_right
        }
        if right <= left {
            break;
        }
        let e = loss(left, right);
        if e < best.1 {
            best = ((left, right), e);
        }
    }
    let ((left, right), _) = best;
    ((min + left as f64 * width).min(0.0), (min + right as f64 * width).min(f64::from(histogram.max)).max(0.0))
}

/// Error of evenly filled bins of width 1 that go to the middles of `levels` targets over a range of bins.
fn even_error(filled: &[(usize, u64)], (left, right): (usize, usize), levels: usize) -> f64 {
    let target = (right - left) as f64 / levels as f64;
    let cube = |from: f64, to: f64| (to.powi(3) - from.powi(3)) / 3.0;
    let of_bin = |&(bin, n): &(usize, u64)| {
        let (begin, end) = (bin as f64 - left as f64, bin as f64 + 1.0 - left as f64);
        let at = |x: f64| (x / target).floor().clamp(0.0, (levels - 1) as f64);
        let (first, last) = (at(begin), at(end));
        let middle = |t: f64| (t + 0.5) * target;
        let one = if first >= last {
            cube(begin - middle(first), end - middle(first))
        } else {
            let whole = cube(-target / 2.0, target / 2.0) * (last - first - 1.0);
            cube(begin - middle(first), target / 2.0) + whole + cube(-target / 2.0, end - middle(last))
        };
        one * n as f64
    };
    filled.iter().map(of_bin).sum()
}
