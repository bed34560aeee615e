//! `gulliver device import`: CANN's description of a chip becomes a profile that other commands take.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use common::{Bed, Said};

fn ini() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/platform/Ascend310P3.ini")
}

/// What `gulliver device import` says of a file in the bed.
fn import(bed: &Bed, file: &Path, more: &[&str]) -> Said {
    bed.gulliver(["device", "import", file.to_str().unwrap()].iter().chain(more))
}

#[test]
fn the_profile_goes_to_stdout_and_what_is_not_its_own_to_stderr() {
    let said = import(&Bed::new(), &ini(), &[]).ends_with(0);
    assert!(said.out.starts_with("name: ascend310p3\n"), "{}", said.out);
    assert!(said.out.contains("cores: 8\n") && said.out.contains("cube_freq_mhz: 1060"), "{}", said.out);
    let last = said.err.lines().last().unwrap();
    assert!(last.contains("platform_config of Ascend310P3; DRAM 207.2 GB/s") && last.contains("cost are those of ascend310p3."), "{last}");
    assert!(last.ends_with("fitted to this chip with the figures of that profile, not with these."), "{last}");
}

#[test]
fn a_written_profile_is_taken_as_a_device_and_not_overwritten_unasked() {
    let bed = Bed::new();
    let out = ["--out", "my.yaml", "--name", "mine", "--like", "ascend310"];
    let said = import(&bed, &ini(), &out).ends_with(0);
    assert_eq!(said.out, "written: my.yaml\n");
    assert!(said.err.ends_with("cost are those of ascend310. Nothing is fitted to this chip.\n"), "{}", said.err);
    let shown = bed.gulliver(["device", "show", "my.yaml", "--json"]).ends_with(0).json();
    assert_eq!((shown["name"].as_str(), shown["cores"].as_u64()), (Some("mine"), Some(8)));
    assert!(shown["known_error"].as_str().unwrap().ends_with("Coefficients are those of ascend310."));
    let before = bed.read("my.yaml");
    import(&bed, &ini(), &["--out", "my.yaml"]).refuses(&["my.yaml", "is there already", "--force"]);
    assert_eq!(bed.read("my.yaml"), before);
    import(&bed, &ini(), &["--out", "my.yaml", "--force"]).ends_with(0);
    assert_ne!(bed.read("my.yaml"), before);
}

#[test]
fn json_has_the_profile_and_all_that_was_read() {
    let json = import(&Bed::new(), &ini(), &["--json"]).ends_with(0).json();
    assert_eq!(json["profile"]["name"], "ascend310p3");
    assert_eq!(json["platform"]["core"]["l1_size"], 1 << 20);
    assert_eq!((&json["like"], &json["out"]), (&"ascend310p3".into(), &serde_json::Value::Null));
}

#[test]
fn a_broken_file_is_named_with_line_key_and_remedy_and_nothing_is_written() {
    let bed = Bed::new();
    let broken = std::fs::read_to_string(ini()).unwrap().replace("cube_freq=1060", "cube_freq=fast");
    let file = bed.write("Ascend310P3.ini", broken);
    import(&bed, &file, &["--out", "my.yaml"]).refuses(&["Ascend310P3.ini:21:", "cube_freq is \"fast\"", "correct line 21"]);
    assert!(!bed.path("my.yaml").exists());
    import(&bed, &bed.write("model.ini", b"\x08\x07\x12\x0cpytorch\x00"), &[]).refuses(&["no platform_config file"]);
    import(&bed, Path::new("nowhere.ini"), &[]).refuses(&["nowhere.ini"]);
    import(&bed, &ini(), &["--like", "ascend9000"]).refuses(&["ascend9000", "ascend310p3"]);
}
