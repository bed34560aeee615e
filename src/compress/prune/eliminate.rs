//! Greedy backward elimination: units go one by one, always the one whose loss is least *after* all readers were fitted again to what is left.
//!
//! With G⁻¹ the inverse moments of a reader's columns, removing the columns i and fitting the others costs tr(W_i (G⁻¹_ii)⁻¹ W_iᵀ), and
//! leaves W − W_i (G⁻¹_ii)⁻¹ G⁻¹_i: and G⁻¹ − G⁻¹_:i (G⁻¹_ii)⁻¹ G⁻¹_i: (optimal brain surgeon for groups of columns: Frantar and Alistarh 2022,
//! arXiv 2208.11580; Kurtic et al. 2023, arXiv 2302.04089). One sweep gives the whole path of keep counts.

use faer::{
    Accum, Mat, MatRef, Par, Side,
    linalg::{
        matmul::matmul,
        matmul::triangular::{BlockStructure, matmul as lower_matmul},
        solvers::{DenseSolveCore, Solve},
    },
    prelude::ReborrowMut,
};

/// A layer (or a block of its moments) that reads the units.
pub struct Reader {
    /// Weight (outputs × columns).
    pub weight: Mat<f64>,
    /// Moments of the columns (columns × columns), damped so that they can be inverted.
    pub moments: Mat<f64>,
    /// Columns of each unit.
    pub columns: Vec<Vec<usize>>,
    /// What a loss is divided by, so that readers count alike.
    pub scale: f64,
}

/// In which order units go.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Path {
    /// Positions of units, the first to go first.
    pub order: Vec<usize>,
    /// What is lost of the readers' outputs when a unit goes, each reader fitted again, on top of what was lost before.
    pub losses: Vec<f64>,
}

/// The readers' state on the way.
struct State {
    weight: Mat<f64>,
    /// Inverse moments; only the lower half is kept up.
    inverse: Mat<f64>,
    columns: Vec<Vec<usize>>,
    scale: f64,
}

/// The order in which units go. `kinds` is the kind of each unit: of each kind the same share stays at all times. The last unit of a kind stays.
pub fn eliminate(readers: Vec<Reader>, kinds: &[usize]) -> Path {
    let mut states: Vec<State> = readers.into_iter().filter_map(State::of).collect();
    let count = kinds.iter().max().map_or(0, |k| k + 1);
    let all: Vec<usize> = (0..count).map(|k| kinds.iter().filter(|&&other| other == k).count()).collect();
    let mut left = all.clone();
    let mut alive = vec![true; kinds.len()];
    let mut path = Path::default();
    loop {
        // The kind of which the largest share is left.
        let fullest = (0..count).filter(|&k| left[k] > 1).max_by(|&a, &b| (left[a] * all[b]).cmp(&(left[b] * all[a])).then(b.cmp(&a)));
        let Some(kind) = fullest else { return path };
        let candidates = (0..kinds.len()).filter(|&u| alive[u] && kinds[u] == kind);
        let loss = |u: usize| states.iter().map(|s| s.loss(u)).sum::<f64>();
        let Some((unit, lost)) = candidates.map(|u| (u, loss(u))).reduce(|a, b| if b.1 < a.1 { b } else { a }) else { return path };
        alive[unit] = false;
        left[kind] -= 1;
        states.iter_mut().for_each(|s| s.remove(unit));
        path.order.push(unit);
        path.losses.push(lost.max(0.0));
    }
}

impl State {
    fn of(reader: Reader) -> Option<Self> {
        let inverse = reader.moments.llt(Side::Lower).ok()?.inverse();
        Some(Self { weight: reader.weight, inverse, columns: reader.columns, scale: reader.scale })
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        if i >= j { self.inverse[(i, j)] } else { self.inverse[(j, i)] }
    }

    /// tr(W_i (G⁻¹_ii)⁻¹ W_iᵀ) per scale.
    fn loss(&self, unit: usize) -> f64 {
        let columns = &self.columns[unit];
        match columns[..] {
            [] => 0.0,
            [c] => self.weight.col(c).iter().map(|w| w * w).sum::<f64>() / self.at(c, c).max(1e-300) / self.scale,
            _ => {
                let own = Mat::from_fn(columns.len(), columns.len(), |i, j| self.at(columns[i], columns[j]));
                let weights = Mat::from_fn(columns.len(), self.weight.nrows(), |i, r| self.weight[(r, columns[i])]);
                let Ok(factor) = own.llt(Side::Lower) else { return f64::INFINITY };
                let mut half = weights;
                faer::linalg::triangular_solve::solve_lower_triangular_in_place(factor.L(), half.rb_mut(), Par::Seq);
                half.col_iter().map(|c| c.squared_norm_l2()).sum::<f64>() / self.scale
            }
        }
    }

    /// Takes a unit's columns out; the others make up for them.
    fn remove(&mut self, unit: usize) {
        let columns = std::mem::take(&mut self.columns[unit]);
        if columns.is_empty() {
            return;
        }
        let n = self.inverse.nrows();
        let own = Mat::from_fn(columns.len(), columns.len(), |i, j| self.at(columns[i], columns[j]));
        let rows = Mat::from_fn(columns.len(), n, |i, j| self.at(columns[i], j));
        let Ok(factor) = own.llt(Side::Lower) else { return };
        let solved = factor.solve(&rows);
        let weights = Mat::from_fn(self.weight.nrows(), columns.len(), |r, i| self.weight[(r, columns[i])]);
        matmul(self.weight.rb_mut(), Accum::Add, &weights, &solved, -1.0, Par::Seq);
        let lower = BlockStructure::TriangularLower;
        let full = BlockStructure::Rectangular;
        lower_matmul(self.inverse.rb_mut(), lower, Accum::Add, rows.transpose(), full, &solved, full, -1.0, Par::Seq);
        let used: usize = self.columns.iter().map(Vec::len).sum();
        if used * 4 < n * 3 {
            self.compact();
        }
    }

    /// Leaves out what is not asked for any more, so that steps become cheaper: columns of units that are gone, and columns of no unit, which the
    /// inverse counts as fitted whether it has them or not.
    fn compact(&mut self) {
        let n = self.inverse.nrows();
        let mut unit_of = vec![None; n];
        for (u, columns) in self.columns.iter().enumerate() {
            columns.iter().for_each(|&c| unit_of[c] = Some(u));
        }
        let stay: Vec<usize> = (0..n).filter(|&c| unit_of[c].is_some()).collect();
        self.inverse = Mat::from_fn(stay.len(), stay.len(), |i, j| if i >= j { self.inverse[(stay[i], stay[j])] } else { 0.0 });
        self.weight = Mat::from_fn(self.weight.nrows(), stay.len(), |r, j| self.weight[(r, stay[j])]);
        self.columns.iter_mut().for_each(Vec::clear);
        stay.iter().enumerate().for_each(|(new, &old)| unit_of[old].into_iter().for_each(|u| self.columns[u].push(new)));
    }
}

/// A matrix of numbers row by row.
pub fn mat(rows: usize, columns: usize, values: &[f32]) -> Mat<f64> {
    let view = MatRef::from_row_major_slice(values, rows, columns);
    Mat::from_fn(rows, columns, |i, j| f64::from(view[(i, j)]))
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Axis};
    use proptest::prelude::*;

    use super::*;

    /// Made-up moments of columns that share causes, and a weight.
    fn example(columns: usize, outputs: usize, seed: u64) -> (Array2<f64>, Array2<f64>) {
        let mut state = seed.wrapping_mul(2).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 24) - 0.5
        };
        let x = Array2::from_shape_simple_fn((4 * columns, columns), &mut next);
        let mix = Array2::from_shape_simple_fn((columns, columns), &mut next) + Array2::<f64>::eye(columns);
        let x = x.dot(&mix);
        let weight = Array2::from_shape_simple_fn((outputs, columns), &mut next);
        (x.t().dot(&x) / x.nrows() as f64 + Array2::<f64>::eye(columns) * 1e-3, weight)
    }

    fn to_mat(a: &Array2<f64>) -> Mat<f64> {
        Mat::from_fn(a.nrows(), a.ncols(), |i, j| a[[i, j]])
    }

    fn reader(g: &Array2<f64>, w: &Array2<f64>, columns: &[Vec<usize>], scale: f64) -> Reader {
        Reader { weight: to_mat(w), moments: to_mat(g), columns: columns.to_vec(), scale }
    }

    /// Least error of the outputs when only these columns are left and every weight is free, from the normal equations.
    fn best_error(g: &Array2<f64>, w: &Array2<f64>, kept: &[usize]) -> f64 {
        let energy = (w.dot(g) * w).sum();
        if kept.is_empty() {
            return energy;
        }
        let own = to_mat(&g.select(Axis(0), kept).select(Axis(1), kept));
        let right = to_mat(&w.dot(g).select(Axis(1), kept).t().to_owned());
        let solved = own.llt(Side::Lower).unwrap().solve(&right);
        energy - (0..right.nrows()).map(|i| (0..right.ncols()).map(|j| solved[(i, j)] * right[(i, j)]).sum::<f64>()).sum::<f64>()
    }

    fn kept(columns: &[Vec<usize>], gone: &[usize], all: usize) -> Vec<usize> {
        (0..all).filter(|c| !gone.iter().any(|&u| columns[u].contains(c))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn every_step_is_the_best_of_all_after_fitting_again(seed in 0_u64..1000, taps in 1_usize..4, units in 3_usize..8) {
            let columns: Vec<Vec<usize>> = (0..units).map(|u| (u * taps..(u + 1) * taps).collect()).collect();
            let (g, w) = example(units * taps, 5, seed);
            let (h, v) = example(units, 3, seed + 7);
            let single: Vec<Vec<usize>> = (0..units).map(|u| vec![u]).collect();
            let path = eliminate(vec![reader(&g, &w, &columns, 2.0), reader(&h, &v, &single, 0.5)], &vec![0; units]);
            prop_assert_eq!(path.order.len(), units - 1);
            let error = |gone: &[usize]| {
                best_error(&g, &w, &kept(&columns, gone, units * taps)) / 2.0 + best_error(&h, &v, &kept(&single, gone, units)) / 0.5
            };
            for step in 0..path.order.len() {
                let before = &path.order[..step];
                let with = |u: usize| error(&[before, &[u]].concat());
                let best = (0..units).filter(|u| !before.contains(u)).map(with).fold(f64::INFINITY, f64::min);
                let total: f64 = path.losses[..=step].iter().sum();
                prop_assert!((with(path.order[step]) - best).abs() < 1e-6 * best, "step {}", step);
                prop_assert!((total - best).abs() < 1e-6 * best, "step {}: {} {}", step, total, best);
            }
        }
    }

    #[test]
    fn columns_of_other_channels_are_fitted_too_but_never_go() {
        let (g, w) = example(12, 4, 3);
        let columns: Vec<Vec<usize>> = vec![vec![0], vec![4], vec![9]];
        let path = eliminate(vec![reader(&g, &w, &columns, 1.0)], &[0, 0, 0]);
        let total: f64 = path.losses.iter().sum();
        let expected = best_error(&g, &w, &kept(&columns, &path.order, 12));
        assert!((total - expected).abs() < 1e-9 * expected.max(1e-9), "{total} {expected}");
    }

    #[test]
    fn of_each_kind_the_same_share_stays() {
        let (g, w) = example(12, 4, 5);
        let columns: Vec<Vec<usize>> = (0..12).map(|c| vec![c]).collect();
        let kinds: Vec<usize> = (0..12).map(|u| usize::from(u >= 8)).collect();
        let path = eliminate(vec![reader(&g, &w, &columns, 1.0)], &kinds);
        let first: Vec<usize> = path.order[..6].iter().map(|&u| kinds[u]).collect();
        assert_eq!(first.iter().filter(|&&k| k == 0).count(), 4);
        assert_eq!(path.order.len(), 10);
    }

    #[test]
    fn without_a_reader_nothing_is_lost() {
        let path = eliminate(Vec::new(), &[0, 0, 0]);
        assert_eq!((path.order, path.losses), (vec![0, 1], vec![0.0, 0.0]));
    }
}
