//! Study events as a bar, or as a line every half minute where there is no terminal.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    data::Metric,
    search::{additive::Expected, holds},
    spec::{Constraints, Spec},
    study::{Bench, Clock, Event, Folder, Observe},
    trial::{Origin, Trial, counting, inferred},
};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Lines of the expected front.
const EXPECTED_LINES: usize = 6;
/// Drop up to which it is shown, in shares of the float model's metric.
const EXPECTED_DROP: f64 = 0.1;

/// What a study is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Searching,
    Certifying,
    Stepping,
}

/// Says what is being prepared, and nothing else.
pub struct Lines;

impl Observe for Lines {
    fn event(&mut self, event: Event<'_>) {
        if let Event::Preparing { what } = event {
            eprintln!("{what} …");
        }
    }
}

/// What the user sees while a study runs.
pub struct Progress {
    bar: Option<ProgressBar>,
    trials: usize,
    time: Option<f64>,
    budget: Option<f64>,
    constraints: Constraints,
    points: bool,
    ends: bool,
    due: u64,
    due_from: u64,
    begun: Instant,
    resumed_at: usize,
    spent: f64,
    last_line: Instant,
    last_clock: Instant,
    clock: Option<(Folder, Clock, Instant)>,
    phase: Phase,
}

impl Progress {
    /// Says what is about to happen.
    pub fn begin(spec: &Spec, bench: &Bench, history: &[Trial], (samples, jobs): (usize, usize), spent: f64) -> Self {
        let (layers, groups) = (&bench.compressor.layers, &bench.compressor.channels.groups);
        let prunable = groups.iter().filter(|g| g.frozen.is_none()).count();
        eprintln!(
            "{}: {} layers ({} left in float), {prunable} prunable groups, a space of 10^{:.1} candidates",
            spec.model.file_name().unwrap_or_default().display(),
            layers.layers.len(),
            layers.skipped.len(),
            bench.space.log10_size()
        );
        let time = spec.search.time.map_or_else(|| "no time limit".into(), |t| format!("at most {}", minutes(t.0)));
        eprintln!(
            "{} validation samples, metric {}, {} at batch {}, up to {} trials, {time}, {jobs} at once",
            samples,
            spec.metric.name(),
            bench.profile.name,
            spec.device.batch,
            spec.search.trials
        );
        for skipped in &layers.skipped {
            eprintln!("  left in float: {} ({}): {}", skipped.name, skipped.op, skipped.reason);
        }
        if !history.is_empty() {
            eprintln!("going on after trial {} of this study", history.len() - 1);
        }
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(spec.search.trials as u64);
            let style = ProgressStyle::with_template("{spinner} [{elapsed_precise}] {bar:24} {pos}/{len} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_position(searched(history) as u64);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            bar,
            trials: spec.search.trials,
            time: spec.search.time.map(|t| t.0),
            budget: None,
            constraints: spec.constraints.clone(),
            points: matches!(spec.metric, Metric::Top1 | Metric::Top5 | Metric::Agreement),
            ends: spec.search.strategy.ends(),
            due: 0,
            due_from: 0,
            begun: Instant::now(),
            resumed_at: searched(history),
            spent,
            last_line: Instant::now(),
            last_clock: Instant::now(),
            clock: None,
            phase: Phase::Searching,
        }
    }

    /// From now on writes the study's clock now and then.
    pub fn keep_time(&mut self, folder: Folder, clock: Clock) {
        self.clock = Some((folder, clock, Instant::now()));
        self.begun = Instant::now();
        self.spent = clock.seconds;
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn say(&mut self, text: String, always: bool) {
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        } else if always || self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{text}");
        }
    }

    /// What is left, as far as can be said: of a search that ends by itself at most the time budget; of one that does not, by the trials' pace; of
    /// a certification by the samples' pace.
    fn left(&self, history: &[Trial]) -> String {
        let by_time = self.time.map(|t| (t - self.spent - self.begun.elapsed().as_secs_f64()).max(0.0));
        match self.phase {
            Phase::Searching if self.ends => {
                by_time.map_or_else(|| ", until the front no longer moves".into(), |s| format!(", at most {} left", minutes(s)))
            }
            Phase::Searching => self.left_by_trials(searched(history)).map_or_else(String::new, |s| format!(", about {} left", minutes(s))),
            Phase::Certifying => {
                let here = inferred(history).saturating_sub(self.due_from);
                let seconds = self.begun.elapsed().as_secs_f64();
                let pace = (here > 0).then(|| seconds / here as f64);
                pace.map_or_else(String::new, |p| format!(", about {} for these", minutes(p * self.due.saturating_sub(here) as f64)))
            }
            Phase::Stepping => by_time.map_or_else(String::new, |s| format!(", at most {} left", minutes(s))),
        }
    }

    /// Time left by the trials' pace so far, and by the time budget.
    fn left_by_trials(&self, done: usize) -> Option<f64> {
        let here = done.saturating_sub(self.resumed_at);
        let elapsed = self.begun.elapsed().as_secs_f64();
        let by_trials = (here > 0).then(|| elapsed / here as f64 * self.trials.saturating_sub(done) as f64);
        let by_time = self.time.map(|t| (t - self.spent - elapsed).max(0.0));
        match (by_trials, by_time) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The front that is expected, every fifth of it a line.
    fn show_expected(&mut self, points: &[Expected], history: &[Trial]) {
        let Some((score, cost)) = history.first().and_then(|t| t.outcome.measured()) else { return };
        let within: Vec<&Expected> = points.iter().filter(|p| p.drop <= EXPECTED_DROP * score.accuracy.abs().max(1e-9)).collect();
        let mut lines = vec!["expected front (predicted, nothing measured yet): latency of float's, drop".to_string()];
        let step = within.len().div_ceil(EXPECTED_LINES).max(1);
        for point in within.iter().step_by(step) {
            let drop = if self.points { format!("{:.2} points", 100.0 * point.drop) } else { format!("{:.4}", point.drop) };
            lines.push(format!("  {:.2} x  {drop}", point.latency_ms / cost.latency_ms));
        }
        let text = lines.join("\n");
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    fn best(&self, history: &[Trial]) -> String {
        let Some(float) = history.first().and_then(|t| t.outcome.measured()).map(|(_, c)| c.latency_ms) else { return String::new() };
        let compressed = counting(history).into_iter().filter(|t| t.origin != Origin::Baseline);
        let within: Vec<_> = compressed.filter_map(|t| t.outcome.scored().map(|(s, c)| (t.trial, s, c))).collect();
        let best = |sure: bool| {
            let ok = within.iter().filter(|(_, s, _)| self.budget.is_none_or(|b| if sure { holds(s, b) } else { s.drop <= b }));
            ok.min_by(|a, b| a.2.latency_ms.total_cmp(&b.2.latency_ms))
        };
        let Some((trial, score, cost)) = best(true).or_else(|| best(false)) else { return "nothing within the budget yet".into() };
        let drop = if self.points { format!("accuracy {:+.2} points", -100.0 * score.drop) } else { format!("loss {:.4}", score.drop) };
        format!("best: trial {trial}, {:.2} x float latency, {drop}", cost.latency_ms / float)
    }
}

impl Observe for Progress {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Preparing { what } => self.say(format!("{what} …"), true),
            Event::Trial { history, .. } => {
                let float = history.first().and_then(|t| t.outcome.measured()).map(|(score, _)| score.accuracy);
                self.budget = self.constraints.budget(float.unwrap_or(0.0));
                let done = searched(history);
                if let Some(bar) = &self.bar {
                    bar.set_position(done as u64);
                }
                let left = self.left(history);
                let best = self.best(history);
                let text = match (self.phase, self.bar.is_some()) {
                    (Phase::Certifying, _) => format!("certifying the front; {best}{left}"),
                    (Phase::Stepping, _) => format!("steps around the budget; {best}{left}"),
                    (Phase::Searching, true) => format!("{best}{left}"),
                    (Phase::Searching, false) => format!("trial {done} of at most {}; {best}{left}", self.trials),
                };
                self.say(text, false);
                if let Some((folder, clock, since)) = &self.clock
                    && self.last_clock.elapsed() > Duration::from_secs(2)
                {
                    self.last_clock = Instant::now();
                    let now = Clock { seconds: clock.seconds + since.elapsed().as_secs_f64(), ..*clock };
                    if let Err(e) = folder.write_clock(now) {
                        tracing::warn!("{e}");
                    }
                }
            }
            Event::Expected { points, history } => self.show_expected(points, history),
            Event::Certifying { points, samples, history } => {
                self.phase = Phase::Certifying;
                (self.begun, self.spent) = (Instant::now(), self.spent + self.begun.elapsed().as_secs_f64());
                self.due_from = inferred(history);
                self.due = (points * samples) as u64;
                let what = if points == 1 { "point" } else { "points" };
                self.say(format!("certifying {points} {what} of the front on {samples} samples"), true);
            }
            Event::Stepping { axis, step } => {
                let first = self.phase != Phase::Stepping;
                self.phase = Phase::Stepping;
                let (from, to) = (axis.describe(usize::from(step.from)), axis.describe(usize::from(step.to)));
                self.say(
                    format!("a step {}: {} from {from} to {to}", if step.to < step.from { "back" } else { "forward" }, axis.name),
                    first,
                );
            }
        }
    }
}

fn searched(history: &[Trial]) -> usize {
    history.iter().filter(|t| t.origin == Origin::Search).count()
}

fn minutes(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..=99 => format!("{s} s"),
        100..=5999 => format!("{} min", (s + 30) / 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}
