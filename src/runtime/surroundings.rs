//! The environment variables that [`runtime`](super) obeys, read once into a value, so that tests can make up their own.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What the process's environment says about where to look and what is allowed.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// `ORT_DYLIB_PATH`: the library the user insists on.
    pub library: Option<PathBuf>,
    /// Our cache folder: `GULLIVER_CACHE`, else `gulliver` in the user's cache folder. `None` without a home folder.
    pub cache: Option<PathBuf>,
    /// `PATH`: where programs are.
    pub path: OsString,
    /// Folders of shared libraries, in the order of the search.
    pub libraries: Vec<PathBuf>,
    /// `GULLIVER_OFFLINE=1`: nothing may be fetched.
    pub offline: bool,
}

impl Surroundings {
    /// Reads the environment variables of this process.
    pub fn read() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let absolute = |p: PathBuf| std::path::absolute(&p).unwrap_or(p);
        let home_cache = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
        let user_cache = || set("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| set("HOME").map(|h| Path::new(&h).join(home_cache)));
        let search = if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };
        let mut libraries: Vec<PathBuf> =
            set(search).map(|v| std::env::split_paths(&v).filter(|p| p.is_absolute()).collect()).unwrap_or_default();
        let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        libraries.extend(["/usr/local/lib", "/usr/lib", "/usr/lib64", &multiarch, "/opt/homebrew/lib"].map(PathBuf::from));
        Self {
            library: set("ORT_DYLIB_PATH").map(PathBuf::from).map(absolute),
            cache: set("GULLIVER_CACHE").map(PathBuf::from).or_else(|| user_cache().map(|c| c.join("gulliver"))).map(absolute),
            path: set("PATH").unwrap_or_default(),
            libraries,
            offline: set("GULLIVER_OFFLINE").is_some_and(|v| v != "0"),
        }
    }

    /// The first program of this name on the `PATH`.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.path).map(|folder| folder.join(name)).find(|file| executable(file))
    }

    /// A command that reads nothing and finds its own programs on the same `PATH`.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("PATH", &self.path).stdin(Stdio::null());
        command
    }

    /// Where a fetched library of this version lies: `onnxruntime-VERSION/libonnxruntime.so` in the cache folder.
    pub fn cached_library(&self, version: &str) -> Option<PathBuf> {
        let file = format!("libonnxruntime{}", std::env::consts::DLL_SUFFIX);
        self.cache.as_ref().map(|c| c.join(format!("onnxruntime-{version}")).join(file))
    }
}

#[cfg(unix)]
fn executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn executable(file: &Path) -> bool {
    file.is_file()
}
