//! Arguments that say where samples come from.

use std::path::PathBuf;

use clap::Args;

use crate::{
    data::{Dataset, Input, Metric, Source},
    error::{Error, Result},
    graph::{Model, shape::Pins},
    spec::{Spec, parse_yaml},
    study::dataset,
};

/// Where samples come from and how they become the network's input.
#[derive(Debug, Args)]
pub struct DataArguments {
    /// An .npz file, a folder of images, or a folder of .bin tensors
    #[arg(long, required_unless_present = "spec")]
    pub data: Option<PathBuf>,
    /// Labels of an image or .bin folder, one line a sample
    #[arg(long, requires = "data")]
    pub labels: Option<PathBuf>,
    /// Use this many samples, evenly spread
    #[arg(long)]
    pub samples: Option<usize>,
    /// Preprocessing as YAML, e.g. '{scale: 0.00392157, mean: [0.4914, 0.4822, 0.4465], std: [0.247, 0.2435, 0.2616]}'
    #[arg(long)]
    pub input: Option<String>,
    /// Take data and preprocessing from a study's spec
    #[arg(long, conflicts_with_all = ["data", "input"])]
    pub spec: Option<PathBuf>,
}

/// Which of a spec's two sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Samples for ranges.
    Calibration,
    /// Samples for accuracy.
    Validation,
}

impl DataArguments {
    /// Shapes of inputs: those given, and those of the spec.
    pub fn pins(&self, given: Pins) -> Result<Pins> {
        let of_spec = self.spec.as_ref().map(|path| Spec::load(path)).transpose()?.map(|s| s.shapes).unwrap_or_default();
        Ok(of_spec.into_iter().chain(given).collect())
    }

    /// Opens the samples for a model; the metric is the spec's if there is a spec.
    pub fn open(&self, model: &Model, pins: &Pins, which: Which) -> Result<(Dataset, Option<Metric>, Option<Spec>)> {
        let (mut source, input, spec) = match (&self.spec, &self.data) {
            (Some(path), _) => {
                let spec = Spec::load(path)?;
                let source = if which == Which::Calibration { &spec.data.calibration } else { &spec.data.validation };
                (source.clone(), spec.data.input.clone(), Some(spec))
            }
            (None, Some(path)) => {
                let input = self.input.as_ref().map(|text| parse_yaml::<Input>(&PathBuf::from("--input"), text)).transpose()?;
                (self.source(path)?, input.unwrap_or_default(), None)
            }
            (None, None) => return Err(Error::Internal("neither --data nor --spec".into())),
        };
        if self.samples.is_some() {
            source.samples = self.samples;
        }
        Ok((dataset(&source, &input, model, pins)?, spec.as_ref().map(|s| s.metric.clone()), spec))
    }

    fn source(&self, path: &std::path::Path) -> Result<Source> {
        if !path.exists() {
            return Err(Error::data(path, "does not exist", "give an .npz file, a folder of images, or a folder of .bin tensors"));
        }
        let mut source = if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(Error::io("read", path))?;
            let bins = entries.flatten().any(|e| e.path().extension().is_some_and(|x| x == "bin"));
            if bins {
                Source { bins: vec![path.to_path_buf()], ..Source::default() }
            } else {
                Source { folder: Some(path.to_path_buf()), ..Source::default() }
            }
        } else {
            Source { file: Some(path.to_path_buf()), ..Source::default() }
        };
        source.labels.clone_from(&self.labels);
        Ok(source)
    }
}
