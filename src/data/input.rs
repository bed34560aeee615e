//! How stored samples become model inputs: scale, mean, deviation, layout, channel order, resize and crop.

use std::fmt;
use std::path::Path;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// An input of the model, as its graph declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSpec {
    /// The input's name.
    pub name: String,
    /// Dimensions with the batch first; `None` where the model leaves one open.
    pub dims: Vec<Option<usize>>,
}

impl InputSpec {
    /// The dimensions of one sample: all but the batch.
    pub fn sample_dims(&self) -> &[Option<usize>] {
        self.dims.get(1..).unwrap_or_default()
    }
}

/// Where the channels of a stored image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Channels last, as image libraries and TensorFlow store them.
    Nhwc,
    /// Channels first, as PyTorch and most ONNX models have them.
    Nchw,
}

/// The order of the colour channels that the model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Red, green, blue: as stored.
    #[default]
    Rgb,
    /// Blue, green, red: the first and the third stored channel change places.
    Bgr,
}

/// The preprocessing, `preprocess:` in a spec: `value = (stored · scale − mean) / std`, a channel at a time.
///
/// For PyTorch's ImageNet models: `{scale: 1/255, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], resize: 256, crop: 224}`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Input {
    /// Multiplies stored values, before mean and std; 1 if left out. A number, or a fraction such as `1/255`.
    #[serde(deserialize_with = "number_or_fraction")]
    pub scale: f32,
    /// Subtracted after scaling: nothing, one value for all channels, or one for each channel in the model's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mean: Vec<f32>,
    /// Divides after the subtraction: nothing, one value for all channels, or one for each channel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub std: Vec<f32>,
    /// The layout of the stored samples, where the shapes do not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// The channel order that the model takes.
    pub channels: Channels,
    /// Image folders: the shorter side after resizing, pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<u32>,
    /// Image folders: the side of the centre square kept after resizing, pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<u32>,
}

impl Default for Input {
    fn default() -> Self {
        Self { scale: 1.0, mean: Vec::new(), std: Vec::new(), layout: None, channels: Channels::Rgb, resize: None, crop: None }
    }
}

impl Input {
    /// Whether samples go to the model as they are stored.
    pub fn is_identity(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what does not depend on the data.
    ///
    /// # Errors
    /// A value that is not finite, a `scale` or `std` of 0, a `resize` or `crop` of 0; `path` is the data it is for.
    pub fn check(&self, path: &Path) -> Result<()> {
        if !self.scale.is_finite() || self.scale == 0.0 {
            return Err(Error::data(path, format!("scale is {}, and would wipe out the data", self.scale), "give a scale such as 1/255"));
        }
        if let Some(mean) = self.mean.iter().find(|m| !m.is_finite()) {
            return Err(Error::data(path, format!("mean holds {mean}"), "give finite numbers"));
        }
        if let Some(std) = self.std.iter().find(|s| !s.is_finite() || **s == 0.0) {
            return Err(Error::data(
                path,
                format!("std holds {std}, and values are divided by it"),
                "use 1 for a channel that is not to be scaled",
            ));
        }
        if self.resize == Some(0) || self.crop == Some(0) {
            return Err(Error::data(path, "resize and crop are in pixels and cannot be 0", "leave them out to keep the size"));
        }
        Ok(())
    }
}

fn number_or_fraction<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    struct Scale;
    impl Visitor<'_> for Scale {
        type Value = f32;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number or a fraction such as 1/255")
        }
        fn visit_f64<E: de::Error>(self, value: f64) -> Result<f32, E> {
            Ok(value as f32)
        }
        fn visit_u64<E: de::Error>(self, value: u64) -> Result<f32, E> {
            Ok(value as f32)
        }
        fn visit_i64<E: de::Error>(self, value: i64) -> Result<f32, E> {
            Ok(value as f32)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<f32, E> {
            let (above, below) = text.split_once('/').unwrap_or((text, "1"));
            match (above.trim().parse::<f64>(), below.trim().parse::<f64>()) {
                (Ok(above), Ok(below)) => Ok((above / below) as f32),
                _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
            }
        }
    }
    deserializer.deserialize_any(Scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Result<Input, String> {
        serde_yaml::from_str(yaml).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_said_means_nothing_done() {
        assert!(parse("{}").unwrap().is_identity());
    }

    #[test]
    fn a_scale_may_be_a_number_or_a_fraction() {
        assert_eq!(parse("scale: 1/255").unwrap().scale, 1.0 / 255.0);
        assert_eq!(parse("scale: 2").unwrap().scale, 2.0);
        assert_eq!(parse("scale: 0.5").unwrap().scale, 0.5);
        assert!(parse("scale: half").unwrap_err().contains("a number or a fraction such as 1/255"));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(parse("std_dev: [1]").unwrap_err().contains("std_dev"));
    }

    #[test]
    fn a_std_of_zero_is_an_error() {
        let input = Input { std: vec![1.0, 0.0], ..Input::default() };
        assert_eq!(input.check(Path::new("x.npz")).unwrap_err().to_string(), "data x.npz: std holds 0, and values are divided by it");
        assert!(Input { scale: 0.0, ..Input::default() }.check(Path::new("x")).is_err());
        assert!(Input { mean: vec![f32::NAN], ..Input::default() }.check(Path::new("x")).is_err());
        assert!(Input { crop: Some(0), ..Input::default() }.check(Path::new("x")).is_err());
    }

    #[test]
    fn what_is_written_reads_back() {
        let input =
            parse("{scale: 1/255, mean: [0.4914, 0.4822, 0.4465], std: [0.247], layout: nhwc, channels: bgr, resize: 256, crop: 224}")
                .unwrap();
        assert_eq!(parse(&serde_yaml::to_string(&input).unwrap()).unwrap(), input);
    }
}
