//! From a stored sample to the model's input: axes, channel order and normalisation in one pass.

use std::path::Path;

use super::input::{Channels, Input, InputSpec, Layout};
use crate::error::{Error, Result};

/// How the values of one stored sample move into one input of the model.
#[derive(Debug, Clone)]
pub(super) struct Arrange {
    /// The sample's shape as the model takes it, without the batch.
    pub shape: Vec<usize>,
    channels: usize,
    plane: usize,
    from_last: bool,
    to_last: bool,
    swap: bool,
    scale: f32,
    mean: Vec<f32>,
    std: Vec<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axes {
    Keep,
    LastToFirst,
    FirstToLast,
}

impl Axes {
    fn apply(self, stored: &[usize]) -> Option<Vec<usize>> {
        match (self, stored) {
            (Self::Keep, _) => Some(stored.to_vec()),
            (Self::LastToFirst, [h, w, c]) => Some(vec![*c, *h, *w]),
            (Self::FirstToLast, [c, h, w]) => Some(vec![*h, *w, *c]),
            _ => None,
        }
    }
}

impl Arrange {
    /// Fits samples of shape `stored` (without the batch) to the input `spec`.
    ///
    /// # Errors
    /// No arrangement of the axes fits, several do and `layout` does not settle it, or mean, std and `channels: bgr` do
    /// not go with the number of channels.
    pub fn new(stored: &[usize], spec: &InputSpec, input: &Input, path: &Path) -> Result<Self> {
        let axes = choose_axes(stored, spec, input.layout, path)?;
        let (shape, axes) = match axes {
            Some(axes) => (axes.apply(stored).unwrap_or_default(), axes),
            None => (spec.sample_dims().iter().flatten().copied().collect(), Axes::Keep),
        };
        let to_last = match axes {
            Axes::LastToFirst => false,
            Axes::FirstToLast => true,
            Axes::Keep => shape.len() == 3 && channels_last(&shape, input.layout),
        };
        let channels = if to_last { shape.last() } else { shape.first() }.copied().unwrap_or(1);
        let values: usize = shape.iter().product();
        let from_last = if axes == Axes::Keep { to_last } else { axes == Axes::LastToFirst };
        if values == 0 {
            return Err(Error::data(path, format!("samples of {shape:?} hold no values"), "check how the data was saved"));
        }
        let swap = input.channels == Channels::Bgr;
        if swap && (channels != 3 || shape.len() != 3) {
            return Err(Error::data(
                path,
                format!("channels: bgr needs 3 channels, and {} takes {shape:?}", spec.name),
                "leave channels out",
            ));
        }
        let plane = values / channels;
        let mean = spread(&input.mean, 0.0, channels, "mean", path)?;
        let std = spread(&input.std, 1.0, channels, "std", path)?;
        Ok(Self { shape, channels, plane, from_last, to_last, swap, scale: input.scale, mean, std })
    }

    /// The numbers in one sample.
    pub fn len(&self) -> usize {
        self.channels * self.plane
    }

    /// Height and width of an image input.
    pub fn image_size(&self) -> (usize, usize) {
        match (self.shape.as_slice(), self.to_last) {
            ([height, width, _], true) | ([_, height, width], false) => (*height, *width),
            _ => (1, self.plane),
        }
    }

    /// Writes one stored sample into `out`; both hold [`Arrange::len`] numbers.
    pub fn write<T: Copy + Into<f32>>(&self, sample: &[T], out: &mut [f32]) {
        let place = |last: bool, channel: usize| if last { (channel, self.channels) } else { (channel * self.plane, 1) };
        for channel in 0..self.channels {
            let (from, from_step) = place(self.from_last, if self.swap { 2 - channel } else { channel });
            let (to, to_step) = place(self.to_last, channel);
            let (mean, std) = (self.mean[channel], self.std[channel]);
            let source = sample[from..].iter().step_by(from_step);
            for (value, out) in source.zip(out[to..].iter_mut().step_by(to_step)).take(self.plane) {
                *out = ((*value).into() * self.scale - mean) / std;
            }
        }
    }
}

/// The axes to use; `None` where only axes of length 1 differ.
fn choose_axes(stored: &[usize], spec: &InputSpec, layout: Option<Layout>, path: &Path) -> Result<Option<Axes>> {
    let wanted = spec.sample_dims();
    let candidates: &[Axes] = match layout {
        _ if stored.len() != 3 => &[Axes::Keep],
        None => &[Axes::Keep, Axes::LastToFirst, Axes::FirstToLast],
        Some(Layout::Nhwc) => &[Axes::LastToFirst, Axes::Keep],
        Some(Layout::Nchw) => &[Axes::Keep, Axes::FirstToLast],
    };
    let fitting: Vec<Axes> = candidates.iter().copied().filter(|a| a.apply(stored).is_some_and(|s| fits(&s, wanted))).collect();
    match fitting.as_slice() {
        [one] => Ok(Some(*one)),
        [first, ..] if layout.is_some() => Ok(Some(*first)),
        [] if (layout.is_none() || stored.len() != wanted.len()) && same_but_for_ones(stored, wanted) => Ok(None),
        [] => Err(Error::data(
            path,
            format!(
                "samples are {} but the model's input {} takes {}",
                shown(stored.iter().copied().map(Some)),
                spec.name,
                shown(wanted.iter().copied())
            ),
            "check that the data is for this model; shapes are without the batch, ? is any size",
        )),
        _ => Err(Error::data(
            path,
            format!(
                "samples of {} fit the model's input {} of {} as nhwc and as nchw",
                shown(stored.iter().copied().map(Some)),
                spec.name,
                shown(wanted.iter().copied())
            ),
            "give layout: nhwc or layout: nchw, the layout of the stored data",
        )),
    }
}

fn channels_last(shape: &[usize], layout: Option<Layout>) -> bool {
    match layout {
        Some(layout) => layout == Layout::Nhwc,
        None => !matches!(shape[0], 1 | 3 | 4) && matches!(shape[2], 1 | 3 | 4),
    }
}

fn fits(shape: &[usize], wanted: &[Option<usize>]) -> bool {
    shape.len() == wanted.len() && shape.iter().zip(wanted).all(|(have, want)| want.is_none_or(|w| w == *have))
}

fn same_but_for_ones(stored: &[usize], wanted: &[Option<usize>]) -> bool {
    let Some(wanted) = wanted.iter().copied().collect::<Option<Vec<usize>>>() else { return false };
    stored.iter().filter(|d| **d != 1).eq(wanted.iter().filter(|d| **d != 1))
}

fn spread(values: &[f32], otherwise: f32, channels: usize, what: &str, path: &Path) -> Result<Vec<f32>> {
    match values {
        [] => Ok(vec![otherwise; channels]),
        [one] => Ok(vec![*one; channels]),
        all if all.len() == channels => Ok(all.to_vec()),
        all => Err(Error::data(
            path,
            format!("{what} holds {} values and the input has {channels} channels", all.len()),
            format!("give one {what} for all channels, or one for each"),
        )),
    }
}

/// A shape as people write it, `[3, ?, ?]`.
pub(super) fn shown(dims: impl Iterator<Item = Option<usize>>) -> String {
    let dims: Vec<String> = dims.map(|d| d.map_or_else(|| "?".to_owned(), |d| d.to_string())).collect();
    format!("[{}]", dims.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dims: &[usize]) -> InputSpec {
        let open = |d: &usize| (*d > 0).then_some(*d);
        InputSpec { name: "image".into(), dims: std::iter::once(None).chain(dims.iter().map(open)).collect() }
    }

    fn arrange(stored: &[usize], dims: &[usize], input: &Input) -> Result<Arrange> {
        Arrange::new(stored, &spec(dims), input, Path::new("x.npz"))
    }

    fn written(stored: &[usize], dims: &[usize], input: &Input) -> Vec<f32> {
        let arrange = arrange(stored, dims, input).unwrap();
        let sample: Vec<u8> = (0..arrange.len() as u8).collect();
        let mut out = vec![f32::NAN; arrange.len()];
        arrange.write(&sample, &mut out);
        out
    }

    fn with(layout: Layout) -> Input {
        Input { layout: Some(layout), ..Input::default() }
    }

    #[test]
    fn channels_last_moves_to_channels_first_and_back() {
        assert_eq!(written(&[1, 2, 3], &[3, 1, 2], &Input::default()), [0., 3., 1., 4., 2., 5.]);
        assert_eq!(written(&[3, 1, 2], &[1, 2, 3], &Input::default()), [0., 2., 4., 1., 3., 5.]);
        assert_eq!(written(&[3, 1, 2], &[3, 1, 2], &Input::default()), [0., 1., 2., 3., 4., 5.]);
    }

    #[test]
    fn open_dimensions_take_what_the_channels_leave() {
        assert_eq!(arrange(&[8, 9, 3], &[3, 0, 0], &Input::default()).unwrap().shape, [3, 8, 9]);
        assert_eq!(arrange(&[3, 8, 9], &[0, 0, 3], &Input::default()).unwrap().shape, [8, 9, 3]);
    }

    #[test]
    fn an_ambiguous_shape_asks_for_the_layout_and_takes_it() {
        let error = arrange(&[3, 3, 3], &[3, 3, 3], &Input::default()).unwrap_err();
        assert!(error.to_string().contains("[3, 3, 3] fit the model's input image of [3, 3, 3] as nhwc and as nchw"));
        assert!(error.remedy().unwrap().contains("layout: nhwc"));
        assert_eq!(written(&[3, 3, 3], &[3, 3, 3], &with(Layout::Nhwc))[1], 3.0);
        assert_eq!(written(&[3, 3, 3], &[3, 3, 3], &with(Layout::Nchw))[1], 1.0);
    }

    #[test]
    fn a_missing_channel_axis_is_added() {
        assert_eq!(arrange(&[28, 28], &[1, 28, 28], &Input::default()).unwrap().shape, [1, 28, 28]);
        assert_eq!(arrange(&[28, 28, 1], &[1, 28, 28], &Input::default()).unwrap().shape, [1, 28, 28]);
    }

    #[test]
    fn a_wrong_shape_is_told_with_both_shapes() {
        let error = arrange(&[32, 32, 3], &[3, 224, 0], &Input::default()).unwrap_err();
        assert_eq!(error.to_string(), "data x.npz: samples are [32, 32, 3] but the model's input image takes [3, 224, ?]");
    }

    #[test]
    fn the_scale_comes_first_then_mean_and_std_a_channel() {
        let input = Input { scale: 0.5, mean: vec![1., 2., 3.], std: vec![1., 2., 4.], ..Input::default() };
        assert_eq!(written(&[1, 1, 3], &[3, 1, 1], &input), [-1., -0.75, -0.5]);
        let last = Input { layout: Some(Layout::Nhwc), ..input };
        assert_eq!(written(&[2, 2, 3], &[2, 2, 3], &last)[..3], [-1., -0.75, -0.5]);
    }

    #[test]
    fn mean_and_std_must_fit_the_channels() {
        let error = arrange(&[8, 8, 3], &[3, 8, 8], &Input { mean: vec![1., 2.], ..Input::default() }).unwrap_err();
        assert_eq!(error.to_string(), "data x.npz: mean holds 2 values and the input has 3 channels");
    }

    #[test]
    fn bgr_swaps_red_and_blue_and_needs_three_channels() {
        let bgr = Input { channels: Channels::Bgr, ..Input::default() };
        assert_eq!(written(&[1, 2, 3], &[3, 1, 2], &bgr), [2., 5., 1., 4., 0., 3.]);
        assert!(arrange(&[28, 28, 1], &[1, 28, 28], &bgr).unwrap_err().to_string().contains("bgr needs 3 channels"));
    }

    #[test]
    fn features_of_any_rank_pass_as_they_are() {
        assert_eq!(written(&[4], &[4], &Input { mean: vec![0., 1., 2., 3.], ..Input::default() }), [0.; 4]);
        assert_eq!(written(&[2, 2], &[0, 2], &Input::default()), [0., 1., 2., 3.]);
        assert_eq!(written(&[], &[], &Input::default()), [0.]);
    }
}
