//! The space of candidates and what they mean.
//!
//! A spec's rules and a model's layers make [`Axis`]es: a precision and a rank for each layer, a keep share for each
//! group. A [`Candidate`] is an option's index for every axis; a [`Plan`] is its meaning, a treatment for every layer.

mod alone;
pub mod amct;
mod axis;
mod build;
mod candidate;
pub mod limits;
mod plan;

use std::{collections::BTreeSet, path::Path};

pub use alone::Alone;
pub use axis::{Axis, Choice, Kind};
pub use build::Build;
pub use candidate::Candidate;
pub use plan::{Plan, Treatment, Written, unmatched};

use crate::{
    device::{Split, Target},
    error::{Error, Result},
    graph::{
        Model,
        group::{Channels, Group},
        layer::{Layer, Layers},
    },
    precision::Precision,
    spec::{Balance, Form, Keep, RangeRule, Rank, Round, SpaceRule, Sparsity, line_of},
};

/// Everything a study may try.
#[derive(Debug, Clone)]
pub struct Space {
    /// The decisions, each with at least two options.
    pub axes: Vec<Axis>,
    /// Treatments that are fixed because a layer has one option only.
    fixed: Plan,
    groups: Vec<Vec<usize>>,
}

impl Space {
    /// Builds the space of a spec's rules for a model: what its layers can take and what brings something on the target.
    ///
    /// # Errors
    /// If a pattern matches no layer (with the spec's line), or nothing is left to decide.
    pub fn new(
        rules: &[SpaceRule],
        (model, layers, channels): (&Model, &Layers, &Channels),
        target: &Target,
        spec: (&Path, &str),
    ) -> Result<Self> {
        let n = layers.layers.len();
        let mut precision = vec![vec![Precision::Fp16]; n];
        let mut keep = vec![vec![Keep(1.0)]; n];
        let mut rank = vec![vec![Rank::Full]; n];
        let mut form = vec![vec![Form::default()]; n];
        let mut sparsity = vec![vec![Sparsity::None]; n];
        let mut methods = vec![Methods::default(); n];
        for rule in rules {
            let picked = rule.layers.pick(&layers.layers).map_err(|idle| unmatched(spec.0, line_of(spec.1, idle), idle, layers))?;
            for l in (0..n).filter(|&l| picked[l]) {
                if let Some(options) = &rule.precision {
                    precision[l].clone_from(options);
                }
                if let Some(options) = &rule.keep {
                    keep[l].clone_from(options);
                }
                if let Some(options) = &rule.rank {
                    rank[l].clone_from(options);
                }
                if let Some(options) = &rule.form {
                    form[l].clone_from(options);
                }
                if let Some(options) = &rule.sparsity {
                    sparsity[l].clone_from(options);
                }
                methods[l].take(rule);
            }
        }
        let mut space =
            Self { axes: Vec::new(), fixed: Plan::identity(layers), groups: channels.groups.iter().map(|g| g.layers.clone()).collect() };
        for (l, layer) in layers.layers.iter().enumerate() {
            let mut options: Vec<Precision> = precision[l]
                .iter()
                .copied()
                .filter(|&p| limits::why_not_precision(layer, p).is_none() && target.why_not_precision(&layer.name, p).is_none())
                .collect();
            options.sort();
            options.dedup();
            space.push(layer.name.clone(), Choice::Precision(l, or_default(options, Precision::Fp16)));
            let splits = splits(model, layer, (&form[l], &rank[l]), target)?;
            space.push(layer.name.clone(), Choice::Rank(l, or_default(splits, None)));
            let strongest = space.strongest_precision(l);
            let mut options = sparsity[l].clone();
            options.retain(|s| {
                *s == Sparsity::None || (limits::why_not_sparse(layer).is_none() && target.why_not_sparse(&layer.name, strongest).is_none())
            });
            options.sort();
            options.dedup();
            space.push(layer.name.clone(), Choice::Sparsity(l, or_default(options, Sparsity::None)));
            space.push_methods(l, layer, &methods[l]);
        }
        for (g, group) in channels.groups.iter().enumerate() {
            let mut options: Vec<f64> = match &group.frozen {
                Some(_) => vec![1.0],
                None => keep[group.layers[0]]
                    .iter()
                    .map(|k| k.0)
                    .filter(|k| group.layers.iter().all(|&l| keep[l].contains(&Keep(*k))))
                    .collect(),
            };
            let multiple = space.multiple(g, group, channels, target);
            options.iter_mut().for_each(|k| *k = limits::snapped(group, *k, multiple));
            options.sort_by(|a, b| b.total_cmp(a));
            options.dedup_by_key(|k| limits::kept_in_group(group, *k));
            options.retain(|&k| k == 1.0 || limits::kept_in_group(group, k) < group.units());
            space.push(group.name.clone(), Choice::Keep(g, or_default(options, 1.0)));
        }
        if space.axes.is_empty() {
            return Err(Error::spec(
                spec.0,
                line_of(spec.1, "space"),
                "the space leaves nothing to decide",
                "give more than one option for some layer; `gulliver inspect` shows what each layer can take",
            ));
        }
        Ok(space)
    }

    /// The strongest precision that a layer may have.
    fn strongest_precision(&self, l: usize) -> Precision {
        let of_axis = self.axes.iter().find_map(|a| match &a.choice {
            Choice::Precision(at, options) if *at == l => options.last().copied(),
            _ => None,
        });
        of_axis.unwrap_or(self.fixed.treatments[l].1.precision)
    }

    /// Multiple in which the channels of a group come: that of a block in the mildest format in which they are read.
    fn multiple(&self, g: usize, group: &Group, channels: &Channels, target: &Target) -> usize {
        let units: BTreeSet<usize> = group.kinds.iter().flatten().copied().collect();
        let reads = |l: &usize| channels.columns[*l].iter().flatten().any(|u| units.contains(u));
        let mildest = |l: usize| {
            let axis = self.axes.iter().find_map(|a| match &a.choice {
                Choice::Precision(at, options) if *at == l => options.first().copied(),
                _ => None,
            });
            axis.unwrap_or(self.fixed.treatments[l].1.precision)
        };
        debug_assert_eq!(self.groups[g], group.layers);
        (0..channels.columns.len()).filter(reads).map(|l| target.channel_multiple(mildest(l))).min().unwrap_or(limits::UNIT)
    }

    /// The methods of a layer that has an integer precision among its options; the first listed counts as the mildest.
    fn push_methods(&mut self, l: usize, layer: &Layer, methods: &Methods) {
        let fixed = self.fixed.treatments[l].1.precision.is_quantized();
        let quantized = fixed || self.axes.iter().any(|a| matches!(&a.choice, Choice::Precision(at, _) if *at == l));
        if !quantized {
            return;
        }
        let choices = [
            methods.activations.clone().map(|o| Choice::Activations(l, o)),
            methods.round.clone().map(|o| Choice::Round(l, o)),
            methods.balance.clone().map(|o| Choice::Balance(l, o)),
        ];
        choices.into_iter().flatten().for_each(|choice| self.push(layer.name.clone(), choice));
    }

    fn push(&mut self, name: String, choice: Choice) {
        let axis = Axis { name, choice };
        if axis.len() > 1 {
            self.axes.push(axis);
        } else {
            apply(&mut self.fixed, &self.groups, &axis, 0);
        }
    }

    /// The candidate of mildest options.
    pub fn mildest(&self) -> Candidate {
        Candidate(vec![0; self.axes.len()])
    }

    /// The meaning of a candidate. The candidate must be of this space. Sparsity yields: a layer that also loses channels or is split is not made
    /// sparse, as the chip takes one or the other of a layer (see [`Plan::check`]).
    pub fn plan(&self, candidate: &Candidate) -> Plan {
        let mut plan = self.fixed.clone();
        for (axis, &option) in self.axes.iter().zip(&candidate.0) {
            apply(&mut plan, &self.groups, axis, usize::from(option));
        }
        for (_, treatment) in &mut plan.treatments {
            if treatment.beside_sparsity().is_some() {
                treatment.sparsity = Sparsity::None;
            }
        }
        plan
    }

    /// Whether a candidate has an option for every axis.
    pub fn contains(&self, candidate: &Candidate) -> bool {
        candidate.0.len() == self.axes.len() && self.axes.iter().zip(&candidate.0).all(|(a, &o)| usize::from(o) < a.len())
    }

    /// Number of candidates as a power of ten.
    pub fn log10_size(&self) -> f64 {
        self.axes.iter().map(|a| (a.len() as f64).log10()).sum()
    }
}

/// Lists of methods that rules gave a layer.
#[derive(Debug, Clone, Default)]
struct Methods {
    activations: Option<Vec<RangeRule>>,
    round: Option<Vec<Round>>,
    balance: Option<Vec<Balance>>,
}

impl Methods {
    fn take(&mut self, rule: &SpaceRule) {
        self.activations = rule.activations.clone().or(self.activations.take());
        self.round = rule.round.clone().or(self.round.take());
        self.balance = rule.balance.clone().or(self.balance.take());
    }
}

/// The decompositions of a layer that a space offers, those with more weights first: in every form, what it can take and what is predicted
/// to be faster than the layer.
fn splits(model: &Model, layer: &Layer, (forms, ranks): (&[Form], &[Rank]), target: &Target) -> Result<Vec<Option<Split>>> {
    let mut found = Vec::new();
    for &rank in ranks {
        for &form in forms {
            let split = limits::split(model, layer, form, rank)?;
            let offered = |s: Split| limits::why_not_split(layer, s).is_none() && target.why_not_split(&layer.name, s).is_none();
            if if rank == Rank::Full { true } else { split.is_some_and(offered) } {
                found.push(split);
            }
        }
    }
    found.sort_by_key(|s| (std::cmp::Reverse(s.map_or(usize::MAX, |s| limits::split_weights(layer, s))), s.map(limits::form)));
    found.dedup();
    Ok(found)
}

fn or_default<T>(options: Vec<T>, default: T) -> Vec<T> {
    if options.is_empty() { vec![default] } else { options }
}

fn apply(plan: &mut Plan, groups: &[Vec<usize>], axis: &Axis, option: usize) {
    match &axis.choice {
        Choice::Precision(layer, o) => plan.treatments[*layer].1.precision = o[option],
        Choice::Rank(layer, o) => plan.treatments[*layer].1.split = o[option],
        Choice::Sparsity(layer, o) => plan.treatments[*layer].1.sparsity = o[option],
        Choice::Activations(layer, o) => plan.treatments[*layer].1.method.activations = Some(o[option]),
        Choice::Round(layer, o) => plan.treatments[*layer].1.method.round = Some(o[option]),
        Choice::Balance(layer, o) => plan.treatments[*layer].1.method.balance = Some(o[option]),
        Choice::Keep(group, o) => groups[*group].iter().for_each(|&l| plan.treatments[l].1.keep = o[option]),
    }
}
