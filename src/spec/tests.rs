//! Specs and plans as people write them.

use std::{collections::BTreeMap, fs, path::Path};

use proptest::prelude::*;

use super::*;
use crate::{
    device::{Split, Target},
    graph::{Model, fixture::Net, group::Channels, layer::Layers, shape},
    precision::Precision,
    space::{Plan, Space, Treatment},
};

const SMALLEST: &str = "model: m.onnx
data:
  calibration: {file: c.npz}
  validation: {file: v.npz}
device: {name: ascend310p3}
";

/// Reads a spec from a folder with the files that it names.
fn load(text: &str) -> Result<Spec> {
    let folder = tempfile::tempdir().unwrap();
    for name in ["m.onnx", "c.npz", "v.npz"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    let path = folder.path().join("spec.yaml");
    fs::write(&path, text).unwrap();
    Spec::load(&path)
}

/// Line and message of the error of the smallest spec with more lines behind; the smallest has five.
fn error(more: &str) -> (Option<usize>, String) {
    match load(&format!("{SMALLEST}{more}")) {
        Err(Error::Spec { line, message, remedy, .. }) => {
            assert!(remedy.is_some(), "no remedy for: {message}");
            (line, message)
        }
        other => panic!("{more:?} gave {other:?}"),
    }
}

fn refused(more: &str, line: usize, word: &str) {
    let (at, message) = error(more);
    assert!(at == Some(line) && message.contains(word), "{more:?}: line {at:?}: {message}");
}

#[test]
fn what_is_left_out_has_its_default() {
    let spec = load(SMALLEST).unwrap();
    assert_eq!(spec.metric, Metric::default());
    assert_eq!(spec.device.batch, 1);
    let Constraints { accuracy_drop, relative_drop, latency_ms, size_mb, confidence } = spec.constraints;
    assert_eq!((accuracy_drop, relative_drop, latency_ms, size_mb, confidence), (None, None, None, None, Share(0.95)));
    let QuantizeSpec { activations, percentile, offset, weights, round, balance, bias_correction, positions, reconstruction } =
        spec.quantize;
    assert_eq!((activations, percentile, offset, weights), (None, Share(0.9999), true, WeightRule::Mse));
    assert_eq!((round, balance, bias_correction, positions, reconstruction), (None, None, true, 16, 512));
    let SearchSpec { strategy, trials, time, seed, asked_together, give_up_at, samples, certify } = spec.search;
    assert_eq!((strategy, trials, time, seed, asked_together, give_up_at), (StrategyName::Additive, 300, None, 0, 8, 4.0));
    assert_eq!((samples, certify), (512, 10));
    let patterns: Vec<&str> = spec.space.iter().flat_map(|r| &r.layers.0).map(String::as_str).collect();
    assert_eq!(patterns, ["*", "first", "last"]);
    assert_eq!(spec.space[0].precision, Some(vec![Precision::Fp16, Precision::Int8, Precision::Int4]));
    assert_eq!(spec.space[1].keep, Some(vec![Keep(1.0)]));
}

#[test]
fn paths_are_seen_from_the_spec() {
    let spec = load(SMALLEST).unwrap();
    let folder = spec.model.parent().unwrap().to_path_buf();
    assert!(folder.is_absolute());
    assert_eq!(spec.data.calibration.paths(), [folder.join("c.npz")]);
}

#[test]
fn a_spec_written_out_reads_as_the_same_spec() {
    let more = "constraints: {accuracy_drop: 0.7%, latency_ms: 1.25, size_mb: 3}\nsearch: {time: 1d4h, seed: 18446744073709551615}
space:\n  - {layers: [a, 'b*'], precision: [int4], keep: [75%, 1], rank: [full, 0.5, 48]}\n";
    let spec = load(&format!("{SMALLEST}{more}")).unwrap();
    assert_eq!(serde_yaml::from_str::<Spec>(&spec.to_yaml().unwrap()).unwrap(), spec);
    assert_eq!(spec.constraints.accuracy_drop, Some(MaxDrop(0.7 / 100.0)));
    assert_eq!(spec.space[0].keep, Some(vec![Keep(0.75), Keep(1.0)]));
    assert_eq!(spec.space[0].rank, Some(vec![Rank::Full, Rank::Fraction(0.5), Rank::Components(48)]));
}

#[test]
fn the_demo_specs_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("search_spaces");
    for name in ["vgg", "resnet20", "mobilenetv2"] {
        let spec = Spec::load(&folder.join(format!("cifar10-{name}.yaml"))).unwrap();
        assert!(spec.model.ends_with(format!("datasets/cifar10-{name}.onnx")), "{name}");
        assert_eq!((spec.device.batch, spec.constraints.accuracy_drop), (128, Some(MaxDrop(0.01))));
    }
}

#[test]
fn unknown_keys_are_named_with_their_line() {
    refused("constrains: {accuracy_drop: 1%}\n", 6, "constrains");
    refused("search:\n  trials: 3\n  tries: 4\n", 8, "tries");
    refused("space:\n  - layers: a\n    bits: [int8]\n", 8, "bits");
}

#[test]
fn wrong_values_are_named_with_their_line() {
    refused("search:\n  strategy: luck\n", 7, "luck");
    refused("constraints:\n  accuracy_drop: 5\n", 7, "500 points of top1");
    refused("constraints:\n  latency_ms: 0\n", 7, "latency_ms");
    refused("constraints:\n  size_mb: -2\n", 7, "size_mb");
    refused("constraints:\n  confidence: 30%\n", 7, "confidence");
    refused("search:\n  asked_together: 0\n", 6, "asked_together");
    refused("search:\n  give_up_at: 0.5\n", 6, "give_up_at");
    refused("search:\n  certify: 0\n", 6, "certify");
    refused("search:\n  samples: 0\n", 6, "samples");
    refused("metric: kl\nconstraints:\n  relative_drop: 1%\n", 8, "relative_drop");
    refused("metric: sqnr\nconstraints:\n  relative_drop: 1%\n", 8, "no scale");
    refused("constraints:\n  relative_drop: 0.5x\n", 7, "0.5x");
    refused("space: []\n", 6, "no rules");
    refused("space:\n  - {layers: '*', precision: [int8]}\n  - {layers: dense, keep: []}\n", 8, "empty list");
    refused("space:\n  - layers: a\n    rank: [1.5]\n", 8, "1.5");
    refused("space:\n  - layers: a\n    keep: [0]\n", 8, "above 0");
    refused("space:\n  - layers: a\n    precision: [int2]\n", 8, "int2");
}

#[test]
fn of_an_absolute_and_a_relative_limit_of_the_drop_the_smaller_counts() {
    let budget = |text: &str, float: f64| load(&format!("{SMALLEST}constraints: {{{text}}}\n")).unwrap().constraints.budget(float);
    assert_eq!(budget("accuracy_drop: 1.0%", 0.8), Some(0.01));
    assert_eq!(budget("relative_drop: 1.0%", 0.8), Some(0.008));
    assert_eq!(budget("accuracy_drop: 1.0%, relative_drop: 1.0%", 0.8), Some(0.008));
    assert_eq!(budget("accuracy_drop: 0.5%, relative_drop: 1.0%", 0.8), Some(0.005));
    assert_eq!(budget("latency_ms: 1", 0.8), None);
}

#[test]
fn a_strategy_that_works_towards_a_budget_is_refused_without_one() {
    for strategy in StrategyName::ALL {
        let search = format!("search:\n  seed: 1\n  strategy: {}\n", strategy.name());
        if strategy.needs_budget() {
            refused(&search, 8, "accuracy budget");
        } else {
            assert!(load(&format!("{SMALLEST}{search}")).is_ok(), "{strategy:?}");
        }
        for limit in ["accuracy_drop", "relative_drop"] {
            let spec = load(&format!("{SMALLEST}{search}constraints: {{{limit}: 1%}}\n")).unwrap();
            assert_eq!(spec.search.strategy, strategy);
            assert_eq!(serde_yaml::from_str::<Spec>(&spec.to_yaml().unwrap()).unwrap(), spec);
        }
    }
    let peers: Vec<&str> = StrategyName::ALL.iter().filter(|s| s.needs_budget()).map(|s| s.name()).collect();
    assert_eq!(peers, ["amct", "aimet", "nncf"]);
}

#[test]
fn a_file_that_does_not_exist_is_named_with_its_line() {
    let text = SMALLEST.replace("v.npz", "w.npz");
    let Err(Error::Spec { line, message, .. }) = load(&text) else { panic!("a missing file was not seen") };
    assert!(line == Some(4) && message.contains("w.npz"), "{line:?} {message}");
    let Err(Error::Spec { line, .. }) = load(&SMALLEST.replace("m.onnx", "n.onnx")) else { panic!("a missing model was not seen") };
    assert_eq!(line, Some(1));
    let Err(Error::Spec { line, .. }) = load(&SMALLEST.replace("{name: ascend310p3}", "{name: ascend310p3, batch: 0}")) else {
        panic!("batch 0 was taken")
    };
    assert_eq!(line, Some(5));
}

#[test]
fn the_line_of_a_word_is_not_that_of_a_comment() {
    assert_eq!(line_of("# batch\na: 1  # batch\nbatch: 2\n", "batch"), Some(3));
    assert_eq!(line_of("a: 1\n", "b"), None);
}

/// A chain of matrix products of these names.
fn chain(names: &[String]) -> (Model, Layers, Channels) {
    let value = |i: usize| if i == 0 { "x".to_string() } else { format!("v{i}") };
    let net = (0..names.len()).fold(Net::new(&[-1, 64]), |net, i| net.matmul(&value(i + 1), &value(i), (64, 64)));
    let mut model = net.build(&value(names.len()));
    model.graph_mut().node.iter_mut().zip(names).for_each(|(node, name)| node.name = Some(name.clone()));
    let shapes = shape::infer(&model, 1, &BTreeMap::new()).unwrap();
    let layers = Layers::find(&model, &shapes);
    let channels = Channels::analyse(&model, &layers, &shapes);
    (model, layers, channels)
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn plan_from(text: &str, names: &[&str]) -> Result<Plan> {
    let (model, layers, channels) = chain(&strings(names));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.yaml");
    fs::write(&path, text).unwrap();
    Plan::load(&path, &model, &layers, &channels).map(|(plan, _)| plan)
}

fn round_trip(names: &[String], treatments: &[(Precision, f64, Option<usize>)]) {
    let (model, layers, channels) = chain(names);
    let mut plan = Plan::identity(&layers);
    let last = names.len() - 1;
    for (l, ((_, t), &(precision, keep, rank))) in plan.treatments.iter_mut().zip(treatments).enumerate() {
        let sparsity = if l % 4 == 1 && rank.is_none() && keep == 1.0 { Sparsity::FourToTwo } else { Sparsity::None };
        // The last layer's channels are the network's output.
        let method = Method {
            activations: (l % 2 == 0).then_some(RangeRule::ALL[l % RangeRule::ALL.len()]),
            round: (l % 3 == 0).then_some(Round::Gptq),
            balance: [None, Some(Balance::None), Some(Balance::Auto), Some(Balance::Equalize), Some(Balance::Strength(0.35))][l % 5],
        };
        *t = Treatment {
            precision,
            keep: if l == last { 1.0 } else { keep },
            split: rank.map(|r| Split::Channel { rank: r as u64 }),
            sparsity,
            method,
        };
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.yaml");
    fs::write(&path, plan.to_yaml().unwrap()).unwrap();
    assert_eq!(Plan::load(&path, &model, &layers, &channels).unwrap().0, plan, "{}", plan.to_yaml().unwrap());
}

#[test]
fn a_plan_of_layers_with_odd_names_reads_as_the_same_plan() {
    let names = ["conv1", "conv[1]", "conv?", "last", "*", "first", "{a,b}", "a", "null", "no: #", "1", "é\\"];
    let treatment = |i: usize| (Precision::ALL[i % 3], [1.0, 0.75, 0.5][i / 3 % 3], i.is_multiple_of(2).then_some(i + 1));
    round_trip(&strings(&names), &(0..names.len()).map(treatment).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_plan_written_out_reads_as_the_same_plan(
        named in prop::collection::btree_map("[a-z/*?\\[\\]{},!\\\\: .#'\"-]{1,6}", (0_usize..3, 1_u32..1000, prop::option::of(1_usize..32)), 2..6)
    ) {
        let names: Vec<String> = named.keys().cloned().collect();
        let treatments: Vec<_> =
            named.values().map(|&(p, keep, rank)| (Precision::ALL[p], f64::from(keep) / 999.0_f64.max(f64::from(keep)), rank)).collect();
        round_trip(&names, &treatments);
    }
}

#[test]
fn later_rules_of_a_plan_win_and_ends_are_found_by_place() {
    let text = "treatments:\n  - {layers: '*', precision: int8, keep: 0.5}\n  - {layers: last, keep: 1.0}\n  - {layers: [first, m], precision: fp16, rank: 0.25}\n";
    let plan = plan_from(text, &["a", "m", "z"]).unwrap();
    let of = |name: &str| *plan.as_map()[name];
    assert_eq!(of("a"), Treatment { keep: 0.5, split: Some(Split::Channel { rank: 16 }), ..Treatment::NONE });
    assert_eq!(of("m"), of("a"));
    assert_eq!(of("z"), Treatment { precision: Precision::Int8, ..Treatment::NONE });
}

#[test]
fn methods_have_the_words_of_the_treatment_then_of_the_spec_then_of_the_precision() {
    let spec: QuantizeSpec = serde_yaml::from_str("{activations: kl, balance: 0.4}").unwrap();
    let plan =
        plan_from("treatments:\n  - {layers: '*', precision: w4a4, round: gptq}\n  - {layers: z, balance: none}\n", &["a", "z"]).unwrap();
    let settled = |name: &str| spec.settle(&plan.as_map()[name].method, plan.as_map()[name].precision);
    assert_eq!(settled("a"), Settled { activations: RangeRule::Kl, round: Round::Gptq, balance: Balance::Strength(0.4) });
    assert_eq!(settled("z").balance, Balance::None);
    let default = |p| QuantizeSpec::default().settle(&Method::default(), p);
    assert_eq!((default(Precision::Int8).round, default(Precision::Int8).balance), (Round::Nearest, Balance::None));
    assert_eq!((default(Precision::W4a8).round, default(Precision::W4a8).balance), (Round::Adaround, Balance::None));
    assert_eq!((default(Precision::Int4).round, default(Precision::Int4).balance), (Round::Adaround, Balance::Auto));
}

#[test]
fn a_method_that_is_none_is_refused_with_those_there_are() {
    let message = |rule: &str| plan_from(&format!("treatments:\n  - {{layers: a, {rule}}}\n"), &["a", "b"]).unwrap_err().to_string();
    for (rule, word) in
        [("round: up", "adaround"), ("balance: 1.5", "between 0 and 1"), ("balance: most", "equalize"), ("activations: max", "hfmg")]
    {
        let said = message(rule);
        assert!(said.contains("plan.yaml:2") && said.contains(word), "{said}");
    }
}

#[test]
fn methods_in_a_space_are_decisions_where_a_layer_can_be_quantized() {
    let (model, layers, channels) = chain(&strings(&["a", "b"]));
    let text = "- {layers: a, precision: [fp16, w4a8], round: [gptq, reconstruct], balance: [none, 0.5], activations: [mse]}\n- {layers: b, keep: [1.0], round: [gptq, nearest]}\n";
    let rules: Vec<SpaceRule> = serde_yaml::from_str(text).unwrap();
    let space = Space::new(&rules, (&model, &layers, &channels), &Target::unknown(), (Path::new("spec"), text)).unwrap();
    let axes: Vec<(&str, usize)> = space.axes.iter().map(|a| (a.name.as_str(), a.len())).collect();
    assert_eq!(axes, [("a", 2), ("a", 2), ("a", 2)]);
    let mut candidate = space.mildest();
    candidate.0 = vec![1, 1, 1];
    let treatment = *space.plan(&candidate).as_map()["a"];
    let method = Method { activations: Some(RangeRule::Mse), round: Some(Round::Reconstruct), balance: Some(Balance::Strength(0.5)) };
    assert_eq!(treatment, Treatment { precision: Precision::W4a8, method, ..Treatment::NONE });
    assert_eq!(treatment.to_string(), "w4a8, range mse, round reconstruct, balance 0.5");
}

#[test]
fn sparsity_yields_to_fewer_channels_and_to_a_split_of_the_same_layer() {
    let (model, layers, channels) = chain(&strings(&["a", "b"]));
    let text = "- {layers: a, keep: [1.0, 0.5], rank: [full, 8], sparsity: [none, '4:2']}\n";
    let rules: Vec<SpaceRule> = serde_yaml::from_str(text).unwrap();
    let space = Space::new(&rules, (&model, &layers, &channels), &Target::unknown(), (Path::new("spec"), text)).unwrap();
    assert_eq!(space.axes.len(), 3);
    let mut sparse = Vec::new();
    for n in 0..8_u16 {
        let candidate = crate::space::Candidate((0..3).map(|axis| n >> axis & 1).collect());
        let plan = space.plan(&candidate);
        plan.check(&layers, &channels).unwrap();
        let treatment = *plan.as_map()["a"];
        if treatment.sparsity != Sparsity::None {
            sparse.push(treatment);
        }
    }
    assert_eq!(sparse, [Treatment { sparsity: Sparsity::FourToTwo, ..Treatment::NONE }]);
}

#[test]
fn a_plan_with_sparsity_and_fewer_channels_or_a_split_of_one_layer_is_refused() {
    for (rule, word) in [("keep: 0.5", "keep 0.5"), ("rank: 8", "rank 8")] {
        let said = plan_from(&format!("treatments:\n  - {{layers: a, sparsity: '4:2', {rule}}}\n"), &["a", "b"]).unwrap_err();
        let expected = format!("layer a: sparsity 4:2 and {word} are not possible together");
        assert!(said.to_string().starts_with(&expected) && said.remedy().is_some(), "{said}");
    }
    assert!(plan_from("treatments:\n  - {layers: a, sparsity: '4:2'}\n  - {layers: b, rank: 8}\n", &["a", "b"]).is_ok());
}

#[test]
fn a_plan_that_cannot_be_is_refused_by_its_layer() {
    let message = |text: &str| plan_from(text, &["a", "b"]).unwrap_err().to_string();
    assert!(message("treatments:\n  - {layers: c, precision: int8}\n").contains("plan.yaml:2: the pattern \"c\" matches no layer"));
    assert!(message("treatments:\n  - {layers: b, keep: 0.5}\n").starts_with("layer b: keep 0.5 is not possible"));
    assert!(message("treatments:\n  - {layers: a, rank: 33}\n").starts_with("layer a: rank 33 is not possible"));
    assert!(message("treatments:\n  - {layers: a, bits: 8}\n").contains("plan.yaml:2"));
}
