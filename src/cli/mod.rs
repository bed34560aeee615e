//! The command line: one file a command. Only this module prints.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the binary's side: this is where people are spoken to")]

/// `println!` that ends the program, and does not panic, when what reads our output has gone or its disk is full.
macro_rules! println {
    ($($part:tt)*) => { $crate::cli::to_stdout(format_args!("{}\n", format_args!($($part)*))) };
}

/// `print!`, with the same care.
macro_rules! print {
    ($($part:tt)*) => { $crate::cli::to_stdout(format_args!($($part)*)) };
}

/// `eprintln!` that goes on when nobody can listen: a study does not die of a closed terminal.
macro_rules! eprintln {
    ($($part:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($part)*)));
    }};
}

mod bench;
mod compress;
mod data;
mod device;
mod doctor;
mod evaluate;
mod finetune;
mod fit;
mod inspect;
mod inspect_text;
mod latency;
mod progress;
mod report;
mod sensitivity;
mod status;
mod table;
mod tune;

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::{Parser, Subcommand};

use crate::{
    compress::Effort,
    error::{Error, Result},
    runtime::Runtime,
};

/// Tune the compression of a trained ONNX network for Ascend NPUs: bits, channels and ranks in one search.
#[derive(Debug, Parser)]
#[command(name = "gulliver", version, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a study, or go on with it where it stopped.
    Tune(tune::Tune),
    /// Say how a study stands.
    Status(status::Status),
    /// Make a study's front.json and report again from its journal.
    Report(report::Report),
    /// List a model's layers and groups, and what can be done to each.
    Inspect(inspect::Inspect),
    /// Predict a model's latency, kernel by kernel.
    Latency(latency::Latency),
    /// Apply a plan to a model, without a search.
    Compress(compress::Compress),
    /// Score a model on data.
    Evaluate(evaluate::Evaluate),
    /// Measure and predict every option of every layer alone.
    Sensitivity(sensitivity::SensitivityArgs),
    /// Run several search strategies side by side on a study's network.
    Bench(bench::BenchArgs),
    /// Train a study's trial or a plan to answer like the float model.
    Finetune(finetune::Finetune),
    /// List, show, import or fit device profiles.
    Device(device::Device),
    /// Check the machine: ONNX Runtime, threads, cache, telemetry.
    Doctor(doctor::Doctor),
}

/// How a command ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// All is done.
    Well,
    /// No point meets the limits; the report has the nearest miss.
    BudgetMissed,
    /// The user stopped it; it can be resumed.
    Interrupted,
    /// Something of the machine is missing (doctor).
    Unwell,
}

impl Done {
    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Unwell => 2,
            Self::BudgetMissed => 3,
            Self::Interrupted => 130,
        }
    }
}

impl Arguments {
    /// Whether one JSON document is wanted on stdout.
    pub const fn json(&self) -> bool {
        match &self.command {
            Command::Tune(c) => c.json,
            Command::Status(c) => c.json,
            Command::Report(c) => c.json,
            Command::Inspect(c) => c.json,
            Command::Latency(c) => c.json,
            Command::Compress(c) => c.json,
            Command::Evaluate(c) => c.json,
            Command::Sensitivity(c) => c.json,
            Command::Bench(c) => c.json,
            Command::Finetune(c) => c.json,
            Command::Device(c) => c.json(),
            Command::Doctor(c) => c.json,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Whatever the command ran into.
pub fn run(arguments: &Arguments) -> Result<Done> {
    match &arguments.command {
        Command::Tune(c) => c.run(),
        Command::Status(c) => c.run(),
        Command::Report(c) => c.run(),
        Command::Inspect(c) => c.run(),
        Command::Latency(c) => c.run(),
        Command::Compress(c) => c.run(),
        Command::Evaluate(c) => c.run(),
        Command::Sensitivity(c) => c.run(),
        Command::Bench(c) => c.run(),
        Command::Finetune(c) => c.run(),
        Command::Device(c) => c.run(),
        Command::Doctor(c) => c.run(),
    }
}

/// Sends the library's log to stderr; `GULLIVER_LOG=debug` shows more.
pub fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("GULLIVER_LOG").unwrap_or_else(|_| "warn".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().try_init();
}

/// Shows an error with its causes and what to do about it.
pub fn show_error(error: &Error, json: bool) {
    eprintln!("error: {error}");
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(error);
    while let Some(c) = cause {
        eprintln!("  because: {c}");
        causes.push(c.to_string());
        cause = c.source();
    }
    if let Some(remedy) = error.remedy() {
        eprintln!("  help: {remedy}");
    }
    if json {
        println!(
            "{}",
            serde_json::json!({ "error": error.to_string(), "because": causes, "help": error.remedy(), "exit_code": error.exit_code() })
        );
    }
}

fn to_stdout(text: std::fmt::Arguments<'_>) {
    let mut stdout = std::io::stdout();
    let Err(e) = stdout.write_fmt(text).and_then(|()| stdout.flush()) else { return };
    if e.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    let error = Error::io("write", "standard output")(e);
    show_error(&error, false);
    std::process::exit(i32::from(error.exit_code()));
}

fn start_runtime() -> Result<Runtime> {
    Runtime::start(&mut |notice| eprintln!("{notice}"))
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Internal(format!("the result cannot be written as JSON: {e}")))?;
    println!("{text}");
    Ok(())
}

/// An input's whole shape, as `name:1,3,224,224`.
#[derive(Debug, Clone)]
struct Pin(String, Vec<usize>);

impl std::str::FromStr for Pin {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let fail = || format!("\"{text}\" is not of the form input:1,3,224,224");
        let (name, dims) = text.rsplit_once(':').ok_or_else(fail)?;
        let dims = dims.split(',').map(|d| d.trim().parse().map_err(|_| fail())).collect::<std::result::Result<_, _>>()?;
        Ok(Self(name.to_string(), dims))
    }
}

/// An amount of memory, as `512MB` or `4GB`.
#[derive(Debug, Clone, Copy)]
struct Memory(u64);

impl Default for Memory {
    fn default() -> Self {
        Self(Effort::MEMORY)
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}MB", self.0 >> 20)
    }
}

impl std::str::FromStr for Memory {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let fail = || format!("\"{text}\" is not an amount of memory such as 512MB or 4GB");
        let units = [("GB", 30), ("MB", 20), ("KB", 10)];
        let upper = text.trim().to_uppercase().replace("IB", "B");
        let (number, shift) = units.iter().find_map(|(unit, shift)| Some((upper.strip_suffix(unit)?, *shift))).ok_or_else(fail)?;
        let amount: f64 = number.trim().parse().map_err(|_| fail())?;
        let bytes = (amount * f64::from(1_u32 << shift)) as u64;
        if bytes < 16 << 20 { Err(format!("{text} is too little: give 16MB at least")) } else { Ok(Self(bytes)) }
    }
}

fn pins(pins: &[Pin]) -> BTreeMap<String, Vec<usize>> {
    pins.iter().map(|p| (p.0.clone(), p.1.clone())).collect()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The first Ctrl-C sets the flag and says what happens now, the second ends the program.
fn catch_interrupt(now: &'static str) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    let handler = move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(Done::Interrupted.code()));
        }
        eprintln!("\n{now}");
    };
    ctrlc::set_handler(handler).map_err(|e| Error::Internal(format!("cannot catch Ctrl-C: {e}")))?;
    Ok(flag)
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_with_its_unit_and_refused_without() {
        let read = |text: &str| text.parse::<Memory>().map(|m| m.0);
        assert_eq!(read("512MB"), Ok(512 << 20));
        assert_eq!(read("1.5 GiB"), Ok(3 << 29));
        assert_eq!(read(&Memory::default().to_string()), Ok(Effort::MEMORY));
        for wrong in ["512", "MB", "-1GB", "1KB", "much"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
