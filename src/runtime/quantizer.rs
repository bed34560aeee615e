//! Operators of ours for training graphs: fake quantization with learned steps, and its gradient.
//!
//! y = s·clip(round_half_even(x/s), low, high), with a step for the whole value or for each index of one axis. The gradient is LSQ's (Esser et al.,
//! "Learned step size quantization", 1902.08153): dx = dy inside the limits and 0 outside, ds = g·Σ dy·(round(x/s) − x/s) inside, dy·low and dy·high
//! beyond them, with g = 1/√(elements·high).

use ort::{
    operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext},
    value::TensorElementType,
};
use rayon::prelude::*;

use super::rounding::with_fused_multiply_add;

/// Elements of a part of a row that one thread works on at a time.
const PART: usize = 1 << 15;

/// `FakeQuantize(x, s)`: attributes low, high (of the integers less their offset) and axis, along which `s` has its steps.
pub(super) struct FakeQuantize;
/// `FakeQuantizeGradient(dy, x, s)`: the gradients of x and of s; attributes as of [`FakeQuantize`].
pub(super) struct FakeQuantizeGradient;

/// Limits of the integers less their offset, and the axis of the steps.
#[derive(Clone, Copy)]
pub(super) struct Levels {
    low: f32,
    high: f32,
    axis: usize,
}

impl Levels {
    fn read(context: &KernelContext<'_>) -> ort::Result<Self> {
        let attribute = |name: &str| context.get::<f32>(name).ok_or_else(|| ort::Error::new(format!("FakeQuantize has no {name}")));
        let axis = context.get::<i64>("axis").unwrap_or(0);
        Ok(Self { low: attribute("low")?, high: attribute("high")?, axis: usize::try_from(axis).unwrap_or(0) })
    }

    /// Elements that lie together and share a step, for a value of these dimensions.
    fn run(self, shape: &[i64], steps: usize) -> usize {
        let behind = |from: usize| shape.iter().skip(from).map(|&d| usize::try_from(d).unwrap_or(0)).product::<usize>();
        if steps <= 1 { behind(0) } else { behind(self.axis + 1) }.max(1)
    }

    #[inline(always)]
    fn apply(self, x: &[f32], y: &mut [f32], step: f32) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (x / step).clamp(self.low, self.high).round_ties_even() * step;
        }
    }

    /// Writes the gradient of x and returns that of the step.
    #[inline(always)]
    fn gradient(self, dy: &[f32], x: &[f32], dx: &mut [f32], step: f32) -> f32 {
        // Sixteen sums beside each other, so that a processor's vectors can hold them.
        let mut sums = [0.0_f32; 16];
        for ((dy, x), dx) in dy.chunks(16).zip(x.chunks(16)).zip(dx.chunks_mut(16)) {
            for (((dy, x), dx), sum) in dy.iter().zip(x).zip(dx).zip(&mut sums) {
                let v = x / step;
                let clipped = v.clamp(self.low, self.high);
                let inside = v == clipped;
                *dx = if inside { *dy } else { 0.0 };
                let slope = clipped.round_ties_even() - if inside { v } else { 0.0 };
                *sum += *dy * slope;
            }
        }
        sums.iter().sum()
    }
}

fn floats(n: usize) -> Vec<OperatorInput> {
    (0..n).map(|_| OperatorInput::required(TensorElementType::Float32)).collect()
}

impl Operator for FakeQuantize {
    type Kernel<'attr> = Quantize;

    fn name(&self) -> &str {
        "FakeQuantize"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        floats(2)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Quantize> {
        Ok(Quantize(Levels::read(context)?))
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        match context.inputs().first() {
            Some(input) => context.set_output(0, input),
            None => Ok(()),
        }
    }
}

impl Operator for FakeQuantizeGradient {
    type Kernel<'attr> = Gradient;

    fn name(&self) -> &str {
        "FakeQuantizeGradient"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        floats(3)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32), OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Gradient> {
        Ok(Gradient(Levels::read(context)?))
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let inputs = context.inputs();
        if let [dy, _, s] = inputs.as_slice() {
            context.set_output(0, dy)?;
            context.set_output(1, s)?;
        }
        Ok(())
    }
}

pub(super) struct Quantize(Levels);
pub(super) struct Gradient(Levels);

impl Kernel for Quantize {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new("FakeQuantize lacks a value".to_string());
        let (x, s) = (context.input(0)?.ok_or_else(missing)?, context.input(1)?.ok_or_else(missing)?);
        let mut y = context.output(0, x.shape().to_vec())?.ok_or_else(missing)?;
        let steps = s.try_extract_tensor::<f32>()?.1;
        let run = self.0.run(x.shape(), steps.len());
        let (x, y, levels) = (x.try_extract_tensor::<f32>()?.1, y.try_extract_tensor_mut::<f32>()?.1, self.0);
        let part = PART.min(run);
        // A part never crosses the end of a run.
        y.par_chunks_mut(run).zip(x.par_chunks(run)).enumerate().with_min_len((PART / run).max(1)).for_each(|(r, (y, x))| {
            let step = steps[r % steps.len()];
            y.par_chunks_mut(part).zip(x.par_chunks(part)).for_each(|(y, x)| {
                let quick = with_fused_multiply_add(
                    #[inline(always)]
                    || levels.apply(x, y, step),
                );
                if quick.is_none() {
                    levels.apply(x, y, step);
                }
            });
        });
        Ok(())
    }
}

impl Kernel for Gradient {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new("FakeQuantizeGradient lacks a value".to_string());
        let (dy, x, s) =
            (context.input(0)?.ok_or_else(missing)?, context.input(1)?.ok_or_else(missing)?, context.input(2)?.ok_or_else(missing)?);
        let mut dx = context.output(0, x.shape().to_vec())?.ok_or_else(missing)?;
        let mut ds = context.output(1, s.shape().to_vec())?.ok_or_else(missing)?;
        let steps = s.try_extract_tensor::<f32>()?.1;
        let run = self.0.run(x.shape(), steps.len());
        let (dy, x, levels) = (dy.try_extract_tensor::<f32>()?.1, x.try_extract_tensor::<f32>()?.1, self.0);
        let (dx, ds) = (dx.try_extract_tensor_mut::<f32>()?.1, ds.try_extract_tensor_mut::<f32>()?.1);
        let part = PART.min(run);
        let sums: Vec<f32> = dx
            .par_chunks_mut(run)
            .zip(dy.par_chunks(run).zip(x.par_chunks(run)))
            .enumerate()
            .with_min_len((PART / run).max(1))
            .map(|(r, (dx, (dy, x)))| {
                let step = steps[r % steps.len()];
                let of_part = |(dx, (dy, x)): (&mut [f32], (&[f32], &[f32]))| {
                    with_fused_multiply_add(
                        #[inline(always)]
                        || levels.gradient(dy, x, dx, step),
                    )
                    .unwrap_or_else(|| levels.gradient(dy, x, dx, step))
                };
                let parts = dx.par_chunks_mut(part).zip(dy.par_chunks(part).zip(x.par_chunks(part)));
                // Collected first, so that the sum has one order.
                parts.map(of_part).collect::<Vec<_>>().iter().sum()
            })
            .collect();
        let share = 1.0 / (x.len() as f32 / steps.len().max(1) as f32 * levels.high.max(1.0)).sqrt();
        ds.fill(0.0);
        sums.iter().enumerate().for_each(|(r, sum)| ds[r % steps.len()] += share * sum);
        Ok(())
    }
}
