//! Reductions.

use proptest::prelude::*;

use super::{Slot, check_as, few, fixed, value, within};
use crate::graph::tensor::{int, ints};

const ALL: [&str; 8] = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp"];

proptest! {
    #![proptest_config(few(32))]

    #[test]
    fn reductions_over_any_axes_are_differentiated(
        which in 0usize..8, dims in proptest::collection::vec(1usize..4, 1..5), mask in any::<u8>(), keep in any::<bool>(),
            new in any::<bool>(), back in any::<bool>(), seed in any::<u64>(),
    ) {
        let n = dims.len() as i64;
        let axes: Vec<i64> = (0..n).filter(|a| mask >> a & 1 == 1).map(|a| if back { a - n } else { a }).collect();
        let (mut slots, mut attributes) = (vec![value(&dims, seed)], vec![int("keepdims", i64::from(keep))]);
        match (axes.is_empty(), new) {
            (true, _) => {}
            (false, true) => slots.push(fixed(&axes)),
            (false, false) => attributes.push(ints("axes", &axes)),
        }
        check_as(ALL[which], &slots, attributes, 1, if new { 18 } else { 12 });
    }
}

#[test]
fn a_reduction_over_nothing_hands_its_gradient_on() {
    for op in ["ReduceSum", "ReduceMean", "ReduceMax"] {
        check_as(op, &[Slot::Value(within(&[2, 3], 1, 0.5, 2.0))], vec![int("noop_with_empty_axes", 1)], 1, 18);
    }
}
