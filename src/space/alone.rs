//! Options one at a time: every option of a space applied to an otherwise untouched network.

use super::{Axis, Choice, Plan, Space, Treatment, apply};

/// An option of one layer or one group, and the plan that applies it and nothing else.
#[derive(Debug, Clone)]
pub struct Alone {
    /// Positions of the layers it treats: one, or all of a group.
    pub layers: Vec<usize>,
    /// What it decides, with this one option.
    pub axis: Axis,
    /// The plan.
    pub plan: Plan,
}

impl Space {
    /// Every precision, rank, pattern of zeros and share of channels of the space that changes something, each alone, in the order of layers; a group
    /// stands at its first layer. Those that the space leaves no choice about are among them. Layers have the methods that the space fixes;
    /// where it leaves a choice of methods they have the default.
    pub fn alone(&self) -> Vec<Alone> {
        let fixed = self.fixed.treatments.iter().enumerate();
        let precisions = fixed.clone().map(|(l, (name, t))| Axis { name: name.clone(), choice: Choice::Precision(l, vec![t.precision]) });
        let ranks = fixed.clone().map(|(l, (name, t))| Axis { name: name.clone(), choice: Choice::Rank(l, vec![t.split]) });
        let zeros = fixed.clone().map(|(l, (name, t))| Axis { name: name.clone(), choice: Choice::Sparsity(l, vec![t.sparsity]) });
        let keeps = self.groups.iter().enumerate().filter_map(|(g, layers)| {
            let (name, treatment) = &self.fixed.treatments[*layers.first()?];
            Some(Axis { name: name.clone(), choice: Choice::Keep(g, vec![treatment.keep]) })
        });
        let mut base = self.fixed.clone();
        base.treatments.iter_mut().for_each(|(_, t)| *t = Treatment { method: t.method, ..Treatment::NONE });
        let mut found = Vec::new();
        for axis in self.axes.iter().cloned().chain(precisions).chain(ranks).chain(zeros).chain(keeps) {
            let singles: Vec<Choice> = match &axis.choice {
                Choice::Precision(l, options) => options.iter().map(|&o| Choice::Precision(*l, vec![o])).collect(),
                Choice::Rank(l, options) => options.iter().map(|&o| Choice::Rank(*l, vec![o])).collect(),
                Choice::Sparsity(l, options) => options.iter().map(|&o| Choice::Sparsity(*l, vec![o])).collect(),
                Choice::Keep(g, options) => options.iter().map(|&o| Choice::Keep(*g, vec![o])).collect(),
                Choice::Activations(..) | Choice::Round(..) | Choice::Balance(..) => Vec::new(),
            };
            for choice in singles {
                let layers = match &choice {
                    Choice::Keep(g, _) => self.groups[*g].clone(),
                    Choice::Precision(l, _) | Choice::Rank(l, _) | Choice::Sparsity(l, _) => vec![*l],
                    Choice::Activations(..) | Choice::Round(..) | Choice::Balance(..) => continue,
                };
                let axis = Axis { name: axis.name.clone(), choice };
                let mut plan = base.clone();
                apply(&mut plan, &self.groups, &axis, 0);
                if !plan.is_identity() {
                    found.push(Alone { layers, axis, plan });
                }
            }
        }
        found.sort_by_key(|a| (a.layers.first().copied(), a.axis.kind()));
        found
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use crate::{
        device::Target,
        graph::{fixture::Net, group::Channels, layer::Layers, shape},
        space::Space,
        spec::{Round, SpaceRule},
    };

    /// Options of three matrix products l0, l1, l2 in a row, as `layer: option, …`.
    fn alone(rules: &[&str]) -> (Vec<String>, Vec<super::Alone>) {
        let net = Net::new(&[-1, 64]).matmul("l0", "x", (64, 64)).matmul("l1", "l0", (64, 64)).matmul("l2", "l1", (64, 64));
        let model = net.build("l2");
        let shapes = shape::infer(&model, 1, &BTreeMap::new()).unwrap();
        let layers = Layers::find(&model, &shapes);
        let channels = Channels::analyse(&model, &layers, &shapes);
        let rules: Vec<SpaceRule> = rules.iter().map(|r| serde_yaml::from_str(r).unwrap()).collect();
        let found = Space::new(&rules, (&model, &layers, &channels), &Target::unknown(), (Path::new("spec.yaml"), "")).unwrap().alone();
        (found.iter().map(|a| format!("{} {}", a.axis.name, a.axis.describe(0))).collect(), found)
    }

    #[test]
    fn every_option_but_doing_nothing_comes_once_in_the_order_of_layers() {
        let (names, found) = alone(&["{layers: '*', precision: [fp16, int8, int4], keep: [1.0, 0.5], rank: [full, 0.25]}"]);
        let of = |l: &str| [format!("{l} int8"), format!("{l} int4"), format!("{l} keep 0.5"), format!("{l} rank 16")];
        let last = [of("l2")[0].clone(), of("l2")[1].clone(), of("l2")[3].clone()];
        assert_eq!(names, [of("l0").to_vec(), of("l1").to_vec(), last.to_vec()].concat());
        for one in &found {
            let changed = one.plan.treatments.iter().filter(|(_, t)| !t.changes_nothing()).count();
            assert_eq!(changed, one.layers.len());
        }
    }

    #[test]
    fn what_the_space_leaves_no_choice_about_is_measured_too() {
        let (names, found) = alone(&["{layers: '*', precision: [fp16, int8]}", "{layers: l1, precision: [int4], round: [nearest]}"]);
        assert_eq!(names, ["l0 int8", "l1 int4", "l2 int8"]);
        assert_eq!(found[1].plan.treatments[1].1.method.round, Some(Round::Nearest));
    }

    #[test]
    fn where_all_that_read_them_are_in_8_bits_channels_come_in_blocks_of_32() {
        use crate::device::{Profile, extract};
        let net = Net::new(&[-1, 192]).matmul("l0", "x", (192, 192)).matmul("l1", "l0", (192, 192)).matmul("l2", "l1", (192, 64));
        let model = net.build("l2");
        let shapes = shape::infer(&model, 1, &BTreeMap::new()).unwrap();
        let layers = Layers::find(&model, &shapes);
        let channels = Channels::analyse(&model, &layers, &shapes);
        let target = Target::new(&Profile::load("ascend310p3").unwrap(), extract(&model, &shapes, &BTreeMap::new()));
        let text = "- {layers: '*', precision: [int8], keep: [1.0, 0.75]}\n- {layers: l2, precision: [fp16, int8]}\n";
        let rules: Vec<SpaceRule> = serde_yaml::from_str(text).unwrap();
        let space = Space::new(&rules, (&model, &layers, &channels), &target, (Path::new("spec"), text)).unwrap();
        let keeps: Vec<String> = space.axes.iter().filter(|a| a.describe(0).starts_with("keep")).map(|a| a.describe(1)).collect();
        // 144 of 192 are read by l1 in 8 bits, hence 160 (blocks of 32: 4.5 rounds up); by l2 perhaps in FP16, hence 144.
        assert_eq!(keeps, [format!("keep {}", 160.0 / 192.0), "keep 0.75".to_string()]);
    }

    #[test]
    fn methods_to_choose_from_are_no_options_of_their_own() {
        let (names, found) = alone(&["{layers: '*', precision: [fp16, int8], round: [nearest, gptq]}"]);
        assert_eq!(names, ["l0 int8", "l1 int8", "l2 int8"]);
        assert!(found.iter().all(|a| a.plan.treatments.iter().all(|(_, t)| t.method.round.is_none())));
    }
}
