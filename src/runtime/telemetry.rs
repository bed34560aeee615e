//! ONNX Runtime's telemetry, switched off.
//!
//! The libraries on PyPI since 1.29 collect telemetry on Linux and macOS too: creating the environment writes an identifier and
//! a queue of events under the user's cache folder and sends them. The switch in the API comes too late, it needs an environment.
//! Only the variable `ORT_DISABLE_TELEMETRY=1`, set before the library's environment is created, keeps it from starting at all.

use std::sync::Once;

const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

/// Sets `ORT_DISABLE_TELEMETRY=1` for this process and its children, whatever it was before.
///
/// [`Runtime::start`](super::Runtime::start) calls this; a program that starts threads should call it first of all.
pub fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if !silenced() {
            // SAFETY: Rust's own readers are locked out by std. A reader in C on another thread sees the old array of variables or
            // the new one: this runs once, the C libraries free neither on the first change, and no C code of ours reads variables.
            #[allow(unsafe_code)]
            unsafe {
                std::env::set_var(VARIABLE, "1");
            }
        }
    });
}

/// Whether the variable is set as it must be.
pub fn silenced() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|v| v == "1")
}
