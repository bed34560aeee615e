//! The quick loops against the definition in double precision.

use proptest::prelude::*;

use super::*;

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut r = seed.wrapping_add(1);
    let mut next = || {
        r = r.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (r >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Calls with (image, output place, tap, input place) wherever a tap is inside the image.
fn meetings(g: &Geometry, mut each: impl FnMut(usize, usize, usize, usize)) {
    for n in 0..g.batch {
        for o in 0..g.places() {
            for t in 0..g.taps() {
                let place = |i: usize, o: usize, t: usize| {
                    (o * g.strides[i] + t * g.dilations[i]).checked_sub(g.before[i]).filter(|&p| p < g.image[i])
                };
                let (h, w) = (place(0, o / g.made[1], t / g.kernel[1]), place(1, o % g.made[1], t % g.kernel[1]));
                if let (Some(h), Some(w)) = (h, w) {
                    each(n, o, t, h * g.image[1] + w);
                }
            }
        }
    }
}

fn assert_near(found: &[f32], expected: &[f64]) {
    let largest = expected.iter().fold(1.0_f64, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-5 * largest, "off by {worst:e} of {largest:e}");
}

fn any_geometry() -> impl Strategy<Value = Geometry> {
    let pair = |range: std::ops::Range<usize>| (range.clone(), range).prop_map(|(a, b)| [a, b]);
    (1usize..4, 1usize..40, 1usize..40, pair(1..4), pair(1..4), pair(1..3), pair(0..3), pair(1..20)).prop_map(
        |(batch, inputs, outputs, kernel, strides, dilations, before, made)| {
            let reach = |i: usize| (made[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1;
            let before = [0, 1].map(|i| before[i].min(reach(i) - 1));
            // As much padding behind as before, if so much is reached; sometimes inputs behind the last window.
            let image = [0, 1].map(|i| (reach(i) - before[i]).saturating_sub(before[i]).max(1) + (strides[i] - 1).min(inputs % 2));
            Geometry { batch, inputs, outputs, image, made, kernel, strides, dilations, before }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_and_their_gradients_are_those_of_the_definition(g in any_geometry(), seed in any::<u32>()) {
        let x = numbers(g.batch * g.inputs * g.pixels(), seed);
        let (w, bias) = (numbers(g.outputs * g.inputs * g.taps(), seed ^ 1), numbers(g.outputs, seed ^ 2));
        let dy = numbers(g.batch * g.outputs * g.places(), seed ^ 3);
        let mut y: Vec<f64> = (0..dy.len()).map(|i| f64::from(bias[i / g.places() % g.outputs])).collect();
        let mut dw = vec![0.0_f64; w.len()];
        meetings(&g, |n, o, t, p| {
            for co in 0..g.outputs {
                for ci in 0..g.inputs {
                    let (at, from, to) = ((co * g.inputs + ci) * g.taps() + t, (n * g.inputs + ci) * g.pixels() + p, (n * g.outputs + co) * g.places() + o);
                    y[to] += f64::from(w[at]) * f64::from(x[from]);
                    dw[at] += f64::from(dy[to]) * f64::from(x[from]);
                }
            }
        });
        let mut found = vec![0.0; y.len()];
        convolve(&x, Kernel { weight: &w, turned: false, bias: Some(&bias) }, &mut found, &g);
        assert_near(&found, &y);
        let turned: Vec<f32> = (0..w.len()).map(|i| {
            let (ci, co, t) = (i / g.taps() / g.outputs, i / g.taps() % g.outputs, i % g.taps());
            w[(co * g.inputs + ci) * g.taps() + g.taps() - 1 - t]
        }).collect();
        let mut again = vec![0.0; y.len()];
        convolve(&x, Kernel { weight: &turned, turned: true, bias: Some(&bias) }, &mut again, &g);
        prop_assert_eq!(found, again);
        let mut found = vec![0.0; dw.len()];
        weight_gradient(&x, &dy, &mut found, &g);
        assert_near(&found, &dw);
    }

    #[test]
    fn channels_by_themselves_are_convolved_as_the_definition_says(g in any_geometry(), seed in any::<u32>()) {
        let g = Geometry { outputs: g.inputs, ..g };
        let (x, w, dy) = (numbers(g.batch * g.inputs * g.pixels(), seed), numbers(g.inputs * g.taps(), seed ^ 1), numbers(g.batch * g.inputs * g.places(), seed ^ 2));
        let mut y = vec![0.0_f64; dy.len()];
        let mut dw = vec![0.0_f64; w.len()];
        meetings(&g, |n, o, t, p| {
            for c in 0..g.inputs {
                let (from, to) = ((n * g.inputs + c) * g.pixels() + p, (n * g.inputs + c) * g.places() + o);
                y[to] += f64::from(w[c * g.taps() + t]) * f64::from(x[from]);
                dw[c * g.taps() + t] += f64::from(dy[to]) * f64::from(x[from]);
            }
        });
        let mut found = vec![0.0; y.len()];
        depthwise(&x, (&w, false), None, &mut found, &g);
        assert_near(&found, &y);
        let mut found = vec![0.0; dw.len()];
        depthwise_weight_gradient(&x, &dy, &mut found, &g);
        assert_near(&found, &dw);
    }
}
