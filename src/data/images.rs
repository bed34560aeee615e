//! Folders of images: listed when opened, decoded when a batch asks for them.

use std::fs;
use std::path::{Path, PathBuf};

use image::imageops::{self, FilterType};
use image::{ImageBuffer, ImageReader, Luma, Pixel, RgbImage};

use super::input::Input;
use super::labels;
use crate::error::{Error, Result};

const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

/// The image files of a folder, and how they are brought to size.
#[derive(Debug)]
pub(super) struct Images {
    /// Relative to the folder, with `/`, sorted.
    pub names: Vec<String>,
    folder: PathBuf,
    resize: Option<u32>,
    crop: Option<u32>,
}

/// A decoded image: bytes in height, width, channel order.
#[derive(Debug, PartialEq)]
pub(super) struct Decoded {
    pub height: usize,
    pub width: usize,
    pub bytes: Vec<u8>,
}

impl Images {
    /// Lists the images of `folder`, with labels from a file or from the names of its folders if there are such.
    ///
    /// # Errors
    /// The folder cannot be read or holds no images; images lie both in it and in class folders; the label file is wrong.
    pub fn list(folder: &Path, label_file: Option<&Path>, input: &Input) -> Result<(Self, Option<Vec<u32>>)> {
        let (mut names, classes) = entries(folder)?;
        let mut labels = Vec::new();
        let flat = names.len();
        for (class, name) in (0_u32..).zip(&classes) {
            for image in entries(&folder.join(name))?.0 {
                names.push(format!("{name}/{image}"));
                labels.push(class);
            }
        }
        let images = |names| Self { names, folder: folder.to_path_buf(), resize: input.resize, crop: input.crop };
        if names.is_empty() {
            return Err(Error::data(folder, "holds no images", "jpg, jpeg and png files count, in the folder or in one folder a class"));
        }
        if let Some(file) = label_file {
            names.sort_unstable();
            let labels = labels::read(file, &names, true)?;
            return Ok((images(names), Some(labels)));
        }
        if flat > 0 && !labels.is_empty() {
            let message = format!("holds images ({}) and folders of images ({})", names[0], names[flat]);
            return Err(Error::data(folder, message, "keep one of them, or give labels: a file of lines NAME LABEL"));
        }
        Ok((images(names), (flat == 0).then_some(labels)))
    }

    /// The file of one image.
    pub fn path(&self, at: usize) -> PathBuf {
        self.folder.join(&self.names[at])
    }

    /// Decodes one image, grey (ITU-R BT.601, as Pillow) or RGB, then resizes (bilinear, antialiased) and crops it.
    ///
    /// # Errors
    /// The file cannot be read or decoded, or is smaller than the crop.
    pub fn decode(&self, at: usize, grey: bool) -> Result<Decoded> {
        let path = self.path(at);
        let reader = ImageReader::open(&path).map_err(Error::io("read", &path))?;
        let reader = reader.with_guessed_format().map_err(Error::io("read", &path))?;
        let image =
            reader.decode().map_err(|e| Error::data(&path, format!("is not a readable image: {e}"), "remove or replace the file"))?;
        let image = image.into_rgb8();
        if grey { self.fit(&luma(&image), &path) } else { self.fit(&image, &path) }
    }

    fn fit<P: Pixel<Subpixel = u8> + 'static>(&self, image: &ImageBuffer<P, Vec<u8>>, path: &Path) -> Result<Decoded> {
        let (width, height) = image.dimensions();
        let resized = self.resize.map(|side| {
            let long =
                |edge: u32| u32::try_from(u64::from(side) * u64::from(edge) / u64::from(width.min(height).max(1))).unwrap_or(u32::MAX);
            let (width, height) = if width <= height { (side, long(height)) } else { (long(width), side) };
            imageops::resize(image, width, height, FilterType::Triangle)
        });
        let image = resized.as_ref().unwrap_or(image);
        let (width, height) = image.dimensions();
        let (side_x, side_y) = self.crop.map_or((width, height), |side| (side, side));
        if side_x > width || side_y > height {
            let message = format!("is {width}×{height} pixels, and the crop wants {side_x}×{side_y}");
            return Err(Error::data(path, message, "add resize, with the crop's side or more"));
        }
        let start = |all: u32, part: u32| (f64::from(all - part) / 2.0).round_ties_even() as u32;
        let cropped = imageops::crop_imm(image, start(width, side_x), start(height, side_y), side_x, side_y).to_image();
        Ok(Decoded { height: side_y as usize, width: side_x as usize, bytes: cropped.into_raw() })
    }
}

/// Image files and folders of a folder, sorted; hidden ones left out.
fn entries(folder: &Path) -> Result<(Vec<String>, Vec<String>)> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| !n.starts_with('.')) else { continue };
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        if path.is_dir() {
            folders.push(name.to_owned());
        } else if extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str())) {
            files.push(name.to_owned());
        }
    }
    files.sort_unstable();
    folders.sort_unstable();
    Ok((files, folders))
}

fn luma(image: &RgbImage) -> ImageBuffer<Luma<u8>, Vec<u8>> {
    let grey = |[r, g, b]: [u8; 3]| ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8;
    ImageBuffer::from_fn(image.width(), image.height(), |x, y| Luma([grey(image.get_pixel(x, y).0)]))
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn gradient(folder: &Path, name: &str, width: u32, height: u32) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 7])).save(path).unwrap();
    }

    type Listed = Result<(Images, Option<Vec<u32>>), String>;

    fn listed(files: &[&str]) -> (tempfile::TempDir, Listed) {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|name| gradient(dir.path(), name, 4, 4));
        let listed = Images::list(dir.path(), None, &Input::default()).map_err(|e| e.to_string());
        (dir, listed)
    }

    fn sized(width: u32, height: u32, resize: Option<u32>, crop: Option<u32>) -> Result<Decoded, String> {
        let dir = tempfile::tempdir().unwrap();
        gradient(dir.path(), "a.png", width, height);
        let (images, _) = Images::list(dir.path(), None, &Input { resize, crop, ..Input::default() }).unwrap();
        images.decode(0, false).map_err(|e| e.to_string())
    }

    #[test]
    fn sorted_folder_names_are_the_classes() {
        let (_dir, listed) = listed(&["dog/1.png", "cat/2.png", "cat/1.png"]);
        let (images, labels) = listed.unwrap();
        assert_eq!(images.names, ["cat/1.png", "cat/2.png", "dog/1.png"]);
        assert_eq!(labels, Some(vec![0, 0, 1]));
    }

    #[test]
    fn a_flat_folder_has_labels_only_from_a_file() {
        let (dir, listed) = listed(&["b.png", "a.png"]);
        assert_eq!(listed.unwrap().1, None);
        let file = dir.path().join("labels.txt");
        fs::write(&file, "b.png 4\na.png 3\n").unwrap();
        let (images, labels) = Images::list(dir.path(), Some(&file), &Input::default()).unwrap();
        assert_eq!((images.names, labels), (vec!["a.png".to_owned(), "b.png".to_owned()], Some(vec![3, 4])));
    }

    #[test]
    fn a_folder_without_images_or_with_mixed_ones_is_an_error() {
        assert!(listed(&[]).1.unwrap_err().ends_with("holds no images"));
        assert!(listed(&["a.png", "cat/b.png"]).1.unwrap_err().ends_with("holds images (a.png) and folders of images (cat/b.png)"));
    }

    #[test]
    fn resize_takes_the_shorter_side_and_crop_the_centre() {
        let (wide, tall) = (sized(80, 40, Some(20), None).unwrap(), sized(40, 80, Some(20), None).unwrap());
        assert_eq!(((wide.width, wide.height), (tall.width, tall.height)), ((40, 20), (20, 40)));
        let crop = sized(8, 6, None, Some(2)).unwrap();
        assert_eq!(crop.bytes, [3, 2, 7, 4, 2, 7, 3, 3, 7, 4, 3, 7]);
        assert!(sized(8, 6, None, Some(7)).unwrap_err().ends_with("is 8×6 pixels, and the crop wants 7×7"));
    }

    #[test]
    fn grey_has_the_weights_of_pillow() {
        let grey = luma(&RgbImage::from_raw(3, 1, vec![255, 0, 0, 0, 255, 0, 0, 0, 255]).unwrap());
        assert_eq!(grey.into_raw(), [76, 150, 29]);
    }

    #[test]
    fn an_undecodable_image_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("broken.png"), b"\x89PNG\r\n\x1a\nrest").unwrap();
        let (images, _) = Images::list(dir.path(), None, &Input::default()).unwrap();
        assert!(images.decode(0, false).unwrap_err().to_string().contains("broken.png: is not a readable image"));
    }
}
