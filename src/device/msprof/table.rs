//! The table of tasks as the profiler writes it: columns by name in every spelling, cells typed.

use std::path::Path;

use csv::{ReaderBuilder, StringRecord};

use crate::error::{Error, Result};

const EXPORT: &str = "give the op_summary_*.csv of `msprof --export=on`, or kernel_details.csv of torch_npu, as it was written";

/// One task on the chip.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    /// Line of the file, counted from 1.
    pub line: u64,
    /// Inference it belongs to (Infer ID or Step Id), where the profiler says so.
    pub inference: Option<String>,
    /// Name of the operator, which is often several nodes' names joined.
    pub name: String,
    /// CANN's type of operator: Conv2D, TransData; empty if unknown.
    pub kind: String,
    /// What ran it: AI_CORE, AI_VECTOR_CORE, AI_CPU, MIX_AIC; empty if unknown.
    pub task_type: String,
    /// Start, µs, on the chip's clock.
    pub start_us: Option<f64>,
    /// Task Duration, µs: with scheduling and completion.
    pub duration_us: f64,
    /// Time on the cores alone, µs: the longer of aicore_time and aiv_time.
    pub core_us: Option<f64>,
    /// Cycles of all blocks on all kinds of core together.
    pub cycles: Option<f64>,
    /// Blocks it was spread over.
    pub block: Option<u64>,
    /// Dimensions of the inputs, in their formats' order; empty if unknown, an empty list a scalar.
    pub input_shapes: Vec<Vec<u64>>,
    /// Data types of the inputs: FLOAT16, INT8.
    pub input_types: Vec<String>,
    /// Formats of the inputs: NC1HWC0, FRACTAL_Z.
    pub input_formats: Vec<String>,
    /// Dimensions of the outputs.
    pub output_shapes: Vec<Vec<u64>>,
    /// Data types of the outputs.
    pub output_types: Vec<String>,
    /// Formats of the outputs.
    pub output_formats: Vec<String>,
}

/// The rows of one file, in its order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// Operators.
    pub rows: Vec<Row>,
    /// Tasks that are no operators of the model (events, copies, communication), or have neither name nor time.
    pub apart: Vec<Row>,
}

/// Reads a table of tasks.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, else as [`parse`].
pub fn read(path: &Path) -> Result<Table> {
    parse(path, &std::fs::read(path).map_err(Error::io("read", path))?)
}

/// Reads a table of tasks from `bytes`; `path` is for messages.
///
/// # Errors
/// [`Error::Data`], naming line and column, if there is no operator in it, if the column of names or of durations is missing, or
/// if a cell is not what its column asks for.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Table> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = ReaderBuilder::new().flexible(true).from_reader(bytes);
    let broken = |e: csv::Error| {
        let line = e.position().map_or_else(String::new, |p| format!("line {}: ", line_of(bytes, p, &mut (0, 1))));
        Error::data(path, format!("{line}not comma-separated text in UTF-8"), EXPORT)
    };
    let header = reader.headers().map_err(broken)?.clone();
    if header.iter().all(|h| h.trim().is_empty()) {
        return Err(Error::data(path, "the file is empty", EXPORT));
    }
    let columns = Columns::new(path, &header)?;
    let mut table = Table::default();
    let mut counted = (0, 1);
    for record in reader.into_records() {
        let record = record.map_err(broken)?;
        let line = record.position().map_or(0, |p| line_of(bytes, p, &mut counted));
        if record.iter().all(|c| c.trim().is_empty()) {
            continue;
        }
        if record.len() < header.len() {
            let message = format!("line {line} has {} cells, the header {}", record.len(), header.len());
            return Err(Error::data(path, message, "the file is cut off: export it again, or delete the line"));
        }
        let (row, is_operator) = Cells { path, header: &header, record: &record, line }.row(&columns)?;
        if is_operator { table.rows.push(row) } else { table.apart.push(row) }
    }
    if table.rows.is_empty() {
        let message = format!("no operator among its {} tasks", table.apart.len());
        let remedy = "profile an inference with `msprof --task-time=l1 --ai-core=on`, and export that";
        return Err(Error::data(path, message, remedy));
    }
    Ok(table)
}

/// The line of what begins at `position` or after the ends of lines there, which the reader has not yet stepped over;
/// `counted` is a byte and its line to count on from.
fn line_of(bytes: &[u8], position: &csv::Position, counted: &mut (usize, u64)) -> u64 {
    let at = usize::try_from(position.byte()).unwrap_or(usize::MAX).min(bytes.len());
    let end = at + bytes[at..].iter().take_while(|b| b"\r\n".contains(b)).count();
    let passed = bytes.get(counted.0..end).unwrap_or_default();
    *counted = (end, counted.1 + passed.iter().filter(|&&b| b == b'\n').count() as u64);
    counted.1
}

/// Places of the columns we read; several places for one figure where a product splits it between cube and vector cores.
struct Columns {
    name: usize,
    duration: usize,
    kind: Option<usize>,
    task_type: Option<usize>,
    inference: Option<usize>,
    start: Option<usize>,
    block: Option<usize>,
    core: Vec<usize>,
    cycles: Vec<usize>,
    input: [Option<usize>; 3],
    output: [Option<usize>; 3],
}

impl Columns {
    fn new(path: &Path, header: &StringRecord) -> Result<Self> {
        let plain: Vec<String> = header.iter().map(plain).collect();
        let find = |spellings: &[&str]| spellings.iter().find_map(|s| plain.iter().position(|h| h == s));
        let all = |spellings: &[&str]| spellings.iter().filter_map(|s| plain.iter().position(|h| h == s)).collect();
        let needed = |what: &str, spellings: &[&str]| {
            let message = || format!("line 1: no column {what}, only {}", header.iter().map(str::trim).collect::<Vec<_>>().join(", "));
            find(spellings).ok_or_else(|| Error::data(path, message(), EXPORT))
        };
        let tensors = |side: &str| ["shapes", "data types", "formats"].map(|what| find(&[&format!("{side} {what}")]));
        Ok(Self {
            name: needed("Op Name or Name", &["op name", "name"])?,
            duration: needed("Task Duration(us) or Duration(us)", &["task duration", "duration"])?,
            kind: find(&["op type", "type"]),
            task_type: find(&["task type", "accelerator core", "core type"]),
            inference: find(&["infer id", "step id"]),
            start: find(&["task start time", "start time"]),
            block: find(&["block num", "block dim"]),
            core: all(&["aicore time", "aic time", "aiv time"]),
            cycles: all(&["total cycles", "aic total cycles", "aiv total cycles"]),
            input: tensors("input"),
            output: tensors("output"),
        })
    }
}

/// A header without unit and case, its words parted by single spaces.
fn plain(header: &str) -> String {
    let name = header.split('(').next().unwrap_or("").to_lowercase().replace('_', " ");
    name.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One line, and where it stands.
struct Cells<'a> {
    path: &'a Path,
    header: &'a StringRecord,
    record: &'a StringRecord,
    line: u64,
}

impl<'a> Cells<'a> {
    /// The typed row, and whether it is an operator.
    fn row(&self, columns: &Columns) -> Result<(Row, bool)> {
        let text = |column: Option<usize>| column.and_then(|c| self.text(c)).unwrap_or_default().to_string();
        let list = |column: Option<usize>| -> Vec<String> {
            column.and_then(|c| self.text(c)).map_or_else(Vec::new, |t| t.split(';').map(|p| p.trim().to_string()).collect())
        };
        let number = |column: Option<usize>| column.map_or(Ok(None), |c| self.number(c));
        let numbers = |columns: &[usize]| -> Result<Vec<f64>> {
            Ok(columns.iter().map(|&c| self.number(c)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
        };
        let duration = self.number(columns.duration)?;
        let row = Row {
            line: self.line,
            inference: columns.inference.and_then(|c| self.text(c)).map(str::to_string),
            name: text(Some(columns.name)),
            kind: text(columns.kind),
            task_type: text(columns.task_type),
            start_us: number(columns.start)?,
            duration_us: duration.unwrap_or_default(),
            core_us: numbers(&columns.core)?.into_iter().reduce(f64::max),
            cycles: numbers(&columns.cycles)?.into_iter().reduce(|a, b| a + b),
            block: number(columns.block)?.map(|b| b as u64).filter(|&b| b < u64::from(u32::MAX)),
            input_shapes: self.shapes(columns.input[0])?,
            input_types: list(columns.input[1]),
            input_formats: list(columns.input[2]),
            output_shapes: self.shapes(columns.output[0])?,
            output_types: list(columns.output[1]),
            output_formats: list(columns.output[2]),
        };
        let is_operator = duration.is_some() && !row.name.is_empty() && runs_operators(&row.task_type);
        Ok((row, is_operator))
    }

    /// A cell without spaces and the quotes within it; none if it says nothing.
    fn text(&self, column: usize) -> Option<&'a str> {
        let text = self.record.get(column)?.trim_matches(|c: char| c.is_whitespace() || c == '"');
        (!["", "n/a", "na", "none", "null"].contains(&text.to_lowercase().as_str())).then_some(text)
    }

    /// A figure, in µs where its column is a time.
    fn number(&self, column: usize) -> Result<Option<f64>> {
        let Some(text) = self.text(column) else { return Ok(None) };
        let unit = self.header.get(column).and_then(|h| h.split_once('(')).map_or("", |(_, unit)| unit.trim().trim_end_matches(')'));
        let scale = match unit {
            "ns" => 1e-3,
            "ms" => 1e3,
            "s" => 1e6,
            _ => 1.0,
        };
        let figure = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
        figure.map(|n| Some(n * scale)).ok_or_else(|| self.error(column, text, "a number of at least 0"))
    }

    /// Shapes of tensors, parted by `;`; a tensor of unknown dimensions makes all unknown.
    fn shapes(&self, column: Option<usize>) -> Result<Vec<Vec<u64>>> {
        let Some((column, text)) = column.and_then(|c| Some((c, self.text(c)?))) else { return Ok(Vec::new()) };
        let mut shapes = Vec::new();
        for tensor in text.split(';') {
            let mut dims = Vec::new();
            let bare = tensor.trim_matches(|c: char| c.is_whitespace() || "\"[]()".contains(c));
            for dim in bare.split(',').map(str::trim).filter(|d| !d.is_empty()) {
                match dim.parse::<i64>() {
                    Ok(d) => dims.push(u64::try_from(d).unwrap_or(u64::MAX)),
                    Err(_) if dim.eq_ignore_ascii_case("n/a") => dims.push(u64::MAX),
                    Err(_) => return Err(self.error(column, text, "shapes such as \"1,64,56,56;64\"")),
                }
            }
            shapes.push(dims);
        }
        let is_known = shapes.iter().flatten().all(|&d| d != u64::MAX);
        Ok(if is_known { shapes } else { Vec::new() })
    }

    fn error(&self, column: usize, text: &str, wanted: &str) -> Error {
        let name = self.header.get(column).unwrap_or_default().trim();
        let message = format!("line {}, column {name}: `{text}` is not {wanted}", self.line);
        Error::data(self.path, message, "correct the cell, or write N/A in it if the figure is not known")
    }
}

/// Whether tasks of this type are operators of the model; where the type is not told, they may be.
fn runs_operators(task_type: &str) -> bool {
    let plain: String = task_type.to_uppercase().chars().filter(char::is_ascii_alphanumeric).collect();
    let is_core = ["AICORE", "AICPU", "AIVEC", "AIV", "MIX"].iter().any(|core| plain.contains(core));
    plain.is_empty() || is_core && !plain.contains("HCCL") && !plain.contains("COMM")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Result<Table> {
        parse(Path::new("op_summary_0.csv"), text.as_bytes())
    }

    /// Message and remedy of the error that `text` gives.
    fn refused(text: &str) -> String {
        let error = table(text).unwrap_err();
        format!("{error}; {}", error.remedy().unwrap())
    }

    #[test]
    fn byte_order_marks_carriage_returns_tabs_and_quotes_within_cells_are_nothing() {
        let text = "\u{feff}Op Name,Task Start Time(us),Task Duration(us),Input Shapes\r\n\
                    Conv_0,1717575960208020.758\t,151.000,\"\"\"1,3,224,224;64,3,7,7;\"\"\"\r\n\r\n";
        let row = table(text).unwrap().rows.remove(0);
        assert_eq!((row.line, row.name.as_str(), row.duration_us), (2, "Conv_0", 151.0));
        assert_eq!(row.start_us, Some(1_717_575_960_208_020.8));
        assert_eq!(row.input_shapes, [vec![1, 3, 224, 224], vec![64, 3, 7, 7], vec![]]);
    }

    #[test]
    fn times_in_other_units_become_microseconds() {
        assert_eq!(table("Name,Duration(ns)\na,1500\n").unwrap().rows[0].duration_us, 1.5);
        assert_eq!(table("Name,Duration(ms)\na,1.5\n").unwrap().rows[0].duration_us, 1500.0);
    }

    #[test]
    fn what_is_no_operator_is_kept_apart() {
        let types = ["AI_CORE", "KERNEL_AICPU", "AI_VECTOR_CORE", "MIX_AIC", "KERNEL_AIVEC", "N/A", ""];
        let others = ["EVENT_RECORD", "NOTIFY_WAIT", "MEMCPY_ASYNC", "SDMA_SQE", "HCCL_AI_CPU", "COMMUNICATION", "PROFILING_ENABLE"];
        let lines: String = types.iter().chain(&others).map(|t| format!("op,{t},1\n")).collect();
        let table = table(&format!("Op Name,Task Type,Task Duration(us)\n{lines}N/A,AI_CORE,1\nop,AI_CORE,N/A\n")).unwrap();
        assert_eq!((table.rows.len(), table.apart.len()), (types.len(), others.len() + 2));
    }

    #[test]
    fn vector_and_cube_cores_count_together() {
        let text = "Op Name,Task Duration(us),aicore_time(us),aic_total_cycles,aiv_time(us),aiv_total_cycles\n\
                    a,5,0,0,3.5,700\nb,5,N/A,N/A,N/A,N/A\n";
        let rows = table(text).unwrap().rows;
        assert_eq!((rows[0].core_us, rows[0].cycles), (Some(3.5), Some(700.0)));
        assert_eq!((rows[1].core_us, rows[1].cycles), (None, None));
    }

    #[test]
    fn an_unknown_dimension_makes_the_shapes_unknown() {
        assert!(table("Name,Duration(us),Input Shapes\na,1,\"-1,3;5\"\n").unwrap().rows[0].input_shapes.is_empty());
    }

    #[test]
    fn refusals_name_file_line_column_and_what_to_do() {
        let all = [
            refused(""),
            refused("Op Name,OP Type\nConv_0,Conv2D\n"),
            refused("OP Type,Task Duration(us)\nConv2D,1\n"),
            refused("Op Name,Task Duration(us)\nConv_0,1\nConv_1,fast\n"),
            refused("Op Name,Task Duration(us)\r\n\r\nConv_0,-1\r\n"),
            refused("Op Name,Task Duration(us),Input Shapes\nConv_0,1,1x3x8\n"),
            refused("Op Name,OP Type,Task Duration(us)\nConv_0,Co"),
            refused("Op Name,Task Duration(us)\n"),
        ];
        insta::assert_snapshot!(all.join("\n"), @r#"
        data op_summary_0.csv: the file is empty; give the op_summary_*.csv of `msprof --export=on`, or kernel_details.csv of torch_npu, as it was written
        data op_summary_0.csv: line 1: no column Task Duration(us) or Duration(us), only Op Name, OP Type; give the op_summary_*.csv of `msprof --export=on`, or kernel_details.csv of torch_npu, as it was written
        data op_summary_0.csv: line 1: no column Op Name or Name, only OP Type, Task Duration(us); give the op_summary_*.csv of `msprof --export=on`, or kernel_details.csv of torch_npu, as it was written
        data op_summary_0.csv: line 3, column Task Duration(us): `fast` is not a number of at least 0; correct the cell, or write N/A in it if the figure is not known
        data op_summary_0.csv: line 3, column Task Duration(us): `-1` is not a number of at least 0; correct the cell, or write N/A in it if the figure is not known
        data op_summary_0.csv: line 2, column Input Shapes: `1x3x8` is not shapes such as "1,64,56,56;64"; correct the cell, or write N/A in it if the figure is not known
        data op_summary_0.csv: line 2 has 2 cells, the header 3; the file is cut off: export it again, or delete the line
        data op_summary_0.csv: no operator among its 0 tasks; profile an inference with `msprof --task-time=l1 --ai-core=on`, and export that
        "#);
    }

    #[test]
    fn text_that_is_not_utf8_is_refused() {
        assert!(parse(Path::new("a.csv"), b"Op Name,Task Duration(us)\n\xff\xfe,1\n").is_err());
    }
}
