//! The points and roofs of `--plot`.

use std::collections::BTreeSet;

use super::answer::OfBatch;
use crate::{
    device::Profile,
    precision::Precision,
    report::plot::{Roofline, RooflinePoint},
};

/// The kernels of a batch under the roofs of a chip.
pub(super) fn of(model: &str, of: &OfBatch, profile: &Profile) -> Roofline {
    let kernels = &of.prediction.kernels;
    let (with, without): (Vec<_>, Vec<_>) = kernels.iter().partition(|k| k.macs > 0 && k.bytes > 0);
    let formats: BTreeSet<Precision> = with.iter().map(|k| k.precision.activations()).collect();
    Roofline {
        title: format!("{model} on {}, batch {}", profile.name, of.batch),
        cube_tmac: formats.into_iter().map(|p| (p, profile.peak_tmac(p))).collect(),
        dram_gb_per_s: profile.ddr_gb_per_s,
        l2_gb_per_s: profile.l2_bytes_per_cycle * profile.cube_freq_mhz * f64::from(profile.cores) / 1e3,
        points: with
            .iter()
            .map(|k| RooflinePoint { name: k.name.clone(), op: k.op, macs: k.macs as f64, bytes: k.bytes as f64, us: k.us })
            .collect(),
        without: (without.len(), without.iter().map(|k| k.us).sum()),
        whole_us: of.prediction.latency_ms * 1e3,
    }
}
