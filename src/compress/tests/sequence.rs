//! Plans built in sequence, beside the same plans built in parallel.

use super::{splits::images, *};

/// A network calibrated at every position of images.
fn measured(model: &Model, x: &ArrayD<f32>) -> Compressor {
    let mut c = load(model);
    c.structure.positions = 1 << 16;
    calibrate_on(&mut c, x);
    c
}

/// Mean square of what a network's outputs differ by from the float network's, per the float network's.
fn error(c: &Compressor, model: &Model, x: &ArrayD<f32>) -> f64 {
    let (float, other) = (run(&c.model, x), run(model, x));
    assert_eq!(float.shape(), other.shape());
    let square = |values: &ArrayD<f32>| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    square(&(&float - &other)) / square(&float)
}

/// Errors of a plan in parallel and in sequence.
fn both(c: &Compressor, plan: &Plan, x: &ArrayD<f32>) -> (f64, f64) {
    let of = |build| error(c, &c.twin(plan, build).unwrap().unwrap(), x);
    (of(Build::Parallel), of(Build::Sequential))
}

/// What keep, split and both do to every layer that can take it.
fn plans(c: &Compressor) -> Vec<(String, Plan)> {
    let split = |plan: &Plan, one: Split| {
        let mut plan = plan.clone();
        let can = c.layers.layers.iter().zip(&mut plan.treatments).filter(|(l, _)| limits::why_not_split(l, one).is_none());
        can.for_each(|(_, (_, t))| t.split = Some(one));
        plan
    };
    let identity = Plan::identity(&c.layers);
    let channel = Split::Channel { rank: 3 };
    let mut thin = identity.clone();
    let can = c.layers.layers.iter().zip(&mut thin.treatments).filter(|(l, _)| limits::why_not_sparse(l).is_none());
    can.for_each(|(_, (_, t))| t.sparsity = Sparsity::FourToTwo);
    [
        ("keep 0.75", cut_everywhere(c, 0.75)),
        ("keep 0.5", cut_everywhere(c, 0.5)),
        ("rank 3", split(&identity, channel)),
        ("spatial rank 5", split(&identity, Split::Spatial { rank: 5 })),
        ("sparsity 4:2", thin),
        ("keep 0.75 and rank 3", split(&cut_everywhere(c, 0.75), channel)),
    ]
    .map(|(what, plan)| (what.to_string(), plan))
    .to_vec()
}

/// Every plan runs, keeps the shape of the output, and loses no more in sequence than in parallel.
fn check(model: &Model, x: &ArrayD<f32>) {
    let c = measured(model, x);
    for (what, plan) in plans(&c).into_iter().filter(|(_, p)| !p.is_identity()) {
        plan.check(&c.layers, &c.channels).unwrap();
        let (parallel, sequential) = both(&c, &plan, x);
        assert!(parallel > 0.0 && sequential <= parallel, "{what}: {sequential} in sequence, {parallel} in parallel");
    }
}

/// Two blocks with a way around each.
fn residual() -> Model {
    let net = Net::new(&[-1, 6, 8, 8]).conv("stem", "x", (6, 12), 3).relu("r0", "stem");
    let net = net.conv("a", "r0", (12, 12), 3).relu("ra", "a").conv("b", "ra", (12, 12), 3).node("Add", "s", &["r0", "b"], vec![]);
    let net = net.relu("r1", "s").conv("c", "r1", (12, 12), 3).relu("rc", "c").conv("d", "rc", (12, 12), 3);
    let net = net.node("Add", "t", &["r1", "d"], vec![]).relu("r2", "t");
    net.node("GlobalAveragePool", "p", &["r2"], vec![]).node("Flatten", "f", &["p"], vec![]).gemm("y", "f", (12, 5)).build("y")
}

#[test]
fn keeping_everything_in_sequence_gives_the_file_back_byte_for_byte() {
    let model = residual();
    let c = measured(&model, &images([16, 6, 8, 8]));
    for plan in [Plan::identity(&c.layers), cut_everywhere(&c, 1.0)] {
        assert_eq!(c.compress(&plan, Build::Sequential).unwrap(), model.to_bytes().unwrap());
    }
}

#[test]
fn a_residual_network_loses_less_in_sequence_and_the_same_every_time() {
    let x = images([96, 6, 8, 8]);
    let c = measured(&residual(), &x);
    for (what, plan) in plans(&c) {
        let (parallel, sequential) = both(&c, &plan, &x);
        assert!(sequential < parallel, "{what}: {sequential} in sequence, {parallel} in parallel");
        let again = measured(&residual(), &x);
        let bytes = |c: &Compressor| c.compress(&plan, Build::Sequential).unwrap();
        assert_eq!(bytes(&c), bytes(&again), "{what}");
    }
}

#[test]
fn depthwise_layers_are_built_in_sequence() {
    let net = Net::new(&[-1, 6, 8, 8]).conv("a", "x", (6, 16), 1).relu("r", "a").depthwise("d", "r", 16).relu("t", "d");
    let net = net.conv("b", "t", (16, 8), 1).conv("e", "b", (8, 12), 3).relu("u", "e");
    check(&net.conv("y", "u", (12, 5), 1).build("y"), &images([96, 6, 8, 8]));
}

#[test]
fn branches_of_a_concat_are_built_in_sequence() {
    let net = Net::new(&[-1, 6, 8, 8]).conv("s", "x", (6, 10), 3).relu("r", "s").conv("a", "r", (10, 6), 3).conv("b", "r", (10, 8), 1);
    let net = net.node("Concat", "c", &["b", "r", "a"], vec![int("axis", 1)]).relu("t", "c").conv("d", "t", (24, 8), 3).relu("u", "d");
    check(&net.conv("y", "u", (8, 5), 1).build("y"), &images([96, 6, 8, 8]));
}

#[test]
fn matrix_products_behind_a_flatten_are_built_in_sequence() {
    let net = Net::new(&[-1, 4, 5, 3]).conv("a", "x", (4, 8), 3).relu("r", "a").conv("b", "r", (8, 6), 3).relu("t", "b");
    let net = net.node("Flatten", "f", &["t"], vec![int("axis", 1)]).gemm("g", "f", (90, 24)).relu("u", "g");
    check(&net.gemm("y", "u", (24, 6)).build("y"), &images([400, 4, 5, 3]));
}

#[test]
fn two_of_four_weights_are_zero_however_a_layer_is_built_and_rounded() {
    let x = images([96, 6, 8, 8]);
    let c = measured(&residual(), &x);
    let thinned: Vec<usize> = (0..c.layers.layers.len()).filter(|&l| limits::why_not_sparse(&c.layers.layers[l]).is_none()).collect();
    assert_eq!(thinned.len(), c.layers.layers.len());
    for build in [Build::Parallel, Build::Sequential] {
        for round in [None, Some(Round::Nearest), Some(Round::Gptq), Some(Round::Adaround), Some(Round::Reconstruct)] {
            let mut plan = Plan::identity(&c.layers);
            for &l in &thinned {
                let precision = if round.is_some() { Precision::Int8 } else { Precision::Fp16 };
                let method = Method { round, ..Method::default() };
                plan.treatments[l].1 = Treatment { precision, sparsity: Sparsity::FourToTwo, method, ..Treatment::NONE };
            }
            let made = c.twin(&plan, build).unwrap().unwrap();
            assert!(error(&c, &made, &x) < 0.3, "{build:?}, {round:?}");
            for layer in &c.layers.layers {
                let w = weight(&made, &layer.weight);
                let zeros = w.mapv(|v| usize::from(v == 0.0));
                let of_four = |chunk: ndarray::ArrayViewD<'_, usize>| chunk.sum_axis(Axis(1)).iter().all(|&n| n + 2 >= chunk.shape()[1]);
                assert!(zeros.axis_chunks_iter(Axis(1), 4).all(of_four), "{}, {build:?}, {round:?}", layer.name);
            }
        }
    }
}
