//! What to do when tables get too large: weak interactions are fixed at a reference, and plans are improved afterwards.
//!
//! A factor loses an axis by f(x, u) ~ f(x, u0) + f(x0, u) - f(x0, u0): exact around the reference and wherever the
//! axis does not interact with the others of the factor.

use super::{
    model::{Factor, Model, Pair, add, offset},
    order::{Plan, plan},
};

/// Share of the factors around a table that is too large that lose an axis at a time.
const SHARE: usize = 8;
/// Passes over the axes when a plan is improved.
const PASSES: usize = 20;

/// A model that fits, with its order.
#[derive(Debug)]
pub(super) struct Fitted {
    pub model: Model,
    pub plan: Plan,
    /// Whether the model is as it was given.
    pub whole: bool,
}

/// Leaves out interactions until no table has more than `states` entries.
pub(super) fn fit(model: &Model, states: usize, reference: &[u16]) -> Fitted {
    let (mut model, mut whole, scale) = (model.clone(), true, model.scale());
    loop {
        match plan(&model, states.max(1)) {
            Ok(plan) => return Fitted { model, plan, whole },
            Err(axes) => loosen(&mut model, &axes, reference, scale),
        }
        whole = false;
    }
}

/// Takes the least influential axis out of the weakest factors around a table.
fn loosen(model: &mut Model, axes: &[usize], reference: &[u16], scale: Pair) {
    let near = |f: &Factor| f.axes.len() > 1 && f.axes.iter().any(|a| axes.contains(a));
    let weakest = |(i, f): (usize, &Factor)| {
        let each = (0..f.axes.len()).map(|p| (influence(&model.options, f, p, reference, scale), i, p));
        each.min_by(|a, b| a.0.total_cmp(&b.0))
    };
    let mut weak: Vec<(f64, usize, usize)> = model.factors.iter().enumerate().filter(|(_, f)| near(f)).filter_map(weakest).collect();
    weak.sort_by(|a, b| a.0.total_cmp(&b.0));
    for &(_, i, position) in &weak[..weak.len().div_ceil(SHARE)] {
        let (rest, alone) = split(&model.options, &model.factors[i], position, reference);
        model.factors[i] = rest;
        model.factors.push(alone);
    }
}

/// Splits a table index into that at the reference option of an axis and that at the reference of the others.
fn corners(options: &[usize], factor: &Factor, position: usize, reference: &[u16]) -> impl Fn(usize) -> [usize; 3] {
    let axis = factor.axes[position];
    let stride: usize = factor.axes[position + 1..].iter().map(|&a| options[a]).product();
    let (count, mild) = (options[axis], usize::from(reference[axis]));
    let base = offset(options, &factor.axes, reference);
    move |i| {
        let option = i / stride % count;
        [i + mild * stride - option * stride, base + option * stride - mild * stride, base]
    }
}

/// The largest interaction of an axis with the others of a factor, cost and harm relative to their scale.
fn influence(options: &[usize], factor: &Factor, position: usize, reference: &[u16], scale: Pair) -> f64 {
    let corner = corners(options, factor, position, reference);
    let share = |i: usize, k: usize| {
        let [a, b, c] = corner(i).map(|j| factor.table[j][k]);
        let error = (factor.table[i][k] - a - b + c).abs();
        if error.is_nan() { f64::INFINITY } else { error / scale[k].max(f64::MIN_POSITIVE) }
    };
    (0..factor.table.len()).map(|i| share(i, 0) + share(i, 1)).fold(0.0, f64::max)
}

/// A factor without one axis, and what that axis adds alone; what is forbidden together is not forbidden alone.
fn split(options: &[usize], factor: &Factor, position: usize, reference: &[u16]) -> (Factor, Factor) {
    let axis = factor.axes[position];
    let corner = corners(options, factor, position, reference);
    let table = (0..factor.table.len()).filter(|&i| corner(i)[0] == i).map(|i| factor.table[i]).collect();
    let axes = factor.axes.iter().copied().filter(|&a| a != axis).collect();
    let stride: usize = factor.axes[position + 1..].iter().map(|&a| options[a]).product();
    let change = |option: usize| {
        let [_, own, base] = corner(option * stride);
        let pair = [0, 1].map(|k| factor.table[own][k] - factor.table[base][k]);
        if pair.iter().all(|x| x.is_finite()) { pair } else { [0.0, 0.0] }
    };
    (Factor { axes, table }, Factor { axes: vec![axis], table: (0..options[axis]).map(change).collect() })
}

/// Improves a plan axis by axis: towards the limits of cost of all models, then to less harm of the first.
pub(super) fn improve(models: &[(&Model, f64)], mut plan: Vec<u16>) -> Vec<u16> {
    let factors = |model: &Model| {
        let mut of = vec![Vec::new(); model.options.len()];
        model.factors.iter().enumerate().for_each(|(i, f)| f.axes.iter().for_each(|&a| of[a].push(i)));
        of
    };
    let of: Vec<Vec<Vec<usize>>> = models.iter().map(|(m, _)| factors(m)).collect();
    let total = |model: &Model, plan: &[u16]| {
        model.factors.iter().map(|f| f.table[offset(&model.options, &f.axes, plan)]).fold(model.constant, add)[0]
    };
    let mut costs: Vec<f64> = models.iter().map(|(m, _)| total(m, &plan)).collect();
    for _ in 0..PASSES {
        let before = plan.clone();
        for axis in 0..plan.len() {
            let now = usize::from(plan[axis]);
            let slices: Vec<Vec<Pair>> = models.iter().zip(&of).map(|((m, _), f)| m.slice(axis, &f[axis], &plan)).collect();
            let moved = |option: usize, k: usize| costs[k] + slices[k][option][0] - slices[k][now][0];
            let rank = |option: usize| {
                let over: f64 = (0..models.len()).map(|k| (moved(option, k) - models[k].1).max(0.0) / models[k].1.abs().max(1e-9)).sum();
                [over, slices[0][option][1], moved(option, 0)]
            };
            let less =
                |a: &[f64; 3], b: &[f64; 3]| a.iter().zip(b).map(|(x, y)| x.total_cmp(y)).find(|o| o.is_ne()).is_some_and(|o| o.is_lt());
            let possible = |option: &usize| slices.iter().all(|s| s[*option].iter().all(|x| x.is_finite()));
            let best = (0..slices[0].len()).filter(possible).fold(now, |best, o| if less(&rank(o), &rank(best)) { o } else { best });
            costs = (0..models.len()).map(|k| moved(best, k)).collect();
            plan[axis] = best as u16;
        }
        if plan == before {
            break;
        }
    }
    plan
}
