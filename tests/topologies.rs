//! Layers and channel groups of well-known architectures, against the graphs' own nodes and the papers' structure.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::{Path, PathBuf},
};

use gulliver::{compress::Compressor, graph::Model, runtime::Runtime};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("datasets/latency/{name}.onnx"))
}

fn open(name: &str) -> Compressor {
    Compressor::load(&Runtime::start(&mut |_| ()).unwrap(), &path(name), &BTreeMap::new()).unwrap()
}

/// Names of all Conv and Gemm, and of the MatMul of which a side comes from constants alone.
fn expected_layers(name: &str) -> BTreeSet<String> {
    let model = Model::load(&path(name)).unwrap();
    let mut constant: HashSet<String> = model.graph().initializer.iter().map(|t| t.name().to_string()).collect();
    let mut layers = BTreeSet::new();
    for node in &model.graph().node {
        let known = |i: &String| constant.contains(i);
        match node.op_type() {
            "Conv" | "Gemm" => drop(layers.insert(node.name().to_string())),
            "MatMul" if node.input.iter().any(known) => drop(layers.insert(node.name().to_string())),
            _ if node.input.iter().all(known) => constant.extend(node.output.iter().cloned()),
            _ => {}
        }
    }
    layers
}

fn finds_every_layer(name: &str, count: usize) {
    let found: BTreeSet<String> = open(name).layers.layers.iter().map(|l| l.name.clone()).collect();
    assert_eq!(found, expected_layers(name), "{name}");
    assert_eq!(found.len(), count, "{name}");
}

#[test]
fn no_layer_of_a_convolutional_network_is_missed() {
    // 1 + 3·(3 + 4 + 6 + 3) convolutions, 4 downsampling ones and the classifier (He et al. 2016).
    finds_every_layer("resnet50", 1 + 3 * 16 + 4 + 1);
    // A stem, 1 block of 2 and 16 of 3, a head and the classifier (Sandler et al. 2018).
    finds_every_layer("mobilenet_v2", 1 + 2 + 16 * 3 + 1 + 1);
    // A stem of 3, nine modules of 6, the classifier (Szegedy et al. 2015).
    finds_every_layer("googlenet", 3 + 9 * 6 + 1);
    // A stem, 3 first units of 5, 13 further of 3, a head and the classifier (Ma et al. 2018).
    finds_every_layer("shufflenet_v2_x1_0", 1 + 3 * 5 + 13 * 3 + 1 + 1);
    // A stem, 1 block of 2 and 14 of 3, 8 gates of 2, a head and 2 in the classifier (Howard et al. 2019).
    finds_every_layer("mobilenet_v3_large", 1 + 2 + 14 * 3 + 8 * 2 + 1 + 2);
}

#[test]
fn no_layer_of_a_transformer_is_missed() {
    // The patches, 12 blocks of qkv, projection and two of the MLP, the head (Dosovitskiy et al. 2021).
    finds_every_layer("vit_base_patch32_224", 1 + 12 * 4 + 1);
}

/// Groups that can be cut, as sets of names with their number of units.
fn groups(c: &Compressor) -> BTreeSet<(Vec<String>, usize)> {
    let name = |&l: &usize| c.layers.layers[l].name.clone();
    let sorted = |list: &[usize]| {
        let mut names: Vec<String> = list.iter().map(name).collect();
        names.sort();
        names
    };
    c.channels.groups.iter().filter(|g| g.frozen.is_none()).map(|g| (sorted(&g.layers), g.units())).collect()
}

fn group(names: Vec<String>, units: usize) -> (Vec<String>, usize) {
    let mut names = names;
    names.sort();
    (names, units)
}

#[test]
fn the_sums_of_a_resnet_stage_tie_its_blocks_and_nothing_else() {
    let mut expected = BTreeSet::from([group(vec!["/conv1/Conv".into()], 64)]);
    for (stage, (blocks, width)) in [(3, 64), (4, 128), (6, 256), (3, 512)].into_iter().enumerate() {
        let at = |block: usize, part: &str| format!("/layer{0}/layer{0}.{block}/{part}/Conv", stage + 1);
        let mut tied = vec![at(0, "downsample/downsample.0")];
        for block in 0..blocks {
            tied.push(at(block, "conv3"));
            expected.insert(group(vec![at(block, "conv1")], width));
            expected.insert(group(vec![at(block, "conv2")], width));
        }
        expected.insert(group(tied, 4 * width));
    }
    let c = open("resnet50");
    assert_eq!(groups(&c), expected);
    let classifier = c.channels.groups.iter().find(|g| g.name == "/fc/Gemm").unwrap();
    assert_eq!(classifier.frozen.as_deref(), Some("its channels are an output of the network"));
}

#[test]
fn mobilenet_blocks_tie_depthwise_layers_and_residual_sums() {
    let at = |block: usize, part: &str| format!("/features/features.{block}/conv/{part}/Conv");
    let mut expected = BTreeSet::from([
        group(vec!["/features/features.0/features.0.0/Conv".into(), at(1, "conv.0/conv.0.0")], 32),
        group(vec![at(1, "conv.1")], 16),
        group(vec!["/features/features.18/features.18.0/Conv".into()], 1280),
    ]);
    // Blocks of a stage add to each other; each widens its input six times.
    let stages: [(std::ops::RangeInclusive<usize>, usize); 6] =
        [(2..=3, 24), (4..=6, 32), (7..=10, 64), (11..=13, 96), (14..=16, 160), (17..=17, 320)];
    let mut before = 16;
    for (blocks, width) in stages {
        expected.insert(group(blocks.clone().map(|b| at(b, "conv.2")).collect(), width));
        for block in blocks {
            expected.insert(group(vec![at(block, "conv.0/conv.0.0"), at(block, "conv.1/conv.1.0")], 6 * before));
            before = width;
        }
    }
    assert_eq!(groups(&open("mobilenet_v2")), expected);
}

#[test]
fn heads_of_a_vision_transformer_are_its_units() {
    let c = open("vit_base_patch32_224");
    let attention: Vec<_> = c.channels.groups.iter().filter(|g| g.name.ends_with("/attn/qkv/MatMul")).collect();
    assert_eq!(attention.len(), 12);
    assert!(attention.iter().all(|g| g.frozen.is_none() && g.units() == 12), "12 heads in each block");
    let hidden: Vec<_> = c.channels.groups.iter().filter(|g| g.name.ends_with("/mlp/fc1/MatMul")).collect();
    assert!(hidden.len() == 12 && hidden.iter().all(|g| g.frozen.is_none() && g.units() == 3072));
}
