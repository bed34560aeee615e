//! The profiler's rows of a model as cases for a fit: a case for each kernel that was found again.

use super::{Case, What};
use crate::{
    device::{
        kernel::Kernel,
        msprof::{Matching, OneInference, Table, match_rows, one_inference},
    },
    precision::Precision,
};

/// Kernels that are left out in turn when the fit to the others is judged.
const FOLDS: usize = 5;

/// What became of the profiler's rows.
pub struct Profiled {
    /// A measurement for each kernel, or group of kernels, that was found; its family is its fold.
    pub cases: Vec<Case>,
    /// The rows of one inference.
    pub inference: OneInference,
    /// Which row belongs to which kernel.
    pub matching: Matching,
}

/// Finds a model's kernels among the profiler's rows. `network` and `batch` are for the report.
pub fn cases(kernels: &[Kernel], table: &Table, network: &str, batch: usize) -> Profiled {
    let inference = one_inference(&table.rows);
    let matching = match_rows(kernels, &inference.rows);
    let case = |(i, pair): (usize, &crate::device::msprof::Pair)| Case {
        network: pair.kernels.iter().map(|&k| kernels[k].name.as_str()).collect::<Vec<_>>().join(" + "),
        family: format!("{network}, fold {}", i % FOLDS),
        batch,
        precision: pair.kernels.first().map_or(Precision::Fp16, |&k| kernels[k].precision),
        what: What::Kernels(pair.kernels.iter().map(|&k| kernels[k].clone()).collect()),
        ms: pair.us / 1e3,
    };
    let cases = matching.pairs.iter().enumerate().filter(|(_, p)| p.us > 0.0).map(case).collect();
    Profiled { cases, inference, matching }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::device::{
        Coefficients, Profile,
        coefficients::NAMES,
        fit::{Hold, fit},
        fixture,
        latency::kernel_us,
        msprof,
    };

    /// What msprof would write in a column variant; every eleventh row is missing, every seventh has another name.
    fn csv(kernels: &[Kernel], chip: &Profile, heading: &str) -> String {
        let columns: Vec<&str> = heading.split(',').collect();
        let row = |(i, k): (usize, &Kernel)| {
            let name = if i % 7 == 3 { format!("renamed_by_the_compiler_{i}") } else { k.nodes.first().unwrap_or(&k.name).clone() };
            let us = format!("{:.6}", kernel_us(k, chip).0);
            let cell = |column: &&str| match *column {
                "Op Name" | "Name" => name.clone(),
                "OP Type" | "Type" => if k.cube.is_some() { "Conv2D" } else { "Pooling" }.to_string(),
                "Task Type" | "Accelerator Core" => "AI_CORE".into(),
                "Task Duration(us)" | "Duration(us)" => us.clone(),
                c if c.contains("Start Time") => format!("{}", 1000 + 100 * i),
                _ => "N/A".into(),
            };
            columns.iter().map(cell).collect::<Vec<_>>().join(",")
        };
        let rows = kernels.iter().enumerate().filter(|(i, _)| i % 11 != 5).map(row);
        std::iter::once(heading.to_string()).chain(rows).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn coefficients_that_made_a_profile_come_back_from_every_variant_of_it() {
        let start = Profile::load("ascend310p3").unwrap();
        let mut values = start.coefficients.values();
        let injected =
            [("launch_cycles", 1.5), ("cube", 0.8), ("vector", 1.3), ("l2", 0.75), ("ddr", 0.9), ("depthwise", 1.4), ("pool", 1.5)];
        for (name, by) in injected {
            values[NAMES.iter().position(|(n, _)| *n == name).unwrap()] *= by;
        }
        let chip = Profile { coefficients: Coefficients::of(values), ..start.clone() };
        let headings = [
            "Model ID,Task ID,Stream ID,Op Name,OP Type,Task Type,Task Start Time,Task Duration(us),Task Wait Time(us),Block Dim,Input Shapes",
            "Device_id,Model Name,Op Name,OP Type,OP State,Task Type,Task Start Time(us),Task Duration(us),Block Num,Mix Block Num,aicore_time(us)",
            "Device_id,Op Name,OP Type,Task Type,Task Start Time(us),Task Duration(us),Block Num,aic_total_cycles,aiv_time(us),mac_exe_ratio",
            "Name,Type,Accelerator Core,Start Time(us),Duration(us),Wait Time(us),Block Dim,Input Shapes,Input Data Types,Input Formats",
        ];
        for heading in headings {
            let mut all = Vec::new();
            for (network, batch) in [("mobilenet_v2", 4), ("resnet50", 16), ("googlenet", 8)] {
                let kernels = fixture::kernels(network, batch, Precision::Fp16);
                let text = csv(&kernels, &chip, heading);
                let table = msprof::parse(Path::new("op_summary.csv"), text.as_bytes()).unwrap();
                let found = cases(&kernels, &table, network, batch);
                assert!(found.cases.len() * 10 >= kernels.len() * 7, "{network}: {} of {}", found.cases.len(), kernels.len());
                assert!(!found.matching.unmatched_kernels.is_empty());
                all.extend(found.cases);
            }
            let fitted = fit(&all.iter().collect::<Vec<_>>(), &start, Hold::KERNELS).values();
            for (name, _) in injected {
                let i = NAMES.iter().position(|(n, _)| *n == name).unwrap();
                assert!((fitted[i] / values[i] - 1.0).abs() < 0.03, "{heading}: {name} {} instead of {}", fitted[i], values[i]);
            }
        }
    }
}
