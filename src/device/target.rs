//! What brings nothing on a chip: options that no evaluation should be wasted on.

use std::collections::HashMap;

use super::{
    kernel::{Kernel, Op},
    latency::kernel_us,
    profile::Profile,
    treat::{Split, Treated, treated},
};
use crate::precision::Precision;

/// AMCT recommends to decompose convolutions above 64×64×3×3; windows from this side on are always worth a try.
const WIDE_WINDOW: u64 = 49;
/// Channels up to which decomposing a small window is not recommended.
const FEW_CHANNELS: u64 = 64;

/// Input channels that fill a block of the INT8 cube: with fewer, zeros to skip are padding already.
const BLOCK_CHANNELS: u64 = 32;

/// A chip, and the float network's kernels by layer.
#[derive(Debug, Clone, Default)]
pub struct Target {
    profile: Option<Profile>,
    kernels: HashMap<String, Kernel>,
}

impl Target {
    /// A chip and the kernels of the untreated network in FP16, at the study's batch.
    pub fn new(profile: &Profile, kernels: Vec<Kernel>) -> Self {
        let by_layer = kernels.into_iter().filter_map(|k| Some((k.layer.clone()?, k)));
        Self { profile: Some(profile.clone()), kernels: by_layer.collect() }
    }

    /// No chip: everything may bring something.
    pub fn unknown() -> Self {
        Self::default()
    }

    /// Why a precision brings nothing for a layer, if so.
    ///
    /// Channels are padded to blocks of 32 bytes, so INT8 needs more than 16 input channels to beat FP16, and INT4 more than 32 to beat
    /// INT8 (Ascend's documentation says the former for Conv2D, DepthwiseConv2D and FullyConnection).
    pub fn why_not_precision(&self, layer: &str, precision: Precision) -> Option<String> {
        let profile = self.profile.as_ref()?;
        let really = profile.runs_as(precision);
        if really != precision {
            return Some(format!("{} runs it as {really}", profile.name));
        }
        let cube = self.kernels.get(layer)?.cube?;
        let channels = cube.cin.saturating_mul(cube.groups);
        match precision {
            Precision::Int8 | Precision::W4a8 if channels <= 16 => {
                Some(format!("8-bit products bring nothing with {channels} input channels: they are padded to 32, in FP16 to 16"))
            }
            Precision::Int4 if channels <= 32 => {
                Some(format!("4-bit products bring nothing with {channels} input channels: they are padded to 64, in INT8 to 32"))
            }
            _ => None,
        }
    }

    /// Why 4:2 sparsity brings nothing for a layer that is asked to run at a precision, if so: the chip skips no zeros or skips them at INT8 alone,
    /// the layer is none that ATC compresses so (`--sparsity=1`: Conv2D without groups, MatMulV2, FullyConnection), or its input channels
    /// do not fill a block.
    pub fn why_not_sparse(&self, layer: &str, precision: Precision) -> Option<String> {
        let profile = self.profile.as_ref()?;
        if !profile.sparsity_4_to_2 {
            return Some(format!("the cube of {} does not skip zeros", profile.name));
        }
        if !profile.skips_zeros(precision) {
            return Some(format!("zeros are skipped at int8 alone, and it runs at {}", profile.runs_as(precision)));
        }
        let kernel = self.kernels.get(layer)?;
        let channels = kernel.cube?.cin;
        if !matches!(kernel.op, Op::Conv | Op::MatMul) {
            return Some(format!("4:2 sparsity is for dense convolutions and matrix products, and it is a {}", kernel.op.words()));
        }
        let few = || format!("4:2 sparsity brings nothing with {channels} input channels: they are padded to {BLOCK_CHANNELS}");
        (channels < BLOCK_CHANNELS).then(few)
    }

    /// Why splitting a layer brings nothing, if so: the parts are not predicted faster than the layer, or the convolution is so small that
    /// AMCT advises against it.
    pub fn why_not_split(&self, layer: &str, split: Split) -> Option<String> {
        let profile = self.profile.as_ref()?;
        let kernel = self.kernels.get(layer)?;
        let cube = kernel.cube?;
        if cube.groups > 1 && !split.keeps_groups() {
            return Some(format!("a convolution of {} groups is split along its channels only", cube.groups));
        }
        if kernel.op == Op::Conv && cube.taps > 1 && cube.taps < WIDE_WINDOW && cube.cin.min(cube.cout) <= FEW_CHANNELS {
            return Some(format!(
                "decomposing pays above {FEW_CHANNELS} channels only, as AMCT advises; it has {} and {}",
                cube.cin, cube.cout
            ));
        }
        let ranks = match split {
            Split::Channel { rank } | Split::Spatial { rank } => format!("rank {rank}"),
            Split::Tucker { input, output } => format!("ranks {input} and {output}"),
        };
        let whole = kernel_us(kernel, profile).0;
        let parts = whole - self.gain_us(layer, Treated { split: Some(split), ..Treated::identity(&cube) })?;
        (parts >= whole).then(|| format!("at {ranks} its parts are predicted to take {parts:.1} µs, the layer {whole:.1} µs"))
    }

    /// Predicted time that treating a layer alone saves, µs; below 0 where it costs time. None if the layer has no kernel or the chip is
    /// unknown.
    pub fn gain_us(&self, layer: &str, to: Treated) -> Option<f64> {
        let profile = self.profile.as_ref()?;
        let kernel = self.kernels.get(layer)?;
        let after: f64 = treated(kernel, to).iter().map(|k| kernel_us(k, profile).0).sum();
        Some(kernel_us(kernel, profile).0 - after)
    }

    /// Channels of a block (32 bytes) in the precision that the chip really runs; 16 on an unknown chip.
    pub fn channel_multiple(&self, precision: Precision) -> usize {
        let runs_as = |p: &Profile| p.runs_as(precision).activations().weight_bits() as usize;
        self.profile.as_ref().map_or(16, |p| 256 / runs_as(p).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::fixture;

    fn target(device: &str, network: &str) -> Target {
        Target::new(&Profile::load(device).unwrap(), fixture::kernels(network, 8, Precision::Fp16))
    }

    fn layer(target: &Target, wanted: impl Fn(&crate::device::kernel::Cube) -> bool) -> String {
        let found = target.kernels.iter().filter(|(_, k)| k.cube.as_ref().is_some_and(&wanted));
        found.map(|(name, _)| name.clone()).min().unwrap()
    }

    #[test]
    fn few_input_channels_bring_nothing_in_narrow_formats() {
        let p3 = target("ascend310p3", "mobilenet_v2");
        let few = layer(&p3, |c| c.cin == 16 && c.groups == 1);
        assert!(p3.why_not_precision(&few, Precision::Int8).unwrap().contains("16 input channels"));
        let some = layer(&p3, |c| c.cin == 24 && c.groups == 1);
        assert_eq!(p3.why_not_precision(&some, Precision::Int8), None);
        assert!(p3.why_not_precision(&some, Precision::Int4).unwrap().contains("24 input channels"));
        let image = layer(&p3, |c| c.cin == 3);
        assert!(p3.why_not_precision(&image, Precision::Int8).is_some());
        let depthwise = layer(&p3, |c| c.groups == 96);
        assert_eq!(p3.why_not_precision(&depthwise, Precision::Int8), None);
    }

    #[test]
    fn a_precision_that_the_chip_runs_as_another_brings_nothing() {
        let b1 = target("ascend310b1", "vgg16");
        let any = layer(&b1, |c| c.cin == 512);
        assert_eq!(b1.why_not_precision(&any, Precision::Int4).unwrap(), "ascend310b1 runs it as int8");
        assert_eq!(b1.why_not_precision(&any, Precision::Int8), None);
    }

    #[test]
    fn sparsity_brings_something_for_dense_int8_layers_of_many_channels_on_a_chip_that_skips_zeros() {
        let (b1, p3) = (target("ascend310b1", "mobilenet_v2"), target("ascend310p3", "mobilenet_v2"));
        let dense = layer(&b1, |c| c.cin == 96 && c.groups == 1);
        assert_eq!(b1.why_not_sparse(&dense, Precision::Int8), None);
        assert_eq!(p3.why_not_sparse(&dense, Precision::Int8).unwrap(), "the cube of ascend310p3 does not skip zeros");
        assert!(b1.why_not_sparse(&dense, Precision::Fp16).unwrap().contains("runs at fp16"));
        assert_eq!(b1.why_not_sparse(&dense, Precision::Int4), None, "310B1 runs INT4 as INT8");
        let depthwise = layer(&b1, |c| c.groups == 96);
        assert!(b1.why_not_sparse(&depthwise, Precision::Int8).unwrap().contains("depthwise"));
        let few = layer(&b1, |c| c.cin == 24 && c.groups == 1);
        assert!(b1.why_not_sparse(&few, Precision::Int8).unwrap().contains("24 input channels"));
    }

    #[test]
    fn small_convolutions_are_not_split_and_large_ones_only_where_it_is_faster() {
        let p3 = target("ascend310p3", "vgg16");
        let small = layer(&p3, |c| c.cin == 64 && c.cout == 64);
        let large = layer(&p3, |c| c.cin == 512 && c.rows == 28 * 28);
        // At the second ranks the parts have no fewer multiply-adds than the layer.
        let channel = |rank| Split::Channel { rank };
        let spatial = |rank| Split::Spatial { rank };
        let tucker = |rank| Split::Tucker { input: rank, output: rank };
        for (low, high) in [(channel(64), channel(512)), (spatial(64), spatial(768)), (tucker(64), tucker(512))] {
            assert!(p3.why_not_split(&small, low).unwrap().contains("AMCT"));
            assert_eq!(p3.why_not_split(&large, low), None);
            assert!(p3.why_not_split(&large, high).unwrap().contains("µs"));
        }
        assert!(p3.why_not_split(&large, spatial(768)).unwrap().starts_with("at rank 768 its"));
        let tucker = Split::Tucker { input: 512, output: 496 };
        assert!(p3.why_not_split(&large, tucker).unwrap().starts_with("at ranks 512 and 496 its"));
    }

    #[test]
    fn grouped_convolutions_are_split_along_their_channels_only() {
        let p3 = target("ascend310p3", "resnext50_32x4d");
        let grouped = layer(&p3, |c| c.groups == 32 && c.cin == 32);
        assert!(p3.why_not_split(&grouped, Split::Spatial { rank: 8 }).unwrap().contains("32 groups"));
        assert!(p3.why_not_split(&grouped, Split::Tucker { input: 8, output: 8 }).unwrap().contains("32 groups"));
        assert!(p3.why_not_split(&grouped, Split::Channel { rank: 32 }).unwrap().contains("at rank 32"));
    }

    #[test]
    fn a_gain_is_the_layers_time_less_its_parts() {
        let p3 = target("ascend310p3", "vgg16");
        let profile = Profile::load("ascend310p3").unwrap();
        let name = layer(&p3, |c| c.cin == 512 && c.rows == 28 * 28);
        let kernel = p3.kernels[&name].clone();
        let same = Treated::identity(kernel.cube.as_ref().unwrap());
        assert!(p3.gain_us(&name, same).unwrap().abs() < 1e-9);
        let split = Treated { split: Some(Split::Spatial { rank: 64 }), ..same };
        let parts = treated(&kernel, split);
        assert_eq!(parts.len(), 2);
        let by_hand = kernel_us(&kernel, &profile).0 - kernel_us(&parts[0], &profile).0 - kernel_us(&parts[1], &profile).0;
        assert!(by_hand > 0.0 && (p3.gain_us(&name, split).unwrap() - by_hand).abs() < 1e-9);
        assert_eq!(p3.gain_us("none", same), None);
        assert_eq!(Target::unknown().gain_us(&name, same), None);
    }

    #[test]
    fn a_block_holds_32_bytes_of_channels_in_the_format_that_really_runs() {
        let on = |device: &str| Target { profile: Some(Profile::load(device).unwrap()), kernels: HashMap::new() };
        let blocks = |t: &Target| [Precision::Fp16, Precision::Int8, Precision::Int4].map(|p| t.channel_multiple(p));
        assert_eq!(blocks(&on("ascend310p3")), [16, 32, 64]);
        assert_eq!(blocks(&on("ascend310b1")), [16, 32, 32]);
        assert_eq!(blocks(&Target::unknown()), [16, 16, 16]);
        assert_eq!(on("ascend310p3").channel_multiple(Precision::W8a16), 16);
        assert_eq!(on("ascend310p3").channel_multiple(Precision::W4a8), 32);
    }

    #[test]
    fn of_an_unknown_chip_nothing_is_said() {
        assert_eq!(Target::unknown().why_not_precision("a", Precision::Int4), None);
        assert_eq!(Target::unknown().why_not_sparse("a", Precision::Fp16), None);
        assert_eq!(Target::unknown().why_not_split("a", Split::Channel { rank: 1 }), None);
    }
}
