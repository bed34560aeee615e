//! What a candidate's evaluation costs against the float model's inference on the same samples, one thread each.
//!
//! An evaluation is everything a trial does: build the plan's network, load it, run the samples, score them. Both sides
//! alternate within one run, so that the machine's moods hit both; the ratio of the medians is what to read.
//!
//! `cargo bench --bench evaluation`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints and may fail loudly")]

use std::{path::Path, time::Instant};

use gulliver::{
    compress::Effort,
    evaluate::{Objective, Race, evaluate_model},
    runtime::Runtime,
    space::{Candidate, Choice, Kind},
    spec::Spec,
    study::Bench,
};

const ROUNDS: usize = 5;
const SAMPLES: usize = 2000;

fn main() {
    let runtime = Runtime::start(&mut |notice| println!("{notice}")).unwrap();
    println!("{SAMPLES} samples, medians of {ROUNDS} rounds, one thread");
    for name in ["cifar10-vgg", "cifar10-resnet20", "cifar10-mobilenetv2"] {
        network(&runtime, name);
    }
}

fn network(runtime: &Runtime, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("search_spaces").join(format!("{name}.yaml"));
    let mut spec = Spec::load(&path).unwrap();
    spec.data.validation.samples = Some(SAMPLES);
    let bench = Bench::open(runtime, &path, spec).unwrap();
    let data = bench.data().unwrap();
    let evaluator = bench.prepare(&data, (1, Effort::MEMORY), None, false, &mut ()).unwrap();
    let setup = evaluator.setup();
    let metric = setup.metric.clone();
    let space = evaluator.space();
    let uniform = |kinds: &[Kind]| {
        let option = |kind| u16::from(kinds.contains(&kind));
        Candidate(space.axes.iter().map(|a| if matches!(a.choice, Choice::Precision(..)) { 1 } else { option(a.kind()) }).collect())
    };
    let candidates =
        [("int8", uniform(&[])), ("int8 + keep", uniform(&[Kind::Keep])), ("int8 + keep + rank", uniform(&[Kind::Keep, Kind::Rank]))];
    let mut times = vec![Vec::new(); 1 + candidates.len()];
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        evaluate_model(runtime, (name, &setup.compressor.original.to_bytes().unwrap()), None, &metric, &setup.validation, 0.95).unwrap();
        times[0].push(begun.elapsed().as_secs_f64());
        for (slot, (_, candidate)) in times[1..].iter_mut().zip(&candidates) {
            let begun = Instant::now();
            let outcome = evaluator.evaluate(candidate, Race { samples: evaluator.samples(), above: None, alpha: 0.05 });
            assert!(outcome.measured().is_some(), "{outcome:?}");
            slot.push(begun.elapsed().as_secs_f64());
        }
    }
    let median = |t: &mut Vec<f64>| {
        t.sort_by(f64::total_cmp);
        t[t.len() / 2]
    };
    let float = median(&mut times[0]);
    println!("{name}: float inference {float:.3} s");
    for (slot, (what, _)) in times[1..].iter_mut().zip(&candidates) {
        let time = median(slot);
        println!("  {what}: {time:.3} s, {:.2} x", time / float);
    }
}
