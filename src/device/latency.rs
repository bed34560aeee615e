//! The time of kernels on a chip: launch + max(cube, vector, L2, DRAM).
//!
//! Cube: products padded to blocks of 16×C0×16 (C0 = 32 bytes of channels, per tap), spread over the cores along rows and
//! output channels, rounded up. L2: all traffic. DRAM: weights, and tensors last touched longer ago than L2 holds.

use super::{
    kernel::{Cube, Kernel, Op, Traffic},
    profile::Profile,
};
use crate::precision::Precision;

/// What a kernel's time is spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Multiply-adds.
    Cube,
    /// Elementwise work.
    Vector,
    /// L2 or DRAM bandwidth.
    Memory,
    /// The fixed cost of a launch.
    Launch,
}

/// Predicted time of one kernel.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct KernelTime {
    /// The kernel's name.
    pub name: String,
    /// Kind of work.
    pub op: Op,
    /// Nodes that run in it.
    pub nodes: Vec<String>,
    /// The layer in it, if any.
    pub layer: Option<String>,
    /// Precision it really runs in.
    pub precision: Precision,
    /// Time, µs, launch included.
    pub us: f64,
    /// What bounds it.
    pub bound: Bound,
}

/// Predicted time of a network, for one inference of the whole batch.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Prediction {
    /// Time of the batch, ms: the kernels' sum and the fixed cost of an inference.
    pub latency_ms: f64,
    /// Kernel by kernel, in order.
    pub kernels: Vec<KernelTime>,
}

/// Parts of a kernel's time, µs; they overlap, so the longest counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parts {
    /// Cube.
    pub cube: f64,
    /// Vector units.
    pub vector: f64,
    /// Between L2 and the cores.
    pub l2: f64,
    /// DRAM.
    pub ddr: f64,
}

/// Predicts the time of the kernels of one inference.
pub fn predict(kernels: &[Kernel], profile: &Profile) -> Prediction {
    let time = |kernel: &Kernel| {
        let (us, bound) = kernel_us(kernel, profile);
        KernelTime {
            name: kernel.name.clone(),
            op: kernel.op,
            nodes: kernel.nodes.clone(),
            layer: kernel.layer.clone(),
            precision: profile.runs_as(kernel.precision),
            us,
            bound,
        }
    };
    let kernels: Vec<KernelTime> = kernels.iter().map(time).collect();
    let us: f64 = kernels.iter().map(|k| k.us).sum();
    Prediction { latency_ms: (us + profile.inference_us) / 1e3, kernels }
}

/// Time of the network alone, ms, without the list of kernels: for searches that ask often.
pub fn latency_ms(kernels: &[Kernel], profile: &Profile) -> f64 {
    (kernels.iter().map(|k| kernel_us(k, profile).0).sum::<f64>() + profile.inference_us) / 1e3
}

/// Time of one kernel, µs, launch included, and what bounds it.
pub fn kernel_us(kernel: &Kernel, profile: &Profile) -> (f64, Bound) {
    let p = parts(kernel, profile);
    let memory = p.l2.max(p.ddr);
    let longest = p.cube.max(p.vector).max(memory);
    let bound = match longest {
        t if t < profile.launch_us => Bound::Launch,
        t if t == memory => Bound::Memory,
        t if t == p.cube => Bound::Cube,
        _ => Bound::Vector,
    };
    (profile.launch_us + longest, bound)
}

/// Parts of a kernel's time.
pub fn parts(kernel: &Kernel, profile: &Profile) -> Parts {
    let precision = profile.runs_as(kernel.precision);
    let correction = match kernel.op {
        Op::GroupConv => profile.factor.grouped,
        Op::DepthwiseConv => profile.factor.depthwise,
        _ => 1.0,
    };
    let cycles = kernel.cube.map_or(0.0, |c| cube_cycles(&c, precision, profile));
    let vector_rate = profile.vector_bytes_per_cycle * f64::from(profile.vector_cores) * profile.vector_freq_mhz;
    let l2_rate = profile.l2_bytes_per_cycle * f64::from(profile.cores) * profile.cube_freq_mhz;
    let move_factor = if kernel.unaligned { profile.factor.unaligned } else { 1.0 };
    let held = profile.l2_bytes as f64 * profile.factor.l2_size;
    let all = || kernel.reads.iter().chain(&kernel.writes);
    let bytes = |t: &Traffic| bytes(t, kernel.precision, profile);
    let total: f64 = all().map(bytes).sum();
    let outside: f64 = kernel.reads.iter().map(|t| bytes(t) * missing(t.distance, bytes(t), held)).sum::<f64>()
        + kernel.writes.iter().map(|t| bytes(t) * missing(0, bytes(t), held)).sum::<f64>();
    Parts {
        cube: cycles / profile.cube_freq_mhz / profile.efficiency.cube * correction,
        vector: kernel.vector * 2.0 / vector_rate / profile.efficiency.vector,
        l2: total / l2_rate / profile.efficiency.l2 * move_factor,
        ddr: outside / (profile.ddr_gb_per_s * 1e3) / profile.efficiency.ddr * move_factor,
    }
}

/// Cycles of the busiest core.
///
/// Groups too small for a block of channels are computed together, as ATC does, at an enlarged group size.
pub fn cube_cycles(cube: &Cube, precision: Precision, profile: &Profile) -> f64 {
    let c0 = 256 / u64::from(precision.activations().weight_bits());
    let together = (1..=c0.min(cube.groups)).find(|e| (e * cube.cin).is_multiple_of(c0) && (e * cube.cout).is_multiple_of(16));
    let together = if cube.groups == 1 { 1 } else { together.unwrap_or(c0.min(cube.groups)) };
    let m = cube.images.saturating_mul(cube.rows.div_ceil(16));
    let k = cube.taps * (together * cube.cin).div_ceil(c0);
    let n = cube.groups.div_ceil(together) * (together * cube.cout).div_ceil(16);
    let cores = u64::from(profile.cores);
    let share = |across: u64| m.div_ceil(cores / across).saturating_mul(n.div_ceil(across));
    let blocks = (1..=cores).map(share).min().unwrap_or(0);
    let per_block = (16 * 16 * c0) as f64 / profile.mac_per_cycle(precision);
    blocks as f64 * k as f64 * per_block
}

/// Bytes of a tensor of a kernel; twice as many where the chip does not gain from the format that was asked for.
fn bytes(tensor: &Traffic, asked: Precision, profile: &Profile) -> f64 {
    let weights = tensor.distance == u64::MAX && asked.widens_weights();
    let format = if weights { asked } else { Precision::Int4 };
    let narrow = u64::from(format.weight_bits()) == tensor.bits;
    let widen = if narrow && profile.runs_as(format) != format { 2.0 } else { 1.0 };
    tensor.bytes as f64 * widen
}

/// Share of a tensor of `own` bytes that comes from DRAM when `distance` bytes went by since it was touched. Smooth, so that
/// removing channels never makes a prediction jump.
fn missing(distance: u64, own: f64, held: f64) -> f64 {
    if distance == u64::MAX {
        return 1.0;
    }
    let span = distance as f64 + own;
    if span <= held { 0.0 } else { 1.0 - held / span }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chip() -> Profile {
        Profile::load("ascend310p3").unwrap()
    }

    fn cycles(cube: Cube, precision: Precision) -> f64 {
        cube_cycles(&cube, precision, &chip())
    }

    const LAYER: Cube = Cube { images: 1, rows: 56 * 56, taps: 9, cin: 64, cout: 64, groups: 1 };

    #[test]
    fn cycles_are_padded_blocks_over_the_cores_rounded_up() {
        // 196 blocks of rows and 4 of channels on 8 cores: 98 a core; 9 taps of 4 blocks each.
        assert_eq!(cycles(LAYER, Precision::Fp16), 98.0 * 36.0);
        // One block of rows: 4 blocks of channels keep 4 cores busy.
        assert_eq!(cycles(Cube { rows: 7, taps: 1, ..LAYER }, Precision::Fp16), 4.0);
    }

    #[test]
    fn int8_halves_sixty_four_channels_and_gains_nothing_at_sixteen() {
        assert_eq!(cycles(LAYER, Precision::Int8), 98.0 * 18.0);
        assert_eq!(cycles(LAYER, Precision::Int4), 98.0 * 9.0);
        let thin = Cube { cin: 16, ..LAYER };
        assert_eq!(cycles(thin, Precision::Int8), cycles(thin, Precision::Fp16));
        let trimmed = Cube { cin: 48, ..LAYER };
        assert_eq!(cycles(trimmed, Precision::Int8), cycles(LAYER, Precision::Int8));
        assert_eq!(cycles(trimmed, Precision::Fp16), 0.75 * cycles(LAYER, Precision::Fp16));
    }

    #[test]
    fn groups_are_computed_at_their_enlarged_size() {
        // 32 groups of 4 channels: 8 blocks of 4 groups each, one block of rows a core.
        let grouped = Cube { images: 1, rows: 128, taps: 9, cin: 4, cout: 4, groups: 32 };
        assert_eq!(cycles(grouped, Precision::Fp16), 8.0 * 9.0);
        let depthwise = Cube { cin: 1, cout: 1, groups: 64, ..grouped };
        assert_eq!(cycles(depthwise, Precision::Fp16), 4.0 * 9.0);
    }

    fn move_of(bytes: u64, distance: u64) -> Kernel {
        Kernel {
            name: "move".into(),
            op: Op::Move,
            nodes: vec![],
            layer: None,
            precision: Precision::Fp16,
            cube: None,
            vector: 0.0,
            unaligned: false,
            reads: vec![Traffic { bytes, bits: 16, distance }],
            writes: vec![],
        }
    }

    #[test]
    fn what_l2_holds_costs_no_dram_time_and_weights_always_do() {
        assert_eq!(parts(&move_of(1 << 20, 0), &chip()).ddr, 0.0);
        let profile = chip();
        let us = (1u64 << 20) as f64 / (profile.ddr_gb_per_s * 1e3) / profile.efficiency.ddr;
        assert!((parts(&move_of(1 << 20, u64::MAX), &profile).ddr - us).abs() < 1e-9);
    }

    #[test]
    fn a_tiny_kernel_is_bound_by_its_launch() {
        let (us, bound) = kernel_us(&move_of(32, 0), &chip());
        assert_eq!(bound, Bound::Launch);
        assert!(us < chip().launch_us + 0.1);
        let prediction = predict(&[move_of(32, 0)], &chip());
        assert!((prediction.latency_ms - (us + chip().inference_us) / 1e3).abs() < 1e-12);
    }

    #[test]
    fn int4_falls_back_to_int8_where_the_chip_does_not_gain() {
        let layer = Kernel { precision: Precision::Int4, cube: Some(LAYER), ..move_of(64, 0) };
        let mut profile = chip();
        profile.int4 = crate::device::profile::Int4::Runs;
        assert_eq!(parts(&layer, &profile).cube, parts(&Kernel { precision: Precision::Int8, ..layer.clone() }, &chip()).cube);
        assert!(parts(&layer, &chip()).cube < parts(&layer, &profile).cube);
    }
}
