//! `gulliver bench`: strategies side by side on a study's network, or its evaluator for a program of the user's.

use std::{
    io::{BufRead, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::{Done, Memory, catch_interrupt, cores, print_json, shown, start_runtime, table::aligned};
use crate::{
    error::{Error, Result},
    evaluate::{Evaluator, Objective, Race},
    report::{format, plot},
    search::Tables,
    space::{Candidate, Kind},
    spec::{Spec, StrategyName, parse_yaml},
    study::{
        self, Bench, Event, Folder, Observe, Ran, Terms,
        contest::{self, Truth},
    },
    trial::inferred,
};

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A study's spec (YAML)
    spec: PathBuf,
    /// Strategies, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = strategy, default_value = "additive,evolve,anneal,nsga2,random,uniform,amct,aimet,nncf")]
    strategies: Vec<StrategyName>,
    /// Seeds, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "1")]
    seeds: Vec<u64>,
    /// Samples that each search may infer; by default ten passes over the validation data
    #[arg(long)]
    samples: Option<u64>,
    /// Candidates in evaluation at once; by default one a core
    #[arg(long)]
    jobs: Option<usize>,
    /// Memory that calibration may take, e.g. 512MB
    #[arg(long, default_value_t)]
    max_memory: Memory,
    /// Folder for bench.json, bench.svg and the journals; by default studies/ and the spec's name with -bench
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measure every candidate of a small space too, and say what share of the true front's hypervolume each strategy found
    #[arg(long)]
    exhaust: bool,
    /// Measure candidates that come as JSON lines on stdin, and answer in JSON lines on stdout
    #[arg(long)]
    serve: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

fn strategy(name: &str) -> std::result::Result<StrategyName, String> {
    let all = || StrategyName::ALL.map(StrategyName::name).join(", ");
    StrategyName::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| format!("there is none of that name; there are {}", all()))
}

impl BenchArgs {
    /// Runs them all.
    pub fn run(&self) -> Result<Done> {
        let spec = Spec::load(&self.spec)?;
        let name = self.spec.file_stem().unwrap_or_default().to_string_lossy();
        let dir = self.out.clone().unwrap_or_else(|| Path::new("studies").join(format!("{name}-bench")));
        let folder = Folder::create(&dir)?;
        let runtime = start_runtime()?;
        let interrupt = catch_interrupt("finishing the trials at hand; press Ctrl-C again to stop at once")?;
        let bench = Bench::open(&runtime, &self.spec, spec.clone())?;
        let data = bench.data()?;
        let key = bench.tables_key(&data)?;
        let jobs = self.jobs.unwrap_or_else(cores).max(1);
        let evaluator = bench.prepare(&data, (jobs, self.max_memory.0), Some(&folder), true, &mut Lines::default())?;
        if self.serve {
            return serve(&evaluator, &spec);
        }
        let budgetless = self.strategies.iter().find(|s| s.needs_budget() && spec.constraints.budget(1.0).is_none());
        if let Some(strategy) = budgetless {
            let message = format!("{} works towards an accuracy budget, and there is none", strategy.name());
            return Err(Error::spec(&self.spec, None, message, "give constraints.accuracy_drop, or leave it out of --strategies"));
        }
        let file = folder.tables();
        let tables = study::tables(&evaluator, jobs, &interrupt, Some((&file, &key)), &mut Lines::default())?;
        let tables = tables.unwrap_or_else(|| Tables::unknown(evaluator.space()));
        let samples = self.samples.unwrap_or(10 * evaluator.samples() as u64);
        let terms = Terms {
            spec: &spec,
            evaluator: &evaluator,
            tables: &tables,
            fingerprint: &data.fingerprint,
            samples,
            jobs,
            interrupt: &interrupt,
        };
        let mut all: Vec<Ran> = Vec::new();
        for &strategy in &self.strategies {
            for &seed in &self.seeds {
                eprintln!("{} with seed {seed}: up to {} samples in the search", strategy.name(), format::count(samples));
                let own = dir.join(format!("{}-{seed}", strategy.name()));
                all.push(contest::enter(&terms, (strategy, seed), &own, &mut Lines::default())?);
                if interrupt.load(Ordering::Relaxed) {
                    eprintln!("stopped; the same command goes on");
                    return Ok(Done::Interrupted);
                }
            }
        }
        let float_ms = evaluator.float_cost().latency_ms;
        let files = write(&all, &dir, contest::reference(&evaluator, &spec), &spec)?;
        if self.exhaust {
            let truth = exhausted(&evaluator, jobs)?;
            eprintln!("{} candidates, {} on the true front of drop and latency", format::count(truth.candidates() as u64), truth.front());
            for ran in &all {
                let (share, measured, tried) = truth.share(&dir.join(format!("{}-{}", ran.strategy.name(), ran.seed)))?;
                eprintln!(
                    "{} with seed {}: {:.2} % of its hypervolume; tried {tried}, of these {measured} on all samples",
                    ran.strategy.name(),
                    ran.seed,
                    100.0 * share
                );
            }
        }
        if self.json {
            print_json(&all)?;
        } else {
            println!("{}", table(&all, float_ms));
            println!("written: {}", shown(&files));
        }
        Ok(Done::Well)
    }
}

/// Bytes that values between layers may take while a whole space is measured.
const ROOM: usize = 4 << 30;

fn exhausted(evaluator: &Evaluator, jobs: usize) -> Result<Truth> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs).build();
    let pool = pool.map_err(|e| Error::Internal(format!("{jobs} threads cannot be started: {e}")))?;
    let done = AtomicUsize::new(0);
    let each = || {
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(500) {
            eprintln!("  {done} candidates measured");
        }
    };
    let all = pool.install(|| evaluator.exhaust(ROOM, &each))?;
    Ok(Truth::new(all, evaluator.float_cost().latency_ms))
}

fn write(all: &[Ran], dir: &Path, reference: [f64; 2], spec: &Spec) -> Result<Vec<PathBuf>> {
    let (json, svg) = (dir.join("bench.json"), dir.join("bench.svg"));
    let model = spec.model.file_name().unwrap_or_default().to_string_lossy();
    let document = json!({"model": model, "device": spec.device.name, "batch": spec.device.batch, "reference": reference, "runs": all});
    let text = serde_json::to_string_pretty(&document).map_err(|e| Error::Internal(format!("bench.json cannot be written: {e}")))?;
    study::write_atomically(&json, text.as_bytes())?;
    let title = format!("{model} on {} at batch {}: hypervolume against samples inferred", spec.device.name, spec.device.batch);
    study::write_atomically(&svg, plot::contest_svg(all, &title)?.as_bytes())?;
    Ok(vec![svg, json])
}

/// A line a run.
fn table(all: &[Ran], float_ms: f64) -> String {
    let best = all.iter().map(Ran::last).fold(0.0, f64::max);
    let heading = [
        "strategy",
        "seed",
        "trials",
        "samples",
        "hypervolume",
        "of the best",
        "95 % of the best after",
        "fastest within",
        "for certain",
        "s",
    ];
    let mut rows: Vec<Vec<String>> = vec![heading.map(String::from).to_vec()];
    let ratio = |ms: Option<f64>| ms.map_or_else(|| "none".into(), |ms| format!("{:.3} x", ms / float_ms));
    for ran in all {
        rows.push(vec![
            ran.strategy.name().into(),
            ran.seed.to_string(),
            ran.trials.to_string(),
            format::count(ran.samples),
            format!("{:.4}", ran.last()),
            format!("{:.3}", ran.last() / best.max(f64::MIN_POSITIVE)),
            ran.reached(0.95 * best).map_or_else(|| "never".into(), format::count),
            ratio(ran.fastest_ms),
            ratio(ran.fastest_certain_ms),
            format!("{:.0}", ran.seconds),
        ]);
    }
    aligned(&rows)
}

/// A candidate of a program.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    candidate: Candidate,
}

/// Answers candidates until stdin ends: first what the space is, then an outcome a line. Candidates meet all samples, unless they are given up.
fn serve(evaluator: &Evaluator, spec: &Spec) -> Result<Done> {
    let space = evaluator.space();
    let kind = |k: Kind| format!("{k:?}").to_lowercase();
    let axis = |a: &crate::space::Axis| {
        let options: Vec<String> = (0..a.len()).map(|o| a.describe(o)).collect();
        json!({"name": a.name, "kind": kind(a.kind()), "options": options})
    };
    let reference = contest::reference(evaluator, spec);
    let horizon = spec.constraints.budget(1.0).map(|_| reference[0]);
    let axes: Vec<_> = space.axes.iter().map(axis).collect();
    let samples = evaluator.samples();
    say(&json!({"axes": axes, "float": evaluator.float_cost(), "samples": samples, "horizon": horizon, "reference": reference}))?;
    let limits = study::limits(evaluator, &spec.constraints);
    let race = Race { samples, above: horizon, alpha: 1.0 - spec.constraints.confidence.0 };
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(Error::io("read", Path::new("stdin")))?;
        let Request { candidate } = parse_yaml(Path::new("stdin"), &line)?;
        if !space.contains(&candidate) {
            let message = format!(
                "a candidate has {} options where the space has {} axes, or an option that is not there",
                candidate.0.len(),
                space.axes.len()
            );
            return Err(Error::spec(Path::new("stdin"), None, message, "give an option's index for every axis of the first line"));
        }
        say(&json!({"outcome": study::judge(evaluator, &limits, &candidate, race)}))?;
    }
    Ok(Done::Well)
}

fn say(value: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}").and_then(|()| out.flush()).map_err(Error::io("write", Path::new("stdout")))
}

/// Says now and then how far a run is.
#[derive(Default)]
struct Lines {
    said: Option<std::time::Instant>,
}

impl Observe for Lines {
    fn event(&mut self, event: Event<'_>) {
        let due = self.said.is_none_or(|s| s.elapsed().as_secs() >= 30);
        match event {
            Event::Preparing { what } => eprintln!("{what} …"),
            Event::Trial { history, .. } if due => {
                self.said = Some(std::time::Instant::now());
                eprintln!("  {} trials, {} samples", history.len() - 1, format::count(inferred(history)));
            }
            _ => {}
        }
    }
}
