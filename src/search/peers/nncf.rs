//! NNCF's quantization with accuracy control: groups of quantizers go back to float, the most harmful first, until the budget holds.
//!
//! Everything is quantized to INT8. Groups are ranked by how near the network's output comes to the float model's without the group, on 300
//! samples. The first is reverted and the network measured on everything; if the drop grew, and the step before was no undoing, the step is undone
//! and the groups that are left are ranked anew on the network as it is. NNCF ranks on the samples where the two networks differ most; here they are
//! the first in the order in which all candidates meet them.

use super::{budget, int8, known, on_all};
use crate::{
    search::{Asked, View},
    space::Candidate,
};

/// Samples of a ranking.
const RANKED: usize = 300;

/// The next candidates, none at the end.
pub fn ask(view: &View<'_>) -> Vec<Asked> {
    let mut left: Vec<usize> = int8(view).iter().map(|(a, _)| *a).collect();
    let mut current = view.space.mildest();
    int8(view).iter().for_each(|&(a, o)| current.0[a] = o);
    let Some(mut now) = known(view, &current, view.samples) else { return on_all(view, vec![current]) };
    let mut undone = false;
    let mut ranked: Vec<usize> = Vec::new();
    while !now.keeps(budget(view)) && !left.is_empty() {
        if ranked.is_empty() {
            match ranking(view, &current, &left) {
                Ok(order) => ranked = order,
                Err(asked) => return asked,
            }
        }
        let group = ranked.remove(0);
        left.retain(|a| *a != group);
        let reverted = without(&current, group);
        let Some(after) = known(view, &reverted, view.samples) else { return on_all(view, vec![reverted]) };
        if after.drop() > now.drop() && !undone {
            undone = true;
            ranked.clear();
        } else {
            undone = false;
            (current, now) = (reverted, after);
        }
    }
    Vec::new()
}

fn without(candidate: &Candidate, axis: usize) -> Candidate {
    let mut other = candidate.clone();
    other.0[axis] = 0;
    other
}

/// The groups by the distance that is left without them, the least first; or what has to be measured for it.
fn ranking(view: &View<'_>, current: &Candidate, left: &[usize]) -> Result<Vec<usize>, Vec<Asked>> {
    let samples = RANKED.min(view.samples);
    let mut found = Vec::new();
    let mut unknown = Vec::new();
    for &a in left {
        let candidate = without(current, a);
        match known(view, &candidate, samples) {
            Some(k) => found.push((k.distance(), a)),
            None => unknown.push(Asked { candidate, samples: Some(samples), predicted: None }),
        }
    }
    if !unknown.is_empty() {
        return Err(unknown);
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    Ok(found.into_iter().map(|(_, a)| a).collect())
}
