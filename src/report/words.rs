//! The sentences of a report: the headline, why the search ended, and the notes that keep the figures honest.

use super::format::{self, Unit};
use super::latency;
use crate::precision::Precision;
use crate::study::summary::{CloudPoint, FrontPoint, Stop, Summary, Verdict};

/// The result in one sentence: the chosen point against the limits, or the nearest miss and what it misses by.
pub fn headline(summary: &Summary) -> String {
    if let Some(point) = chosen(summary) {
        return format!("{}{}{}", figures(summary, point), judged(summary, point), latency::clause(point));
    }
    if summary.verdict != Verdict::Missed {
        let trials = format::counted(summary.cost.trials as u64, "trial");
        return format!("No compressed model to choose yet: {trials} so far, no front");
    }
    if let Some(point) = nearest(summary) {
        let excess = excesses(summary, Some(point.drop), point.latency_ms, point.bytes);
        return format!(
            "Nothing meets the limits. The nearest is {}: {}{}",
            uncapitalised(&figures(summary, point)),
            missed_by(summary, point, &excess),
            latency::clause(point)
        );
    }
    let Some((point, excess)) = nearest_of_cloud(summary) else {
        return "Nothing meets the limits, and no trial can say by how much".to_owned();
    };
    let drop = match point.drop {
        Some(drop) => {
            let samples = format::count(point.samples as u64);
            format!("drop {} on {samples} samples", Unit::of(&summary.metric).drop_in_words(drop))
        }
        None => "accuracy not measured".to_owned(),
    };
    let cost = cost(summary, point.latency_ms, point.bytes);
    format!("Nothing meets the limits. The nearest is trial {}: {cost}, {drop}: {}", point.trial, listed(&excess))
}

/// The chosen point, if there is one.
pub(super) fn chosen(summary: &Summary) -> Option<&FrontPoint> {
    summary.front.iter().find(|p| Some(p.trial) == summary.chosen)
}

/// The point that the report is about: the chosen one, or the nearest miss.
pub(super) fn subject(summary: &Summary) -> Option<&FrontPoint> {
    chosen(summary).or_else(|| nearest(summary))
}

/// The nearest miss: the point whose plan the layer rows show; else the one with the smallest relative excess over any limit.
fn nearest(summary: &Summary) -> Option<&FrontPoint> {
    if summary.verdict != Verdict::Missed {
        return None;
    }
    let worst = |p: &FrontPoint| worst(&excesses(summary, Some(p.drop), p.latency_ms, p.bytes));
    let shown =
        |p: &&FrontPoint| !summary.layers.is_empty() && summary.layers.iter().all(|row| p.layers.get(&row.layer) == Some(&row.treatment));
    let by_worst = |a: &&FrontPoint, b: &&FrontPoint| worst(a).total_cmp(&worst(b));
    summary.front.iter().filter(shown).min_by(by_worst).or_else(|| summary.front.iter().min_by(by_worst))
}

fn nearest_of_cloud(summary: &Summary) -> Option<(&CloudPoint, Vec<Excess>)> {
    let known =
        summary.cloud.iter().map(|p| (p, excesses(summary, p.drop, p.latency_ms, p.bytes))).filter(|(_, excess)| !excess.is_empty());
    known.min_by(|(_, a), (_, b)| worst(a).total_cmp(&worst(b)))
}

struct Excess {
    relative: f64,
    text: String,
}

fn excesses(summary: &Summary, drop: Option<f64>, latency_ms: f64, bytes: u64) -> Vec<Excess> {
    let unit = Unit::of(&summary.metric);
    let mut over = Vec::new();
    if let (Some(limit), Some(drop)) = (summary.budget.accuracy_drop, drop)
        && drop > limit
    {
        let text = format!("{} over the budget of {}", unit.limit_in_words(drop - limit), unit.limit_in_words(limit));
        over.push(Excess { relative: (drop - limit) / limit.max(1e-3), text });
    }
    if let Some(limit) = summary.budget.latency_ms
        && latency_ms > limit
    {
        let text = format!("{} over the latency limit of {}", format::millis(latency_ms - limit), format::millis_limit(limit));
        over.push(Excess { relative: latency_ms / limit - 1.0, text });
    }
    if let Some(limit) = summary.budget.bytes
        && bytes > limit
    {
        let text = format!("{} over the size limit of {}", format::bytes(bytes - limit), format::bytes(limit));
        over.push(Excess { relative: bytes as f64 / limit as f64 - 1.0, text });
    }
    over
}

fn worst(excess: &[Excess]) -> f64 {
    excess.iter().map(|e| e.relative).fold(0.0, f64::max)
}

fn listed(excess: &[Excess]) -> String {
    excess.iter().map(|e| e.text.as_str()).collect::<Vec<_>>().join(", and ")
}

fn missed_by(summary: &Summary, point: &FrontPoint, excess: &[Excess]) -> String {
    let unit = Unit::of(&summary.metric);
    match (summary.budget.accuracy_drop, point.drop_high) {
        _ if !excess.is_empty() => listed(excess),
        (Some(limit), Some(high)) if high > limit => {
            let over = unit.limit_in_words(high - limit);
            format!("its interval reaches {over} over the budget of {}", unit.limit_in_words(limit))
        }
        _ => "within each limit as measured, but not chosen".to_owned(),
    }
}

fn cost(summary: &Summary, latency_ms: f64, bytes: u64) -> String {
    let ratio = format::ratio(latency_ms, summary.baseline.latency_ms);
    format!("{ratio} of the float model's predicted latency, {} size", format::change(bytes as f64, summary.baseline.bytes as f64))
}

fn figures(summary: &Summary, point: &FrontPoint) -> String {
    let unit = Unit::of(&summary.metric);
    let level = format::percent(summary.budget.confidence);
    let interval = unit.interval(point.drop_low, point.drop_high).map(|i| format!(" ({level} interval {i})")).unwrap_or_default();
    let drop = unit.drop_in_words(point.drop);
    let tuned = if point.finetuned { " after fine-tuning" } else { "" };
    format!("Trial {}: {}, drop {drop}{interval}{tuned}", point.trial, cost(summary, point.latency_ms, point.bytes))
}

fn judged(summary: &Summary, point: &FrontPoint) -> String {
    let Some(limit) = summary.budget.accuracy_drop.map(|b| Unit::of(&summary.metric).limit_in_words(b)) else {
        return "; no accuracy budget was set".to_owned();
    };
    match summary.verdict {
        Verdict::Certain => format!(", within the budget of {limit}"),
        Verdict::Likely => {
            let samples = format::count(point.samples as u64);
            format!(": likely within the budget of {limit}, but {samples} samples cannot tell for certain")
        }
        Verdict::Unjudged => {
            format!(", within the budget of {limit} as measured; the metric gives no interval, so nothing says how certain that is")
        }
        Verdict::Missed => format!(": over the budget of {limit}"),
    }
}

fn uncapitalised(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Why the search ended, as a clause: `the time budget of 8 h 0 min was used up`.
pub fn stop(stop: &Stop) -> String {
    match stop {
        Stop::Trials { trials } => format!("the budget of {} was used up", format::counted(*trials as u64, "trial")),
        Stop::Samples { samples } => format!("the budget of {} was used up", format::counted(*samples, "sample")),
        Stop::Time { seconds } => format!("the time budget of {} was used up", format::duration(*seconds)),
        Stop::Settled { rounds } => format!("the strategy expected nothing more after {}", format::counted(*rounds as u64, "round")),
        Stop::Exhausted { candidates } => format!("every one of the {} candidates was tried", format::count(*candidates as u64)),
        Stop::Interrupted { trials } => {
            format!("it was interrupted after {}; the same command goes on from there", format::counted(*trials as u64, "trial"))
        }
    }
}

/// What a reader has to know to trust the figures no more than they deserve, a sentence each.
pub fn notes(summary: &Summary) -> Vec<String> {
    let level = format::percent(summary.budget.confidence);
    let mut notes = vec![format!(
        "Latency is predicted for {} at batch {}, not measured. {}",
        summary.device,
        format::count(summary.batch as u64),
        sentence(&summary.facts.latency_model)
    )];
    if summary.baseline.normalised_latency_ms < summary.baseline.latency_ms {
        notes.push(format!(
            "Exact rewrites that cost no accuracy (constants and BatchNorm folded) are in every compressed model; alone they would take the \
             float model to {}, {} of what it takes as given.",
            format::millis(summary.baseline.normalised_latency_ms),
            format::ratio(summary.baseline.normalised_latency_ms, summary.baseline.latency_ms)
        ));
    }
    let int4 = |p: &FrontPoint| p.layers.values().filter(|t| t.precision == Precision::Int4).count();
    if summary.front.iter().any(|p| int4(p) > 0) {
        let here = subject(summary).map(|p| format!(" Layers in INT4 in trial {}: {} of {}.", p.trial, int4(p), p.layers.len()));
        notes.push(format!("INT4 latency is projected from the device profile, on top of being predicted.{}", here.unwrap_or_default()));
    }
    notes.push(format!(
        "Size is what the chip stores: weights, biases and scales. The float model counts with FP16 weights, {}; its file has {}.",
        format::bytes(summary.baseline.bytes),
        format::bytes(summary.baseline.file_bytes)
    ));
    let samples = format::count(summary.samples as u64);
    notes.push(if summary.front.iter().any(|p| p.drop_low.is_some()) {
        format!(
            "A drop is the paired difference to the float model on the same samples, {samples} where the table does not say otherwise; \
             its {level} interval is for each point by itself and takes no account of having chosen the best of several."
        )
    } else {
        format!("A drop is the difference to the float model on {samples} samples; this metric gives no interval.")
    });
    let reduced = |p: &&FrontPoint| p.layers.values().any(|t| t.keep < 1.0 || t.rank.is_some() || t.sparsity.is_some());
    if summary.front.iter().any(|p| reduced(&p)) && !summary.front.iter().all(|p| p.finetuned) {
        notes.push("Pruned and decomposed layers are as compressed, without training, except in trials marked fine-tuned.".to_owned());
    }
    notes.push("A trial predicted slower, or stored larger, than the float model never enters the front.".to_owned());
    notes
}

fn sentence(text: &str) -> String {
    let text = text.trim();
    let mut letters = text.chars();
    let start: String = letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default();
    if start.is_empty() || start.ends_with(['.', '!', '?']) { start } else { format!("{start}.") }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn the_headline_says_each_kind_of_result_in_words() {
        let lines: Vec<String> = fixture::all().iter().map(|(name, s)| format!("{name}: {}", headline(s))).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_miss_by_little_never_reads_as_a_miss_by_nothing() {
        let mut summary = fixture::missed();
        summary.budget.latency_ms = None;
        let limit = summary.front.iter().map(|p| p.drop).fold(f64::INFINITY, f64::min) - 0.000_02;
        summary.budget.accuracy_drop = Some(limit);
        summary.layers.clear();
        assert!(headline(&summary).contains("0.002 points over the budget"), "{}", headline(&summary));
    }

    #[test]
    fn the_nearest_miss_is_the_point_whose_layers_are_shown() {
        let mut summary = fixture::missed();
        let shown = summary.front[1].clone();
        for row in &mut summary.layers {
            row.treatment = shown.layers[&row.layer].clone();
        }
        assert_eq!(subject(&summary).map(|p| p.trial), Some(shown.trial));
    }

    #[test]
    fn notes_name_int4_only_where_the_front_has_it() {
        let mut summary = fixture::within();
        assert!(notes(&summary).iter().any(|n| n.contains("INT4")));
        summary.front.iter_mut().flat_map(|p| p.layers.values_mut()).for_each(|t| t.precision = Precision::Int8);
        assert!(!notes(&summary).iter().any(|n| n.contains("INT4")));
    }

    #[test]
    fn the_end_of_the_search_has_its_figure() {
        assert_eq!(stop(&Stop::Time { seconds: 28_800.0 }), "the time budget of 8 h 0 min was used up");
        assert_eq!(stop(&Stop::Exhausted { candidates: 1_024 }), "every one of the 1,024 candidates was tried");
        assert_eq!(stop(&Stop::Settled { rounds: 5 }), "the strategy expected nothing more after 5 rounds");
    }
}
