//! A study: a spec, its journal of trials, and its front, in one folder.
//!
//! * [`Journal`]: the append-only record; [`run()`]: the loop that fills it; [`Bench`]: what a spec becomes before the
//!   loop can start; [`summarise()`]: from the trials to the result, which is plain data ([`Summary`]); [`Folder`]: the
//!   files of a study.

mod bench;
mod folder;
mod journal;
mod latency_error;
mod options;
mod run;
mod sensitivity;
mod summarise;
pub mod summary;
#[cfg(test)]
mod tests;

pub use bench::{Bench, dataset, input_specs, open_folder, summary_of_run};
pub use folder::{Clock, Folder, write_atomically};
pub use journal::{Fingerprint, Journal};
pub use latency_error::{Judged, tell_apart};
pub use options::For;
pub use run::{Settings, horizon, limits, run};
pub use sensitivity::{Distance, Measured, RankCorrelation, Sensitivity, SensitivityRow, sensitivity, spearman};
pub use summarise::{Context, choose, summarise};
pub use summary::*;

use crate::{search::rollback::Step, space::Axis, trial::Trial};

/// What a study tells while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// A step of the preparation began.
    Preparing {
        /// What is being done, in words.
        what: &'a str,
    },
    /// A trial ended and is in the journal.
    Trial {
        /// The trial.
        trial: &'a Trial,
        /// All trials, this one last.
        history: &'a [Trial],
    },
    /// The front's points whose sequential network is another are about to be built so and measured again.
    Refining {
        /// How many.
        points: usize,
    },
    /// The rollback takes a treatment back.
    RollingBack {
        /// The axis that goes a step back.
        axis: &'a Axis,
        /// The step.
        step: &'a Step,
    },
}

/// Whoever wants to know.
pub trait Observe {
    /// Something happened.
    fn event(&mut self, event: Event<'_>);
}

/// An observer that does not care.
impl Observe for () {
    fn event(&mut self, _: Event<'_>) {}
}
