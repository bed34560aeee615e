//! The gradient of a convolution's weight.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Geometry, PARTS, lanes, lay, lay_image};

/// Pixels whose inputs and gradients stay in the fastest cache while all taps meet them.
const PIXELS: usize = 192;
/// Bytes that the sums of all parts take together, about.
const SUMS: usize = 16 << 20;

/// dW (outputs × inputs × taps) from x (batch × inputs × image) and dy (batch × outputs × made).
pub(in crate::runtime) fn weight_gradient(x: &[f32], dy: &[f32], dw: &mut [f32], g: &Geometry) {
    match lanes() {
        16 => in_parts::<16>(x, dy, dw, g),
        8 => in_parts::<8>(x, dy, dw, g),
        4 => in_parts::<4>(x, dy, dw, g),
        _ => in_parts::<1>(x, dy, dw, g),
    }
}

fn in_parts<const B: usize>(x: &[f32], dy: &[f32], dw: &mut [f32], g: &Geometry) {
    let (in_blocks, out_blocks, taps) = (g.inputs.div_ceil(B), g.outputs.div_ceil(B), g.taps());
    let size = in_blocks * out_blocks * taps * B * B;
    let parts = (SUMS / (4 * size)).clamp(2, PARTS).min(g.batch);
    let per = g.batch.div_ceil(parts);
    let of_part = |(x, dy)| {
        let mut sums = vec![0.0; size];
        Arch::new().dispatch(Part::<B> { x, dy, sums: &mut sums, g });
        sums
    };
    let whole = x.par_chunks(per * g.inputs * g.pixels()).zip(dy.par_chunks(per * g.outputs * g.places()));
    let sums: Vec<Vec<f32>> = whole.map(of_part).collect();
    dw.par_chunks_mut(g.inputs * taps).enumerate().for_each(|(co, dw)| {
        for (i, dw) in dw.iter_mut().enumerate() {
            let (ci, t) = (i / taps, i % taps);
            let at = ((((co / B) * in_blocks + ci / B) * taps + t) * B + ci % B) * B + co % B;
            *dw = sums.iter().map(|s| s[at]).sum();
        }
    });
}

/// Some images, and the sums over them: \[output block\]\[input block\]\[tap\]\[input\]\[output\].
struct Part<'a, const B: usize> {
    x: &'a [f32],
    dy: &'a [f32],
    sums: &'a mut [f32],
    g: &'a Geometry,
}

impl<const B: usize> WithSimd for Part<'_, B> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, dy, sums, g } = self;
        let (in_blocks, out_blocks, taps) = (g.inputs.div_ceil(B), g.outputs.div_ceil(B), g.taps());
        let padded = g.padded();
        let (area, places) = (padded[0] * padded[1] * B, g.places() * B);
        let mut xs = vec![0.0_f32; in_blocks * area];
        let mut dys = vec![0.0_f32; out_blocks * places];
        let rows = (PIXELS / g.made[1]).clamp(1, g.made[0]);
        for (x, dy) in x.chunks_exact(g.inputs * g.pixels()).zip(dy.chunks_exact(g.outputs * g.places())) {
            lay_image::<B>(x, &mut xs, g);
            for (block, planes) in dys.chunks_exact_mut(places).zip(dy.chunks(B * g.places())) {
                for (h, line) in block.chunks_exact_mut(g.made[1] * B).enumerate() {
                    lay::<B>(planes, g.places(), h * g.made[1], line);
                }
            }
            for (ob, dys) in dys.chunks_exact(places).enumerate() {
                for (ib, xs) in xs.chunks_exact(area).enumerate() {
                    let sums = &mut sums[(ob * in_blocks + ib) * taps * B * B..][..taps * B * B];
                    for from in (0..g.made[0]).step_by(rows) {
                        let to = (from + rows).min(g.made[0]);
                        for (t, sums) in sums.chunks_exact_mut(B * B).enumerate() {
                            let (i, j) = (t / g.kernel[1], t % g.kernel[1]);
                            let corner = (i * g.dilations[0] * padded[1] + j * g.dilations[1]) * B;
                            tap::<S, B>(simd, (&xs[corner..], dys), sums, g, (from, to), padded[1] * B);
                        }
                    }
                }
            }
        }
    }
}

/// Adds what some rows give for one tap and all pairs of channels of two blocks.
#[inline(always)]
fn tap<S: Simd, const B: usize>(
    simd: S,
    (x, dy): (&[f32], &[f32]),
    sums: &mut [f32],
    g: &Geometry,
    (from, to): (usize, usize),
    pitch: usize,
) {
    let (sums, _) = S::as_mut_simd_f32s(sums);
    if sums.len() != B {
        return;
    }
    let mut held: [S::f32s; B] = core::array::from_fn(|i| sums[i]);
    let step = g.strides[1] * B;
    let width = ((g.made[1] - 1) * g.strides[1] + 1) * B;
    for h in from..to {
        let x = &x[h * g.strides[0] * pitch..][..width];
        let (dy, _) = S::as_simd_f32s(&dy[h * g.made[1] * B..][..g.made[1] * B]);
        for (x, dy) in x.chunks(step).zip(dy) {
            let Some(x) = x.first_chunk::<B>() else { continue };
            for i in 0..B {
                held[i] = simd.mul_add_f32s(simd.splat_f32s(x[i]), *dy, held[i]);
            }
        }
    }
    sums.iter_mut().zip(held).for_each(|(sum, held)| *sum = held);
}
