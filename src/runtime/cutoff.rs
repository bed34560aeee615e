//! Operators of ours for training graphs: what a gradient becomes behind a function that is flat outside two limits.

use ort::{
    operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext},
    value::TensorElementType,
};

use super::spread::in_chunks;

/// `Between(dy, x)`: dy where low < x < high, 0 elsewhere. All of one shape.
pub(super) struct Between;

pub(super) struct Limits {
    low: f32,
    high: f32,
}

impl Operator for Between {
    type Kernel<'attr> = Limits;

    const INPLACES: &[(u32, u32)] = &[(0, 0)];

    fn name(&self) -> &str {
        "Between"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32), OperatorInput::required(TensorElementType::Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Limits> {
        let attribute = |name: &str| context.get::<f32>(name).ok_or_else(|| ort::Error::new(format!("Between has no {name}")));
        Ok(Limits { low: attribute("low")?, high: attribute("high")? })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        match context.inputs().first() {
            Some(input) => context.set_output(0, input),
            None => Ok(()),
        }
    }
}

impl Kernel for Limits {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new("Between lacks a value".to_string());
        let (low, high) = (self.low, self.high);
        // Without a branch, so that a processor's vectors can do it.
        let kept = |dy: f32, x: f32| if (low < x) & (x < high) { dy } else { 0.0 };
        let dy = context.input(0)?.ok_or_else(missing)?;
        let x = context.input(1)?.ok_or_else(missing)?;
        let mut dx = context.output(0, dy.shape().to_vec())?.ok_or_else(missing)?;
        let x = x.try_extract_tensor::<f32>()?.1;
        // ONNX Runtime may give the same memory for both.
        if std::ptr::eq(dy.try_extract_tensor::<f32>()?.1.as_ptr(), dx.try_extract_tensor::<f32>()?.1.as_ptr()) {
            drop(dy);
            in_chunks(dx.try_extract_tensor_mut::<f32>()?.1, |from, dx| {
                dx.iter_mut().zip(&x[from..]).for_each(|(dx, &x)| *dx = kept(*dx, x));
            });
        } else {
            let dy = dy.try_extract_tensor::<f32>()?.1;
            in_chunks(dx.try_extract_tensor_mut::<f32>()?.1, |from, dx| {
                dx.iter_mut().zip(&dy[from..]).zip(&x[from..]).for_each(|((dx, &dy), &x)| *dx = kept(dy, x));
            });
        }
        Ok(())
    }
}
