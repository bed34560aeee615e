//! One share of channels for a whole network, spread over its groups by what is lost.
//!
//! Wanted is the least loss at which so many channels are gone and the network costs no more than with the same share taken from every group. Step by step the
//! group goes on whose next channels have the least loss less μ times the cost they save, both per channel: prices of all counts are known from one sweep a
//! group. μ is the smallest at which the cost is met, found by bisection; 0 where channels that lose little are dear ones anyway.

use crate::{
    compress::Compressor,
    error::Result,
    space::{Plan, limits},
};

/// Steps after which what each group would save is asked for again: it changes with its neighbours.
const REFRESH: usize = 8;
/// Times that μ is halved in on, on a logarithmic scale.
const BISECTIONS: usize = 5;

/// What is spread.
struct Spread<'a> {
    compressor: &'a Compressor,
    plan: &'a Plan,
    /// Groups that take part, their units and what is lost when so many are gone.
    groups: Vec<(usize, usize, Vec<f64>)>,
    share: f64,
    cost: &'a dyn Fn(&Plan) -> Result<f64>,
    /// Cost before anything is gone.
    whole: f64,
}

impl Compressor {
    /// Gives the groups of a plan that have all their channels, and can lose some, fewer of them, so that of all theirs together about this share stays.
    /// `cost` is what a plan costs, in any unit: predicted latency, or multiply-adds.
    ///
    /// # Errors
    /// Those of `cost`, or if a weight cannot be read.
    pub fn spread(&self, plan: &Plan, share: f64, cost: &dyn Fn(&Plan) -> Result<f64>) -> Result<Plan> {
        let mut groups = Vec::new();
        for (g, group) in self.channels.groups.iter().enumerate() {
            let whole = group.layers.iter().all(|&l| plan.treatments[l].1.keep >= 1.0);
            if group.frozen.is_none() && group.units() > 1 && whole {
                groups.push((g, group.units(), self.order(g)?.lost.clone()));
            }
        }
        let spread = Spread { compressor: self, plan, groups, share, cost, whole: cost(plan)? };
        let even = spread.groups.iter().fold(plan.clone(), |now, &(g, ..)| spread.with(&now, g, share));
        let limit = cost(&even)?;
        let (mut best, price) = spread.walk(0.0)?;
        if price <= limit {
            return Ok(best);
        }
        let (mut low, mut high) = (0.0, 1e-3_f64);
        loop {
            let (found, price) = spread.walk(high)?;
            best = found;
            if price <= limit || high > 1e4 {
                break;
            }
            (low, high) = (high, high * 10.0);
        }
        for _ in 0..BISECTIONS {
            let middle = if low > 0.0 { (low * high).sqrt() } else { high / 4.0 };
            let (found, price) = spread.walk(middle)?;
            if price <= limit {
                (best, high) = (found, middle);
            } else {
                low = middle;
            }
        }
        Ok(best)
    }
}

impl Spread<'_> {
    fn with(&self, now: &Plan, g: usize, keep: f64) -> Plan {
        let mut next = now.clone();
        self.compressor.channels.groups[g].layers.iter().for_each(|&l| next.treatments[l].1.keep = keep);
        next
    }

    /// Takes channels away until the share is reached; the plan and its cost.
    fn walk(&self, weight: f64) -> Result<(Plan, f64)> {
        let mut now = self.plan.clone();
        let mut price = self.whole;
        let mut left: Vec<usize> = self.groups.iter().map(|g| g.1).collect();
        let target = self.share * left.iter().sum::<usize>() as f64;
        let mut saved: Vec<Option<f64>> = vec![None; left.len()];
        for step in 0.. {
            if left.iter().sum::<usize>() as f64 <= target {
                break;
            }
            if step % REFRESH == 0 {
                saved.iter_mut().for_each(|s| *s = None);
            }
            let mut best: Option<(f64, usize, usize)> = None;
            for (i, (g, units, lost)) in self.groups.iter().enumerate() {
                let size = limits::step(*units);
                let Some(kept) = left[i].checked_sub(size).filter(|&k| k >= size) else { continue };
                let gain = match saved[i] {
                    Some(known) => known,
                    None if weight == 0.0 => 0.0,
                    None => price - (self.cost)(&self.with(&now, *g, kept as f64 / *units as f64))?,
                };
                saved[i] = Some(gain);
                let at = |kept: usize| lost.get(units - kept).copied().unwrap_or(0.0);
                let value = (at(kept) - at(left[i]) - weight * gain / self.whole.max(1e-30)) / size as f64;
                if best.is_none_or(|b| value < b.0) {
                    best = Some((value, i, kept));
                }
            }
            let Some((_, i, kept)) = best else { break };
            let (g, units, _) = &self.groups[i];
            now = self.with(&now, *g, kept as f64 / *units as f64);
            left[i] = kept;
            saved[i] = None;
            if weight > 0.0 {
                price = (self.cost)(&now)?;
            }
        }
        Ok((now.clone(), (self.cost)(&now)?))
    }
}
