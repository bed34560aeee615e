//! A kernel: what runs as one launch on the chip, with its work and its traffic, as data.

use std::collections::BTreeSet;

use crate::precision::Precision;

/// What kind of work a kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Convolution, with whatever is fused to it.
    Conv,
    /// Convolution with more than one channel a group.
    GroupConv,
    /// Convolution with one channel a group.
    DepthwiseConv,
    /// Transposed convolution.
    ConvTranspose,
    /// Gemm, or MatMul by a constant or by an activation.
    MatMul,
    /// A chain of elementwise operators.
    Elementwise,
    /// Pooling.
    Pool,
    /// Reductions, softmax, normalisations.
    Reduce,
    /// Concat, slice, transpose and the like.
    Move,
    /// Change between NCHW or ND and NC1HWC0 (TransData).
    Transform,
    /// AscendQuant as a kernel of its own.
    Quantize,
    /// An operator without a model: one pass over its data.
    Other,
}

impl Op {
    /// The kind in words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Conv => "convolution",
            Self::GroupConv => "grouped convolution",
            Self::DepthwiseConv => "depthwise convolution",
            Self::ConvTranspose => "transposed convolution",
            Self::MatMul => "matrix product",
            Self::Elementwise => "elementwise kernel",
            Self::Pool => "pooling",
            Self::Reduce => "reduction",
            Self::Move => "data movement",
            Self::Transform => "layout change",
            Self::Quantize => "quantization kernel",
            Self::Other => "other operator",
        }
    }
}

/// What a prediction takes as given about how the network is compiled and fed. The default is what ATC does unasked, and what the
/// twin computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Conditions {
    /// The image comes as bytes and is normalised on the way in (AIPP): no kernel changes its layout or quantizes it.
    pub aipp: bool,
    /// A first convolution of at most 4 channels packs its window densely (`--enable_small_channel=1`).
    pub small_channel: bool,
    /// The other operand of an addition behind an integer layer moves as integers too (AMCT's tensor quantization of Add, AscendAntiQuant).
    pub integer_residual: bool,
}

/// Work of the cube: `images` products of \[rows, taps·cin\] by \[taps·cin, cout\] for each of `groups` groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cube {
    /// Independent products: the batch.
    pub images: u64,
    /// Output pixels of an image.
    pub rows: u64,
    /// Pixels of the convolution's window.
    pub taps: u64,
    /// Input channels of a group.
    pub cin: u64,
    /// Output channels of a group.
    pub cout: u64,
    /// Groups.
    pub groups: u64,
    /// Whether of four neighbouring input channels two weights are 0 (4:2 sparsity). What that gains is the chip's affair:
    /// [`Profile::skips_zeros`](super::Profile::skips_zeros).
    pub sparse: bool,
}

impl Cube {
    /// Multiply-adds, nothing padded.
    pub fn macs(&self) -> u64 {
        [self.images, self.rows, self.taps, self.cin, self.cout, self.groups].iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Output elements, channels padded to blocks of 16.
    pub fn drained(&self) -> f64 {
        (self.images.saturating_mul(self.rows) as f64) * pad(self.cout.saturating_mul(self.groups), 16) as f64
    }
}

/// Work of the vector unit: elements times passes, by what the passes cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Vector {
    /// Passes of known cost.
    pub plain: f64,
    /// Elements taken out of the cube.
    pub drain: f64,
    /// ReLU.
    pub relu: f64,
    /// Pixels of pooling windows.
    pub pool: f64,
    /// HardSigmoid and HardSwish.
    pub hard_sigmoid: f64,
    /// Sigmoid, Exp and the like.
    pub sigmoid: f64,
    /// Erf, Tanh, Gelu and the like.
    pub erf: f64,
}

impl Vector {
    /// The same passes over a share of the elements.
    #[must_use]
    pub fn scaled(&self, share: f64) -> Self {
        let Self { plain, drain, relu, pool, hard_sigmoid, sigmoid, erf } = *self;
        Self {
            plain: plain * share,
            drain: drain * share,
            relu: relu * share,
            pool: pool * share,
            hard_sigmoid: hard_sigmoid * share,
            sigmoid: sigmoid * share,
            erf: erf * share,
        }
    }
}

/// How a kernel touches memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// In whole blocks of channels.
    Blocks,
    /// In pieces smaller than a block of channels.
    Pieces,
    /// The network's input, into the chip's layout.
    Input,
}

/// A tensor that a kernel reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes, padding of channels counted.
    pub bytes: u64,
    /// Bits of an element.
    pub bits: u64,
    /// Bytes the chip has moved since the tensor was last touched; `u64::MAX` if it comes from outside, as weights do.
    pub distance: u64,
    /// Whether dense convolutions make it and only dense convolutions read it.
    pub chained: bool,
}

/// One launch.
#[derive(Debug, Clone, PartialEq)]
pub struct Kernel {
    /// Name: that of its first node.
    pub name: String,
    /// Kind of work.
    pub op: Op,
    /// Names of the nodes that run in it.
    pub nodes: Vec<String>,
    /// The Conv, ConvTranspose, Gemm or MatMul node with a constant weight, if it has one.
    pub layer: Option<String>,
    /// Precision of its products.
    pub precision: Precision,
    /// Work of the cube, if any.
    pub cube: Option<Cube>,
    /// Work of the vector unit.
    pub vector: Vector,
    /// How it touches memory.
    pub access: Access,
    /// Tensors read.
    pub reads: Vec<Traffic>,
    /// Tensors written.
    pub writes: Vec<Traffic>,
}

impl Kernel {
    /// Bytes read and written.
    pub fn bytes(&self) -> u64 {
        self.reads.iter().chain(&self.writes).map(|t| t.bytes).fold(0, u64::saturating_add)
    }
}

/// Marks the products of the nodes named as having weights with 4:2 sparsity.
pub fn mark_sparse(kernels: &mut [Kernel], sparse: &BTreeSet<String>) {
    let named = kernels.iter_mut().filter(|k| k.layer.as_ref().is_some_and(|l| sparse.contains(l)));
    named.filter_map(|k| k.cube.as_mut()).for_each(|c| c.sparse = true);
}

/// `n` rounded up to a multiple of `unit`.
pub(super) fn pad(n: u64, unit: u64) -> u64 {
    n.div_ceil(unit).saturating_mul(unit)
}
