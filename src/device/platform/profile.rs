//! A profile of the cost model from a chip's file: the chip's figures are its own, all that was fitted is another's.

use super::{Architecture, Platform};
use crate::device::{
    Profile,
    profile::{Int4, Rates, WeightOnly},
};

impl Platform {
    /// The built-in profile whose fitted coefficients suit best: that of the chip itself, or of one of its generation;
    /// 310P3, which most is known of, where there is none.
    pub fn nearest(&self) -> &'static str {
        let own = Profile::names().into_iter().find(|n| n.eq_ignore_ascii_case(&self.version.soc_version));
        own.unwrap_or_else(|| match self.architecture() {
            Architecture::C100 => "ascend910a",
            Architecture::C220 => "ascend910b4",
            Architecture::M300 => "ascend310b1",
            Architecture::M200 | Architecture::Other => "ascend310p3",
        })
    }

    /// A profile of this chip with launch and inference cost, efficiencies and factors of `base`.
    ///
    /// DRAM is [`dram_gb_per_s`](Self::dram_gb_per_s), but that of `base` for a 310B by the profile of another 310B: the
    /// files of 310B hold placeholders there. Formats that the cube has no product of count at the rate of its table.
    pub fn to_profile(&self, name: &str, base: &Profile) -> Profile {
        let (int4, int4_origin) = self.int4();
        let generation = self.architecture();
        let w8a16 = matches!(generation, Architecture::M200 | Architecture::C220);
        let fp16 = self.mkn.default.mac_per_cycle();
        let int8 = self.mkn.int8.map_or(fp16, |s| s.mac_per_cycle());
        let lanes = [self.core.vec_calc_size, self.vector.vec_calc_size].into_iter().flatten().find(|n| *n > 0);
        let (ddr_gb_per_s, dram_origin) = self.dram(base);
        let same = base.name.eq_ignore_ascii_case(&self.version.soc_version);
        Profile {
            name: name.to_string(),
            origin: format!(
                "Cores, clocks, L2 and rates from CANN's platform_config of {}; {dram_origin}. Efficiencies, factors, launch and inference cost are those of {}.",
                self.version.soc_version, base.name
            ),
            known_error: if same {
                format!("Unknown with these figures. With those of the profile {}: {}", base.name, base.known_error)
            } else {
                format!("Unknown: nothing was fitted to this chip, and no prediction compared with it. Coefficients are those of {}.", base.name)
            },
            cores: self.cube_cores(),
            vector_cores: self.vector_units(),
            cube_freq_mhz: self.core.cube_freq,
            vector_freq_mhz: self.vector_freq(),
            cube_mac_per_cycle: Rates { fp16, int8, int4: self.mkn.int4.map_or(int8, |s| s.mac_per_cycle()) },
            vector_bytes_per_cycle: lanes.map_or(base.vector_bytes_per_cycle, |n| 2.0 * f64::from(n)),
            l2_bytes: self.soc.l2_size,
            l2_bytes_per_cycle: self.rates.l2_read_rate,
            ddr_gb_per_s,
            int4,
            int4_origin: int4_origin.to_string(),
            weight_only: WeightOnly { w8a16, w4a8: generation == Architecture::M200 },
            weight_only_origin: if w8a16 {
                "ATC's weight-only quantization takes MatMulV2, BatchMatMulV2 and FFN on 310P and A2; 4-bit weights with 8-bit activations are projected on 310P, and documented nowhere else."
            } else {
                "ATC's weight-only quantization is documented for 310P and A2 only; nothing is documented for 4-bit weights with 8-bit activations."
            }
            .to_string(),
            sparsity_4_to_2: self.core.sparsity,
            sparsity_origin: "The key sparsity of platform_config; AMCT's lists of chips differ among themselves.".into(),
            host_us: 0.0,
            scale: 1.0,
            evidence: None,
            ..base.clone()
        }
    }

    /// GB/s, and where they come from.
    fn dram(&self, base: &Profile) -> (f64, String) {
        let by_formula = self.dram_gb_per_s();
        let kin = self.architecture() == Architecture::M300 && base.name.to_ascii_lowercase().starts_with("ascend310b");
        if kin {
            let origin =
                format!("DRAM {} GB/s from the profile {}, as 310B's files hold placeholders for memory", base.ddr_gb_per_s, base.name);
            return (base.ddr_gb_per_s, origin);
        }
        let doubt = self.dram_doubt().map(|d| format!(", unverified: {d}")).unwrap_or_default();
        (by_formula, format!("DRAM {by_formula:.1} GB/s from its ddr rates{doubt}"))
    }

    /// What INT4 is good for, and why.
    fn int4(&self) -> (Int4, &'static str) {
        match (self.mmad.map(|m| m.int4), self.architecture()) {
            (Some(true), Architecture::M200) => (
                Int4::Gains,
                "The cube multiplies s4s4. AMCT's documentation for CANN 8.x to 9.0.0beta1 says that INT4 gains on 310P; one table for 9.0.0beta2 says no. No latency was ever published: figures are projected. Change to none if your CANN says so.",
            ),
            (Some(true), Architecture::M300) => (Int4::Runs, "AMCT's documentation (CANN 8.x): INT4 runs but gains nothing."),
            (Some(true), _) => (Int4::Runs, "The cube multiplies s4s4; that networks gain by it is documented nowhere for this chip."),
            (Some(false), _) => (Int4::None, "The cube has no s4s4 multiply-add in its platform_config."),
            (None, _) => (Int4::None, "The platform_config does not say what the cube multiplies."),
        }
    }
}
