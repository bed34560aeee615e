//! Accuracy of pruned networks without training.

use std::time::Instant;

use gulliver::{
    device::Profile,
    evaluate::predict_plan,
    space::{Build, Plan, limits},
    spec::{Form, Rank, Repair, Score, StructureSpec},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

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
    for name in NAMES {
        let network = Network::open(name, options, StructureSpec::default(), false);
        let c = &network.compressor;
        println!("\n{name}, {} test images\n| plan | drop in parallel | drop in sequence |\n|---|---|---|", network.test.len());
        let mut rng = ChaCha8Rng::seed_from_u64(2026);
        let mut better = 0;
        for n in 0..10 {
            let shares: Vec<f64> = c.channels.groups.iter().map(|_| [1.0, 0.875, 0.75, 0.625, 0.5][rng.random_range(0..5)]).collect();
            let mut plan = network.cut(|g| shares[g]);
            for (l, layer) in c.layers.layers.iter().enumerate() {
                let form = Form::ALL[rng.random_range(0..3)];
                let split = limits::split(&c.model, layer, form, Rank::Fraction([0.5, 0.33, 0.25][rng.random_range(0..3)])).unwrap();
                if rng.random_bool(0.3) && split.is_some_and(|s| limits::why_not_split(layer, s).is_none()) {
                    plan.treatments[l].1.split = split;
                }
            }
            let (parallel, sequence) = (network.accuracy(&plan, Build::Parallel).1, network.accuracy(&plan, Build::Sequential).1);
            better += usize::from(sequence <= parallel);
            println!("| {n} | {parallel:.2} | {sequence:.2} |");
        }
        println!("{name}: in sequence lower or equal on {better} of 10");
    }
}

/// One share of 70 % of all channels, spread, against the same share of every group by norm as AMCT has it: rounded up to a multiple of 16.
pub fn global(options: &Options) {
    for name in NAMES {
        let mut network = Network::open(name, options, StructureSpec::default(), false);
        let profile = Profile::load("ascend310p3").unwrap();
        let latency = |n: &Network, plan: &Plan| predict_plan(&n.compressor, plan, &profile, 256).unwrap().1.latency_ms;
        let whole = Plan::identity(&network.compressor.layers);
        let float = latency(&network, &whole);
        println!("\n{name}, ascend310p3, batch 256, float {float:.3} ms, {} test images", network.test.len());
        println!("| 30 % of the channels go | predicted ms | top1 | drop | channels left |\n|---|---|---|---|---|");
        let left = |n: &Network, plan: &Plan| {
            let groups = n.compressor.channels.groups.iter().filter(|g| g.frozen.is_none());
            groups.map(|g| limits::kept_in_group(g, plan.treatments[g.layers[0]].1.keep)).sum::<usize>()
        };
        let amct = network.cut(|g| {
            let n = network.compressor.channels.groups[g].units();
            let kept = n - (n as f64 * 0.3).round() as usize;
            kept.next_multiple_of(16).min(n) as f64 / n as f64
        });
        for (what, score, repair) in
            [("AMCT-like: balanced norm", Score::BalancedNorm, Repair::None), ("AMCT-like: norm", Score::Norm, Repair::None)]
        {
            (network.compressor.structure.score, network.compressor.structure.repair) = (score, repair);
            let (accuracy, drop) = network.accuracy(&amct, Build::Parallel);
            println!("| {what} | {:.3} | {accuracy:.2} | {drop:.2} | {} |", latency(&network, &amct), left(&network, &amct));
        }
        network.compressor.structure = StructureSpec::default();
        let spread = network.compressor.spread(&whole, 0.7, &|p| Ok(latency(&network, p))).unwrap();
        let (accuracy, drop) = network.accuracy(&spread, Build::Sequential);
        println!(
            "| one share, spread, refitted in sequence | {:.3} | {accuracy:.2} | {drop:.2} | {} |",
            latency(&network, &spread),
            left(&network, &spread)
        );
    }
}
