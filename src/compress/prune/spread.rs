//! One share of channels for a whole network, spread over its groups by what is lost and what is gained.
//!
//! Step by step, the group goes on whose next channels lose least (after its readers were fitted again) per cost saved, until so many channels are
//! gone: the greedy solution of the knapsack, whose prices are known for every count from one sweep a group.

use crate::{
    compress::Compressor,
    error::Result,
    space::{Plan, limits},
};

impl Compressor {
    /// Gives the groups of a plan that have all their channels, and can lose some, fewer of them, so that of all theirs together about this share stays.
    /// `cost` is what a plan costs, in any unit: predicted latency, or multiply-adds.
    ///
    /// # Errors
    /// Those of `cost`, or if a weight cannot be read.
    pub fn spread(&self, plan: &Plan, share: f64, cost: &dyn Fn(&Plan) -> Result<f64>) -> Result<Plan> {
        let groups: Vec<usize> = (0..self.channels.groups.len())
            .filter(|&g| {
                let group = &self.channels.groups[g];
                group.frozen.is_none() && group.units() > 1 && group.layers.iter().all(|&l| plan.treatments[l].1.keep >= 1.0)
            })
            .collect();
        let units = |g: usize| self.channels.groups[g].units();
        let total: usize = groups.iter().map(|&g| units(g)).sum();
        let mut lost = Vec::new();
        for &g in &groups {
            lost.push(self.order(g)?.lost.clone());
        }
        let mut now = plan.clone();
        let mut left: Vec<usize> = groups.iter().map(|&g| units(g)).collect();
        let with = |now: &Plan, i: usize, kept: usize| {
            let mut next = now.clone();
            let keep = kept as f64 / units(groups[i]) as f64;
            self.channels.groups[groups[i]].layers.iter().for_each(|&l| next.treatments[l].1.keep = keep);
            next
        };
        let mut price = cost(&now)?;
        while (left.iter().sum::<usize>() as f64) > share * total as f64 {
            let mut best: Option<(f64, usize, Plan, f64)> = None;
            for (i, &g) in groups.iter().enumerate() {
                let step = limits::step(units(g));
                let Some(kept) = left[i].checked_sub(step).filter(|&k| k >= step) else { continue };
                let next = with(&now, i, kept);
                let after = cost(&next)?;
                let at = |kept: usize| lost[i].get(units(g) - kept).copied().unwrap_or(0.0);
                // What saves nothing comes last.
                let saved = (price - after).max(1e-6 * price);
                let value = (at(kept) - at(left[i])).max(0.0) / saved;
                if best.as_ref().is_none_or(|b| value < b.0) {
                    best = Some((value, i, next, after));
                }
            }
            let Some((_, i, next, after)) = best else { break };
            left[i] -= limits::step(units(groups[i]));
            (now, price) = (next, after);
        }
        Ok(now)
    }
}
