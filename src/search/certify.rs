//! Racing: who meets more samples, and who is given up.
//!
//! Search trials meet a subset of the samples, always the first in one fixed order. What leads the front of these, by drop and distance together
//! ([`Surrogate::estimate`]), meets four times as many, and so on up to all (successive halving, Jamieson and Talwalkar 2016, arXiv 1502.07943, with the
//! front in place of a best half). At any sample a candidate ends that is over the horizon for certain, or whose drop is for certain above that of a
//! candidate that met every sample and costs no more.

use std::collections::HashSet;

use super::{Asked, Surrogate, View, holds, without_own};
use crate::{
    front::{front, hypervolume},
    space::Candidate,
    trial::{Cost, Origin, Outcome, Trial, counting},
};

/// How many times as many samples the next rung has.
const GROWTH: usize = 4;
/// Candidates that may keep the budget and are led on beyond the number that is asked for.
const HOPES: usize = 1;
/// Share of the front's area that a point has to add to be led on.
const WORTH: f64 = 0.001;

/// The drop above which a candidate of this cost is of no use: the horizon, or what a measured one offers for no more.
pub fn ceiling(view: &View<'_>, cost: &Cost) -> f64 {
    let offers = |t: &Trial| {
        let (score, other) = t.outcome.measured().filter(|_| t.origin != Origin::Baseline)?;
        (other.latency_ms <= cost.latency_ms && other.bytes <= cost.bytes).then_some(score.drop)
    };
    view.history.iter().filter_map(offers).fold(view.horizon, f64::min)
}

/// Samples of the rung after one that met so many; the last rung is all of them, and none is nearly as large.
pub fn rung(met: usize, all: usize) -> usize {
    let next = met.saturating_mul(GROWTH);
    if 2 * next >= all { all } else { next }
}

/// What is known of a candidate and where it stands.
struct Runner<'a> {
    trial: &'a Trial,
    samples: usize,
    point: [f64; 3],
    sure: bool,
}

impl Runner<'_> {
    /// Half the width of the interval that it would have on all samples, as far as those that it met tell.
    fn half_width(&self, all: usize) -> f64 {
        let interval = self.trial.outcome.scored().and_then(|(s, _)| Some((s.drop_high? - s.drop_low?) / 2.0));
        interval.unwrap_or(0.0) * (self.samples as f64 / all.max(1) as f64).sqrt()
    }
}

/// Candidates that are to meet more samples; none when all that lead the front have met all. What is predicted of them is by the model fitted to all
/// other candidates. At most `most` points are led to the end: those that add most to the front, and the fastest within the budget.
pub fn ask(view: &View<'_>, surrogate: &Surrogate, most: usize) -> Vec<Asked> {
    // A race that is run again may end earlier than the samples that were met before.
    let ended = |t: &&Trial| !matches!(t.outcome, Outcome::Measured { .. } | Outcome::Sampled { .. });
    let given_up: HashSet<&Candidate> = view.history.iter().filter(ended).map(|t| &t.candidate).collect();
    let runner = |trial: &'_ Trial| -> Option<([f64; 3], usize, bool)> {
        if trial.origin == Origin::Baseline || given_up.contains(&trial.candidate) {
            return None;
        }
        let (score, cost) = trial.outcome.scored()?;
        let all = score.samples >= view.samples;
        let drop = if all { score.drop } else { surrogate.estimate(score, &trial.candidate).0 };
        let sure = all && view.budget.is_some_and(|b| holds(score, b));
        let useful = cost.latency_ms < view.limits.float.latency_ms && view.limits.broken(cost).is_none() && drop <= view.horizon;
        useful.then_some(([drop, cost.latency_ms, cost.bytes as f64], score.samples, sure))
    };
    let runners: Vec<Runner<'_>> = counting(view.history)
        .into_iter()
        .filter_map(|trial| runner(trial).map(|(point, samples, sure)| Runner { trial, samples, point, sure }))
        .collect();
    let points: Vec<[f64; 3]> = runners.iter().map(|r| r.point).collect();
    let leading: Vec<&Runner<'_>> = front(&points).into_iter().map(|i| &runners[i]).collect();
    let kept = leaders(view, &leading, most);
    let open = |r: &&&Runner<'_>| r.samples < view.samples;
    let lowest = kept.iter().filter(open).map(|r| r.samples).min();
    let due = kept.iter().filter(open).filter(|r| Some(r.samples) == lowest);
    let asked = |r: &&Runner<'_>| {
        let candidate = r.trial.candidate.clone();
        let predicted = Some(without_own(view, &candidate).drop(&candidate));
        Asked { samples: Some(rung(r.samples, view.samples)), predicted, candidate }
    };
    due.map(asked).collect()
}

/// Those of the front that are led to the end: who met all samples was, and others as long as there is room. Beyond that, the fastest that may keep the
/// budget.
fn leaders<'a, 'b>(view: &View<'_>, leading: &[&'a Runner<'b>], most: usize) -> Vec<&'a Runner<'b>> {
    let flat = |r: &Runner<'_>| [r.point[0].max(0.0), r.point[1]];
    let worst = leading.iter().map(|r| r.point[0]).fold(0.0_f64, f64::max).max(1e-6) * 1.1;
    let reference = [worst, view.limits.float.latency_ms];
    let (mut kept, mut open): (Vec<&Runner<'_>>, Vec<&Runner<'_>>) = leading.iter().partition(|r| r.samples >= view.samples);
    if let Some(budget) = view.budget {
        let fastest = kept.iter().filter(|r| r.sure).map(|r| r.point[1]).fold(f64::INFINITY, f64::min);
        let hopes = |r: &&Runner<'b>| r.point[0] + r.half_width(view.samples) <= budget && r.point[1] < fastest;
        let mut may: Vec<&Runner<'_>> = open.iter().copied().filter(hopes).collect();
        may.sort_by(|a, b| a.point[1].total_cmp(&b.point[1]));
        kept.extend(may.into_iter().take(HOPES));
    }
    let led = view.history.iter().filter(|t| t.origin != Origin::Baseline && t.outcome.measured().is_some()).count();
    let mut room = most.saturating_sub(led);
    let area = |points: &[&Runner<'_>]| hypervolume(&points.iter().map(|r| flat(r)).collect::<Vec<_>>(), reference);
    while room > 0 {
        open.retain(|r| !kept.iter().any(|k| std::ptr::eq(*k, *r)));
        let now = area(&kept);
        let gain = |r: &&&Runner<'b>| area(&kept.iter().copied().chain([**r]).collect::<Vec<_>>()) - now;
        let best = open.iter().map(|r| (gain(&r), *r)).max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.trial.trial.cmp(&a.1.trial.trial)));
        let Some((_, best)) = best.filter(|(gain, _)| *gain > WORTH * now) else { break };
        kept.push(best);
        room -= 1;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::rung;

    #[test]
    fn rungs_grow_fourfold_and_the_last_is_all() {
        let from = |first: usize, all: usize| {
            let rungs = std::iter::successors(Some(first), |&m| (m < all).then(|| rung(m, all)));
            rungs.collect::<Vec<_>>()
        };
        assert_eq!(from(512, 10_000), [512, 2048, 10_000]);
        assert_eq!(from(512, 50_000), [512, 2048, 8192, 50_000]);
        assert_eq!(from(512, 2000), [512, 2000]);
        assert_eq!(from(500, 500), [500]);
    }
}
