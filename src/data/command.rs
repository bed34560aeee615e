//! A metric of the user's own: a command that prints one number.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// Characters of the command's stderr that an error shows, from its end.
const TAIL: usize = 400;

/// Runs `argv` with `path` as one more argument, and reads the number on the last non-empty line of its standard output.
///
/// # Errors
/// The command cannot be started, fails, or prints no finite number; its exit code and the end of its stderr are told.
pub fn run_command(argv: &[String], path: &Path) -> Result<f64> {
    let [program, arguments @ ..] = argv else {
        return Err(Error::metric("the command is empty", "give the program and its arguments: command: [python, eval.py]"));
    };
    let output = Command::new(program).args(arguments).arg(path).stdin(Stdio::null()).output();
    let output = output
        .map_err(|e| Error::metric(format!("cannot start {program}: {e}"), "check the command's first word, or give its full path"))?;
    let shown = argv.join(" ");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stderr = stderr.trim_end();
    let cut = stderr.char_indices().rev().nth(TAIL - 1).map_or(0, |(at, _)| at);
    let said = if stderr.is_empty() { "it wrote nothing to stderr".to_owned() } else { format!("its stderr ends: {}", &stderr[cut..]) };
    if !output.status.success() {
        let how = output.status.code().map_or_else(|| output.status.to_string(), |code| format!("exit code {code}"));
        return Err(Error::metric(format!("{shown} failed with {how}; {said}"), "run the command by hand on an ONNX file and mend it"));
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    let last = stdout.lines().map(str::trim).rfind(|line| !line.is_empty());
    let remedy = "print the metric's value, a plain number, on the last line of standard output";
    let Some(last) = last else { return Err(Error::metric(format!("{shown} printed nothing; {said}"), remedy)) };
    match last.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(Error::metric(format!("{shown} printed no finite number but: {last}; {said}"), remedy)),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<f64, String> {
        let argv: Vec<String> = ["sh", "-c", script, "metric"].map(String::from).into();
        run_command(&argv, Path::new("model.onnx")).map_err(|e| e.to_string())
    }

    #[test]
    fn the_last_line_is_the_value() {
        assert_eq!(shell("echo loading $1; echo 0.75; echo"), Ok(0.75));
        assert_eq!(shell("test \"$1\" = model.onnx && echo 1e-3"), Ok(0.001));
    }

    #[test]
    fn a_failure_tells_code_and_stderr() {
        let message = shell("echo no such model >&2; exit 3").unwrap_err();
        assert!(message.ends_with("failed with exit code 3; its stderr ends: no such model"), "{message}");
        assert!(shell("kill -9 $$").unwrap_err().contains("signal: 9"));
    }

    #[test]
    fn only_the_end_of_a_long_stderr_is_shown() {
        let message = shell("for i in $(seq 999); do echo é$i >&2; done; exit 1").unwrap_err();
        assert!(message.ends_with("é999") && !message.contains("é500"));
    }

    #[test]
    fn no_number_is_an_error_that_shows_what_came() {
        assert!(shell("echo accuracy: 0.9").unwrap_err().contains("printed no finite number but: accuracy: 0.9"));
        assert!(shell("echo nan").unwrap_err().contains("printed no finite number but: nan"));
        assert!(shell("true").unwrap_err().contains("printed nothing; it wrote nothing to stderr"));
    }

    #[test]
    fn a_command_that_is_not_there_is_named() {
        let error = run_command(&["gulliver-no-such-program".into()], Path::new("m")).unwrap_err();
        assert!(error.to_string().starts_with("metric: cannot start gulliver-no-such-program"));
        assert!(run_command(&[], Path::new("m")).is_err());
    }
}
