//! The order of elimination, as a tree of tables (Dechter, "Bucket elimination", Artificial Intelligence 113, 1999).
//!
//! Axes leave by least fill or by smallest table, whichever gives the smaller sum of tables. Every node is either an
//! elimination with at most one table below it, for which a shift of its lists is enough, or a join of two tables. An
//! elimination that would start a list of its own takes up a table that fits into its scope instead: that spares a
//! join later, and chains and separate components are walked in one pass.

use super::model::Model;

/// Factor by which taking up a waiting table may multiply its size.
const GROWTH: usize = 8;

/// How the table of a node comes about.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// The best of the options of `axis`, for every assignment of the scope.
    Eliminate { axis: usize, factors: Vec<usize>, input: Option<usize> },
    /// The sums of the labels of two tables.
    Join { left: usize, right: usize },
}

/// A table over the axes of `scope`, ascending, last fastest.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub scope: Vec<usize>,
    pub states: usize,
    pub kind: Kind,
}

/// Nodes, each after those below it; the last one has an empty scope and holds the answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub nodes: Vec<Node>,
}

impl Plan {
    /// Entries of all tables.
    pub fn states(&self) -> usize {
        self.nodes.iter().map(|n| n.states).sum()
    }
}

/// The better of the two orders; the axes of a table that is too large if both hold one.
pub(super) fn plan(model: &Model, states: usize) -> Result<Plan, Vec<usize>> {
    match (Builder::new(model).build(states, true), Builder::new(model).build(states, false)) {
        (Ok(a), Ok(b)) => Ok(if b.states() < a.states() { b } else { a }),
        (Ok(plan), Err(_)) | (Err(_), Ok(plan)) => Ok(plan),
        (Err(_), Err(axes)) => Err(axes),
    }
}

struct Builder<'a> {
    model: &'a Model,
    /// Neighbours of every axis as bits.
    near: Vec<Vec<u64>>,
    /// Axes not yet eliminated.
    left: Vec<usize>,
    /// Factors that wait for the first of their axes.
    factors: Vec<usize>,
    /// Nodes whose tables wait to be used.
    waiting: Vec<usize>,
    nodes: Vec<Node>,
}

fn members(bits: &[u64]) -> impl Iterator<Item = usize> + '_ {
    bits.iter().enumerate().flat_map(|(w, &word)| (0..64).filter(move |b| word >> b & 1 == 1).map(move |b| w * 64 + b))
}

impl<'a> Builder<'a> {
    fn new(model: &'a Model) -> Self {
        let axes = model.options.len();
        let mut near = vec![vec![0_u64; axes.div_ceil(64)]; axes];
        for factor in &model.factors {
            for &a in &factor.axes {
                factor.axes.iter().filter(|&&b| b != a).for_each(|&b| near[a][b / 64] |= 1 << (b % 64));
            }
        }
        let factors = (0..model.factors.len()).collect();
        Self { model, near, left: (0..axes).collect(), factors, waiting: Vec::new(), nodes: Vec::new() }
    }

    fn build(mut self, states: usize, by_fill: bool) -> Result<Plan, Vec<usize>> {
        while let Some(axis) = self.next(by_fill) {
            if self.table(axis) > states as f64 {
                return Err(members(&self.near[axis]).chain([axis]).collect());
            }
            self.eliminate(axis);
        }
        while let [left, right, ..] = self.waiting[..] {
            self.join(left, right);
        }
        Ok(Plan { nodes: self.nodes })
    }

    /// The axis to leave next: the smallest of fill and table, then one that continues a waiting table, then the first.
    fn next(&self, by_fill: bool) -> Option<usize> {
        let rank = |axis: usize| {
            let fresh = if self.waiting.iter().any(|&n| self.nodes[n].scope.contains(&axis)) { 1.0 } else { 2.0 };
            let (fill, table) = (self.fill(axis) as f64, self.table(axis) * fresh);
            if by_fill { [fill, table] } else { [table, fill] }
        };
        let ranked = self.left.iter().map(|&a| (rank(a), a));
        ranked.min_by(|a, b| a.0[0].total_cmp(&b.0[0]).then(a.0[1].total_cmp(&b.0[1])).then(a.1.cmp(&b.1))).map(|(_, a)| a)
    }

    fn table(&self, axis: usize) -> f64 {
        members(&self.near[axis]).map(|a| self.model.options[a] as f64).product()
    }

    /// Twice the edges that eliminating an axis adds.
    fn fill(&self, axis: usize) -> u64 {
        let missing = |u: usize| self.near[axis].iter().zip(&self.near[u]).map(|(a, b)| u64::from((a & !b).count_ones())).sum::<u64>() - 1;
        members(&self.near[axis]).map(missing).sum()
    }

    fn eliminate(&mut self, axis: usize) {
        let scope: Vec<usize> = members(&self.near[axis]).collect();
        let near = std::mem::take(&mut self.near[axis]);
        for &u in &scope {
            self.near[u].iter_mut().zip(&near).for_each(|(a, b)| *a |= b);
            self.near[u][u / 64] &= !(1 << (u % 64));
            self.near[u][axis / 64] &= !(1 << (axis % 64));
        }
        self.left.retain(|&a| a != axis);
        let (factors, rest) = self.factors.iter().partition(|&&f| self.model.factors[f].axes.contains(&axis));
        self.factors = rest;
        let states = self.size(&scope);
        let mut incoming: Vec<usize> = self.waiting.iter().copied().filter(|&n| self.nodes[n].scope.contains(&axis)).collect();
        while incoming.len() > 1 {
            let pairs = (1..incoming.len()).flat_map(|j| (0..j).map(move |i| (i, j)));
            let union = |&(i, j): &(usize, usize)| self.size(&self.union(incoming[i], incoming[j]));
            let Some((i, j)) = pairs.min_by_key(union) else { break };
            let joined = self.join(incoming[i], incoming[j]);
            incoming.remove(j);
            incoming[i] = joined;
        }
        let fits = |&n: &usize| self.nodes[n].scope.iter().all(|a| scope.contains(a)) && states <= GROWTH * self.nodes[n].states;
        let taken = || self.waiting.iter().copied().filter(fits).max_by_key(|&n| (self.nodes[n].scope.len(), n));
        let input = incoming.first().copied().or_else(taken);
        self.waiting.retain(|n| Some(*n) != input);
        self.push(Node { scope, states, kind: Kind::Eliminate { axis, factors, input } });
    }

    fn join(&mut self, left: usize, right: usize) -> usize {
        let scope = self.union(left, right);
        self.waiting.retain(|&n| n != left && n != right);
        self.push(Node { states: self.size(&scope), scope, kind: Kind::Join { left, right } })
    }

    fn push(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.waiting.push(self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn union(&self, a: usize, b: usize) -> Vec<usize> {
        let mut scope: Vec<usize> = self.nodes[a].scope.iter().chain(&self.nodes[b].scope).copied().collect();
        scope.sort_unstable();
        scope.dedup();
        scope
    }

    fn size(&self, scope: &[usize]) -> usize {
        scope.iter().map(|&a| self.model.options[a]).product()
    }
}
