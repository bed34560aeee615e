//! Rounding of weights: to the nearest integer, or so that the layer's output changes least.
//!
//! With the Gram matrix H of the layer's inputs the error of a row is (w − s·q) H (w − s·q)ᵀ. GPTQ (Frantar et al., 2022, arXiv 2210.17323)
//! rounds column by column and lets the columns that follow make up for it; afterwards every integer is moved to where the
//! error is least with all others fixed, until none moves: the discrete form of what AdaRound (Nagel et al., 2020, arXiv 2004.10568)
//! relaxes and trains.

use faer::Mat;
use ndarray::{Array2, ArrayD, ArrayView1, ArrayView2, s};

use super::{
    factor::{Factor, by_weight, damped, entry},
    scale::{limits, round, scale},
};
use crate::{
    compress::cache::Shelved,
    compress::calibrate::{Block, Gram},
    spec::{Round, WeightRule},
};

/// Sweeps over the columns at most.
const SWEEPS: usize = 30;

/// A weight to be rounded, as the matrix (outputs × inputs·kernel).
#[derive(Debug, Clone, Copy)]
pub struct Weight<'a> {
    /// The matrix.
    pub matrix: &'a Array2<f32>,
    /// Whether each row has a scale of its own.
    pub per_row: bool,
    /// Bits.
    pub bits: u32,
    /// How scales are chosen.
    pub rule: WeightRule,
    /// How integers are chosen.
    pub round: Round,
    /// Moments of the inputs; without them integers are the nearest.
    pub gram: Option<&'a Gram>,
    /// Mean square of what rounding adds to each input.
    pub noise: f64,
    /// Whether a bias takes up the change of the mean, so that only the rest counts.
    pub centred: bool,
    /// Whether entries that are exactly 0 stay 0, as those of a 4:2 sparse weight must.
    pub keeps_zeros: bool,
}

/// Integers and their scales.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounding {
    /// Integers (outputs × inputs·kernel).
    pub integers: Array2<f32>,
    /// Scale of each row.
    pub scales: Vec<f32>,
}

impl Rounding {
    /// The weights that the integers stand for.
    pub fn values(&self) -> Array2<f32> {
        self.values_with(1.0)
    }

    /// The weights with the step of the activations in them: each integer times s_x·s_w, the scale the chip dequantizes with,
    /// so that no weight is rounded twice.
    pub fn values_with(&self, step: f32) -> Array2<f32> {
        let mut values = self.integers.clone();
        values.rows_mut().into_iter().zip(&self.scales).for_each(|(mut row, s)| row.mapv_inplace(|q| q * (step * s)));
        values
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        4 * (self.integers.len() + self.scales.len())
    }
}

impl Shelved for Rounding {
    fn to_arrays(&self) -> Vec<ArrayD<f32>> {
        vec![self.integers.clone().into_dyn(), ndarray::Array1::from(self.scales.clone()).into_dyn()]
    }

    fn from_arrays(arrays: Vec<ArrayD<f32>>) -> Option<Self> {
        let [integers, scales] = arrays.as_slice() else { return None };
        Some(Self { integers: integers.clone().into_dimensionality().ok()?, scales: scales.iter().copied().collect() })
    }
}

/// Chooses scales and integers.
pub fn quantize_weight(weight: &Weight<'_>) -> Rounding {
    let w = weight.matrix.mapv(f64::from);
    let rows = w.nrows();
    let groups = weight.gram.map_or(1, |g| g.groups.len()).max(1);
    let per_group = rows.div_ceil(groups).max(1);
    let blocks = |row: usize| weight.gram.and_then(|g| g.groups.get(row / per_group)).map_or(&[][..], Vec::as_slice);
    let moments: Vec<Vec<f64>> = (0..groups).map(|g| diagonal(blocks(g * per_group), weight)).collect();
    let known = |row: usize| moments.get(row / per_group).filter(|m| m.len() == w.ncols()).map(Vec::as_slice);
    let list: Vec<(ArrayView1<'_, f64>, Option<&[f64]>)> = (0..rows).map(|r| (w.row(r), known(r))).collect();
    let mut scales: Vec<f64> = if weight.per_row {
        list.iter().map(|row| scale(std::slice::from_ref(row), weight.bits, weight.rule)).collect()
    } else {
        vec![scale(&list, weight.bits, weight.rule); rows]
    };
    let mut integers = Array2::zeros(w.dim());
    for (r, mut row) in integers.rows_mut().into_iter().enumerate() {
        nearest(w.row(r), scales[r], weight.bits).zip(row.iter_mut()).for_each(|(q, slot)| *slot = q);
    }
    if weight.round != Round::Nearest {
        for (g, from) in (0..rows).step_by(per_group).enumerate() {
            let to = (from + per_group).min(rows);
            for block in weight.gram.and_then(|gram| gram.groups.get(g)).into_iter().flatten() {
                let columns = block.columns();
                if columns.end > w.ncols() {
                    continue;
                }
                let h = damped(block, weight.gram.map_or(1, |gram| gram.count), weight.noise, weight.centred);
                let part = w.slice(s![from..to, columns.clone()]);
                let whole = block.mean.len() == w.ncols();
                let mut target = integers.slice_mut(s![from..to, columns]);
                reconstruct(part, &mut target, &mut scales[from..to], &h, weight, whole);
            }
        }
    }
    Rounding { integers: integers.mapv(|q| q as f32), scales: scales.into_iter().map(|s| s as f32).collect() }
}

fn nearest(row: ArrayView1<'_, f64>, s: f64, bits: u32) -> impl Iterator<Item = f64> {
    let (low, high) = limits(bits);
    row.into_iter().map(move |&w| round(w / s).clamp(low, high))
}

/// Mean squares of the inputs of a group, column by column.
fn diagonal(blocks: &[Block], weight: &Weight<'_>) -> Vec<f64> {
    let of = |b: &Block| (0..b.mean.len()).map(|i| (entry(b, i, i, weight.centred) + weight.noise).max(0.0)).collect::<Vec<_>>();
    let all: Vec<f64> = blocks.iter().flat_map(of).collect();
    // An input that was never seen still has its weight rounded with care.
    let floor = 1e-4 * all.iter().sum::<f64>() / all.len().max(1) as f64;
    if floor > 0.0 { all.into_iter().map(|v| v.max(floor)).collect() } else { Vec::new() }
}

/// Chooses the integers of some rows over the columns of one block.
fn reconstruct(
    w: ArrayView2<'_, f64>,
    integers: &mut ndarray::ArrayViewMut2<'_, f64>,
    scales: &mut [f64],
    h: &Array2<f64>,
    weight: &Weight<'_>,
    whole: bool,
) {
    let Some(factor) = Factor::of(h, by_weight(h)) else { return };
    for (r, s) in scales.iter().enumerate() {
        let row = w.row(r).to_vec();
        let rounded = factor.round(&row, *s, weight.bits, weight.keeps_zeros);
        // What is passed on to a weight that stays 0 is lost in part, so that the nearest can be nearer.
        if weight.keeps_zeros && loss(&row, &rounded, *s, h) > loss(&row, &integers.row(r).to_vec(), *s, h) {
            continue;
        }
        integers.row_mut(r).iter_mut().zip(rounded).for_each(|(slot, q)| *slot = q);
    }
    if weight.round == Round::Gptq {
        return;
    }
    let (hw, hq) = (product(&w, h), product(&integers.view(), h));
    for (r, s) in scales.iter_mut().enumerate() {
        let of_row = |m: &Mat<f64>| -> Vec<f64> { (0..h.nrows()).map(|c| m[(r, c)]).collect() };
        let (hw, hq) = (of_row(&hw), of_row(&hq));
        let g = hw.iter().zip(&hq).map(|(hw, hq)| hw - *s * hq).collect();
        let (row, q) = (w.row(r).to_vec(), integers.row(r).to_vec());
        let mut state = Descent { row, q, g, s: *s, bits: weight.bits, keeps_zeros: weight.keeps_zeros };
        state.refine(h);
        if weight.per_row && whole {
            state.fit_scale(h, &hw);
        }
        *s = state.s;
        integers.row_mut(r).iter_mut().zip(state.q).for_each(|(slot, q)| *slot = q);
    }
}

/// (w − s·q) H (w − s·q)ᵀ.
fn loss(w: &[f64], q: &[f64], s: f64, h: &Array2<f64>) -> f64 {
    let e: Vec<f64> = w.iter().zip(q).map(|(w, q)| w - s * q).collect();
    h.rows().into_iter().zip(&e).map(|(h, own)| own * h.iter().zip(&e).map(|(h, e)| h * e).sum::<f64>()).sum()
}

/// (rows × n) times the symmetric (n × n).
fn product(rows: &ArrayView2<'_, f64>, h: &Array2<f64>) -> Mat<f64> {
    let n = h.nrows();
    let left = Mat::from_fn(rows.nrows(), n, |i, j| rows[[i, j]]);
    let right = Mat::from_fn(n, n, |i, j| h[[i, j]]);
    let mut out = Mat::zeros(rows.nrows(), n);
    faer::linalg::matmul::matmul(out.as_mut(), faer::Accum::Replace, &left, &right, 1.0, faer::Par::Seq);
    out
}

/// The integers of a row on their way down.
#[derive(Clone)]
struct Descent {
    row: Vec<f64>,
    q: Vec<f64>,
    /// H (w − s·q).
    g: Vec<f64>,
    s: f64,
    bits: u32,
    keeps_zeros: bool,
}

impl Descent {
    /// Moves each integer to where the error is least with the others fixed, until none moves.
    fn refine(&mut self, h: &Array2<f64>) {
        let (low, high) = limits(self.bits);
        let Some(h) = h.as_slice() else { return };
        let n = self.row.len();
        for _ in 0..SWEEPS {
            let mut moved = false;
            for j in 0..n {
                let line = &h[j * n..(j + 1) * n];
                let hjj = line[j];
                if hjj <= 0.0 || (self.keeps_zeros && self.row[j] == 0.0) {
                    continue;
                }
                let wanted = (self.q[j] + round(self.g[j] / (self.s * hjj))).clamp(low, high);
                let step = (wanted - self.q[j]) * self.s;
                // A tie is no gain: without this the descent could go round in circles.
                if step == 0.0 || step * (step * hjj - 2.0 * self.g[j]) >= 0.0 {
                    continue;
                }
                self.q[j] = wanted;
                self.g.iter_mut().zip(line).for_each(|(g, h)| *g -= h * step);
                moved = true;
            }
            if !moved {
                break;
            }
        }
    }

    /// (w − s·q) H (w − s·q)ᵀ.
    fn error(&self) -> f64 {
        self.row.iter().zip(&self.q).zip(&self.g).map(|((w, q), g)| (w - self.s * q) * g).sum()
    }

    /// Alternates between the best scale for the integers and the best integers for the scale while that helps; `hw` is H w.
    fn fit_scale(&mut self, h: &Array2<f64>, hw: &[f64]) {
        for _ in 0..4 {
            let hq: Vec<f64> = hw.iter().zip(&self.g).map(|(hw, g)| (hw - g) / self.s).collect();
            let dot = |v: &[f64]| -> f64 { v.iter().zip(&hq).map(|(v, h)| v * h).sum() };
            let fitted = f64::from((dot(&self.row) / dot(&self.q)) as f32);
            if !(fitted.is_finite() && fitted > f64::from(f32::EPSILON)) {
                return;
            }
            let g = hw.iter().zip(&hq).map(|(hw, hq)| hw - fitted * hq).collect();
            let mut next = Self { s: fitted, g, ..self.clone() };
            next.refine(h);
            if next.error() >= self.error() * (1.0 - 1e-3) {
                return;
            }
            *self = next;
        }
    }
}
