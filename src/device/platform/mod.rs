//! A chip as CANN describes it: the file `platform_config/Ascend<chip>.ini` of every CANN installation.
//!
//! Fields carry the names of the file's keys, structs those of its sections. Sizes are bytes, clocks MHz, rates bytes a
//! cycle and core. `read` takes the file in, `profile` makes a profile of the cost model from it; nothing else here knows
//! profiles.
//!
//! Source: the files of the repository hicann/runtime, and what CANN's graph engine reads from them.

mod ini;
mod profile;
mod read;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::precision::Precision;

/// A chip's `platform_config` file. What the file leaves out, or without a value, is `None`; a flag left out is false.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Platform {
    /// `[version]`: which chip it is.
    pub version: Version,
    /// `[SoCInfo]`: what is on the chip.
    pub soc: SocInfo,
    /// `[AICoreSpec]`: a core with a cube.
    pub core: AiCore,
    /// `[AICoreMemoryRates]`: what moves to and from a core with a cube.
    pub rates: CoreRates,
    /// `[DtypeMKN]`: the cube's shape for each type.
    pub mkn: DtypeMkn,
    /// What the cube multiplies, of `[AICoreintrinsicDtypeMap]`; none where the file has no `Intrinsic_mmad`.
    pub mmad: Option<Mmad>,
    /// `[VectorCoreSpec]`: a core with a vector unit alone.
    pub vector: VectorCore,
    /// `[VectorCoreMemoryRates]`: what moves to and from such a core.
    pub vector_rates: VectorRates,
}

/// Which chip it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    /// `Ascend310P3`; the file's name where the key is missing.
    pub soc_version: String,
    /// `Ascend310P`.
    pub short_soc_version: Option<String>,
    /// `AIC-M-200`.
    pub aic_version: Option<String>,
    /// `2002`; old files have none.
    pub npu_arch: Option<u32>,
}

/// What is on the chip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SocInfo {
    /// Cores with a cube; `cube_core_cnt` where the key is missing.
    pub ai_core_cnt: u32,
    /// Cores with a cube, where cubes and vector units are cores of their own.
    pub cube_core_cnt: Option<u32>,
    /// Cores with a vector unit alone: beside those of the AI cores (310P), or all there are (910B).
    pub vector_core_cnt: Option<u32>,
    /// How cubes and vector units go together: `split`, `fuse,split`.
    pub cube_vector_combine: Option<String>,
    /// Cores of the CPU that runs what no AI core can.
    pub ai_cpu_cnt: Option<u32>,
    /// DRAM, bytes.
    pub memory_size: Option<u64>,
    /// L2 cache, bytes.
    pub l2_size: u64,
    /// Whether bfloat16 is supported.
    pub support_bf16: bool,
}

/// A core with a cube.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AiCore {
    /// Clock of the cube, MHz.
    pub cube_freq: f64,
    /// Rows of the cube, half floats.
    pub cube_m_size: Option<u32>,
    /// Columns of the cube.
    pub cube_n_size: Option<u32>,
    /// Depth of the cube, half floats.
    pub cube_k_size: Option<u32>,
    /// Half floats that the vector unit takes a cycle.
    pub vec_calc_size: Option<u32>,
    /// Buffer of the cube's left operand, bytes.
    pub l0_a_size: Option<u64>,
    /// Buffer of the cube's right operand, bytes.
    pub l0_b_size: Option<u64>,
    /// Buffer of the cube's sums, bytes.
    pub l0_c_size: Option<u64>,
    /// L1 buffer, bytes.
    pub l1_size: Option<u64>,
    /// Buffer of the vector unit (unified buffer), bytes.
    pub ub_size: Option<u64>,
    /// Block of the unified buffer, bytes: what moves are aligned to.
    pub ubblock_size: Option<u64>,
    /// Table of biases, bytes.
    pub bt_size: Option<u64>,
    /// Units that unpack compressed weights.
    pub unzip_engines: Option<u32>,
    /// Highest ratio of compressed weights.
    pub unzip_max_ratios: Option<u32>,
    /// Whether results are requantized on their way out of the cube.
    pub support_fixpipe: bool,
    /// Whether the cube takes weights with 4:2 sparsity.
    pub sparsity: bool,
}

/// Bytes a cycle and core with a cube, counted in the cube's clock.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CoreRates {
    /// DRAM; `ddr_read_rate` where the key is missing.
    pub ddr_rate: f64,
    /// From DRAM.
    pub ddr_read_rate: Option<f64>,
    /// To DRAM.
    pub ddr_write_rate: Option<f64>,
    /// L2.
    pub l2_rate: Option<f64>,
    /// From L2; `l2_rate` where the key is missing.
    pub l2_read_rate: f64,
    /// To L2.
    pub l2_write_rate: Option<f64>,
    /// L1 to the cube's left operand.
    pub l1_to_l0_a_rate: Option<f64>,
    /// L1 to the cube's right operand.
    pub l1_to_l0_b_rate: Option<f64>,
    /// L1 to the unified buffer.
    pub l1_to_ub_rate: Option<f64>,
    /// The cube's sums to the unified buffer.
    pub l0_c_to_ub_rate: Option<f64>,
    /// Unified buffer to L2.
    pub ub_to_l2_rate: Option<f64>,
    /// Unified buffer to DRAM.
    pub ub_to_ddr_rate: Option<f64>,
    /// Unified buffer to L1.
    pub ub_to_l1_rate: Option<f64>,
}

/// The cube's shape, M·K·N multiply-adds a cycle, for each type of its operands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DtypeMkn {
    /// Half floats (`Default`; `cube_m_size`, `cube_k_size` and `cube_n_size` where the key is missing).
    pub default: Mkn,
    /// 8-bit integers (`DT_INT8`).
    pub int8: Option<Mkn>,
    /// 4-bit integers (`DT_INT4`). The line stands in every file: [`Mmad::int4`] says whether the cube has such a product.
    pub int4: Option<Mkn>,
}

/// A shape of the cube.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Mkn {
    /// Rows of the left operand.
    pub m: u32,
    /// Columns of the left operand, rows of the right one.
    pub k: u32,
    /// Columns of the right operand.
    pub n: u32,
}

/// What the cube multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Mmad {
    /// 8-bit integers: `Intrinsic_mmad` lists `s32s8s8` or `s8`.
    pub int8: bool,
    /// 4-bit integers: `Intrinsic_mmad` lists `s32s4s4`.
    pub int4: bool,
    /// 8-bit integers with 4:2 sparsity: there is an `Intrinsic_mmad_sp`.
    pub sparse: bool,
}

/// A core with a vector unit alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VectorCore {
    /// Its clock, MHz.
    pub vec_freq: Option<f64>,
    /// Half floats it takes a cycle.
    pub vec_calc_size: Option<u32>,
    /// Unified buffer, bytes.
    pub ub_size: Option<u64>,
    /// Block of the unified buffer, bytes.
    pub ubblock_size: Option<u64>,
}

/// Bytes a cycle and core with a vector unit alone, counted in its own clock.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VectorRates {
    /// DRAM.
    pub ddr_rate: Option<f64>,
    /// L2.
    pub l2_rate: Option<f64>,
    /// Unified buffer to L2.
    pub ub_to_l2_rate: Option<f64>,
    /// Unified buffer to DRAM.
    pub ub_to_ddr_rate: Option<f64>,
}

/// A generation of cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Architecture {
    /// 910A and its like: AIC-C-100, NpuArch 1001.
    C100,
    /// 310P and 610: AIC-M-200, NpuArch 2002.
    M200,
    /// 910B and 910C (A2, A3): AIC-C-220, NpuArch 2201.
    C220,
    /// 310B: AIC-M-300, NpuArch 3002.
    M300,
    /// One that no built-in profile is of.
    Other,
}

impl Mkn {
    /// Multiply-adds a cycle.
    pub fn mac_per_cycle(self) -> f64 {
        [self.m, self.k, self.n].into_iter().map(f64::from).product()
    }
}

impl Platform {
    /// The generation, by `NpuArch` or, in old files, by `AIC_version`.
    pub fn architecture(&self) -> Architecture {
        match (self.version.npu_arch, self.version.aic_version.as_deref()) {
            (Some(1001), _) | (None, Some("AIC-C-100")) => Architecture::C100,
            (Some(2002), _) | (None, Some("AIC-M-200")) => Architecture::M200,
            (Some(2201), _) | (None, Some("AIC-C-220")) => Architecture::C220,
            (Some(3002), _) | (None, Some("AIC-M-300")) => Architecture::M300,
            _ => Architecture::Other,
        }
    }

    /// Cores with a cube.
    pub fn cube_cores(&self) -> u32 {
        self.soc.cube_core_cnt.filter(|n| *n > 0).unwrap_or(self.soc.ai_core_cnt)
    }

    /// Cores with a vector unit that a kernel spreads over: those of the AI cores, or the vector cores where the two are
    /// apart (`cube_vector_combine` names `split`; 910B). The vector cores of 310P stand beside and take other kernels.
    pub fn vector_units(&self) -> u32 {
        let split = self.soc.cube_vector_combine.as_ref().is_some_and(|c| c.contains("split")) || self.architecture() == Architecture::C220;
        self.soc.vector_core_cnt.filter(|n| split && *n > 0).unwrap_or_else(|| self.cube_cores())
    }

    /// Peak of the cubes at a precision, in 10¹² multiply-adds a second (twice that is TFLOPS or TOPS): cores × M·K·N × MHz.
    ///
    /// None where the cube has no such product, or the file does not say: `DT_INT4` alone proves nothing.
    pub fn peak_tmac_per_s(&self, precision: Precision) -> Option<f64> {
        let shape = match precision.activations() {
            Precision::Int4 => self.mkn.int4.filter(|_| self.mmad.is_some_and(|m| m.int4)),
            Precision::Int8 => self.mkn.int8.filter(|_| self.mmad.is_none_or(|m| m.int8)),
            _ => Some(self.mkn.default),
        };
        shape.map(|s| f64::from(self.cube_cores()) * s.mac_per_cycle() * self.core.cube_freq * 1e-6)
    }

    /// Bandwidth of the DRAM in GB/s (10⁹ bytes), by the formula of CANN's community: what all cores with a cube and all
    /// vector cores together may move, each in its clock.
    ///
    /// It comes within 1 % of the bandwidth that 310P3 is sold with, and is unverified on all others;
    /// [`dram_doubt`](Self::dram_doubt) says where it is known to be doubtful.
    pub fn dram_gb_per_s(&self) -> f64 {
        let of_cubes = f64::from(self.cube_cores()) * self.rates.ddr_rate * self.core.cube_freq;
        let of_vectors =
            self.vector_rates.ddr_rate.unwrap_or_default() * self.vector_freq() * f64::from(self.soc.vector_core_cnt.unwrap_or_default());
        (of_cubes + of_vectors) * 1e-3
    }

    /// Clock of the vector units, MHz: that of the vector cores, or of the cube where the file has no other. No file says
    /// which of the two the vector units inside 310P's AI cores run at.
    pub fn vector_freq(&self) -> f64 {
        self.vector.vec_freq.filter(|f| *f > 0.0).unwrap_or(self.core.cube_freq)
    }

    /// Why [`dram_gb_per_s`](Self::dram_gb_per_s) may be wrong, if there is a reason beside its being a formula.
    pub fn dram_doubt(&self) -> Option<&'static str> {
        match self.architecture() {
            Architecture::C100 | Architecture::M200 => None,
            Architecture::M300 => Some("310B's files hold placeholders for memory: 310B4's give 8 GB/s, its board has 25.6"),
            Architecture::C220 => Some("no bandwidth of 910B or 910C is published that could confirm it"),
            Architecture::Other => Some("nothing is known of this generation's memory"),
        }
    }
}
