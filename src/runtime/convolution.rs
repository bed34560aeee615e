//! Operators of ours for training graphs: convolutions of one or two spatial axes whose weights change with every step, and the gradients of their weights.
//!
//! Attributes, with an entry for each spatial axis: kernel, strides, dilations, before (zeros in front) and made (dimensions of the output, or of the
//! gradient that is given); dims are those of the result. What they compute is in [`super::direct`].

use ort::{
    operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext},
    value::{SymbolicDimensions, TensorElementType, ValueType},
};

use super::direct::{self, Geometry};

/// `Convolve(x, w, b?)`; with the attribute turned = 1, w is that of the convolution whose input's gradient is computed.
pub(super) struct Convolve;
/// `WeightGradient(x, dy)`: outputs × inputs × kernel.
pub(super) struct WeightGradient;
/// `Depthwise(x, w, b?)`, as [`Convolve`], each channel by itself.
pub(super) struct Depthwise;
/// `DepthwiseWeightGradient(x, dy)`: channels × 1 × kernel.
pub(super) struct DepthwiseWeightGradient;

/// What the attributes say.
#[derive(Clone)]
pub(super) struct Shape {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    before: Vec<i64>,
    made: Vec<i64>,
    dims: Vec<i64>,
    turned: bool,
}

/// Two axes of one list, a first one of `missing` before a single one.
fn pair(list: &[i64], missing: usize) -> [usize; 2] {
    let of = |v: i64| usize::try_from(v).unwrap_or(0);
    match *list {
        [w] => [missing, of(w)],
        [h, w] => [of(h), of(w)],
        _ => [0, 0],
    }
}

impl Shape {
    fn read(context: &KernelContext<'_>) -> ort::Result<Self> {
        let list = |name: &str| context.get::<Vec<i64>>(name).ok_or_else(|| ort::Error::new(format!("a convolution has no {name}")));
        let turned = context.get::<i64>("turned").unwrap_or(0) == 1;
        let (kernel, strides, dilations) = (list("kernel")?, list("strides")?, list("dilations")?);
        Ok(Self { kernel, strides, dilations, before: list("before")?, made: list("made")?, dims: list("dims")?, turned })
    }

    fn geometry(&self, x: &[i64], outputs: i64) -> Geometry {
        let of = |v: i64| usize::try_from(v).unwrap_or(0);
        Geometry {
            batch: x.first().map_or(0, |&v| of(v)),
            inputs: x.get(1).map_or(0, |&v| of(v)),
            outputs: of(outputs),
            image: pair(&x[2..], 1),
            made: pair(&self.made, 1),
            kernel: pair(&self.kernel, 1),
            strides: pair(&self.strides, 1),
            dilations: pair(&self.dilations, 1),
            before: pair(&self.before, 0),
        }
    }
}

fn floats(needed: usize, optional: usize) -> Vec<OperatorInput> {
    let required = (0..needed).map(|_| OperatorInput::required(TensorElementType::Float32));
    required.chain((0..optional).map(|_| OperatorInput::optional(TensorElementType::Float32))).collect()
}

macro_rules! operator {
    ($type:ident, $kernel:ident, $optional:expr) => {
        impl Operator for $type {
            type Kernel<'attr> = $kernel;

            fn name(&self) -> &str {
                stringify!($type)
            }

            fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
                floats(2, $optional)
            }

            fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
                [OperatorOutput::required(TensorElementType::Float32)]
            }

            fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<$kernel> {
                Ok($kernel(Shape::read(context)?))
            }

            fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
                let dims: Vec<i64> = context.attr("dims")?;
                let dimension_symbols = SymbolicDimensions::empty(dims.len());
                context.set_output(0, &ValueType::Tensor { ty: TensorElementType::Float32, shape: dims.into(), dimension_symbols })
            }
        }

        pub(super) struct $kernel(Shape);
    };
}

operator!(Convolve, ConvolveKernel, 1);
operator!(WeightGradient, WeightGradientKernel, 0);
operator!(Depthwise, DepthwiseKernel, 1);
operator!(DepthwiseWeightGradient, DepthwiseWeightGradientKernel, 0);

fn missing() -> ort::Error {
    ort::Error::new("a convolution lacks a value".to_string())
}

/// Runs a convolution, whose output has that many channels.
fn forward(
    context: &ComputeContext,
    shape: &Shape,
    run: impl Fn(&[f32], &[f32], Option<&[f32]>, &mut [f32], &Geometry),
) -> ort::Result<()> {
    let (x, w) = (context.input(0)?.ok_or_else(missing)?, context.input(1)?.ok_or_else(missing)?);
    let g = shape.geometry(x.shape(), shape.dims[1]);
    let bias = context.input(2).ok().flatten();
    let mut y = context.output(0, shape.dims.clone())?.ok_or_else(missing)?;
    let bias = bias.as_ref().map(|b| b.try_extract_tensor::<f32>()).transpose()?.map(|b| b.1);
    run(x.try_extract_tensor::<f32>()?.1, w.try_extract_tensor::<f32>()?.1, bias, y.try_extract_tensor_mut::<f32>()?.1, &g);
    Ok(())
}

/// Runs the gradient of a weight.
fn backward(context: &ComputeContext, shape: &Shape, run: impl Fn(&[f32], &[f32], &mut [f32], &Geometry)) -> ort::Result<()> {
    let (x, dy) = (context.input(0)?.ok_or_else(missing)?, context.input(1)?.ok_or_else(missing)?);
    let g = shape.geometry(x.shape(), dy.shape()[1]);
    let mut dw = context.output(0, shape.dims.clone())?.ok_or_else(missing)?;
    run(x.try_extract_tensor::<f32>()?.1, dy.try_extract_tensor::<f32>()?.1, dw.try_extract_tensor_mut::<f32>()?.1, &g);
    Ok(())
}

impl Kernel for ConvolveKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let turned = self.0.turned;
        let run = |x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32], g: &Geometry| {
            direct::convolve(x, direct::Kernel { weight: w, turned, bias }, y, g);
        };
        forward(context, &self.0, run)
    }
}

impl Kernel for DepthwiseKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let turned = self.0.turned;
        let run = |x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32], g: &Geometry| direct::depthwise(x, (w, turned), bias, y, g);
        forward(context, &self.0, run)
    }
}

impl Kernel for WeightGradientKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        backward(context, &self.0, direct::weight_gradient)
    }
}

impl Kernel for DepthwiseWeightGradientKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        backward(context, &self.0, direct::depthwise_weight_gradient)
    }
}
