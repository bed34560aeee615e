//! Channels tried out: every group is cut once on the skeleton, and those whose cutting breaks a shape stay whole.
//!
//! The walk of [`crate::graph::group`] follows operators; what exporters compute shapes from (Shape, Gather, Concat, Where…) has too
//! many forms to follow, so it is tried.

use std::collections::BTreeMap;

use super::{prune, structure};
use crate::{
    error::Result,
    graph::{
        Model,
        group::Channels,
        layer::{Layer, Layers},
        shape::{self, Shapes},
    },
    space::{Plan, limits},
};

/// Share of channels that is kept in a try.
const KEEP: f64 = 0.5;
/// The batch of a try, unlike 1, so that a channel that slips into the batch is seen.
const BATCH: usize = 3;

/// Forbids the groups that cannot be cut.
///
/// # Errors
/// If the network's own shapes cannot be inferred.
pub(super) fn probe(skeleton: &Model, layers: &Layers, channels: &mut Channels, pins: &BTreeMap<String, Vec<usize>>) -> Result<()> {
    let shapes = shape::infer(skeleton, BATCH, pins)?;
    let free: Vec<usize> = (0..channels.groups.len()).filter(|&g| can_lose_some(channels, g)).collect();
    let try_out = |channels: &Channels, groups: &[usize]| broken(skeleton, &shapes, layers, channels, groups, pins);
    if try_out(channels, &free).is_none() {
        return Ok(());
    }
    for &g in &free {
        if let Some(reason) = try_out(channels, &[g]) {
            tracing::debug!(group = channels.groups[g].name, reason, "cannot be cut");
            channels.groups[g].frozen = Some(reason);
        }
    }
    // Groups that only break something together: give up from the last on.
    for (i, &g) in free.iter().enumerate().rev() {
        let left: Vec<usize> = free[..=i].iter().copied().filter(|&g| channels.groups[g].frozen.is_none()).collect();
        match try_out(channels, &left) {
            Some(reason) if channels.groups[g].frozen.is_none() => channels.groups[g].frozen = Some(reason),
            Some(_) => {}
            None => break,
        }
    }
    Ok(())
}

fn can_lose_some(channels: &Channels, group: usize) -> bool {
    let group = &channels.groups[group];
    group.frozen.is_none() && limits::kept_in_group(group, KEEP) < group.units()
}

/// What breaks if these groups are cut.
fn broken(
    skeleton: &Model,
    shapes: &Shapes,
    layers: &Layers,
    channels: &Channels,
    groups: &[usize],
    pins: &BTreeMap<String, Vec<usize>>,
) -> Option<String> {
    let mut plan = Plan::identity(layers);
    for &l in groups.iter().flat_map(|&g| &channels.groups[g].layers) {
        plan.treatments[l].1.keep = KEEP;
    }
    let cut = prune::removed_units(channels, &plan, &|g| Ok(prune::from_the_end(&channels.groups[g])))
        .and_then(|gone| structure::structure(skeleton, layers, channels, &plan, &gone, None))
        .and_then(|s| s.on(skeleton));
    let cut = match cut {
        Ok(cut) => cut.model,
        Err(e) => return Some(e.to_string()),
    };
    let Ok(now) = shape::infer(&cut, BATCH, pins) else { return Some("its shapes cannot be inferred any more".into()) };
    for node in &cut.graph().node {
        for output in node.output.iter().filter(|o| shapes.dims(o).is_some()) {
            let (old, new) = (shapes.dims(output), now.dims(output));
            if new.is_none_or(|n| Some(n.len()) != old.map(<[usize]>::len)) {
                return Some(format!("{} {} computes a shape that would not fit", node.op_type(), node.name()));
            }
        }
    }
    if let Some(o) = cut.graph().output.iter().find(|o| shapes.dims(o.name()) != now.dims(o.name())) {
        return Some(format!("the shape of the output {} would change", o.name()));
    }
    let fits = |layer: &&Layer| {
        let (Some(x), Some(w)) = (now.dims(&layer.input), now.dims(&layer.weight)) else { return true };
        let axis = layer.input_axis();
        let axis = usize::try_from(if axis < 0 { axis + x.len().cast_signed() } else { axis }).ok();
        let groups = if layer.groups > 1 { cut_groups(&cut, layer) } else { 1 };
        let read = if layer.op == crate::graph::layer::LayerOp::Conv { w[layer.in_axis] * groups } else { w[layer.in_axis] };
        axis.and_then(|a| x.get(a)) == Some(&read)
    };
    let misfit = layers.layers.iter().find(|l| !fits(l))?;
    Some(format!("{} would get another number of channels than it reads", misfit.name))
}

fn cut_groups(model: &Model, layer: &Layer) -> usize {
    let node = model.graph().node.iter().find(|n| n.name() == layer.name);
    node.map_or(1, |n| usize::try_from(crate::graph::model::int_attribute(n, "group", 1)).unwrap_or(1))
}
