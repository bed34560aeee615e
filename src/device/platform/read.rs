//! Reading a `platform_config` file: what must be there, what may be, and what is wrong with it by line and key.

use std::{fs::File, io::Read, path::Path};

use super::{
    AiCore, CoreRates, DtypeMkn, Mkn, Mmad, Platform, SocInfo, VectorCore, VectorRates, Version,
    ini::{Ini, Line},
};
use crate::error::{Error, Result};

const VERSION: &str = "version";
const SOC: &str = "SoCInfo";
const CORE: &str = "AICoreSpec";
const RATES: &str = "AICoreMemoryRates";
const MKN: &str = "DtypeMKN";
const INTRINSICS: &str = "AICoreintrinsicDtypeMap";
const VECTOR: &str = "VectorCoreSpec";
const VECTOR_RATES: &str = "VectorCoreMemoryRates";

/// The largest file that is looked at, bytes; CANN's have up to 30 000.
const LARGEST: u64 = 1 << 20;

/// The largest clock or rate that is believed.
const FASTEST: f64 = 1e6;

/// Where the files are, as a remedy.
const WHERE: &str = "give CANN's own file: data/platform_config/Ascend<chip>.ini of a CANN installation";

impl Platform {
    /// Reads the file of a chip. Bytes that are no UTF-8 are passed over: only comments have any.
    ///
    /// # Errors
    /// If it cannot be read, is no `platform_config` file, lacks what a cost model cannot do without (cores, clock and
    /// shape of the cube, L2, rates of DRAM and L2), or has a value that is no number: by file, line and key.
    pub fn load(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        File::open(path).and_then(|f| f.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(Error::io("read", path))?;
        if bytes.len() as u64 > LARGEST {
            return Err(Error::device(path.display().to_string(), "is too large for a platform_config file", WHERE));
        }
        Self::parse(path, &String::from_utf8_lossy(&bytes))
    }

    /// Reads the text of a file whose name is used in errors, and as the chip's where the text has none.
    ///
    /// # Errors
    /// As [`load`](Self::load), less the reading.
    pub fn parse(file: &Path, text: &str) -> Result<Self> {
        let ini = Ini::parse(text);
        let keys = Keys { file, ini: &ini };
        if text.trim().is_empty() {
            return Err(keys.alien("is empty"));
        }
        if [SOC, CORE].iter().all(|s| ini.section(s).next().is_none()) {
            return Err(keys.alien("is no platform_config file: nothing stands under [SoCInfo] or [AICoreSpec]"));
        }
        let core = keys.core()?;
        Ok(Self {
            version: keys.version()?,
            soc: keys.soc()?,
            mkn: keys.mkn(&core)?,
            core,
            rates: keys.rates()?,
            mmad: keys.mmad(),
            vector: keys.vector()?,
            vector_rates: keys.vector_rates()?,
        })
    }
}

/// The keys of a file, by section.
struct Keys<'a> {
    file: &'a Path,
    ini: &'a Ini<'a>,
}

impl<'a> Keys<'a> {
    fn version(&self) -> Result<Version> {
        let stem = || self.file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Version {
            soc_version: self.text(VERSION, "SoC_version").unwrap_or_else(stem),
            short_soc_version: self.text(VERSION, "Short_SoC_version"),
            aic_version: self.text(VERSION, "AIC_version"),
            npu_arch: self.count(VERSION, "NpuArch")?,
        })
    }

    fn soc(&self) -> Result<SocInfo> {
        let (ai_core_cnt, cube_core_cnt) = (self.count(SOC, "ai_core_cnt")?, self.count(SOC, "cube_core_cnt")?);
        Ok(SocInfo {
            ai_core_cnt: self.needed(SOC, "ai_core_cnt", "the number of cores", ai_core_cnt.or(cube_core_cnt))?,
            cube_core_cnt,
            vector_core_cnt: self.count(SOC, "vector_core_cnt")?,
            cube_vector_combine: self.text(SOC, "cube_vector_combine"),
            ai_cpu_cnt: self.count(SOC, "ai_cpu_cnt")?,
            memory_size: self.bytes(SOC, "memory_size")?,
            l2_size: self.needed(SOC, "l2_size", "bytes", self.bytes(SOC, "l2_size")?)?,
            support_bf16: self.flag(SOC, "support_bf16")?,
        })
    }

    fn core(&self) -> Result<AiCore> {
        Ok(AiCore {
            cube_freq: self.needed(CORE, "cube_freq", "MHz", self.rate(CORE, "cube_freq")?)?,
            cube_m_size: self.count(CORE, "cube_m_size")?,
            cube_n_size: self.count(CORE, "cube_n_size")?,
            cube_k_size: self.count(CORE, "cube_k_size")?,
            vec_calc_size: self.count(CORE, "vec_calc_size")?,
            l0_a_size: self.bytes(CORE, "l0_a_size")?,
            l0_b_size: self.bytes(CORE, "l0_b_size")?,
            l0_c_size: self.bytes(CORE, "l0_c_size")?,
            l1_size: self.bytes(CORE, "l1_size")?,
            ub_size: self.bytes(CORE, "ub_size")?,
            ubblock_size: self.bytes(CORE, "ubblock_size")?,
            bt_size: self.bytes(CORE, "bt_size")?,
            unzip_engines: self.count(CORE, "unzip_engines")?,
            unzip_max_ratios: self.count(CORE, "unzip_max_ratios")?,
            support_fixpipe: self.flag(CORE, "support_fixpipe")?,
            sparsity: self.flag(CORE, "sparsity")?,
        })
    }

    fn rates(&self) -> Result<CoreRates> {
        let rate = |key| self.rate(RATES, key);
        let (ddr_read_rate, l2_rate) = (rate("ddr_read_rate")?, rate("l2_rate")?);
        Ok(CoreRates {
            ddr_rate: self.needed(RATES, "ddr_rate", "bytes a cycle and core", rate("ddr_rate")?.or(ddr_read_rate))?,
            ddr_read_rate,
            ddr_write_rate: rate("ddr_write_rate")?,
            l2_rate,
            l2_read_rate: self.needed(RATES, "l2_read_rate", "bytes a cycle and core", rate("l2_read_rate")?.or(l2_rate))?,
            l2_write_rate: rate("l2_write_rate")?,
            l1_to_l0_a_rate: rate("l1_to_l0_a_rate")?,
            l1_to_l0_b_rate: rate("l1_to_l0_b_rate")?,
            l1_to_ub_rate: rate("l1_to_ub_rate")?,
            l0_c_to_ub_rate: rate("l0_c_to_ub_rate")?,
            ub_to_l2_rate: rate("ub_to_l2_rate")?,
            ub_to_ddr_rate: rate("ub_to_ddr_rate")?,
            ub_to_l1_rate: rate("ub_to_l1_rate")?,
        })
    }

    fn mkn(&self, core: &AiCore) -> Result<DtypeMkn> {
        let of_core = match (core.cube_m_size, core.cube_k_size, core.cube_n_size) {
            (Some(m), Some(k), Some(n)) => Some(Mkn { m, k, n }).filter(|s| s.mac_per_cycle() > 0.0),
            _ => None,
        };
        let default = self.shape("Default")?.or(of_core);
        Ok(DtypeMkn {
            default: default.ok_or_else(|| self.missing(MKN, "Default", "M,K,N of the cube such as 16,16,16"))?,
            int8: self.shape("DT_INT8")?,
            int4: self.shape("DT_INT4")?,
        })
    }

    fn mmad(&self) -> Option<Mmad> {
        let types = |name: &str| -> Option<Vec<&'a str>> {
            let of_name = |l: Line<'a>| l.value.split_once('|').filter(|(n, _)| n.trim() == name).map(|(_, types)| types);
            let lists: Vec<&'a str> = self.ini.section(INTRINSICS).filter_map(of_name).collect();
            Some(lists.iter().flat_map(|l| l.split(',')).map(str::trim).collect()).filter(|_| !lists.is_empty())
        };
        let dense = types("Intrinsic_mmad")?;
        let has = |type_| dense.contains(&type_);
        Some(Mmad { int8: has("s32s8s8") || has("s8"), int4: has("s32s4s4"), sparse: types("Intrinsic_mmad_sp").is_some() })
    }

    fn vector(&self) -> Result<VectorCore> {
        Ok(VectorCore {
            vec_freq: self.rate(VECTOR, "vec_freq")?,
            vec_calc_size: self.count(VECTOR, "vec_calc_size")?,
            ub_size: self.bytes(VECTOR, "ub_size")?,
            ubblock_size: self.bytes(VECTOR, "ubblock_size")?,
        })
    }

    fn vector_rates(&self) -> Result<VectorRates> {
        Ok(VectorRates {
            ddr_rate: self.rate(VECTOR_RATES, "ddr_rate")?,
            l2_rate: self.rate(VECTOR_RATES, "l2_rate")?,
            ub_to_l2_rate: self.rate(VECTOR_RATES, "ub_to_l2_rate")?,
            ub_to_ddr_rate: self.rate(VECTOR_RATES, "ub_to_ddr_rate")?,
        })
    }

    /// A key's line, if it has a value.
    fn line(&self, section: &str, key: &str) -> Option<Line<'a>> {
        self.ini.line(section, key).filter(|l| !l.value.is_empty())
    }

    fn text(&self, section: &str, key: &str) -> Option<String> {
        self.line(section, key).map(|l| l.value.to_string())
    }

    fn count(&self, section: &str, key: &str) -> Result<Option<u32>> {
        self.read(section, key, "a whole number below 2^32", |v| v.parse().ok())
    }

    fn bytes(&self, section: &str, key: &str) -> Result<Option<u64>> {
        self.read(section, key, "a whole number below 2^64", |v| v.parse().ok())
    }

    fn rate(&self, section: &str, key: &str) -> Result<Option<f64>> {
        self.read(section, key, "a number from 0 to a million", |v| v.parse().ok().filter(|n| (0.0..=FASTEST).contains(n)))
    }

    fn flag(&self, section: &str, key: &str) -> Result<bool> {
        let read = |v: &str| match v.to_ascii_lowercase().as_str() {
            "1" | "true" => Some(true),
            "0" | "false" => Some(false),
            _ => None,
        };
        Ok(self.read(section, key, "0 or 1", read)?.unwrap_or_default())
    }

    fn shape(&self, key: &str) -> Result<Option<Mkn>> {
        let read = |v: &str| {
            let sizes: Option<Vec<u32>> = v.split(',').map(|n| n.trim().parse().ok().filter(|n| *n > 0)).collect();
            sizes.and_then(|s| if let [m, k, n] = s[..] { Some(Mkn { m, k, n }) } else { None })
        };
        self.read(MKN, key, "three whole numbers above 0 such as 16,16,16", read)
    }

    /// A value, none where the key is missing or has none.
    fn read<T>(&self, section: &str, key: &str, must: &str, read: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(line) = self.line(section, key) else { return Ok(None) };
        let fail = || {
            let value: String = line.value.chars().take(40).flat_map(char::escape_debug).collect();
            self.at(
                line,
                format!("[{section}] {key} is \"{value}\", it must be {must}"),
                format!("correct line {}, or {WHERE}", line.number),
            )
        };
        read(line.value).map(Some).ok_or_else(fail)
    }

    /// A value that must be there and above 0.
    fn needed<T: PartialOrd + Default>(&self, section: &str, key: &str, unit: &str, value: Option<T>) -> Result<T> {
        let value = value.ok_or_else(|| self.missing(section, key, unit))?;
        if value > T::default() {
            return Ok(value);
        }
        let message = format!("[{section}] {key} is 0, and no time can be predicted without it");
        let remedy = format!("write {key}=<{unit}> as it is on the chip, or change a copy of a built-in profile (gulliver device show)");
        Err(match self.line(section, key) {
            Some(line) => self.at(line, message, remedy),
            None => Error::device(self.file.display().to_string(), message, remedy),
        })
    }

    fn missing(&self, section: &str, key: &str, unit: &str) -> Error {
        let remedy = format!("write {key}=<{unit}> under [{section}], or {WHERE}");
        match self.ini.line(section, key) {
            Some(line) => self.at(line, format!("[{section}] {key} has no value"), remedy),
            None => Error::device(self.file.display().to_string(), format!("[{section}] {key} is missing"), remedy),
        }
    }

    fn at(&self, line: Line<'_>, message: String, remedy: String) -> Error {
        Error::device(format!("{}:{}", self.file.display(), line.number), message, remedy)
    }

    fn alien(&self, message: &str) -> Error {
        Error::device(self.file.display().to_string(), message, WHERE)
    }
}
