//! Low-rank decomposition: one layer becomes two or three.
//!
//! A weight is a matrix (outputs × inputs·taps), columns input channel by input channel, taps of a channel together. It is split
//!
//! - by **channel**: k×k to r channels, then 1×1; two products for a matrix (`low_rank.rs`);
//! - **spatially**: k×1 to r channels, then 1×k, or the other way round as AMCT does (`spatial.rs`);
//! - by **Tucker-2**: 1×1, k×k, 1×1 (`tucker.rs`).
//!
//! With the moments of the inputs the outputs are what is kept; without, the weights.

mod low_rank;
mod spatial;
mod tucker;

use ndarray::{Array2, ArrayD, IxDyn, concatenate, s};

pub use low_rank::LowRank;

use super::calibrate::{Block, Gram};
use crate::{device::Split, error::Result, graph::layer::Layer, space::amct};

/// How the columns of a weight lie: what is left of a layer's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Convolution groups.
    pub groups: usize,
    /// Input channels of a group.
    pub cin: usize,
    /// Output channels of a group.
    pub cout: usize,
    /// Taps along the height of a 2-D window, or all taps of others.
    pub kh: usize,
    /// Taps along the width of a 2-D window, else 1.
    pub kw: usize,
}

impl Geometry {
    /// Of a layer with so many channels in and out.
    pub fn of(layer: &Layer, (inputs, outputs): (usize, usize)) -> Self {
        let (kh, kw) = match layer.weight_dims[..] {
            [_, _, kh, kw] if layer.op.is_convolution() => (kh, kw),
            _ if layer.op.is_convolution() => (layer.weight_dims[2..].iter().product(), 1),
            _ => (1, 1),
        };
        let groups = if layer.groups > 1 { (outputs * layer.groups / layer.channels_out.max(1)).max(1) } else { 1 };
        let cin = if layer.groups > 1 { layer.channels_in / layer.groups } else { inputs };
        Self { groups, cin, cout: outputs / groups, kh, kw }
    }

    /// Taps of the window.
    pub const fn taps(&self) -> usize {
        self.kh * self.kw
    }

    /// Whether the first of two spatial parts runs along the height.
    pub fn vertical_first(&self) -> bool {
        amct::vertical_first(self.cout, self.cin, self.kh, self.kw)
    }

    /// A split with its ranks capped to what is left.
    pub fn capped(&self, split: Split) -> Split {
        let cap = |rank: u64, most: usize| rank.min(most.max(1) as u64);
        let (first, second) = if self.vertical_first() { (self.kh, self.kw) } else { (self.kw, self.kh) };
        match split {
            Split::Channel { rank } => Split::Channel { rank: cap(rank, self.cout.min(self.cin * self.taps())) },
            Split::Spatial { rank } => Split::Spatial { rank: cap(rank, (self.cin * first).min(self.cout * second)) },
            Split::Tucker { input, output } => Split::Tucker { input: cap(input, self.cin), output: cap(output, self.cout) },
        }
    }

    /// Windows (height, width) and channels (in and out, of a group) of the parts of a capped split.
    pub fn parts(&self, split: Split) -> Vec<(usize, usize, usize, usize)> {
        let n = |v: u64| usize::try_from(v).unwrap_or(usize::MAX);
        match split {
            Split::Channel { rank } => vec![(self.kh, self.kw, self.cin, n(rank)), (1, 1, n(rank), self.cout)],
            Split::Spatial { rank } if self.vertical_first() => {
                vec![(self.kh, 1, self.cin, n(rank)), (1, self.kw, n(rank), self.cout)]
            }
            Split::Spatial { rank } => vec![(1, self.kw, self.cin, n(rank)), (self.kh, 1, n(rank), self.cout)],
            Split::Tucker { input, output } => {
                vec![(1, 1, self.cin, n(input)), (self.kh, self.kw, n(input), n(output)), (1, 1, n(output), self.cout)]
            }
        }
    }
}

/// Finds or makes the decomposition of a weight by channel, by the moments of its columns if they are given.
pub type FindOrMake<'a> = dyn Fn(&Array2<f32>, Option<(&Gram, bool)>) -> Result<std::sync::Arc<LowRank>> + 'a;

/// The parts of a weight (outputs × inputs·taps), each as such a matrix of its own, for a capped split. With moments of the columns they keep the
/// outputs, else the weight. `low` finds or makes the decomposition of a group's weight by channel.
///
/// # Errors
/// If an iteration does not converge, as with values that are not finite.
pub fn decompose(
    weight: &Array2<f32>,
    geometry: Geometry,
    split: Split,
    inputs: Option<(&Gram, bool)>,
    low: &FindOrMake<'_>,
) -> Result<Vec<Array2<f32>>> {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    match split {
        Split::Channel { rank } => {
            let (mut first, mut last) = (Vec::new(), Vec::new());
            for g in 0..geometry.groups {
                let rows = weight.slice(s![g * geometry.cout..(g + 1) * geometry.cout, ..]).to_owned();
                let own = inputs.and_then(|(gram, centred)| Some((of_group(gram, g)?, centred)));
                let (left, right) = low(&rows, own.as_ref().map(|(gram, centred)| (gram, *centred)))?.factors(number(rank));
                first.push(right);
                last.push(left);
            }
            Ok(vec![stacked(&first), stacked(&last)])
        }
        Split::Spatial { rank } => spatial::split(weight, geometry, number(rank), inputs),
        Split::Tucker { input, output } => tucker::split(weight, geometry, (number(input), number(output)), inputs, low),
    }
}

fn of_group(gram: &Gram, group: usize) -> Option<Gram> {
    Some(Gram { groups: vec![gram.groups.get(group)?.clone()], count: gram.count })
}

fn stacked(parts: &[Array2<f32>]) -> Array2<f32> {
    let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
    concatenate(ndarray::Axis(0), &views).unwrap_or_else(|_| parts.first().cloned().unwrap_or_default())
}

/// The matrix (columns of part n × columns of the layer) through which the columns that part n reads come from those that the layer reads; none for
/// the first part, and for grouped convolutions. With all parts given and n their number, the weight that they are together.
pub fn through(parts: &[Array2<f32>], geometry: Geometry, split: Split, n: usize) -> Option<Array2<f32>> {
    let whole = n == parts.len();
    match (split, n) {
        (_, 0) => None,
        (Split::Channel { .. }, _) if whole => Some(of_groups(&parts[1], &parts[0], geometry)),
        (Split::Channel { .. }, _) => (geometry.groups == 1).then(|| parts[0].clone()),
        (Split::Spatial { .. }, _) => {
            let windows = spatial::windows(&parts[0], geometry);
            Some(if whole { parts[1].dot(&windows) } else { windows })
        }
        (Split::Tucker { .. }, _) => {
            let inner = tucker::windows(&parts[0], geometry.taps());
            match n {
                1 => Some(inner),
                2 => Some(parts[1].dot(&inner)),
                _ => Some(parts[2].dot(&parts[1].dot(&inner))),
            }
        }
    }
}

fn of_groups(left: &Array2<f32>, right: &Array2<f32>, geometry: Geometry) -> Array2<f32> {
    let rank = left.ncols();
    let product =
        |g: usize| left.slice(s![g * geometry.cout..(g + 1) * geometry.cout, ..]).dot(&right.slice(s![g * rank..(g + 1) * rank, ..]));
    stacked(&(0..geometry.groups).map(product).collect::<Vec<_>>())
}

/// Moments of the columns that part n reads, from those of what is left of the layer's columns; none where they cannot be known.
pub fn of_part(gram: &Gram, parts: &[Array2<f32>], geometry: Geometry, split: Split, n: usize) -> Option<Gram> {
    if n == 0 { of_first(gram, geometry, split) } else { gram.through(&through(parts, geometry, split, n)?) }
}

/// Moments of what the first part of a split layer reads, where its windows are narrower than the layer's: the mean over the positions of the window
/// that are no more there.
fn of_first(gram: &Gram, geometry: Geometry, split: Split) -> Option<Gram> {
    let [blocks] = gram.groups.as_slice() else { return matches!(split, Split::Channel { .. }).then(|| gram.clone()) };
    let [block] = blocks.as_slice() else { return matches!(split, Split::Channel { .. }).then(|| gram.clone()) };
    // Taps (of the layer) that stand for the taps of the part, one list for each position of it.
    let (kh, kw) = (geometry.kh, geometry.kw);
    let lists: Vec<Vec<usize>> = match split {
        Split::Channel { .. } => return Some(gram.clone()),
        Split::Spatial { .. } if geometry.vertical_first() => (0..kw).map(|j| (0..kh).map(|i| i * kw + j).collect()).collect(),
        Split::Spatial { .. } => (0..kh).map(|i| (0..kw).map(|j| i * kw + j).collect()).collect(),
        Split::Tucker { .. } => (0..kh * kw).map(|t| vec![t]).collect(),
    };
    Some(Gram { groups: vec![vec![averaged(block, geometry, &lists)]], count: gram.count })
}

/// Moments of the columns (channel, tap of the list), averaged over lists of taps of equal length.
fn averaged(block: &Block, geometry: Geometry, lists: &[Vec<usize>]) -> Block {
    let taps = lists.first().map_or(0, Vec::len);
    let n = geometry.cin * taps;
    let share = 1.0 / lists.len().max(1) as f64;
    let mut out = Block { start: 0, matrix: Array2::zeros((n, n)), mean: vec![0.0; n] };
    for list in lists {
        let at: Vec<usize> = (0..n).map(|i| i / taps * geometry.taps() + list[i % taps]).collect();
        for i in 0..n {
            out.mean[i] += share * block.mean[at[i]];
            (0..n).for_each(|j| out.matrix[[i, j]] += share * block.matrix[[at[i], at[j]]]);
        }
    }
    out
}

/// A weight as the matrix (outputs × rest), given the axis of its outputs.
pub fn as_matrix(weight: &ArrayD<f32>, out_axis: usize) -> Array2<f32> {
    let outputs = weight.shape()[out_axis];
    let rest = weight.len() / outputs.max(1);
    let mut axes: Vec<usize> = (0..weight.ndim()).collect();
    axes.remove(out_axis);
    axes.insert(0, out_axis);
    let values: Vec<f32> = weight.view().permuted_axes(IxDyn(&axes)).iter().copied().collect();
    Array2::from_shape_vec((outputs, rest), values).unwrap_or_else(|_| unreachable!("a permutation keeps the size"))
}
