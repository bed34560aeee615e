//! Bounds on what the rest of a plan must cost, by min-sum elimination on the same tree, upwards and outwards.
//!
//! For a price of cost in harm the least of harm + price * cost bounds every plan from below (Lagrangian relaxation:
//! Everett, Operations Research 11, 1963); the best price follows from the lower hull of all plans.

use super::{
    model::{Model, Offsets, Pair, offset},
    order::{Kind, Plan},
};

/// Share of the largest magnitudes within which two sums count as equal.
pub(super) const ROUNDING: f64 = 1e-12;

fn real(x: f64) -> f64 {
    if x.is_finite() { x } else { f64::INFINITY }
}

/// Min-sum elimination for one weight of cost and harm.
pub(super) struct Sweep<'a, W> {
    model: &'a Model,
    plan: &'a Plan,
    weigh: W,
    /// The least weight below every node, for each of its states; infinite where nothing is possible.
    up: Vec<Vec<f64>>,
}

impl<'a, W: Fn(Pair) -> f64> Sweep<'a, W> {
    pub fn new(model: &'a Model, plan: &'a Plan, weigh: W) -> Self {
        let mut sweep = Self { model, plan, weigh, up: Vec::with_capacity(plan.nodes.len()) };
        for node in &plan.nodes {
            let table = match &node.kind {
                Kind::Eliminate { axis, factors, input } => {
                    let mut cluster = sweep.local(&node.scope, *axis, factors);
                    if let Some(i) = *input {
                        let below = sweep.along(&with(&node.scope, *axis), i);
                        cluster.iter_mut().zip(below).for_each(|(w, s)| *w = real(*w + sweep.up[i][s]));
                    }
                    cluster.chunks(model.options[*axis]).map(|c| c.iter().copied().fold(f64::INFINITY, f64::min)).collect()
                }
                Kind::Join { left, right } => {
                    let value = |n: usize| sweep.along(&node.scope, n).map(move |s| (n, s));
                    value(*left).zip(value(*right)).map(|((l, i), (r, j))| real(sweep.up[l][i] + sweep.up[r][j])).collect()
                }
            };
            sweep.up.push(table);
        }
        sweep
    }

    /// States of a node along the assignments of `over`.
    fn along(&self, over: &[usize], node: usize) -> Offsets {
        Offsets::new(&self.model.options, over, &self.plan.nodes[node].scope)
    }

    /// Weight of every assignment of a scope and every option of an axis, without what lies below.
    fn local(&self, scope: &[usize], axis: usize, factors: &[usize]) -> Vec<f64> {
        self.model.local(scope, axis, factors).into_iter().map(|p| self.weight(p)).collect()
    }

    fn weight(&self, pair: Pair) -> f64 {
        if pair.iter().all(|x| x.is_finite()) { real((self.weigh)(pair)) } else { f64::INFINITY }
    }

    /// The least weight outside every node, for each of its states.
    pub fn outward(&self) -> Vec<Vec<f64>> {
        let mut out: Vec<Vec<f64>> = self.plan.nodes.iter().map(|n| vec![f64::INFINITY; n.states]).collect();
        if let Some(root) = out.last_mut() {
            root.fill(0.0);
        }
        for (n, node) in self.plan.nodes.iter().enumerate().rev() {
            let above = std::mem::take(&mut out[n]);
            match &node.kind {
                Kind::Eliminate { axis, factors, input } => {
                    if let Some(i) = *input {
                        let options = self.model.options[*axis];
                        let local = self.local(&node.scope, *axis, factors);
                        for ((k, w), s) in local.iter().enumerate().zip(self.along(&with(&node.scope, *axis), i)) {
                            out[i][s] = out[i][s].min(real(w + above[k / options]));
                        }
                    }
                }
                Kind::Join { left, right } => {
                    for (k, (l, r)) in self.along(&node.scope, *left).zip(self.along(&node.scope, *right)).enumerate() {
                        out[*left][l] = out[*left][l].min(real(above[k] + self.up[*right][r]));
                        out[*right][r] = out[*right][r].min(real(above[k] + self.up[*left][l]));
                    }
                }
            }
            out[n] = above;
        }
        out
    }

    /// The plan of least weight; of equal ones the lowest option of the axis eliminated last.
    pub fn least(&self) -> Option<Vec<u16>> {
        let mut options = vec![0_u16; self.model.options.len()];
        for (n, node) in self.plan.nodes.iter().enumerate().rev() {
            let state = offset(&self.model.options, &node.scope, &options);
            if !self.up[n].get(state)?.is_finite() {
                return None;
            }
            if let Kind::Eliminate { axis, factors, input } = &node.kind {
                let count = self.model.options[*axis];
                let mut cluster: Vec<f64> = self.model.slice(*axis, factors, &options).into_iter().map(|p| self.weight(p)).collect();
                for (option, weight) in cluster.iter_mut().enumerate() {
                    options[*axis] = option as u16;
                    let below = input.map_or(0.0, |i| self.up[i][offset(&self.model.options, &self.plan.nodes[i].scope, &options)]);
                    *weight = real(*weight + below);
                }
                let best = (0..count).min_by(|&a, &b| cluster[a].total_cmp(&cluster[b]))?;
                options[*axis] = best as u16;
            }
        }
        Some(options)
    }
}

fn with(scope: &[usize], axis: usize) -> Vec<usize> {
    scope.iter().copied().chain([axis]).collect()
}

/// What a label must keep to be able to become part of the best plan within a limit.
#[derive(Debug)]
pub(super) struct Cuts {
    /// The limit of cost, without the model's constant.
    limit: f64,
    /// The least harm known to be reachable, without the model's constant.
    best: f64,
    scale: Pair,
    /// Least cost outside every node.
    cost: Vec<Vec<f64>>,
    /// Prices of cost with the least weight outside every node.
    lines: Vec<(f64, Vec<Vec<f64>>)>,
}

impl Cuts {
    /// Cuts for a limit of the cost without constants, and prices that bound the harm.
    pub fn new(model: &Model, plan: &Plan, limit: f64, prices: &[f64]) -> Self {
        let line = |&price: &f64| (price, Sweep::new(model, plan, |[c, h]: Pair| h + price * c).outward());
        Self {
            limit,
            best: f64::INFINITY,
            scale: model.scale(),
            cost: Sweep::new(model, plan, |[c, _]: Pair| c).outward(),
            lines: prices.iter().map(line).collect(),
        }
    }

    /// Lowers the least harm known to be reachable.
    pub fn known(&mut self, harm: f64) {
        self.best = self.best.min(harm);
    }

    /// Whether a label of a node and state can still become the best plan.
    pub fn keep(&self, node: usize, state: usize, cost: f64, harm: f64) -> bool {
        let below = |(price, out): &(f64, Vec<Vec<f64>>)| {
            let slack = ROUNDING * (self.scale[1] + price * self.scale[0]);
            let limit = if *price > 0.0 { price * self.limit } else { 0.0 };
            harm + price * cost + out[node][state] <= self.best + limit + slack
        };
        cost + self.cost[node][state] <= self.limit + ROUNDING * self.scale[0] && self.lines.iter().all(below)
    }
}
