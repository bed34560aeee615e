//! Channels and ranks: what is kept of the function, against the ways of AMCT and its peers.
//!
//! `cargo bench --bench structure -- prune|sequence|ranks|predicted|global|table [--test NPZ] [--samples N]`
//!
//! Accuracy is that of the 2,000 test images in `datasets/`, or with `--test` of the images of a file, such as all 10,000 that
//! `datasets/fetch_cifar10.py` brings.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, reason = "a bench prints and may fail loudly")]

mod accuracy;
mod errors;
mod network;
mod table;

use std::path::PathBuf;

use network::Options;

fn main() {
    let mut options = Options { test: None, samples: 512, models: Vec::new() };
    let mut what = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "--test" => options.test = arguments.next().map(PathBuf::from),
            "--samples" => options.samples = arguments.next().and_then(|n| n.parse().ok()).unwrap(),
            "--model" => options.models.extend(arguments.next().map(PathBuf::from)),
            name => what.push(name.to_string()),
        }
    }
    for name in what {
        match name.as_str() {
            "prune" => accuracy::prune(&options),
            "sequence" => accuracy::sequence(&options),
            "global" => accuracy::global(&options),
            "ranks" => errors::ranks(&options),
            "predicted" => errors::predicted(&options),
            "table" => table::table(&options),
            other => panic!("{other} is none of prune, sequence, global, ranks, predicted, table"),
        }
    }
}
