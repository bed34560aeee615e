//! Lists of labels: what can be reached, as a front of cost and harm.
//!
//! The one operation is the union of shifted lists, pruned to its front (Kellerer, Pferschy, Pisinger, "Knapsack
//! Problems", 2004, chapter 11). Short unions are exact; long ones keep the least harm of each of equally wide
//! buckets of cost. Labels keep their exact figures either way, so that nothing in a list is ever unreachable.

use super::model::Pair;

/// Labels that a list can hold at most, so that an option and a label fit into 32 bits.
pub(super) const MOST: usize = 1 << 16;
/// A union of up to this many times the labels of a list is tried exactly first.
const EXACT: usize = 3;

/// Something that can be reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Label {
    pub cost: f64,
    pub harm: f64,
    /// Where it comes from; in a finished list its own index.
    pub at: u32,
}

const EMPTY: Label = Label { cost: 0.0, harm: f64::INFINITY, at: 0 };

/// A list of which every label is moved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shift<'a> {
    cost: f64,
    harm: f64,
    /// Added to where the label comes from.
    base: u32,
    labels: &'a [Label],
}

impl<'a> Shift<'a> {
    pub fn new([cost, harm]: Pair, base: u32, labels: &'a [Label]) -> Self {
        Self { cost, harm, base, labels }
    }

    #[inline]
    fn of(&self, l: &Label) -> Label {
        Label { cost: l.cost + self.cost, harm: l.harm + self.harm, at: self.base.wrapping_add(l.at) }
    }
}

/// Space for unions, and what they did.
#[derive(Debug, Default)]
pub(super) struct Merger {
    /// Labels kept in a list.
    labels: usize,
    slots: Vec<Label>,
    pool: Vec<Label>,
    /// Whether a label that might have mattered was dropped.
    pub lossy: bool,
    /// Labels looked at.
    pub work: u64,
}

impl Merger {
    pub fn new(labels: usize) -> Self {
        Self { labels: labels.clamp(2, MOST), ..Self::default() }
    }

    /// The front of the union of the lists among what `keep` keeps; figures that are not finite are dropped.
    pub fn union(&mut self, shifts: &[Shift<'_>], keep: impl Fn(f64, f64) -> bool) -> Vec<Label> {
        let total: usize = shifts.iter().map(|s| s.labels.len()).sum();
        self.work = self.work.saturating_add(total as u64);
        let keep = |l: &Label| l.cost.is_finite() && l.harm.is_finite() && keep(l.cost, l.harm);
        if total > EXACT * self.labels {
            let kept = self.buckets(shifts, keep);
            if kept.len() >= self.labels / 2 {
                self.lossy = true;
                return kept;
            }
        }
        let exact = self.exact(shifts, keep);
        if exact.len() <= self.labels {
            return exact;
        }
        self.lossy = true;
        self.thin(&exact, self.labels)
    }

    /// At most `labels` of a front: its ends and the least harm of each bucket of cost.
    pub fn thin(&mut self, list: &[Label], labels: usize) -> Vec<Label> {
        let whole = std::mem::replace(&mut self.labels, labels.max(2));
        let kept = self.buckets(&[Shift::new([0.0; 2], 0, list)], |_| true);
        self.labels = whole;
        kept
    }

    fn exact(&mut self, shifts: &[Shift<'_>], keep: impl Fn(&Label) -> bool) -> Vec<Label> {
        self.pool.clear();
        let mut full = 4 * self.labels;
        for shift in shifts {
            self.pool.extend(shift.labels.iter().map(|l| shift.of(l)).filter(&keep));
            if self.pool.len() > full {
                front(&mut self.pool);
                full = full.max(2 * self.pool.len());
            }
        }
        front(&mut self.pool);
        self.pool.clone()
    }

    fn buckets(&mut self, shifts: &[Shift<'_>], keep: impl Fn(&Label) -> bool) -> Vec<Label> {
        let first = |s: &Shift<'_>| s.labels.iter().map(|l| s.of(l)).find(&keep);
        let last = |s: &Shift<'_>| s.labels.iter().rev().map(|l| s.of(l)).find(&keep);
        let by_cost = |a: &Label, b: &Label| a.cost.total_cmp(&b.cost).then(a.harm.total_cmp(&b.harm));
        let by_harm = |a: &Label, b: &Label| a.harm.total_cmp(&b.harm).then(a.cost.total_cmp(&b.cost));
        let Some(cheapest) = shifts.iter().filter_map(first).min_by(by_cost) else { return Vec::new() };
        let Some(mildest) = shifts.iter().filter_map(last).min_by(by_harm) else { return Vec::new() };
        let (low, high, count) = (cheapest.cost, mildest.cost, self.labels - 1);
        let scale = if high > low { count as f64 / (high - low) } else { 0.0 };
        self.slots.clear();
        self.slots.resize(count, EMPTY);
        for shift in shifts {
            for label in shift.labels.iter().map(|l| shift.of(l)) {
                if label.cost > high {
                    break;
                }
                let slot = &mut self.slots[(((label.cost - low) * scale) as usize).min(count - 1)];
                if (label.harm < slot.harm || (label.harm == slot.harm && label.cost < slot.cost)) && keep(&label) {
                    *slot = label;
                }
            }
        }
        let mut kept = Vec::with_capacity(count + 1);
        kept.push(cheapest);
        let mut harm = cheapest.harm;
        kept.extend(self.slots.iter().copied().filter(|l| {
            l.harm < harm && {
                harm = l.harm;
                true
            }
        }));
        kept
    }
}

/// Leaves the non-dominated labels in order of cost; of equal ones the first.
fn front(labels: &mut Vec<Label>) {
    labels.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(a.harm.total_cmp(&b.harm)));
    let mut harm = f64::INFINITY;
    labels.retain(|l| {
        l.harm < harm && {
            harm = l.harm;
            true
        }
    });
}
