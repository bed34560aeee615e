//! Plans: a treatment for every layer; the unit that is compressed, evaluated and exported.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    device::Split,
    error::{Error, Result},
    graph::{Model, group::Channels, layer::Layers},
    precision::Precision,
    spec::{Form, Keep, Method, Patterns, PlanRule, Rank, Sparsity, line_of, parse_yaml},
};

use super::{Build, limits};

/// What is done to one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Treatment {
    /// Weights and activations.
    pub precision: Precision,
    /// Share of output channels kept.
    pub keep: f64,
    /// Decomposition into two or three layers; none for none.
    pub split: Option<Split>,
    /// Zeros by pattern.
    pub sparsity: Sparsity,
    /// How it is quantized, if it is.
    pub method: Method,
}

impl Treatment {
    /// Nothing is done.
    pub const NONE: Self = Self {
        precision: Precision::Fp16,
        keep: 1.0,
        split: None,
        sparsity: Sparsity::None,
        method: Method { activations: None, round: None, balance: None },
    };

    /// Whether anything is done.
    pub fn changes_nothing(&self) -> bool {
        Self { method: Method::default(), ..*self } == Self::NONE
    }
}

impl Treatment {
    /// What of a treatment with zeros by pattern cannot be done with them: fewer channels or a split of the same layer.
    pub fn beside_sparsity(&self) -> Option<String> {
        match self {
            Self { sparsity: Sparsity::None, .. } => None,
            Self { keep, .. } if *keep < 1.0 => Some(format!("keep {keep}")),
            Self { split, .. } => split.map(limits::describe),
        }
    }
}

impl std::fmt::Display for Treatment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.precision)?;
        if self.keep < 1.0 {
            write!(f, ", keep {}", self.keep)?;
        }
        if let Some(split) = self.split {
            write!(f, ", {}", limits::describe(split))?;
        }
        if self.sparsity != Sparsity::None {
            write!(f, ", sparsity {}", self.sparsity)?;
        }
        if self.precision.is_quantized() && self.method != Method::default() {
            write!(f, ", {}", self.method)?;
        }
        Ok(())
    }
}

/// A treatment for every layer, in graph order.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Layer names and treatments.
    pub treatments: Vec<(String, Treatment)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    /// Share of all channels that stays, spread over the groups that no rule cuts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    channels: Option<Keep>,
    /// How the network is to be built, if it matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    build: Option<Build>,
    #[serde(default)]
    treatments: Vec<PlanRule>,
}

/// What a plan file says besides treatments.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Written {
    /// Share of all channels that is to be spread over the groups that the plan does not cut.
    pub channels: Option<f64>,
    /// How the network is to be built.
    pub build: Option<Build>,
}

impl Plan {
    /// The plan that changes nothing.
    pub fn identity(layers: &Layers) -> Self {
        Self { treatments: layers.layers.iter().map(|l| (l.name.clone(), Treatment::NONE)).collect() }
    }

    /// Whether the plan changes nothing.
    pub fn is_identity(&self) -> bool {
        self.treatments.iter().all(|(_, t)| t.changes_nothing())
    }

    /// Whether channels, ranks or zeros change, and with them the network's inner values.
    pub fn changes_structure(&self) -> bool {
        self.treatments.iter().any(|(_, t)| t.keep < 1.0 || t.split.is_some() || t.sparsity != Sparsity::None)
    }

    /// The plan as a short list of what changes.
    pub fn as_map(&self) -> BTreeMap<&str, &Treatment> {
        self.treatments.iter().map(|(n, t)| (n.as_str(), t)).collect()
    }

    /// Reads a plan file: rules in order, later ones win. Beside the plan, what else the file says.
    ///
    /// # Errors
    /// If the file is malformed, a pattern matches no layer, or a layer cannot be treated as asked.
    pub fn load(path: &Path, model: &Model, layers: &Layers, channels: &Channels) -> Result<(Self, Written)> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let file: PlanFile = parse_yaml(path, &text)?;
        let mut plan = Self::identity(layers);
        let mut ranks = vec![(Form::default(), Rank::Full); layers.layers.len()];
        for rule in &file.treatments {
            let picked = rule.layers.pick(&layers.layers).map_err(|idle| unmatched(path, line_of(&text, idle), idle, layers))?;
            for l in (0..layers.layers.len()).filter(|&l| picked[l]) {
                ranks[l] = (rule.form.unwrap_or(ranks[l].0), rule.rank.unwrap_or(ranks[l].1));
                let treatment = &mut plan.treatments[l].1;
                if let Some(precision) = rule.precision {
                    treatment.precision = precision;
                }
                if let Some(keep) = rule.keep {
                    treatment.keep = keep.0;
                }
                treatment.method.activations = rule.activations.or(treatment.method.activations);
                treatment.method.round = rule.round.or(treatment.method.round);
                treatment.method.balance = rule.balance.or(treatment.method.balance);
                treatment.sparsity = rule.sparsity.unwrap_or(treatment.sparsity);
            }
        }
        for ((layer, (_, treatment)), (form, rank)) in layers.layers.iter().zip(&mut plan.treatments).zip(ranks) {
            treatment.split = limits::split(model, layer, form, rank)?;
        }
        plan.check(layers, channels)?;
        Ok((plan, Written { channels: file.channels.map(|k| k.0), build: file.build }))
    }

    /// Checks that every layer can be treated as the plan asks.
    ///
    /// # Errors
    /// Names the layer and the reason.
    pub fn check(&self, layers: &Layers, channels: &Channels) -> Result<()> {
        for (l, (layer, (_, treatment))) in layers.layers.iter().zip(&self.treatments).enumerate() {
            let refuse = |what: String, reason: &str| {
                Error::layer(&layer.name, format!("{what} is not possible: {reason}"), "`gulliver inspect` shows what each layer can take")
            };
            if treatment.precision != Precision::Fp16
                && let Some(reason) = limits::why_not_precision(layer, treatment.precision)
            {
                return Err(refuse(format!("precision {}", treatment.precision), &reason));
            }
            if treatment.keep < 1.0 {
                if let Some(reason) = limits::why_not_keep(l, channels) {
                    return Err(refuse(format!("keep {}", treatment.keep), &reason));
                }
                let group = channels.group_of[l].map(|g| &channels.groups[g]);
                for &other in group.map_or(&[][..], |g| &g.layers) {
                    if (self.treatments[other].1.keep - treatment.keep).abs() > 1e-9 {
                        let name = &layers.layers[other].name;
                        return Err(Error::layer(
                            &layer.name,
                            format!(
                                "keeps {} of its channels, but {name}, whose channels go with them, {}",
                                treatment.keep, self.treatments[other].1.keep
                            ),
                            format!("give {} and {name} the same keep", layer.name),
                        ));
                    }
                }
            }
            if let Some(split) = treatment.split
                && let Some(reason) = limits::why_not_split(layer, split)
            {
                return Err(refuse(limits::describe(split), &reason));
            }
            if treatment.sparsity != Sparsity::None
                && let Some(reason) = limits::why_not_sparse(layer)
            {
                return Err(refuse(format!("sparsity {}", treatment.sparsity), &reason));
            }
            if let Some(other) = treatment.beside_sparsity() {
                return Err(Error::layer(
                    &layer.name,
                    format!(
                        "sparsity {} and {other} are not possible together: the chip takes 4:2 sparsity of whole layers alone",
                        treatment.sparsity
                    ),
                    format!("take one of them out of the treatment of {}", layer.name),
                ));
            }
        }
        Ok(())
    }

    /// The plan as a YAML file.
    ///
    /// # Errors
    /// Only if YAML cannot hold it, which would be a bug.
    pub fn to_yaml(&self) -> Result<String> {
        self.to_file(None)
    }

    /// The same, with how the network was built where that makes a difference.
    ///
    /// # Errors
    /// As [`Plan::to_yaml`].
    pub fn to_yaml_built(&self, build: Build) -> Result<String> {
        self.to_file(self.changes_structure().then_some(build))
    }

    fn to_file(&self, build: Option<Build>) -> Result<String> {
        let treatments = self
            .treatments
            .iter()
            .map(|(name, t)| PlanRule {
                layers: Patterns(vec![name.clone()]),
                precision: Some(t.precision),
                keep: Some(Keep(t.keep)),
                rank: Some(match t.split {
                    None => Rank::Full,
                    Some(Split::Channel { rank } | Split::Spatial { rank }) => {
                        Rank::Components(usize::try_from(rank).unwrap_or(usize::MAX))
                    }
                    Some(Split::Tucker { input, output }) => {
                        Rank::Pair(usize::try_from(input).unwrap_or(usize::MAX), usize::try_from(output).unwrap_or(usize::MAX))
                    }
                }),
                form: t.split.map(limits::form).filter(|f| *f != Form::Channel),
                sparsity: (t.sparsity != Sparsity::None).then_some(t.sparsity),
                activations: t.method.activations,
                round: t.method.round,
                balance: t.method.balance,
            })
            .collect();
        serde_yaml::to_string(&PlanFile { channels: None, build, treatments })
            .map_err(|e| Error::Internal(format!("the plan cannot be written: {e}")))
    }
}

/// A pattern that matches no layer.
pub fn unmatched(path: &Path, line: Option<usize>, pattern: &str, layers: &Layers) -> Error {
    let names: Vec<&str> = layers.layers.iter().map(|l| l.name.as_str()).take(8).collect();
    let more = if layers.layers.len() > names.len() { ", …" } else { "" };
    Error::spec(
        path,
        line,
        format!("the pattern \"{pattern}\" matches no layer"),
        format!("layers are {}{more}; `gulliver inspect` lists them", names.join(", ")),
    )
}
