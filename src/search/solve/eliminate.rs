//! The elimination itself: lists of labels through the tree of tables, and the way back to the options.

use super::{
    bound::Cuts,
    list::{Label, MOST, Merger, Shift},
    model::{Model, Offsets, offset},
    order::{Kind, Plan},
};

/// Labels that all tables together keep a way back for, 4 bytes each.
const MEMORY: usize = 48_000_000;
/// Labels that one table may hold while it is in use, 24 bytes each.
const LIVE: usize = 3_000_000;
/// Labels that all tables of an exact pass together may hold.
const HELD: usize = 8_000_000;
/// Sums that all joins together, and those of one node, may form.
const JOINS: [usize; 2] = [150_000_000, 50_000_000];

/// How far a pass goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    /// Labels kept in a list.
    pub labels: usize,
    /// Give up when a label that might matter is lost, or when more labels than this were looked at.
    pub exact: Option<u64>,
}

/// The way back from the lists of one node.
#[derive(Debug)]
struct Track {
    /// Where the list of every state starts.
    start: Vec<usize>,
    codes: Vec<u32>,
    /// What the first part of a code is multiplied with.
    stride: u32,
    /// Of a join, whether the labels of the right table are the first part.
    right: bool,
}

/// Lists of one node, kept until they are used.
#[derive(Debug, Default)]
struct Table {
    start: Vec<usize>,
    labels: Vec<Label>,
}

impl Table {
    fn list(&self, state: usize) -> &[Label] {
        &self.labels[self.start[state]..self.start[state + 1]]
    }

    fn longest(&self) -> u32 {
        self.start.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0).max(1) as u32
    }

    /// Appends the list of the next state and keeps its way back.
    fn push(&mut self, track: &mut Vec<u32>, list: Vec<Label>) {
        track.extend(list.iter().map(|l| l.at));
        self.labels.extend(list.into_iter().zip(0..).map(|(l, at)| Label { at, ..l }));
        self.start.push(self.labels.len());
    }
}

/// What a pass has found.
#[derive(Debug)]
pub(super) struct Found {
    /// The front of cost and harm without the model's constants, by ascending cost.
    pub labels: Vec<Label>,
    /// Whether a label that might have mattered was dropped.
    pub lossy: bool,
    tracks: Vec<Track>,
}

/// Runs through the tree. `None` when an exact pass gave up.
pub(super) fn run(model: &Model, plan: &Plan, cuts: Option<&Cuts>, pass: Pass) -> Option<Found> {
    let widest = plan.nodes.iter().map(|n| n.states).max().unwrap_or(1);
    let room = if pass.exact.is_some() { MOST } else { (MEMORY / plan.states().max(1)).min(LIVE / widest).max(64) };
    let mut merger = Merger::new(pass.labels.min(room));
    let mut tables: Vec<Table> = Vec::with_capacity(plan.nodes.len());
    let mut tracks: Vec<Track> = Vec::with_capacity(plan.nodes.len());
    let joins = plan.nodes.iter().filter(|n| matches!(n.kind, Kind::Join { .. })).count();
    let sums = if pass.exact.is_some() { usize::MAX } else { JOINS[1].min(JOINS[0] / joins.max(1)) };
    let mut held = 0;
    for (n, node) in plan.nodes.iter().enumerate() {
        let mut take = |n: usize| std::mem::take(&mut tables[n]);
        let mut table = Table { start: vec![0], labels: Vec::new() };
        let mut track = Track { start: Vec::new(), codes: Vec::new(), stride: 1, right: true };
        let keep = |state: usize| move |cost: f64, harm: f64| cuts.is_none_or(|c| c.keep(n, state, cost, harm));
        match &node.kind {
            Kind::Eliminate { axis, factors, input } => {
                let below = input.map_or_else(start, &mut take);
                track.stride = below.longest();
                let options = model.options[*axis];
                let cluster: Vec<usize> = node.scope.iter().copied().chain([*axis]).collect();
                let inner: &[usize] = input.map_or(&[], |i| &plan.nodes[i].scope);
                let lists: Vec<&[Label]> = Offsets::new(&model.options, &cluster, inner).map(|at| below.list(at)).collect();
                let local = model.local(&node.scope, *axis, factors);
                for (state, (local, lists)) in local.chunks(options).zip(lists.chunks(options)).enumerate() {
                    let options = (0..).zip(local.iter().zip(lists));
                    let shifts: Vec<Shift<'_>> = options.map(|(o, (pair, list))| Shift::new(*pair, o * track.stride, list)).collect();
                    let list = match cuts {
                        None => merger.union(&shifts, |_, _| true),
                        Some(_) => merger.union(&shifts, keep(state)),
                    };
                    table.push(&mut track.codes, list);
                    stop(&pass, &merger, held + table.labels.len())?;
                }
            }
            Kind::Join { left, right } => {
                let at = |n: &usize| Offsets::new(&model.options, &node.scope, &plan.nodes[*n].scope);
                let (mut few, mut many, mut few_at, mut many_at) = (take(*right), take(*left), at(right), at(left));
                if few.labels.len() > many.labels.len() {
                    (few, many, few_at, many_at, track.right) = (many, few, many_at, few_at, false);
                }
                track.stride = many.longest();
                for (state, (f, m)) in few_at.zip(many_at).enumerate() {
                    let product = few.list(f).len().saturating_mul(many.list(m).len()) as u64;
                    if pass.exact.is_some_and(|most| product > most) {
                        return None;
                    }
                    let (few, many) = squeeze(&mut merger, few.list(f), many.list(m), sums / node.states);
                    let shift = |l: &Label| Shift::new([l.cost, l.harm], l.at * track.stride, &many);
                    let shifts: Vec<Shift<'_>> = few.iter().map(shift).collect();
                    let list = merger.union(&shifts, keep(state));
                    table.push(&mut track.codes, list);
                    stop(&pass, &merger, held + table.labels.len())?;
                }
            }
        }
        held += table.labels.len();
        track.start = table.start.clone();
        tables.push(table);
        tracks.push(track);
    }
    let labels = tables.pop().unwrap_or_else(start).labels;
    Some(Found { labels, lossy: merger.lossy, tracks })
}

/// The list of nothing: one label of no cost and no harm.
fn start() -> Table {
    Table { start: vec![0, 1], labels: vec![Label { cost: 0.0, harm: 0.0, at: 0 }] }
}

fn stop(pass: &Pass, merger: &Merger, held: usize) -> Option<()> {
    pass.exact.is_none_or(|most| !merger.lossy && merger.work <= most && held <= HELD).then_some(())
}

/// The two lists of a join, thinned so that their product keeps the budget.
fn squeeze(merger: &mut Merger, few: &[Label], many: &[Label], budget: usize) -> (Vec<Label>, Vec<Label>) {
    if few.len().saturating_mul(many.len()) <= budget {
        return (few.to_vec(), many.to_vec());
    }
    merger.lossy = true;
    let side = budget.isqrt().max(2);
    let few = merger.thin(few, few.len().min(side));
    let room = (budget / few.len().max(1)).max(2);
    let many = merger.thin(many, many.len().min(room));
    (few, many)
}

impl Found {
    /// The options behind a label of the answer.
    pub fn trace(&self, model: &Model, plan: &Plan, label: usize) -> Vec<u16> {
        let mut options = vec![0_u16; model.options.len()];
        let mut at = vec![0_usize; plan.nodes.len()];
        if let Some(root) = at.last_mut() {
            *root = label;
        }
        for (n, (node, track)) in plan.nodes.iter().zip(&self.tracks).enumerate().rev() {
            let state = offset(&model.options, &node.scope, &options);
            let code = track.codes[track.start[state] + at[n]];
            let (first, second) = ((code / track.stride) as usize, (code % track.stride) as usize);
            match &node.kind {
                Kind::Eliminate { axis, input, .. } => {
                    options[*axis] = first as u16;
                    input.iter().for_each(|&i| at[i] = second);
                }
                Kind::Join { left, right } => {
                    (at[*left], at[*right]) = if track.right { (second, first) } else { (first, second) };
                }
            }
        }
        options
    }
}
