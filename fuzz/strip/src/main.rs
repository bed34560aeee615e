//! `strip IN.onnx OUT.onnx`: writes a network without the data of its big tensors, if what is left is small enough to be a seed.

#[allow(missing_docs, clippy::all)]
#[path = "../../../src/graph/proto.rs"]
mod proto;

use std::process::ExitCode;

use prost::Message;
use proto::{AttributeProto, GraphProto, ModelProto, TensorProto};

/// Data of tensors above this size is taken out; shapes are never computed from so much.
const TENSOR_LIMIT: usize = 1024;
/// Larger seeds make a fuzzer slow.
const FILE_LIMIT: usize = 100 * 1024;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else {
        eprintln!("usage: strip IN.onnx OUT.onnx");
        return ExitCode::from(2);
    };
    match stripped(from).and_then(|bytes| std::fs::write(to, bytes).map_err(|e| format!("cannot write {to}: {e}"))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn stripped(path: &str) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("cannot read {path}: {e}"))?;
    let mut model = ModelProto::decode(bytes.as_slice()).map_err(|e| format!("{path} is not an ONNX model: {e}"))?;
    if let Some(g) = &mut model.graph {
        graph(g);
    }
    model.functions.iter_mut().flat_map(|f| &mut f.node).for_each(|n| attributes(&mut n.attribute));
    let out = model.encode_to_vec();
    if out.len() > FILE_LIMIT { Err(format!("{path} has {} bytes without its weights, too many for a seed", out.len())) } else { Ok(out) }
}

fn graph(g: &mut GraphProto) {
    g.initializer.iter_mut().for_each(tensor);
    g.node.iter_mut().for_each(|n| {
        n.doc_string = None;
        n.metadata_props.clear();
        attributes(&mut n.attribute);
    });
}

fn attributes(list: &mut [AttributeProto]) {
    for a in list {
        a.t.iter_mut().chain(&mut a.tensors).for_each(tensor);
        a.g.iter_mut().chain(&mut a.graphs).for_each(graph);
    }
}

fn tensor(t: &mut TensorProto) {
    if t.encoded_len() > TENSOR_LIMIT {
        let header = TensorProto { dims: std::mem::take(&mut t.dims), data_type: t.data_type, name: t.name.take(), ..Default::default() };
        *t = header;
    }
}
