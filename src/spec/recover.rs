//! How compressed networks are trained: `recover` in a spec.

use serde::{Deserialize, Serialize};

use super::units::Share;

/// The rule by which parameters follow their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Momentum: v ← m·v + g; θ ← θ − rate·v.
    Sgd,
    /// Adam, with decay apart from the gradient.
    #[default]
    Adam,
}

/// What is done to images at random while a network is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Whether half of the images are mirrored left to right; grey images never are.
    pub flip: bool,
    /// How far images are moved at most, as a share of their size; what comes in is the border's repetition.
    pub shift: f32,
}

impl Default for Augment {
    fn default() -> Self {
        Self { flip: true, shift: 0.125 }
    }
}

/// How compressed networks are trained. Rates are relative: a step moves a parameter by at most that share of its size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecoverSpec {
    /// Passes over the training samples.
    pub epochs: usize,
    /// Samples of a step.
    pub batch: usize,
    /// The rule by which parameters follow their gradients.
    pub optimizer: Optimizer,
    /// Largest rate; it rises for a moment and falls to 0 along a cosine.
    pub rate: f32,
    /// Momentum of the gradient.
    pub momentum: f32,
    /// Share of a weight that goes with every step, times the rate.
    pub decay: f32,
    /// Gradients longer than this many times their usual length are shortened to it; 0 for never.
    pub clip: f32,
    /// Temperature of the softmax that the float network's answers are compared at.
    pub temperature: f32,
    /// Weight of the labels' cross entropy beside that of the float network's answers, which is 1 − this.
    pub labels: f32,
    /// Values inside the network that are to be the float network's too, by name, and the weight of each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matched: Vec<(String, f32)>,
    /// What is done to images at random.
    pub augment: Augment,
    /// Share of the training samples that judge and are not learned from; at most 2,000.
    pub held_back: Share,
    /// Epochs without a better loss of the samples held back after which training ends; 0 for never.
    pub patience: usize,
}

impl RecoverSpec {
    /// What is wrong with it, if anything: the key, what, and the remedy.
    pub(super) fn check(&self) -> Result<(), (&'static str, String, &'static str)> {
        let counts = [("epochs", self.epochs), ("batch", self.batch)];
        if let Some((key, _)) = counts.into_iter().find(|(_, n)| *n == 0) {
            return Err((key, "is 0".into(), "give at least 1"));
        }
        let within = |key, value: f32, low: f32, high: f32| {
            let message = || (key, format!("is {value}"), "see docs/training.md for what each key means");
            if (low..=high).contains(&value) { Ok(()) } else { Err(message()) }
        };
        within("rate", self.rate, f32::MIN_POSITIVE, 1.0)?;
        within("momentum", self.momentum, 0.0, 0.9999)?;
        within("decay", self.decay, 0.0, 1.0)?;
        within("clip", self.clip, 0.0, f32::MAX)?;
        within("temperature", self.temperature, 0.1, 100.0)?;
        within("labels", self.labels, 0.0, 1.0)?;
        within("shift", self.augment.shift, 0.0, 0.5)?;
        within("held_back", self.held_back.0 as f32, 1e-6, 0.9)
    }
}

impl Default for RecoverSpec {
    fn default() -> Self {
        Self {
            epochs: 5,
            batch: 64,
            optimizer: Optimizer::Adam,
            rate: 0.001,
            momentum: 0.9,
            decay: 0.0,
            clip: 4.0,
            temperature: 2.0,
            labels: 0.0,
            matched: Vec::new(),
            augment: Augment::default(),
            held_back: Share(0.1),
            patience: 0,
        }
    }
}
