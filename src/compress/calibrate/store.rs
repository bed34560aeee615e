//! A calibration on disk: an npz file that is only read where the key in it is the key that is asked for.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, BufWriter, Write},
    path::PathBuf,
    sync::Arc,
};

use ndarray::{Array1, Array2, ArrayView1};
use ndarray_npy::{NpzReader, NpzWriter};
use serde::{Deserialize, Serialize};

use super::{Block, Calibration, Channel, Gram, Histogram, Statistics};
use crate::error::{Error, Result};

/// Where a calibration is kept, and what it was made from.
#[derive(Debug, Clone)]
pub struct Store {
    /// The file.
    pub path: PathBuf,
    /// Hash of all it depends on.
    pub key: String,
}

/// Everything but the numbers.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    key: String,
    values: Vec<Value>,
    grams: Vec<Matrix>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Value {
    name: String,
    exponent: i32,
    entries: u64,
    min: f32,
    max: f32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Matrix {
    layers: Vec<String>,
    count: u64,
    /// First column and number of columns of each block, group by group.
    groups: Vec<Vec<(usize, usize)>>,
}

impl Store {
    /// The calibration, if the file is there, whole, and was made from the same.
    pub fn load(&self) -> Option<Calibration> {
        let file = BufReader::new(File::open(&self.path).ok()?);
        let mut npz = NpzReader::new(file).ok()?;
        let manifest: Array1<u8> = npz.by_name("manifest").ok()?;
        let manifest: Manifest = serde_json::from_slice(manifest.as_slice()?).ok().filter(|m: &Manifest| m.key == self.key)?;
        let mut found = Calibration::default();
        for (i, value) in manifest.values.into_iter().enumerate() {
            let counts: Array1<u64> = npz.by_name(&format!("value{i}.counts")).ok()?;
            let channels: Array2<f64> = npz.by_name(&format!("value{i}.channels")).ok()?;
            let histogram = Histogram::from_parts(value.exponent, counts.to_vec(), (value.min, value.max))?;
            let channel = |row: ArrayView1<'_, f64>| Channel { min: row[0] as f32, max: row[1] as f32, sum: row[2], squares: row[3] };
            let channels = (channels.ncols() == 4).then(|| channels.rows().into_iter().map(channel).collect())?;
            found.values.insert(value.name, Statistics::finished(histogram, channels, value.entries));
        }
        for (i, matrix) in manifest.grams.into_iter().enumerate() {
            let numbers: Array1<f64> = npz.by_name(&format!("gram{i}")).ok()?;
            let mut numbers = numbers.iter().copied();
            let mut block = |&(start, n): &(usize, usize)| {
                let mean: Vec<f64> = numbers.by_ref().take(n).collect();
                let matrix = Array2::from_shape_vec((n, n), numbers.by_ref().take(n * n).collect()).ok()?;
                (mean.len() == n).then_some(Block { start, matrix, mean })
            };
            let groups = matrix.groups.iter().map(|g| g.iter().map(&mut block).collect()).collect::<Option<Vec<_>>>()?;
            let gram = Arc::new(Gram { groups, count: matrix.count });
            found.grams.extend(matrix.layers.into_iter().map(|l| (l, Arc::clone(&gram))));
        }
        Some(found)
    }

    /// Writes a calibration, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, calibration: &Calibration) -> Result<()> {
        let unfinished = self.path.with_extension("npz.unfinished");
        let cannot = |e: String| Error::io("write", &unfinished)(std::io::Error::other(e));
        let mut shared: BTreeMap<*const Gram, (Vec<String>, &Gram)> = BTreeMap::new();
        for (layer, gram) in &calibration.grams {
            shared.entry(Arc::as_ptr(gram)).or_insert_with(|| (Vec::new(), gram)).0.push(layer.clone());
        }
        let mut grams: Vec<(Vec<String>, &Gram)> = shared.into_values().collect();
        grams.sort_by(|a, b| a.0.cmp(&b.0));
        let value = |(name, s): (&String, &Statistics)| {
            let h = &s.histogram;
            Value { name: name.clone(), exponent: h.parts().0, entries: s.entries, min: h.min, max: h.max }
        };
        let matrix = |(layers, gram): &(Vec<String>, &Gram)| {
            let blocks = |g: &Vec<Block>| g.iter().map(|b| (b.start, b.mean.len())).collect();
            Matrix { layers: layers.clone(), count: gram.count, groups: gram.groups.iter().map(blocks).collect() }
        };
        let manifest = Manifest {
            key: self.key.clone(),
            values: calibration.values.iter().map(value).collect(),
            grams: grams.iter().map(matrix).collect(),
        };
        let manifest = serde_json::to_vec(&manifest).map_err(|e| cannot(e.to_string()))?;
        let file = File::create(&unfinished).map_err(Error::io("write", &unfinished))?;
        let mut npz = NpzWriter::new(BufWriter::new(file));
        npz.add_array("manifest", &ArrayView1::from(&manifest)).map_err(|e| cannot(e.to_string()))?;
        for (i, s) in calibration.values.values().enumerate() {
            let rows: Vec<f64> = s.channels.iter().flat_map(|c| [f64::from(c.min), f64::from(c.max), c.sum, c.squares]).collect();
            let rows = Array2::from_shape_vec((s.channels.len(), 4), rows).map_err(|e| cannot(e.to_string()))?;
            npz.add_array(format!("value{i}.counts"), &ArrayView1::from(s.histogram.parts().1)).map_err(|e| cannot(e.to_string()))?;
            npz.add_array(format!("value{i}.channels"), &rows).map_err(|e| cannot(e.to_string()))?;
        }
        for (i, (_, gram)) in grams.iter().enumerate() {
            let blocks = gram.groups.iter().flatten();
            let numbers: Vec<f64> = blocks.flat_map(|b| b.mean.iter().chain(b.matrix.iter()).copied()).collect();
            npz.add_array(format!("gram{i}"), &ArrayView1::from(&numbers)).map_err(|e| cannot(e.to_string()))?;
        }
        let mut file = npz.finish().map_err(|e| cannot(e.to_string()))?;
        file.flush().map_err(Error::io("write", &unfinished))?;
        drop(file);
        std::fs::rename(&unfinished, &self.path).map_err(Error::io("write", &self.path))
    }
}
