//! Samples fed to a session as its inputs want them.
//!
//! Most networks take any batch; some are exported for a fixed one, and some have inputs without a batch (a sampling rate, a state of a
//! recurrent network). All are run over the same samples here.

use ndarray::{ArrayViewD, Axis, Slice};

use crate::{data::Dataset, error::Result, runtime::Session};

/// What a run was given and gave.
pub struct Run<'r> {
    /// Samples in it.
    pub samples: usize,
    /// Inputs by name.
    pub inputs: Vec<(&'r str, ArrayViewD<'r, f32>)>,
    /// Outputs in the order they were asked for.
    pub outputs: Vec<ArrayViewD<'r, f32>>,
}

/// Runs the session over samples of a set, in as few runs as the model allows, and hands each run to `each`. `wanted` are
/// the outputs to compute, all if none.
///
/// A model of a fixed batch gets its last batch filled up with the last sample; what that gives is cut off again.
///
/// # Errors
/// If the data cannot be read, the model cannot be run, or `each` fails.
pub fn feed(
    session: &mut Session,
    data: &Dataset,
    samples: &[usize],
    wanted: Option<&[&str]>,
    mut each: impl FnMut(Run<'_>) -> Result<()>,
) -> Result<()> {
    let fixed = fixed_batch(session, data);
    let mut step = fixed.unwrap_or(samples.len()).max(1);
    let mut rest = samples;
    while !rest.is_empty() {
        let chunk = &rest[..step.min(rest.len())];
        match run_once(session, data, chunk, fixed.unwrap_or(chunk.len()), wanted, &mut each) {
            Ok(done) => {
                done?;
                rest = &rest[chunk.len()..];
            }
            // An export that says it takes any batch, and takes one sample only.
            Err(e) if fixed.is_none() && chunk.len() > 1 => {
                if run_once(session, data, &chunk[..1], 1, wanted, &mut |_| Ok(())).is_err() {
                    return Err(e);
                }
                step = 1;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The batch the model insists on, if it does; 1 where an input without batch belongs to each sample.
fn fixed_batch(session: &Session, data: &Dataset) -> Option<usize> {
    let rank = |name: &str| data.inputs().find(|(n, _)| *n == name).map_or(0, |(_, sample)| sample.len() + 1);
    let (batched, single): (Vec<_>, Vec<_>) = session.inputs().iter().partition(|p| p.dims.len() == rank(&p.name));
    let fixed = batched.iter().find_map(|p| p.dims.first().copied().flatten());
    if single.is_empty() { fixed } else { fixed.or(Some(1)) }
}

/// One run; an error of the run, or else what `each` made of it.
fn run_once(
    session: &mut Session,
    data: &Dataset,
    chunk: &[usize],
    batch: usize,
    wanted: Option<&[&str]>,
    each: &mut impl FnMut(Run<'_>) -> Result<()>,
) -> Result<Result<()>> {
    let filled: Vec<usize> = chunk.iter().copied().chain(chunk.last().copied().into_iter().cycle()).take(batch.max(chunk.len())).collect();
    let mut inputs = data.batch(&filled)?;
    for (name, array) in &mut inputs {
        let rank = session.inputs().iter().find(|p| p.name == *name).map_or(array.ndim(), |p| p.dims.len());
        if rank + 1 == array.ndim() {
            *array = array.index_axis(Axis(0), 0).to_owned();
        }
    }
    let views: Vec<(&str, ArrayViewD<'_, f32>)> = inputs.iter().map(|(n, a)| (n.as_str(), a.view())).collect();
    let mut hand_over = |outputs: Vec<ArrayViewD<'_, f32>>| {
        let inputs = inputs.iter().map(|(n, a)| (n.as_str(), cut(a.view(), filled.len(), chunk.len()))).collect();
        let outputs = outputs.into_iter().map(|o| cut(o, filled.len(), chunk.len())).collect();
        each(Run { samples: chunk.len(), inputs, outputs })
    };
    if wanted.is_some_and(<[_]>::is_empty) {
        return Ok(hand_over(Vec::new()));
    }
    session.run_viewing(&views, wanted, hand_over)
}

/// An array of a filled batch without what it was filled with.
fn cut(mut array: ArrayViewD<'_, f32>, filled: usize, samples: usize) -> ArrayViewD<'_, f32> {
    if array.ndim() > 0 && array.shape()[0] == filled {
        array.slice_axis_inplace(Axis(0), Slice::from(..samples));
    }
    array
}
