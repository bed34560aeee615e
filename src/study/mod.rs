//! A study: a spec, its journal of trials, and its front, in one folder.
//!
//! * [`Journal`]: the append-only record; [`run()`]: the loop that fills it; [`Bench`]: what a spec becomes before the
//!   loop can start; [`summarise()`]: from the trials to the result, which is plain data ([`Summary`]); [`Folder`]: the
//!   files of a study.

mod bench;
pub mod contest;
mod finetune;
mod folder;
mod journal;
mod knowledge;
mod latency_error;
mod options;
mod run;
mod sensitivity;
mod summarise;
pub mod summary;
#[cfg(test)]
mod tests;

pub use bench::{Bench, dataset, input_specs, open_folder, summary_of_run};
pub use contest::{Ran, Terms};
pub use finetune::{Finetuned, How, checkpoint_key, finetune, training_data};
pub use folder::{Clock, Folder, write_atomically};
pub use journal::{Fingerprint, Journal};
pub use knowledge::tables;
pub use latency_error::{Judged, tell_apart};
pub use options::For;
pub use run::{Settings, judge, limits, run};
pub use sensitivity::{Distance, Measured, RankCorrelation, Sensitivity, SensitivityRow, sensitivity, spearman};
pub use summarise::{Context, choose, summarise};
pub use summary::*;

use crate::{
    search::{additive::Expected, rollback::Step},
    space::Axis,
    trial::Trial,
};

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
    /// What front is expected, before anything was measured.
    Expected {
        /// Its points, by rising latency.
        points: &'a [Expected],
        /// The float model's trial.
        history: &'a [Trial],
    },
    /// What leads the front is about to meet more samples.
    Certifying {
        /// How many candidates.
        points: usize,
        /// How many samples each, those that they met among them.
        samples: usize,
        /// All trials so far.
        history: &'a [Trial],
    },
    /// A step back or forth is about to be measured.
    Stepping {
        /// The axis that moves.
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
