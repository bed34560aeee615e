//! `gulliver finetune`: train a study's point, or a plan.

use std::{
    io::IsTerminal,
    path::PathBuf,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Done, Memory, catch_interrupt, cores, print_json, progress::Lines, start_runtime, table::aligned};
use crate::{
    error::{Error, Result},
    report::format::{self, Unit},
    space::{Build, Plan},
    spec::Spec,
    study::{self, Bench, Finetuned, Folder, How, Journal},
    train::{Checkpoint, Epoch, Progress},
    trial::Score,
};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Arguments of `finetune`.
#[derive(Debug, Args)]
pub struct Finetune {
    /// A study's folder, or a spec (YAML) with --plan
    study: PathBuf,
    /// The study's trial to train
    #[arg(long, required_unless_present = "plan", conflicts_with = "plan")]
    trial: Option<usize>,
    /// A plan (YAML) to train in place of a trial
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Passes over the training samples, in place of the spec's recover.epochs
    #[arg(long)]
    epochs: Option<usize>,
    /// Where the trained model goes; by default finetuned/trial-N.onnx in the study, or the plan's name with -finetuned.onnx
    #[arg(long)]
    out: Option<PathBuf>,
    /// Seed of every random choice, in place of the spec's
    #[arg(long)]
    seed: Option<u64>,
    /// Memory that calibration and training may take, e.g. 512MB
    #[arg(long, default_value_t)]
    max_memory: Memory,
    /// Threads (the machine's); they do not change the result
    #[arg(long)]
    jobs: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Finetune {
    /// Trains, measures and writes.
    pub fn run(&self) -> Result<Done> {
        let runtime = start_runtime()?;
        let interrupt = catch_interrupt("stopping after this step; the same command goes on from the last whole epoch")?;
        let (path, folder) = match self.trial {
            Some(_) => (self.study.join("spec.yaml"), Some(Folder::existing(&self.study)?)),
            None => (self.study.clone(), None),
        };
        let spec = Spec::load(&path)?;
        let mut recover = spec.recover.clone().unwrap_or_default();
        recover.epochs = self.epochs.unwrap_or(recover.epochs).max(1);
        let bench = Bench::open(&runtime, &path, spec.clone())?;
        let (mut plan, build, share) = match (self.trial, &self.plan, &folder) {
            (Some(trial), _, Some(folder)) => (plan_of(&bench, folder, trial)?, Build::Sequential, None),
            (_, Some(plan), _) => {
                let of = &bench.compressor;
                let (plan, written) = Plan::load(plan, &of.model, &of.layers, &of.channels)?;
                (plan, written.build.unwrap_or(Build::Sequential), written.channels)
            }
            _ => return Err(Error::Internal("neither a trial nor a plan".into())),
        };
        let out = self.out.clone().unwrap_or_else(|| self.default_out());
        if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        let training = study::training_data(&spec, &bench)?;
        let data = bench.data()?;
        let threads = self.jobs.unwrap_or_else(cores).max(1);
        let how = How { spec: &recover, seed: self.seed.unwrap_or(spec.search.seed), threads, max_memory: self.max_memory.0 };
        let evaluator = bench.prepare(&data, (threads, self.max_memory.0), folder.as_ref(), false, &mut Lines)?;
        if let Some(share) = share {
            plan = evaluator.setup().compressor.spread(&plan, share, &|p| Ok(evaluator.plan_cost(p)?.latency_ms))?;
        }
        let key = study::checkpoint_key(&data.fingerprint, (&plan, build), &training, how)?;
        let checkpoint = Checkpoint { path: out.with_extension("checkpoint.npz"), key };
        eprintln!("training on {} samples, {} epochs at most, {threads} threads", training.len(), recover.epochs);
        let mut shown = Shown::new(recover.epochs);
        let mut tell = |progress| {
            shown.tell(progress);
            !interrupt.load(Ordering::Relaxed)
        };
        let found = study::finetune(&runtime, &evaluator, (&plan, build), &training, how, (Some(&checkpoint), &out), &mut tell);
        shown.end();
        let Some(found) = found? else { return Ok(Done::Interrupted) };
        let beside = out.with_extension("json");
        let json = serde_json::to_string_pretty(&found).map_err(|e| Error::Internal(format!("the result cannot be written: {e}")))?;
        study::write_atomically(&beside, (json + "\n").as_bytes())?;
        if self.json {
            print_json(&found)?;
        } else {
            println!("{}", table(&found, Unit::of(spec.metric.name())));
            println!("written: {}, {}", out.display(), beside.display());
        }
        Ok(Done::Well)
    }

    fn default_out(&self) -> PathBuf {
        match (self.trial, &self.plan) {
            (Some(trial), _) => self.study.join("finetuned").join(format!("trial-{trial}.onnx")),
            (None, Some(plan)) => PathBuf::from(format!("{}-finetuned.onnx", plan.file_stem().unwrap_or_default().to_string_lossy())),
            (None, None) => PathBuf::from("finetuned.onnx"),
        }
    }
}

/// The plan of a study's trial.
fn plan_of(bench: &Bench, folder: &Folder, trial: usize) -> Result<Plan> {
    let (_, trials) = Journal::read(&folder.0)?;
    let found = trials.iter().find(|t| t.trial == trial && bench.space.contains(&t.candidate));
    let found = found.ok_or_else(|| {
        let remedy = format!("its trials are 1 to {}; `gulliver report` lists the front", trials.len().saturating_sub(1));
        Error::study(&folder.0, format!("has no trial {trial} with a plan"), remedy)
    })?;
    Ok(bench.space.plan(&found.candidate))
}

/// Steps as a bar, epochs as lines.
struct Shown {
    bar: Option<ProgressBar>,
    last: Instant,
    epochs: usize,
}

impl Shown {
    fn new(epochs: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:30} step {pos} of {len}, {eta} left").ok();
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(0));
        let bar = bar.map(|b| style.map_or_else(|| b.clone(), |s| b.clone().with_style(s)));
        Self { bar, last: Instant::now(), epochs }
    }

    fn tell(&mut self, progress: Progress) {
        match progress {
            Progress::Step(done, of) => match &self.bar {
                Some(bar) => {
                    bar.set_length(of);
                    bar.set_position(done);
                }
                None if self.last.elapsed() >= LINE_EVERY => {
                    self.last = Instant::now();
                    eprintln!("step {done} of {of}");
                }
                None => {}
            },
            Progress::Epoch(n, epoch) => {
                let line = line(n, self.epochs, &epoch);
                match &self.bar {
                    Some(bar) => bar.println(line),
                    None => eprintln!("{line}"),
                }
            }
        }
    }

    fn end(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}

fn line(n: usize, of: usize, epoch: &Epoch) -> String {
    let right = epoch.right.map_or_else(String::new, |r| format!(", {}% of them right", format::fixed(100.0 * r, 2)));
    match epoch.loss {
        None => format!("before training: loss of the samples held back {:.4}{right}", epoch.held_back),
        Some(loss) => format!("epoch {n} of {of}: loss {loss:.4}, of the samples held back {:.4}{right}", epoch.held_back),
    }
}

/// The plan before and after training.
fn table(found: &Finetuned, unit: Unit) -> String {
    let drop = if unit == Unit::Points { "drop, points" } else { "drop" };
    let row = |name: &str, score: &Score| {
        let interval = unit.interval(score.drop_low, score.drop_high).unwrap_or_default();
        vec![name.to_string(), format::fixed(score.accuracy, 4), unit.drop(score.drop), interval]
    };
    let lines = [
        ["", "accuracy", drop, "interval"].map(String::from).to_vec(),
        vec!["float".into(), format::fixed(found.float_accuracy, 4), String::new(), String::new()],
        row("before", &found.before),
        row("trained", &found.after),
    ];
    let ratio = |a: f64, b: f64| format::fixed(a / b, 2);
    format!(
        "{}\nlatency {} × float, size {} × float; epoch {} was kept, {:.0} s of training",
        aligned(&lines),
        ratio(found.cost.latency_ms, found.float_cost.latency_ms),
        ratio(found.cost.bytes as f64, found.float_cost.bytes as f64),
        found.best,
        found.seconds,
    )
}
