//! Opening a dataset: the spec, the files and the model's inputs brought together.

use std::sync::Arc;

use super::arrange::Arrange;
use super::dataset::{Dataset, Store, Stored, file_name};
use super::images::Images;
use super::input::{Input, InputSpec, Layout};
use super::labels;
use super::npz;
use super::raw::Raw;
use super::source::{Kind, Source};
use crate::error::{Error, Result};

impl Dataset {
    /// Opens the data at `source` for a model with the inputs `expected`, and takes `source.samples` of it.
    ///
    /// Npz files are read whole; of image folders the first image is decoded; of raw tensors the sizes are checked.
    ///
    /// # Errors
    /// Whatever is wrong with the spec, the files or their shapes, with the file's name and what to do.
    pub fn open(source: &Source, input: &Input, expected: &[InputSpec]) -> Result<Self> {
        let kind = source.kind()?;
        let path = source.path();
        input.check(path)?;
        if let ([_, _, ..], Kind::Npz(_) | Kind::Folder(_)) = (expected, kind) {
            let names: Vec<&str> = expected.iter().map(|i| i.name.as_str()).collect();
            let message = format!("the model has {} inputs: {}", expected.len(), names.join(", "));
            return Err(Error::data(path, message, "give bins: one folder of raw tensors for each input"));
        }
        let [first, ..] = expected else { return Err(Error::data(path, "the model has no inputs to feed", "check the model")) };
        if (input.resize.is_some() || input.crop.is_some()) && !matches!(kind, Kind::Folder(_)) {
            return Err(Error::data(path, "resize and crop are for image folders only", "resize the images before saving them"));
        }
        if input.layout.is_some() && !matches!(kind, Kind::Npz(_)) {
            let message = "layout is for npz files only: images are decoded, and raw tensors have the model's own layout";
            return Err(Error::data(path, message, "leave layout out"));
        }
        let (store, inputs, samples, labels) = match kind {
            Kind::Npz(file) => {
                let npz = npz::read(file, source)?;
                let arrange = Arrange::new(&npz.shape[1..], first, input, file)?;
                (Store::Npz(npz.values), vec![(first.name.clone(), arrange)], npz.shape[0], npz.labels)
            }
            Kind::Folder(folder) => {
                let (images, labels) = Images::list(folder, source.labels.as_deref(), input)?;
                let (grey, arrange) = fit_image(&images, first, input)?;
                let samples = images.names.len();
                (Store::Images { images, grey }, vec![(first.name.clone(), arrange)], samples, labels)
            }
            Kind::Bins(folders) => {
                if expected.len() > 1 && !input.is_identity() {
                    return Err(Error::data(
                        path,
                        "preprocessing is given and the model has several inputs",
                        "store the raw tensors ready for the model",
                    ));
                }
                let (raw, shapes) = Raw::list(folders, source.dtype.unwrap_or_default(), expected)?;
                let arranged = expected.iter().zip(&shapes).map(|(spec, shape)| {
                    let kept = Arrange::new(shape, spec, &Input { layout: layout_of(shape), ..input.clone() }, path)?;
                    Ok((spec.name.clone(), kept))
                });
                let inputs = arranged.collect::<Result<Vec<_>>>()?;
                let names: Vec<String> = raw.files[0].iter().map(|f| file_name(f)).collect();
                let labels = source.labels.as_deref().map(|file| labels::read(file, &names, false)).transpose()?;
                (Store::Raw(raw), inputs, names.len(), labels)
            }
        };
        let all =
            Self { stored: Arc::new(Stored { path: path.to_path_buf(), store, inputs, samples }), rows: (0..samples).collect(), labels };
        match source.samples {
            Some(wanted) if wanted > samples => Err(Error::data(
                path,
                format!("samples is {wanted}, and there are {samples}"),
                "ask for fewer, or leave samples out to use them all",
            )),
            Some(wanted) => Ok(all.take(wanted)),
            None => Ok(all),
        }
    }
}

/// Whether the model takes grey images, and their arrangement; judged by the first image.
fn fit_image(images: &Images, spec: &InputSpec, input: &Input) -> Result<(bool, Arrange)> {
    let path = images.path(0);
    let colour = images.decode(0, false)?;
    let decoded = Input { layout: Some(Layout::Nhwc), ..input.clone() };
    let fit = |channels| Arrange::new(&[colour.height, colour.width, channels], spec, &decoded, &path);
    let wants_grey = |dims: &[Option<usize>]| dims.len() == 3 && (dims[0] == Some(1) || dims[2] == Some(1) && dims[0] != Some(3));
    if wants_grey(spec.sample_dims()) { Ok((true, fit(1)?)) } else { Ok((false, fit(3)?)) }
}

/// Raw tensors have the model's layout, known by where its few channels are.
fn layout_of(shape: &[usize]) -> Option<Layout> {
    match shape {
        [first, _, last] if !matches!(first, 1 | 3 | 4) && matches!(last, 1 | 3 | 4) => Some(Layout::Nhwc),
        [_, _, _] => Some(Layout::Nchw),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::{self, File};

    use image::{Rgb, RgbImage};
    use ndarray::{Array1, Array4, array};
    use ndarray_npy::NpzWriter;
    use tempfile::TempDir;

    use super::super::{Channels, Dtype};
    use super::*;

    fn model(dims: &[usize]) -> InputSpec {
        InputSpec { name: "image".into(), dims: std::iter::once(None).chain(dims.iter().copied().map(Some)).collect() }
    }

    /// `n` images of 1×2 pixels, sample k holding 6k, 6k+1, …; labels k mod 10.
    pub fn npz(n: usize) -> (TempDir, Source) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.npz");
        let mut npz = NpzWriter::new(File::create(&path).unwrap());
        npz.add_array("images", &Array4::from_shape_fn((n, 1, 2, 3), |(n, _, w, c)| (n * 6 + w * 3 + c) as u8)).unwrap();
        npz.add_array("labels", &Array1::from_shape_fn(n, |k| (k % 10) as u8)).unwrap();
        npz.finish().unwrap();
        (dir, Source::npz(path))
    }

    pub fn open(source: &Source, input: &Input, dims: &[usize]) -> Result<Dataset, String> {
        Dataset::open(source, input, &[model(dims)]).map_err(|e| e.to_string())
    }

    pub fn folder(sizes: &[(u32, u32)]) -> (TempDir, Source) {
        let dir = tempfile::tempdir().unwrap();
        for (at, (width, height)) in sizes.iter().enumerate() {
            RgbImage::from_pixel(*width, *height, Rgb([10, 20, at as u8])).save(dir.path().join(format!("{at}.png"))).unwrap();
        }
        let source = Source { folder: Some(dir.path().into()), ..Source::default() };
        (dir, source)
    }

    fn bins(samples: u8) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        (0..samples).for_each(|k| fs::write(dir.path().join(format!("{k}.bin")), [k, k + 1]).unwrap());
        dir
    }

    #[test]
    fn images_are_decoded_normalised_and_put_in_the_models_order() {
        let (_dir, source) = folder(&[(2, 2), (2, 2)]);
        let bgr = Input { channels: Channels::Bgr, mean: vec![1., 2., 3.], ..Input::default() };
        let batch = open(&source, &bgr, &[3, 2, 2]).unwrap().batch(&[1]).unwrap();
        assert_eq!(batch[0].1, array![[[[0., 0.], [0., 0.]], [[18., 18.], [18., 18.]], [[7., 7.], [7., 7.]]]].into_dyn());
        let grey = open(&source, &Input::default(), &[1, 2, 2]).unwrap().batch(&[0]).unwrap();
        assert_eq!((grey[0].1.shape(), grey[0].1[[0, 0, 0, 0]]), (&[1, 1, 2, 2][..], 15.0));
        let last = open(&source, &Input::default(), &[2, 2, 3]).unwrap().batch(&[0]).unwrap();
        assert_eq!((last[0].1.shape(), last[0].1[[0, 1, 1, 1]]), (&[1, 2, 2, 3][..], 20.0));
    }

    #[test]
    fn images_of_another_size_are_named() {
        let (_dir, source) = folder(&[(2, 2), (3, 2)]);
        let data = open(&source, &Input::default(), &[3, 2, 2]).unwrap();
        assert!(data.batch(&[1]).unwrap_err().to_string().ends_with("1.png: is 3×2 pixels, and the model takes 2×2"));
        assert!(
            open(&source, &Input::default(), &[3, 8, 8])
                .unwrap_err()
                .contains("samples are [2, 2, 3] but the model's input image takes [3, 8, 8]")
        );
        let fitted = open(&source, &Input { resize: Some(4), crop: Some(4), ..Input::default() }, &[3, 4, 4]).unwrap();
        assert_eq!(fitted.batch(&[0, 1]).unwrap()[0].1.shape(), [2, 3, 4, 4]);
    }

    #[test]
    fn raw_folders_feed_several_inputs() {
        let (one, two) = (bins(3), bins(3));
        let source = Source { bins: vec![one.path().into(), two.path().into()], dtype: Some(Dtype::Uint8), ..Source::default() };
        let inputs = [model(&[2]), InputSpec { name: "mask".into(), dims: vec![Some(1), Some(2), Some(1)] }];
        let batch = Dataset::open(&source, &Input::default(), &inputs).unwrap().batch(&[0, 2]).unwrap();
        assert_eq!(batch[0].1, array![[0., 1.], [2., 3.]].into_dyn());
        assert_eq!((batch[1].0.as_str(), &batch[1].1), ("mask", &array![[[0.], [1.]], [[2.], [3.]]].into_dyn()));
        let scaled = Dataset::open(&source, &Input { scale: 2.0, ..Input::default() }, &inputs);
        assert!(scaled.unwrap_err().to_string().ends_with("preprocessing is given and the model has several inputs"));
    }

    #[test]
    fn raw_samples_take_labels_a_line() {
        let dir = bins(2);
        let labels = dir.path().join("labels.txt");
        fs::write(&labels, "7\n8\n").unwrap();
        let source = Source { bins: vec![dir.path().into()], dtype: Some(Dtype::Uint8), labels: Some(labels), ..Source::default() };
        let data = open(&source, &Input { scale: 2.0, ..Input::default() }, &[2]).unwrap();
        assert_eq!((data.labels(), data.name(1)), (Some(&[7, 8][..]), "1.bin".to_owned()));
        assert_eq!(data.batch(&[1]).unwrap()[0].1, array![[2., 4.]].into_dyn());
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        let (_dir, source) = npz(1);
        assert!(
            open(&source, &Input { crop: Some(2), ..Input::default() }, &[3, 1, 2])
                .unwrap_err()
                .ends_with("resize and crop are for image folders only")
        );
        let two = Dataset::open(&source, &Input::default(), &[model(&[2]), model(&[2])]).unwrap_err();
        assert!(two.to_string().ends_with("the model has 2 inputs: image, image"));
        let (_dir, images) = folder(&[(2, 2)]);
        let layout = Input { layout: Some(Layout::Nhwc), ..Input::default() };
        assert!(open(&images, &layout, &[3, 2, 2]).unwrap_err().contains("layout is for npz files only"));
    }

    #[test]
    fn the_bundled_images_open_for_the_bundled_networks() {
        let file = |name: &str| Source::npz(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets").join(name));
        let input = Input { scale: 1.0 / 255.0, mean: vec![0.4914, 0.4822, 0.4465], std: vec![0.2470, 0.2435, 0.2616], ..Input::default() };
        let test = open(&file("cifar10-test.npz"), &input, &[3, 32, 32]).unwrap();
        assert_eq!((test.len(), &test.labels().unwrap()[..6]), (2000, &[3, 6, 3, 5, 4, 6][..]));
        let batch = test.batch(&[0, 1999]).unwrap();
        assert_eq!(batch[0].1.shape(), [2, 3, 32, 32]);
        assert_eq!(open(&file("cifar10-calibration.npz"), &input, &[3, 32, 32]).unwrap().len(), 512);
    }
}
