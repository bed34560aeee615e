//! What a change of a weight does to a layer's output.

use ndarray::Array2;

use crate::compress::calibrate::Gram;

/// E‖ΔW x‖² = tr(ΔW H ΔWᵀ), and E‖W x‖² beside it. With `centred`, less what the means do, which a bias can take up.
pub fn weight_error(weight: &Array2<f32>, changed: &Array2<f32>, gram: &Gram, centred: bool) -> (f64, f64) {
    let per_group = weight.nrows().div_ceil(gram.groups.len().max(1)).max(1);
    let mut sums = (0.0, 0.0);
    for (r, (row, other)) in weight.rows().into_iter().zip(changed.rows()).enumerate() {
        for block in gram.groups.get(r / per_group).into_iter().flatten() {
            let columns = block.columns();
            if columns.end > row.len() {
                continue;
            }
            let w: Vec<f64> = columns.clone().map(|c| f64::from(row[c])).collect();
            let d: Vec<f64> = columns.map(|c| f64::from(row[c]) - f64::from(other[c])).collect();
            let form = |v: &[f64]| -> f64 {
                let whole: f64 = v.iter().zip(block.matrix.rows()).map(|(a, r)| a * r.iter().zip(v).map(|(h, b)| h * b).sum::<f64>()).sum();
                let mean: f64 = v.iter().zip(&block.mean).map(|(a, m)| a * m).sum();
                whole - if centred { mean * mean } else { 0.0 }
            };
            sums.0 += form(&d);
            sums.1 += form(&w);
        }
    }
    sums
}
