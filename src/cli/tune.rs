//! `gulliver tune`: run a study, or go on with it.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;

use super::{Done, Memory, catch_interrupt, cores, print_json, progress::Progress, shown, start_runtime};
use crate::{
    error::Result,
    evaluate::{Evaluator, Objective},
    report,
    search::Tables,
    space::Build,
    spec::{Seconds, Spec},
    study::{self, Bench, Clock, Folder, Journal, Settings, Stop, Summary, Verdict},
    trial::Trial,
};

/// Arguments of `tune`.
#[derive(Debug, Args)]
pub struct Tune {
    /// The study's spec (YAML)
    spec: PathBuf,
    /// Folder of the study; by default studies/ and the spec's name
    #[arg(long)]
    study: Option<PathBuf>,
    /// Time the study may take over all its sessions, e.g. 10m or 8h
    #[arg(long)]
    time: Option<Seconds>,
    /// Trials the search may make
    #[arg(long)]
    trials: Option<std::num::NonZeroUsize>,
    /// Evaluations at once, one thread each; by default one a core
    #[arg(long)]
    jobs: Option<usize>,
    /// Memory that calibration may take, e.g. 512MB
    #[arg(long, default_value_t)]
    max_memory: Memory,
    /// Seed of the search
    #[arg(long)]
    seed: Option<u64>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

impl Tune {
    /// Runs the study.
    pub fn run(&self) -> Result<Done> {
        let mut spec = Spec::load(&self.spec)?;
        spec.search.trials = self.trials.map_or(spec.search.trials, std::num::NonZeroUsize::get);
        spec.search.time = self.time.or(spec.search.time);
        spec.search.seed = self.seed.unwrap_or(spec.search.seed);
        let dir = self.study.clone().unwrap_or_else(|| Path::new("studies").join(self.spec.file_stem().unwrap_or_default()));
        let folder = Folder::create(&dir)?;
        let runtime = start_runtime()?;
        let started = Instant::now();
        let interrupt =
            catch_interrupt("finishing the trials at hand; press Ctrl-C again to stop at once (nothing that is in the journal is lost)")?;
        let bench = Bench::open(&runtime, &self.spec, spec.clone())?;
        let data = bench.data()?;
        let (mut journal, mut history) = Journal::open(&folder.0, &data.fingerprint)?;
        folder.write_spec(&spec)?;
        let jobs = self.jobs.unwrap_or_else(cores).max(1);
        let old = folder.clock();
        let mut progress = Progress::begin(&spec, &bench, &history, (data.validation.len(), jobs), old.seconds);
        let key = bench.tables_key(&data)?;
        let evaluator = bench.prepare(&data, (jobs, self.max_memory.0), Some(&folder), false, &mut progress)?;
        let pass = if old.baseline_pass_seconds > 0.0 { old.baseline_pass_seconds } else { evaluator.baseline_seconds() };
        let clock = || Clock { seconds: old.seconds + started.elapsed().as_secs_f64(), baseline_pass_seconds: pass };
        progress.keep_time(folder.clone(), clock());
        let tables = study::tables(&evaluator, jobs, &interrupt, Some((&folder.tables(), &key)), &mut progress)?;
        let tables = tables.unwrap_or_else(|| Tables::unknown(evaluator.space()));
        let settings = Settings {
            search: &spec.search,
            constraints: &spec.constraints,
            tables: &tables,
            samples: None,
            jobs,
            spent: clock().seconds,
            interrupt: &interrupt,
        };
        let stop = study::run(&evaluator, &settings, &mut journal, &mut history, &mut progress)?;
        progress.end();
        folder.write_clock(clock())?;
        let interrupted = matches!(stop, Stop::Interrupted { .. });
        let summary = study::summary_of_run(&spec, &evaluator, &history, stop, clock(), data.facts)?;
        let files = write_result(&folder, &evaluator, &history, &summary)?;
        if self.json {
            print_json(&summary)?;
        } else {
            println!("{}", report::front_table(&summary));
            println!("{}\n", report::headline(&summary));
            println!("written: {}", shown(&files));
        }
        if interrupted {
            eprintln!("stopped. To go on: gulliver tune {} --study {}", self.spec.display(), dir.display());
            return Ok(Done::Interrupted);
        }
        Ok(if summary.verdict == Verdict::Missed { Done::BudgetMissed } else { Done::Well })
    }
}

/// Writes everything but the journal.
fn write_result(folder: &Folder, evaluator: &Evaluator, history: &[Trial], summary: &Summary) -> Result<Vec<PathBuf>> {
    folder.write_summary(summary)?;
    let mut files = report::write(summary, &folder.0)?;
    files.truncate(1);
    folder.keep_only(&summary.front)?;
    let setup = evaluator.setup();
    for point in &summary.front {
        let Some(trial) = history.get(point.trial) else { continue };
        let plan = setup.space.plan(&trial.candidate);
        study::write_atomically(&folder.plan(point.trial), plan.to_yaml_built(Build::Sequential)?.as_bytes())?;
        let model = folder.model(point.trial);
        study::write_atomically(&model, &evaluator.network(&trial.candidate)?)?;
        if summary.chosen == Some(point.trial) {
            files.push(model);
        }
    }
    files.push(folder.0.join("front.json"));
    Ok(files)
}
