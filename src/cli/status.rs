//! `gulliver status`: how a study stands, from its journal alone.

use std::path::PathBuf;

use clap::Args;

use super::{Done, print_json};
use crate::{
    error::Result,
    report,
    study::{Folder, Journal},
    trial::{Origin, Outcome, Trial},
};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The study's folder
    study: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(serde::Serialize)]
struct Standing {
    study: String,
    trials: usize,
    search_trials: usize,
    search_trials_asked: usize,
    measured: usize,
    stopped_early: usize,
    rejected_by_limit: usize,
    failed: Vec<String>,
    certifying: usize,
    steps: usize,
    seconds: f64,
    chosen: Option<usize>,
}

impl Status {
    /// Prints the counts, and the front if it was written.
    pub fn run(&self) -> Result<Done> {
        let folder = Folder::existing(&self.study)?;
        let (_, trials) = Journal::read(&folder.0)?;
        let spec = folder.spec()?;
        let count = |f: fn(&Trial) -> bool| trials.iter().filter(|t| f(t)).count();
        let summary = folder.summary().ok().filter(|s| s.cost.trials == trials.len());
        let standing = Standing {
            study: self.study.display().to_string(),
            trials: trials.len(),
            search_trials: count(|t| t.origin == Origin::Search),
            search_trials_asked: spec.search.trials,
            measured: count(|t| matches!(t.outcome, Outcome::Measured { .. })),
            stopped_early: count(|t| matches!(t.outcome, Outcome::Stopped { .. })),
            rejected_by_limit: count(|t| matches!(t.outcome, Outcome::Rejected { .. })),
            failed: trials
                .iter()
                .filter_map(
                    |t| if let Outcome::Failed { reason } = &t.outcome { Some(format!("trial {}: {reason}", t.trial)) } else { None },
                )
                .collect(),
            certifying: count(|t| t.origin == Origin::Certify),
            steps: count(|t| matches!(t.origin, Origin::Rollback | Origin::Spend)),
            seconds: folder.clock().seconds,
            chosen: summary.as_ref().and_then(|s| s.chosen),
        };
        if self.json {
            print_json(&standing)?;
            return Ok(Done::Well);
        }
        println!(
            "{}: {} of at most {} search trials, {} to certify, {} steps back or forth, {:.0} s so far",
            standing.study, standing.search_trials, standing.search_trials_asked, standing.certifying, standing.steps, standing.seconds
        );
        println!(
            "{} measured in full, {} stopped early, {} rejected by a limit, {} failed",
            standing.measured,
            standing.stopped_early,
            standing.rejected_by_limit,
            standing.failed.len()
        );
        standing.failed.iter().take(5).for_each(|f| println!("  {f}"));
        match summary {
            Some(summary) => println!("\n{}\n{}", report::front_table(&summary), report::headline(&summary)),
            None => println!("front.json is older than the journal: `gulliver report {}` makes it again", standing.study),
        }
        Ok(Done::Well)
    }
}
