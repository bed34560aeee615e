//! An operator of ours inside ONNX Runtime: values become integers less an offset, in one pass.
//!
//! Files that we write never have it: it stands in rewrites that live in memory alone, for chains of standard operators that compute
//! the same. In a layout that pads channels with zeros it may stand too, as it leaves them zero.

use ort::{
    operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput, ShapeInferenceContext},
    value::TensorElementType,
};

use super::{
    convolution::{Convolve, Depthwise, DepthwiseWeightGradient, WeightGradient},
    cutoff::Between,
    pooling::MaxPoolGradient,
    quantizer::{FakeQuantize, FakeQuantizeGradient},
    rounding::Rounding,
    scatter::ScatterAdd,
};

/// Domain of the operator.
pub const DOMAIN: &str = "gulliver";

/// Its name. One input and one output, floats of one shape; its attributes scale, low and high are those of [`Rounding::new`],
/// with before those of [`Rounding::by_arithmetic`].
pub const ROUND: &str = "Round";

/// The domain as a session takes it.
pub(super) fn domain() -> ort::Result<OperatorDomain> {
    let domain =
        OperatorDomain::new(DOMAIN)?.add(Round)?.add(Between)?.add(MaxPoolGradient)?.add(FakeQuantize)?.add(FakeQuantizeGradient)?;
    domain.add(Convolve)?.add(WeightGradient)?.add(Depthwise)?.add(DepthwiseWeightGradient)?.add(ScatterAdd)
}

struct Round;

impl Operator for Round {
    type Kernel<'attr> = Rounding;

    const INPLACES: &[(u32, u32)] = &[(0, 0)];

    fn name(&self) -> &str {
        ROUND
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Rounding> {
        let attribute = |name: &str| context.get::<f32>(name).ok_or_else(|| ort::Error::new(format!("{ROUND} has no {name}")));
        let (scale, low, high) = (attribute("scale")?, attribute("low")?, attribute("high")?);
        Ok(match context.get::<f32>("before") {
            None => Rounding::new(scale, low, high),
            Some(before) => Rounding::by_arithmetic(scale, before, low, high),
        })
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        match context.inputs().first() {
            Some(input) => context.set_output(0, input),
            None => Ok(()),
        }
    }
}

impl Kernel for Rounding {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new(format!("{ROUND} lacks its value"));
        let from = context.input(0)?.ok_or_else(missing)?;
        let mut to = context.output(0, from.shape().to_vec())?.ok_or_else(missing)?;
        // ONNX Runtime may give the same memory for both.
        if std::ptr::eq(from.try_extract_tensor::<f32>()?.1.as_ptr(), to.try_extract_tensor::<f32>()?.1.as_ptr()) {
            drop(from);
            self.apply_in_place(to.try_extract_tensor_mut::<f32>()?.1);
        } else {
            self.apply(from.try_extract_tensor::<f32>()?.1, to.try_extract_tensor_mut::<f32>()?.1);
        }
        Ok(())
    }
}
