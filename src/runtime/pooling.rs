//! An operator of ours for training graphs: the gradient of maxima over windows.

use ort::{
    operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext},
    value::TensorElementType,
};

use super::spread::in_rows;

/// `MaxPoolGradient(dy, x)`: each element of dy added where the first maximum of its window in x is. Attributes, an entry for each spatial
/// axis: kernel, strides, dilations and before, the padding in front.
pub(super) struct MaxPoolGradient;

/// Up to three axes; those in front that are missing have a length of 1.
pub(super) struct Windows {
    kernel: [usize; 3],
    strides: [usize; 3],
    dilations: [usize; 3],
    before: [usize; 3],
}

impl Operator for MaxPoolGradient {
    type Kernel<'attr> = Windows;

    fn name(&self) -> &str {
        "MaxPoolGradient"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32), OperatorInput::required(TensorElementType::Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Windows> {
        let list = |name: &str, missing: usize| -> ort::Result<[usize; 3]> {
            let found = context.get::<Vec<i64>>(name).ok_or_else(|| ort::Error::new(format!("MaxPoolGradient has no {name}")))?;
            behind(&found, missing).ok_or_else(|| ort::Error::new(format!("{name} of MaxPoolGradient is {found:?}")))
        };
        Ok(Windows {
            kernel: list("kernel", 1)?,
            strides: list("strides", 1)?,
            dilations: list("dilations", 1)?,
            before: list("before", 0)?,
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        match context.inputs().get(1) {
            Some(input) => context.set_output(0, input),
            None => Ok(()),
        }
    }
}

/// A list of at most three with what is missing in front.
fn behind(list: &[i64], missing: usize) -> Option<[usize; 3]> {
    let mut out = [missing; 3];
    let lead = out.len().checked_sub(list.len())?;
    for (to, &from) in out[lead..].iter_mut().zip(list) {
        *to = usize::try_from(from).ok()?;
    }
    Some(out)
}

impl Windows {
    /// First place inside and the number of places of each window along an axis.
    fn spans(&self, axis: usize, input: usize, output: usize) -> Vec<(usize, usize)> {
        let (step, before) = (self.dilations[axis], self.before[axis]);
        let span = |o: usize| {
            let first = o * self.strides[axis];
            let skipped = before.saturating_sub(first).div_ceil(step);
            let start = (first + skipped * step).saturating_sub(before);
            let fit = input.saturating_sub(start).div_ceil(step);
            (start, self.kernel[axis].saturating_sub(skipped).min(fit))
        };
        (0..output).map(span).collect()
    }

    fn plane(&self, dy: &[f32], x: &[f32], dx: &mut [f32], sizes: [usize; 3], spans: &[Vec<(usize, usize)>; 3]) {
        dx.fill(0.0);
        let mut windows = dy.iter();
        for &(d, depth) in &spans[0] {
            for &(h, height) in &spans[1] {
                for &(w, width) in &spans[2] {
                    let Some(dy) = windows.next() else { return };
                    let mut best: Option<(f32, usize)> = None;
                    for i in 0..depth {
                        for j in 0..height {
                            let row = ((d + i * self.dilations[0]) * sizes[1] + h + j * self.dilations[1]) * sizes[2] + w;
                            for place in (row..).step_by(self.dilations[2]).take(width) {
                                let value = x[place];
                                if best.is_none_or(|(most, _)| value > most) {
                                    best = Some((value, place));
                                }
                            }
                        }
                    }
                    if let Some((_, place)) = best {
                        dx[place] += dy;
                    }
                }
            }
        }
    }
}

impl Kernel for Windows {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new("MaxPoolGradient lacks a value".to_string());
        let (dy, x) = (context.input(0)?.ok_or_else(missing)?, context.input(1)?.ok_or_else(missing)?);
        let dims = x.shape().to_vec();
        let spatial = |dims: &[i64]| dims.get(2..).and_then(|dims| behind(dims, 1)).ok_or_else(missing);
        let (sizes, out) = (spatial(&dims)?, spatial(dy.shape())?);
        let mut dx = context.output(0, dims)?.ok_or_else(missing)?;
        let (dy, x) = (dy.try_extract_tensor::<f32>()?.1, x.try_extract_tensor::<f32>()?.1);
        let spans = [0, 1, 2].map(|axis| self.spans(axis, sizes[axis], out[axis]));
        let (places, windows) = (sizes.iter().product::<usize>(), out.iter().product::<usize>());
        in_rows(dx.try_extract_tensor_mut::<f32>()?.1, places, |plane, dx| {
            self.plane(&dy[plane * windows..(plane + 1) * windows], &x[plane * places..(plane + 1) * places], dx, sizes, &spans);
        });
        Ok(())
    }
}
