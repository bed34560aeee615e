//! The option table: every option of a space alone, with what it does to the outputs of its layers, what it saves, and the weights that it makes.
//!
//! No sample is run: all follows from the calibration. Weights and errors are kept by their content in the folder that the compressor was given, so
//! that a table made once is read, not made.

use std::sync::atomic::AtomicBool;

use super::{LayerTreatment, SensitivityRow, sensitivity::in_order};
use crate::{
    compress::Compressor,
    device::{Profile, predict},
    error::Result,
    evaluate::predict_plan,
    space::{Alone, Choice, Plan, Space, Treatment},
    trial::Cost,
};

/// What a table is made for.
#[derive(Clone, Copy)]
pub struct For<'a> {
    /// The network, calibrated.
    pub compressor: &'a Compressor,
    /// The options.
    pub space: &'a Space,
    /// The chip.
    pub profile: &'a Profile,
    /// Batch of the predicted times.
    pub batch: usize,
}

impl For<'_> {
    /// Cost of the float network as options change it: what normalising alone saves is no option's merit.
    ///
    /// # Errors
    /// If the network has no cost on the chip.
    pub fn float_cost(&self) -> Result<Cost> {
        let plain = self.compressor.outline_normalised(&Plan::identity(&self.compressor.layers), self.batch)?;
        Ok(Cost { latency_ms: predict(&plain.kernels(), self.profile).latency_ms, bytes: plain.bytes_on(self.profile) })
    }

    /// Rows of all options, not measured, made by so many threads; `each` hears how many of how many steps are done: first the order in which
    /// channels go in each group, then the options. When `interrupt` is set, what is done is given back.
    ///
    /// # Errors
    /// If a weight cannot be read, or the network has no cost on the chip.
    pub fn options(&self, jobs: usize, interrupt: &AtomicBool, each: &mut dyn FnMut(usize, usize)) -> Result<Vec<SensitivityRow>> {
        let options = self.space.alone();
        let mut groups: Vec<usize> =
            options.iter().filter_map(|o| if let Choice::Keep(g, _) = o.axis.choice { Some(g) } else { None }).collect();
        groups.dedup();
        // The widest sweeps first, so that no thread is left with one at the end.
        groups.sort_by_key(|&g| std::cmp::Reverse(self.compressor.channels.groups[g].units()));
        let all = groups.len() + options.len();
        in_order(groups.len(), jobs, interrupt, &mut |done, _| each(done, all), |i| self.compressor.order(groups[i]))?;
        let float = self.float_cost()?;
        in_order(options.len(), jobs, interrupt, &mut |done, _| each(groups.len() + done, all), |i| self.row(&options[i], float))
    }

    fn row(&self, option: &Alone, float: Cost) -> Result<SensitivityRow> {
        let (outline, prediction) = predict_plan(self.compressor, &option.plan, self.profile, self.batch)?;
        let bytes = outline.bytes_on(self.profile);
        let (mut precision, mut keep) = (None, None);
        let mut other = Treatment::NONE;
        match &option.axis.choice {
            Choice::Precision(_, o) => precision = o.first().copied(),
            Choice::Keep(_, o) => keep = o.first().copied(),
            Choice::Rank(_, o) => other.split = o.first().copied().flatten(),
            Choice::Sparsity(_, o) => other.sparsity = o.first().copied().unwrap_or_default(),
            Choice::Activations(..) | Choice::Round(..) | Choice::Balance(..) => {}
        }
        let LayerTreatment { rank, form, sparsity, .. } = LayerTreatment::of(&other);
        Ok(SensitivityRow {
            layer: option.axis.name.clone(),
            layers: option.layers.iter().map(|&l| self.compressor.layers.layers[l].name.clone()).collect(),
            option: option.axis.describe(0),
            precision,
            keep,
            rank,
            form,
            sparsity,
            predicted_error: self.compressor.damage(&option.plan)?,
            measured: None,
            failed: None,
            us_saved: (float.latency_ms - prediction.latency_ms) * 1e3,
            bytes_saved: float.bytes.cast_signed() - bytes.cast_signed(),
        })
    }
}
