//! Times of the search's solver on synthetic networks and on HAWQ-V3's tables, with the peak of memory; one core.
//!
//! `cargo bench --bench search -- PART`, one of `hawq`, `independent`, `tree`, `chain`, `dense`; all of them without.

#![expect(clippy::print_stdout, reason = "the figures are what the bench is for")]

use std::time::Instant;

use gulliver::search::solve::{Best, Effort, Problem, Term};

/// A deterministic stream of numbers in 0..1.
fn stream(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1_u64 << 31) as f64
    }
}

/// Damage that grows with the option, unevenly.
fn damage(next: &mut impl FnMut() -> f64, options: usize) -> Vec<f64> {
    let weight = (next() * 8.0).exp2();
    (0..options).map(|o| if o == 0 { 0.0 } else { weight * (o as f64 / options as f64).powi(2) * (0.8 + 0.4 * next()) }).collect()
}

/// Milliseconds of one layer that fall with the options of all its axes, with noise.
fn term(next: &mut impl FnMut() -> f64, axes: Vec<usize>, options: &[usize]) -> Term {
    let sizes: Vec<usize> = axes.iter().map(|&a| options[a]).collect();
    let size: usize = sizes.iter().product();
    let base = 0.05 + next();
    let share = |i: usize| {
        let mut rest = i;
        sizes.iter().rev().fold(1.0, |s, n| {
            let option = rest % n;
            rest /= n;
            s * (1.0 - 0.6 * option as f64 / *n as f64)
        })
    };
    let ms: Vec<f64> = (0..size).map(|i| base * share(i) * (0.9 + 0.2 * next())).collect();
    let bytes = (0..size).map(|i| (1e6 * base * share(i)).round()).collect();
    Term { axes, ms, bytes }
}

/// 200 axes of 60 options that do not interact.
fn independent() -> Problem {
    let mut next = stream(1);
    let options = vec![60; 200];
    let damage = options.iter().map(|&n| damage(&mut next, n)).collect();
    let terms = (0..200).map(|a| term(&mut next, vec![a], &options)).collect();
    Problem { options, damage, terms, fixed_ms: 0.5, fixed_bytes: 0.0 }
}

/// 200 layers in a chain: 6 precisions each, with the next one's; 4 choices of channels between any two layers.
fn chain(layers: usize) -> Problem {
    let mut next = stream(2);
    let options: Vec<usize> = (0..layers).map(|_| 6).chain((0..=layers).map(|_| 4)).collect();
    let damage = options.iter().map(|&n| damage(&mut next, n)).collect();
    let own = (0..layers).map(|l| vec![l, layers + l, layers + l + 1]);
    let pairs = (1..layers).map(|l| vec![l - 1, l]);
    let terms = own.chain(pairs).map(|axes| term(&mut next, axes, &options)).collect();
    Problem { options, damage, terms, fixed_ms: 0.5, fixed_bytes: 0.0 }
}

/// Stages of residual blocks: one axis of channels a stage, two layers and one inner group of channels a block.
fn tree() -> Problem {
    let mut next = stream(3);
    let (mut options, mut scopes) = (vec![4], vec![]);
    for stage in 0..4 {
        let channels = if stage == 0 { 0 } else { options.len() - 1 };
        for _ in 0..6 {
            let first = options.len();
            options.extend([6, 6, 4]);
            scopes.extend([vec![first, channels, first + 2], vec![first + 1, first + 2, channels], vec![first, first + 1]]);
        }
        options.push(4);
        scopes.push(vec![channels, options.len() - 1]);
    }
    let damage = options.iter().map(|&n| damage(&mut next, n)).collect();
    let terms = scopes.into_iter().map(|axes| term(&mut next, axes, &options)).collect();
    Problem { options, damage, terms, fixed_ms: 0.5, fixed_bytes: 0.0 }
}

/// 60 axes of 3 options, every pair with a table.
fn dense() -> Problem {
    let mut next = stream(4);
    let options = vec![3; 60];
    let damage = options.iter().map(|&n| damage(&mut next, n)).collect();
    let terms = (0..60).flat_map(|a| (0..a).map(move |b| vec![b, a])).map(|axes| term(&mut next, axes, &options)).collect();
    Problem { options, damage, terms, fixed_ms: 0.5, fixed_bytes: 0.0 }
}

/// Layers of ResNet-50 at 8 or 4 bits, untied.
fn hawq(name: &str) -> Problem {
    let tables: serde_json::Value = serde_json::from_str(include_str!("../../src/search/solve/hawqv3.json")).unwrap_or_default();
    let column = |key: &str| -> Vec<f64> {
        tables["networks"][name][key].as_array().map(|a| a.iter().filter_map(serde_json::Value::as_f64).collect()).unwrap_or_default()
    };
    let (trace, mild, hard) = (column("trace"), column("delta_int8"), column("delta_int4"));
    let (slow, fast) = (column("latency_int8_ms"), column("latency_int4_ms"));
    Problem {
        options: vec![2; trace.len()],
        damage: (0..trace.len()).map(|l| vec![trace[l] * mild[l], trace[l] * hard[l]]).collect(),
        terms: (0..trace.len()).map(|l| Term { axes: vec![l], ms: vec![slow[l], fast[l]], bytes: vec![] }).collect(),
        fixed_ms: 0.0,
        fixed_bytes: 0.0,
    }
}

fn timed<T>(what: &str, run: impl FnOnce() -> T, say: impl FnOnce(&T) -> String) -> T {
    let start = Instant::now();
    let result = run();
    println!("  {what:34} {:8.3} s  peak {:4} MB  {}", start.elapsed().as_secs_f64(), peak(), say(&result));
    result
}

/// Peak of resident memory, megabytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).and_then(|l| l.split_whitespace().next());
    line.and_then(|l| l.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn show(name: &str, problem: &Problem, sizes: bool) {
    println!("{name}");
    let effort = Effort { labels: 10_000, states: 4096 };
    let front =
        timed("front, 10 000 labels", || problem.front(0.0, effort), |f| format!("{} points, exact {}", f.solutions.len(), f.exact));
    let few = Effort { labels: 2_000, ..effort };
    timed("front, 2 000 labels", || problem.front(0.0, few), |f| format!("{} points", f.solutions.len()));
    let (Some(first), Some(last)) = (front.solutions.first(), front.solutions.last()) else { return };
    for share in [0.25, 0.5, 0.75] {
        let ms = first.ms + share * (last.ms - first.ms);
        let near = front.solutions.iter().rev().find(|s| s.ms <= ms).map_or(f64::NAN, |s| s.damage);
        let say = |b: &Option<Best>| {
            b.as_ref().map_or_else(String::new, |b| {
                format!("damage {:.6}, exact {}, front {:+.4} %", b.solution.damage, b.exact, 100.0 * (near / b.solution.damage - 1.0))
            })
        };
        timed(&format!("best within {share} of the range"), || problem.best(Some(ms), None, effort), say);
    }
    if sizes {
        let middle = &front.solutions[front.solutions.len() / 2];
        let (ms, bytes) = (middle.ms * 1.05, middle.bytes * 0.95);
        let say = |b: &Option<Best>| {
            b.as_ref().map_or_else(String::new, |b| {
                format!("damage {:.6} (without size {:.6}), exact {}", b.solution.damage, middle.damage, b.exact)
            })
        };
        timed("best within time and size", || problem.best(Some(ms), Some(bytes), few), say);
        timed("front within size, 2 000 labels", || problem.front_within(Some(bytes), few), |f| format!("{} points", f.solutions.len()));
    }
}

fn main() {
    let part = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let wanted = |name: &str| part.as_deref().is_none_or(|p| p == name);
    if wanted("hawq") {
        show("HAWQ-V3 ResNet-18, 19 axes", &hawq("ResNet18"), false);
        show("HAWQ-V3 ResNet-50, 51 axes", &hawq("ResNet50"), false);
    }
    if wanted("independent") {
        show("200 independent axes of 60 options", &independent(), true);
    }
    if wanted("tree") {
        show("24 residual blocks in 4 stages", &tree(), true);
    }
    if wanted("chain") {
        show("chain of 200 layers with channels", &chain(200), true);
    }
    if wanted("dense") {
        show("60 axes, all pairs", &dense(), true);
    }
}
