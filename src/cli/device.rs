//! `gulliver device`: the profiles of chips.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Done, print_json,
    table::{aligned, word},
};
use crate::{device::Profile, error::Result, precision::Precision};

/// Arguments of `device`.
#[derive(Debug, Args)]
pub struct Device {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the profiles that come with gulliver
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a profile; copy it to a file, change it, and pass its path as the device
    Show {
        /// Name or path
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Device {
    /// Whether JSON is wanted.
    pub const fn json(&self) -> bool {
        match self.what {
            What::List { json } | What::Show { json, .. } => json,
        }
    }

    /// Prints the list or the profile.
    pub fn run(&self) -> Result<Done> {
        match &self.what {
            What::List { json } => list(*json)?,
            What::Show { name, json: true } => print_json(&Profile::load(name)?)?,
            What::Show { name, json: false } => print!("{}", Profile::load(name)?.to_yaml()?),
        }
        Ok(Done::Well)
    }
}

fn list(as_json: bool) -> Result<()> {
    let profiles: Vec<Profile> = Profile::names().into_iter().map(Profile::load).collect::<Result<_>>()?;
    let peak = |p: &Profile, precision| 2e-6 * f64::from(p.cores) * p.cube_freq_mhz * p.mac_per_cycle(precision);
    if as_json {
        let all: Vec<_> = profiles
            .iter()
            .map(|p| json!({ "name": p.name, "cores": p.cores, "fp16_tflops": peak(p, Precision::Fp16), "int8_tops": peak(p, Precision::Int8), "known_error": p.known_error }))
            .collect();
        return print_json(&all);
    }
    let mut rows = vec![["device", "cores", "FP16 TFLOPS", "INT8 TOPS", "DRAM GB/s", "INT4"].map(String::from).to_vec()];
    for p in &profiles {
        rows.push(vec![
            p.name.clone(),
            p.cores.to_string(),
            format!("{:.1}", peak(p, Precision::Fp16)),
            format!("{:.1}", peak(p, Precision::Int8)),
            format!("{:.0}", p.ddr_gb_per_s),
            word(&p.int4),
        ]);
    }
    print!("{}", aligned(&rows));
    Ok(())
}
