//! Bytes → model → shapes of all values, for one sample and for three.
#![no_main]

use gulliver::graph::{
    Model, assume,
    shape::{self, Pins},
};
use libfuzzer_sys::fuzz_target;

/// Every unknown dimension but the batch is 8.
fn pins(model: &Model) -> Pins {
    let mut pins = Pins::new();
    for input in model.inputs() {
        let Some(dims) = shape::declared(input) else { continue };
        if dims.iter().skip(1).any(Option::is_none) {
            let sizes = dims.iter().enumerate().map(|(i, d)| d.unwrap_or(if i == 0 { 0 } else { 8 })).collect();
            pins.insert(input.name().to_string(), sizes);
        }
    }
    pins
}

gulliver_fuzz::mutate_models!();

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = Model::parse("fuzz", bytes) else { return };
    let pins = pins(&model);
    for batch in [1, 3] {
        let Ok(shapes) = shape::infer(&model, batch, &pins) else { continue };
        for value in model.graph().node.iter().flat_map(|n| &n.output) {
            shapes.elements(value);
        }
    }
    let (assumed, _) = assume::assume(&model, &Pins::new());
    let _ = shape::integers(&model, 2, &assumed);
});
