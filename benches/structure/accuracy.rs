//! Accuracy of pruned networks without training.

use std::time::Instant;

use gulliver::{
    space::Build,
    spec::{Repair, Score, StructureSpec},
};

use crate::network::{NAMES, Network, Options};

/// Norm pruning and refitted pruning at two shares of channels.
pub fn prune(options: &Options) {
    let ways = [
        ("norm, nothing repaired", Score::Norm, Repair::None, Build::Parallel),
        ("balanced norm (AMCT), nothing repaired", Score::BalancedNorm, Repair::None, Build::Parallel),
        ("norm, biases corrected", Score::Norm, Repair::Bias, Build::Parallel),
        ("energy, refitted", Score::Energy, Repair::Refit, Build::Parallel),
        ("norm, refitted", Score::Norm, Repair::Refit, Build::Parallel),
        ("loss after refit, refitted, in parallel", Score::Refit, Repair::Refit, Build::Parallel),
        ("loss after refit, refitted, in sequence", Score::Refit, Repair::Refit, Build::Sequential),
    ];
    for name in NAMES {
        let mut network = Network::open(name, options, StructureSpec::default(), false);
        println!("\n{name}, {} test images, {} calibration images", network.test.len(), options.samples);
        println!("| channels go by | keep 0.75: top1, drop | keep 0.5: top1, drop | seconds |\n|---|---|---|---|");
        for (what, score, repair, build) in ways {
            (network.compressor.structure.score, network.compressor.structure.repair) = (score, repair);
            let begun = Instant::now();
            let cells = [0.75, 0.5].map(|keep| {
                let (accuracy, drop) = network.accuracy(&network.cut(|_| keep), build);
                format!("{accuracy:.2}, {drop:.2}")
            });
            println!("| {what} | {} | {:.1} |", cells.join(" | "), begun.elapsed().as_secs_f64());
        }
    }
}

/// The same plans in parallel and in sequence: ten with a random share of channels for each group and a random rank for some layers.
pub fn sequence(options: &Options) {
    let names: Vec<&'static str> = NAMES
        .into_iter()
        .chain(["mobilenetv2"])
        .filter(|n| std::env::var("ONLY").is_ok_and(|o| o == *n) || std::env::var("ONLY").is_err())
        .collect();
    for name in names {
        let mut network = Network::open(name, options, StructureSpec::default(), false);
        if let Ok(n) = std::env::var("SEQ") {
            network.compressor.structure.samples = n.parse().unwrap();
        }
        if let Ok(n) = std::env::var("POS") {
            network.compressor.structure.positions = n.parse().unwrap();
        }
        for keep in [0.75, 0.5] {
            let plan = network.cut(|_| keep);
            let p = network.accuracy(&plan, Build::Parallel);
            let s = network.accuracy(&plan, Build::Sequential);
            println!("{name} keep {keep}: parallel {:.2} sequential {:.2}", p.1, s.1);
        }
    }
}

/// One global share.
pub fn global(options: &Options) {
    let _ = options;
}
