//! A table of measured throughputs beside the networks' topologies, as cases for a fit.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use super::{Case, What};
use crate::{
    device::{Conditions, extract_under},
    error::{Error, Result},
    graph::{Model, model::int_attribute, shape},
    precision::Precision,
};

/// A row: a network at a batch in a precision on a chip.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The network: `NAME.onnx` in the folder of topologies.
    pub model: String,
    /// Its family; the network's own name where the table has no such column.
    pub family: String,
    /// Samples of an inference.
    pub batch: usize,
    /// The chip, as profiles name it.
    pub chip: String,
    /// Precision of all its layers.
    pub precision: Precision,
    /// How it was compiled and fed.
    pub conditions: Conditions,
    /// Samples a second of one chip.
    pub fps: f64,
    /// Why the row is doubtful, if it is.
    pub flag: String,
}

/// Reads a table: CSV with the columns `model`, `batch` and `fps`, and optionally `family`, `chip`, `precision` (fp16 or int8),
/// `conditions` (words of `aipp small_channel integer_residual`) and `flag`; others are ignored.
///
/// # Errors
/// If the file cannot be read, a column is missing or a cell is no number, naming file and line.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let wrong = |line: u64, what: String| {
        Error::device(&name, format!("line {line}: {what}"), "the table needs the columns model, batch and fps, one measurement a line")
    };
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.trim_start_matches('\u{feff}').as_bytes());
    let heading = reader.headers().map_err(|e| wrong(1, e.to_string()))?.clone();
    let column = |name: &str| heading.iter().position(|h| h.trim().eq_ignore_ascii_case(name));
    let needed = |name: &str| column(name).ok_or_else(|| wrong(1, format!("no column {name}")));
    let (model, batch, fps) = (needed("model")?, needed("batch")?, needed("fps")?);
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| wrong(e.position().map_or(0, csv::Position::line), e.to_string()))?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |c: usize| record.get(c).unwrap_or("").trim();
        let other = |name: &str| column(name).map_or("", cell);
        let number = |c: usize| {
            let value = cell(c).parse::<f64>().ok().filter(|v| v.is_finite() && *v > 0.0);
            value.ok_or_else(|| wrong(line, format!("{} is {:?}, it must be a number above 0", &heading[c], cell(c))))
        };
        let family = if other("family").is_empty() { cell(model) } else { other("family") };
        rows.push(Row {
            model: cell(model).to_string(),
            family: family.to_string(),
            batch: number(batch)? as usize,
            chip: other("chip").to_string(),
            precision: precision(other("precision")).ok_or_else(|| wrong(line, format!("unknown precision {:?}", other("precision"))))?,
            conditions: conditions(other("conditions")).map_err(|word| wrong(line, format!("unknown condition {word:?}")))?,
            fps: number(fps)?,
            flag: other("flag").to_string(),
        });
    }
    if rows.is_empty() {
        return Err(wrong(2, "no measurement in it".into()));
    }
    Ok(rows)
}

fn precision(word: &str) -> Option<Precision> {
    match word {
        "" | "fp16" => Some(Precision::Fp16),
        "int8" => Some(Precision::Int8),
        "int4" => Some(Precision::Int4),
        _ => None,
    }
}

fn conditions(words: &str) -> std::result::Result<Conditions, String> {
    let mut given = Conditions::default();
    for word in words.split_whitespace() {
        match word {
            "aipp" => given.aipp = true,
            "small_channel" => given.small_channel = true,
            "integer_residual" => given.integer_residual = true,
            _ => return Err(word.to_string()),
        }
    }
    Ok(given)
}

/// Networks as kernels, each file read once.
pub struct Topologies {
    folder: PathBuf,
    models: HashMap<String, Model>,
}

impl Topologies {
    /// Networks in a folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), models: HashMap::new() }
    }

    /// The measurement of a row.
    ///
    /// # Errors
    /// If the topology is missing or its shapes cannot be inferred.
    pub fn case(&mut self, row: &Row) -> Result<Case> {
        if !self.models.contains_key(&row.model) {
            let model = Model::load(&self.folder.join(format!("{}.onnx", row.model)))?;
            self.models.insert(row.model.clone(), model);
        }
        let model = &self.models[&row.model];
        let shapes = shape::infer(model, row.batch, &BTreeMap::new())?;
        let kernels = extract_under(model, &shapes, &everywhere(model, row.precision), row.conditions);
        Ok(Case {
            network: row.model.clone(),
            family: row.family.clone(),
            batch: row.batch,
            precision: row.precision,
            what: What::Network(kernels),
            ms: row.batch as f64 / row.fps * 1e3,
        })
    }
}

/// A precision for every convolution and product; grouped convolutions take no 4-bit weights and fall back to INT8.
pub fn everywhere(model: &Model, precision: Precision) -> BTreeMap<String, Precision> {
    let layers = model.graph().node.iter().filter(|n| matches!(n.op_type(), "Conv" | "Gemm" | "MatMul"));
    let of = |grouped: bool| if grouped && precision == Precision::Int4 { Precision::Int8 } else { precision };
    layers.map(|n| (n.name().to_string(), of(int_attribute(n, "group", 1) > 1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<Vec<Row>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.csv");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn columns_are_found_by_name_and_the_optional_ones_have_defaults() {
        let short = &rows("fps,Model,batch\n100,a,2\n").unwrap()[0];
        assert_eq!((short.model.as_str(), short.family.as_str(), short.batch, short.fps), ("a", "a", 2, 100.0));
        assert_eq!((short.precision, short.conditions), (Precision::Fp16, Conditions::default()));
        let long = &rows("model,batch,fps,precision,conditions,family\na,2,100,int8,aipp integer_residual,f\n").unwrap()[0];
        assert_eq!((long.precision, long.family.as_str()), (Precision::Int8, "f"));
        assert_eq!(long.conditions, Conditions { aipp: true, small_channel: false, integer_residual: true });
    }

    #[test]
    fn a_broken_table_is_refused_with_its_line() {
        let message = |text: &str| rows(text).unwrap_err().to_string();
        assert!(message("model,batch\na,1\n").contains("no column fps"));
        assert!(message("model,batch,fps\na,1,10\nb,1,fast\n").contains("line 3"));
        assert!(message("model,batch,fps,conditions\nb,1,2,snow\n").contains("snow"));
        assert!(message("model,batch,fps\n").contains("no measurement"));
    }
}
