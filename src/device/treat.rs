//! The kernels of a layer that is treated, from the kernel of the layer as it was: no model is built, so that whole tables of options are cheap.
//!
//! What a treatment does to other kernels, such as a quantization where precisions meet, shows only in the whole network
//! ([`extract`](super::extract)).

use super::{
    kernel::{Cube, Kernel, Op, Traffic, Vector, pad},
    work::weight_traffic,
};
use crate::precision::Precision;

/// How a layer's weight is split into smaller layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// k×k to `rank` channels, then 1×1; two products for a matrix. Both parts keep the groups of a grouped convolution.
    Channel {
        /// Channels between the two, of each group.
        rank: u64,
    },
    /// k×1 to `rank` channels, then 1×k.
    Spatial {
        /// Channels between the two.
        rank: u64,
    },
    /// 1×1 to `input` channels, k×k to `output` channels, then 1×1 (Tucker-2).
    Tucker {
        /// Channels after the first.
        input: u64,
        /// Channels after the second.
        output: u64,
    },
}

impl Split {
    /// Whether a grouped convolution can be split so.
    pub const fn keeps_groups(self) -> bool {
        matches!(self, Self::Channel { .. })
    }
}

/// What is done to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Treated {
    /// Precision of its products.
    pub precision: Precision,
    /// Input channels of a group that stay.
    pub cin: u64,
    /// Output channels of a group that stay.
    pub cout: u64,
    /// How it is split, if it is.
    pub split: Option<Split>,
    /// Whether its weights have 4:2 sparsity, those of all parts of a split.
    pub sparse: bool,
}

impl Treated {
    /// The layer as it is.
    pub const fn identity(cube: &Cube) -> Self {
        Self { precision: Precision::Fp16, cin: cube.cin, cout: cube.cout, split: None, sparse: false }
    }
}

/// The kernels that a layer's kernel becomes, in order. The kernel must be that of an untreated layer in FP16 with a constant weight;
/// others come back as they are, as do grouped convolutions that are to be split in any way but [`Split::Channel`].
///
/// A split keeps what was fused to the layer in its last part. Window and stride of a spatial split are taken as square; the image between its
/// two parts has as many rows as the output and columns as the input.
pub fn treated(kernel: &Kernel, to: Treated) -> Vec<Kernel> {
    let (Some(cube), Some((_, moving))) = (kernel.cube, kernel.reads.split_first()) else { return vec![kernel.clone()] };
    let Some((input, others)) = moving.split_first().filter(|_| kernel.layer.is_some()) else { return vec![kernel.clone()] };
    if cube.groups > 1 && to.split.is_some_and(|s| !s.keeps_groups()) {
        return vec![kernel.clone()];
    }
    let whole = Cube { cin: to.cin, cout: to.cout, sparse: to.sparse, ..cube };
    // Matrices lie plain, images in blocks of channels.
    let padded = |channels: u64, bits: u64| if kernel.op == Op::MatMul { channels } else { pad(channels, 256 / bits) };
    let pixels_in = input.bytes / (2 * padded(cube.cin * cube.groups, 16)).max(1);
    let pixels_out = cube.images * cube.rows;
    let parts: Vec<(Cube, u64, u64)> = match to.split {
        None => vec![(whole, pixels_in, pixels_out)],
        Some(Split::Channel { rank }) => {
            let second = Cube { taps: 1, cin: rank, ..whole };
            vec![(Cube { cout: rank, ..whole }, pixels_in, pixels_out), (second, pixels_out, pixels_out)]
        }
        Some(Split::Spatial { rank }) => {
            let side = (cube.taps as f64).sqrt().round() as u64;
            let between = ((pixels_in as f64 * pixels_out as f64).sqrt() as u64).max(1);
            let first = Cube { taps: side, cout: rank, rows: between / cube.images.max(1), ..whole };
            vec![(first, pixels_in, between), (Cube { taps: side, cin: rank, ..whole }, between, pixels_out)]
        }
        Some(Split::Tucker { input, output }) => {
            let first = Cube { taps: 1, cout: input, rows: pixels_in / cube.images.max(1), ..whole };
            let middle = Cube { cin: input, cout: output, ..whole };
            let last = Cube { taps: 1, cin: output, ..whole };
            vec![(first, pixels_in, pixels_in), (middle, pixels_in, pixels_out), (last, pixels_out, pixels_out)]
        }
    };
    let last = parts.len() - 1;
    let share = to.cout as f64 / cube.cout.max(1) as f64;
    let part = |(i, (cube, before, after)): (usize, &(Cube, u64, u64))| {
        let bits = u64::from(to.precision.activations().weight_bits());
        let tensor = |pixels: u64, channels: u64, bits: u64, distance: u64, chained: bool| Traffic {
            bytes: (pixels * padded(channels, bits) * bits).div_ceil(8),
            bits,
            distance,
            chained,
        };
        let distance = if i == 0 { input.distance } else { 0 };
        let op = match (kernel.op, cube.groups, cube.cin) {
            (Op::MatMul, ..) => Op::MatMul,
            (_, 1, _) => Op::Conv,
            (Op::ConvTranspose, ..) => Op::ConvTranspose,
            (_, _, 1) => Op::DepthwiseConv,
            _ => Op::GroupConv,
        };
        let dense = cube.groups == 1;
        let mut reads = vec![
            weight_traffic(cube, op, to.precision),
            tensor(*before, cube.cin * cube.groups, bits, distance, if i > 0 { dense } else { input.chained }),
        ];
        let mut vector = Vector { drain: cube.drained(), ..Vector::default() };
        let mut writes = vec![tensor(*after, cube.cout * cube.groups, bits, 0, dense)];
        if i == last {
            reads.extend(others.iter().map(|t| Traffic { bytes: (t.bytes as f64 * share) as u64, ..*t }));
            vector = Vector { drain: vector.drain, ..kernel.vector.scaled(share) };
            let narrow = |t: &Traffic| tensor(*after, cube.cout * cube.groups, t.bits, 0, t.chained);
            writes = kernel.writes.iter().map(narrow).collect();
        }
        if to.precision.widens_weights() {
            vector.plain += reads[0].bytes as f64 * 8.0 / f64::from(to.precision.weight_bits());
        }
        let name = if last == 0 { kernel.name.clone() } else { format!("{} ({})", kernel.name, i + 1) };
        Kernel { name, op, precision: to.precision, cube: Some(*cube), vector, reads, writes, ..kernel.clone() }
    };
    parts.iter().enumerate().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Profile, fixture, latency::kernel_us};

    fn kernels(network: &str, batch: usize) -> Vec<Kernel> {
        fixture::kernels(network, batch, Precision::Fp16)
    }

    fn time(kernels: &[Kernel]) -> f64 {
        let profile = Profile::load("ascend310p3").unwrap();
        kernels.iter().map(|k| kernel_us(k, &profile).0).sum()
    }

    /// The first kernel of ResNet-50 with so many channels in and out.
    fn layer(channels: u64, batch: usize) -> Kernel {
        let found = kernels("resnet50", batch);
        let wanted = |c: &Cube| c.cin == channels && c.cout == channels && c.taps == 9;
        found.into_iter().find(|k| k.cube.as_ref().is_some_and(wanted)).unwrap()
    }

    #[test]
    fn an_identity_is_the_kernel_itself() {
        for network in ["resnet18", "mobilenet_v2", "vgg16"] {
            for kernel in kernels(network, 4).iter().filter(|k| k.layer.is_some()) {
                let same = treated(kernel, Treated::identity(kernel.cube.as_ref().unwrap()));
                assert_eq!(same.len(), 1);
                assert!((time(&same) / time(std::slice::from_ref(kernel)) - 1.0).abs() < 1e-9, "{network} {}", kernel.name);
            }
        }
    }

    #[test]
    fn a_layer_in_int8_between_int8_layers_takes_what_it_takes_in_the_network() {
        let inside =
            fixture::kernels("resnet50", 8, Precision::Int8).into_iter().find(|k| k.name.ends_with("layer1.0/conv2/Conv")).unwrap();
        let float = kernels("resnet50", 8).into_iter().find(|k| k.name == inside.name).unwrap();
        let mut alone = treated(&float, Treated { precision: Precision::Int8, ..Treated::identity(float.cube.as_ref().unwrap()) });
        assert_eq!(alone[0].reads, inside.reads);
        // Behind it stands an INT8 layer in the network; alone it writes half floats.
        alone[0].writes.clone_from(&inside.writes);
        assert_eq!(time(&alone), time(&[inside]));
    }

    fn spatial(kernel: &Kernel, rank: u64) -> Vec<Kernel> {
        treated(kernel, Treated { split: Some(Split::Spatial { rank }), ..Treated::identity(kernel.cube.as_ref().unwrap()) })
    }

    #[test]
    fn splitting_a_small_convolution_does_not_pay_for_a_second_launch_and_splitting_a_large_one_does() {
        let small = layer(64, 1);
        assert!(time(&spatial(&small, 32)) > time(&[small]));
        for batch in [1, 8, 32] {
            let large = layer(512, batch);
            assert!(time(&spatial(&large, 64)) < time(std::slice::from_ref(&large)), "512 channels at batch {batch}");
        }
    }

    #[test]
    fn a_spatial_split_at_half_of_64_channels_leaves_a_third_of_the_multiply_adds_and_weights() {
        let kernel = layer(64, 1);
        let parts = spatial(&kernel, 32);
        let macs: u64 = parts.iter().map(|k| k.cube.unwrap().macs()).sum();
        assert_eq!(3 * macs, kernel.cube.unwrap().macs());
        let weights: u64 = parts.iter().map(|k| k.reads[0].bytes / 2).sum();
        assert_eq!((weights, kernel.reads[0].bytes / 2), (12_288, 64 * 64 * 9));
    }

    /// A 3×3 convolution of 28×28 pixels from 128 to 128 channels in four groups.
    fn grouped() -> Kernel {
        let kernel = layer(128, 1);
        let cube = Cube { cin: 32, cout: 32, groups: 4, ..kernel.cube.unwrap() };
        let mut reads = kernel.reads.clone();
        reads[0] = weight_traffic(&cube, Op::GroupConv, Precision::Fp16);
        Kernel { op: Op::GroupConv, cube: Some(cube), reads, ..kernel }
    }

    #[test]
    fn a_grouped_convolution_is_split_group_by_group() {
        let whole = grouped();
        let cube = whole.cube.unwrap();
        let parts = treated(&whole, Treated { split: Some(Split::Channel { rank: 16 }), ..Treated::identity(&cube) });
        let macs = |k: &Kernel| k.cube.unwrap().macs();
        // 784 pixels; 9·32 inputs to 16 outputs and 16 to 32, four times each.
        assert_eq!((macs(&whole), parts.iter().map(macs).collect::<Vec<_>>()), (28_901_376, vec![14_450_688, 1_605_632]));
        let weights = |k: &Kernel| k.reads[0].bytes / 2;
        assert_eq!((weights(&whole), parts.iter().map(weights).collect::<Vec<_>>()), (36_864, vec![18_432, 2_048]));
        // Four groups of 16 channels lie between the parts, in half floats.
        assert_eq!((parts[0].writes[0].bytes, parts[1].reads[1].bytes), (784 * 64 * 2, 784 * 64 * 2));
        assert!(parts.iter().all(|k| k.op == Op::GroupConv && k.cube.unwrap().groups == 4));
        assert!(!parts[0].writes[0].chained && !parts[1].reads[1].chained);
    }

    #[test]
    fn a_grouped_convolution_is_not_split_in_other_ways() {
        let whole = grouped();
        for split in [Split::Spatial { rank: 16 }, Split::Tucker { input: 16, output: 16 }] {
            let to = Treated { split: Some(split), ..Treated::identity(whole.cube.as_ref().unwrap()) };
            assert_eq!(treated(&whole, to), std::slice::from_ref(&whole), "{split:?}");
        }
    }

    #[test]
    fn thirty_percent_fewer_channels_everywhere_gain_as_much_as_the_vendor_says() {
        // The vendor's article: ResNet-50 with 30 % channel sparsity at batch 32, 40 % faster.
        // The count that stays is rounded up to a multiple of 16, as AMCT does.
        let fewer = |c: u64| ((c as f64 * 0.7) as u64).div_ceil(16) * 16;
        let float = kernels("resnet50", 32);
        let cut: Vec<Kernel> = float
            .iter()
            .flat_map(|k| match &k.cube {
                Some(c) if k.layer.is_some() => {
                    let cin = if c.cin == 3 { 3 } else { fewer(c.cin) };
                    let cout = if c.cout == 1000 { 1000 } else { fewer(c.cout) };
                    treated(k, Treated { cin, cout, ..Treated::identity(c) })
                }
                _ => vec![k.clone()],
            })
            .collect();
        let profile = Profile::load("ascend310p3").unwrap();
        let (before, after) = (time(&float) + profile.inference_us(), time(&cut) + profile.inference_us());
        assert!((1.25..=1.6).contains(&(before / after)), "{:.2}", before / after);
    }

    #[test]
    fn a_sparse_network_gains_at_most_a_half_where_the_chip_skips_zeros_and_nothing_elsewhere() {
        let float = kernels("resnet50", 8);
        let total = |device: &str, precision: Precision, sparse: bool| -> f64 {
            let profile = Profile::load(device).unwrap();
            let layers = float.iter().filter(|k| k.layer.is_some());
            let made = layers.flat_map(|k| treated(k, Treated { precision, sparse, ..Treated::identity(k.cube.as_ref().unwrap()) }));
            made.map(|k| kernel_us(&k, &profile).0).sum()
        };
        let ratio = |device: &str, precision: Precision| total(device, precision, false) / total(device, precision, true);
        let int8 = ratio("ascend310b1", Precision::Int8);
        assert!((1.1..2.0).contains(&int8), "{int8:.2}");
        assert_eq!(ratio("ascend310b1", Precision::Fp16), 1.0);
        assert_eq!(ratio("ascend310p3", Precision::Int8), 1.0);
    }

    #[test]
    fn int4_gains_over_int8_what_the_vendor_says_and_nothing_where_the_chip_does_not() {
        let all = |p| fixture::kernels("resnet50", 8, p);
        let ratio = time(&all(Precision::Int8)) / time(&all(Precision::Int4));
        assert!((1.2..=1.6).contains(&ratio), "{ratio:.2}");
    }
}
