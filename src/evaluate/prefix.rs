//! Networks that begin alike run their common beginning once.
//!
//! A network is cut in front of its layers. What a piece gives is known by its content: its nodes, its constants, and the same of what it reads. So
//! a network in which one layer differs runs from that layer on only, whatever the two networks are; the values of the pieces are kept up to a limit
//! of memory, those not used for long make room, and are made again where they are needed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use ndarray::ArrayD;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::{
    compress::{feed, piece, reads},
    data::Dataset,
    error::{Error, Result},
    graph::{
        Model,
        model::SIMULATION_MARK,
        proto::{NodeProto, TensorProto},
    },
    runtime::{Element, Runtime, Session, SessionOptions},
};

/// Samples that run together.
const BATCH: usize = 32;

type Key = [u8; 32];
/// A value for all batches.
type Value = Arc<Vec<ArrayD<f32>>>;

/// Samples, and what the pieces of networks made of them.
pub(super) struct Prefix<'r> {
    runtime: &'r Runtime,
    inputs: BTreeMap<String, Value>,
    elements: BTreeMap<String, Element>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    values: HashMap<Key, (Value, u64)>,
    bytes: usize,
    room: usize,
    clock: u64,
}

impl Kept {
    fn get(&mut self, key: &Key) -> Option<Value> {
        self.clock += 1;
        let (value, used) = self.values.get_mut(key)?;
        *used = self.clock;
        Some(Arc::clone(value))
    }

    fn put(&mut self, key: Key, value: &Value) {
        self.clock += 1;
        if self.values.insert(key, (Arc::clone(value), self.clock)).is_none() {
            self.bytes += bytes(value);
        }
        while self.bytes > self.room {
            let Some(oldest) = self.values.iter().min_by_key(|(_, (_, used))| *used).map(|(k, _)| *k) else { break };
            if let Some((gone, _)) = self.values.remove(&oldest) {
                self.bytes -= bytes(&gone);
            }
        }
    }
}

fn bytes(value: &Value) -> usize {
    value.iter().map(|a| a.len() * size_of::<f32>()).sum()
}

/// A network in pieces.
struct Cut<'m> {
    model: &'m Model,
    constants: HashMap<&'m str, &'m TensorProto>,
    pieces: Vec<Vec<&'m NodeProto>>,
    /// Which piece makes a value.
    maker: HashMap<&'m str, usize>,
    /// What later pieces or the outside read of a piece.
    wanted: Vec<Vec<String>>,
    keys: Vec<Key>,
}

impl<'r> Prefix<'r> {
    /// Reads the inputs of some samples; `room` is what the values between pieces may take, bytes.
    ///
    /// # Errors
    /// If the data cannot be read, or does not fit the model.
    pub(super) fn new(runtime: &'r Runtime, model: &Model, data: &Dataset, samples: &[usize], room: usize) -> Result<Self> {
        let mut session = Session::from_bytes(runtime, &model.name, &model.to_bytes()?, SessionOptions::default())?;
        let elements = session.inputs().iter().map(|p| (p.name.clone(), p.element)).collect();
        let mut inputs: BTreeMap<String, Vec<ArrayD<f32>>> = BTreeMap::new();
        for chunk in samples.chunks(BATCH) {
            feed(&mut session, data, chunk, Some(&[]), |run| {
                for (name, array) in run.inputs {
                    inputs.entry(name.to_string()).or_default().push(array.to_owned());
                }
                Ok(())
            })?;
        }
        let inputs = inputs.into_iter().map(|(n, v)| (n, Arc::new(v))).collect();
        Ok(Self { runtime, inputs, elements, kept: Mutex::new(Kept { room, ..Kept::default() }) })
    }

    /// The first output of a model for all batches.
    ///
    /// # Errors
    /// If ONNX Runtime cannot run a piece of it.
    pub(super) fn run(&self, model: &Model) -> Result<Value> {
        let cut = self.cut(model);
        let output = model.graph().output.first().map(|o| o.name().to_string()).unwrap_or_default();
        let mut made = HashMap::new();
        self.value(&cut, &output, &mut made)
    }

    fn cut<'m>(&self, model: &'m Model) -> Cut<'m> {
        let graph = model.graph();
        let constants: HashMap<&str, &TensorProto> = graph.initializer.iter().map(|t| (t.name(), t)).collect();
        let is_layer = |n: &NodeProto| n.input.get(1).is_some_and(|w| constants.contains_key(w.as_str()));
        let simulated = |n: &NodeProto| n.name().contains(SIMULATION_MARK);
        let mut pieces: Vec<Vec<&NodeProto>> = vec![Vec::new()];
        for node in &graph.node {
            let before = pieces.last().and_then(|p| p.last()).copied();
            let in_chain = before.is_some_and(simulated);
            if (simulated(node) || is_layer(node)) && !in_chain && before.is_some() {
                pieces.push(Vec::new());
            }
            if let Some(last) = pieces.last_mut() {
                last.push(node);
            }
        }
        let mut maker = HashMap::new();
        for (p, nodes) in pieces.iter().enumerate() {
            maker.extend(nodes.iter().flat_map(|n| &n.output).filter(|v| !v.is_empty()).map(|v| (v.as_str(), p)));
        }
        let mut wanted: Vec<Vec<String>> = vec![Vec::new(); pieces.len()];
        let outside = graph.output.iter().take(1).map(|o| (usize::MAX, o.name()));
        let inside = pieces.iter().enumerate().flat_map(|(p, nodes)| nodes.iter().flat_map(|n| reads(n)).map(move |v| (p, v)));
        for (reader, value) in inside.chain(outside) {
            if let Some(&p) = maker.get(value).filter(|p| **p != reader)
                && !wanted[p].iter().any(|v| v == value)
            {
                wanted[p].push(value.to_string());
            }
        }
        let mut cut = Cut { model, constants, pieces, maker, wanted, keys: Vec::new() };
        for p in 0..cut.pieces.len() {
            let key = cut.key(p);
            cut.keys.push(key);
        }
        cut
    }

    /// A value, made by running what it needs and was not kept.
    fn value(&self, cut: &Cut<'_>, name: &str, made: &mut HashMap<String, Value>) -> Result<Value> {
        if let Some(value) = made.get(name).or_else(|| self.inputs.get(name)) {
            return Ok(Arc::clone(value));
        }
        let p = *cut.maker.get(name).ok_or_else(|| Error::Internal(format!("nothing makes {name}")))?;
        let key = |value: &str| -> Key { Sha256::new().chain_update(cut.keys[p]).chain_update(value).finalize().into() };
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&key(name));
        if let Some(value) = kept {
            made.insert(name.to_string(), Arc::clone(&value));
            return Ok(value);
        }
        let element = |v: &str| self.elements.get(v).copied();
        let bytes = piece(cut.model, &cut.pieces[p], &cut.constants, (&element, &cut.wanted[p]))?;
        let mut session = Session::from_bytes(self.runtime, &cut.model.name, &bytes, SessionOptions::default())?;
        let names: Vec<String> = session.inputs().iter().map(|i| i.name.clone()).collect();
        let inputs = names.iter().map(|v| self.value(cut, v, made)).collect::<Result<Vec<_>>>()?;
        let batches = self.inputs.values().next().map_or(0, |v| v.len());
        let mut outputs: Vec<Vec<ArrayD<f32>>> = vec![Vec::new(); cut.wanted[p].len()];
        for b in 0..batches {
            let views: Vec<_> = names.iter().zip(&inputs).map(|(n, v)| (n.as_str(), v[b].view())).collect();
            session.run(&views)?.into_iter().zip(&mut outputs).for_each(|(value, all)| all.push(value));
        }
        for (value, all) in cut.wanted[p].iter().zip(outputs) {
            let all = Arc::new(all);
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).put(key(value), &all);
            made.insert(value.clone(), all);
        }
        made.get(name).cloned().ok_or_else(|| Error::Internal(format!("{name} was not made")))
    }
}

impl Cut<'_> {
    /// The content of a piece whose predecessors are known.
    fn key(&self, p: usize) -> Key {
        let mut hash = Sha256::new();
        for node in &self.pieces[p] {
            hash.update(node.encode_to_vec());
            for value in reads(node) {
                match (self.constants.get(value), self.maker.get(value)) {
                    (Some(constant), _) => hash.update(constant.encode_to_vec()),
                    (None, Some(&q)) if q < p => hash.update(self.keys[q]),
                    _ => {}
                }
            }
        }
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{evaluate::tests::cifar10, graph::fixture::Net};

    /// Two matrix products of the first two and a half kilobytes of an image, and an activation.
    fn chain(last: &str) -> Model {
        let net = Net::new(&[-1, 3, 32, 32]).conv("a", "x", (3, 4), 3).relu("r", "a").conv("b", "r", (4, 4), 3);
        net.node(last, "y", &["b"], vec![]).build("y")
    }

    #[test]
    fn what_two_networks_begin_with_runs_once_and_gives_what_the_whole_gives() {
        let runtime = Runtime::start(&mut |_| ()).unwrap();
        let (one, other) = (chain("Tanh"), chain("Sigmoid"));
        let (data, samples): (_, Vec<usize>) = (cifar10(&one), (0..40).collect());
        let prefix = Prefix::new(&runtime, &one, &data, &samples, 64 << 20).unwrap();
        let whole = |m: &Model| {
            let mut session = Session::from_bytes(&runtime, "t", &m.to_bytes().unwrap(), SessionOptions::default()).unwrap();
            let x = data.batch(&samples[..32]).unwrap().remove(0).1;
            session.run(&[("x", x.view())]).unwrap().remove(0)
        };
        for model in [&one, &other, &one] {
            let pieces = prefix.run(model).unwrap();
            assert_eq!(pieces.len(), 2);
            assert!(pieces[0].iter().zip(&whole(model)).all(|(a, b)| (a - b).abs() < 1e-6));
        }
        // `a` with its ReLU; then `b` with Tanh, and with Sigmoid.
        assert_eq!(prefix.kept.lock().unwrap().values.len(), 3);
    }

    #[test]
    fn what_was_not_used_for_long_makes_room_and_is_made_again() {
        let runtime = Runtime::start(&mut |_| ()).unwrap();
        let model = chain("Tanh");
        let data = cifar10(&model);
        let room = 40 * 4 * 28 * 28 * 4;
        let prefix = Prefix::new(&runtime, &model, &data, &[0, 1, 2, 3], room).unwrap();
        let first = prefix.run(&model).unwrap();
        prefix.run(&chain("Sigmoid")).unwrap();
        assert_eq!(prefix.run(&model).unwrap(), first);
        assert!(prefix.kept.lock().unwrap().bytes <= room);
    }
}
