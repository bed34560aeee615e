//! Every candidate of a small space, measured: what a search is judged by.

use ndarray::{Axis, concatenate};
use rayon::prelude::*;

use super::{Evaluator, Objective, prefix::Prefix};
use crate::{
    error::{Error, Result},
    space::{Build, Candidate},
    trial::{Outcome, Score},
};

/// Candidates that a space may have to be measured whole.
pub const MOST: usize = 20_000;
/// Candidates that follow each other on one thread, so that they find what the one before left.
const RUN: usize = 81;

impl Evaluator {
    /// Measures every candidate of the space on all samples, in the order of their options, the last axis fastest: those that begin alike run their
    /// beginning once. Values between layers take at most `room` bytes; `each` hears of every candidate, from any thread. Networks are built in
    /// parallel, as suits spaces of precisions alone.
    ///
    /// # Errors
    /// If the space has more than [`MOST`] candidates, or one cannot be built or run.
    pub fn exhaust(&self, room: usize, each: &(dyn Fn() + Sync)) -> Result<Vec<(Candidate, Outcome)>> {
        let setup = self.setup();
        let space = &setup.space;
        let sizes: Vec<usize> = space.axes.iter().map(|a| a.len()).collect();
        let count = sizes.iter().try_fold(1usize, |n, &s| n.checked_mul(s).filter(|n| *n <= MOST)).ok_or_else(|| {
            let message = format!("a space of 10^{:.1} candidates cannot be measured whole", space.log10_size());
            Error::model(&setup.compressor.model.name, message, format!("fix layers in the spec until at most {MOST} candidates are left"))
        })?;
        let candidate = |mut i: usize| {
            let mut options = vec![0; sizes.len()];
            for (slot, &n) in options.iter_mut().zip(&sizes).rev() {
                *slot = u16::try_from(i % n).unwrap_or(0);
                i /= n;
            }
            Candidate(options)
        };
        let prefix = Prefix::new(self.runtime(), &setup.compressor.model, &setup.validation, self.order(), room)?;
        let measure = |i: usize| -> Result<(Candidate, Outcome)> {
            let candidate = candidate(i);
            let cost = self.cost(&candidate)?;
            let made = setup.compressor.twin(&space.plan(&candidate), Build::Parallel)?;
            let outputs = prefix.run(made.as_ref().unwrap_or(&setup.compressor.model))?;
            let views: Vec<_> = outputs.iter().map(|o| o.view()).collect();
            let whole = concatenate(Axis(0), &views).map_err(|e| Error::Internal(format!("outputs of batches: {e}")))?;
            let score = self.score_outputs(&whole)?;
            each();
            Ok((candidate, Outcome::Measured { score, cost }))
        };
        let runs: Vec<usize> = (0..count).step_by(RUN).collect();
        let found: Vec<Vec<(Candidate, Outcome)>> =
            runs.into_par_iter().map(|from| (from..(from + RUN).min(count)).map(measure).collect()).collect::<Result<_>>()?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The score of first outputs for all samples, in the order in which candidates meet them.
    fn score_outputs(&self, outputs: &ndarray::ArrayD<f32>) -> Result<Score> {
        let metric = &self.setup().metric;
        let labels = self.setup().validation.labels().map(|all| self.order().iter().map(|&i| all[i]).collect::<Vec<u32>>());
        let scores = metric.sample_scores(outputs, Some(self.float_outputs()), labels.as_deref())?;
        let distances = self.distance().between(outputs, self.float_outputs())?;
        self.score(&scores, &distances)
    }
}
