//! AIMET's automatic mixed precision, and Quark's: a list of single changes by what each costs alone, flipped down as long as the budget holds.
//!
//! Phase 1 measures every option of every axis alone. Phase 2 orders them by accuracy, the least harmful first, and finds by binary search the longest
//! prefix that keeps the budget together (Pandey et al. 2023, arXiv 2302.05397, with AIMET's accuracy list in place of SQNR); of the entries of an axis
//! the strongest counts. AIMET has lists of precisions; here options of channels and ranks stand in the same list, which it does not do.

use super::{budget, known, on_all};
use crate::{
    search::{Asked, View},
    space::{Candidate, Kind},
};

/// The next candidates, none at the end.
pub fn ask(view: &View<'_>) -> Vec<Asked> {
    let alone = |a: usize, o: u16| {
        let mut one = view.space.mildest();
        one.0[a] = o;
        one
    };
    let decides = |kind: Kind| matches!(kind, Kind::Precision | Kind::Keep | Kind::Rank | Kind::Sparsity);
    let axes = view.space.axes.iter().enumerate().filter(|(_, axis)| decides(axis.kind()));
    let options: Vec<(usize, u16)> =
        axes.flat_map(|(a, axis)| (1..axis.len()).filter_map(move |o| Some((a, u16::try_from(o).ok()?)))).collect();
    let unknown: Vec<Candidate> = options.iter().map(|&(a, o)| alone(a, o)).filter(|c| known(view, c, view.samples).is_none()).collect();
    if !unknown.is_empty() {
        return on_all(view, unknown);
    }
    let drop = |&(a, o): &(usize, u16)| known(view, &alone(a, o), view.samples).map_or(f64::INFINITY, |k| k.drop());
    let mut list: Vec<(usize, u16)> = options.into_iter().filter(|e| drop(e).is_finite()).collect();
    list.sort_by(|a, b| drop(a).total_cmp(&drop(b)).then(a.cmp(b)));
    let flipped = |prefix: usize| {
        let mut candidate = view.space.mildest();
        list[..prefix].iter().for_each(|&(a, o)| candidate.0[a] = candidate.0[a].max(o));
        candidate
    };
    let (mut holds, mut fails) = (0, list.len() + 1);
    while fails - holds > 1 {
        let middle = (holds + fails) / 2;
        let wanted = flipped(middle);
        match known(view, &wanted, view.samples) {
            None => return on_all(view, vec![wanted]),
            Some(found) if found.keeps(budget(view)) => holds = middle,
            Some(_) => fails = middle,
        }
    }
    Vec::new()
}
