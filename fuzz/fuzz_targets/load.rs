//! Bytes → model → bytes → the same model, and its index.
#![no_main]

use gulliver::graph::{Index, Model};
use libfuzzer_sys::fuzz_target;

gulliver_fuzz::mutate_models!();

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = Model::parse("fuzz", bytes) else { return };
    let Ok(written) = model.to_bytes() else { return };
    let again = match Model::parse("fuzz", &written) {
        Ok(again) => again,
        Err(e) => panic!("what was written is not read again: {e}"),
    };
    assert_eq!(written, again.to_bytes().unwrap_or_default(), "reading and writing again changes the model");
    let index = Index::new(&again);
    for node in &again.graph().node {
        for value in &node.output {
            index.readers(value);
            index.sole_reader(value);
        }
    }
    for name in index.constants.keys() {
        index.floats(name);
        index.ints(name);
    }
});
