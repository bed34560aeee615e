//! Bytes → model → plain form without ONNX Runtime → shapes → layers, channels and what each layer can take.
#![no_main]

use gulliver::{
    graph::{
        Model, assume,
        group::Channels,
        layer::Layers,
        proto::NodeProto,
        shape::{self, Pins},
    },
    normalise::normalise_without_runtime,
    precision::Precision,
    space::limits,
    spec::Rank,
};
use libfuzzer_sys::fuzz_target;

gulliver_fuzz::mutate_models!();

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = Model::parse("fuzz", bytes) else { return };
    let (pins, _) = assume::assume(&model, &Pins::new());
    if written_out(&model, &pins).is_none_or(|n| n > 1 << 20) {
        return;
    }
    analyse(&model, &pins);
    // The normalising passes must neither panic nor make a model that breaks what follows.
    if let Ok(plain) = normalise_without_runtime(&model, &pins) {
        analyse(&plain.model, &pins);
    }
});

/// Elements of the weights that `ConstantOfShape` makes of a few bytes. Large networks of that kind are real, and take their time.
fn written_out(model: &Model, pins: &Pins) -> Option<usize> {
    let shapes = shape::infer(model, 1, pins).ok()?;
    let made = |n: &NodeProto| if n.op_type() == "ConstantOfShape" { shapes.elements(n.output.first()?) } else { Some(0) };
    model.graph().node.iter().try_fold(0usize, |sum, n| sum.checked_add(made(n)?))
}

fn analyse(model: &Model, pins: &Pins) {
    let Ok(shapes) = shape::infer(model, 1, pins) else { return };
    let layers = Layers::find(model, &shapes);
    let channels = Channels::analyse(model, &layers, &shapes);
    for (i, layer) in layers.layers.iter().enumerate() {
        limits::why_not_precision(layer, Precision::Int4);
        limits::why_not_keep(i, &channels);
        let rank = limits::components(layer, Rank::Fraction(0.5));
        limits::why_not_rank(layer, rank);
        limits::decomposed_weights(layer, rank);
    }
    for group in &channels.groups {
        limits::kept_in_group(group, 0.5);
    }
}
