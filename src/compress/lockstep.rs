//! Reconstruction layer by layer behind the layers already quantized.
//!
//! Samples go through the float and the quantized network side by side. Each layer is fitted to give what it gives in float from
//! the inputs x̂ that the quantized network really has, rounding of activations included: W' = (E\[y x̂ᵀ\] + λW)(E\[x̂ x̂ᵀ\] + λI)⁻¹, which
//! is then rounded by the same moments (the asymmetric calibration of GPTQ's followers, and the order of AdaRound). Where the layer's
//! output is added to another value, what that other value lost is made up for too.

use std::sync::Arc;

use faer::{
    Accum, Mat, MatRef, Par, Side,
    linalg::{matmul::matmul, solvers::Solve},
    prelude::ReborrowMut,
};
use ndarray::{Array2, ArrayD};

use super::{
    calibrate::{Block, Collector, Gram, Windows, positions},
    quantize::Grid,
    rebuild::mean_output,
    segment::Frontier,
};
use crate::graph::{Index, Model, layer::Layer};

/// Times that a fit in front of a ReLU is made again with what the ReLU lets through.
const RECTIFIED: usize = 3;
/// Bytes of columns and outputs that are kept from one fit of a layer to the next; more are read again.
const KEPT: usize = 256 << 20;

/// What a layer was fitted to.
pub(super) struct Fitted {
    /// The weight that gives the float outputs best, (outputs × inputs·kernel).
    pub(super) weight: Array2<f32>,
    /// Moments of the quantized network's inputs.
    pub(super) gram: Arc<Gram>,
    /// Mean of the outputs that are wanted, without the bias.
    pub(super) mean: Vec<f64>,
}

/// What a layer is to be fitted to.
pub(super) struct Wanted<'a> {
    /// The layer of the float network.
    pub(super) layer: &'a Layer,
    /// How its inputs become columns in the float and in the treated network.
    pub(super) windows: (&'a Windows, &'a Windows),
    /// The float weight (outputs wanted × columns of a float group).
    pub(super) weight: &'a Array2<f32>,
    /// The weight that is kept to where the samples say nothing (outputs wanted × columns of a treated group).
    pub(super) prior: &'a Array2<f32>,
    /// Which output channels are wanted.
    pub(super) rows: &'a [usize],
    /// Grid that the treated network's inputs are rounded to.
    pub(super) grid: Option<Grid>,
    /// A value added to the layer's output: what it lost is made up for.
    pub(super) beside: Option<&'a str>,
    /// Positions of each sample.
    pub(super) positions: usize,
    /// Whether a bias takes up the means.
    pub(super) centred: bool,
    /// Added to the diagonal: this share of its mean, and the same for each column that comes on one column seen.
    pub(super) ridge: (f64, f64),
    /// The biases, where a ReLU alone reads the outputs, or alone the sum with what is beside them: what it makes nothing of need not be met.
    pub(super) rectified: Option<&'a [f32]>,
}

/// What a batch of samples says of a layer.
struct Seen {
    /// Columns of the treated network's input, one after the other.
    x: Vec<f32>,
    /// Wanted outputs without the bias (columns × outputs), for each treated group.
    y: Vec<Mat<f32>>,
    /// What is added to the outputs before the ReLU that they go through, if they do: the bias and the other side of an Add.
    added: Vec<Mat<f32>>,
}

/// Fits a layer at the place that the samples have reached; none if it cannot be fitted.
pub(super) fn fit(frontier: &Frontier<'_>, wanted: &Wanted<'_>) -> Option<Fitted> {
    let treated = wanted.windows.1;
    let mut moments = Collector::new(treated.clone(), wanted.positions, treated.columns().max(1));
    let mut sums = Sums::new(wanted);
    let mut first = 0;
    let (mut kept, mut bytes) = (Vec::new(), 0);
    for b in 0..frontier.batches.len() {
        let begin = first;
        let seen = seen(frontier, wanted, b, &mut first)?;
        moments.push(&seen.x);
        sums.add(&seen.x, &seen.y, treated);
        bytes += seen.bytes();
        kept.push((begin, Some(seen).filter(|_| wanted.rectified.is_some() && bytes <= KEPT)));
    }
    let gram = moments.finish();
    if gram.count == 0 {
        return None;
    }
    let (mut weight, mut mean) = sums.solve(&gram, wanted)?;
    for _ in 0..if wanted.rectified.is_some() { RECTIFIED } else { 0 } {
        let shift: Vec<f64> = mean.iter().zip(mean_output(&weight, &gram)).map(|(wanted, given)| wanted - given).collect();
        let mut sums = Sums::new(wanted);
        for (b, (begin, kept)) in kept.iter().enumerate() {
            let again;
            let seen = match kept {
                Some(kept) => kept,
                None => {
                    again = seen(frontier, wanted, b, &mut begin.clone())?;
                    &again
                }
            };
            sums.add(&seen.x, &seen.relaxed(treated, &weight, &shift), treated);
        }
        (weight, mean) = sums.solve(&gram, wanted)?;
    }
    Some(Fitted { weight, gram: Arc::new(gram), mean })
}

/// Reads a batch; `first` is the number of its first sample.
fn seen(frontier: &Frontier<'_>, wanted: &Wanted<'_>, b: usize, first: &mut u64) -> Option<Seen> {
    let (float, treated) = wanted.windows;
    let rows = wanted.weight.nrows() / treated.groups.max(1);
    // Which of the float groups each group is: that of its first output.
    let of_group = |g: usize| wanted.rows.get(g * rows).map_or(g, |r| r * float.groups / (wanted.layer.channels_out.max(1)));
    let samples = frontier.batches[b].0;
    let (plain, other) = frontier.pair(b, &wanted.layer.input)?;
    let rounded = wanted.grid.map_or_else(|| other.clone(), |g| other.mapv(|v| g.fake(v)));
    let beside = wanted.beside.and_then(|v| frontier.pair(b, v));
    let (mut x, mut before) = (Vec::new(), Vec::new());
    let at = positions(treated, rounded.shape(), samples, wanted.positions, *first);
    *first += samples as u64;
    for &(sample, position) in &at {
        float.column(&plain.view(), sample, position, &mut before);
        treated.column(&rounded.view(), sample, position, &mut x);
    }
    let n = at.len();
    let (mut targets, mut added) = (Vec::new(), Vec::new());
    for g in 0..treated.groups {
        let w: Vec<f32> = wanted.weight.rows().into_iter().skip(g * rows).take(rows).flat_map(|r| r.to_vec()).collect();
        let w = MatRef::from_row_major_slice(&w, rows, float.columns());
        let mut y = Mat::<f32>::zeros(n, rows);
        matmul(y.rb_mut(), Accum::Replace, columns(&before, n, of_group(g), float), w.transpose(), 1.0, Par::Seq);
        let mut extra = Mat::from_fn(n, rows, |_, r| wanted.rectified.and_then(|b| b.get(g * rows + r)).copied().unwrap_or(0.0));
        if let Some((plain, other)) = beside {
            for (i, &(sample, position)) in at.iter().enumerate() {
                for r in 0..rows {
                    let row = g * rows + r;
                    let now = output(other, treated, sample, position, row);
                    y[(i, r)] += output(plain, float, sample, position, wanted.rows[row]) - now;
                    extra[(i, r)] += now;
                }
            }
        }
        targets.push(y);
        added.push(extra);
    }
    Some(Seen { x, y: targets, added })
}

/// The columns of a group (samples × columns).
fn columns<'a>(values: &'a [f32], n: usize, group: usize, windows: &Windows) -> MatRef<'a, f32> {
    let (width, all) = (windows.columns(), windows.groups * windows.columns());
    MatRef::from_row_major_slice(values, n, all).subcols(group * width, width)
}

impl Seen {
    fn bytes(&self) -> usize {
        let outputs = self.y.iter().chain(&self.added).map(|m| m.nrows() * m.ncols()).sum::<usize>();
        (self.x.len() + outputs) * size_of::<f32>()
    }

    /// The wanted outputs where a ReLU follows. What it makes nothing of in float may be any value that it makes nothing of: what the fitted
    /// weight gives, if that is below zero, else zero (Zhang et al. 2015, arXiv 1505.06798, solve the same problem with a penalty).
    fn relaxed(&self, treated: &Windows, weight: &Array2<f32>, shift: &[f64]) -> Vec<Mat<f32>> {
        let relaxed = |(g, (y, added)): (usize, (&Mat<f32>, &Mat<f32>))| {
            let (n, rows) = (y.nrows(), y.ncols());
            let w: Vec<f32> = weight.rows().into_iter().skip(g * rows).take(rows).flat_map(|r| r.to_vec()).collect();
            let mut given = Mat::<f32>::zeros(n, rows);
            let w = MatRef::from_row_major_slice(&w, rows, treated.columns());
            matmul(given.rb_mut(), Accum::Replace, columns(&self.x, n, g, treated), w.transpose(), 1.0, Par::Seq);
            for r in 0..rows {
                let shift = shift[g * rows + r] as f32;
                for i in 0..n {
                    let (y, extra) = (y[(i, r)], added[(i, r)]);
                    given[(i, r)] = if y + extra <= 0.0 { (given[(i, r)] + shift + extra).min(0.0) - extra } else { y };
                }
            }
            given
        };
        self.y.iter().zip(&self.added).enumerate().map(relaxed).collect()
    }
}

/// Sums over the samples.
struct Sums {
    /// Σ y x̂ᵀ.
    cross: Array2<f64>,
    /// Σ y.
    mean: Vec<f64>,
}

impl Sums {
    fn new(wanted: &Wanted<'_>) -> Self {
        let outputs = wanted.weight.nrows();
        Self { cross: Array2::zeros((outputs, wanted.windows.1.columns())), mean: vec![0.0; outputs] }
    }

    /// Adds columns of the treated network's input and, for each group, the outputs wanted of them (columns × outputs).
    fn add(&mut self, x: &[f32], wanted: &[Mat<f32>], treated: &Windows) {
        for (g, y) in wanted.iter().enumerate() {
            let (n, rows) = (y.nrows(), y.ncols());
            let mut product = Mat::<f32>::zeros(rows, treated.columns());
            matmul(product.rb_mut(), Accum::Replace, y.transpose(), columns(x, n, g, treated), 1.0, Par::Seq);
            for r in 0..rows {
                self.mean[g * rows + r] += y.col(r).iter().map(|&v| f64::from(v)).sum::<f64>();
                (0..treated.columns()).for_each(|c| self.cross[[g * rows + r, c]] += f64::from(product[(r, c)]));
            }
        }
    }

    /// The weight that fits, and the means of what is wanted.
    fn solve(mut self, gram: &Gram, wanted: &Wanted<'_>) -> Option<(Array2<f32>, Vec<f64>)> {
        let (n, treated) = (gram.count as f64, wanted.windows.1);
        let (to, rows) = (treated.columns(), wanted.weight.nrows() / treated.groups.max(1));
        self.mean.iter_mut().for_each(|m| *m = if wanted.centred { *m / n } else { 0.0 });
        let mut fitted = Array2::zeros(wanted.prior.dim());
        for g in 0..treated.groups {
            let [block] = gram.groups.get(g)?.as_slice() else { return None };
            let centre = if wanted.centred { block.mean.clone() } else { vec![0.0; to] };
            let solved = solve(block, &centre, (n, wanted.ridge), rows, |r, c| {
                let r = g * rows + r;
                (self.cross[[r, c]] / n - self.mean[r] * centre[c], f64::from(wanted.prior[[r, c]]))
            })?;
            (0..rows).for_each(|r| (0..to).for_each(|c| fitted[[g * rows + r, c]] = solved[(c, r)] as f32));
        }
        Some((fitted, self.mean))
    }
}

/// (columns × rows) solution of (H + λI) X = (R + λW)ᵀ, with H and R about the centre.
fn solve(
    block: &Block,
    centre: &[f64],
    (seen, ridge): (f64, (f64, f64)),
    rows: usize,
    wanted: impl Fn(usize, usize) -> (f64, f64),
) -> Option<Mat<f64>> {
    let n = block.mean.len();
    let mut h = Mat::from_fn(n, n, |i, j| block.matrix[[i, j]] - centre[i] * centre[j]);
    let mean = (0..n).map(|i| h[(i, i)].max(0.0)).sum::<f64>() / n.max(1) as f64;
    let ridge = (ridge.0 + ridge.1 * n as f64 / seen) * mean.max(1e-30);
    (0..n).for_each(|i| h[(i, i)] += ridge);
    let right = Mat::from_fn(n, rows, |c, r| {
        let (product, weight) = wanted(r, c);
        product + ridge * weight
    });
    h.llt(Side::Lower).ok().map(|factor| factor.solve(&right))
}

/// An entry of a value that has the shape of a layer's output.
fn output(value: &ArrayD<f32>, windows: &Windows, sample: usize, position: usize, channel: usize) -> f32 {
    let shape = value.shape();
    let index = if windows.by_sample() {
        let plane: usize = shape[2..].iter().product();
        (sample * shape[1] + channel) * plane + position
    } else {
        position * shape[shape.len() - 1] + channel
    };
    value.as_slice().and_then(|v| v.get(index)).copied().unwrap_or(0.0)
}

/// The other operand of the Add that alone reads a layer's output, if its shape is that of the output and it is made before the layer.
pub(super) fn beside<'m>(model: &'m Model, index: &Index<'m>, layer: &Layer, dims: impl Fn(&str) -> Option<Vec<usize>>) -> Option<&'m str> {
    let graph = model.graph();
    if graph.output.iter().any(|o| o.name() == layer.output) {
        return None;
    }
    let add = index.sole_reader(&layer.output)?;
    let node = graph.node.get(add).filter(|n| n.op_type() == "Add")?;
    let other = node.input.iter().find(|v| **v != layer.output)?;
    let made = graph.node.iter().position(|n| n.output.contains(other));
    let before = made.map_or_else(|| model.inputs().any(|i| i.name() == other.as_str()), |m| m < layer.node);
    (before && dims(other).is_some() && dims(other) == dims(&layer.output)).then_some(other.as_str())
}

/// Biases of a layer whose means are made up for: the wanted mean less what the rounded weights give.
pub(super) fn biases(fitted: &Fitted, changed: &Array2<f32>, bias: &[f32]) -> Vec<f32> {
    let per_group = changed.nrows().div_ceil(fitted.gram.groups.len().max(1)).max(1);
    let of_row = |(r, b): (usize, &f32)| {
        let means = fitted.gram.means(r / per_group);
        let given: f64 = changed.row(r).iter().zip(means).map(|(w, m)| f64::from(*w) * m).sum();
        (f64::from(*b) + fitted.mean[r] - given) as f32
    };
    bias.iter().enumerate().map(of_row).collect()
}
