//! The inputs of one output of a layer as a column of numbers (im2col): what its weight, as a matrix, is multiplied with.

use ndarray::ArrayViewD;

use crate::graph::{
    layer::{Layer, LayerOp},
    model::{ints_attribute, string_attribute},
    proto::NodeProto,
};

/// One spatial axis of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Axis {
    kernel: usize,
    stride: usize,
    dilation: usize,
    /// Zeros before the input; none for what makes input and output as many (`SAME_UPPER` false, `SAME_LOWER` true).
    pad: Option<(usize, usize)>,
    low: bool,
}

/// How a layer's inputs become columns.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Windows {
    axes: Vec<Axis>,
    transposed: bool,
    /// Convolution groups, each with columns of its own.
    pub groups: usize,
    /// Input channels of a group.
    pub channels: usize,
    /// Taps of the kernel.
    pub taps: usize,
}

impl Windows {
    /// The windows of a layer; none where a layer's inputs cannot be read as columns.
    pub fn of(layer: &Layer, node: &NodeProto) -> Option<Self> {
        if layer.slot == 0 || layer.transposed_input || layer.is_batched() {
            return None;
        }
        let transposed = layer.op == LayerOp::ConvTranspose;
        if transposed && (layer.groups > 1 || ints_attribute(node, "output_shape").is_some()) {
            return None;
        }
        let kernel = if layer.op.is_convolution() { layer.weight_dims.get(2..)? } else { &[] };
        let list = |name: &str, default: i64, n: usize| ints_attribute(node, name).unwrap_or_else(|| vec![default; n]);
        let n = kernel.len();
        let (strides, dilations) = (list("strides", 1, n), list("dilations", 1, n));
        let auto = string_attribute(node, "auto_pad", "NOTSET");
        let pads = if auto == "VALID" { vec![0; 2 * n] } else { list("pads", 0, 2 * n) };
        let axis = |i: usize| -> Option<Axis> {
            let size = |v: i64| usize::try_from(v).ok();
            let (stride, dilation) = (size(*strides.get(i)?)?.max(1), size(*dilations.get(i)?)?.max(1));
            let pad = match auto.starts_with("SAME") {
                true if transposed => return None,
                true => None,
                false => Some((size(*pads.get(i)?)?, size(*pads.get(i + n)?)?)),
            };
            Some(Axis { kernel: kernel[i], stride, dilation, pad, low: auto == "SAME_LOWER" })
        };
        let axes = (0..n).map(axis).collect::<Option<Vec<_>>>()?;
        let channels = layer.channels_in / layer.groups.max(1);
        Some(Self { axes, transposed, groups: layer.groups, channels, taps: kernel.iter().product() })
    }

    /// The same windows over other channels.
    pub fn over(&self, groups: usize, channels: usize) -> Self {
        Self { groups, channels, ..self.clone() }
    }

    /// Length of a group's column.
    pub const fn columns(&self) -> usize {
        self.channels * self.taps
    }

    /// Output positions of one sample of this shape (channels first), or rows of the whole array for a matrix product.
    pub fn positions(&self, dims: &[usize]) -> usize {
        if self.axes.is_empty() {
            return dims.split_last().map_or(0, |(_, rows)| rows.iter().product());
        }
        self.axes.iter().zip(dims.get(2..).unwrap_or(&[])).map(|(a, &n)| a.outputs(n, self.transposed)).product()
    }

    /// Whether positions are counted in each sample of a batch, and not over the whole array.
    pub const fn by_sample(&self) -> bool {
        !self.axes.is_empty()
    }

    /// The column of a position, all groups one after the other, added to `out`. What lies in the padding is 0.
    pub fn column(&self, array: &ArrayViewD<'_, f32>, sample: usize, position: usize, out: &mut Vec<f32>) {
        let dims = array.shape();
        let Some(data) = array.as_slice() else { return };
        let all = self.groups * self.channels;
        if self.axes.is_empty() {
            out.extend_from_slice(&data[position * all..(position + 1) * all]);
            return;
        }
        let spatial = &dims[2..];
        let plane: usize = spatial.iter().product();
        let offsets = self.offsets(spatial, position);
        let from = out.len();
        out.resize(from + all * self.taps, 0.0);
        for (c, taps) in out[from..].chunks_exact_mut(self.taps).enumerate() {
            let base = (sample * all + c) * plane;
            for (slot, offset) in taps.iter_mut().zip(&offsets) {
                if let Some(o) = offset {
                    *slot = data[base + o];
                }
            }
        }
    }

    /// Where each tap reads within a channel's plane; none in the padding.
    fn offsets(&self, spatial: &[usize], position: usize) -> Vec<Option<usize>> {
        let mut rest = position;
        let mut at = vec![0; self.axes.len()];
        for i in (0..self.axes.len()).rev() {
            let outputs = self.axes[i].outputs(spatial[i], self.transposed).max(1);
            at[i] = rest % outputs;
            rest /= outputs;
        }
        let mut offsets = vec![Some(0)];
        for (i, axis) in self.axes.iter().enumerate() {
            let reads: Vec<Option<usize>> = (0..axis.kernel).map(|k| axis.reads(spatial[i], at[i], k, self.transposed)).collect();
            let next = |before: &Option<usize>| {
                let base = before.map(|b| b * spatial[i]);
                reads.iter().map(|read| Some(base? + (*read)?)).collect::<Vec<_>>()
            };
            offsets = offsets.iter().flat_map(next).collect();
        }
        offsets
    }
}

impl Axis {
    fn span(&self) -> usize {
        self.dilation * (self.kernel.max(1) - 1) + 1
    }

    fn pads(&self, n: usize) -> (usize, usize) {
        self.pad.unwrap_or_else(|| {
            let whole = ((n.div_ceil(self.stride).max(1) - 1) * self.stride + self.span()).saturating_sub(n);
            let (less, more) = (whole / 2, whole - whole / 2);
            if self.low { (more, less) } else { (less, more) }
        })
    }

    fn outputs(&self, n: usize, transposed: bool) -> usize {
        let (before, after) = self.pads(n);
        if transposed {
            return (self.stride * (n.max(1) - 1) + self.span()).saturating_sub(before + after);
        }
        (n + before + after).checked_sub(self.span()).map_or(0, |room| room / self.stride + 1)
    }

    /// The input that tap k of output `o` reads.
    fn reads(&self, n: usize, o: usize, k: usize, transposed: bool) -> Option<usize> {
        let before = self.pads(n).0;
        let read = if transposed {
            let t = (o + before).checked_sub(k * self.dilation)?;
            t.is_multiple_of(self.stride).then_some(t / self.stride)?
        } else {
            (o * self.stride + k * self.dilation).checked_sub(before)?
        };
        (read < n).then_some(read)
    }
}
