//! Results to render in tests: realistic in their numbers, one for each shape that a result can take.

use crate::precision::Precision::{self, Fp16, Int4, Int8};
use crate::study::{summary::*, tell_apart};
use crate::{device::Split, space::Treatment};

/// Every fixture with its name.
pub fn all() -> [(&'static str, Summary); 9] {
    [
        ("within", within()),
        ("likely", likely()),
        ("missed", missed()),
        ("hopeless", hopeless()),
        ("unlimited", unlimited()),
        ("command", command_metric()),
        ("barely", barely()),
        ("unmeasured", unmeasured()),
        ("empty", empty()),
    ]
}

/// A chosen point within the budget for certain, with a rollback, a size limit and INT4.
pub fn within() -> Summary {
    let mut front = vec![
        point(231, 0.0831, 0.0046, 0.37, 0.19),
        point(188, 0.0264, 0.0040, 0.40, 0.22),
        point(342, 0.0129, 0.0036, 0.43, 0.24),
        point(17, 0.0063, 0.0032, 0.49, 0.27),
        point(96, 0.0048, 0.0029, 0.55, 0.31),
        point(301, 0.0031, 0.0024, 0.63, 0.38),
        point(64, 0.0012, 0.0020, 0.70, 0.49),
        point(5, -0.0003, 0.0011, 0.82, 0.60),
    ];
    tell_apart(&mut front, 1.23, ERROR);
    Summary {
        model: "mobilenet_v1_0.5_224.onnx".into(),
        device: "ascend310p3".into(),
        batch: 32,
        metric: "top1".into(),
        samples: 10_000,
        baseline: Baseline {
            accuracy: 0.8014,
            latency_ms: 1.23,
            latency_interval_ms: interval(1.23),
            normalised_latency_ms: 1.02,
            bytes: 3_882_357,
            file_bytes: 7_801_220,
        },
        budget: Budget { accuracy_drop: Some(0.01), latency_ms: None, bytes: Some(1_500_000), confidence: 0.95 },
        chosen: Some(17),
        verdict: Verdict::Certain,
        stop: Stop::Time { seconds: 28_800.0 },
        cost: SearchCost {
            trials: 412,
            rejected_by_limit: 220,
            stopped_early: 140,
            failed: 3,
            samples_inferred: 913_408,
            seconds: 5_170.2,
            baseline_pass_seconds: 61.3,
        },
        layers: layers(&front[3]),
        predicted_rank_correlation: Some(0.97),
        front,
        latency_error: Some(LatencyError {
            ratio_error: ERROR,
            median_error: 0.09,
            factor_90: 1.4,
            noise_floor: 0.05,
            rows: 146,
            networks: 27,
            families: 9,
            extrapolated: Vec::new(),
        }),
        cloud: cloud(),
        rollback: vec![
            RollbackStep {
                trial: 409,
                before: 388,
                layer: "features.5.conv2d_pointwise".into(),
                from: "int4, keep 0.75".into(),
                to: "int8, keep 0.75".into(),
                drop: Some(0.0098),
                drop_high: Some(0.0136),
                latency_ms: 0.588,
                cost_ms: 0.014,
                held: false,
            },
            RollbackStep {
                trial: 17,
                before: 409,
                layer: "classifier.dense".into(),
                from: "int4, rank 32".into(),
                to: "int4, rank 48".into(),
                drop: Some(0.0063),
                drop_high: Some(0.0095),
                latency_ms: 0.603,
                cost_ms: 0.015,
                held: true,
            },
        ],
        facts: Facts {
            version: "0.1.0".into(),
            onnxruntime: "1.32.0".into(),
            seed: 7,
            strategy: "additive".into(),
            spec_sha256: "6b1f0f9d5e0b1a5c2f3e4d7788990011aabbccddeeff00112233445566778899".into(),
            model_sha256: "0f9d6b1f5e0b1a5c2f3e4d7788990011aabbccddeeff00112233445566778899".into(),
            data_sha256: "d5e06b1f0f9b1a5c2f3e4d7788990011aabbccddeeff00112233445566778899".into(),
            latency_model: "coefficients fitted to 214 published kernel timings of ascend310p3; median error 12 %, worst 41 %".into(),
            space_log10: 23.4,
        },
    }
}

/// A chosen point whose interval reaches over the budget.
pub fn likely() -> Summary {
    let mut summary = within();
    summary.samples = 2_000;
    for point in &mut summary.front {
        point.samples = 2_000;
        point.drop_low = point.drop_low.map(|d| d - 0.004);
        point.drop_high = point.drop_high.map(|d| d + 0.004);
    }
    summary.verdict = Verdict::Likely;
    summary.rollback.clear();
    summary
}

/// No point meets both limits; the front has the nearest miss.
pub fn missed() -> Summary {
    let mut summary = within();
    summary.chosen = None;
    summary.verdict = Verdict::Missed;
    summary.budget.latency_ms = Some(0.55);
    summary.budget.bytes = None;
    summary.front.retain(|p| p.trial != 96);
    summary.budget.accuracy_drop = Some(0.005);
    summary.stop = Stop::Trials { trials: 412 };
    summary
}

/// Every trial was rejected by the latency limit before a sample was run.
pub fn hopeless() -> Summary {
    let mut summary = within();
    summary.chosen = None;
    summary.verdict = Verdict::Missed;
    summary.budget.latency_ms = Some(0.2);
    summary.front.clear();
    summary.layers.clear();
    summary.rollback.clear();
    for point in &mut summary.cloud {
        point.drop = None;
        point.samples = 0;
        point.status = "rejected".into();
        point.why = "latency".into();
    }
    summary
}

/// No limits at all; the chosen point is the knee.
pub fn unlimited() -> Summary {
    let mut summary = within();
    summary.budget = Budget { accuracy_drop: None, latency_ms: None, bytes: None, confidence: 0.95 };
    summary.verdict = Verdict::Unjudged;
    summary.stop = Stop::Exhausted { candidates: 4_096 };
    summary.facts.space_log10 = 3.612_36;
    summary.rollback.clear();
    summary
}

/// A metric of the user's own, which gives one number and no interval.
pub fn command_metric() -> Summary {
    let mut summary = within();
    summary.metric = "miou.py".into();
    summary.baseline.accuracy = 0.7123;
    summary.verdict = Verdict::Unjudged;
    for point in &mut summary.front {
        (point.drop_low, point.drop_high, point.predicted_drop) = (None, None, None);
        point.accuracy = summary.baseline.accuracy - point.drop;
    }
    summary
}

/// The chosen point is hardly faster than the float model, and one of its kernels is like none that was measured.
pub fn barely() -> Summary {
    let mut summary = unlimited();
    summary.chosen = Some(5);
    summary.front[7].latency_ms = 1.23 * 0.93;
    summary.front[7].latency_interval_ms = interval(1.23 * 0.93);
    summary.layers = layers(&summary.front[7]);
    tell_apart(&mut summary.front, 1.23, ERROR);
    let why = "it moves 12 times the largest that was fitted".into();
    let error = summary.latency_error.iter_mut();
    error.for_each(|e| e.extrapolated = vec![crate::device::Extrapolated { kernel: "classifier.dense".into(), why: String::clone(&why) }]);
    summary
}

/// A chip that nothing was measured on.
pub fn unmeasured() -> Summary {
    let mut summary = within();
    summary.device = "ascend310b4".into();
    summary.facts.latency_model = "unknown: nothing was published for this chip".into();
    summary.latency_error = None;
    summary.baseline.latency_interval_ms = None;
    for point in &mut summary.front {
        (point.latency_interval_ms, point.told_from_float) = (None, None);
        point.not_told_apart.clear();
    }
    summary
}

/// Stopped right after the float model was measured.
pub fn empty() -> Summary {
    let mut summary = within();
    summary.chosen = None;
    summary.verdict = Verdict::Unjudged;
    summary.stop = Stop::Interrupted { trials: 1 };
    summary.cost = SearchCost {
        trials: 1,
        rejected_by_limit: 0,
        stopped_early: 0,
        failed: 0,
        samples_inferred: 10_000,
        seconds: 62.0,
        ..summary.cost
    };
    summary.front.clear();
    summary.cloud.clear();
    summary.layers.clear();
    summary.rollback.clear();
    summary
}

/// Error of a ratio.
const ERROR: f64 = 0.13;

fn interval(latency_ms: f64) -> Option<[f64; 2]> {
    Some([latency_ms / 1.4, latency_ms * 1.4])
}

type Layer = (&'static str, &'static str, &'static [usize], f64, Precision, f64, Option<usize>);

const LAYERS: [Layer; 9] = [
    ("features.0.conv2d", "Conv", &[16, 3, 3, 3], 118.0, Fp16, 1.0, None),
    ("features.1.conv2d_depthwise", "Conv", &[16, 1, 3, 3], 96.0, Int8, 1.0, None),
    ("features.1.conv2d_pointwise", "Conv", &[32, 16, 1, 1], 104.0, Int8, 0.75, None),
    ("features.3.conv2d_pointwise", "Conv", &[128, 64, 1, 1], 152.0, Int8, 0.75, None),
    ("features.5.conv2d_pointwise", "Conv", &[256, 128, 1, 1], 171.0, Int8, 0.75, None),
    ("features.11.block.residual_branch.conv2d_pointwise", "Conv", &[512, 256, 1, 1], 203.0, Int4, 0.625, None),
    ("features.12.conv2d_depthwise", "Conv", &[512, 1, 3, 3], 88.0, Int8, 1.0, None),
    ("features.13.conv2d_pointwise", "Conv", &[512, 512, 1, 1], 176.0, Int4, 0.5, None),
    ("classifier.dense", "Gemm", &[1000, 512], 64.0, Int4, 1.0, Some(48)),
];

fn point(trial: usize, drop: f64, half: f64, latency: f64, size: f64) -> FrontPoint {
    let layers = LAYERS.iter().map(|(name, _, _, _, precision, keep, rank)| {
        let precision = if latency > 0.7 { (*precision).min(Int8) } else { *precision };
        let keep = if latency > 0.6 { 1.0 } else { *keep };
        let split = rank.map(|r| Split::Channel { rank: (r as f64).min(100.0 * latency) as u64 });
        ((*name).to_owned(), LayerTreatment::of(&Treatment { precision, keep, split, ..Treatment::NONE }))
    });
    FrontPoint {
        trial,
        accuracy: 0.8014 - drop,
        drop,
        drop_low: Some(drop - half),
        drop_high: Some(drop + half),
        samples: 10_000,
        latency_ms: 1.23 * latency,
        latency_interval_ms: interval(1.23 * latency),
        not_told_apart: Vec::new(),
        told_from_float: None,
        bytes: (3_882_357.0 * size) as u64,
        predicted_drop: Some(drop * 1.12 + 0.0004),
        finetuned: trial == 342,
        layers: layers.collect(),
    }
}

fn layers(point: &FrontPoint) -> Vec<LayerRow> {
    let rows = LAYERS.iter().map(|(name, op, weight, float_us, ..)| {
        let treatment = point.layers[*name].clone();
        let speed = match treatment.precision {
            Fp16 => 1.0,
            Precision::W8a16 | Precision::W4a8 | Int8 => 0.55,
            Int4 => 0.36,
        };
        let rank = if treatment.rank.is_some() { 0.7 } else { 1.0 };
        LayerRow {
            layer: (*name).into(),
            op: (*op).into(),
            weight: weight.to_vec(),
            channels: ((weight[0] as f64 * treatment.keep) as usize, weight[0]),
            us: float_us * speed * treatment.keep * rank,
            float_us: *float_us,
            treatment,
        }
    });
    rows.collect()
}

fn cloud() -> Vec<CloudPoint> {
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    let trials = (0..60).map(|i| {
        let (a, b) = (random(), random());
        let latency = 0.40 + 0.5 * a;
        let drop = 0.004 + 0.006 * (0.9 - latency).powi(2) / 0.1 + 0.05 * b * b * b;
        let (status, why, drop) = match i % 6 {
            0 => ("rejected", "size", None),
            1 => ("rejected", "slower_than_float", None),
            2 | 3 => ("stopped", "over the budget or dominated, for certain", Some(0.012 + 4.0 * drop)),
            _ => ("measured", "dominated", Some(drop)),
        };
        let latency = if why == "slower_than_float" { 1.0 + 0.2 * a } else { latency };
        CloudPoint {
            trial: 400 + i,
            status: status.into(),
            drop,
            predicted_drop: drop.map(|d| 0.9 * d),
            samples: if status == "measured" { 10_000 } else { 0 },
            latency_ms: 1.23 * latency,
            bytes: (3_882_357.0 * (0.25 + 0.5 * random())) as u64,
            why: why.into(),
        }
    });
    trials.collect()
}
