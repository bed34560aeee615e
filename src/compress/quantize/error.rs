//! What a change of a weight does to a layer's output.

use ndarray::{Array2, s};

use crate::compress::calibrate::Gram;

/// E‖W x‖² = tr(W H Wᵀ). With `centred`, less what the mean of x does, which a bias can take up. Where the moments were
/// measured in blocks, what lies between them counts as 0.
pub fn output_energy(weight: &Array2<f32>, gram: &Gram, centred: bool) -> f64 {
    let per_group = weight.nrows().div_ceil(gram.groups.len().max(1)).max(1);
    let mut sum = 0.0;
    for (g, blocks) in gram.groups.iter().enumerate() {
        let rows = g * per_group..((g + 1) * per_group).min(weight.nrows());
        for block in blocks.iter().filter(|b| b.columns().end <= weight.ncols() && !rows.is_empty()) {
            let part = weight.slice(s![rows.clone(), block.columns()]).mapv(f64::from);
            let products = part.dot(&block.matrix);
            sum += part.iter().zip(&products).map(|(w, p)| w * p).sum::<f64>();
            if centred {
                let mean = ndarray::aview1(&block.mean);
                sum -= part.dot(&mean).iter().map(|m| m * m).sum::<f64>();
            }
        }
    }
    sum.max(0.0)
}

/// E‖ΔW x‖² = tr(ΔW H ΔWᵀ), and E‖W x‖² beside it, both as [`output_energy`].
pub fn weight_error(weight: &Array2<f32>, changed: &Array2<f32>, gram: &Gram, centred: bool) -> (f64, f64) {
    (output_energy(&(weight - changed), gram, centred), output_energy(weight, gram, centred))
}

#[cfg(test)]
mod tests {
    use ndarray::Axis;

    use super::*;
    use crate::compress::calibrate::Block;

    /// Made-up samples of two groups of three columns, their moments, and a weight of two rows a group.
    fn example() -> (Array2<f32>, Gram, Array2<f32>, Array2<f32>) {
        let x = Array2::from_shape_fn((50, 6), |(i, j)| ((i * 37 + j * j * 11) % 23) as f32 / 7.0 - 1.0);
        let wide = x.mapv(f64::from);
        let block = |g: usize| {
            let own = wide.slice(s![.., 3 * g..3 * g + 3]);
            let mean = own.mean_axis(Axis(0)).unwrap().to_vec();
            vec![Block { start: 0, matrix: own.t().dot(&own) / 50.0, mean }]
        };
        let w = Array2::from_shape_fn((4, 3), |(i, j)| (i as f32 - 1.3) * (j as f32 - 0.4));
        let rounded = w.mapv(|v| v.round());
        (x, Gram { groups: vec![block(0), block(1)], count: 50 }, w, rounded)
    }

    /// The mean square of the outputs over the samples; about their mean if centred.
    fn by_running(x: &Array2<f32>, w: &Array2<f32>, centred: bool) -> f64 {
        let rows = w.rows().into_iter().enumerate();
        let of_row = |(r, row): (usize, ndarray::ArrayView1<'_, f32>)| -> f64 {
            let from = 3 * (r / 2);
            let y: Vec<f64> = x.rows().into_iter().map(|x| (0..3).map(|j| f64::from(row[j]) * f64::from(x[from + j])).sum()).collect();
            let n = y.len() as f64;
            let mean = if centred { y.iter().sum::<f64>() / n } else { 0.0 };
            y.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n
        };
        rows.map(of_row).sum()
    }

    #[test]
    fn the_closed_form_is_what_running_the_samples_gives() {
        let (x, gram, w, rounded) = example();
        for centred in [false, true] {
            let (error, energy) = weight_error(&w, &rounded, &gram, centred);
            let expected = (by_running(&x, &(&w - &rounded), centred), by_running(&x, &w, centred));
            assert!((error - expected.0).abs() < 1e-5 * expected.0 && (energy - expected.1).abs() < 1e-5 * expected.1);
        }
    }
}
