//! Normalisations.

use proptest::prelude::*;

use super::{Case, Slot, check, check_as, constant, few, value, within};
use crate::graph::tensor::{float, int};

/// Three or four axes: examples, channels and places. There are three places or more, as of two that are normalised only the ε has a slope.
fn dims() -> impl Strategy<Value = Vec<usize>> {
    (1usize..4, 1usize..4, proptest::collection::vec(3usize..5, 1..3)).prop_map(|(n, c, places)| [&[n, c], places.as_slice()].concat())
}

proptest! {
    #![proptest_config(few(12))]

    #[test]
    fn normalisations_by_given_statistics_are_differentiated(dims in dims(), flat in any::<bool>(), epsilon in 1e-5f32..1e-1,
        seed in any::<u64>()) {
        let channel = |low: f64, by: u64| Slot::Value(within(&[dims[1]], seed ^ by, low, 2.0));
        let x = value(&dims[..if flat { 2 } else { dims.len() }], seed);
        check("BatchNormalization", &[x, channel(0.3, 1), channel(-2.0, 2), channel(-2.0, 3), channel(0.4, 4)], vec![float("epsilon",
            epsilon)]);
    }

    #[test]
    fn normalisations_by_the_batch_are_differentiated(dims in dims(), epsilon in 1e-3f32..1e-1, seed in any::<u64>()) {
        let channel = |low: f64, by: u64| Slot::Value(within(&[dims[1]], seed ^ by, low, 2.0));
        let fixed = |by: u64| constant(crate::graph::tensor::from_f32("", &within(&[dims[1]], by, 0.5, 2.0).mapv(|v| v as f32)));
        let slots = [value(&dims, seed), channel(0.3, 1), channel(-2.0, 2), fixed(3), fixed(4)];
        Case::new("BatchNormalization", &slots, vec![int("training_mode", 1), float("epsilon", epsilon)], 3, &[0], 15).check(&[false,
            true]);
    }

    #[test]
    fn normalisations_of_layers_are_differentiated(dims in dims(), from in 1usize..4, bias in any::<bool>(), back in any::<bool>(),
        seed in any::<u64>()) {
        let from = from.min(dims.len() - 1);
        let mut slots = vec![value(&dims, seed), value(&dims[from..], seed ^ 1)];
        slots.extend(bias.then(|| value(&dims[from..], seed ^ 2)));
        let axis = if back { from as i64 - dims.len() as i64 } else { from as i64 };
        check("LayerNormalization", &slots, vec![int("axis", axis), float("epsilon", 1e-3)]);
    }

    #[test]
    fn normalisations_of_instances_and_groups_are_differentiated(
        batch in 1usize..3, (groups, size) in (1usize..3, 1usize..3), places in proptest::collection::vec(3usize..5, 1..3),
            seed in any::<u64>(),
    ) {
        let channels = groups * size;
        let slots = [value(&[&[batch, channels], places.as_slice()].concat(), seed), value(&[channels], seed ^ 1), value(&[channels],
            seed ^ 2)];
        check("InstanceNormalization", &slots, vec![float("epsilon", 1e-2)]);
        check_as("InstanceNormalization", &slots, vec![], 1, 11);
        check_as("GroupNormalization", &slots, vec![int("num_groups", groups as i64), float("epsilon", 1e-2)], 1, 21);
    }
}
