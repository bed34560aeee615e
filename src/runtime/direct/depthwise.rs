//! Convolutions of each channel by itself.
//!
//! A plane is laid out with its padding, and with a stride as one plane for each remainder, so that every tap reads one stretch of memory: a plane of results is the sum of shifted
//! planes, and the gradient of a tap one product of two stretches.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Geometry, PARTS};

/// Results whose sums stay in registers, in vectors.
const HELD: usize = 4;
/// What the length of a plane of results is a multiple of: all vectors' lanes and [`HELD`].
const ROUND: usize = 64;

/// A plane cut by remainders of its rows and columns by the stride.
struct Plane {
    values: Vec<f32>,
    /// Elements of a row of each remainder.
    pitch: usize,
    /// Elements of each remainder.
    area: usize,
    /// Elements from the first to the last result, at that pitch, and some more.
    length: usize,
}

impl Plane {
    fn new(g: &Geometry) -> Self {
        let padded = g.padded();
        let [rows, pitch] = [0, 1].map(|i| padded[i].div_ceil(g.strides[i]) + usize::from(g.strides[i] > 1));
        let length = (g.made[0] * pitch).next_multiple_of(ROUND);
        let last = [0, 1].map(|i| (g.kernel[i] - 1) * g.dilations[i] / g.strides[i]);
        let area = (rows * pitch).max(last[0] * pitch + last[1] + length);
        Self { values: vec![0.0; area * g.strides[0] * g.strides[1]], pitch, area, length }
    }

    #[inline(always)]
    fn fill(&mut self, plane: &[f32], g: &Geometry) {
        let [down, across] = g.strides;
        for (h, row) in plane.chunks_exact(g.image[1]).enumerate() {
            let h = h + g.before[0];
            if down == 1 && across == 1 {
                let from = h * self.pitch + g.before[1];
                let n = row.len().min(self.pitch - g.before[1]);
                if let Some(to) = self.values.get_mut(from..from + n).filter(|_| h < g.padded()[0]) {
                    to.copy_from_slice(&row[..n]);
                }
                continue;
            }
            for (w, &v) in row.iter().enumerate() {
                let w = w + g.before[1];
                if h < g.padded()[0] && w < g.padded()[1] {
                    let of = (h % down) * across + w % across;
                    self.values[of * self.area + h / down * self.pitch + w / across] = v;
                }
            }
        }
    }

    /// What a tap sees.
    #[inline(always)]
    fn seen(&self, t: usize, g: &Geometry) -> &[f32] {
        let (h, w) = (t / g.kernel[1] * g.dilations[0], t % g.kernel[1] * g.dilations[1]);
        let of = (h % g.strides[0]) * g.strides[1] + w % g.strides[1];
        &self.values[of * self.area + h / g.strides[0] * self.pitch + w / g.strides[1]..][..self.length]
    }
}

/// y from x, each channel with its own taps (channels × taps; backward if `turned`).
pub(in crate::runtime) fn depthwise(x: &[f32], (weight, turned): (&[f32], bool), bias: Option<&[f32]>, y: &mut [f32], g: &Geometry) {
    let per = (g.batch * g.inputs).div_ceil(4 * PARTS);
    let parts = y.par_chunks_mut(per * g.places()).zip(x.par_chunks(per * g.pixels()));
    parts.enumerate().for_each(|(i, (y, x))| Arch::new().dispatch(Planes { x, weight, turned, bias, y, first: i * per, g }));
}

/// Some planes, the first of which has a number.
struct Planes<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    turned: bool,
    bias: Option<&'a [f32]>,
    y: &'a mut [f32],
    first: usize,
    g: &'a Geometry,
}

impl WithSimd for Planes<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, weight, turned, bias, y, first, g } = self;
        let mut plane = Plane::new(g);
        let mut sums = vec![0.0_f32; plane.length];
        for (i, (y, x)) in y.chunks_exact_mut(g.places()).zip(x.chunks_exact(g.pixels())).enumerate() {
            let channel = (first + i) % g.inputs;
            plane.fill(x, g);
            let taps = &weight[channel * g.taps()..][..g.taps()];
            let start = simd.splat_f32s(bias.map_or(0.0, |b| b[channel]));
            for (at, sums) in sums.chunks_exact_mut(HELD * S::F32_LANES).enumerate() {
                let mut held = [start; HELD];
                for t in 0..taps.len() {
                    let w = simd.splat_f32s(taps[if turned { taps.len() - 1 - t } else { t }]);
                    let (x, _) = S::as_simd_f32s(&plane.seen(t, g)[at * HELD * S::F32_LANES..][..HELD * S::F32_LANES]);
                    for i in 0..HELD {
                        held[i] = simd.mul_add_f32s(x[i], w, held[i]);
                    }
                }
                let (sums, _) = S::as_mut_simd_f32s(sums);
                sums[..HELD].copy_from_slice(&held);
            }
            let rows = sums.chunks_exact(plane.pitch).zip(y.chunks_exact_mut(g.made[1]));
            rows.for_each(|(from, to)| to.copy_from_slice(&from[..to.len()]));
        }
    }
}

/// dW (channels × taps) from x and dy.
pub(in crate::runtime) fn depthwise_weight_gradient(x: &[f32], dy: &[f32], dw: &mut [f32], g: &Geometry) {
    let per = g.inputs.div_ceil(4 * PARTS);
    let parts = dw.par_chunks_mut(per * g.taps()).enumerate();
    parts.for_each(|(i, dw)| Arch::new().dispatch(Channels { x, dy, dw, first: i * per, g }));
}

/// Some channels, the first of which has a number.
struct Channels<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    dw: &'a mut [f32],
    first: usize,
    g: &'a Geometry,
}

impl WithSimd for Channels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, dy, dw, first, g } = self;
        let mut plane = Plane::new(g);
        let mut dys = vec![0.0_f32; plane.length];
        let mut sums = vec![simd.splat_f32s(0.0); HELD * g.taps()];
        for (i, dw) in dw.chunks_exact_mut(g.taps()).enumerate() {
            sums.fill(simd.splat_f32s(0.0));
            for n in 0..g.batch {
                let at = n * g.inputs + first + i;
                plane.fill(&x[at * g.pixels()..][..g.pixels()], g);
                let rows = dys.chunks_exact_mut(plane.pitch).zip(dy[at * g.places()..][..g.places()].chunks_exact(g.made[1]));
                rows.for_each(|(to, from)| to[..from.len()].copy_from_slice(from));
                let (dys, _) = S::as_simd_f32s(&dys);
                for (t, sums) in sums.chunks_exact_mut(HELD).enumerate() {
                    let (x, _) = S::as_simd_f32s(plane.seen(t, g));
                    let mut held = [sums[0], sums[1], sums[2], sums[3]];
                    for (x, dy) in x.chunks_exact(HELD).zip(dys.chunks_exact(HELD)) {
                        for i in 0..HELD {
                            held[i] = simd.mul_add_f32s(x[i], dy[i], held[i]);
                        }
                    }
                    sums[..HELD].copy_from_slice(&held);
                }
            }
            for (dw, sums) in dw.iter_mut().zip(sums.chunks_exact(HELD)) {
                *dw = sums.iter().map(|&s| simd.reduce_sum_f32s(s)).sum();
            }
        }
    }
}
