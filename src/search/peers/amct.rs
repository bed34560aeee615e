//! AMCT: accuracy-based automatic calibration, then automatic pruning.
//!
//! Everything is quantized to INT8. If that does not keep the budget, layers are ranked by the cosine similarity of their outputs alone, the least
//! similar first, and the shortest prefix of that order that has to go back to float is found by binary search (`accuracy_based_auto_calibration`,
//! strategy `BinarySearch`, sensitivity `CosineSimilarity`). An error that is not correlated with the output gives the similarity 1/√(1 + error),
//! so falling errors of the table are that order. Then the strongest share of channels that keeps the budget everywhere is found by the same search
//! (`amct.prune` with a tolerance: uniform ratios, three or four trials).

use super::{budget, int8, known, on_all, uniform};
use crate::{
    search::{Asked, View},
    space::{Candidate, Kind},
};

/// The next candidate, none at the end.
pub fn ask(view: &View<'_>) -> Vec<Asked> {
    let mut order = int8(view);
    let error = |&(a, o): &(usize, u16)| view.tables.error[a][usize::from(o)];
    order.sort_by(|a, b| error(b).total_cmp(&error(a)).then(a.0.cmp(&b.0)));
    let rolled_back = |prefix: usize| {
        let mut candidate = view.space.mildest();
        order[prefix..].iter().for_each(|&(a, o)| candidate.0[a] = o);
        candidate
    };
    // Quantized by a prefix of 0 it may fail; with all layers in float it does not.
    let quantized = match shortest(view, order.len(), &rolled_back) {
        Ok(prefix) => rolled_back(prefix),
        Err(wanted) => return on_all(view, vec![wanted]),
    };
    let levels = uniform::levels(view.space, Kind::Keep) - 1;
    let pruned = |milder: usize| uniform::at_level(view.space, &quantized, Kind::Keep, levels - milder);
    match shortest(view, levels, &pruned) {
        Ok(_) => Vec::new(),
        Err(wanted) => on_all(view, vec![wanted]),
    }
}

/// The least number of `0..=most` whose candidate keeps the budget; the last is taken to keep it. Or the candidate that has to be known first.
fn shortest(view: &View<'_>, most: usize, candidate: &dyn Fn(usize) -> Candidate) -> Result<usize, Candidate> {
    let keeps = |n: usize| {
        let wanted = candidate(n);
        known(view, &wanted, view.samples).map(|k| k.keeps(budget(view))).ok_or(wanted)
    };
    if most == 0 || keeps(0)? {
        return Ok(0);
    }
    let (mut fails, mut holds) = (0, most);
    while holds - fails > 1 {
        let middle = (fails + holds) / 2;
        if keeps(middle)? { holds = middle } else { fails = middle }
    }
    Ok(holds)
}
