//! Gram matrices of layers as a plan leaves them, from those of the float network: what channels and ranks do to them is known in
//! closed form, so no data is needed again.

use std::sync::Arc;

use ndarray::{Array1, Array2};

use super::calibrate::{Block, Gram};

impl Gram {
    /// The moments of the input channels that stayed, where each channel has so many taps and each group so many channels.
    pub fn select(&self, kept: &[usize], taps: usize, channels: usize) -> Self {
        if self.groups.len() > 1 {
            let stays = |g: usize| kept.iter().any(|c| c / channels.max(1) == g);
            let groups = self.groups.iter().enumerate().filter(|(g, _)| stays(*g)).map(|(_, b)| b.clone()).collect();
            return Self { groups, count: self.count };
        }
        let mut start = 0;
        let mut select = |block: &Block| {
            let range = block.columns();
            let inside = kept.iter().flat_map(|c| c * taps..(c + 1) * taps).filter(|c| range.contains(c));
            let list: Vec<usize> = inside.map(|c| c - block.start).collect();
            let matrix = Array2::from_shape_fn((list.len(), list.len()), |(i, j)| block.matrix[[list[i], list[j]]]);
            let mean: Vec<f64> = list.iter().map(|&i| block.mean[i]).collect();
            let new = Block { start, matrix, mean };
            start += list.len();
            new
        };
        let blocks = self.groups.iter().map(|g| g.iter().map(&mut select).filter(|b| !b.mean.is_empty()).collect()).next();
        Self { groups: blocks.into_iter().collect(), count: self.count }
    }

    /// The moments of W x for a matrix W; none if those of x were measured in several blocks.
    pub fn through(&self, w: &Array2<f32>) -> Option<Self> {
        let [blocks] = self.groups.as_slice() else { return None };
        let [block] = blocks.as_slice() else { return None };
        if block.mean.len() != w.ncols() {
            return None;
        }
        let w = w.mapv(f64::from);
        let matrix = w.dot(&block.matrix).dot(&w.t());
        let mean = w.dot(&Array1::from(block.mean.clone())).to_vec();
        Some(Self { groups: vec![vec![Block { start: 0, matrix, mean }]], count: self.count })
    }

    /// The moments of inputs divided by a factor each, where each channel has so many taps.
    pub fn divided(&self, factors: &[f32], taps: usize) -> Self {
        let per_group = factors.len() / self.groups.len().max(1);
        let mut out = self.clone();
        for (g, block) in out.groups.iter_mut().enumerate().flat_map(|(g, blocks)| blocks.iter_mut().map(move |b| (g, b))) {
            let factor = |i: usize| f64::from(factors[g * per_group + (block.start + i) / taps.max(1)]);
            let by: Vec<f64> = (0..block.mean.len()).map(factor).collect();
            block.mean.iter_mut().zip(&by).for_each(|(m, f)| *m /= f);
            block.matrix.indexed_iter_mut().for_each(|((i, j), h)| *h /= by[i] * by[j]);
        }
        out
    }

    /// Mean of each column of a group.
    pub fn means(&self, group: usize) -> Vec<f64> {
        self.groups.get(group).into_iter().flatten().flat_map(|b| b.mean.iter().copied()).collect()
    }
}

/// The moments of the input channels that stayed, where each has so many taps and each group so many channels.
pub fn of_kept(gram: Option<&Arc<Gram>>, kept: Option<&[usize]>, (taps, channels): (usize, usize)) -> Option<Arc<Gram>> {
    let gram = gram?;
    Some(kept.map_or_else(|| Arc::clone(gram), |kept| Arc::new(gram.select(kept, taps, channels))))
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    /// Moments of four made-up samples of six columns.
    fn samples() -> Array2<f32> {
        Array2::from_shape_fn((4, 6), |(i, j)| ((i * 5 + j * 3) % 7) as f32 - 2.5)
    }

    fn gram(x: &Array2<f32>) -> Gram {
        let x = x.mapv(f64::from);
        let n = x.nrows() as f64;
        let matrix = x.t().dot(&x) / n;
        let mean = x.columns().into_iter().map(|c| c.sum() / n).collect();
        Gram { groups: vec![vec![Block { start: 0, matrix, mean }]], count: 4 }
    }

    fn near(a: &Gram, b: &Gram) {
        let (a, b) = (&a.groups[0][0], &b.groups[0][0]);
        assert!((&a.matrix - &b.matrix).iter().all(|e| e.abs() < 1e-5), "{a:?} {b:?}");
        assert!(a.mean.iter().zip(&b.mean).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn moments_of_channels_that_stay_are_those_of_the_cut_samples() {
        let x = samples();
        let cut = x.select(ndarray::Axis(1), &[0, 1, 4, 5]);
        near(&gram(&x).select(&[0, 2], 2, 3), &gram(&cut));
    }

    #[test]
    fn moments_behind_a_matrix_are_those_of_the_products() {
        let x = samples();
        let w = array![[1.0_f32, 0.0, -2.0, 0.5, 0.0, 1.0], [0.0, 3.0, 1.0, 0.0, -1.0, 0.25]];
        near(&gram(&x).through(&w).unwrap(), &gram(&x.dot(&w.t())));
    }

    #[test]
    fn moments_of_divided_channels_are_those_of_the_divided_samples() {
        let x = samples();
        let divided = Array2::from_shape_fn(x.dim(), |(i, j)| x[[i, j]] / [2.0, 0.5, 4.0][j / 2]);
        near(&gram(&x).divided(&[2.0, 0.5, 4.0], 2), &gram(&divided));
    }

    #[test]
    fn of_a_grouped_layer_whole_groups_go() {
        let one = gram(&samples()).groups.remove(0);
        let mut other = one.clone();
        other[0].matrix *= 2.0;
        let both = Gram { groups: vec![one, other.clone()], count: 4 };
        assert_eq!(both.select(&[3, 4, 5], 2, 3).groups, [other]);
    }
}
