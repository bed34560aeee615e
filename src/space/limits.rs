//! What each layer can take, and why not more.

use crate::{
    graph::{
        group::{Channels, Group},
        layer::{Layer, LayerOp},
    },
    precision::Precision,
    spec::Rank,
};

/// Channels and ranks come in multiples of this: the cube's padding unit for FP16 channels.
pub const UNIT: usize = 16;

/// Why a layer cannot run in a precision, if so: what AMCT and the chip's integer products take.
pub fn why_not_precision(layer: &Layer, precision: Precision) -> Option<String> {
    if precision == Precision::Fp16 {
        return None;
    }
    let never = match layer {
        l if l.shares_weight => Some("it shares its weight with another node"),
        l if l.slot == 0 => Some("the chip's integer product takes its constant on the right side"),
        l if l.is_batched() => Some("the chip's integer product takes one weight matrix, not a batch of them"),
        l if l.transposed_input => Some("the chip's integer product does not transpose its input (transA)"),
        l if l.deep_dilation => Some("the chip's 3-D integer convolution takes no dilation along the depth"),
        _ => None,
    };
    match precision {
        _ if never.is_some() => never.map(str::to_string),
        Precision::W8a16 if layer.op.is_convolution() => Some("weight-only quantization is for matrix products on Ascend".into()),
        Precision::W4a8 | Precision::Int4 if layer.groups > 1 => Some("4-bit weights need a convolution without groups".into()),
        Precision::W4a8 | Precision::Int4 if layer.channels_in % 2 == 1 => {
            Some(format!("4-bit weights need an even number of input channels, it has {}", layer.channels_in))
        }
        _ => None,
    }
}

/// Why no output channel of a layer can be removed, if so.
pub fn why_not_keep(layer: usize, channels: &Channels) -> Option<String> {
    match channels.group_of[layer] {
        None => Some("its channels could not be traced".into()),
        Some(g) => channels.groups[g].frozen.clone(),
    }
}

/// Units of one kind that stay at a keep share: rounded to a multiple of [`UNIT`] where there are more than two, at least one.
pub fn kept(units: usize, keep: f64) -> usize {
    let wanted = units as f64 * keep;
    let unit = if units > 2 * UNIT { UNIT } else { 1 };
    let rounded = (wanted / unit as f64).round() as usize * unit;
    rounded.clamp(1, units)
}

/// Units of a group that stay at a keep share.
pub fn kept_in_group(group: &Group, keep: f64) -> usize {
    group.kinds.iter().map(|k| kept(k.len(), keep)).sum()
}

/// Full rank of a layer's weight as an (outputs × inputs·kernel) matrix.
pub fn full_rank(layer: &Layer) -> usize {
    let size: usize = layer.weight_dims.iter().product();
    layer.channels_out.min(size / layer.channels_out.max(1))
}

/// A rank as a number of components: fractions of the full rank are rounded to multiples of [`UNIT`].
pub fn components(layer: &Layer, rank: Rank) -> usize {
    match rank {
        Rank::Full => full_rank(layer),
        Rank::Components(n) => n,
        Rank::Fraction(f) => {
            let wanted = full_rank(layer) as f64 * f;
            (((wanted / UNIT as f64).round() as usize) * UNIT).max(UNIT)
        }
    }
}

/// Weights of a layer split at a rank: the first factor has `rank` outputs, the second is a 1×1 layer.
pub fn decomposed_weights(layer: &Layer, rank: usize) -> usize {
    let size: usize = layer.weight_dims.iter().product();
    rank * (size / layer.channels_out.max(1) + layer.channels_out)
}

/// Why a layer cannot be split at a rank, if so.
pub fn why_not_rank(layer: &Layer, rank: usize) -> Option<String> {
    let size: usize = layer.weight_dims.iter().product();
    match layer.op {
        LayerOp::ConvTranspose => Some("transposed convolutions are not decomposed".into()),
        _ if layer.shares_weight => Some("it shares its weight with another node".into()),
        _ if layer.is_batched() => Some("a batch of matrices is not decomposed".into()),
        LayerOp::Conv if layer.groups > 1 => Some("grouped convolutions are not decomposed".into()),
        _ if rank == 0 || rank > full_rank(layer) => Some(format!("the rank must be from 1 to {}", full_rank(layer))),
        _ if decomposed_weights(layer, rank) >= size => {
            Some(format!("two layers of rank {rank} have {} weights, the layer itself {size}", decomposed_weights(layer, rank)))
        }
        _ => None,
    }
}
