//! Files of four chips, and what is wrong with broken ones.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::device::{Profile, profile::Int4};

const ASCEND310P3: &str = include_str!("../../../tests/fixtures/platform/Ascend310P3.ini");

/// The file of another chip: that of 310P3 with some keys changed, `key=` for no value, and some sections left out.
fn other(name: &str, changes: &str, without: &[&str]) -> String {
    let mut keep = true;
    let mut lines = Vec::new();
    for line in ASCEND310P3.lines() {
        if line.starts_with('[') {
            keep = !without.contains(&line);
        }
        let key = line.split_once('=').map_or(line, |(key, _)| key);
        // Rates stand twice under one name: changes are meant for the AI cores', which come first.
        let first = !lines.iter().any(|l: &String| l.starts_with(&format!("{key}=")));
        let changed = changes.split_whitespace().find(|c| first && c.split_once('=').is_some_and(|(k, _)| k == key));
        if keep {
            lines.push(changed.unwrap_or(line).to_string());
        }
    }
    lines.join("\n").replace("SoC_version=Ascend310P3", &format!("SoC_version={name}"))
}

/// Chips of the table in the reference that are unlike 310P3.
fn ascend310b1() -> String {
    let changes = "NpuArch=3002 AIC_version=AIC-M-300 ai_core_cnt=1 vector_core_cnt=1 l2_size=4194304 cube_freq=1224 ub_size=253952 \
                   l2_rate=256 l2_read_rate=256 l2_write_rate=128 vec_freq=1224 unzip_engines=1";
    let text = other("Ascend310B1", changes, &["[VectorCoreMemoryRates]"]);
    let text = text.replace("l2PageNum=64", "cube_core_cnt=1\ncube_vector_combine=fuse,split");
    let text = text.replace("unzip_max_ratios=64", "unzip_max_ratios=32\nbt_size=1024\nsupport_fixpipe=1\nsparsity=1");
    text.replace("26=Intrinsic_rpn_cor|\"\"", "91=Intrinsic_mmad_sp|s8") + "\n[VectorCoreMemoryRates]\nddr_rate=17\nl2_rate=256\n"
}

fn ascend910a() -> String {
    let changes = "NpuArch=1001 AIC_version=AIC-C-100 ai_core_cnt=32 vector_core_cnt=0 memory_size= l2_size=33554432 cube_freq=1000 \
                   ddr_rate=32 l2_rate=110 l2_read_rate=110 l2_write_rate=86";
    other("Ascend910A", changes, &["[VectorCoreSpec]", "[VectorCoreMemoryRates]"]).replace("s32s4s4,s8,s4", "s8")
}

fn ascend910b4() -> String {
    let changes = "NpuArch=2201 AIC_version=AIC-C-220 ai_core_cnt=20 vector_core_cnt=40 memory_size=34359738368 l2_size=100663296 \
                   cube_freq=1500 ddr_rate=32 l2_rate=110 l2_read_rate=110 l2_write_rate=86";
    let text = other("Ascend910B4", changes, &["[VectorCoreSpec]", "[VectorCoreMemoryRates]"]).replace("s32s4s4,s8,s4", "s8");
    text.replace("l2PageNum=64", "cube_core_cnt=20\ncube_vector_combine=split\nsupport_bf16=1")
        .replace("unzip_max_ratios=64", "unzip_max_ratios=64\nsparsity=1")
}

#[track_caller]
fn read(text: &str) -> Platform {
    Platform::parse(Path::new("chip.ini"), text).unwrap()
}

/// The error of a text, and what to do about it.
#[track_caller]
fn error(text: &str) -> String {
    let error = Platform::parse(Path::new("chip.ini"), text).unwrap_err();
    format!("{error} / {}", error.remedy().unwrap())
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    let error = error(text);
    words.iter().for_each(|w| assert!(error.contains(w), "\"{w}\" is not in: {error}"));
}

/// FP16, INT8 and INT4 in 10¹² multiply-adds a second, two decimals; and DRAM in GB/s.
fn peaks(platform: &Platform) -> (Vec<String>, f64) {
    let peak = |p| platform.peak_tmac_per_s(p).map_or("-".to_string(), |t| format!("{t:.2}"));
    ([Precision::Fp16, Precision::Int8, Precision::Int4].map(peak).to_vec(), (10.0 * platform.dram_gb_per_s()).round() / 10.0)
}

fn profile(text: &str) -> Profile {
    let platform = read(text);
    let base = Profile::load(platform.nearest()).unwrap();
    platform.to_profile("mine", &base)
}

#[test]
fn all_that_the_file_of_310p3_says_is_read() {
    let p = read(ASCEND310P3);
    assert_eq!(p.version.soc_version, "Ascend310P3");
    assert_eq!((p.version.short_soc_version.as_deref(), p.version.npu_arch), (Some("Ascend310P"), Some(2002)));
    assert_eq!((p.soc.ai_core_cnt, p.soc.cube_core_cnt, p.soc.vector_core_cnt, p.soc.ai_cpu_cnt), (8, None, Some(7), Some(7)));
    assert_eq!((p.soc.memory_size, p.soc.l2_size, p.soc.support_bf16), (Some(24_000_000_000), 16 << 20, false));
    assert_eq!((p.core.l0_a_size, p.core.l0_b_size, p.core.l0_c_size), (Some(64 << 10), Some(64 << 10), Some(256 << 10)));
    assert_eq!((p.core.l1_size, p.core.ub_size, p.core.ubblock_size, p.core.bt_size), (Some(1 << 20), Some(256 << 10), Some(32), None));
    assert_eq!((p.core.unzip_engines, p.core.unzip_max_ratios, p.core.support_fixpipe, p.core.sparsity), (Some(4), Some(64), false, false));
    assert_eq!((p.rates.ddr_rate, p.rates.l2_read_rate, p.rates.l1_to_l0_b_rate), (17.0, 114.0, Some(256.0)));
    assert_eq!(p.mkn.int4, Some(Mkn { m: 16, k: 64, n: 16 }));
    assert_eq!(p.mmad, Some(Mmad { int8: true, int4: true, sparse: false }));
    assert_eq!((p.vector.vec_freq, p.vector_rates.ddr_rate, p.vector_rates.l2_rate), (Some(1000.0), Some(9.0), Some(57.0)));
}

#[test]
fn peaks_are_those_of_the_reference_table() {
    let words = |w: [&str; 3]| w.map(String::from).to_vec();
    assert_eq!(peaks(&read(ASCEND310P3)), (words(["34.73", "69.47", "138.94"]), 207.2));
    assert_eq!(peaks(&read(&ascend310b1())), (words(["5.01", "10.03", "20.05"]), 41.6));
    assert_eq!(peaks(&read(&ascend910a())), (words(["131.07", "262.14", "-"]), 1024.0));
    assert_eq!(peaks(&read(&ascend910b4())), (words(["122.88", "245.76", "-"]), 960.0));
}

#[test]
fn what_only_some_chips_have_is_found_on_them() {
    let p = read(&ascend310b1());
    assert_eq!(p.mmad, Some(Mmad { int8: true, int4: true, sparse: true }));
    assert_eq!((p.core.bt_size, p.core.support_fixpipe, p.core.sparsity), (Some(1024), true, true));
    assert_eq!(read(&ascend910a()).soc.memory_size, None);
    assert!(read(&ascend910b4()).soc.support_bf16);
    assert!([ascend310b1(), ascend910b4()].iter().all(|t| read(t).dram_doubt().is_some()));
}

#[test]
fn the_generation_is_known_without_npu_arch_too() {
    let old = ASCEND310P3.replace("NpuArch=2002", "");
    assert_eq!(read(&old).architecture(), Architecture::M200);
    assert_eq!(read(&old.replace("AIC-M-200", "AIC-C-310")).architecture(), Architecture::Other);
    assert_eq!(read(&old.replace("SoC_version=Ascend310P3", "")).version.soc_version, "chip");
}

#[test]
fn profiles_have_the_figures_of_the_built_in_ones() {
    for (text, name) in [
        (ASCEND310P3.to_string(), "ascend310p3"),
        (ascend310b1(), "ascend310b1"),
        (ascend910a(), "ascend910a"),
        (ascend910b4(), "ascend910b4"),
    ] {
        let built_in = Profile::load(name).unwrap();
        assert_eq!(read(&text).nearest(), name);
        let mut made = profile(&text);
        assert!((made.ddr_gb_per_s / built_in.ddr_gb_per_s - 1.0).abs() < 0.02, "{name}: {}", made.origin);
        made.ddr_gb_per_s = built_in.ddr_gb_per_s;
        made.name.clone_from(&built_in.name);
        made.origin.clone_from(&built_in.origin);
        made.known_error.clone_from(&built_in.known_error);
        made.int4_origin.clone_from(&built_in.int4_origin);
        made.weight_only_origin.clone_from(&built_in.weight_only_origin);
        made.sparsity_origin.clone_from(&built_in.sparsity_origin);
        // What was measured was measured with the built-in figures.
        made.evidence.clone_from(&built_in.evidence);
        assert_eq!(made, built_in);
    }
}

#[test]
fn a_profile_says_what_is_not_its_own() {
    let of_same = profile(ASCEND310P3);
    assert!(of_same.known_error.contains("With those of the profile ascend310p3"));
    let of_other = profile(&other("Ascend310P9", "ai_core_cnt=10 vector_core_cnt=8", &[]));
    assert!(of_other.known_error.contains("nothing was fitted to this chip"));
    assert!(of_other.origin.contains("platform_config of Ascend310P9") && of_other.origin.contains("those of ascend310p3"));
    assert_eq!((of_other.name.as_str(), of_other.cores, of_other.vector_cores), ("mine", 10, 10));
}

#[test]
fn the_memory_of_310b_is_that_of_another_310b_or_called_a_placeholder() {
    assert!(profile(&ascend310b1()).origin.contains("DRAM 51.2 GB/s from the profile ascend310b1"));
    let by_formula = read(&ascend310b1()).to_profile("mine", &Profile::load("ascend310p3").unwrap());
    assert!(by_formula.origin.contains("DRAM 41.6 GB/s from its ddr rates, unverified"), "{}", by_formula.origin);
}

#[test]
fn int4_is_as_the_cube_and_the_generation_say() {
    let int4 = |text: &str| profile(text).int4;
    assert_eq!(int4(ASCEND310P3), Int4::Gains);
    assert_eq!(int4(&ASCEND310P3.replace("NpuArch=2002", "NpuArch=3510")), Int4::Runs);
    assert_eq!(int4(&ASCEND310P3.replace("s32s4s4,", "")), Int4::None);
    assert_eq!(int4(&ASCEND310P3.replace("Intrinsic_mmad", "Intrinsic_other")), Int4::None);
}

#[test]
fn what_is_missing_is_named_with_its_section_and_the_line_to_write() {
    says(&ASCEND310P3.replace("cube_freq=1060", ""), &["device chip.ini:", "[AICoreSpec] cube_freq is missing", "write cube_freq=<MHz>"]);
    says(&ASCEND310P3.replace("cube_freq=1060", "cube_freq="), &["chip.ini:21:", "[AICoreSpec] cube_freq has no value", "MHz"]);
    says(&ASCEND310P3.replace("ai_core_cnt=8", ""), &["[SoCInfo] ai_core_cnt is missing", "number of cores"]);
    says(&ASCEND310P3.replace("l2_size=16777216", "l2_size=0"), &["chip.ini:16:", "l2_size is 0", "l2_size=<bytes>"]);
    says(&other("x", "ddr_rate= ddr_read_rate=", &[]), &["[AICoreMemoryRates] ddr_rate has no value", "bytes a cycle and core"]);
    says(&other("x", "l2_rate= l2_read_rate=", &[]), &["[AICoreMemoryRates] l2_read_rate has no value"]);
    let cubeless = other("x", "cube_k_size= Default=", &[]);
    says(&cubeless, &["[DtypeMKN] Default has no value", "Default=<M,K,N of the cube such as 16,16,16>"]);
}

#[test]
fn what_is_no_number_is_named_with_its_line() {
    let with = |key_value: &str| other("x", key_value, &[]);
    says(&with("cube_freq=fast"), &["chip.ini:21:", "[AICoreSpec] cube_freq is \"fast\"", "a number", "correct line 21"]);
    for wrong in ["inf", "nan", "-1", "1e9"] {
        says(&with(&format!("cube_freq={wrong}")), &["chip.ini:21:", wrong, "from 0 to a million"]);
    }
    says(&with("ai_core_cnt=8.5"), &["chip.ini:10:", "[SoCInfo] ai_core_cnt", "whole number"]);
    says(&with("ai_core_cnt=99999999999"), &["below 2^32"]);
    says(&with("DT_INT8=16,32"), &["[DtypeMKN] DT_INT8 is \"16,32\"", "three whole numbers"]);
    says(&with("Default=16,0,16"), &["[DtypeMKN] Default", "above 0"]);
    says(&with("core_type_list=x").replace("core_type_list=x", "support_bf16=maybe"), &["support_bf16 is \"maybe\"", "0 or 1"]);
    assert!(error(&with(&format!("cube_freq={}", "x".repeat(10_000)))).len() < 400);
}

#[test]
fn alternatives_stand_in_for_a_missing_key() {
    let cube = read(&other("x", "Default= ddr_rate= l2_read_rate= vec_freq=", &[]).replace("ai_core_cnt=8", "cube_core_cnt=8"));
    assert_eq!(cube.mkn.default, Mkn { m: 16, k: 16, n: 16 });
    assert_eq!((cube.rates.ddr_rate, cube.rates.l2_read_rate, cube.soc.ai_core_cnt, cube.vector_freq()), (17.0, 114.0, 8, 1060.0));
    let bare = read(&other("x", "DT_INT8= DT_INT4= vec_calc_size=0", &["[VectorCoreSpec]", "[AICoreintrinsicDtypeMap]"]));
    assert_eq!(peaks(&bare).0, ["34.73", "-", "-"]);
    assert_eq!(bare.mmad, None);
    let base = Profile::load("ascend310p3").unwrap();
    assert_eq!(bare.to_profile("bare", &base).cube_mac_per_cycle.int4, 4096.0);
    assert_eq!(bare.to_profile("bare", &base).vector_bytes_per_cycle, base.vector_bytes_per_cycle);
}

#[test]
fn what_is_no_platform_config_is_called_so() {
    says("", &["chip.ini: is empty", "platform_config/Ascend<chip>.ini"]);
    says(" \r\n\u{feff}\n", &["chip.ini"]);
    let headless: String = ASCEND310P3.lines().filter(|l| !l.starts_with('[')).map(|l| format!("{l}\n")).collect();
    says(&headless, &["nothing stands under [SoCInfo] or [AICoreSpec]"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.ini");
    let load = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        Platform::load(&file)
    };
    let garbage: Vec<u8> = (0..5000_u32).map(|k| (k.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    assert!(load(&garbage).unwrap_err().to_string().contains("broken.ini: is no platform_config file"));
    assert!(load(&vec![b'='; 2 << 20]).unwrap_err().to_string().contains("too large"));
    assert!(load(&[b"# \xd6\xd0\r\n", ASCEND310P3.replace('\n', "\r\n").as_bytes()].concat()).is_ok());
    assert_eq!(Platform::load(folder.path()).unwrap_err().remedy(), Some("name a file, not a folder"));
    assert!(Platform::load(Path::new("nowhere.ini")).unwrap_err().to_string().contains("nowhere.ini"));
}

#[test]
fn unknown_keys_sections_and_lines_are_passed_over() {
    let more = "[SoCInfo]\nnew_key=?\n[NewSpec]\ncube_freq=none\nno key at all\n= \n[\n]\n[AICoreSpec\n";
    assert_eq!(read(&format!("{more}{ASCEND310P3}")), read(ASCEND310P3));
}

proptest! {
    #[test]
    fn no_text_panics(text in "(\\PC|\n|\r|=|\\[|#|,){0,300}") {
        let _ = Platform::parse(Path::new("any.ini"), &text);
    }

    #[test]
    fn no_change_to_a_line_panics_and_whatever_is_read_makes_a_profile_that_loads(
        at in 0..ASCEND310P3.lines().count(), value in "(-?[0-9]{1,20}(\\.[0-9]{1,9})?(e-?[0-9]{1,3})?|[0-9,]{0,12}|\\PC{0,9})",
    ) {
        let change = |(k, line): (usize, &str)| if k == at { format!("{}={value}\n", line.split('=').next().unwrap()) } else { format!("{line}\n") };
        let text: String = ASCEND310P3.lines().enumerate().map(change).collect();
        match Platform::parse(Path::new("any.ini"), &text) {
            Err(e) => prop_assert!(e.to_string().contains("any.ini") && e.remedy().is_some()),
            Ok(platform) => {
                let profile = platform.to_profile("any", &Profile::load(platform.nearest()).unwrap());
                let file = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(file.path(), profile.to_yaml().unwrap()).unwrap();
                prop_assert_eq!(Profile::load(file.path().to_str().unwrap()).unwrap(), profile);
            }
        }
    }
}
