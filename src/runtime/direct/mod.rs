//! Convolutions by their definition, for training: the weights change with every step, so that ONNX Runtime cannot lay them out once and for all, and runs
//! such convolutions of 16 to 64 channels at half the speed it has otherwise.
//!
//! An image is laid out in blocks of as many channels as a vector has lanes, with its padding, in memory that stays in the cache of a core; the sums of several pixels
//! (or, for the weight's gradient, of one tap and all channels of two blocks) stay in registers (Georganas et al., "Anatomy of high-performance deep
//! learning convolutions on SIMD architectures", 1808.05567). The parts that a batch is cut into do not depend on the number of threads.

mod depthwise;
mod forward;
#[cfg(test)]
mod tests;
mod weight;

pub(super) use depthwise::{depthwise, depthwise_weight_gradient};
pub(super) use forward::{Kernel, convolve};
use pulp::{Arch, Simd, WithSimd};
pub(super) use weight::weight_gradient;

/// Parts that a batch is cut into at most.
const PARTS: usize = 16;

/// Floats of a vector of this processor.
fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    Arch::new().dispatch(Lanes)
}

/// A convolution over images; a sequence is an image of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    /// Images.
    pub(super) batch: usize,
    /// Channels of the input.
    pub(super) inputs: usize,
    /// Channels of the output.
    pub(super) outputs: usize,
    /// Height and width of the input.
    pub(super) image: [usize; 2],
    /// Height and width of the output.
    pub(super) made: [usize; 2],
    /// Taps down and across.
    pub(super) kernel: [usize; 2],
    /// Steps between windows.
    pub(super) strides: [usize; 2],
    /// Steps between taps.
    pub(super) dilations: [usize; 2],
    /// Zeros above and to the left.
    pub(super) before: [usize; 2],
}

impl Geometry {
    const fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Height and width of what the windows reach over.
    fn padded(&self) -> [usize; 2] {
        [0, 1].map(|i| (self.made[i] - 1) * self.strides[i] + (self.kernel[i] - 1) * self.dilations[i] + 1)
    }

    const fn pixels(&self) -> usize {
        self.image[0] * self.image[1]
    }

    const fn places(&self) -> usize {
        self.made[0] * self.made[1]
    }
}

/// Lays a row of up to B planes out channel by channel.
#[inline(always)]
fn lay<const B: usize>(planes: &[f32], plane: usize, from: usize, to: &mut [f32]) {
    let n = to.len() / B;
    for (c, plane) in planes.chunks_exact(plane).enumerate() {
        to.chunks_exact_mut(B).zip(&plane[from..from + n]).for_each(|(to, &v)| to[c] = v);
    }
}

/// Lays an image out in blocks of B channels, inside zeros that are there already.
#[inline(always)]
fn lay_image<const B: usize>(image: &[f32], blocks: &mut [f32], g: &Geometry) {
    let padded = g.padded();
    let inside = padded[1].saturating_sub(g.before[1]).min(g.image[1]);
    for (block, planes) in blocks.chunks_exact_mut(padded[0] * padded[1] * B).zip(image.chunks(B * g.pixels())) {
        let lines = block.chunks_exact_mut(padded[1] * B).skip(g.before[0]).take(g.image[0]);
        for (h, line) in lines.enumerate() {
            lay::<B>(planes, g.pixels(), h * g.image[1], &mut line[g.before[1] * B..][..inside * B]);
        }
    }
}
