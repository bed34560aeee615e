//! `gulliver device`: the profiles of chips.

use std::path::PathBuf;

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};
use serde_json::json;

use super::{
    Done,
    fit::Fit,
    print_json,
    table::{aligned, word},
};
use crate::{
    device::{Platform, Profile},
    error::{Error, Result},
    precision::Precision,
    study,
};

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
    /// Make a profile from CANN's description of a chip, data/platform_config/Ascend<chip>.ini of its installation
    Import(Import),
    /// Fit a profile's coefficients to measurements: a table of throughputs, or a profile that msprof took of your model
    Fit(Fit),
}

/// Arguments of `device import`.
#[derive(Debug, Args)]
struct Import {
    /// The chip's file
    file: PathBuf,
    /// The profile's name (the chip's, in lower case)
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// The profile, by name or path, whose fitted coefficients are taken (the built-in one nearest to the chip)
    #[arg(long, value_name = "DEVICE")]
    like: Option<String>,
    /// Write the profile to this file
    #[arg(long, value_name = "PROFILE.yaml")]
    out: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long, requires = "out")]
    force: bool,
    /// Print JSON: the profile and all that was read
    #[arg(long)]
    json: bool,
}

impl Device {
    /// Whether JSON is wanted.
    pub const fn json(&self) -> bool {
        match self.what {
            What::List { json } | What::Show { json, .. } | What::Import(Import { json, .. }) | What::Fit(Fit { json, .. }) => json,
        }
    }

    /// Prints the list or the profile.
    pub fn run(&self) -> Result<Done> {
        match &self.what {
            What::List { json } => list(*json)?,
            What::Show { name, json: true } => print_json(&Profile::load(name)?)?,
            What::Show { name, json: false } => print!("{}", Profile::load(name)?.to_yaml()?),
            What::Import(import) => import.run()?,
            What::Fit(fit) => fit.run()?,
        }
        Ok(Done::Well)
    }
}

impl Import {
    fn run(&self) -> Result<()> {
        if let Some(out) = self.out.as_ref().filter(|o| !self.force && o.is_file()) {
            return Err(Error::device(out.display().to_string(), "is there already", "name another file, or add --force to replace it"));
        }
        let platform = Platform::load(&self.file)?;
        let base = Profile::load(self.like.as_deref().unwrap_or_else(|| platform.nearest()))?;
        let chip = &platform.version.soc_version;
        let profile = platform.to_profile(&self.name.clone().unwrap_or_else(|| chip.to_lowercase()), &base);
        let yaml = profile.to_yaml()?;
        if let Some(out) = &self.out {
            study::write_atomically(out, yaml.as_bytes())?;
        }
        match &self.out {
            _ if self.json => print_json(&json!({ "profile": profile, "like": base.name, "out": self.out, "platform": platform }))?,
            Some(out) => println!("written: {}", out.display()),
            None => print!("{yaml}"),
        }
        let fitted = if base.name.eq_ignore_ascii_case(chip) {
            "They were fitted to this chip with the figures of that profile, not with these."
        } else {
            "Nothing is fitted to this chip."
        };
        eprintln!("{} {fitted}", profile.origin);
        Ok(())
    }
}

fn list(as_json: bool) -> Result<()> {
    let profiles: Vec<Profile> = Profile::names().into_iter().map(Profile::load).collect::<Result<_>>()?;
    let peak = |p: &Profile, precision| 2.0 * p.peak_tmac(precision);
    if as_json {
        let all: Vec<_> = profiles
            .iter()
            .map(|p| json!({ "name": p.name, "cores": p.cores, "fp16_tflops": peak(p, Precision::Fp16), "int8_tops": peak(p, Precision::Int8), "known_error": p.known_error }))
            .collect();
        return print_json(&all);
    }
    let mut rows = vec![["device", "cores", "FP16 TFLOPS", "INT8 TOPS", "DRAM GB/s", "INT4", "error"].map(String::from).to_vec()];
    for p in &profiles {
        rows.push(vec![
            p.name.clone(),
            p.cores.to_string(),
            format!("{:.1}", peak(p, Precision::Fp16)),
            format!("{:.1}", peak(p, Precision::Int8)),
            format!("{:.0}", p.ddr_gb_per_s),
            word(&p.int4),
            p.evidence.as_ref().map_or("unknown".into(), |e| format!("{:.0}%", 100.0 * e.median_error)),
        ]);
    }
    print!("{}", aligned(&rows));
    println!("error: median of predictions for networks that were not fitted; unknown where nothing was measured");
    Ok(())
}
