//! Work of one operator spread over the threads of the process, the same parts whatever their number.

use rayon::prelude::*;

/// Elements of a part: small enough for the cache of a core, large enough to be worth a thread.
const PART: usize = 1 << 15;

/// Calls with the first index and the elements of each part of a slice.
pub(super) fn in_chunks(values: &mut [f32], work: impl Fn(usize, &mut [f32]) + Sync) {
    values.par_chunks_mut(PART).enumerate().for_each(|(i, part)| work(i * PART, part));
}
