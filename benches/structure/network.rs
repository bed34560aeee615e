//! The networks of `datasets/`, calibrated.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use gulliver::{
    compress::{Compressor, Effort},
    data::{Dataset, Metric, Source},
    evaluate::evaluate_model,
    runtime::Runtime,
    space::{Build, Plan},
    spec::{Spec, StructureSpec},
    study::dataset,
};

/// What the command line says.
pub struct Options {
    /// Test images in place of those in `datasets/`.
    pub test: Option<PathBuf>,
    /// Calibration images.
    pub samples: usize,
    /// Other networks.
    pub models: Vec<PathBuf>,
}

/// A network, its float bytes and its test images.
pub struct Network {
    pub name: &'static str,
    pub compressor: Compressor,
    pub float: Vec<u8>,
    pub test: Dataset,
    pub runtime: Runtime,
    spec: Spec,
}

/// The demo networks that this bench is about.
pub const NAMES: [&str; 2] = ["vgg", "resnet20"];

impl Network {
    /// Loads and calibrates one; `held_out` calibrates on test images in place of calibration images.
    pub fn open(name: &'static str, options: &Options, structure: StructureSpec, held_out: bool) -> Self {
        let runtime = Runtime::start(&mut |notice| println!("{notice}")).unwrap();
        let spec = Spec::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("search_spaces/cifar10-{name}.yaml"))).unwrap();
        let mut compressor = Compressor::load(&runtime, &spec.model, &spec.shapes).unwrap();
        compressor.structure = structure;
        let mut source = spec.data.validation.clone();
        if let Some(path) = &options.test {
            source = Source { file: Some(path.clone()), samples: None, ..source };
        }
        let test = dataset(&source, &spec.data.input, &compressor.model, &spec.shapes).unwrap();
        let mut source = if held_out { spec.data.validation.clone() } else { spec.data.calibration.clone() };
        source.samples = Some(options.samples);
        let data = dataset(&source, &spec.data.input, &compressor.model, &spec.shapes).unwrap();
        let effort = Effort { threads: 2, max_memory: Effort::MEMORY, positions: structure.positions, widest: Effort::WIDEST };
        compressor.calibrate(Arc::new(data), options.samples, effort, None).unwrap();
        let float = compressor.original.to_bytes().unwrap();
        Self { name, compressor, float, test, runtime, spec }
    }

    /// The calibration images.
    pub fn calibration(&self, options: &Options) -> Dataset {
        let mut source = self.spec.data.calibration.clone();
        source.samples = Some(options.samples);
        dataset(&source, &self.spec.data.input, &self.compressor.model, &self.spec.shapes).unwrap()
    }

    /// Keeps a share of every group that can be cut.
    pub fn cut(&self, keep: impl Fn(usize) -> f64) -> Plan {
        let mut plan = Plan::identity(&self.compressor.layers);
        for (g, group) in self.compressor.channels.groups.iter().enumerate().filter(|(_, g)| g.frozen.is_none()) {
            group.layers.iter().for_each(|&l| plan.treatments[l].1.keep = keep(g));
        }
        plan
    }

    /// Accuracy and drop of a plan in points.
    pub fn accuracy(&self, plan: &Plan, build: Build) -> (f64, f64) {
        let bytes = self.compressor.compress(plan, build).unwrap();
        let score = evaluate_model(&self.runtime, (self.name, &bytes), Some(&self.float), &Metric::Top1, &self.test, 0.95).unwrap();
        (100.0 * score.accuracy, 100.0 * score.drop)
    }
}
