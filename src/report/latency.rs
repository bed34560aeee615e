//! What the latency model's errors mean for a front, in words and marks.

use super::{format, words};
use crate::study::summary::{FrontPoint, LatencyError, Summary};

/// Names that a sentence lists before it counts the rest.
const LISTED: usize = 4;

/// Groups that the footnote lists before it counts the rest.
const GROUPS: usize = 8;

/// Whether a point has to bear the mark: another or the float model is too near in latency.
pub(super) fn is_marked(point: &FrontPoint) -> bool {
    !point.not_told_apart.is_empty() || point.told_from_float == Some(false)
}

/// Whether the float model has to bear the mark.
pub(super) fn marks_float(summary: &Summary) -> bool {
    summary.front.iter().any(|p| p.told_from_float == Some(false))
}

/// A latency as a table shows it, marked or not.
pub(super) fn marked(figure: String, mark: bool) -> String {
    if mark { format!("≈ {figure}") } else { figure }
}

/// All that a point is not told apart from.
pub(super) fn hint(point: &FrontPoint) -> Option<String> {
    let float = (point.told_from_float == Some(false)).then(|| "the float model".to_owned());
    let others: Vec<String> = point.not_told_apart.iter().map(ToString::to_string).chain(float).collect();
    (!others.is_empty()).then(|| format!("≈ not told apart by latency from {}", and(&others)))
}

/// The errors of the latency model as a fact.
pub(super) fn fact(error: &LatencyError) -> String {
    format!(
        "median {} for one prediction, {} for the ratio of two; nine in ten within a factor of {}; judged on {} of {} in {} that were not \
         fitted; published values of one point differ by {}",
        format::percent(error.median_error),
        format::percent(error.ratio_error),
        format::fixed(error.factor_90, 2),
        format::counted(error.rows as u64, "measurement"),
        format::counted(error.networks as u64, "network"),
        families(error.families),
        format::percent(error.noise_floor)
    )
}

fn families(n: usize) -> String {
    if n == 1 { "1 family".to_owned() } else { format!("{} families", format::count(n as u64)) }
}

/// What to make of the latencies of the front, a sentence each; empty if there is no front.
pub(super) fn sentences(summary: &Summary) -> Vec<String> {
    if summary.front.is_empty() {
        return Vec::new();
    }
    let Some(error) = &summary.latency_error else {
        return vec![format!(
            "How far apart two latencies must be to differ in truth cannot be said: the profile of {} has no measurements to judge its \
             predictions by.",
            summary.device
        )];
    };
    let percent = format::percent(error.ratio_error);
    let mut said = vec![if summary.front.iter().any(is_marked) {
        format!(
            "Predicted latencies of one network are off by {percent} in the median relative to one another; points closer than that are marked ≈ \
             and are not told apart by latency: choose among them by accuracy or size, or measure them."
        )
    } else {
        format!(
            "Predicted latencies of one network are off by {percent} in the median relative to one another; all points are farther apart."
        )
    }];
    said.extend(intervals(summary));
    said.extend(limit_within(summary));
    said.extend(extrapolated(error));
    said
}

fn intervals(summary: &Summary) -> Option<String> {
    let float = between(summary.baseline.latency_interval_ms?);
    let point = words::subject(summary).and_then(|p| Some((p.trial, between(p.latency_interval_ms?))));
    let point = point.map(|(trial, interval)| format!(", trial {trial} {interval}")).unwrap_or_default();
    Some(format!("By itself each is known only to an interval that holds nine measurements in ten: float model {float}{point}."))
}

fn limit_within(summary: &Summary) -> Option<String> {
    let (limit, point) = (summary.budget.latency_ms?, words::subject(summary)?);
    let [low, high] = point.latency_interval_ms?;
    let within = low < limit && limit < high;
    let limit = format::millis_limit(limit);
    within.then(|| {
        format!("The latency limit of {limit} lies between these, so only a measurement can say whether trial {} keeps it.", point.trial)
    })
}

fn extrapolated(error: &LatencyError) -> Option<String> {
    let kernels = &error.extrapolated;
    let mut names: Vec<String> = kernels.iter().take(LISTED).map(|e| format!("{} ({})", e.kernel, e.why)).collect();
    if kernels.len() > LISTED {
        names.push(format!("{} more", format::count((kernels.len() - LISTED) as u64)));
    }
    (!names.is_empty()).then(|| format!("Extrapolated, as nothing like them was measured: {}.", and(&names)))
}

/// An interval of latencies: `0.420 … 0.870 ms`, `50.0 µs … 1.20 ms`.
pub(super) fn between([low, high]: [f64; 2]) -> String {
    let (low, high) = (format::millis(low), format::millis(high));
    match (low.rsplit_once(' '), high.rsplit_once(' ')) {
        (Some((number, one)), Some((_, other))) if one == other => format!("{number} … {high}"),
        _ => format!("{low} … {high}"),
    }
}

/// A clause for the headline where a point's gain in latency is within the error.
pub(super) fn clause(point: &FrontPoint) -> &'static str {
    if point.told_from_float == Some(false) {
        "; its gain in latency is within the latency model's error, so nothing says that it is faster than the float model"
    } else {
        ""
    }
}

/// Which points are not told apart, as groups of neighbours; none if all are.
pub(super) fn footnote(summary: &Summary) -> Option<String> {
    let groups = groups(summary);
    let mut words: Vec<String> = groups.iter().take(GROUPS).map(|g| group(g)).collect();
    if groups.len() > GROUPS {
        words.push(format!("{} more, for each point in front.json", format::counted((groups.len() - GROUPS) as u64, "group")));
    }
    (!words.is_empty()).then(|| format!("≈ Not told apart by latency: {}.", words.join("; ")))
}

/// Largest groups of points, neighbours by latency and the float model last, of which no two are told apart.
fn groups(summary: &Summary) -> Vec<Vec<String>> {
    let front = &summary.front;
    let alike = |a: usize, b: usize| match front.get(b) {
        Some(other) => front[a].not_told_apart.contains(&other.trial),
        None => front[a].told_from_float == Some(false),
    };
    let name = |i: usize| front.get(i).map_or("float".to_owned(), |p| p.trial.to_string());
    let (mut groups, mut reached) = (Vec::new(), 0);
    for from in 0..front.len() {
        let to = (from + 1..=front.len()).take_while(|&to| alike(from, to)).last().unwrap_or(from);
        if to > reached.max(from) {
            groups.push((from..=to).map(name).collect());
            reached = to;
        }
    }
    groups
}

fn group(names: &[String]) -> String {
    match names {
        [first, .., last] if names.len() > LISTED => format!("{first} to {last} ({} in a row)", names.len()),
        _ => and(names),
    }
}

fn and(words: &[String]) -> String {
    match words {
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        _ => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use crate::device::Extrapolated;

    #[test]
    fn what_the_error_means_is_said_for_each_kind_of_result() {
        let all = fixture::all();
        let lines = all.iter().map(|(name, s)| format!("{name}: {} {}", sentences(s).join(" "), footnote(s).unwrap_or_default()));
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn a_profile_without_measurements_marks_nothing_and_says_so_once() {
        let summary = fixture::unmeasured();
        assert_eq!((sentences(&summary).len(), footnote(&summary)), (1, None));
        assert!(!summary.front.iter().any(is_marked) && !marks_float(&summary));
    }

    #[test]
    fn an_interval_names_its_unit_once() {
        assert_eq!([between([0.42, 0.87]), between([0.05, 1.2])], ["0.420 … 0.870 ms", "50.0 µs … 1.20 ms"]);
    }

    #[test]
    fn a_group_is_as_large_as_it_can_be_and_part_of_no_other() {
        let mut summary = fixture::within();
        summary.front.truncate(4);
        let trials: Vec<usize> = summary.front.iter().map(|p| p.trial).collect();
        // The first three are alike, the last two, and the last and the float model.
        let alike = [vec![1, 2], vec![0, 2], vec![0, 1, 3], vec![2]];
        for (point, others) in summary.front.iter_mut().zip(alike) {
            point.not_told_apart = others.into_iter().map(|i| trials[i]).collect();
        }
        summary.front[3].told_from_float = Some(false);
        assert_eq!(groups(&summary), [vec!["231", "188", "342"], vec!["342", "17"], vec!["17", "float"]]);
        assert_eq!(hint(&summary.front[3]).unwrap(), "≈ not told apart by latency from 342 and the float model");
    }

    #[test]
    fn long_groups_and_many_groups_are_cut_short() {
        let mut summary = fixture::within();
        let error = summary.latency_error.clone().unwrap();
        crate::study::tell_apart(&mut summary.front, summary.baseline.latency_ms, 9.0);
        assert_eq!(footnote(&summary).unwrap(), "≈ Not told apart by latency: 231 to float (9 in a row).");
        let point = summary.front[0].clone();
        summary.front = (0..12).map(|i| FrontPoint { trial: i, latency_ms: 1.1_f64.powi(i as i32), ..point.clone() }).collect();
        crate::study::tell_apart(&mut summary.front, 100.0, error.ratio_error);
        assert!(
            footnote(&summary).unwrap().ends_with("; 7 and 8; 3 groups more, for each point in front.json."),
            "{:?}",
            footnote(&summary)
        );
    }

    #[test]
    fn kernels_unlike_those_measured_are_named_with_their_reason() {
        let mut summary = fixture::within();
        let kernel = |i: usize| Extrapolated { kernel: format!("conv_{i}"), why: "no pooling was among the measurements".into() };
        summary.latency_error.as_mut().unwrap().extrapolated = (0..6).map(kernel).collect();
        let said = sentences(&summary).join(" ");
        assert!(said.contains("conv_3 (no pooling was among the measurements) and 2 more."), "{said}");
    }
}
