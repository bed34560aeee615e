//! What of the runtime works on this machine, as data for `gulliver doctor`. Nothing is fetched.

use super::{
    fetch::{self, Pip},
    locate::{self, PassedOver},
    scratch::Scratch,
    surroundings::Surroundings,
    telemetry,
};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What was looked at, in a word or two.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was seen, and where it is not ok what to do.
    pub detail: String,
}

/// Looks at the library, the cache folder, Python and pip, the switches and the cores.
pub fn examine() -> Vec<Check> {
    checks(&Surroundings::read())
}

fn check(name: &str, ok: bool, detail: impl Into<String>) -> Check {
    Check { name: name.to_string(), ok, detail: detail.into() }
}

fn checks(surroundings: &Surroundings) -> Vec<Check> {
    let pip = Pip::find(surroundings);
    let can_fetch = pip.is_some() && !surroundings.offline && surroundings.cache.is_some();
    let mut all = library(surroundings, can_fetch);
    all.push(check("telemetry", telemetry::silenced(), "off: ORT_DISABLE_TELEMETRY=1 is set before the library starts"));
    all.push(cache(surroundings));
    let python = surroundings.program("python3");
    all.push(check("python3", true, python.map_or_else(|| "none on the PATH; not needed".into(), |p| p.display().to_string())));
    let pip = pip.map_or("none; only needed to fetch the library", |p| p.name);
    all.push(check("pip", true, pip));
    let offline = if surroundings.offline { "on: GULLIVER_OFFLINE forbids fetching" } else { "off: the library may be fetched" };
    all.push(check("offline", true, offline));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    all.push(check("cores", true, format!("{cores} for this process")));
    all
}

fn library(surroundings: &Surroundings, can_fetch: bool) -> Vec<Check> {
    let name = "onnx runtime";
    match locate::locate(surroundings) {
        Ok(Ok(found)) => {
            let first = check(name, true, format!("{} at {}, {}", found.version, found.path.display(), found.origin));
            [first].into_iter().chain(found.passed_over.iter().map(passed_over)).collect()
        }
        Ok(Err(passed)) => {
            let detail = match can_fetch {
                true => format!("none here yet: {} will be fetched at the first run", fetch::VERSION),
                false => format!("none here, and it cannot be fetched: pip install onnxruntime=={}, or set ORT_DYLIB_PATH", fetch::VERSION),
            };
            [check(name, can_fetch, detail)].into_iter().chain(passed.iter().map(passed_over)).collect()
        }
        Err(error) => {
            let reason = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
            vec![check(name, false, format!("{error}{reason}; {}", error.remedy().unwrap_or_default()))]
        }
    }
}

fn passed_over(passed: &PassedOver) -> Check {
    check("passed over", true, format!("{}: {}", passed.path.display(), passed.reason))
}

fn cache(surroundings: &Surroundings) -> Check {
    let name = "cache folder";
    match &surroundings.cache {
        None => check(name, false, "none: set GULLIVER_CACHE, or HOME"),
        Some(folder) => match Scratch::new(folder) {
            Ok(_) => check(name, true, format!("{} can be written", folder.display())),
            Err(error) => check(name, false, format!("{error}: set GULLIVER_CACHE to a folder that can be written")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(checks: &[Check], name: &str) -> (bool, String) {
        checks.iter().find(|c| c.name == name).map(|c| (c.ok, c.detail.clone())).unwrap()
    }

    #[test]
    fn a_bare_machine_without_network_is_told_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let bare =
            Surroundings { cache: Some(folder.path().join("c")), path: "/nonexistent".into(), offline: true, ..Surroundings::default() };
        let checks = checks(&bare);
        let (ok, text) = detail(&checks, "onnx runtime");
        assert!(!ok && text.contains("pip install onnxruntime==1.32.0"), "{text}");
        assert!(detail(&checks, "cache folder").0);
        assert!(detail(&checks, "telemetry").0);
        assert!(detail(&checks, "offline").1.starts_with("on"));
    }

    #[test]
    fn a_cache_folder_that_cannot_be_made_is_a_finding() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let odd = Surroundings { cache: Some(file.join("cache")), path: "/nonexistent".into(), ..Surroundings::default() };
        let (ok, text) = detail(&checks(&odd), "cache folder");
        assert!(!ok && text.contains("GULLIVER_CACHE"), "{text}");
    }
}
