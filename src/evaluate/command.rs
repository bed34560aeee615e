//! Metrics that are programs: the model, or its outputs, are put in a temporary folder for them.

use std::path::PathBuf;

use ndarray::Axis;

use super::fuse::fast_session;
use crate::{
    compress::feed,
    data::{CommandInput, Dataset, Metric, run_command},
    error::{Error, Result},
    runtime::Runtime,
};

/// A folder that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gulliver-metric-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the metric's program on a model and returns its number.
///
/// # Errors
/// If the program fails or prints no number, or the model cannot be run.
pub fn score(metric: &Metric, runtime: &Runtime, name: &str, model: &[u8], data: &Dataset) -> Result<f64> {
    let Metric::Command(command) = metric else {
        return Err(Error::Internal("a built-in metric was run as a program".into()));
    };
    let scratch = Scratch::new()?;
    match command.input {
        CommandInput::Model => {
            let path = scratch.0.join("model.onnx");
            std::fs::write(&path, model).map_err(Error::io("write", &path))?;
            run_command(&command.argv, &path)
        }
        CommandInput::Outputs => {
            let mut session = fast_session(runtime, name, model)?;
            let names: Vec<String> = session.outputs().iter().map(|o| o.name.clone()).collect();
            let mut all: Vec<Vec<ndarray::ArrayD<f32>>> = vec![Vec::new(); names.len()];
            let samples: Vec<usize> = (0..data.len()).collect();
            for chunk in samples.chunks(super::evaluator::BATCH) {
                feed(&mut session, data, chunk, None, |run| {
                    all.iter_mut().zip(run.outputs).for_each(|(slot, output)| slot.push(output));
                    Ok(())
                })?;
            }
            for (output, parts) in names.iter().zip(all) {
                let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
                let whole = ndarray::concatenate(Axis(0), &views)
                    .map_err(|e| Error::metric(format!("output {output}: {e}"), "give `input: model` to the metric"))?;
                let safe: String = output.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
                let path = scratch.0.join(format!("{safe}.npy"));
                ndarray_npy::write_npy(&path, &whole)
                    .map_err(|e| Error::metric(format!("cannot write {}: {e}", path.display()), "check the temporary folder"))?;
            }
            run_command(&command.argv, &scratch.0)
        }
    }
}
