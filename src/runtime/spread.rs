//! Work of one operator spread over the threads of the process, the same parts whatever their number.

use rayon::prelude::*;

/// Elements of a part: small enough for the cache of a core, large enough to be worth a thread.
const PART: usize = 1 << 15;

/// Calls with the first index and the elements of each part of a slice.
pub(super) fn in_chunks(values: &mut [f32], work: impl Fn(usize, &mut [f32]) + Sync) {
    let work = |(i, part): (usize, &mut [f32])| {
        // With the widest vectors that this processor has.
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || work(i * PART, part),
        );
    };
    values.par_chunks_mut(PART).enumerate().for_each(work);
}

/// Calls with the number and the elements of each row of a slice.
pub(super) fn in_rows(values: &mut [f32], length: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = (PART / length.max(1)).max(1);
    let part = |(i, part): (usize, &mut [f32])| part.chunks_mut(length.max(1)).enumerate().for_each(|(j, row)| work(i * rows + j, row));
    values.par_chunks_mut(rows * length.max(1)).enumerate().for_each(part);
}
