//! Errors of layers' outputs: what is predicted against what is measured, and by inputs against by weights.

use gulliver::{
    compress::quantize::output_energy,
    data::Dataset,
    graph::{Model, proto::ValueInfoProto},
    runtime::{Runtime, Session, SessionOptions},
    space::{Plan, limits},
    spec::{Form, Rank, StructureSpec, Whiten},
};
use ndarray::{ArrayD, Axis};

use crate::network::{NAMES, Network, Options};

/// Whitened against plain decomposition at the same rank, errors on inputs that calibration has not seen.
pub fn ranks(options: &Options) {
    for name in NAMES {
        let mut network = Network::open(name, options, StructureSpec::default(), false);
        let unseen = Network::open(name, &Options { samples: 2000, test: None, models: Vec::new() }, StructureSpec::default(), true);
        let found = unseen.compressor.calibration().unwrap();
        println!("\n{name}: output error per variance on {} test images, calibrated on {} others", 2000, options.samples);
        println!(
            "| form | pairs of layer and rank | lower by inputs | median by inputs | median by weights | median ratio |\n|---|---|---|---|---|---|"
        );
        for form in Form::ALL {
            let mut pairs = Vec::new();
            for l in 0..network.compressor.layers.layers.len() {
                let layer = network.compressor.layers.layers[l].clone();
                for rank in [16, 32, 48, 64, 80, 96, 112, 128, 192, 256, 384] {
                    let Ok(Some(split)) = limits::split(&network.compressor.model, &layer, form, Rank::Components(rank)) else { continue };
                    if limits::why_not_split(&layer, split).is_some() {
                        continue;
                    }
                    let mut plan = Plan::identity(&network.compressor.layers);
                    plan.treatments[l].1.split = Some(split);
                    let mut error = |whiten: Whiten| {
                        network.compressor.structure.whiten = whiten;
                        let (float, made) = weights(&network, &plan, l);
                        let gram = &found.grams[&layer.name];
                        // The bias of the calibration images: what of the mean is left counts.
                        let shift = made.1;
                        let delta = &float - &made.0;
                        let mean = gulliver::compress::mean_output(&delta, gram);
                        let about: f64 = output_energy(&delta, gram, true);
                        let off: f64 = mean.iter().zip(&shift).map(|(m, s)| (m - s).powi(2)).sum();
                        (about + off) / output_energy(&float, gram, true)
                    };
                    pairs.push((error(Whiten::Inputs), error(Whiten::None)));
                }
            }
            let better = pairs.iter().filter(|(a, b)| a < b).count();
            let median = |mut v: Vec<f64>| {
                v.sort_by(f64::total_cmp);
                v.get(v.len() / 2).copied().unwrap_or(f64::NAN)
            };
            println!(
                "| {} | {} | {} ({:.1} %) | {:.4} | {:.4} | {:.2} |",
                form.name(),
                pairs.len(),
                better,
                100.0 * better as f64 / pairs.len() as f64,
                median(pairs.iter().map(|p| p.0).collect()),
                median(pairs.iter().map(|p| p.1).collect()),
                median(pairs.iter().map(|p| p.0 / p.1).collect())
            );
        }
    }
}

/// A layer's float weight, what a plan makes of it, and what its bias takes up.
fn weights(network: &Network, plan: &Plan, l: usize) -> (ndarray::Array2<f32>, (ndarray::Array2<f32>, Vec<f64>)) {
    let layer = &network.compressor.layers.layers[l];
    let (model, _) = network.compressor.stand_in(plan, l).unwrap().unwrap();
    let read = |m: &Model, name: &str| gulliver::graph::Index::new(m).floats(name).unwrap();
    let matrix = |m: &Model| gulliver::compress::decompose::as_matrix(&read(m, &layer.weight), layer.out_axis);
    let bias = |m: &Model| {
        layer.bias.as_ref().map_or_else(|| vec![0.0; layer.channels_out], |b| read(m, b).iter().map(|&v| f64::from(v)).collect())
    };
    let shift = bias(&model).iter().zip(bias(&network.compressor.model)).map(|(a, b)| a - b).collect();
    (matrix(&network.compressor.model), (matrix(&model), shift))
}

/// Predicted against measured errors on the calibration images: ONNX Runtime runs the float network with one layer changed.
pub fn predicted(options: &Options) {
    for (name, positions) in NAMES.into_iter().flat_map(|n| [(n, 1 << 20), (n, StructureSpec::default().positions)]) {
        let network = Network::open(name, options, StructureSpec { positions, ..StructureSpec::default() }, false);
        let data = network.calibration(options);
        let c = &network.compressor;
        let mut off: Vec<(f64, String)> = Vec::new();
        for l in 0..c.layers.layers.len() {
            let layer = &c.layers.layers[l];
            let mut plans: Vec<(String, Plan)> = Vec::new();
            for form in Form::ALL {
                for fraction in [0.5, 0.25] {
                    let Ok(Some(split)) = limits::split(&c.model, layer, form, Rank::Fraction(fraction)) else { continue };
                    if limits::why_not_split(layer, split).is_none() {
                        let mut plan = Plan::identity(&c.layers);
                        plan.treatments[l].1.split = Some(split);
                        plans.push((limits::describe(split), plan));
                    }
                }
            }
            // Every group that this layer reads alone, and with a rank on top.
            for keep in [0.75, 0.5] {
                let all = network.cut(|_| keep);
                plans.push((format!("keep {keep}"), all.clone()));
                if let Ok(Some(split)) = limits::split(&c.model, layer, Form::Channel, Rank::Fraction(0.25))
                    && limits::why_not_split(layer, split).is_none()
                {
                    let mut both = all;
                    both.treatments[l].1.split = Some(split);
                    plans.push((format!("keep {keep}, {}", limits::describe(split)), both));
                }
            }
            for (what, plan) in plans {
                let Some((model, rows)) = c.stand_in(&plan, l).unwrap() else { continue };
                let Some(predicted) = c.damage_at(&plan, l).unwrap().filter(|&p| p > 1e-9) else { continue };
                let found = measured(&network.runtime, (&c.model, &model), &layer.output, &rows, &data);
                off.push((predicted / found - 1.0, format!("{} {what}: predicted {predicted:.3e}, measured {found:.3e}", layer.name)));
            }
        }
        off.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
        let within = off.iter().filter(|o| o.0.abs() <= 0.02).count();
        let where_ = if positions > 1000 { "all positions".to_string() } else { format!("{positions} positions") };
        println!(
            "\n{name}, moments at {where_}: {within} of {} errors within 2 %, the worst off by {:.2} % ({}), the median by {:.3} %",
            off.len(),
            100.0 * off[0].0,
            off[0].1,
            100.0 * off[off.len() / 2].0.abs()
        );
    }
}

/// Squared difference of the outputs that count per their variance, over all samples and positions.
fn measured(runtime: &Runtime, (float, other): (&Model, &Model), value: &str, rows: &[usize], data: &Dataset) -> f64 {
    let run = |model: &Model| {
        let mut open = model.clone();
        open.graph_mut().output = vec![ValueInfoProto { name: Some(value.into()), ..Default::default() }];
        let mut session = Session::from_bytes(runtime, "stand-in", &open.to_bytes().unwrap(), SessionOptions::default()).unwrap();
        let mut parts: Vec<ArrayD<f32>> = Vec::new();
        for chunk in (0..data.len()).collect::<Vec<_>>().chunks(32) {
            let inputs = data.batch(chunk).unwrap();
            let inputs: Vec<(&str, _)> = inputs.iter().map(|(n, a)| (n.as_str(), a.view())).collect();
            parts.push(session.run(&inputs).unwrap().remove(0).select(Axis(1), rows));
        }
        let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
        ndarray::concatenate(Axis(0), &views).unwrap()
    };
    let (float, other) = (run(float), run(other));
    let (mut error, mut energy) = (0.0, 0.0);
    for (f, o) in float.axis_iter(Axis(1)).zip(other.axis_iter(Axis(1))) {
        let n = f.len() as f64;
        let mean = f.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        energy += f.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
        error += f.iter().zip(&o).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>();
    }
    error / energy
}
