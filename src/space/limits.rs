//! What each layer can take, and why not more.

use super::amct;
use crate::{
    device::Split,
    error::Result,
    graph::{
        Model,
        group::{Channels, Group},
        layer::{Layer, LayerOp},
        model::ints_attribute,
        tensor,
    },
    precision::Precision,
    spec::{Form, Rank},
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

/// A share of a group's units at which a multiple of so many stay; the share itself where blocks of [`UNIT`] decide, and in small groups.
pub fn snapped(group: &Group, keep: f64, multiple: usize) -> f64 {
    let [units] = group.kinds.as_slice() else { return keep };
    if keep >= 1.0 || multiple <= UNIT || units.len() <= 2 * multiple {
        return keep;
    }
    let blocks = (units.len() as f64 * keep / multiple as f64).round() as usize;
    (blocks.max(1) * multiple).min(units.len()) as f64 / units.len() as f64
}

/// Units that go at once where a number is searched for: a block of the cube, of small groups a quarter.
pub const fn step(units: usize) -> usize {
    if units > 2 * UNIT {
        UNIT
    } else if units >= 8 {
        units / 4
    } else {
        1
    }
}

/// Units of a group that stay at a keep share.
pub fn kept_in_group(group: &Group, keep: f64) -> usize {
    group.kinds.iter().map(|k| kept(k.len(), keep)).sum()
}

/// Full rank of a layer's weight in a form: of the matrix that is cut, of each convolution group. Of Tucker-2, that of the outputs.
pub fn full_rank(layer: &Layer, form: Form) -> usize {
    let (cin, cout) = per_group(layer);
    match (form, window(layer)) {
        (Form::Spatial, Some((kh, kw))) if amct::vertical_first(cout, cin, kh, kw) => (cin * kh).min(cout * kw),
        (Form::Spatial, Some((kh, kw))) => (cin * kw).min(cout * kh),
        (Form::Tucker, _) => cout,
        _ => cout.min(cin * taps(layer)),
    }
}

/// Input and output channels of a convolution group.
fn per_group(layer: &Layer) -> (usize, usize) {
    let groups = layer.groups.max(1);
    (layer.channels_in / groups, layer.channels_out / groups)
}

/// Height and width of a 2-D convolution's window.
fn window(layer: &Layer) -> Option<(usize, usize)> {
    match layer.weight_dims[..] {
        [_, _, kh, kw] if layer.op == LayerOp::Conv => Some((kh, kw)),
        _ => None,
    }
}

fn taps(layer: &Layer) -> usize {
    if layer.op.is_convolution() { layer.weight_dims[2..].iter().product() } else { 1 }
}

/// What a rank means for a layer, in a form; none for the full rank and for layers that AMCT leaves whole. Fractions of the full rank are
/// rounded to multiples of [`UNIT`].
///
/// # Errors
/// If AMCT's choice is asked for and the weight cannot be read.
pub fn split(model: &Model, layer: &Layer, form: Form, rank: Rank) -> Result<Option<Split>> {
    let rounded = |full: usize, f: f64| ((full as f64 * f / UNIT as f64).round() as usize * UNIT).max(UNIT);
    let of = |input: usize, output: usize| match form {
        Form::Channel => Split::Channel { rank: output as u64 },
        Form::Spatial => Split::Spatial { rank: output as u64 },
        Form::Tucker => Split::Tucker { input: input as u64, output: output as u64 },
    };
    Ok(match rank {
        Rank::Full => None,
        Rank::Components(n) if form == Form::Tucker => Some(of(n.min(layer.channels_in), n.min(layer.channels_out))),
        Rank::Components(n) => Some(of(n, n)),
        Rank::Pair(input, output) => Some(Split::Tucker { input: input as u64, output: output as u64 }),
        Rank::Fraction(f) => Some(of(rounded(layer.channels_in, f), rounded(full_rank(layer, form), f))),
        Rank::Amct => amct_split(model, layer)?,
    })
}

/// AMCT's choice for a layer; none where it leaves it whole.
fn amct_split(model: &Model, layer: &Layer) -> Result<Option<Split>> {
    if layer.op != LayerOp::Conv || layer.weight_dims.len() != 4 {
        return Ok(None);
    }
    let weight = model.graph().initializer.iter().find(|t| t.name() == layer.weight);
    let Some(weight) = weight.filter(|t| tensor::has_data(t)) else { return Ok(None) };
    let node = &model.graph().node[layer.node];
    let list = |name: &str| ints_attribute(node, name).unwrap_or_else(|| vec![1, 1]);
    let rank = amct::split(&tensor::to_f32(weight)?, &list("strides"), &list("dilations"), layer.groups);
    Ok(rank.ok().map(|rank| Split::Spatial { rank: rank as u64 }))
}

/// The form of a split.
pub const fn form(split: Split) -> Form {
    match split {
        Split::Channel { .. } => Form::Channel,
        Split::Spatial { .. } => Form::Spatial,
        Split::Tucker { .. } => Form::Tucker,
    }
}

/// Weights of a split layer.
pub fn split_weights(layer: &Layer, split: Split) -> usize {
    let (cin, cout) = per_group(layer);
    let (kh, kw) = window(layer).unwrap_or((1, 1));
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX / (1 << 24));
    match split {
        Split::Channel { rank } => layer.groups.max(1) * number(rank) * (cin * taps(layer) + cout),
        Split::Spatial { rank } if amct::vertical_first(cout, cin, kh, kw) => number(rank) * (cin * kh + cout * kw),
        Split::Spatial { rank } => number(rank) * (cin * kw + cout * kh),
        Split::Tucker { input, output } => {
            let (input, output) = (number(input), number(output));
            cin * input + input * output * taps(layer) + output * cout
        }
    }
}

/// A split in words: its form, unless it is the plain one, and its ranks.
pub fn describe(split: Split) -> String {
    match split {
        Split::Channel { rank } => format!("rank {rank}"),
        Split::Spatial { rank } => format!("spatial rank {rank}"),
        Split::Tucker { input, output } => format!("tucker ranks {input} and {output}"),
    }
}

/// Why a layer cannot be split so, if that is the case.
pub fn why_not_split(layer: &Layer, split: Split) -> Option<String> {
    let size: usize = layer.weight_dims.iter().product();
    let (most, full) = match split {
        Split::Channel { rank } | Split::Spatial { rank } => (rank, full_rank(layer, form(split))),
        Split::Tucker { input, .. } if input == 0 || input > layer.channels_in as u64 => return Some(too_many(input, layer.channels_in)),
        Split::Tucker { output, .. } => (output, full_rank(layer, Form::Tucker)),
    };
    match layer.op {
        LayerOp::ConvTranspose => Some("transposed convolutions are not decomposed".into()),
        _ if layer.shares_weight => Some("it shares its weight with another node".into()),
        _ if layer.is_batched() => Some("a batch of matrices is not decomposed".into()),
        LayerOp::Conv if layer.is_depthwise() => Some("a depthwise convolution has nothing to decompose".into()),
        LayerOp::Conv if layer.groups > 1 && !matches!(split, Split::Channel { .. }) => {
            Some("of a grouped convolution only the form channel is possible".into())
        }
        _ if matches!(split, Split::Spatial { .. }) && window(layer).is_none_or(|(kh, kw)| kh < 2 || kw < 2) => {
            Some("the form spatial needs a 2-D convolution whose window is wider than 1 both ways".into())
        }
        _ if matches!(split, Split::Tucker { .. }) && taps(layer) < 2 => Some("the form tucker needs a convolution with a window".into()),
        _ if most == 0 || most > full as u64 => Some(too_many(most, full)),
        _ if split_weights(layer, split) >= size => {
            let parts = if matches!(split, Split::Tucker { .. }) { "three" } else { "two" };
            Some(format!("{parts} layers of {} have {} weights, the layer itself {size}", describe(split), split_weights(layer, split)))
        }
        _ => None,
    }
}

fn too_many(rank: u64, full: usize) -> String {
    format!("the rank must be from 1 to {full}, not {rank}")
}

/// Why two of four weights of a layer cannot be zero by pattern, if so.
pub fn why_not_sparse(layer: &Layer) -> Option<String> {
    match layer.op {
        LayerOp::ConvTranspose => Some("the chip's 4:2 products are those of convolutions and matrices".into()),
        _ if layer.shares_weight => Some("it shares its weight with another node".into()),
        _ if layer.is_batched() => Some("the chip's product takes one weight matrix, not a batch of them".into()),
        _ if layer.slot == 0 => Some("the chip's product takes its constant on the right side".into()),
        _ if layer.groups > 1 => Some("the pattern runs along input channels, of which a grouped convolution has few".into()),
        _ if layer.channels_in < 4 => Some(format!("the pattern takes four input channels, it has {}", layer.channels_in)),
        _ => None,
    }
}
