//! Predicted latency against what Huawei's model zoo publishes for the same networks (`datasets/latency`).

#![allow(clippy::unwrap_used)]

use std::path::Path;

use gulliver::{
    device::{
        Profile,
        fit::{
            Case, Hold,
            table::{Row, Topologies, read},
            validate::{Held, leave_families_out, score},
        },
    },
    precision::Precision,
};

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/latency")
}

/// Unflagged measurements of a chip in a precision, of the networks that `wanted` accepts.
fn cases(chip: &str, precision: Precision, wanted: impl Fn(&Row) -> bool) -> Vec<Case> {
    let mut topologies = Topologies::new(&folder());
    let rows = read(&folder().join("ascend.csv")).unwrap();
    let good = |r: &&Row| r.chip == chip && r.precision == precision && r.flag.is_empty() && wanted(r);
    rows.iter().filter(good).map(|r| topologies.case(r).unwrap()).collect()
}

fn held(chip: &str, cases: &[Case]) -> Vec<Held> {
    let profile = Profile::load(chip).unwrap();
    cases.iter().map(|c| Held::of(c, &profile)).collect()
}

#[test]
fn networks_of_the_310p3_are_predicted_and_ranked_as_published() {
    let score = score(&held("ascend310p3", &cases("ascend310p3", Precision::Fp16, |_| true)), &[]);
    assert!(score.rows >= 180);
    assert!(score.median <= 0.12 && score.within_25 >= 0.78 && score.p90 <= 0.40, "{score:?}");
    assert!(score.spearman[0].unwrap() >= 0.95 && score.spearman[1].unwrap() >= 0.95 && score.spearman[2].unwrap() >= 0.90, "{score:?}");
    assert!(score.pairs.unwrap() >= 0.94 && score.curve.unwrap() <= 0.08, "{score:?}");
}

#[test]
fn the_310_follows_from_its_descriptors_alone() {
    assert_eq!(Profile::load("ascend310").unwrap().coefficients, Profile::load("ascend310p3").unwrap().coefficients);
    let score = score(&held("ascend310", &cases("ascend310", Precision::Fp16, |_| true)), &[]);
    assert!(score.median <= 0.15 && score.spearman[0].unwrap() >= 0.93 && score.spearman[1].unwrap() >= 0.93, "{score:?}");
}

#[test]
fn resnet50_gains_from_int8_what_was_published() {
    let half = cases("ascend310p3", Precision::Fp16, |r| r.model == "resnet50");
    let integer = cases("ascend310p3", Precision::Int8, |r| r.model == "resnet50");
    let (half, integer) = (held("ascend310p3", &half), held("ascend310p3", &integer));
    let mut compared = 0;
    for a in &integer {
        for b in half.iter().filter(|b| b.batch == a.batch) {
            let (published, predicted) = (b.measured_ms / a.measured_ms, b.predicted_ms / a.predicted_ms);
            assert!((predicted / published - 1.0).abs() <= 0.12, "batch {}: {predicted:.2} against {published:.2}", a.batch);
            compared += 1;
        }
    }
    assert!(compared >= 5);
}

#[test]
fn a_family_that_the_fit_never_saw_is_predicted_too() {
    let networks = ["resnet18", "resnet50", "vgg16", "mobilenet_v1", "googlenet"];
    let all = cases("ascend310p3", Precision::Fp16, |r| networks.contains(&r.model.as_str()) && r.batch <= 8);
    let profile = Profile::load("ascend310p3").unwrap();
    let found = leave_families_out(&all, &[], &profile, Hold::NETWORKS);
    let score = score(&found.held, &found.anchored);
    assert_eq!(score.rows, all.len());
    assert!(score.median <= 0.15 && score.anchored.unwrap() <= 0.10, "{score:?}");
}
