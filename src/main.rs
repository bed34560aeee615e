//! The `gulliver` command.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    gulliver::runtime::telemetry::silence();
    let arguments = gulliver::cli::Arguments::parse();
    gulliver::cli::log_to_stderr();
    match gulliver::cli::run(&arguments) {
        Ok(done) => ExitCode::from(done.code()),
        Err(error) => {
            gulliver::cli::show_error(&error, arguments.json());
            ExitCode::from(error.exit_code())
        }
    }
}
