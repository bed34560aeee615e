//! Uniform plans: every layer at the same level, as a person would try first.

use std::collections::HashSet;

use super::on_all;
use crate::{
    search::{Asked, View},
    space::{Axis, Candidate, Kind, Space},
};

/// Asks for every uniform plan once.
pub fn ask(view: &View<'_>) -> Vec<Asked> {
    let seen: HashSet<&Candidate> = view.history.iter().map(|t| &t.candidate).collect();
    let new: Vec<Candidate> = plans(view.space).into_iter().filter(|p| !seen.contains(p) && view.affordable(p)).collect();
    on_all(view, new)
}

/// A candidate with all axes of a kind at one level, or their strongest if they have fewer.
pub(in crate::search) fn at_level(space: &Space, base: &Candidate, kind: Kind, level: usize) -> Candidate {
    let set = |(axis, &old): (&Axis, &u16)| {
        if axis.kind() == kind { u16::try_from(level.min(axis.len() - 1)).unwrap_or(0) } else { old }
    };
    Candidate(space.axes.iter().zip(&base.0).map(set).collect())
}

/// Options of the longest axis of a kind, at least one.
pub(in crate::search) fn levels(space: &Space, kind: Kind) -> usize {
    space.axes.iter().filter(|a| a.kind() == kind).map(|a| a.len()).max().unwrap_or(1)
}

/// Every level of precision, alone and with every level of channels or of ranks, the strongest precision first.
pub(super) fn plans(space: &Space) -> Vec<Candidate> {
    let mut found = Vec::new();
    for precision in (0..levels(space, Kind::Precision)).rev() {
        let base = at_level(space, &space.mildest(), Kind::Precision, precision);
        found.push(base.clone());
        for kind in [Kind::Keep, Kind::Rank] {
            found.extend((1..levels(space, kind)).map(|level| at_level(space, &base, kind, level)));
        }
    }
    let mut seen = HashSet::new();
    found.retain(|p| seen.insert(p.clone()));
    found
}
