//! One share of channels over several groups.

use super::*;

/// Two convolutions in a row whose channels can go, of the second each output twice.
fn chain() -> Compressor {
    let half = some(&[4, 8, 3, 3], 5);
    let twice = ndarray::concatenate(Axis(0), &[half.view(), half.view()]).unwrap();
    let net = Net::new(&[-1, 3, 9, 9]).conv("a", "x", (3, 8), 3).relu("r", "a").constant(from_f32("b.w", &twice));
    let net = net.node("Conv", "b", &["r", "b.w"], vec![]).relu("s", "b").conv("y", "s", (8, 4), 1);
    let mut c = load(&net.build("y"));
    let x = inputs(&c.model);
    calibrate_on(&mut c, &x);
    c
}

fn left(c: &Compressor, plan: &Plan) -> Vec<usize> {
    c.channels.groups.iter().filter(|g| g.frozen.is_none()).map(|g| limits::kept_in_group(g, plan.treatments[g.layers[0]].1.keep)).collect()
}

#[test]
fn what_is_there_twice_goes_first_where_all_costs_the_same() {
    let c = chain();
    let total = |p: &Plan| Ok(left(&c, p).iter().sum::<usize>() as f64);
    let plan = c.spread(&Plan::identity(&c.layers), 12.0 / 16.0, &total).unwrap();
    assert_eq!(left(&c, &plan), [8, 4]);
    let cut = restructured(&c, &plan);
    let x = inputs(&c.model);
    assert_close(&run(&c.model, &x), &run(&cut.model, &x), 0.03, "half of the second gone");
}

#[test]
fn it_costs_no_more_than_the_same_share_of_every_group() {
    let c = chain();
    // The first group is dear, and what is there twice in the second goes for nothing.
    let cost = |p: &Plan| Ok(left(&c, p).iter().zip([10.0, 1.0]).map(|(&n, w)| n as f64 * w).sum());
    let plan = c.spread(&Plan::identity(&c.layers), 0.75, &cost).unwrap();
    assert_eq!(left(&c, &plan), [6, 6]);
    let cheap = |p: &Plan| Ok(left(&c, p).iter().zip([1.0, 10.0]).map(|(&n, w)| n as f64 * w).sum());
    let plan = c.spread(&Plan::identity(&c.layers), 0.75, &cheap).unwrap();
    assert_eq!(left(&c, &plan), [8, 4]);
}

#[test]
fn groups_that_the_plan_cuts_itself_stay_as_it_says() {
    let c = chain();
    let mut plan = Plan::identity(&c.layers);
    plan.treatments[1].1.keep = 0.5;
    let total = |p: &Plan| Ok(left(&c, p).iter().sum::<usize>() as f64);
    let spread = c.spread(&plan, 0.75, &total).unwrap();
    assert_eq!(left(&c, &spread), [6, 4]);
}
