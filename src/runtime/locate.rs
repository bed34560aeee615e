//! The ONNX Runtime shared library on this machine: the user's word first, then our cache, Python's package, the system's folders.

use std::{
    ffi::{CStr, c_char, c_void},
    fmt,
    path::{Path, PathBuf},
};

use super::{fetch, surroundings::Surroundings, telemetry};
use crate::error::{Error, Result};

/// The oldest version we can drive: the `api-24` level of `ort`.
pub const OLDEST: Version = Version { major: 1, minor: 24 };

/// Major and minor number of an ONNX Runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1 in every release so far.
    pub major: u32,
    /// The number that grows.
    pub minor: u32,
}

impl Version {
    /// The first two numbers of a text like `1.32.0`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut number = || parts.next().and_then(|p| p.parse().ok());
        Some(Self { major: number()?, minor: number()? })
    }
}

/// How a library was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Named by `ORT_DYLIB_PATH`.
    Variable,
    /// In our cache folder.
    Cache,
    /// In the package `onnxruntime` of the `python3` on the `PATH`.
    Python,
    /// In a folder of the system's shared libraries.
    System,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Variable => "named by ORT_DYLIB_PATH",
            Self::Cache => "in gulliver's cache",
            Self::Python => "in python3's package onnxruntime",
            Self::System => "in the system's libraries",
        })
    }
}

/// A library that was looked at and not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// The file.
    pub path: PathBuf,
    /// Its version, where it could be told.
    pub version: Option<String>,
    /// Why it was not taken.
    pub reason: String,
}

/// The library that is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// The version it says it has, like `1.32.0`.
    pub version: String,
    /// How it was found.
    pub origin: Origin,
    /// The libraries that would have come first but do not fit.
    pub passed_over: Vec<PassedOver>,
}

/// Looks for a library that fits; `Err` in the inner result holds what was passed over when none does.
///
/// # Errors
/// If `ORT_DYLIB_PATH` is set and does not name a library that fits.
pub fn locate(surroundings: &Surroundings) -> Result<std::result::Result<Found, Vec<PassedOver>>> {
    telemetry::silence();
    if let Some(path) = &surroundings.library {
        return match version_of(path) {
            Ok(version) => Ok(Ok(Found { path: path.clone(), version, origin: Origin::Variable, passed_over: Vec::new() })),
            Err(bad) => Err(Error::runtime(
                format!("ORT_DYLIB_PATH names {}, which cannot be used", bad.path.display()),
                format!(
                    "name the file of an ONNX Runtime library of version {}.{} or later, or unset the variable",
                    OLDEST.major, OLDEST.minor
                ),
                Some(bad.reason.into()),
            )),
        };
    }
    let mut passed_over: Vec<PassedOver> = Vec::new();
    let mut seen: Vec<PathBuf> = Vec::new();
    for (origin, candidates) in origins(surroundings) {
        for path in candidates() {
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            if seen.contains(&real) {
                continue;
            }
            seen.push(real);
            match version_of(&path) {
                Ok(version) => return Ok(Ok(Found { path, version, origin, passed_over })),
                Err(bad) => passed_over.push(bad),
            }
        }
    }
    Ok(Err(passed_over))
}

type Candidates<'a> = Box<dyn FnOnce() -> Vec<PathBuf> + 'a>;

fn origins(surroundings: &Surroundings) -> [(Origin, Candidates<'_>); 3] {
    let cached = || surroundings.cached_library(fetch::VERSION).filter(|p| p.exists()).into_iter().collect();
    let python = || package_folder(surroundings).map(|f| libraries_in(&f.join("capi"))).unwrap_or_default();
    let system = || surroundings.libraries.iter().flat_map(|f| libraries_in(f)).collect();
    [(Origin::Cache, Box::new(cached)), (Origin::Python, Box::new(python)), (Origin::System, Box::new(system))]
}

/// Folder of the package `onnxruntime` of the `python3` on the `PATH`; the package itself is not imported.
fn package_folder(surroundings: &Surroundings) -> Option<PathBuf> {
    const SCRIPT: &str = "import sys, importlib.util
sys.path = [p for p in sys.path if p]
spec = importlib.util.find_spec('onnxruntime')
print(list(spec.submodule_search_locations)[0] if spec and spec.submodule_search_locations else '')";
    let python = surroundings.program("python3")?;
    let output = surroundings.command(&python).args(["-c", SCRIPT]).output().ok().filter(|o| o.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim()).filter(|t| !t.is_empty()).map(PathBuf::from)
}

/// ONNX Runtime libraries of a folder, newest name first.
fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| is_library(p)).collect();
    found.sort_by_key(|p| std::cmp::Reverse((version_in_name(p).and_then(|v| Version::parse(&v)), p.clone())));
    found
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    name.strip_prefix("libonnxruntime.").is_some_and(|rest| rest == "so" || rest.starts_with("so.") || rest.ends_with("dylib"))
}

/// `1.32.0` of `libonnxruntime.so.1.32.0` or `libonnxruntime.1.32.0.dylib`, links followed.
fn version_in_name(path: &Path) -> Option<String> {
    let real = path.canonicalize().ok()?;
    let rest = real.file_name()?.to_str()?.strip_prefix("libonnxruntime.")?;
    let text = rest.strip_prefix("so.").or_else(|| rest.strip_suffix(".dylib"))?;
    Version::parse(text).map(|_| text.to_string())
}

/// The version of a library that fits, told by itself; its file name alone can only rule it out.
fn version_of(path: &Path) -> std::result::Result<String, PassedOver> {
    let too_old = |version: String| PassedOver {
        path: path.to_path_buf(),
        reason: format!("version {version} is older than {}.{}", OLDEST.major, OLDEST.minor),
        version: Some(version),
    };
    let fits = |version: &str| Version::parse(version).is_some_and(|v| v >= OLDEST);
    if let Some(version) = version_in_name(path).filter(|v| !fits(v)) {
        return Err(too_old(version));
    }
    match ask_version(path) {
        Ok(version) if fits(&version) => Ok(version),
        Ok(version) => Err(too_old(version)),
        Err(reason) => Err(PassedOver { path: path.to_path_buf(), version: None, reason }),
    }
}

/// The head of the C API, the same in every version.
#[repr(C)]
struct ApiBase {
    api: extern "C" fn(u32) -> *const c_void,
    version: extern "C" fn() -> *const c_char,
}

fn ask_version(path: &Path) -> std::result::Result<String, String> {
    if !path.is_file() {
        return Err("there is no such file".into());
    }
    // SAFETY: loading runs the library's initialisers. Only files named like ONNX Runtime, or named by the user, come here.
    #[allow(unsafe_code)]
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| format!("it cannot be loaded: {}", text_of(&e)))?;
    // SAFETY: the symbol has had this type since the first release, and what it points to lives as long as the library.
    #[allow(unsafe_code)]
    unsafe {
        let base: libloading::Symbol<'_, extern "C" fn() -> *const ApiBase> =
            library.get(b"OrtGetApiBase\0").map_err(|_| "it is not an ONNX Runtime library: no OrtGetApiBase".to_string())?;
        let version = base().as_ref().map(|b| (b.version)()).filter(|v| !v.is_null()).ok_or("it does not tell its version")?;
        Ok(CStr::from_ptr(version).to_string_lossy().into_owned())
    }
}

fn text_of(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, b"not a library").unwrap();
        path
    }

    fn nowhere() -> Surroundings {
        Surroundings { path: "/nonexistent".into(), ..Surroundings::default() }
    }

    #[test]
    fn versions_are_told_from_file_names() {
        let folder = tempfile::tempdir().unwrap();
        let said = |name: &str| version_in_name(&touch(folder.path(), name));
        assert_eq!(said("libonnxruntime.so.1.32.0").as_deref(), Some("1.32.0"));
        assert_eq!(said("libonnxruntime.1.32.0.dylib").as_deref(), Some("1.32.0"));
        assert_eq!(said("libonnxruntime.so.1"), None);
        assert_eq!(said("libonnxruntime.so"), None);
    }

    #[test]
    fn the_newest_library_of_a_folder_comes_first_and_others_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.30.1", "libonnxruntime_providers_shared.so", "libonnxruntime.pc"] {
            touch(folder.path(), name);
        }
        let names: Vec<_> = libraries_in(folder.path()).iter().map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(names, ["libonnxruntime.so.1.30.1", "libonnxruntime.so.1.9.0"]);
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_reason_and_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let old = touch(folder.path(), "libonnxruntime.so.1.17.3");
        let broken = touch(folder.path(), "libonnxruntime.so.1.99.0");
        let found = locate(&Surroundings { libraries: vec![folder.path().into(), folder.path().into()], ..nowhere() }).unwrap();
        let passed = found.unwrap_err();
        assert_eq!(passed.iter().map(|p| &p.path).collect::<Vec<_>>(), [&broken, &old]);
        assert!(passed[0].reason.starts_with("it cannot be loaded"), "{}", passed[0].reason);
        assert_eq!(passed[1].reason, "version 1.17.3 is older than 1.24");
    }

    #[test]
    fn a_named_library_that_cannot_be_used_is_an_error_and_not_passed_over() {
        let error = locate(&Surroundings { library: Some("/nonexistent/libonnxruntime.so".into()), ..nowhere() }).unwrap_err();
        assert!(error.to_string().contains("ORT_DYLIB_PATH names /nonexistent/libonnxruntime.so"), "{error}");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "there is no such file");
    }

    #[test]
    #[cfg(unix)]
    fn the_python_package_is_found_without_importing_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("capi")).unwrap();
        let library = touch(&folder.path().join("capi"), "libonnxruntime.so.1.20.0");
        let python = folder.path().join("python3");
        std::fs::write(&python, format!("#!/bin/sh\necho {}\n", folder.path().display())).unwrap();
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
        let passed = locate(&Surroundings { path: folder.path().into(), ..Surroundings::default() }).unwrap().unwrap_err();
        assert_eq!(passed[0].path, library);
        assert_eq!(passed[0].version.as_deref(), Some("1.20.0"));
    }
}
