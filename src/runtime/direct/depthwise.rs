//! Convolutions of each channel by itself.
//!
//! A plane is laid out with its padding, and with a stride as one plane for each remainder, so that every tap reads one stretch of memory: a plane of results is the sum of shifted
//! planes, and the gradient of a tap one product of two stretches.

use pulp::Arch;
use rayon::prelude::*;

use super::{Geometry, PARTS};

/// Sums beside each other.
const WIDE: usize = 16;

/// A plane cut by remainders of its rows and columns by the stride.
struct Plane {
    values: Vec<f32>,
    /// Elements of a row of each remainder.
    pitch: usize,
    /// Elements of each remainder.
    area: usize,
    /// Elements from the first to the last result, at that pitch.
    length: usize,
}

impl Plane {
    fn new(g: &Geometry) -> Self {
        let padded = g.padded();
        let [rows, pitch] = [0, 1].map(|i| padded[i].div_ceil(g.strides[i]) + usize::from(g.strides[i] > 1));
        // The last tap of the last row reads a little beyond the last row.
        let length = g.made[0] * pitch;
        let area = rows * pitch
            + length.saturating_sub((rows - (g.kernel[0] - 1) * g.dilations[0] / g.strides[0]) * pitch)
            + pitch
            + g.kernel[1] * g.dilations[1];
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
    parts.enumerate().for_each(|(part, (y, x))| {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                let mut plane = Plane::new(g);
                let mut sums = vec![0.0_f32; plane.length];
                for (i, (y, x)) in y.chunks_exact_mut(g.places()).zip(x.chunks_exact(g.pixels())).enumerate() {
                    let channel = (part * per + i) % g.inputs;
                    plane.fill(x, g);
                    sums.fill(bias.map_or(0.0, |b| b[channel]));
                    let taps = &weight[channel * g.taps()..][..g.taps()];
                    for t in 0..g.taps() {
                        let w = taps[if turned { g.taps() - 1 - t } else { t }];
                        sums.iter_mut().zip(plane.seen(t, g)).for_each(|(sum, x)| *sum = x.mul_add(w, *sum));
                    }
                    let rows = sums.chunks_exact(plane.pitch).zip(y.chunks_exact_mut(g.made[1]));
                    rows.for_each(|(from, to)| to.copy_from_slice(&from[..to.len()]));
                }
            },
        );
    });
}

/// dW (channels × taps) from x and dy.
pub(in crate::runtime) fn depthwise_weight_gradient(x: &[f32], dy: &[f32], dw: &mut [f32], g: &Geometry) {
    let per = g.inputs.div_ceil(4 * PARTS);
    dw.par_chunks_mut(per * g.taps()).enumerate().for_each(|(part, dw)| {
        Arch::new().dispatch(
            #[inline(always)]
            || {
                let mut plane = Plane::new(g);
                let mut dys = vec![0.0_f32; plane.length];
                for (i, dw) in dw.chunks_exact_mut(g.taps()).enumerate() {
                    let channel = part * per + i;
                    let mut sums = vec![[0.0_f32; WIDE]; g.taps()];
                    for n in 0..g.batch {
                        let at = n * g.inputs + channel;
                        plane.fill(&x[at * g.pixels()..][..g.pixels()], g);
                        let rows = dys.chunks_exact_mut(plane.pitch).zip(dy[at * g.places()..].chunks_exact(g.made[1]));
                        rows.for_each(|(to, from)| to[..from.len()].copy_from_slice(from));
                        sums.iter_mut().enumerate().for_each(|(t, sums)| add_products(&dys, plane.seen(t, g), sums));
                    }
                    dw.iter_mut().zip(&sums).for_each(|(dw, sums)| *dw = sums.iter().sum());
                }
            },
        );
    });
}

#[inline(always)]
fn add_products(a: &[f32], b: &[f32], sums: &mut [f32; WIDE]) {
    let (a, a_rest) = a.as_chunks::<WIDE>();
    let (b, b_rest) = b.as_chunks::<WIDE>();
    let mut held = *sums;
    for (a, b) in a.iter().zip(b) {
        for i in 0..WIDE {
            held[i] = a[i].mul_add(b[i], held[i]);
        }
    }
    held.iter_mut().zip(a_rest.iter().zip(b_rest)).for_each(|(sum, (a, b))| *sum = a.mul_add(*b, *sum));
    *sums = held;
}
