//! From the error at a layer to the distance at the output: a few options of every axis are measured.
//!
//! How much of an error reaches the output a layer does not know. So of every axis an option or two are applied and the distance between
//! the outputs with and without them is measured, without labels, on a few of the calibration samples: once in the float network, and once in
//! a network in which all else is treated at random, where errors meet other errors. Networks that begin alike run their beginning once
//! ([`prefix`](super::prefix)).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{Evaluator, distance::mean, prefix::Prefix};
use crate::{
    error::Result,
    graph::Model,
    space::{Build, Candidate, Kind, Space},
};

/// Calibration samples that options are measured on.
const SAMPLES: usize = 128;
/// Bytes of inner values that are kept at most.
const ROOM: usize = 512 << 20;
/// Random surroundings beside those of the float network.
const SURROUNDINGS: usize = 1;
/// A ratio of distance to error that nothing was measured of.
const UNKNOWN: f64 = 1.0;

/// What was measured of an option.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Anchor {
    /// Axis.
    pub axis: usize,
    /// Option.
    pub option: usize,
    /// Mean distance of the outputs with it from those without it, over surroundings.
    pub distance: f64,
}

impl Evaluator {
    /// Damage of all options from their errors: as measured where they were measured, between and beside these in proportion to the error.
    ///
    /// # Errors
    /// If a network cannot be built or run.
    pub fn damage(&self, error: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
        let anchors = self.anchors(error)?;
        Ok(scaled(error, &anchors))
    }

    /// Measures the strongest option of every axis, and the mildest one if there are more than two.
    ///
    /// # Errors
    /// If a network cannot be built or run.
    pub fn anchors(&self, error: &[Vec<f64>]) -> Result<Vec<Anchor>> {
        let setup = self.setup();
        let space = &setup.space;
        let Some((data, samples)) = setup.compressor.calibration_samples(SAMPLES) else { return Ok(Vec::new()) };
        let prefix = Prefix::new(self.runtime(), &setup.compressor.model, &data, &samples, ROOM)?;
        let network = |candidate: &Candidate| -> Result<Model> {
            let made = setup.compressor.twin(&space.plan(candidate), Build::Parallel)?;
            Ok(made.unwrap_or_else(|| setup.compressor.model.clone()))
        };
        let mut sums: Vec<(usize, usize, Vec<f64>)> =
            wanted(space, error).into_iter().map(|(axis, option)| (axis, option, Vec::new())).collect();
        for base in surroundings(space) {
            // Its values stay, and every change of it begins with them.
            prefix.run(&network(&base)?)?;
            let measure = |(axis, option, found): &mut (usize, usize, Vec<f64>)| -> Result<()> {
                let set = |o: usize| {
                    let mut one = base.clone();
                    one.0[*axis] = u16::try_from(o).unwrap_or(0);
                    one
                };
                let (before, after) = (prefix.run(&network(&set(0))?)?, prefix.run(&network(&set(*option))?)?);
                let pairs = before.iter().zip(after.iter());
                let distances = pairs.map(|(b, a)| self.distance().between(a, b)).collect::<Result<Vec<_>>>()?.concat();
                found.push(mean(&distances));
                Ok(())
            };
            sums.par_iter_mut().map(measure).collect::<Result<Vec<()>>>()?;
        }
        Ok(sums.into_iter().map(|(axis, option, found)| Anchor { axis, option, distance: mean(&found) }).collect())
    }
}

/// Which options are measured.
fn wanted(space: &Space, error: &[Vec<f64>]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (a, of) in error.iter().enumerate() {
        let costly = |o: &usize| of[*o].is_finite() && (of[*o] > 0.0 || space.axes[a].kind() != Kind::Precision);
        let options: Vec<usize> = (1..of.len()).filter(costly).collect();
        let method = matches!(space.axes[a].kind(), Kind::Activations | Kind::Round | Kind::Balance);
        let (Some(&first), Some(&last)) = (options.first(), options.last()) else { continue };
        if !method {
            found.push((a, last));
            found.extend((options.len() > 1).then_some((a, first)));
        }
    }
    found
}

/// The mildest candidate, and random ones that lean to the mild side.
fn surroundings(space: &Space) -> Vec<Candidate> {
    let mut rng = ChaCha8Rng::seed_from_u64(space.axes.len() as u64);
    let mut draw = || {
        let mut option = |n: usize| ((n as f64 * rng.random_range(0.0..1.0_f64).powi(2)) as usize).min(n - 1);
        Candidate(space.axes.iter().map(|a| u16::try_from(option(a.len())).unwrap_or(0)).collect())
    };
    std::iter::once(space.mildest()).chain((0..SURROUNDINGS).map(|_| draw())).collect()
}

/// Damage in proportion to the error, by the ratio of the anchors of the axis: between two in proportion to the logarithm of the error. An axis without
/// an anchor has the median ratio of all.
fn scaled(error: &[Vec<f64>], anchors: &[Anchor]) -> Vec<Vec<f64>> {
    let ratio = |a: &Anchor| (error[a.axis][a.option], a.distance / error[a.axis][a.option]);
    let mut all: Vec<f64> = anchors.iter().map(|a| ratio(a).1).filter(|r| r.is_finite() && *r > 0.0).collect();
    all.sort_by(f64::total_cmp);
    let median = all.get(all.len() / 2).copied().unwrap_or(UNKNOWN);
    let of_axis = |(axis, of): (usize, &Vec<f64>)| {
        let mut known: Vec<(f64, f64)> =
            anchors.iter().filter(|a| a.axis == axis).map(ratio).filter(|(e, r)| *e > 0.0 && *r > 0.0).collect();
        known.sort_by(|a, b| a.0.total_cmp(&b.0));
        let damage = |(option, &e): (usize, &f64)| {
            if option == 0 || e.is_nan() {
                return e;
            }
            let measured = anchors.iter().find(|a| a.axis == axis && a.option == option).map(|a| a.distance);
            measured.unwrap_or_else(|| e * between(&known, e).unwrap_or(median))
        };
        of.iter().enumerate().map(damage).collect()
    };
    error.iter().enumerate().map(of_axis).collect()
}

/// The ratio at an error, from known ones by rising error.
fn between(known: &[(f64, f64)], error: f64) -> Option<f64> {
    let (first, last) = (known.first()?, known.last()?);
    if known.len() < 2 || error <= first.0 || last.0 <= first.0 {
        return Some(first.1);
    }
    let share = ((error / first.0).ln() / (last.0 / first.0).ln()).min(1.0);
    Some((first.1.ln() * (1.0 - share) + last.1.ln() * share).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_in_proportion_to_the_error_between_anchors() {
        let error = [vec![0.0, 0.01, 0.1, 1.0], vec![0.0, 0.5], vec![0.0, 2.0]];
        let anchor = |axis, option, distance| Anchor { axis, option, distance };
        let found = scaled(&error, &[anchor(0, 1, 0.02), anchor(0, 3, 0.5), anchor(1, 1, 0.05)]);
        // Ratios 2 and 0.5 at errors 0.01 and 1: at 0.1 it is their geometric mean.
        assert!(found[0].iter().zip([0.0, 0.02, 0.1, 0.5]).all(|(a, b)| (a - b).abs() < 1e-12), "{:?}", found[0]);
        assert_eq!(found[1], [0.0, 0.05]);
        // No anchor: the median of the ratios 0.1, 0.5 and 2.
        assert_eq!(found[2], [0.0, 1.0]);
    }
}
