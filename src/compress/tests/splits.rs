//! Layers split by channel, spatially and by Tucker-2, against the network with the weight that the parts are together, and against the network run.

use super::*;
use crate::{
    compress::{decompose::as_matrix, twin::from_matrix},
    graph::proto::AttributeProto,
    spec::Whiten,
};

/// Images whose channels have their own sizes and means, and share what the images are made of.
pub(super) fn images(dims: [usize; 4]) -> ArrayD<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let [samples, channels, height, width] = dims;
    let causes = ArrayD::from_shape_simple_fn(IxDyn(&[samples, 3, height, width]), || rng.random_range(-1.0_f32..1.0));
    let mix: Vec<[f32; 3]> = (0..channels).map(|_| [0; 3].map(|_| rng.random_range(-1.0_f32..1.0))).collect();
    let own = ArrayD::from_shape_simple_fn(IxDyn(&dims), || rng.random_range(-0.4_f32..0.4));
    let at = |s: usize, c: usize, i: usize, j: usize| (0..3).map(|k| mix[c][k] * causes[[s, k, i, j]]).sum::<f32>();
    ArrayD::from_shape_fn(IxDyn(&dims), |d| {
        // Half of it is seen one pixel further too, so that taps are alike.
        let near = at(d[0], d[1], d[2], (d[3] + 1) % width) + at(d[0], d[1], (d[2] + 1) % height, d[3]);
        at(d[0], d[1], d[2], d[3]) + 0.5 * near + own[[d[0], d[1], d[2], d[3]]] + 0.2 * d[1] as f32
    })
}

fn conv(dims: &[i64], weight: &[usize], attributes: Vec<AttributeProto>) -> Model {
    Net::new(dims).weight("w", weight).weight("b", &[weight[0]]).node("Conv", "y", &["x", "w", "b"], attributes).build("y")
}

fn split(c: &Compressor, name: &str, split: Split) -> Plan {
    only(c, name, Treatment { split: Some(split), ..Treatment::NONE })
}

/// The float network with the weight that the parts of its layer `y` are together, and its bias with what they shift it by.
fn together(c: &Compressor, structured: &Structured) -> Model {
    let layer = &c.layers.layers[layer(c, "y")];
    let change = structured.changes.iter().flatten().next().unwrap();
    let rebuilt = c.rebuilt(change).unwrap();
    let whole = change.together(layer, &rebuilt.parts);
    let model = with_weight(&c.model, &layer.weight, &from_matrix(&whole, &layer.weight_dims, layer.out_axis).unwrap());
    let Some(shift) = &rebuilt.shift else { return model };
    let name = layer.bias.as_ref().unwrap();
    let mut bias = weight(&c.model, name);
    bias.iter_mut().zip(shift).for_each(|(b, s)| *b += *s as f32);
    with_weight(&model, name, &bias)
}

/// What the forms allow of a layer: ranks far below the full one, and the full one.
fn ranks(c: &Compressor) -> (Vec<Split>, Vec<Split>) {
    let layer = &c.layers.layers[0];
    let full = |form| limits::full_rank(layer, form) as u64;
    let (cin, cout) = (layer.channels_in as u64, layer.channels_out as u64);
    let (by_channel, spatial) = (full(Form::Channel), full(Form::Spatial));
    let low = [(by_channel / 3).max(1), 1].map(|rank| Split::Channel { rank });
    if layer.groups > 1 {
        return (low.to_vec(), vec![Split::Channel { rank: by_channel }]);
    }
    let spatially = [(spatial / 3).max(1), 1].map(|rank| Split::Spatial { rank });
    let tucker = [(cin / 2, cout / 3), (1, cout / 2), (cin, 2)].map(|(input, output)| Split::Tucker { input, output });
    let all = [Split::Channel { rank: by_channel }, Split::Spatial { rank: spatial }, Split::Tucker { input: cin, output: cout }];
    (low.into_iter().chain(spatially).chain(tucker).collect(), all.to_vec())
}

fn check(model: &Model) {
    for measured in [false, true] {
        let mut c = load(model);
        let shapes = shape::infer(model, 1, &BTreeMap::new()).unwrap();
        let d = shapes.dims("x").unwrap();
        let x = images([24, d[1], d[2], d[3]]);
        if measured {
            calibrate_on(&mut c, &x);
        }
        let (low, full) = ranks(&c);
        let float = run(model, &x);
        for one in low.iter().chain(&full) {
            let what = format!("{one:?} of {:?}, calibrated {measured}", c.layers.layers[0].weight_dims);
            let structured = restructured(&c, &split(&c, "y", *one));
            assert_eq!(structured.parts[0].len(), if matches!(one, Split::Tucker { .. }) { 3 } else { 2 }, "{what}");
            let made = run(&structured.model, &x);
            assert_close(&run(&together(&c, &structured), &x), &made, 1e-4, &what);
            if full.contains(one) {
                assert_close(&float, &made, 1e-4, &what);
            }
        }
    }
}

#[test]
fn three_by_three_at_half_of_64_channels_is_two_lines_with_a_third_of_the_weights_and_multiply_adds() {
    let model = Net::new(&[-1, 64, 8, 8]).conv("y", "x", (64, 64), 3).build("y");
    let c = load(&model);
    let plan = split(&c, "y", Split::Spatial { rank: 32 });
    plan.check(&c.layers, &c.channels).unwrap();
    let made = restructured(&c, &plan);
    let nodes: Vec<_> = made.model.graph().node.iter().filter(|n| n.op_type() == "Conv").collect();
    let windows: Vec<Vec<i64>> = nodes.iter().map(|n| crate::graph::model::ints_attribute(n, "kernel_shape").unwrap()).collect();
    assert_eq!(windows, [[3, 1], [1, 3]]);
    assert_eq!(made.parts[0], nodes.iter().map(|n| n.name().to_string()).collect::<Vec<_>>());
    let dims: Vec<Vec<usize>> = nodes.iter().map(|n| weight(&made.model, &n.input[1]).shape().to_vec()).collect();
    assert_eq!(dims, [vec![32, 64, 3, 1], vec![64, 32, 1, 3]]);
    let weights: usize = dims.iter().map(|d| d.iter().product::<usize>()).sum();
    assert_eq!(3 * weights, 64 * 64 * 9);
    // Every weight is used once for each output pixel, of which both have 64.
    let shapes = shape::infer(&made.model, 1, &BTreeMap::new()).unwrap();
    let pixels = |n: &crate::graph::proto::NodeProto| shapes.dims(&n.output[0]).unwrap()[2..].iter().product::<usize>();
    let multiply_adds: usize = nodes.iter().zip(&dims).map(|(n, d)| pixels(n) * d.iter().product::<usize>()).sum();
    assert_eq!(3 * multiply_adds, 64 * 64 * 64 * 9);
}

#[test]
fn a_split_layer_computes_what_the_product_of_its_parts_does() {
    check(&conv(&[-1, 8, 7, 9], &[12, 8, 3, 3], vec![ints("pads", &[1, 1, 1, 1])]));
    check(&conv(&[-1, 12, 7, 7], &[6, 12, 3, 3], vec![]));
    check(&conv(&[-1, 8, 11, 10], &[8, 8, 3, 3], vec![ints("strides", &[2, 2]), ints("pads", &[1, 1, 1, 1])]));
    check(&conv(&[-1, 6, 11, 10], &[16, 6, 3, 3], vec![ints("strides", &[1, 2]), ints("pads", &[1, 0, 2, 1])]));
    check(&conv(&[-1, 16, 11, 11], &[6, 16, 3, 3], vec![ints("dilations", &[2, 1]), ints("pads", &[2, 1, 2, 1])]));
}

#[test]
fn windows_that_are_not_square_and_automatic_padding_are_split_too() {
    check(&conv(&[-1, 6, 9, 12], &[10, 6, 3, 5], vec![ints("pads", &[1, 2, 1, 2])]));
    check(&conv(&[-1, 10, 12, 9], &[6, 10, 5, 2], vec![ints("strides", &[2, 1]), ints("pads", &[0, 1, 3, 0])]));
    for auto in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
        check(&conv(&[-1, 6, 10, 9], &[9, 6, 3, 3], vec![tensor::text("auto_pad", auto), ints("strides", &[2, 2])]));
    }
    check(&conv(&[-1, 6, 10, 9], &[9, 6, 4, 3], vec![tensor::text("auto_pad", "SAME_UPPER"), ints("strides", &[1, 2])]));
}

#[test]
fn grouped_convolutions_are_split_group_by_group() {
    for groups in [2, 4] {
        let model = Net::new(&[-1, 16, 7, 7]).grouped("y", "x", (16, 24), groups).build("y");
        let c = load(&model);
        assert_eq!(limits::why_not_split(&c.layers.layers[0], Split::Channel { rank: 2 }), None);
        assert!(limits::why_not_split(&c.layers.layers[0], Split::Spatial { rank: 2 }).is_some());
        check(&model);
        // The weight of each group is of that rank: its Gram matrix has no third pivot.
        let made = restructured(&c, &split(&c, "y", Split::Channel { rank: 2 }));
        let groups_of = |n: &crate::graph::proto::NodeProto| crate::graph::model::int_attribute(n, "group", 1);
        assert!(made.model.graph().node.iter().all(|n| groups_of(n) == groups as i64));
        let whole = as_matrix(&weight(&together(&c, &made), "y.w"), 0);
        for group in whole.axis_chunks_iter(Axis(0), 24 / groups) {
            assert_eq!(rank(&group.mapv(f64::from)), 2);
        }
        check(&conv(&[-1, 8, 9, 8], &[8, 8 / groups, 3, 3], vec![int("group", groups as i64), ints("strides", &[2, 1])]));
    }
}

/// Rank of a matrix by Gauss elimination with the largest pivots.
fn rank(matrix: &ndarray::Array2<f64>) -> usize {
    let mut a = matrix.clone();
    let first = a.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
    for done in 0..a.nrows().min(a.ncols()) {
        let left = a.indexed_iter().filter(|((i, j), _)| *i >= done && *j >= done);
        let ((i, j), largest) = left.map(|(at, v)| (at, v.abs())).max_by(|x, y| x.1.total_cmp(&y.1)).unwrap();
        if largest < 1e-5 * first {
            return done;
        }
        (0..a.ncols()).for_each(|k| a.swap([done, k], [i, k]));
        (0..a.nrows()).for_each(|k| a.swap([k, done], [k, j]));
        for row in done + 1..a.nrows() {
            let factor = a[[row, done]] / a[[done, done]];
            (done..a.ncols()).for_each(|k| a[[row, k]] -= factor * a[[done, k]]);
        }
    }
    a.nrows().min(a.ncols())
}

/// Mean square of what two runs differ by about its mean in each channel, per the variance of the first: what `damage` predicts.
fn lost(float: &ArrayD<f32>, other: &ArrayD<f32>) -> f64 {
    let variance = |values: ArrayD<f32>| -> f64 {
        let of_channel = |channel: ndarray::ArrayViewD<'_, f32>| {
            let mean = channel.iter().map(|v| f64::from(*v)).sum::<f64>() / channel.len() as f64;
            channel.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / channel.len() as f64
        };
        values.axis_iter(Axis(1)).map(of_channel).sum()
    };
    variance(float - other) / variance(float.clone())
}

/// Error of a plan by running it, after comparing it with what `damage` predicts.
fn error(c: &Compressor, plan: &Plan, x: &ArrayD<f32>, what: &str) -> f64 {
    let found = lost(&run(&c.model, x), &run(&restructured(c, plan).model, x));
    let predicted = c.damage(plan).unwrap().unwrap();
    assert!(found > 0.0 && (predicted / found - 1.0).abs() < 0.02, "{what}: predicted {predicted}, found {found}");
    found
}

#[test]
fn keeping_outputs_loses_no_more_of_them_than_keeping_weights() {
    let net = Net::new(&[-1, 12, 8, 8]).conv("y", "x", (12, 18), 3);
    let mut c = load(&net.build("y"));
    let x = images([64, 12, 8, 8]);
    calibrate_on(&mut c, &x);
    let tucker = [(3, 4), (6, 6), (9, 12)].map(|(input, output)| Split::Tucker { input, output });
    let spatial = [2, 6, 12].map(|rank| Split::Spatial { rank });
    for one in [2, 6, 12].map(|rank| Split::Channel { rank }).into_iter().chain(spatial).chain(tucker) {
        let plan = split(&c, "y", one);
        c.structure.whiten = Whiten::None;
        let plain = error(&c, &plan, &x, &format!("{one:?} of the weights"));
        c.structure.whiten = Whiten::Inputs;
        let whitened = error(&c, &plan, &x, &format!("{one:?} of the outputs"));
        assert!(whitened <= plain, "{one:?}: {whitened} of the outputs, {plain} by the weights");
    }
}

#[test]
fn the_error_of_fewer_channels_with_a_split_or_zeros_behind_them_is_predicted() {
    let net = Net::new(&[-1, 8, 9, 7]).conv("a", "x", (8, 16), 3).relu("r", "a").conv("y", "r", (16, 12), 3);
    let mut c = load(&net.build("y"));
    let x = images([64, 8, 9, 7]);
    calibrate_on(&mut c, &x);
    let splits = [Split::Channel { rank: 4 }, Split::Spatial { rank: 6 }, Split::Tucker { input: 5, output: 6 }];
    for keep in [1.0, 0.75, 0.5, 0.25] {
        let mut plan = only(&c, "a", Treatment { keep, ..Treatment::NONE });
        if keep < 1.0 {
            error(&c, &plan, &x, &format!("keep {keep}"));
        }
        for one in splits {
            plan.treatments[1].1 = Treatment { split: Some(one), ..Treatment::NONE };
            error(&c, &plan, &x, &format!("keep {keep}, {one:?}"));
        }
        plan.treatments[1].1 = Treatment { sparsity: Sparsity::FourToTwo, ..Treatment::NONE };
        error(&c, &plan, &x, &format!("keep {keep}, 4:2"));
    }
}

#[test]
fn the_error_of_a_split_grouped_convolution_is_predicted() {
    for groups in [2, 4] {
        let mut c = load(&Net::new(&[-1, 16, 7, 7]).grouped("y", "x", (16, 24), groups).build("y"));
        let x = images([64, 16, 7, 7]);
        calibrate_on(&mut c, &x);
        for rank in [1, 3] {
            let plan = split(&c, "y", Split::Channel { rank });
            c.structure.whiten = Whiten::None;
            let plain = error(&c, &plan, &x, &format!("{groups} groups, rank {rank} of the weights"));
            c.structure.whiten = Whiten::Inputs;
            let whitened = error(&c, &plan, &x, &format!("{groups} groups, rank {rank} of the outputs"));
            assert!(whitened <= plain, "{groups} groups, rank {rank}: {whitened} {plain}");
        }
    }
}
