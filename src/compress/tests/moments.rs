//! Columns and moments of layers' inputs, against what ONNX Runtime computes.

use super::*;
use crate::compress::{
    calibrate::{self, Calibration, Wanted, Windows},
    decompose::as_matrix,
};

/// What a layer gives at every position by its columns, one row for each.
fn by_columns(c: &Compressor, x: &ArrayD<f32>) -> Vec<Vec<f32>> {
    let layer = &c.layers.layers[0];
    let windows = Windows::of(layer, &c.model.graph().node[layer.node]).unwrap();
    let w = as_matrix(&weight(&c.model, &layer.weight), layer.out_axis);
    let samples = if windows.by_sample() { x.shape()[0] } else { 1 };
    let rows = w.nrows() / windows.groups;
    let mut out = Vec::new();
    for sample in 0..samples {
        for position in 0..windows.positions(x.shape()) {
            let mut column = Vec::new();
            windows.column(&x.view(), sample, position, &mut column);
            let group = |r: usize| &column[r / rows * windows.columns()..][..windows.columns()];
            out.push(w.rows().into_iter().enumerate().map(|(r, row)| row.iter().zip(group(r)).map(|(a, b)| a * b).sum()).collect());
        }
    }
    out
}

fn check(model: &Model) {
    let c = load(model);
    let x = inputs(model);
    let y = run(model, &x);
    let expected: Vec<Vec<f32>> = if c.layers.layers[0].op.is_convolution() {
        let pixels = |image: ndarray::ArrayViewD<'_, f32>| {
            let plane: usize = image.shape()[1..].iter().product();
            let flat: Vec<f32> = image.iter().copied().collect();
            (0..plane).map(|p| flat.iter().skip(p).step_by(plane).copied().collect()).collect::<Vec<Vec<f32>>>()
        };
        y.axis_iter(Axis(0)).flat_map(pixels).collect()
    } else {
        y.lanes(Axis(y.ndim() - 1)).into_iter().map(|l| l.to_vec()).collect()
    };
    let found = by_columns(&c, &x);
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(&expected) {
        assert!(f.iter().zip(e).all(|(a, b)| (a - b).abs() < 1e-4), "{f:?} {e:?}");
    }
}

fn conv(dims: &[i64], weight: &[usize], attributes: Vec<crate::graph::proto::AttributeProto>) -> Model {
    Net::new(dims).weight("w", weight).node("Conv", "y", &["x", "w"], attributes).build("y")
}

#[test]
fn a_weight_times_the_columns_is_what_onnxruntime_computes() {
    check(&conv(&[-1, 4, 7, 9], &[6, 4, 3, 3], vec![]));
    check(&conv(&[-1, 4, 7, 9], &[6, 4, 3, 2], vec![ints("pads", &[1, 2, 0, 1]), ints("strides", &[2, 1])]));
    check(&conv(&[-1, 4, 9, 9], &[6, 2, 3, 3], vec![ints("dilations", &[2, 1]), ints("pads", &[2, 1, 2, 1]), int("group", 2)]));
    check(&conv(&[-1, 4, 9, 9], &[4, 1, 3, 3], vec![int("group", 4), ints("strides", &[2, 2])]));
    check(&conv(&[-1, 3, 11], &[5, 3, 4], vec![ints("pads", &[1, 2])]));
    for auto in ["SAME_UPPER", "SAME_LOWER", "VALID"] {
        check(&conv(&[-1, 3, 8, 7], &[5, 3, 4, 3], vec![tensor::text("auto_pad", auto), ints("strides", &[2, 3])]));
    }
}

#[test]
fn transposed_convolutions_and_matrix_products_have_columns_too() {
    for attributes in [vec![], vec![ints("strides", &[2, 3]), ints("pads", &[1, 0, 1, 2])], vec![ints("dilations", &[2, 2])]] {
        let net = Net::new(&[-1, 4, 5, 6]).weight("w", &[4, 3, 3, 3]);
        check(&net.node("ConvTranspose", "y", &["x", "w"], attributes).build("y"));
    }
    check(&Net::new(&[-1, 8]).weight("w", &[3, 8]).node("Gemm", "y", &["x", "w"], vec![int("transB", 1)]).build("y"));
    check(&Net::new(&[-1, 5, 8]).weight("w", &[8, 3]).node("MatMul", "y", &["x", "w"], vec![]).build("y"));
}

/// Calibration of a demo network under some effort.
fn calibration(effort: Effort) -> Calibration {
    let c = open(&demo("resnet20.onnx"));
    let input = c.model.inputs().next().unwrap().name().to_string();
    let specs = [InputSpec { name: input, dims: vec![None, Some(3), Some(32), Some(32)] }];
    let data = Dataset::open(&Source::npz(demo("calibration.npz")), &Input::default(), &specs).unwrap();
    let shapes = shape::infer(&c.model, 1, &BTreeMap::new()).unwrap();
    let layers = || c.layers.layers.iter();
    let wanted = Wanted::ranges(layers()).with_grams(&c.model, layers());
    let samples: Vec<usize> = (0..24).collect();
    calibrate::calibrate(&runtime(), (&c.model, &shapes), &wanted, &data, &samples, effort).unwrap()
}

#[test]
fn a_calibration_is_the_same_to_the_bit_for_any_threads_and_memory_and_comes_back_from_its_file() {
    let effort = Effort { threads: 1, max_memory: Effort::MEMORY, positions: 4, widest: Effort::WIDEST };
    let plain = calibration(effort);
    assert!(plain == calibration(Effort { threads: 3, ..effort }));
    // So little that values are tapped in groups, one sample at a time; the matrices still fit.
    let bytes: usize = plain.grams.values().flat_map(|g| g.groups.iter().flatten()).map(|b| 8 * b.matrix.len()).sum();
    assert!(plain == calibration(Effort { max_memory: 2 * bytes as u64 + 1, ..effort }));
    // Narrow matrices agree in means and mean squares, which scales and biases are chosen by.
    let narrow = calibration(Effort { widest: 1, ..effort });
    assert!(narrow.values == plain.values && narrow.grams != plain.grams);
    for (layer, gram) in &narrow.grams {
        let of = |g: &calibrate::Gram| -> Vec<(u64, u64)> {
            let blocks = g.groups.iter().flatten();
            blocks.flat_map(|b| b.matrix.diag().to_vec().into_iter().zip(b.mean.clone())).map(|(d, m)| (d.to_bits(), m.to_bits())).collect()
        };
        assert!(of(gram) == of(&plain.grams[layer]), "{layer}");
    }
    let folder = tempfile::tempdir().unwrap();
    let store = calibrate::Store { path: folder.path().join("calibration.npz"), key: "k".into() };
    assert!(store.load().is_none());
    store.save(&plain).unwrap();
    assert!(store.load().unwrap() == plain);
    let other = calibrate::Store { key: "another".into(), ..store.clone() };
    assert!(other.load().is_none(), "a calibration of something else was taken");
    let bytes = std::fs::read(&store.path).unwrap();
    std::fs::write(&store.path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(store.load().is_none(), "half a file was taken");
}

#[test]
fn the_error_of_a_changed_weight_is_known_from_the_moments() {
    let model = conv(&[-1, 3, 6, 6], &[4, 3, 3, 3], vec![ints("pads", &[1, 1, 1, 1])]);
    let c = load(&model);
    let x = inputs(&model);
    let layer = &c.layers.layers[0];
    let windows = Windows::of(layer, &c.model.graph().node[layer.node]).unwrap();
    let mut collector = calibrate::Collector::new(windows, usize::MAX, 4608);
    collector.add(&x.view(), x.shape()[0]);
    let gram = collector.finish();
    let w = weight(&model, "w");
    let changed = w.mapv(|v| (v * 8.0).round() / 8.0);
    let difference = run(&model, &x) - run(&with_weight(&model, "w", &changed), &x);
    let pixels = (x.shape()[0] * 36) as f64;
    let measured = difference.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>() / pixels;
    let (error, _) = quantize::weight_error(&as_matrix(&w, 0), &as_matrix(&changed, 0), &gram, false);
    assert!((error - measured).abs() < 1e-4 * measured, "{error} {measured}");
    let of_channel = |d: ndarray::ArrayViewD<'_, f32>| {
        let mean = d.iter().map(|v| f64::from(*v)).sum::<f64>() / pixels;
        d.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / pixels
    };
    let measured: f64 = difference.axis_iter(Axis(1)).map(of_channel).sum();
    let (error, _) = quantize::weight_error(&as_matrix(&w, 0), &as_matrix(&changed, 0), &gram, true);
    assert!((error - measured).abs() < 1e-4 * measured, "{error} {measured}");
}
