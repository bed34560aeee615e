//! Models loaded and run by ONNX Runtime on the CPU. With `optimise.rs` and the operators of ours
//! (`operator.rs`, `cutoff.rs`, `pooling.rs`, `scatter.rs`, `convolution.rs`, `quantizer.rs`) the only files that call `ort`.
//!
//! Everything crosses this border as `f32` arrays: what a model wants or gives in another type is converted here.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use half::{bf16, f16};
use ndarray::{ArrayD, ArrayViewD, CowArray, IxDyn};
use ort::{
    environment::Environment,
    logging::LogLevel,
    session::{
        OutputSelector, RunOptions, SessionInputValue,
        builder::{GraphOptimizationLevel, SessionBuilder},
    },
    value::{DynValue, Outlet, PrimitiveTensorElementType, Tensor, TensorElementType, TensorRef, ValueType},
};

use super::{
    fetch,
    locate::{self, Found, Origin},
    operator,
    port::{Element, Port, names},
    scratch::Scratch,
    surroundings::Surroundings,
    telemetry,
};
use crate::{
    error::{Error, Result},
    graph::{
        Model,
        external::fits_one_file,
        proto::{GraphProto, ModelProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto},
        tensor,
    },
};

/// The loaded library and its environment; cheap to clone, one to a process.
#[derive(Debug, Clone)]
pub struct Runtime {
    environment: Environment,
    found: Arc<Found>,
}

/// `ort` allows one environment to a process, so every start after the first gives the first.
static STARTED: Mutex<Option<Runtime>> = Mutex::new(None);

impl Runtime {
    /// Finds the library, or fetches it, and loads it; `notice` gets sentences for the user. A second call gives the same again.
    ///
    /// # Errors
    /// If there is no library that fits and none can be fetched, or it cannot be loaded.
    pub fn start(notice: &mut dyn FnMut(&str)) -> Result<Self> {
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*started {
            return Ok(runtime.clone());
        }
        telemetry::silence();
        let surroundings = Surroundings::read();
        let found = match locate::locate(&surroundings)? {
            Ok(found) => found,
            Err(passed_over) => {
                for passed in &passed_over {
                    notice(&format!("passed over {}: {}", passed.path.display(), passed.reason));
                }
                let path = fetch::fetch(&surroundings, notice)?;
                Found { path, version: fetch::VERSION.to_string(), origin: Origin::Cache, passed_over }
            }
        };
        let runtime = Self { environment: environment(&found.path)?, found: Arc::new(found) };
        register_operators(&runtime)?;
        *started = Some(runtime.clone());
        Ok(runtime)
    }

    /// The library's version, like `1.32.0`.
    pub fn version(&self) -> &str {
        &self.found.version
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.found.path
    }

    /// How the library was found, and what was passed over.
    pub fn found(&self) -> &Found {
        &self.found
    }
}

fn environment(library: &Path) -> Result<Environment> {
    let fail = |reason: String| {
        let message = format!("{} cannot be loaded", library.display());
        Error::runtime(message, "reinstall it, or set ORT_DYLIB_PATH to another one", Some(reason.into()))
    };
    let environment = ort::init_from(library)
        .map_err(|e| fail(e.to_string()))?
        .with_name("gulliver")
        .with_telemetry(false)
        .with_logger(Arc::new(|_: LogLevel, _: &str, _: &str, location: &str, message: &str| tracing::debug!(location, "{message}")))
        .build()
        .map_err(|e| fail(reason(&e)))?;
    environment.set_log_level(LogLevel::Error);
    Ok(environment)
}

/// How much ONNX Runtime may change a graph before it runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Nothing.
    Off,
    /// Folding constants and BatchNorm, removing what does nothing; standard operators only.
    Basic,
    /// Fused operators too, in the layout of the file.
    Extended,
    /// Everything, memory layouts too: the fastest.
    #[default]
    All,
}

/// How a session runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOptions {
    /// Threads for one operator; 1 runs in the caller's thread. They never spin: no gain was seen, a third more processor time was.
    pub threads: usize,
    /// How much the graph may be changed.
    pub optimisation: Level,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { threads: 1, optimisation: Level::All }
    }
}

/// A model ready to run. Used by one thread at a time; many sessions can run beside each other.
pub struct Session {
    name: String,
    inner: ort::session::Session,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("name", &self.name).field("inputs", &self.inputs).field("outputs", &self.outputs).finish()
    }
}

impl Session {
    /// Loads a model; `name` stands for it in messages. QDQ nodes are computed as written, in float, never fused to integer kernels.
    ///
    /// # Errors
    /// If ONNX Runtime refuses the model, or it is larger than 2 GiB.
    pub fn from_bytes(runtime: &Runtime, name: &str, bytes: &[u8], options: SessionOptions) -> Result<Self> {
        fits_one_file(name, bytes.len() as u64)?;
        Self::load(name, bytes, builder(runtime, options).map_err(|e| internal(&e))?)
    }

    /// As [`from_bytes`](Self::from_bytes) with everything optimised, and the graph that ONNX Runtime made for this machine: it has
    /// operators and layouts of its own, and runs as it is at [`Level::Off`].
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes), and if there is no room for temporary files.
    pub fn with_graph(runtime: &Runtime, name: &str, bytes: &[u8]) -> Result<(Self, Vec<u8>)> {
        fits_one_file(name, bytes.len() as u64)?;
        let scratch = Scratch::new(&std::env::temp_dir())?;
        let path = scratch.path.join("model.onnx");
        let builder =
            builder(runtime, SessionOptions::default()).and_then(|b| b.with_optimized_model_path(&path).map_err(ort::Error::from));
        let session = Self::load(name, bytes, builder.map_err(|e| internal(&e))?)?;
        Ok((session, std::fs::read(&path).map_err(Error::io("read", &path))?))
    }

    fn load(name: &str, bytes: &[u8], mut builder: SessionBuilder) -> Result<Self> {
        let inner = builder.commit_from_memory(bytes).map_err(|e| refused(name, &e))?;
        let inputs = inner.inputs().iter().map(port).collect();
        let outputs = inner.outputs().iter().map(port).collect();
        Ok(Self { name: name.to_string(), inner, inputs, outputs })
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// Runs the model and gives all outputs in its order. Inputs in standard layout are not copied where the model wants `f32`.
    ///
    /// # Errors
    /// If an input is unknown, missing or of a type we cannot feed, an output cannot be read, or the model fails.
    pub fn run(&mut self, inputs: &[(&str, ArrayViewD<'_, f32>)]) -> Result<Vec<ArrayD<f32>>> {
        self.run_viewing(inputs, None, |found| found.iter().map(|v| v.to_owned()).collect())
    }

    /// Runs the model and gives the outputs that are named, in that order. What only the others need is not computed.
    ///
    /// # Errors
    /// As [`run`](Self::run), and if there is no such output.
    pub fn run_named(&mut self, inputs: &[(&str, ArrayViewD<'_, f32>)], outputs: &[&str]) -> Result<Vec<ArrayD<f32>>> {
        self.run_viewing(inputs, Some(outputs), |found| found.iter().map(|v| v.to_owned()).collect())
    }

    /// As [`run_named`](Self::run_named), all outputs if none are named; hands them over where they lie, without a copy of what the model gives as `f32`.
    ///
    /// # Errors
    /// As [`run_named`](Self::run_named).
    pub fn run_viewing<R>(
        &mut self,
        inputs: &[(&str, ArrayViewD<'_, f32>)],
        outputs: Option<&[&str]>,
        each: impl FnOnce(Vec<ArrayViewD<'_, f32>>) -> R,
    ) -> Result<R> {
        let values = self.values(inputs)?;
        let mut options = RunOptions::new().map_err(|e| internal(&e))?.with_outputs(OutputSelector::default());
        let found = match outputs {
            None => self.inner.run(values).map_err(|e| failed(&self.name, &e))?,
            Some(wanted) => {
                let mut selector = OutputSelector::no_default();
                for &name in wanted {
                    if !self.outputs.iter().any(|p| p.name == name) {
                        return Err(Error::model(&self.name, format!("has no output {name}"), format!("it has {}", names(&self.outputs))));
                    }
                    selector = selector.with(name);
                }
                options = options.with_outputs(selector);
                self.inner.run_with_options(values, &options).map_err(|e| failed(&self.name, &e))?
            }
        };
        let held: Vec<_> = found.iter().collect();
        let arrays = held.iter().map(|(port, value)| read(&self.name, port, value)).collect::<Result<Vec<_>>>()?;
        Ok(each(arrays.iter().map(|a| a.view()).collect()))
    }

    fn values<'v>(&self, inputs: &'v [(&str, ArrayViewD<'v, f32>)]) -> Result<Vec<(String, SessionInputValue<'v>)>> {
        if let Some(port) = self.inputs.iter().find(|p| !inputs.iter().any(|(name, _)| *name == p.name)) {
            return Err(Error::model(&self.name, format!("needs the input {}", port.name), ""));
        }
        inputs
            .iter()
            .map(|(name, view)| {
                let port =
                    self.inputs.iter().find(|p| p.name == *name).ok_or_else(|| {
                        Error::model(&self.name, format!("has no input {name}"), format!("it has {}", names(&self.inputs)))
                    })?;
                let value = feed(port.element, view).ok_or_else(|| {
                    Error::model(&self.name, format!("the type of input {name} cannot be fed"), "export the model with float inputs")
                })?;
                Ok(((*name).to_string(), value.map_err(|e| failed(&self.name, &e))?))
            })
            .collect()
    }
}

pub(super) fn builder(runtime: &Runtime, options: SessionOptions) -> ort::Result<SessionBuilder> {
    let level = match options.optimisation {
        Level::Off => GraphOptimizationLevel::Disable,
        Level::Basic => GraphOptimizationLevel::Level1,
        Level::Extended => GraphOptimizationLevel::Level2,
        Level::All => GraphOptimizationLevel::All,
    };
    Ok(ort::session::Session::builder(&runtime.environment)?
        .with_intra_threads(options.threads.max(1))?
        .with_inter_threads(1)?
        .with_optimization_level(level)?
        .with_deterministic_compute(true)?
        .with_quant_qdq(false)?
        .with_double_qdq_remover(false)?
        .with_intra_op_spinning(false)?
        .with_operators(operator::domain()?)?
        .with_log_level(LogLevel::Error)?)
}

/// Makes our operators known before any thread makes a session: ONNX Runtime keeps one table of operator sets for the process,
/// and two first sessions at once would both enter ours.
fn register_operators(runtime: &Runtime) -> Result<()> {
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto::default()) };
    let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None });
    let value = |name: &str| ValueInfoProto { name: Some(name.into()), r#type: r#type.clone(), ..Default::default() };
    let graph = GraphProto {
        name: Some("nothing".into()),
        node: vec![tensor::node("Identity", "nothing", &["x"], &["y"], vec![])],
        input: vec![value("x")],
        output: vec![value("y")],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(13) }];
    let proto = ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..Default::default() };
    let nothing = Model { name: "nothing".into(), proto };
    Session::from_bytes(runtime, &nothing.name, &nothing.to_bytes()?, SessionOptions::default()).map(drop)
}

pub(super) fn reason<R>(error: &ort::Error<R>) -> String {
    error.message().trim().to_string()
}

pub(super) fn internal(error: &ort::Error) -> Error {
    Error::runtime("it does not take our settings", "use a library of version 1.32.0", Some(reason(error).into()))
}

pub(super) fn refused(name: &str, error: &ort::Error) -> Error {
    Error::Model {
        name: name.to_string(),
        message: "onnx runtime refuses it".into(),
        remedy: Some("export the model again, with standard operators".into()),
        source: Some(reason(error).into()),
    }
}

fn failed(name: &str, error: &ort::Error) -> Error {
    Error::Model {
        name: name.to_string(),
        message: "onnx runtime could not run it".into(),
        remedy: Some("check that the data's shape is the one the model wants".into()),
        source: Some(reason(error).into()),
    }
}

fn port(outlet: &Outlet) -> Port {
    let (element, dims) = match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => (element(*ty), shape.iter().map(|&d| usize::try_from(d).ok()).collect()),
        _ => (Element::Other, Vec::new()),
    };
    Port { name: outlet.name().to_string(), element, dims }
}

fn element(kind: TensorElementType) -> Element {
    match kind {
        TensorElementType::Float32 => Element::F32,
        TensorElementType::Float64 => Element::F64,
        TensorElementType::Float16 => Element::F16,
        TensorElementType::Bfloat16 => Element::Bf16,
        TensorElementType::Int64 => Element::I64,
        TensorElementType::Int32 => Element::I32,
        TensorElementType::Int16 => Element::I16,
        TensorElementType::Int8 => Element::I8,
        TensorElementType::Uint64 => Element::U64,
        TensorElementType::Uint32 => Element::U32,
        TensorElementType::Uint16 => Element::U16,
        TensorElementType::Uint8 => Element::U8,
        TensorElementType::Bool => Element::Bool,
        _ => Element::Other,
    }
}

/// An array as the model wants it; `None` for a type we cannot make. Integers are rounded and saturate.
fn feed<'v>(kind: Element, view: &'v ArrayViewD<'v, f32>) -> Option<ort::Result<SessionInputValue<'v>>> {
    Some(match kind {
        Element::F32 if view.is_standard_layout() => TensorRef::from_array_view(view.view()).map(Into::into),
        Element::F32 => cast(view, |v| v),
        Element::F64 => cast(view, f64::from),
        Element::F16 => cast(view, f16::from_f32),
        Element::Bf16 => cast(view, bf16::from_f32),
        Element::I64 => cast(view, |v| v.round() as i64),
        Element::I32 => cast(view, |v| v.round() as i32),
        Element::I16 => cast(view, |v| v.round() as i16),
        Element::I8 => cast(view, |v| v.round() as i8),
        Element::U64 => cast(view, |v| v.round() as u64),
        Element::U32 => cast(view, |v| v.round() as u32),
        Element::U16 => cast(view, |v| v.round() as u16),
        Element::U8 => cast(view, |v| v.round() as u8),
        Element::Bool => cast(view, |v| v != 0.0),
        Element::Other => return None,
    })
}

fn cast<T: PrimitiveTensorElementType + Clone + fmt::Debug + 'static>(
    view: &ArrayViewD<'_, f32>,
    to: impl Fn(f32) -> T,
) -> ort::Result<SessionInputValue<'static>> {
    let values: Vec<T> = view.iter().map(|&v| to(v)).collect();
    Tensor::from_array((view.shape(), values)).map(Into::into)
}

fn read<'v>(name: &str, port: &str, value: &'v DynValue) -> Result<CowArray<'v, f32, IxDyn>> {
    let unreadable = || Error::model(name, format!("the type of output {port} cannot be read"), "export the model with float outputs");
    let ValueType::Tensor { ty, .. } = value.dtype() else { return Err(unreadable()) };
    floats(element(*ty), value).ok_or_else(unreadable)?.map_err(|e| failed(name, &e))
}

/// A tensor as floats, where it lies if it holds such; `None` for a type we cannot read.
fn floats(kind: Element, value: &DynValue) -> Option<ort::Result<CowArray<'_, f32, IxDyn>>> {
    Some(match kind {
        Element::F32 => value.try_extract_array::<f32>().map(CowArray::from),
        Element::F64 => uncast::<f64>(value, |v| v as f32),
        Element::F16 => uncast::<f16>(value, f16::to_f32),
        Element::Bf16 => uncast::<bf16>(value, bf16::to_f32),
        Element::I64 => uncast::<i64>(value, |v| v as f32),
        Element::I32 => uncast::<i32>(value, |v| v as f32),
        Element::I16 => uncast::<i16>(value, f32::from),
        Element::I8 => uncast::<i8>(value, f32::from),
        Element::U64 => uncast::<u64>(value, |v| v as f32),
        Element::U32 => uncast::<u32>(value, |v| v as f32),
        Element::U16 => uncast::<u16>(value, f32::from),
        Element::U8 => uncast::<u8>(value, f32::from),
        Element::Bool => uncast::<bool>(value, |v| f32::from(u8::from(v))),
        Element::Other => return None,
    })
}

fn uncast<T: PrimitiveTensorElementType + Copy>(value: &DynValue, to: impl Fn(T) -> f32) -> ort::Result<CowArray<'static, f32, IxDyn>> {
    value.try_extract_array::<T>().map(|a| a.mapv(to).into())
}
