//! `gulliver report`: a study's result again from its journal.

use std::{path::PathBuf, process::Command};

use clap::Args;

use super::{Done, print_json, shown, start_runtime};
use crate::{
    error::Result,
    report,
    study::{Folder, Journal, Stop, open_folder},
    trial::Origin,
};

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The study's folder
    study: PathBuf,
    /// Open the report in the browser
    #[arg(long)]
    open: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

impl Report {
    /// Writes front.json and the report; models are written by `tune`.
    pub fn run(&self) -> Result<Done> {
        let folder = Folder::existing(&self.study)?;
        let (fingerprint, trials) = Journal::read(&folder.0)?;
        let current = folder.summary().ok().filter(|s| s.cost.trials == trials.len());
        let summary = match current {
            Some(summary) => summary,
            None => {
                let bench = open_folder(&start_runtime()?, &folder)?;
                let searched = trials.iter().filter(|t| t.origin == Origin::Search).count();
                let asked = bench.spec.search.trials;
                let stop = if searched >= asked { Stop::Trials { trials: asked } } else { Stop::Interrupted { trials: trials.len() } };
                bench.summary(&trials, &fingerprint, stop, folder.clock())?
            }
        };
        folder.write_summary(&summary)?;
        let files = report::write(&summary, &folder.0)?;
        if self.json {
            print_json(&summary)?;
        } else {
            println!("{}\nwritten: {}", report::headline(&summary), shown(&files));
        }
        if self.open {
            let page = folder.0.join("report.html");
            let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
            if Command::new(program).arg(&page).status().is_ok_and(|s| s.success()) {
                return Ok(Done::Well);
            }
            eprintln!("no browser could be opened: open {} yourself", page.display());
        }
        Ok(Done::Well)
    }
}
