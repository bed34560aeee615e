//! From trials to the result.

use super::*;

fn point(trial: usize, drop: f64, high: Option<f64>, latency_ms: f64, bytes: u64) -> FrontPoint {
    FrontPoint {
        trial,
        accuracy: 0.9 - drop,
        drop,
        drop_low: high.map(|h| 2.0 * drop - h),
        drop_high: high,
        samples: 1000,
        latency_ms,
        latency_interval_ms: None,
        not_told_apart: Vec::new(),
        told_from_float: None,
        bytes,
        predicted_drop: None,
        finetuned: false,
        layers: BTreeMap::new(),
    }
}

const NO_LIMIT: Budget = Budget { accuracy_drop: None, latency_ms: None, bytes: None, confidence: 0.95 };

fn drop_of(limit: f64) -> Budget {
    Budget { accuracy_drop: Some(limit), ..NO_LIMIT }
}

#[test]
fn the_fastest_point_that_is_certain_is_chosen_before_a_faster_that_is_likely() {
    let front = [point(1, 0.009, Some(0.012), 1.0, 10), point(2, 0.006, Some(0.009), 2.0, 10), point(3, 0.001, Some(0.002), 3.0, 10)];
    assert_eq!(choose(&front, &drop_of(0.01)), (Some(2), Verdict::Certain));
}

#[test]
fn a_point_within_the_budget_only_as_measured_is_likely() {
    let front = [point(1, 0.02, Some(0.03), 1.0, 10), point(2, 0.009, Some(0.012), 2.0, 10)];
    assert_eq!(choose(&front, &drop_of(0.01)), (Some(2), Verdict::Likely));
}

#[test]
fn a_metric_without_intervals_is_unjudged() {
    let front = [point(1, 0.02, None, 1.0, 10), point(2, 0.009, None, 2.0, 10)];
    assert_eq!(choose(&front, &drop_of(0.01)), (Some(2), Verdict::Unjudged));
}

#[test]
fn a_budget_that_nothing_keeps_is_missed_and_the_nearest_miss_known() {
    let front = [point(1, 0.05, Some(0.06), 1.0, 10), point(2, 0.02, Some(0.03), 2.0, 10)];
    assert_eq!(choose(&front, &drop_of(0.01)), (None, Verdict::Missed));
    assert_eq!(summarise::nearest_miss(&front, &drop_of(0.01)), Some(2));
    assert_eq!(choose(&[], &drop_of(0.01)), (None, Verdict::Missed));
    assert_eq!(choose(&[], &NO_LIMIT), (None, Verdict::Missed));
}

#[test]
fn latency_and_size_limits_count_too() {
    let front = [point(1, 0.001, Some(0.002), 1.0, 90), point(2, 0.002, Some(0.003), 2.0, 50)];
    assert_eq!(choose(&front, &Budget { bytes: Some(60), ..drop_of(0.01) }), (Some(2), Verdict::Certain));
    assert_eq!(choose(&front, &Budget { bytes: Some(60), latency_ms: Some(1.5), ..drop_of(0.01) }), (None, Verdict::Missed));
}

#[test]
fn without_an_accuracy_budget_the_knee_is_chosen() {
    let front = [point(1, 0.10, Some(0.2), 1.0, 10), point(2, 0.01, Some(0.02), 1.5, 10), point(3, 0.0, Some(0.01), 9.0, 10)];
    assert_eq!(choose(&front, &NO_LIMIT), (Some(2), Verdict::Unjudged));
}

const FLOAT: Cost = Cost { latency_ms: 10.0, bytes: 100 };

/// Measured trials with these (drop, milliseconds, bytes), the float model's before them.
fn trials(measured: &[(f64, f64, u64)]) -> Vec<Trial> {
    let score = |drop: f64| Score { accuracy: 0.9 - drop, drop, drop_low: Some(drop), drop_high: Some(drop), distance: None, samples: 10 };
    let all = std::iter::once(&(0.0, FLOAT.latency_ms, FLOAT.bytes)).chain(measured).enumerate();
    all.map(|(trial, &(drop, latency_ms, bytes))| Trial {
        trial,
        round: trial,
        origin: if trial == 0 { Origin::Baseline } else { Origin::Search },
        predicted: None,
        from: None,
        candidate: Candidate((0..3).map(|bit| u16::from(trial >> bit & 1 == 1)).collect()),
        outcome: Outcome::Measured { score: score(drop), cost: Cost { latency_ms, bytes } },
    })
    .collect()
}

fn summary(all: &[Trial]) -> Result<Summary> {
    summary_within(all, &Constraints::default())
}

fn summary_within(all: &[Trial], constraints: &Constraints) -> Result<Summary> {
    let space = space(3, BITS);
    let (layers, text) = (|_: &Plan| Ok(Vec::new()), String::new);
    let facts = Facts {
        version: text(),
        onnxruntime: text(),
        seed: 0,
        strategy: text(),
        spec_sha256: text(),
        model_sha256: text(),
        data_sha256: text(),
        latency_model: text(),
        space_log10: 0.0,
    };
    let context = Context {
        space: &space,
        constraints,
        float: FLOAT,
        layers: &layers,
        stop: Stop::Trials { trials: all.len() },
        clock: Clock::default(),
        facts,
        names: (text(), text(), 1, text()),
        file_bytes: 0,
        normalised_latency_ms: 10.0,
        judged: None,
    };
    summarise(all, &context)
}

/// The same trial as one that met so many samples, not all.
fn sampled(trial: &Trial, samples: usize) -> Trial {
    let (score, cost) = trial.outcome.measured().unwrap();
    Trial { outcome: Outcome::Sampled { score: Score { samples, ..*score }, cost: *cost }, ..trial.clone() }
}

#[test]
fn of_a_candidate_that_went_on_what_met_most_samples_stands_for_it() {
    let plain = trials(&[(0.01, 8.0, 90), (0.02, 8.5, 95), (0.03, 6.0, 80)]);
    let mut all: Vec<Trial> = plain.iter().map(|t| if t.trial == 0 { t.clone() } else { sampled(t, 4) }).collect();
    let on_the_front = |all: &[Trial]| summary(all).unwrap().front.iter().map(|p| (p.trial, p.samples)).collect::<Vec<_>>();
    // Nothing met all samples: those that met some stand for them. The second is beaten by the first.
    assert_eq!(on_the_front(&all), [(3, 4), (1, 4)]);
    let again = |trial: usize, origin: Origin, of: usize, drop: f64| {
        let (_, ms, bytes) = [(0.01, 8.0, 90), (0.02, 8.5, 95), (0.03, 6.0, 80)][of - 1];
        Trial {
            trial,
            origin,
            predicted: Some(drop / 2.0),
            ..Trial { candidate: plain[of].candidate.clone(), ..trials(&[(drop, ms, bytes)]).remove(1) }
        }
    };
    all.push(again(4, Origin::Certify, 1, 0.025));
    all.push(again(5, Origin::Certify, 3, 0.028));
    // The first got worse by it, but what met some samples only is no rival of those that met all.
    assert_eq!(on_the_front(&all), [(5, 10), (4, 10)]);
    let found = summary(&all).unwrap();
    assert_eq!(found.front.iter().map(|p| p.predicted_drop).collect::<Vec<_>>(), [Some(0.014), Some(0.0125)]);
    let cloud: Vec<(usize, &str, usize)> = found.cloud.iter().map(|p| (p.trial, p.why.as_str(), p.samples)).collect();
    assert_eq!(cloud, [(2, "dominated as far as known", 4)]);
    // Two met four samples and went on to all ten, one stayed at four.
    assert_eq!(found.cost.samples_inferred, 2 * 10 + 4);
}

#[test]
fn how_well_the_front_was_predicted_is_the_rank_correlation_of_predicted_and_measured() {
    let mut all = trials(&[(0.01, 8.0, 90), (0.02, 7.0, 90), (0.03, 6.0, 90), (0.04, 5.0, 90)]);
    assert_eq!(summary(&all).unwrap().predicted_rank_correlation, None);
    // The middle two the wrong way round: 1 − 6·(1 + 1)/(4·15) = 0.8.
    all.iter_mut().skip(1).zip([0.1, 0.3, 0.2, 0.4]).for_each(|(t, p)| t.predicted = Some(p));
    assert!((summary(&all).unwrap().predicted_rank_correlation.unwrap() - 0.8).abs() < 1e-12);
}

#[test]
fn steps_say_what_they_changed_and_whether_the_budget_held() {
    let mut all = trials(&[(0.03, 6.0, 80), (0.02, 7.0, 85), (0.008, 7.5, 88)]);
    // The first trial has the first layer in INT8.
    all[2] = Trial { origin: Origin::Rollback, candidate: Candidate(vec![0, 0, 0]), from: Some(1), ..all[2].clone() };
    all[3] = Trial { origin: Origin::Spend, candidate: Candidate(vec![0, 1, 0]), from: Some(2), ..all[3].clone() };
    let steps = summary_within(&all, &within(0.01)).unwrap().rollback;
    let told: Vec<_> = steps.iter().map(|s| (s.trial, s.before, s.layer.as_str(), s.from.as_str(), s.to.as_str(), s.held)).collect();
    assert_eq!(told, [(2, 1, "l0", "int8", "fp16", false), (3, 2, "l1", "fp16", "int8", true)]);
    assert_eq!(steps.iter().map(|s| s.cost_ms).collect::<Vec<_>>(), [1.0, 0.5]);
    assert!(summary(&all).unwrap().rollback.is_empty());
}

fn front_of(measured: &[(f64, f64, u64)]) -> Vec<usize> {
    summary(&trials(measured)).unwrap().front.iter().map(|p| p.trial).collect()
}

#[test]
fn nothing_slower_or_larger_than_the_float_model_enters_the_front() {
    // Slower with a gain in accuracy; larger; faster but dominated by the last; good.
    assert_eq!(front_of(&[(-0.01, 10.1, 50), (-0.01, 5.0, 101), (0.02, 8.0, 90), (0.01, 8.0, 90)]), [4]);
}

#[test]
fn the_front_is_sorted_by_latency_and_never_has_the_float_model() {
    assert_eq!(front_of(&[(0.01, 8.0, 90), (0.02, 6.0, 90), (0.03, 7.0, 20)]), [2, 3, 1]);
    assert_eq!(front_of(&[]), [0_usize; 0]);
}

#[test]
fn every_trial_is_counted_and_those_off_the_front_are_in_the_cloud() {
    let mut all = trials(&[(0.01, 8.0, 90), (0.02, 8.5, 95)]);
    let more = [
        Outcome::Rejected { limit: Limit::Latency, cost: FLOAT },
        Outcome::Failed { reason: "why".into() },
        Outcome::Stopped { score: *all[1].outcome.measured().unwrap().0, cost: FLOAT },
    ];
    all.extend(more.map(|outcome| Trial { trial: 0, outcome, ..all[1].clone() }));
    all.iter_mut().enumerate().for_each(|(i, t)| (t.trial, t.candidate) = (i, Candidate(vec![i as u16])));
    let summary = summary(&all).unwrap();
    let c = &summary.cost;
    assert_eq!((c.trials, c.rejected_by_limit, c.failed, c.stopped_early, c.samples_inferred), (6, 1, 1, 1, 30));
    let cloud: Vec<(usize, &str)> = summary.cloud.iter().map(|p| (p.trial, p.status.as_str())).collect();
    assert_eq!(cloud, [(2, "measured"), (3, "rejected"), (5, "stopped")]);
}

#[test]
fn a_journal_that_does_not_begin_with_the_float_model_is_refused() {
    let all = trials(&[(0.01, 8.0, 90)]);
    assert!(summary(&all[1..]).is_err() && summary(&[]).is_err() && summary(&all).is_ok());
}
