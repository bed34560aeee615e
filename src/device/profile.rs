//! Chip profiles: the figures of CANN's `platform_config` and the fitted coefficients of the cost model, as YAML.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    coefficients::{Coefficients, NAMES},
    evidence::Evidence,
};
use crate::{
    error::{Error, Result},
    precision::Precision,
};

/// The profiles that come with the program: name and YAML.
const BUILT_IN: [(&str, &str); 11] = [
    ("ascend310", include_str!("profiles/ascend310.yaml")),
    ("ascend310b1", include_str!("profiles/ascend310b1.yaml")),
    ("ascend310b4", include_str!("profiles/ascend310b4.yaml")),
    ("ascend310p1", include_str!("profiles/ascend310p1.yaml")),
    ("ascend310p3", include_str!("profiles/ascend310p3.yaml")),
    ("ascend910a", include_str!("profiles/ascend910a.yaml")),
    ("ascend910b1", include_str!("profiles/ascend910b1.yaml")),
    ("ascend910b2", include_str!("profiles/ascend910b2.yaml")),
    ("ascend910b3", include_str!("profiles/ascend910b3.yaml")),
    ("ascend910b4", include_str!("profiles/ascend910b4.yaml")),
    ("ascend910c", include_str!("profiles/ascend910c.yaml")),
];

/// The coefficients of a profile that names none: those fitted to 310P3.
const COEFFICIENTS: &str = include_str!("profiles/coefficients.yaml");

/// A chip: what its data sheet says and how much of it networks reach.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Short name, as in reports.
    pub name: String,
    /// Where the figures come from.
    pub origin: String,
    /// How wrong predictions were on measurements, in words, and where nothing was published.
    pub known_error: String,
    /// Cores with a cube unit.
    pub cores: u32,
    /// Cores with a vector unit that a kernel can spread over.
    pub vector_cores: u32,
    /// Clock of the cube, MHz; memory rates per cycle count in it too.
    pub cube_freq_mhz: f64,
    /// Clock of the vector units, MHz.
    pub vector_freq_mhz: f64,
    /// Multiply-adds a cycle and core (`[DtypeMKN]`, M·K·N).
    pub cube_mac_per_cycle: Rates,
    /// Bytes of operands a vector unit takes a cycle.
    pub vector_bytes_per_cycle: f64,
    /// Size of the L2 cache, bytes.
    pub l2_bytes: u64,
    /// Bytes a cycle and core between L2 and the core.
    pub l2_bytes_per_cycle: f64,
    /// Bandwidth of the chip's DRAM, GB/s (1e9 bytes).
    pub ddr_gb_per_s: f64,
    /// Whether INT4 is any use.
    pub int4: Int4,
    /// Where the INT4 flag comes from; it depends on the chip and on the CANN version.
    pub int4_origin: String,
    /// Which formats are of use that store weights narrower than their products are.
    pub weight_only: WeightOnly,
    /// Where these flags come from.
    pub weight_only_origin: String,
    /// Whether the cube skips weights where two of four neighbours along the input channels are zero (`atc --sparsity=1`).
    pub sparsity_4_to_2: bool,
    /// Where the sparsity flag comes from.
    pub sparsity_origin: String,
    /// Whether the first convolution can take the image as the camera gives it (AIPP) and pack at most 4 channels.
    pub image_input: bool,
    /// Where the flag of the image input comes from.
    pub image_input_origin: String,
    /// Cost of an inference on the host, µs, on top of what was fitted: yours to set.
    #[serde(default)]
    pub host_us: f64,
    /// Measured over predicted time of one network of yours; 1 where nothing was measured.
    #[serde(default = "one")]
    pub scale: f64,
    /// Fitted coefficients; those of 310P3 where a file has none.
    pub coefficients: Coefficients,
    /// What the predictions were judged by; none where nothing was measured on this chip.
    #[serde(default)]
    pub evidence: Option<Evidence>,
}

const fn one() -> f64 {
    1.0
}

/// A rate for each precision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Half floats.
    pub fp16: f64,
    /// 8-bit integers.
    pub int8: f64,
    /// 4-bit integers.
    pub int4: f64,
}

/// What a chip and its CANN version do with INT4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Int4 {
    /// Not executed: such layers run as INT8.
    None,
    /// Executed, but no faster than INT8 and counted as such.
    Runs,
    /// Executed at the INT4 rate.
    Gains,
}

/// Formats whose weights become wider on the chip: they save traffic and size, no multiply-adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightOnly {
    /// 8-bit weights and half-float activations; without it such layers run as FP16.
    pub w8a16: bool,
    /// 4-bit weights and 8-bit activations; without it such layers run as INT8.
    pub w4a8: bool,
}

impl Profile {
    /// A built-in profile by name, or a YAML file by path.
    ///
    /// # Errors
    /// If the name is unknown and no such file exists, or the file is not a valid profile.
    pub fn load(name_or_path: &str) -> Result<Self> {
        if let Some((_, yaml)) = BUILT_IN.iter().find(|(name, _)| name.eq_ignore_ascii_case(name_or_path)) {
            return Self::parse(name_or_path, yaml);
        }
        let path = Path::new(name_or_path);
        if !path.is_file() {
            let remedy = format!("choose one of {}, or give the path of a profile's YAML file", Self::names().join(", "));
            return Err(Error::device(name_or_path, "is neither a known chip nor a file", remedy));
        }
        Self::parse(name_or_path, &std::fs::read_to_string(path).map_err(Error::io("read", path))?)
    }

    /// Names of the built-in profiles.
    pub fn names() -> Vec<&'static str> {
        BUILT_IN.iter().map(|(name, _)| *name).collect()
    }

    /// The profile as YAML, to be copied and changed.
    ///
    /// # Errors
    /// If it cannot be written as YAML: a bug of ours.
    pub fn to_yaml(&self) -> Result<String> {
        serde_yaml::to_string(self).map_err(|e| Error::Internal(format!("the profile {} cannot be written as yaml: {e}", self.name)))
    }

    /// The precision a layer asked for really runs in.
    pub fn runs_as(&self, asked: Precision) -> Precision {
        match asked {
            Precision::Int4 if self.int4 != Int4::Gains => Precision::Int8,
            Precision::W4a8 if !self.weight_only.w4a8 => Precision::Int8,
            Precision::W8a16 if !self.weight_only.w8a16 => Precision::Fp16,
            _ => asked,
        }
    }

    /// Whether the cube skips the zeros of a weight with 4:2 sparsity at a precision that was asked for: it does for 8-bit integers alone.
    pub fn skips_zeros(&self, asked: Precision) -> bool {
        self.sparsity_4_to_2 && self.runs_as(asked) == Precision::Int8
    }

    /// The precisions that all nodes of a plan really run in, by name.
    pub fn run_as(&self, asked: &BTreeMap<String, Precision>) -> BTreeMap<String, Precision> {
        asked.iter().map(|(name, p)| (name.clone(), self.runs_as(*p))).collect()
    }

    /// Peak of the cube at a precision, multiply-adds a second times 1e12.
    pub fn peak_tmac(&self, precision: Precision) -> f64 {
        f64::from(self.cores) * self.cube_freq_mhz * self.mac_per_cycle(precision) * 1e-6
    }

    /// Fixed cost of a kernel, µs.
    pub fn launch_us(&self) -> f64 {
        self.coefficients.launch_cycles / self.cube_freq_mhz
    }

    /// Fixed cost of an inference, µs, the host's included.
    pub fn inference_us(&self) -> f64 {
        self.coefficients.inference_cycles / self.cube_freq_mhz + self.host_us
    }

    /// Multiply-adds a cycle and core at a precision.
    pub fn mac_per_cycle(&self, precision: Precision) -> f64 {
        match precision {
            Precision::Fp16 | Precision::W8a16 => self.cube_mac_per_cycle.fp16,
            Precision::Int8 | Precision::W4a8 => self.cube_mac_per_cycle.int8,
            Precision::Int4 => self.cube_mac_per_cycle.int4,
        }
    }

    /// A profile from the text of a YAML file; `name` is for errors.
    ///
    /// # Errors
    /// If it is no profile, or a figure is impossible.
    pub fn parse(name: &str, yaml: &str) -> Result<Self> {
        let remedy = "start from a copy of a built-in one: gulliver device show ascend310p3";
        let invalid = |e: serde_yaml::Error| Error::device(name, e.to_string(), remedy);
        let has_own = yaml.lines().any(|l| l.starts_with("coefficients:"));
        let whole = if has_own { yaml.to_string() } else { format!("{}\n{COEFFICIENTS}", yaml.trim_end()) };
        let profile: Self = serde_yaml::from_str(&whole).map_err(invalid)?;
        profile.check().map_err(|what| Error::device(name, what, remedy))?;
        Ok(profile)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let mac = &self.cube_mac_per_cycle;
        let chip = [
            ("cores", f64::from(self.cores)),
            ("vector_cores", f64::from(self.vector_cores)),
            ("cube_freq_mhz", self.cube_freq_mhz),
            ("vector_freq_mhz", self.vector_freq_mhz),
            ("cube_mac_per_cycle", mac.fp16.min(mac.int8).min(mac.int4)),
            ("vector_bytes_per_cycle", self.vector_bytes_per_cycle),
            ("l2_bytes", self.l2_bytes as f64),
            ("l2_bytes_per_cycle", self.l2_bytes_per_cycle),
            ("ddr_gb_per_s", self.ddr_gb_per_s),
            ("scale", self.scale),
        ];
        let fitted = NAMES.iter().map(|(name, _)| *name).zip(self.coefficients.values());
        if let Some((field, value)) = chip.into_iter().chain(fitted).find(|(_, v)| !v.is_finite() || *v <= 0.0) {
            return Err(format!("{field} is {value}, it must be above 0"));
        }
        if !self.host_us.is_finite() || self.host_us < 0.0 {
            return Err(format!("host_us is {}, it must be 0 or more", self.host_us));
        }
        let factor = self.evidence.as_ref().map_or(1.0, |e| e.factor_90);
        if !factor.is_finite() || factor < 1.0 {
            return Err(format!("factor_90 is {factor}, it must be 1 or more"));
        }
        let ratio = self.evidence.as_ref().map_or(0.0, |e| e.ratio_error);
        if !ratio.is_finite() || ratio < 0.0 {
            return Err(format!("ratio_error is {ratio}, it must be 0 or more"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_loads_under_its_own_name_and_survives_the_round_trip() {
        for name in Profile::names() {
            let profile = Profile::load(name).unwrap();
            assert_eq!(profile.name, name);
            assert_eq!(Profile::parse(name, &profile.to_yaml().unwrap()).unwrap(), profile);
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        assert!(Profile::load("ascend9000").unwrap_err().remedy().unwrap().contains("ascend310p3"));
    }

    #[test]
    fn a_misspelt_or_impossible_field_is_refused_by_name() {
        let yaml = Profile::load("ascend310p3").unwrap().to_yaml().unwrap();
        let message = |from: &str, to: &str| Profile::parse("mine", &yaml.replace(from, to)).unwrap_err().to_string();
        assert!(message("launch_cycles", "lunch_cycles").contains("lunch_cycles"));
        assert!(message("cores: 8", "cores: 0").contains("cores is 0"));
    }
}
