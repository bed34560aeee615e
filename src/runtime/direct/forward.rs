//! Convolution, and the gradient of its input where the stride is 1.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Geometry, PARTS, lanes, lay_image};

/// A weight, and how it lies.
#[derive(Clone, Copy)]
pub(in crate::runtime) struct Kernel<'a> {
    /// Outputs × inputs × taps.
    pub(in crate::runtime) weight: &'a [f32],
    /// Whether the weight is that of the convolution whose input's gradient is computed: inputs and outputs have changed places, and taps are backward.
    pub(in crate::runtime) turned: bool,
    /// One number for each output.
    pub(in crate::runtime) bias: Option<&'a [f32]>,
}

/// y (batch × outputs × made) from x (batch × inputs × image).
pub(in crate::runtime) fn convolve(x: &[f32], kernel: Kernel<'_>, y: &mut [f32], g: &Geometry) {
    match lanes() {
        16 => in_parts::<16>(x, kernel, y, g),
        8 => in_parts::<8>(x, kernel, y, g),
        4 => in_parts::<4>(x, kernel, y, g),
        _ => in_parts::<1>(x, kernel, y, g),
    }
}

fn in_parts<const B: usize>(x: &[f32], kernel: Kernel<'_>, y: &mut [f32], g: &Geometry) {
    let kernels = blocked::<B>(kernel, g);
    let mut biases = vec![0.0_f32; g.outputs.next_multiple_of(B)];
    biases.iter_mut().zip(kernel.bias.unwrap_or_default()).for_each(|(to, b)| *to = *b);
    let per = g.batch.div_ceil(PARTS);
    let parts = y.par_chunks_mut(per * g.outputs * g.places()).zip(x.par_chunks(per * g.inputs * g.pixels()));
    parts.for_each(|(y, x)| Arch::new().dispatch(Part::<B> { x, kernels: &kernels, biases: &biases, y, g }));
}

/// Kernels as the loops meet them, two blocks of outputs beside each other: \[pair\]\[input block\]\[tap\]\[input\]\[output\].
fn blocked<const B: usize>(kernel: Kernel<'_>, g: &Geometry) -> Vec<f32> {
    let (in_blocks, out_blocks, taps) = (g.inputs.div_ceil(B), g.outputs.div_ceil(B), g.taps());
    let mut kernels = vec![0.0_f32; out_blocks * B * in_blocks * B * taps];
    for co in 0..g.outputs {
        let pair = co / B / 2 * 2;
        let wide = if pair + 1 < out_blocks { 2 } else { 1 };
        let base = pair * B * in_blocks * B * taps;
        for ci in 0..g.inputs {
            for t in 0..taps {
                let at = if kernel.turned { (ci * g.outputs + co) * taps + taps - 1 - t } else { (co * g.inputs + ci) * taps + t };
                kernels[base + (((ci / B) * taps + t) * B + ci % B) * wide * B + co - pair * B] = kernel.weight[at];
            }
        }
    }
    kernels
}

/// Some images.
struct Part<'a, const B: usize> {
    x: &'a [f32],
    kernels: &'a [f32],
    biases: &'a [f32],
    y: &'a mut [f32],
    g: &'a Geometry,
}

impl<const B: usize> WithSimd for Part<'_, B> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, kernels, biases, y, g } = self;
        let (in_blocks, out_blocks, taps) = (g.inputs.div_ceil(B), g.outputs.div_ceil(B), g.taps());
        let padded = g.padded();
        let area = padded[0] * padded[1] * B;
        let mut xs = vec![0.0_f32; in_blocks * area];
        let mut line = vec![0.0_f32; 2 * g.made[1] * B];
        for (x, y) in x.chunks_exact(g.inputs * g.pixels()).zip(y.chunks_exact_mut(g.outputs * g.places())) {
            lay_image::<B>(x, &mut xs, g);
            for first in (0..out_blocks).step_by(2) {
                let wide = (out_blocks - first).min(2);
                let whole = wide * B * in_blocks * B * taps;
                let kernels = &kernels[first * B * in_blocks * B * taps..][..whole];
                let of = Row { xs: &xs, area, kernels, biases: &biases[first * B..][..wide * B], g, pitch: padded[1] * B };
                for h in 0..g.made[0] {
                    let at = h * g.strides[0] * padded[1] * B;
                    match wide {
                        2 => row::<S, B, 2>(simd, &of, at, &mut line),
                        _ => row::<S, B, 1>(simd, &of, at, &mut line),
                    }
                    let planes = y[first * B * g.places()..].chunks_exact_mut(g.places()).take(wide * B);
                    for (c, plane) in planes.enumerate() {
                        let to = &mut plane[h * g.made[1]..][..g.made[1]];
                        to.iter_mut().zip(line.chunks_exact(wide * B)).for_each(|(to, v)| *to = v[c]);
                    }
                }
            }
        }
    }
}

/// What a row of outputs is computed from.
struct Row<'a> {
    xs: &'a [f32],
    area: usize,
    kernels: &'a [f32],
    biases: &'a [f32],
    g: &'a Geometry,
    pitch: usize,
}

/// A row of V blocks of outputs, as many pixels at a time as the registers hold.
#[inline(always)]
fn row<S: Simd, const B: usize, const V: usize>(simd: S, of: &Row<'_>, at: usize, line: &mut [f32]) {
    let width = of.g.made[1];
    let mut w = 0;
    while w < width {
        let (at, to) = (at + w * of.g.strides[1] * B, &mut line[w * V * B..]);
        w += match width - w {
            16.. if V == 1 => pixels::<S, B, V, 16>(simd, of, at, to),
            8.. => pixels::<S, B, V, 8>(simd, of, at, to),
            4.. => pixels::<S, B, V, 4>(simd, of, at, to),
            2.. => pixels::<S, B, V, 2>(simd, of, at, to),
            _ => pixels::<S, B, V, 1>(simd, of, at, to),
        };
    }
}

/// P pixels of V blocks of outputs.
#[inline(always)]
fn pixels<S: Simd, const B: usize, const V: usize, const P: usize>(simd: S, of: &Row<'_>, at: usize, to: &mut [f32]) -> usize {
    let g = of.g;
    let (bias, _) = S::as_simd_f32s(of.biases);
    let mut sums: [[S::f32s; V]; P] = [core::array::from_fn(|v| bias[v]); P];
    let step = g.strides[1] * B;
    let mut kernels = of.kernels.chunks_exact(B * V * B);
    for xs in of.xs.chunks_exact(of.area) {
        for i in 0..g.kernel[0] {
            for j in 0..g.kernel[1] {
                let Some(kernel) = kernels.next() else { return P };
                let x = &xs[at + i * g.dilations[0] * of.pitch + j * g.dilations[1] * B..][..(P - 1) * step + B];
                let (kernel, _) = S::as_simd_f32s(kernel);
                for (c, kernel) in kernel.chunks_exact(V).enumerate() {
                    for p in 0..P {
                        let x = simd.splat_f32s(x[p * step + c]);
                        for v in 0..V {
                            sums[p][v] = simd.mul_add_f32s(x, kernel[v], sums[p][v]);
                        }
                    }
                }
            }
        }
    }
    let (to, _) = S::as_mut_simd_f32s(&mut to[..P * V * B]);
    // By index: an iterator over the sums would move them out of the registers.
    for p in 0..P {
        for v in 0..V {
            to[p * V + v] = sums[p][v];
        }
    }
    P
}
