//! Predicted latency against what Huawei's model zoo publishes for the same networks (`fixtures/latency`).

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use gulliver::{
    device::{Profile, extract, predict},
    graph::{Model, shape},
};

struct Row {
    batch: usize,
    published_ms: f64,
    predicted_ms: f64,
}

fn rows() -> Vec<Row> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/latency");
    let table = std::fs::read_to_string(folder.join("ascend310p3_fp16.csv")).unwrap();
    let profile = Profile::load("ascend310p3").unwrap();
    let mut models: HashMap<&str, Model> = HashMap::new();
    let mut rows = Vec::new();
    for line in table.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let model = models.entry(cells[0]).or_insert_with(|| Model::load(&folder.join(format!("{}.onnx", cells[0]))).unwrap());
        let (batch, fps): (usize, f64) = (cells[1].parse().unwrap(), cells[2].parse().unwrap());
        let shapes = shape::infer(model, batch, &BTreeMap::new()).unwrap();
        let prediction = predict(&extract(model, &shapes, &BTreeMap::new()), &profile);
        rows.push(Row { batch, published_ms: batch as f64 / fps * 1e3, predicted_ms: prediction.latency_ms });
    }
    rows
}

fn ranks(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| values.iter().filter(|w| *w < v).count() as f64).collect()
}

fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len() as f64;
    let squares: f64 = ranks(a).iter().zip(ranks(b)).map(|(x, y)| (x - y).powi(2)).sum();
    1.0 - 6.0 * squares / (n * (n * n - 1.0))
}

#[test]
fn networks_are_ranked_as_published_at_batch_eight() {
    let (published, predicted): (Vec<f64>, Vec<f64>) =
        rows().iter().filter(|r| r.batch == 8).map(|r| (r.published_ms, r.predicted_ms)).unzip();
    assert!(published.len() >= 8);
    let rho = spearman(&published, &predicted);
    assert!(rho >= 0.9, "spearman {rho:.3} over {} networks", published.len());
}

#[test]
fn the_median_error_is_below_thirty_percent() {
    let mut errors: Vec<f64> = rows().iter().map(|r| (r.predicted_ms / r.published_ms - 1.0).abs()).collect();
    errors.sort_by(f64::total_cmp);
    let median = errors[errors.len() / 2];
    assert!(median <= 0.3, "median error {:.1} % over {} rows", median * 100.0, errors.len());
}
