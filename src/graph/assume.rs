//! Usual sizes for inputs that leave theirs open, so that any model can be looked at.

use std::collections::HashMap;

use super::{
    Model,
    model::int_attribute,
    proto::{ValueInfoProto, tensor_shape_proto::dimension::Value as Dim, type_proto::Value as Type},
    shape::{Pins, declared, infer},
    tensor,
};

/// Parts of the usual sizes that are tried where these do not go with the network, such as a sequence longer than its table of positions.
const PARTS: [usize; 4] = [1, 2, 4, 8];

/// `pins`, and for every other input with unknown dimensions besides the batch a usual size: 224 for an image's sides, 3 for its channels,
/// 128 for a sequence, and what the first layer reads where nothing is declared; a half, a quarter or an eighth where more shapes can be
/// inferred with it. The same symbol gets the same size; the symbol that some input has in front is the batch everywhere. Second: the inputs
/// that sizes were assumed for.
pub fn assume(model: &Model, pins: &Pins) -> (Pins, Pins) {
    let mut best: Option<(usize, Pins, Pins)> = None;
    for part in PARTS {
        let assumed = at_part(model, pins, part);
        let mut all = pins.clone();
        all.extend(assumed.clone());
        if assumed.is_empty() {
            return (all, assumed);
        }
        let unknown = unknown(model, &all);
        if best.as_ref().is_none_or(|(least, ..)| unknown < *least) {
            best = Some((unknown, all, assumed));
        }
        if unknown == 0 {
            break;
        }
    }
    best.map_or_else(|| (pins.clone(), Pins::new()), |(_, all, assumed)| (all, assumed))
}

/// Number of values whose shape cannot be inferred.
fn unknown(model: &Model, pins: &Pins) -> usize {
    let outputs = || model.graph().node.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty());
    infer(model, 1, pins).map_or(usize::MAX, |shapes| outputs().filter(|o| shapes.dims(o).is_none()).count())
}

fn at_part(model: &Model, pins: &Pins, part: usize) -> Pins {
    let mut assumed = Pins::new();
    let batch: Vec<String> = model.inputs().filter_map(|i| symbols(i)?.into_iter().next().flatten()).collect();
    let open_batch = model.inputs().next().and_then(declared).is_some_and(|d| d.first() == Some(&None));
    for input in model.inputs().filter(|i| !pins.contains_key(i.name())) {
        let (Some(dims), Some(symbols)) = (declared(input), symbols(input)) else {
            assumed.extend(wanted_by_reader(model, input.name()).map(|dims| (input.name().to_string(), dims)));
            continue;
        };
        let is_batch = |i: usize| {
            let symbol = symbols[i].as_ref();
            i == 0 || symbol.is_some_and(|s| batch.contains(s) || s.to_lowercase().contains("batch"))
        };
        let rank = dims.len();
        // The state of a recurrent network: directions, batch, features.
        let is_state = rank == 3 && dims[0].is_some() && open_batch;
        let channels_last = rank == 4 && dims[3].is_some_and(|c| c <= 4);
        let usual = |i: usize| match rank {
            4 | 5 if i == 1 && !channels_last => 3,
            4 if i == 3 && channels_last => 3,
            4 => 224 / part,
            5 => 32 / part,
            _ => 128 / part,
        };
        if (1..rank).any(|i| dims[i].is_none()) {
            let sizes =
                (0..rank).map(|i| dims[i].unwrap_or_else(|| if is_batch(i) || (is_state && i == 1) { 0 } else { usual(i) })).collect();
            assumed.insert(input.name().to_string(), sizes);
        }
    }
    // A symbol that stands for one size stands for it everywhere; what is given goes before what is assumed.
    let mut sizes: HashMap<String, usize> = HashMap::new();
    for input in model.inputs() {
        let (Some(list), Some(dims)) = (symbols(input), pins.get(input.name())) else { continue };
        let not_batch = list.into_iter().zip(dims).skip(1);
        sizes.extend(not_batch.filter_map(|(symbol, &d)| Some((symbol?, d))));
    }
    for input in model.inputs() {
        let (Some(list), Some(dims)) = (symbols(input), assumed.get_mut(input.name())) else { continue };
        for (symbol, dim) in list.iter().zip(dims) {
            if let Some(symbol) = symbol {
                *dim = *sizes.entry(symbol.clone()).or_insert(*dim);
            }
        }
    }
    assumed
}

/// Usual sizes for an input that tells nothing of its shape, from the weight of the layer that reads it.
fn wanted_by_reader(model: &Model, input: &str) -> Option<Vec<usize>> {
    let graph = model.graph();
    let reader = graph.node.iter().find(|n| n.input.first().is_some_and(|i| i == input))?;
    let weight = graph.initializer.iter().find(|t| reader.input.get(1).is_some_and(|w| w == t.name()))?;
    let w = tensor::dims(weight);
    match (reader.op_type(), w.as_slice()) {
        ("Conv", [_, c, window @ ..]) => {
            let groups = usize::try_from(int_attribute(reader, "group", 1)).unwrap_or(1);
            let side = if window.len() == 2 { 224 } else { 128 };
            Some([vec![0, c.checked_mul(groups)?], vec![side; window.len()]].concat())
        }
        ("Gemm", [a, b]) => Some(vec![0, if int_attribute(reader, "transB", 0) == 1 { *b } else { *a }]),
        ("MatMul", [k, _]) => Some(vec![0, *k]),
        _ => None,
    }
}

/// Symbols of an input's dimensions.
fn symbols(value: &ValueInfoProto) -> Option<Vec<Option<String>>> {
    let Some(Type::TensorType(tensor)) = value.r#type.as_ref()?.value.as_ref() else { return None };
    let symbol = |d: &Option<Dim>| match d {
        Some(Dim::DimParam(p)) if !p.is_empty() => Some(p.clone()),
        _ => None,
    };
    Some(tensor.shape.as_ref()?.dim.iter().map(|d| symbol(&d.value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{
        fixture::Net,
        proto::{ValueInfoProto, tensor_shape_proto::Dimension},
    };

    fn open(model: &mut Model, input: usize, dims: &[Option<&str>]) {
        let Some(Type::TensorType(t)) = model.graph_mut().input[input].r#type.as_mut().unwrap().value.as_mut() else { panic!() };
        for (dim, symbol) in t.shape.as_mut().unwrap().dim.iter_mut().zip(dims) {
            if let Some(symbol) = symbol {
                *dim = Dimension { value: Some(Dim::DimParam((*symbol).into())), ..Default::default() };
            }
        }
    }

    fn pins(list: &[(&str, &[usize])]) -> Pins {
        list.iter().map(|(n, d)| ((*n).to_string(), d.to_vec())).collect()
    }

    #[test]
    fn images_get_usual_sides_and_keep_their_channels() {
        let mut model = Net::new(&[-1, 6, 8, 8]).conv("y", "x", (6, 4), 3).build("y");
        open(&mut model, 0, &[Some("n"), None, Some("h"), Some("w")]);
        assert_eq!(assume(&model, &Pins::new()).1, pins(&[("x", &[0, 6, 224, 224])]));
        assert_eq!(assume(&model, &pins(&[("x", &[1, 6, 32, 48])])), (pins(&[("x", &[1, 6, 32, 48])]), Pins::new()));
    }

    #[test]
    fn a_symbol_means_one_size_and_a_sequence_fits_its_table_of_positions() {
        let net = Net::new(&[-1, 7, 6]).weight("table", &[1, 40, 6]).constant(tensor::from_i64("one", &[1])).node(
            "Shape",
            "dims",
            &["x"],
            vec![],
        );
        let net = net.node("Gather", "n", &["dims", "one"], vec![]).constant(tensor::from_i64("zero", &[0]));
        let net = net.node("Slice", "positions", &["table", "zero", "n", "one"], vec![]).node("Add", "s", &["x", "positions"], vec![]);
        let mut model = net.node("Add", "y", &["s", "mask"], vec![]).build("y");
        let mask = ValueInfoProto { name: Some("mask".into()), ..model.graph().input[0].clone() };
        model.graph_mut().input.push(mask);
        for input in 0..2 {
            open(&mut model, input, &[Some("n"), Some("tokens"), None]);
        }
        let expected: &[usize] = &[0, 32, 6];
        assert_eq!(assume(&model, &Pins::new()).1, pins(&[("x", expected), ("mask", expected)]), "40 positions: 128 and 64 are too many");
        assert_eq!(assume(&model, &pins(&[("x", &[1, 20, 6])])).1, pins(&[("mask", &[0, 20, 6])]));
    }

    #[test]
    fn an_input_without_a_shape_gets_what_its_layer_reads() {
        let mut model = Net::new(&[-1, 6, 8, 8]).conv("y", "x", (6, 4), 3).build("y");
        model.graph_mut().input[0].r#type = None;
        assert_eq!(assume(&model, &Pins::new()).1, pins(&[("x", &[0, 6, 224, 224])]));
    }
}
