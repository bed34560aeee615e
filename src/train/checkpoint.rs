//! A run of training on disk: all that its next epoch depends on, written whole or not at all.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Write},
    path::PathBuf,
};

use ndarray::{ArrayD, ArrayView1};
use ndarray_npy::{NpzReader, NpzWriter};
use serde::{Deserialize, Serialize};

use super::{network::Parameter, optimise::Optimiser, run::Epoch};
use crate::error::{Error, Result};

/// Where a run is kept, and what it depends on.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The file.
    pub path: PathBuf,
    /// Hash of all it depends on: another means another run.
    pub key: String,
}

/// Everything but the numbers.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    key: String,
    epochs: Vec<Epoch>,
    best: usize,
    steps: u64,
    usual: f64,
}

/// A run after some epochs.
#[derive(Debug)]
pub(super) struct State {
    pub(super) epochs: Vec<Epoch>,
    /// The epoch with the best parameters, and these.
    pub(super) best: (usize, Vec<ArrayD<f32>>),
}

impl Checkpoint {
    /// What the file holds, put into the parameters and the optimiser; none if it is not there, not whole, or of another run.
    pub(super) fn load(&self, parameters: &mut [Parameter], optimiser: &mut Optimiser) -> Option<State> {
        let mut npz = NpzReader::new(BufReader::new(File::open(&self.path).ok()?)).ok()?;
        let manifest: ndarray::Array1<u8> = npz.by_name("manifest").ok()?;
        let manifest: Manifest = serde_json::from_slice(manifest.as_slice()?).ok().filter(|m: &Manifest| m.key == self.key)?;
        let mut read = |kind: &str, i: usize, like: &ArrayD<f32>| -> Option<ArrayD<f32>> {
            let array: ArrayD<f32> = npz.by_name(&format!("{kind}{i}")).ok()?;
            (array.shape() == like.shape()).then_some(array)
        };
        let mut all = Vec::new();
        for (i, p) in parameters.iter().enumerate() {
            let mut of = |kind| read(kind, i, &p.value);
            all.push((of("value")?, of("mean")?, of("squares")?, of("best")?));
        }
        let mut best = Vec::new();
        for (i, (value, mean, squares, kept)) in all.into_iter().enumerate() {
            parameters[i].value = value;
            optimiser.moments[i] = (mean, squares);
            best.push(kept);
        }
        (optimiser.steps, optimiser.usual) = (manifest.steps, manifest.usual);
        Some(State { epochs: manifest.epochs, best: (manifest.best, best) })
    }

    /// Writes the state after an epoch.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn save(&self, parameters: &[Parameter], optimiser: &Optimiser, state: &State) -> Result<()> {
        let unfinished = self.path.with_extension("npz.unfinished");
        let cannot = |e: String| Error::io("write", &unfinished)(std::io::Error::other(e));
        let manifest = Manifest {
            key: self.key.clone(),
            epochs: state.epochs.clone(),
            best: state.best.0,
            steps: optimiser.steps,
            usual: optimiser.usual,
        };
        let manifest = serde_json::to_vec(&manifest).map_err(|e| cannot(e.to_string()))?;
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let mut npz = NpzWriter::new(BufWriter::new(File::create(&unfinished).map_err(Error::io("write", &unfinished))?));
        npz.add_array("manifest", &ArrayView1::from(&manifest)).map_err(|e| cannot(e.to_string()))?;
        let kept = optimiser.moments.iter().zip(&state.best.1);
        for (i, (p, ((mean, squares), best))) in parameters.iter().zip(kept).enumerate() {
            for (kind, array) in [("value", &p.value), ("mean", mean), ("squares", squares), ("best", best)] {
                npz.add_array(format!("{kind}{i}"), array).map_err(|e| cannot(e.to_string()))?;
            }
        }
        let mut file = npz.finish().map_err(|e| cannot(e.to_string()))?;
        file.flush().map_err(Error::io("write", &unfinished))?;
        file.get_ref().sync_all().map_err(Error::io("write", &unfinished))?;
        drop(file);
        std::fs::rename(&unfinished, &self.path).map_err(Error::io("write", &self.path))
    }
}
