//! How far the predicted latency is from published throughput.
//!
//! `cargo bench --bench published_latency` judges `ascend310p3` on the networks in `tests/fixtures/latency`;
//! `cargo bench --bench published_latency -- DEVICE TOPOLOGIES TABLE.csv` any device on a folder of ONNX files and a table with the
//! columns model, batch, fps and, if it has them, chip, precision and flag (other chips, other precisions than fp16 and flagged rows are left out).

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints and may fail loudly")]

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use gulliver::{
    device::{Profile, extract, predict},
    graph::{Model, shape},
};

struct Row {
    model: String,
    batch: usize,
    published_ms: f64,
    predicted_ms: f64,
}

fn main() {
    let given: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/latency");
    let (device, topologies, table) = match given.as_slice() {
        [device, topologies, table] => (device.clone(), PathBuf::from(topologies), PathBuf::from(table)),
        _ => ("ascend310p3".to_string(), fixtures.clone(), fixtures.join("ascend310p3_fp16.csv")),
    };
    let rows = rows(&device, &topologies, &std::fs::read_to_string(&table).unwrap());
    let mut models: Vec<&str> = rows.iter().map(|r| r.model.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    let mut errors: Vec<f64> = rows.iter().map(|r| (r.predicted_ms / r.published_ms - 1.0).abs()).collect();
    errors.sort_by(f64::total_cmp);
    let quantile = |q: f64| 100.0 * errors[((errors.len() - 1) as f64 * q).round() as usize];
    println!("{device}: {} rows of {} networks", rows.len(), models.len());
    println!("absolute relative error: median {:.1} %, p75 {:.1} %, p90 {:.1} %", quantile(0.5), quantile(0.75), quantile(0.9));
    for batch in [1, 8, 32] {
        let (a, b): (Vec<f64>, Vec<f64>) = rows.iter().filter(|r| r.batch == batch).map(|r| (r.published_ms, r.predicted_ms)).unzip();
        println!("Spearman over {} networks at batch {batch}: {:.3}", a.len(), spearman(&a, &b));
    }
}

fn rows(device: &str, topologies: &Path, table: &str) -> Vec<Row> {
    let profile = Profile::load(device).unwrap();
    let heading: Vec<&str> = table.lines().next().unwrap().split(',').collect();
    let column = |name: &str| heading.iter().position(|h| *h == name);
    let mut models: HashMap<String, Model> = HashMap::new();
    let mut rows = Vec::new();
    for line in table.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let cell = |name: &str| column(name).map(|c| cells[c]);
        if cell("chip").is_some_and(|c| c != device)
            || cell("precision").is_some_and(|p| p != "fp16")
            || cell("flag").is_some_and(|f| !f.is_empty())
        {
            continue;
        }
        let name = cell("model").unwrap().to_string();
        let path = topologies.join(format!("{name}.onnx"));
        if !path.is_file() {
            continue;
        }
        let model = models.entry(name.clone()).or_insert_with(|| Model::load(&path).unwrap());
        let (batch, fps): (usize, f64) = (cell("batch").unwrap().parse().unwrap(), cell("fps").unwrap().parse().unwrap());
        let shapes = shape::infer(model, batch, &BTreeMap::new()).unwrap();
        let prediction = predict(&extract(model, &shapes, &BTreeMap::new()), &profile);
        rows.push(Row { model: name, batch, published_ms: batch as f64 / fps * 1e3, predicted_ms: prediction.latency_ms });
    }
    rows
}

fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let ranks = |v: &[f64]| -> Vec<f64> { v.iter().map(|x| v.iter().filter(|y| *y < x).count() as f64).collect() };
    let n = a.len() as f64;
    let squares: f64 = ranks(a).iter().zip(ranks(b)).map(|(x, y)| (x - y).powi(2)).sum();
    1.0 - 6.0 * squares / (n * (n * n - 1.0))
}
