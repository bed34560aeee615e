//! `gulliver doctor`: what of the machine works.

use clap::Args;

use super::{Done, print_json};
use crate::{error::Result, runtime::examine};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Doctor {
    /// Prints what was looked at.
    pub fn run(&self) -> Result<Done> {
        let checks = examine();
        if self.json {
            print_json(&checks)?;
        } else {
            println!("gulliver {}", env!("CARGO_PKG_VERSION"));
            checks.iter().for_each(|c| println!("{} {}: {}", if c.ok { "ok " } else { "BAD" }, c.name, c.detail));
        }
        Ok(if checks.iter().all(|c| c.ok) { Done::Well } else { Done::Unwell })
    }
}
