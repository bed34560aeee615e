//! Mutations of ONNX models that keep them ONNX models.
//!
//! Changed bytes rarely parse, as every length in front of them would have to change too. So most mutations are made on
//! the message: extreme numbers, other operators, missing, doubled and exchanged inputs, attributes and nodes.

use gulliver::graph::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_shape_proto::dimension::Value as Dim,
    type_proto::Value as Type,
};
use prost::Message;

/// Numbers that break formulas.
const NUMBERS: [i64; 24] = [
    0,
    1,
    2,
    3,
    4,
    7,
    16,
    -1,
    -2,
    -3,
    64,
    1000,
    4096,
    1 << 20,
    1 << 31,
    (1 << 31) - 1,
    1 << 32,
    1 << 53,
    1 << 62,
    i64::MAX,
    i64::MAX - 1,
    i64::MIN,
    i64::MIN + 1,
    -(1 << 31),
];

const FLOATS: [f32; 10] = [0.0, 1.0, -1.0, 0.5, 2.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE];

const OPERATORS: &str = include_str!("operators.txt");

/// A small generator of random numbers (xorshift); its seed is libFuzzer's.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }

    fn number(&mut self) -> i64 {
        NUMBERS[self.below(NUMBERS.len())]
    }

    fn change(&mut self, list: &mut Vec<i64>) {
        match self.below(4) {
            0 => list.push(self.number()),
            1 if !list.is_empty() => drop(list.remove(self.below(list.len()))),
            _ if !list.is_empty() => {
                let at = self.below(list.len());
                list[at] = self.number();
            }
            _ => {}
        }
    }
}

/// Changes a serialized model in place; the new size, or `None` if the bytes are none or the result is too long.
pub fn mutate(data: &mut [u8], size: usize, most: usize, seed: u32) -> Option<usize> {
    let mut model = ModelProto::decode(&data[..size]).ok()?;
    let mut dice = Dice(u64::from(seed) << 1 | 0x1000_0000_0001);
    for _ in 0..1 + dice.below(4) {
        match dice.below(16) {
            0 => model.opset_import.iter_mut().for_each(|o| o.version = Some(dice.below(26) as i64)),
            _ => graph(model.graph.get_or_insert_default(), &mut dice, 0),
        }
    }
    let bytes = model.encode_to_vec();
    (bytes.len() <= most).then(|| {
        data[..bytes.len()].copy_from_slice(&bytes);
        bytes.len()
    })
}

fn graph(g: &mut GraphProto, dice: &mut Dice, depth: usize) {
    match dice.below(12) {
        0..2 if !g.initializer.is_empty() => {
            let at = dice.below(g.initializer.len());
            tensor(&mut g.initializer[at], dice);
        }
        2 if !g.input.is_empty() => {
            let at = dice.below(g.input.len());
            value(&mut g.input[at], dice);
        }
        3 if !g.value_info.is_empty() => {
            let at = dice.below(g.value_info.len());
            value(&mut g.value_info[at], dice);
        }
        4 if !g.node.is_empty() => {
            // The same node again, between the old one and those that read it.
            let at = dice.below(g.node.len());
            let mut copy = g.node[at].clone();
            for output in copy.output.iter_mut().filter(|o| !o.is_empty()) {
                let fresh = format!("{output}~{}", dice.below(1 << 20));
                for input in g.node[at + 1..].iter_mut().flat_map(|n| &mut n.input).filter(|i| *i == output) {
                    input.clone_from(&fresh);
                }
                *output = fresh;
            }
            if let (Some(input), Some(output)) = (copy.input.first_mut(), g.node[at].output.first()) {
                input.clone_from(output);
            }
            g.node.insert(at + 1, copy);
        }
        5 if g.node.len() > 1 => {
            // A node less; its readers take what it read.
            let gone = g.node.remove(dice.below(g.node.len()));
            if let (Some(from), Some(to)) = (gone.output.first(), gone.input.first()) {
                let readers = g.node.iter_mut().flat_map(|n| &mut n.input).filter(|i| *i == from);
                readers.for_each(|i| i.clone_from(to));
                g.output.iter_mut().filter(|o| o.name() == from).for_each(|o| o.name = Some(to.clone()));
            }
        }
        6 if !g.node.is_empty() => {
            // Another value made before.
            let at = dice.below(g.node.len());
            let mut known: Vec<String> = g.node[..at].iter().flat_map(|n| n.output.clone()).collect();
            known.extend(g.initializer.iter().map(|t| t.name().to_string()));
            known.extend(g.input.iter().map(|v| v.name().to_string()));
            if let (false, false) = (known.is_empty(), g.node[at].input.is_empty()) {
                let slot = dice.below(g.node[at].input.len());
                g.node[at].input[slot] = known.swap_remove(dice.below(known.len()));
            }
        }
        _ if !g.node.is_empty() => {
            let at = dice.below(g.node.len());
            node(&mut g.node[at], dice, depth);
        }
        _ => {}
    }
}

fn node(n: &mut NodeProto, dice: &mut Dice, depth: usize) {
    let body = n.attribute.iter().position(|a| a.g.is_some());
    match dice.below(10) {
        0 => n.op_type = OPERATORS.split_whitespace().nth(dice.below(OPERATORS.split_whitespace().count())).map(String::from),
        1 if !n.input.is_empty() => drop(n.input.remove(dice.below(n.input.len()))),
        2 if !n.input.is_empty() => {
            let at = dice.below(n.input.len());
            n.input[at].clear();
        }
        3 if !n.input.is_empty() => n.input.push(n.input[dice.below(n.input.len())].clone()),
        4 if n.input.len() > 1 => {
            let (a, b) = (dice.below(n.input.len()), dice.below(n.input.len()));
            n.input.swap(a, b);
        }
        5 if !n.attribute.is_empty() => drop(n.attribute.remove(dice.below(n.attribute.len()))),
        6 => n.output.push(format!("more~{}", dice.below(1 << 20))),
        7 if n.output.len() > 1 => drop(n.output.pop()),
        8 | 9 if depth < 4 && body.is_some() => {
            if let Some(g) = body.and_then(|at| n.attribute[at].g.as_mut()) {
                graph(g, dice, depth + 1);
            }
        }
        _ if !n.attribute.is_empty() => {
            let at = dice.below(n.attribute.len());
            attribute(&mut n.attribute[at], dice);
        }
        _ => {}
    }
}

fn attribute(a: &mut AttributeProto, dice: &mut Dice) {
    if a.i.is_some() {
        a.i = Some(dice.number());
    } else if a.f.is_some() {
        a.f = Some(FLOATS[dice.below(FLOATS.len())]);
    } else if !a.floats.is_empty() {
        let at = dice.below(a.floats.len());
        a.floats[at] = FLOATS[dice.below(FLOATS.len())];
    } else if let Some(t) = &mut a.t {
        tensor(t, dice);
    } else if a.s.is_none() && a.g.is_none() {
        dice.change(&mut a.ints);
    } else {
        a.s = None;
    }
}

fn tensor(t: &mut TensorProto, dice: &mut Dice) {
    match dice.below(5) {
        0 => t.data_type = Some(dice.below(20) as i32),
        1 if t.data_type == Some(7) => {
            // An integer of a list of sizes.
            let mut values: Vec<i64> = match &t.raw_data {
                Some(raw) => raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
                None => t.int64_data.clone(),
            };
            dice.change(&mut values);
            t.dims = vec![values.len() as i64];
            t.raw_data = None;
            t.int64_data = values;
        }
        2 => t.raw_data = None,
        _ => dice.change(&mut t.dims),
    }
}

fn value(v: &mut ValueInfoProto, dice: &mut Dice) {
    let Some(Type::TensorType(tensor)) = v.r#type.as_mut().and_then(|t| t.value.as_mut()) else { return };
    let Some(shape) = &mut tensor.shape else { return };
    match dice.below(4) {
        0 if !shape.dim.is_empty() => drop(shape.dim.remove(dice.below(shape.dim.len()))),
        1 => shape.dim.push(Default::default()),
        2 => tensor.shape = None,
        _ if !shape.dim.is_empty() => {
            let at = dice.below(shape.dim.len());
            shape.dim[at].value = if dice.below(4) == 0 { None } else { Some(Dim::DimValue(dice.number())) };
        }
        _ => {}
    }
}

/// Defines the mutator of a target: three mutations of four on the message, the rest and those of other bytes on bytes.
#[macro_export]
macro_rules! mutate_models {
    () => {
        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            let structured = if seed % 4 == 0 { None } else { $crate::mutate(data, size, max_size, seed) };
            structured.unwrap_or_else(|| libfuzzer_sys::fuzzer_mutate(data, size, max_size))
        });
    };
}
