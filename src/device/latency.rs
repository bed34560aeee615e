//! The time of kernels on a chip: launch + cube, vector units, L2 and DRAM side by side.
//!
//! Cube: products padded to blocks of 16×C0×16 (C0 = 32 bytes of channels, per tap), spread over the cores along rows and
//! output channels, rounded up. L2: what the busiest core reads and writes; a core reads all weights of its channels and all inputs of its
//! rows. The spread is the one that takes least of both. DRAM: weights, and tensors last touched longer ago than L2 holds. The four overlap,
//! not quite perfectly: their fourth powers add up.
//!
//! Weights with 4:2 sparsity are a projection from what the cube is built for, on no measurement: half the cycles, and 5/8 of the weights' bytes.

use super::{
    kernel::{Access, Cube, Kernel, Op, Traffic},
    profile::Profile,
};
use crate::precision::Precision;

/// Share of a dense INT8 weight's bytes that one with 4:2 sparsity takes: of four bytes two, and two bits that say which for each.
const SPARSE_BYTES: f64 = 5.0 / 8.0;

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
    /// Parts of the time, the profile's scale in them.
    pub parts: Parts,
    /// Multiply-adds, nothing padded.
    pub macs: u64,
    /// Bytes of the tensors read and written, each counted once.
    pub bytes: u64,
}

/// Predicted time of a network, for one inference of the whole batch.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Prediction {
    /// Time of the batch, ms: the kernels' sum and the fixed cost of an inference.
    pub latency_ms: f64,
    /// The fixed cost of an inference in it, µs.
    pub fixed_us: f64,
    /// Nine in ten measurements of networks that were not fitted lie between these, ms; none where the chip was never measured.
    pub interval_ms: Option<[f64; 2]>,
    /// Kernels far from all that was measured, and why; the interval is wider for them.
    pub extrapolated: Vec<Extrapolated>,
    /// Kernel by kernel, in order.
    pub kernels: Vec<KernelTime>,
}

/// A kernel unlike those that were measured.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extrapolated {
    /// The kernel's name.
    pub kernel: String,
    /// What is unlike.
    pub why: String,
}

/// Parts of a kernel's time, µs; they overlap.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
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

impl Parts {
    /// Time of all parts together, µs.
    pub fn together(&self) -> f64 {
        let square = |t: f64| t * t;
        let fourth = |t: f64| square(square(t));
        (fourth(self.cube) + fourth(self.vector) + fourth(self.l2) + fourth(self.ddr)).sqrt().sqrt()
    }

    /// All of them times a factor.
    fn scaled(self, by: f64) -> Self {
        Self { cube: self.cube * by, vector: self.vector * by, l2: self.l2 * by, ddr: self.ddr * by }
    }
}

/// Predicts the time of the kernels of one inference.
pub fn predict(kernels: &[Kernel], profile: &Profile) -> Prediction {
    let time = |kernel: &Kernel| {
        let parts = parts(kernel, profile);
        let (us, bound) = with_launch(&parts, profile);
        let moved = kernel.reads.iter().chain(&kernel.writes).map(|t| bytes(t, kernel, profile)).sum::<f64>();
        KernelTime {
            name: kernel.name.clone(),
            op: kernel.op,
            nodes: kernel.nodes.clone(),
            layer: kernel.layer.clone(),
            precision: profile.runs_as(kernel.precision),
            us,
            bound,
            parts: parts.scaled(profile.scale),
            macs: kernel.cube.map_or(0, |c| c.macs()),
            bytes: moved as u64,
        }
    };
    let times: Vec<KernelTime> = kernels.iter().map(time).collect();
    let us: f64 = times.iter().map(|k| k.us).sum();
    let fixed_us = profile.inference_us() * profile.scale;
    let latency_ms = (us + fixed_us) / 1e3;
    let mut extrapolated = Vec::new();
    let interval_ms = profile.evidence.as_ref().map(|evidence| {
        let mut far = 0.0;
        for (kernel, time) in kernels.iter().zip(&times) {
            if let Some(why) = evidence.why_extrapolated(kernel) {
                far += time.us / us;
                extrapolated.push(Extrapolated { kernel: kernel.name.clone(), why });
            }
        }
        let factor = evidence.factor_90.powf(1.0 + far);
        [latency_ms / factor, latency_ms * factor]
    });
    Prediction { latency_ms, fixed_us, interval_ms, extrapolated, kernels: times }
}

/// Time of the network alone, ms, without the list of kernels: for searches that ask often.
pub fn latency_ms(kernels: &[Kernel], profile: &Profile) -> f64 {
    (kernels.iter().map(|k| kernel_us(k, profile).0).sum::<f64>() + profile.inference_us() * profile.scale) / 1e3
}

/// Time of one kernel, µs, launch included, and what bounds it.
pub fn kernel_us(kernel: &Kernel, profile: &Profile) -> (f64, Bound) {
    with_launch(&parts(kernel, profile), profile)
}

/// Time of a kernel of these parts, µs, and what bounds it.
fn with_launch(p: &Parts, profile: &Profile) -> (f64, Bound) {
    let memory = p.l2.max(p.ddr);
    let longest = p.cube.max(p.vector).max(memory);
    let bound = match longest {
        t if t < profile.launch_us() => Bound::Launch,
        t if t == memory => Bound::Memory,
        t if t == p.cube => Bound::Cube,
        _ => Bound::Vector,
    };
    ((profile.launch_us() + p.together()) * profile.scale, bound)
}

/// Parts of a kernel's time, launch and scale left out.
pub fn parts(kernel: &Kernel, profile: &Profile) -> Parts {
    let c = &profile.coefficients;
    let slower = match kernel.op {
        Op::GroupConv => c.grouped,
        Op::DepthwiseConv => c.depthwise,
        _ => 1.0,
    };
    let moved = match kernel.access {
        Access::Blocks => 1.0,
        Access::Pieces => c.unaligned,
        Access::Input => c.input,
    };
    let bytes = |t: &Traffic| bytes(t, kernel, profile);
    let left = |t: &Traffic| if t.chained { c.chained } else { 1.0 };
    let held = profile.l2_bytes as f64 * c.l2_size;
    let (mut weights, mut inputs, mut outside) = (0.0, 0.0, 0.0);
    for tensor in &kernel.reads {
        let size = bytes(tensor);
        if tensor.distance == u64::MAX {
            weights += size
        } else {
            inputs += size
        }
        outside += size * missing(tensor.distance, size, held) * left(tensor);
    }
    let outputs: f64 = kernel.writes.iter().map(bytes).sum();
    outside += kernel.writes.iter().map(|t| bytes(t) * missing(0, bytes(t), held) * left(t)).sum::<f64>();
    let l2_rate = profile.l2_bytes_per_cycle * profile.cube_freq_mhz * c.l2 / moved;
    let cube_rate = profile.cube_freq_mhz * c.cube / slower;
    let (cube, l2) = match &kernel.cube {
        Some(cube) => {
            let blocks = Blocks::new(cube, kernel.precision, profile);
            let spread = (1..=u64::from(profile.cores)).map(|across| {
                let share = blocks.share(across, u64::from(profile.cores));
                let own = inputs * share.inputs + weights * share.channels + outputs * share.rows * share.channels;
                (share.cycles / cube_rate, own / l2_rate)
            });
            spread.min_by(|a, b| a.0.max(a.1).total_cmp(&b.0.max(b.1))).unwrap_or((0.0, 0.0))
        }
        None => (0.0, (inputs + weights + outputs) / f64::from(profile.cores) / l2_rate),
    };
    let vector_rate = profile.vector_bytes_per_cycle * f64::from(profile.vector_cores) * profile.vector_freq_mhz * c.vector;
    let v = &kernel.vector;
    let passes = v.plain
        + v.drain * c.drain
        + v.relu * c.relu
        + v.pool * c.pool
        + v.hard_sigmoid * c.hard_sigmoid
        + v.sigmoid * c.sigmoid
        + v.erf * c.erf;
    Parts { cube, vector: passes * 2.0 / vector_rate, l2, ddr: outside / (profile.ddr_gb_per_s * 1e3) / c.ddr * moved }
}

/// A product in blocks of the cube.
struct Blocks {
    /// Blocks of rows, over all images.
    m: u64,
    /// Blocks along the sum, for one block of results.
    k: u64,
    /// Blocks of output channels, over all groups.
    n: u64,
    /// Whether a share of the output channels needs a share of the inputs alone.
    grouped: bool,
    /// Cycles of a block.
    cycles: f64,
}

/// What the busiest core does of a product.
struct Share {
    cycles: f64,
    rows: f64,
    channels: f64,
    inputs: f64,
}

impl Blocks {
    /// Groups too small for a block of channels are computed together, as ATC does, at an enlarged group size.
    fn new(cube: &Cube, asked: Precision, profile: &Profile) -> Self {
        let precision = profile.runs_as(asked);
        let c0 = 256 / u64::from(precision.activations().weight_bits());
        let together = (1..=c0.min(cube.groups)).find(|e| (e * cube.cin).is_multiple_of(c0) && (e * cube.cout).is_multiple_of(16));
        let together = if cube.groups == 1 { 1 } else { together.unwrap_or(c0.min(cube.groups)) };
        Self {
            m: cube.images.saturating_mul(cube.rows.div_ceil(16)),
            k: cube.taps * (together * cube.cin).div_ceil(c0),
            n: cube.groups.div_ceil(together) * (together * cube.cout).div_ceil(16),
            grouped: cube.groups > 1,
            cycles: (16 * 16 * c0) as f64 / profile.mac_per_cycle(precision)
                * if cube.sparse && profile.skips_zeros(asked) { 0.5 } else { 1.0 },
        }
    }

    /// The busiest core's share where `across` cores share the output channels and the others the rows.
    fn share(&self, across: u64, cores: u64) -> Share {
        let (m, n) = (self.m.div_ceil(cores / across), self.n.div_ceil(across));
        let rows = m as f64 / self.m.max(1) as f64;
        let channels = n as f64 / self.n.max(1) as f64;
        let cycles = m as f64 * n as f64 * self.k as f64 * self.cycles;
        Share { cycles, rows, channels, inputs: if self.grouped { rows * channels } else { rows } }
    }
}

/// Bytes of a tensor of a kernel; twice as many where the chip does not gain from the format that was asked for, fewer of a sparse weight where
/// it does.
fn bytes(tensor: &Traffic, kernel: &Kernel, profile: &Profile) -> f64 {
    let (weights, asked) = (tensor.distance == u64::MAX, kernel.precision);
    let format = if weights && asked.widens_weights() { asked } else { Precision::Int4 };
    let narrow = u64::from(format.weight_bits()) == tensor.bits;
    let widen = if narrow && profile.runs_as(format) != format { 2.0 } else { 1.0 };
    let sparse = weights && kernel.cube.is_some_and(|c| c.sparse) && profile.skips_zeros(asked);
    tensor.bytes as f64 * widen * if sparse { SPARSE_BYTES } else { 1.0 }
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

    /// Cycles of the busiest core where the cores share the work as evenly as they can.
    fn cycles(cube: Cube, precision: Precision) -> f64 {
        let blocks = Blocks::new(&cube, precision, &chip());
        (1..=8).map(|across| blocks.share(across, 8).cycles).fold(f64::INFINITY, f64::min)
    }

    const LAYER: Cube = Cube { images: 1, rows: 56 * 56, taps: 9, cin: 64, cout: 64, groups: 1, sparse: false };

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
        let grouped = Cube { rows: 128, cin: 4, cout: 4, groups: 32, ..LAYER };
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
            vector: crate::device::kernel::Vector::default(),
            access: Access::Blocks,
            reads: vec![Traffic { bytes, bits: 16, distance, chained: false }],
            writes: vec![],
        }
    }

    #[test]
    fn what_l2_holds_costs_no_dram_time_and_weights_always_do() {
        assert_eq!(parts(&move_of(1 << 20, 0), &chip()).ddr, 0.0);
        let profile = chip();
        let us = (1u64 << 20) as f64 / (profile.ddr_gb_per_s * 1e3) / profile.coefficients.ddr;
        assert!((parts(&move_of(1 << 20, u64::MAX), &profile).ddr - us).abs() < 1e-9);
    }

    #[test]
    fn a_tiny_kernel_is_bound_by_its_launch() {
        let (us, bound) = kernel_us(&move_of(32, 0), &chip());
        assert_eq!(bound, Bound::Launch);
        assert!(us < chip().launch_us() + 0.1);
        let prediction = predict(&[move_of(32, 0)], &chip());
        assert!((prediction.latency_ms - (us + chip().inference_us()) / 1e3).abs() < 1e-12);
    }

    #[test]
    fn a_sparse_weight_takes_half_the_cycles_and_five_eighths_of_the_bytes_in_int8_where_the_chip_skips_zeros() {
        let of = |chip: &str, precision: Precision, sparse: bool| {
            let read = Traffic { bytes: 64 << 10, bits: precision.weight_bits().into(), distance: u64::MAX, chained: false };
            let cube = Some(Cube { sparse, ..LAYER });
            let kernel = Kernel { precision, cube, reads: vec![read], ..move_of(0, 0) };
            parts(&kernel, &Profile::load(chip).unwrap())
        };
        for precision in Precision::ALL {
            let (dense, sparse) = (of("ascend310b1", precision, false), of("ascend310b1", precision, true));
            // 310B1 computes the 4-bit formats in INT8.
            let gains = matches!(precision, Precision::Int8 | Precision::W4a8 | Precision::Int4);
            let expected = if gains { (0.5, 0.625) } else { (1.0, 1.0) };
            assert_eq!((sparse.cube / dense.cube, sparse.ddr / dense.ddr), expected, "{precision}");
            assert_eq!(of("ascend310p3", precision, true), of("ascend310p3", precision, false), "{precision} on a chip that skips nothing");
        }
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
