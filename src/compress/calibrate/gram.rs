//! Gram matrices H = E\[x xᵀ\] of the (im2col) inputs of layers, with which the error of any change of a weight is known
//! without running it: E‖ΔW x‖² = tr(ΔW H ΔWᵀ).

use faer::{
    Accum, MatMut, MatRef, Par,
    linalg::matmul::triangular::{BlockStructure, matmul},
};
use ndarray::{Array2, ArrayViewD};

use super::windows::Windows;

/// Rows gathered before they are multiplied: a fixed number, so that sums do not depend on the batch.
const ROWS: usize = 256;

/// Second moments of a layer's inputs. Columns are input channels times taps, as in [`crate::compress::decompose::as_matrix`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gram {
    /// For each convolution group its blocks, from the first column to the last. A layer with few columns has one block;
    /// what lies between blocks was not measured and counts as 0.
    pub groups: Vec<Vec<Block>>,
    /// Columns seen.
    pub count: u64,
}

/// Moments of some consecutive columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// First column.
    pub start: usize,
    /// E\[x xᵀ\], symmetric.
    pub matrix: Array2<f64>,
    /// E\[x\].
    pub mean: Vec<f64>,
}

impl Block {
    /// Columns of the block.
    pub fn columns(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.mean.len()
    }
}

impl Gram {
    /// A number that stands for the moments.
    pub fn fingerprint(&self) -> u64 {
        let blocks = self.groups.iter().flatten();
        let numbers = blocks.flat_map(|b| b.matrix.diag().to_vec().into_iter().chain(b.mean.iter().copied()));
        numbers.fold(self.count, |hash, v| mix(hash ^ v.to_bits()))
    }
}

/// Gathers a [`Gram`] position by position.
#[derive(Debug)]
pub struct Collector {
    windows: Windows,
    positions: usize,
    pending: Vec<f32>,
    gram: Gram,
    samples: u64,
}

impl Collector {
    /// Gathers at so many positions of a sample, in blocks of at most so many columns.
    pub fn new(windows: Windows, positions: usize, widest: usize) -> Self {
        let (columns, taps) = (windows.columns(), windows.taps.max(1));
        let step = (widest / taps).max(1) * taps;
        let block = |start: usize| {
            let n = step.min(columns - start);
            Block { start, matrix: Array2::zeros((n, n)), mean: vec![0.0; n] }
        };
        let blocks = || (0..columns).step_by(step).map(block).collect();
        let groups = (0..windows.groups).map(|_| blocks()).collect();
        Self { windows, positions, pending: Vec::new(), gram: Gram { groups, count: 0 }, samples: 0 }
    }

    /// Bytes that the moments of such windows take.
    pub fn bytes(windows: &Windows, widest: usize) -> u64 {
        let (columns, taps) = (windows.columns() as u64, windows.taps.max(1) as u64);
        let step = (widest as u64 / taps).max(1) * taps;
        windows.groups as u64 * columns * step.min(columns) * 8
    }

    /// Adds what a batch of so many samples gave.
    pub fn add(&mut self, array: &ArrayViewD<'_, f32>, samples: usize) {
        let standard;
        let array = if array.is_standard_layout() {
            array
        } else {
            standard = array.as_standard_layout();
            &standard.view()
        };
        for (sample, position) in positions(&self.windows, array.shape(), samples, self.positions, self.samples) {
            self.windows.column(array, sample, position, &mut self.pending);
            self.flush_if_full();
        }
        self.samples += samples as u64;
    }

    /// Adds columns that were read already, one after the other.
    pub fn push(&mut self, columns: &[f32]) {
        for column in columns.chunks_exact((self.windows.columns() * self.windows.groups).max(1)) {
            self.pending.extend_from_slice(column);
            self.flush_if_full();
        }
    }

    fn flush_if_full(&mut self) {
        if self.pending.len() >= ROWS * self.windows.columns() * self.windows.groups {
            self.flush();
        }
    }

    /// The moments of all that was added.
    pub fn finish(mut self) -> Gram {
        self.flush();
        let n = (self.gram.count as f64).max(1.0);
        for block in self.gram.groups.iter_mut().flatten() {
            block.mean.iter_mut().for_each(|m| *m /= n);
            for i in 0..block.mean.len() {
                for j in 0..=i {
                    let v = block.matrix[[i, j]] / n;
                    (block.matrix[[i, j]], block.matrix[[j, i]]) = (v, v);
                }
            }
        }
        self.gram
    }

    fn flush(&mut self) {
        let columns = self.windows.columns();
        let width = columns * self.windows.groups;
        let rows = self.pending.len() / width.max(1);
        if rows == 0 {
            return;
        }
        for (g, blocks) in self.gram.groups.iter_mut().enumerate() {
            for block in blocks {
                let from = g * columns + block.start;
                add_products(block, &self.pending, rows, width, from);
            }
        }
        self.gram.count += rows as u64;
        self.pending.clear();
    }
}

/// Adds the lower half of XᵀX and the sums of X, for the block's columns of the rows.
fn add_products(block: &mut Block, pending: &[f32], rows: usize, width: usize, from: usize) {
    let n = block.mean.len();
    // Means and mean squares are the same to the bit whatever the blocks are.
    for row in pending.chunks_exact(width) {
        for (i, &v) in row[from..from + n].iter().enumerate() {
            block.mean[i] += f64::from(v);
            block.matrix[[i, i]] += f64::from(v) * f64::from(v);
        }
    }
    if n < 32 {
        for row in pending.chunks_exact(width) {
            let x = &row[from..from + n];
            for i in 0..n {
                for j in 0..i {
                    block.matrix[[i, j]] += f64::from(x[i]) * f64::from(x[j]);
                }
            }
        }
        return;
    }
    let mut product = vec![0.0_f32; n * n];
    let x = MatRef::from_row_major_slice_with_stride(&pending[from..], rows, n, width);
    let lower = BlockStructure::TriangularLower;
    let out = MatMut::from_row_major_slice_mut(&mut product, n, n);
    matmul(out, lower, Accum::Replace, x.transpose(), BlockStructure::Rectangular, x, BlockStructure::Rectangular, 1.0, Par::Seq);
    for (i, row) in product.chunks_exact(n).enumerate() {
        block.matrix.row_mut(i).iter_mut().zip(&row[..i]).for_each(|(m, &v)| *m += f64::from(v));
    }
}

/// Samples of an array and positions in them, `per_sample` of each, by a hash of the number of the sample; `first` is the number of the
/// array's first. A matrix product's rows count over the whole array.
pub fn positions(windows: &Windows, dims: &[usize], samples: usize, per_sample: usize, first: u64) -> Vec<(usize, usize)> {
    let all = windows.positions(dims);
    if !windows.by_sample() {
        return spread(all, per_sample * samples, first).map(|p| (0, p)).collect();
    }
    let of_sample = |sample: usize| spread(all, per_sample, first + sample as u64).map(move |p| (sample, p));
    (0..samples.min(dims.first().copied().unwrap_or(0))).flat_map(of_sample).collect()
}

/// `wanted` of `all` positions, rising, one in each of as many equal stretches, by a hash of the sample's number.
fn spread(all: usize, wanted: usize, sample: u64) -> impl Iterator<Item = usize> {
    let n = wanted.min(all);
    (0..n).map(move |i| {
        if n == all {
            return i;
        }
        let share = (mix(sample << 20 | i as u64) >> 11) as f64 / (1_u64 << 53) as f64;
        (((i as f64 + share) * all as f64 / n as f64) as usize).min(all - 1)
    })
}

/// SplitMix64: a fixed hash.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
