//! `gulliver device fit`: coefficients of a profile from measurements.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use clap::Args;
use serde_json::json;

use super::{
    latency::{Measured, network::Network},
    print_json,
    table::aligned,
};
use crate::{
    device::{
        Anchor, Conditions, Evidence, Profile,
        fit::{
            Case, Hold, anchor as anchor_to,
            judgement::{Judgement, Question, Task, judge},
            profiled::{self, Profiled},
            table::{Topologies, read},
            validate::Score,
        },
        msprof,
    },
    error::{Error, Result},
    graph::shape::Pins,
    precision::Precision,
    report::{fit::fit_markdown, format, plot},
    study,
};

/// Arguments of `device fit`.
#[derive(Debug, Args)]
pub struct Fit {
    /// The profile to start from, by name or path
    #[arg(long)]
    device: String,
    /// Measured throughputs: CSV with the columns model, batch, fps, and if you have them family, chip, precision, conditions, flag
    #[arg(long, value_name = "TABLE.csv", requires = "topologies", required_unless_present_any = ["msprof", "measured"])]
    table: Option<PathBuf>,
    /// The folder with the table's networks, NAME.onnx
    #[arg(long, value_name = "FOLDER")]
    topologies: Option<PathBuf>,
    /// What msprof measured of your model: op_summary_*.csv, or torch_npu's kernel_details.csv
    #[arg(long, value_name = "OP_SUMMARY.csv", conflicts_with = "table", requires = "model")]
    msprof: Option<PathBuf>,
    /// One measured time of your model, e.g. 8=2.1ms for a batch of 8: the profile is bent to agree with it, and is good for that model alone
    #[arg(long, value_name = "BATCH=MS", conflicts_with_all = ["table", "msprof", "validate", "keep", "report"], requires = "model")]
    measured: Option<Measured>,
    /// The model that was profiled or measured
    #[arg(long, value_name = "MODEL.onnx")]
    model: Option<PathBuf>,
    /// The batch that was profiled
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Leave every family of networks out in turn, and judge the fit by how it predicts them
    #[arg(long)]
    validate: bool,
    /// Change no coefficient: judge the profile's predictions as they are
    #[arg(long, conflicts_with = "validate")]
    keep: bool,
    /// By how much two measurements of one point differ in the median, in percent, for the report
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    noise: f64,
    /// Write the fitted profile to this file
    #[arg(long, value_name = "PROFILE.yaml")]
    out: Option<PathBuf>,
    /// Write report.md, fit.json and pictures into this folder
    #[arg(long, value_name = "FOLDER")]
    report: Option<PathBuf>,
    /// Replace the profile if it is there
    #[arg(long, requires = "out")]
    force: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What the profiler's file left over, in words.
#[derive(Debug, Default, serde::Serialize)]
struct Leftover {
    /// Kernels of the model that no row was found for.
    kernels_without_row: Vec<String>,
    /// Rows that belong to no kernel, with their lines.
    rows_without_kernel: Vec<String>,
    /// Inferences in the file.
    inferences: usize,
}

impl Fit {
    /// Fits, judges, writes and prints.
    pub fn run(&self) -> Result<()> {
        if let Some(out) = self.out.as_ref().filter(|o| !self.force && o.is_file()) {
            return Err(Error::device(out.display().to_string(), "is there already", "name another file, or add --force to replace it"));
        }
        let profile = Profile::load(&self.device)?;
        if let Some(point) = self.measured {
            return self.of_point(&profile, point);
        }
        let (found, leftover) = match (&self.table, &self.msprof) {
            (Some(table), _) => (self.of_table(&profile, table)?, None),
            (None, Some(file)) => self.of_profiler(&profile, file).map(|(found, left)| (found, Some(left)))?,
            (None, None) => return Err(Error::Internal("device fit without measurements".into())),
        };
        let error = found.score_held_out.as_ref().unwrap_or(&found.score_after);
        let fitted = Profile {
            coefficients: found.after,
            known_error: known_error(&found, error),
            // Kernels of one network say nothing of how far other networks are off: that stays as it was known.
            evidence: if leftover.is_some() { profile.evidence.clone() } else { Some(found.evidence.clone()) },
            ..profile
        };
        if let Some(out) = &self.out {
            study::write_atomically(out, fitted.to_yaml()?.as_bytes())?;
        }
        if let Some(folder) = &self.report {
            write_report(&found, leftover.as_ref(), folder)?;
        }
        if self.json {
            return print_json(&json!({ "fit": found, "leftover": leftover, "out": self.out, "report": self.report }));
        }
        self.print(&found, leftover.as_ref());
        Ok(())
    }

    fn of_point(&self, profile: &Profile, point: Measured) -> Result<()> {
        let model = Network::load(self.model.as_deref().unwrap_or_else(|| Path::new("")), Pins::new())?;
        let case = model.measured(point.batch, point.ms, Conditions::default())?;
        let predicted_ms = point.ms * case.error(profile).exp();
        let anchor = Anchor::new(point.batch, point.ms, predicted_ms, profile.evidence.as_ref());
        let factor = profile.evidence.as_ref().map(Evidence::factor_beside_a_measurement);
        let known = format!(
            "Bent to one measured time: {} at batch {} took {} ms, {predicted_ms:.3} were predicted. Good for that model alone.",
            case.network, point.batch, point.ms
        );
        let bent = Profile {
            known_error: format!("{known} Before: {}", profile.known_error),
            evidence: profile.evidence.clone().map(|e| Evidence { factor_90: factor.unwrap_or(e.factor_90), ..e }),
            ..anchor_to(&case, profile)
        };
        if let Some(out) = &self.out {
            study::write_atomically(out, bent.to_yaml()?.as_bytes())?;
        }
        if self.json {
            return print_json(&json!({ "measured": anchor, "profile": bent, "out": self.out }));
        }
        println!("{known}");
        if let Some(warning) = &anchor.warning {
            eprintln!("warning: {warning}");
        }
        match &self.out {
            Some(out) => println!("profile written: {}", out.display()),
            None => print!("{}", bent.to_yaml()?),
        }
        Ok(())
    }

    fn of_table(&self, profile: &Profile, table: &Path) -> Result<Judgement> {
        let mut topologies = Topologies::new(self.topologies.as_deref().unwrap_or_else(|| Path::new(".")));
        let (mut judged, mut also, mut others) = (Vec::new(), Vec::new(), BTreeMap::<String, Vec<Case>>::new());
        for row in read(table)?.iter().filter(|r| r.flag.is_empty()) {
            let own = row.chip.is_empty() || row.chip.eq_ignore_ascii_case(&profile.name);
            let half = row.precision == Precision::Fp16 && row.conditions == Conditions::default();
            match (own, half) {
                (true, true) => judged.push(topologies.case(row)?),
                (true, false) => also.push(topologies.case(row)?),
                (false, true) => others.entry(row.chip.clone()).or_default().push(topologies.case(row)?),
                (false, false) => {}
            }
        }
        if judged.is_empty() {
            let remedy = format!("its column chip must say {}, or there must be no such column", profile.name);
            return Err(Error::device(table.display().to_string(), "no unflagged FP16 row for this chip", remedy));
        }
        let others = others.into_iter().filter_map(|(chip, cases)| Some((Profile::load(&chip).ok()?, cases))).collect::<Vec<_>>();
        let (networks, source) = (count(&judged), table.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default());
        Ok(judge(&Question {
            profile,
            judged: &judged,
            also: &also,
            others: &others,
            hold: Hold::NETWORKS,
            task: match (self.validate, self.keep) {
                (true, _) => Task::Validate,
                (_, true) => Task::Keep,
                _ => Task::Fit,
            },
            data: format!(
                "Throughput of {networks} networks, {} unflagged FP16 rows and {} in other precisions, of {source}.",
                judged.len(),
                also.len()
            ),
            date: today(),
            noise_floor: self.noise / 100.0,
        }))
    }

    fn of_profiler(&self, profile: &Profile, file: &Path) -> Result<(Judgement, Leftover)> {
        let path = self.model.as_deref().unwrap_or_else(|| Path::new(""));
        let kernels = Network::load(path, Pins::new())?.kernels(self.batch, Conditions::default())?;
        let table = msprof::read(file)?;
        let name = path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let Profiled { cases, inference, matching } = profiled::cases(&kernels, &table, &name, self.batch);
        if cases.is_empty() {
            return Err(Error::device(
                file.display().to_string(),
                format!("none of its {} rows belongs to a kernel of {}", table.rows.len(), path.display()),
                "give the ONNX file that was compiled, and the batch it was compiled for (--batch)",
            ));
        }
        let rows = matching.unmatched_rows.iter().map(|&r| &inference.rows[r]);
        let leftover = Leftover {
            kernels_without_row: matching.unmatched_kernels.iter().map(|&k| kernels[k].name.clone()).collect(),
            rows_without_kernel: rows
                .map(|r| format!("line {}: {} ({}), {} us", r.line, r.name, r.kind, format::fixed(r.duration_us, 1)))
                .collect(),
            inferences: inference.counted,
        };
        let mut found = judge(&Question {
            profile,
            judged: &cases,
            also: &[],
            others: &[],
            hold: Hold::KERNELS,
            task: if self.keep { Task::Keep } else { Task::Validate },
            data: format!("msprof of {name} at batch {}: {} of {} kernels found.", self.batch, cases.len(), kernels.len()),
            date: today(),
            noise_floor: self.noise / 100.0,
        });
        (found.evidence.networks, found.evidence.families) = (1, 1);
        Ok((found, leftover))
    }

    fn print(&self, found: &Judgement, leftover: Option<&Leftover>) {
        println!("{}: {}", found.device, found.data);
        let mut rows =
            vec![["", "rows", "median", "p90", "within 25 %", "Spearman 1/8/32", "pairs", "curve", "anchored"].map(String::from).to_vec()];
        rows.push(line("before", &found.score_before));
        rows.push(line("fitted", &found.score_after));
        rows.extend(found.score_held_out.iter().map(|s| line("held out", s)));
        rows.extend(found.others.iter().map(|o| line(&format!("{}, carried over", o.device), &o.score)));
        println!("{}", aligned(&rows));
        for r in &found.ratios {
            println!(
                "{} {} over fp16, batch {}: {:.2} predicted, {:.2} measured",
                r.network, r.precision, r.batch, r.predicted, r.measured
            );
        }
        for h in &found.implausible {
            println!(
                "implausible, a fit leaves it out: {} at batch {}, {:.3} ms measured, {:.3} ms predicted",
                h.network, h.batch, h.measured_ms, h.predicted_ms
            );
        }
        if let Some(left) = leftover {
            println!("{} inferences; rows without a kernel: {}", left.inferences, left.rows_without_kernel.len());
            left.rows_without_kernel.iter().for_each(|r| println!("  {r}"));
            println!("kernels without a row: {}", left.kernels_without_row.len());
            left.kernels_without_row.iter().for_each(|k| println!("  {k}"));
        }
        for (what, path) in [("profile", &self.out), ("report", &self.report)] {
            if let Some(path) = path {
                println!("{what} written: {}", path.display());
            }
        }
    }
}

fn line(name: &str, score: &Score) -> Vec<String> {
    let share = |s: Option<f64>| s.map_or("-".into(), |s| format!("{:.1}%", 100.0 * s));
    vec![
        name.into(),
        score.rows.to_string(),
        share(Some(score.median)),
        share(Some(score.p90)),
        share(Some(score.within_25)),
        score.spearman.map(|s| s.map_or("-".into(), |s| format!("{s:.3}"))).join(" "),
        share(score.pairs),
        share(score.curve),
        share(score.anchored),
    ]
}

fn known_error(found: &Judgement, error: &Score) -> String {
    let unseen = found.score_held_out.is_some() || found.before == found.after;
    let how = if unseen { "not seen by the fit" } else { "seen by the fit" };
    let ratio = error.anchored.map_or(String::new(), |r| format!("; between predictions for one network {:.0} % in the median", 100.0 * r));
    let (median, p90) = (100.0 * error.median, 100.0 * error.p90);
    format!("{} Absolute relative error on what was {how}: median {median:.0} %, p90 {p90:.0} %{ratio}.", found.data)
}

fn write_report(found: &Judgement, leftover: Option<&Leftover>, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    let (held, how) = if found.held_out.is_empty() { (&found.fitted, "seen by the fit") } else { (&found.held_out, "held out") };
    let mut page = fit_markdown(found);
    if let Some(left) = leftover {
        let list = |title: &str, items: &[String]| {
            let lines: String = items.iter().map(|i| format!("- {i}\n")).collect();
            format!("\n## {title}: {}\n\n{lines}", items.len())
        };
        page.push_str(&list("Rows without a kernel", &left.rows_without_kernel));
        page.push_str(&list("Kernels without a row", &left.kernels_without_row));
    }
    let title = format!("{}, {} measurements, {how}", found.device, held.len());
    let files = [
        ("report.md", page),
        ("predicted.svg", plot::predicted_svg(held, &title)?),
        ("families.svg", plot::families_svg(held, &title)?),
        ("fit.json", format!("{}\n", serde_json::to_string_pretty(found).map_err(|e| Error::Internal(e.to_string()))?)),
    ];
    files.iter().try_for_each(|(name, text)| study::write_atomically(&folder.join(name), text.as_bytes()))
}

fn count(cases: &[Case]) -> usize {
    let mut names: Vec<&str> = cases.iter().map(|c| c.network.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names.len()
}

/// The day in UTC, YYYY-MM-DD.
fn today() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs() / 86_400);
    civil(i64::try_from(days).unwrap_or(0))
}

/// Days since 1970 as a date of the Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> String {
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (m, d) = (if month < 10 { month + 3 } else { month - 9 }, of_year - (153 * month + 2) / 5 + 1);
    format!("{:04}-{m:02}-{d:02}", year + era * 400 + i64::from(m <= 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        assert_eq!([0, 59, 11_016, 20_780].map(civil), ["1970-01-01", "1970-03-01", "2000-02-29", "2026-11-23"]);
    }
}
