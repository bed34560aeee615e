//! `gulliver sensitivity`: every option of every layer alone, measured and predicted.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::ProgressBar;

use super::{Done, Memory, catch_interrupt, cores, print_json, progress::Lines, shown, start_runtime, table::aligned};
use crate::{
    data::Metric,
    error::{Error, Result},
    evaluate::order,
    report::{
        format::{self, Unit},
        plot,
    },
    spec::Spec,
    study::{self, Bench, Distance, Folder, Sensitivity, SensitivityRow},
};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Arguments of `sensitivity`.
#[derive(Debug, Args)]
pub struct SensitivityArgs {
    /// A study's spec (YAML)
    spec: PathBuf,
    /// Validation samples: the first in the order in which a study meets them
    #[arg(long, default_value = "500")]
    samples: std::num::NonZeroUsize,
    /// Options measured at once, one thread each; by default one a core
    #[arg(long)]
    jobs: Option<usize>,
    /// Memory that calibration may take, e.g. 512MB
    #[arg(long, default_value_t)]
    max_memory: Memory,
    /// Folder for sensitivity.json and sensitivity.svg; by default studies/ and the spec's name with -sensitivity
    #[arg(long)]
    out: Option<PathBuf>,
    /// The option table alone: errors, times and sizes as predicted, nothing measured
    #[arg(long)]
    predict: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

impl SensitivityArgs {
    /// Measures and writes.
    pub fn run(&self) -> Result<Done> {
        let mut spec = Spec::load(&self.spec)?;
        let name = self.spec.file_stem().unwrap_or_default().to_string_lossy();
        let dir = self.out.clone().unwrap_or_else(|| Path::new("studies").join(format!("{name}-sensitivity")));
        let folder = Folder::create(&dir)?;
        if spec.metric.is_command() {
            eprintln!("the metric is a program, which scores whole models: drops are given as sqnr in its place");
            spec.metric = Metric::Sqnr;
        }
        let runtime = start_runtime()?;
        let interrupt = catch_interrupt("finishing the options at hand; press Ctrl-C again to stop at once, without a result")?;
        let bench = Bench::open(&runtime, &self.spec, spec)?;
        let mut data = bench.data()?;
        // Those that a study's candidates meet first.
        let first: Vec<usize> = order(data.validation.len()).into_iter().take(self.samples.get()).collect();
        data.validation = Arc::new(data.validation.select(&first));
        let jobs = self.jobs.unwrap_or_else(cores).max(1);
        let options = bench.space.alone().len();
        match self.predict {
            true => eprintln!("{options} options, predicted, {jobs} at once"),
            false => eprintln!("{options} options, each alone on {} validation samples, {jobs} at once", data.validation.len()),
        }
        let evaluator = bench.prepare(&data, (jobs, self.max_memory.0), Some(&folder), true, &mut Lines)?;
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(options as u64));
        let mut last = Instant::now();
        let mut each = |done: usize, of: usize| match &bar {
            Some(bar) => {
                bar.set_length(of as u64);
                bar.set_position(done as u64);
            }
            None if last.elapsed() >= LINE_EVERY => {
                last = Instant::now();
                eprintln!("step {done} of {of}");
            }
            None => {}
        };
        let found = study::sensitivity(&evaluator, !self.predict, jobs, &interrupt, &mut each)?;
        bar.iter().for_each(ProgressBar::finish_and_clear);
        let files = write(&found, &dir)?;
        if self.json {
            print_json(&found)?;
        } else {
            println!("{}", table(&found));
            println!("{}\n", trust(&found));
            println!("written: {}", shown(&files));
        }
        if interrupt.load(Ordering::Relaxed) && found.rows.len() < found.options {
            eprintln!("stopped after {} of {} options", found.rows.len(), found.options);
            return Ok(Done::Interrupted);
        }
        Ok(Done::Well)
    }
}

fn write(found: &Sensitivity, dir: &Path) -> Result<Vec<PathBuf>> {
    let json = serde_json::to_string_pretty(found).map_err(|e| Error::Internal(format!("the result cannot be written as JSON: {e}")))?;
    let files = [("sensitivity.json", json + "\n"), ("sensitivity.svg", plot::sensitivity_svg(found)?)];
    let write = |(name, text): (&str, String)| {
        let path = dir.join(name);
        study::write_atomically(&path, text.as_bytes()).map(|()| path)
    };
    files.into_iter().map(write).collect()
}

/// The result as an aligned table; a layer's name stands at its first option.
fn table(found: &Sensitivity) -> String {
    let unit = Unit::of(&found.metric);
    let percent = format::percent(found.confidence);
    let distance = if found.distance == Distance::Kl { "KL" } else { "NMSE" };
    let drop = if unit == Unit::Points { "drop, points" } else { "drop" };
    let heading = ["layer", "option", "predicted error", distance, "SQNR, dB", drop, &percent, "saved, µs", "saved, kB"];
    let mut lines = vec![heading.map(String::from).to_vec()];
    let mut before = "";
    for row in &found.rows {
        let name = if row.layer == before { String::new() } else { row.layer.clone() };
        before = &row.layer;
        let measured = |text: &dyn Fn(&study::Measured) -> String| row.measured.as_ref().map_or_else(|| "–".into(), text);
        lines.push(vec![
            name,
            option(row),
            row.predicted_error.map_or_else(|| "–".into(), scientific),
            row.distance(found.distance).map_or_else(|| "–".into(), scientific),
            measured(&|m| format::fixed(m.sqnr_db, 1)),
            measured(&|m| unit.drop(m.drop)),
            measured(&|m| unit.interval(m.drop_low, m.drop_high).unwrap_or_default()),
            format::fixed(row.us_saved, 1),
            format::fixed(row.bytes_saved as f64 / 1e3, 1),
        ]);
    }
    let mut text = aligned(&lines);
    for row in found.rows.iter().filter(|r| r.failed.is_some()) {
        text += &format!("{}, {}: {}\n", row.layer, row.option, row.failed.as_deref().unwrap_or_default());
    }
    text
}

fn option(row: &SensitivityRow) -> String {
    match row.layers.len() {
        0 | 1 => row.option.clone(),
        n => format!("{} ({n} layers)", row.option),
    }
}

/// Two digits and a power of ten.
fn scientific(value: f64) -> String {
    if value == 0.0 { "0".into() } else { format!("{value:.1e}") }
}

/// How far the prediction can be trusted.
fn trust(found: &Sensitivity) -> String {
    let r = found.rank_correlation;
    let one = |name: &str, value: Option<f64>| value.map(|v| format!("{name} {}", format::fixed(v, 2)));
    let parts: Vec<String> =
        [one("precisions", r.precision), one("channels", r.keep), one("ranks", r.rank)].into_iter().flatten().collect();
    match r.all {
        None => "too few options to compare predicted and measured ranks".into(),
        Some(all) if parts.is_empty() => format!("rank correlation of predicted and measured (Spearman): {}", format::fixed(all, 2)),
        Some(all) => {
            format!("rank correlation of predicted and measured (Spearman): {} over all, {}", format::fixed(all, 2), parts.join(", "))
        }
    }
}
