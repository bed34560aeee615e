//! The ONNX Runtime library from its PyPI package: downloaded by the user's own pip, so that their mirrors, proxies and
//! certificates count, checked against the hash we know, and only the library kept.

use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::{
    scratch::{self, Scratch},
    surroundings::Surroundings,
};
use crate::error::{Error, Result};

/// The version that is fetched.
pub const VERSION: &str = "1.32.0";

const BY_HAND: &str = "by hand: pip install onnxruntime==1.32.0, or set ORT_DYLIB_PATH to a libonnxruntime of version 1.24 or later";

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A wheel of [`VERSION`] for one kind of machine.
struct Wheel {
    os: &'static str,
    arch: &'static str,
    tag: &'static str,
    sha256: &'static str,
}

const WHEELS: [Wheel; 3] = [
    Wheel {
        os: "linux",
        arch: "x86_64",
        tag: "manylinux_2_28_x86_64",
        sha256: "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8",
    },
    Wheel {
        os: "linux",
        arch: "aarch64",
        tag: "manylinux_2_28_aarch64",
        sha256: "e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054",
    },
    Wheel {
        os: "macos",
        arch: "aarch64",
        tag: "macosx_14_0_arm64",
        sha256: "d52510bbbcc880c13b826f7d75cdf33ac5cf0bb864d960000fc29ce73f0cb83e",
    },
];

/// Fetches the library into the cache folder and gives its path; `notice` gets sentences for the user.
///
/// Several processes may do this at once: each unpacks beside the others and the finished file is renamed into place.
///
/// # Errors
/// If fetching is forbidden (`GULLIVER_OFFLINE=1`), there is no wheel for this machine, no cache folder, no pip, no network, or the
/// wheel is not the one we know.
pub fn fetch(surroundings: &Surroundings, notice: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    if surroundings.offline {
        return Err(fail("no library was found on this machine, and GULLIVER_OFFLINE forbids fetching it", None));
    }
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let wheel = WHEELS
        .iter()
        .find(|w| w.os == os && w.arch == arch && !cfg!(target_env = "musl"))
        .ok_or_else(|| fail(format!("no library was found, and there is none to fetch for {os} on {arch}"), None))?;
    let (Some(cache), Some(target)) = (&surroundings.cache, surroundings.cached_library(VERSION)) else {
        return Err(Error::runtime("no library was found, and there is no cache folder to fetch it into", "set GULLIVER_CACHE", None));
    };
    let pip = Pip::find(surroundings).ok_or_else(|| fail("no library was found, and there is no pip to fetch it with", None))?;
    let scratch = Scratch::new(cache).map_err(|e| {
        let message = format!("no library was found, and the cache folder {} cannot be written", cache.display());
        Error::runtime(message, "set GULLIVER_CACHE to a folder that can be written", Some(Box::new(e)))
    })?;
    scratch::sweep(cache, DAY);
    notice(&format!("fetching ONNX Runtime {VERSION} with {} (about 30 MB, once)", pip.name));
    let file = pip.download(wheel, &scratch.path)?;
    check(&file, wheel.sha256)?;
    unpack(&file, &scratch.path.join("library"), &target)?;
    notice(&format!("fetched ONNX Runtime {VERSION} into {}", target.display()));
    Ok(target)
}

fn fail(message: impl Into<String>, source: Option<String>) -> Error {
    Error::runtime(message, BY_HAND, source.map(Into::into))
}

/// A pip that answers, and how it is called.
pub(super) struct Pip<'s> {
    surroundings: &'s Surroundings,
    program: PathBuf,
    first: &'static [&'static str],
    /// As the user would call it.
    pub(super) name: &'static str,
}

impl<'s> Pip<'s> {
    /// The first of `python3 -m pip`, `pip3`, `pip` that answers.
    pub(super) fn find(surroundings: &'s Surroundings) -> Option<Self> {
        let ways: [(&str, &[&str], &str); 3] = [("python3", &["-m", "pip"], "python3 -m pip"), ("pip3", &[], "pip3"), ("pip", &[], "pip")];
        ways.into_iter().find_map(|(program, first, name)| {
            let pip = Self { surroundings, program: surroundings.program(program)?, first, name };
            pip.command().arg("--version").output().is_ok_and(|o| o.status.success()).then_some(pip)
        })
    }

    fn command(&self) -> Command {
        let mut command = self.surroundings.command(&self.program);
        command.args(self.first);
        command
    }

    fn download(&self, wheel: &Wheel, into: &Path) -> Result<PathBuf> {
        let requirement = format!("onnxruntime=={VERSION}");
        let output = self
            .command()
            .args(["download", &requirement, "--no-deps", "--only-binary=:all:", "--python-version", "3.12"])
            .args(["--implementation", "cp", "--abi", "cp312", "--platform", wheel.tag])
            .args(["--disable-pip-version-check", "--no-input", "--quiet", "--dest"])
            .arg(into)
            .output()
            .map_err(Error::io("run", &self.program))?;
        let whole = |reason: String| {
            let message = format!("{} could not download {requirement}", self.name);
            Error::runtime(message, format!("check the network and pip's settings; or {BY_HAND}"), Some(reason.into()))
        };
        if !output.status.success() {
            return Err(whole(gist(&String::from_utf8_lossy(&output.stderr))));
        }
        let entries = std::fs::read_dir(into).map_err(Error::io("read", into))?;
        let mut files = entries.filter_map(|e| e.ok().map(|e| e.path()));
        files.find(|p| p.extension().is_some_and(|e| e == "whl")).ok_or_else(|| whole("it said it had, but there is no wheel".into()))
    }
}

/// The first line of what a program complained about, where the cause is, and the last two, where the conclusion is.
fn gist(complaint: &str) -> String {
    let lines: Vec<&str> = complaint.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let rest = lines.len().saturating_sub(2).max(1).min(lines.len());
    lines.iter().take(1).chain(&lines[rest..]).copied().collect::<Vec<_>>().join("; ")
}

/// Compares a file's SHA-256 with the known one.
fn check(file: &Path, expected: &str) -> Result<()> {
    let mut hasher = Sha256::new();
    let mut reader = File::open(file).map_err(Error::io("read", file))?;
    std::io::copy(&mut reader, &mut hasher).map_err(Error::io("read", file))?;
    let found: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if found == expected {
        return Ok(());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    Err(fail(format!("{name} is not the file it should be, and was thrown away"), Some(format!("its SHA-256 is {found}, not {expected}"))))
}

/// Unpacks the library of a wheel to `aside`, then renames it to `target`.
fn unpack(wheel: &Path, aside: &Path, target: &Path) -> Result<()> {
    let damaged = |e: zip::result::ZipError| fail(format!("{} cannot be unpacked", wheel.display()), Some(e.to_string()));
    let mut archive = zip::ZipArchive::new(File::open(wheel).map_err(Error::io("read", wheel))?).map_err(damaged)?;
    let name = archive
        .file_names()
        .find(|n| n.starts_with("onnxruntime/capi/libonnxruntime."))
        .map(str::to_string)
        .ok_or_else(|| fail(format!("{} holds no library", wheel.display()), None))?;
    let mut entry = archive.by_name(&name).map_err(damaged)?;
    let mut out = File::create(aside).map_err(Error::io("create", aside))?;
    copy(&mut entry, &mut out).and_then(|()| out.sync_all()).map_err(Error::io("write", aside))?;
    let folder = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    std::fs::rename(aside, target).map_err(Error::io("write", target))
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<()> {
    std::io::copy(from, to)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Bench {
        folder: tempfile::TempDir,
        surroundings: Surroundings,
    }

    /// Surroundings where the only pip is a shell script, and the cache is empty.
    fn bench(pip: &str) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pip");
        std::fs::write(&file, format!("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\n{pip}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let surroundings = Surroundings { cache: Some(folder.path().join("cache")), path: folder.path().into(), ..Surroundings::default() };
        Bench { folder, surroundings }
    }

    fn left_over(bench: &Bench) -> usize {
        std::fs::read_dir(bench.folder.path().join("cache")).map_or(0, Iterator::count)
    }

    fn reason(error: &Error) -> String {
        std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
    }

    #[test]
    fn offline_says_what_to_do_by_hand_and_runs_nothing() {
        let bench = bench("touch \"$0.ran\"");
        let error = fetch(&Surroundings { offline: true, ..bench.surroundings.clone() }, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("GULLIVER_OFFLINE"));
        assert!(error.remedy().unwrap().contains("pip install onnxruntime==1.32.0"));
        assert!(!bench.folder.path().join("pip.ran").exists());
    }

    #[test]
    fn without_pip_the_error_says_so() {
        let bench = bench("");
        let error = fetch(&Surroundings { path: "/nonexistent".into(), ..bench.surroundings.clone() }, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("no pip"), "{error}");
    }

    #[test]
    fn what_pip_complains_about_is_the_reason_and_nothing_stays_behind() {
        let bench = bench("echo 'WARNING: retrying' >&2; echo 'ERROR: no matching distribution' >&2; exit 1");
        let error = fetch(&bench.surroundings, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("pip could not download onnxruntime==1.32.0"), "{error}");
        assert_eq!(reason(&error), "WARNING: retrying; ERROR: no matching distribution");
        assert_eq!(left_over(&bench), 0);
    }

    #[test]
    fn the_gist_of_a_complaint_is_its_first_and_last_lines() {
        assert_eq!(gist(""), "");
        assert_eq!(gist("a\n"), "a");
        assert_eq!(gist("a\nb\n"), "a; b");
        assert_eq!(gist("a\n\nb\nc\nd\n"), "a; c; d");
    }

    #[test]
    fn a_cache_folder_that_cannot_be_written_is_named_with_the_remedy() {
        let bench = bench("");
        let cache = Some(bench.folder.path().join("pip/cache"));
        let error = fetch(&Surroundings { cache, ..bench.surroundings.clone() }, &mut |_| {}).unwrap_err();
        assert!(error.remedy().unwrap().contains("GULLIVER_CACHE"), "{error}");
    }

    #[test]
    fn a_wheel_with_another_hash_is_refused_and_thrown_away() {
        let bench = bench("for last; do :; done; echo forged > \"$last/onnxruntime-1.32.0.whl\"");
        let error = fetch(&bench.surroundings, &mut |_| {}).unwrap_err();
        assert!(reason(&error).starts_with("its SHA-256 is "), "{}", reason(&error));
        assert_eq!(left_over(&bench), 0);
    }

    #[test]
    fn only_the_library_of_a_wheel_is_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let wheel = folder.path().join("w.whl");
        let mut zip = zip::ZipWriter::new(File::create(&wheel).unwrap());
        for name in ["onnxruntime/capi/libonnxruntime_providers_shared.so", "onnxruntime/capi/libonnxruntime.so.1.32.0"] {
            zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(name.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
        let target = folder.path().join("onnxruntime-1.32.0/libonnxruntime.so");
        unpack(&wheel, &folder.path().join("aside"), &target).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "onnxruntime/capi/libonnxruntime.so.1.32.0");
        assert!(!folder.path().join("aside").exists());
    }
}
