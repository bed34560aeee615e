//! Bytes → model → plain form without ONNX Runtime → shapes → layers, channels and what each layer can take.
#![no_main]

use gulliver::{
    graph::{
        Model,
        group::Channels,
        layer::Layers,
        shape::{self, Pins},
    },
    normalise::normalise_without_runtime,
    precision::Precision,
    space::limits,
    spec::Rank,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = Model::parse("fuzz", bytes) else { return };
    let (pins, _) = shape::assume(&model, &Pins::new());
    analyse(&model, &pins);
    // The normalising passes must neither panic nor make a model that breaks what follows.
    if let Ok(plain) = normalise_without_runtime(&model, &pins) {
        analyse(&plain.model, &pins);
    }
});

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
