//! Images moved and mirrored at random, so that a network does not learn the samples by heart.

use ndarray::{ArrayD, ArrayViewMutD, Axis, Slice};
use rand::Rng;

use crate::spec::Augment;

impl Augment {
    /// Changes every sample of a batch of images in its own way. What is no image stays: other ranks than 4, grey images when mirrored.
    pub fn apply(&self, batch: &mut ArrayD<f32>, random: &mut impl Rng) {
        let Some((height, width, channels)) = image_axes(batch.shape()) else { return };
        for mut sample in batch.axis_iter_mut(Axis(0)) {
            // Drawn for every image, so that one setting does not change what another draws.
            let (mirror, down, right) = (random.random::<bool>(), random.random::<f32>(), random.random::<f32>());
            if self.flip && mirror && channels > 1 {
                let mirrored = sample.slice_axis(Axis(width - 1), Slice::new(0, None, -1)).to_owned();
                sample.assign(&mirrored);
            }
            let by = [(height - 1, down), (width - 1, right)].map(|(axis, drawn)| (axis, self.distance(drawn, sample.shape()[axis])));
            by.into_iter().for_each(|(axis, by)| moved(&mut sample, axis, by));
        }
    }

    /// A whole number of places between −most and most, from a number between 0 and 1.
    fn distance(&self, drawn: f32, size: usize) -> isize {
        let most = (self.shift * size as f32).floor() as isize;
        ((drawn * (2 * most + 1) as f32).floor() as isize - most).clamp(-most, most)
    }
}

/// Axes of height and width and the number of channels of a batch of images.
fn image_axes(dims: &[usize]) -> Option<(usize, usize, usize)> {
    match *dims {
        [_, c, h, w] if matches!(c, 1 | 3 | 4) && h > 4 && w > 4 => Some((2, 3, c)),
        [_, h, w, c] if matches!(c, 1 | 3 | 4) && h > 4 && w > 4 => Some((1, 2, c)),
        _ => None,
    }
}

/// Moves a sample along an axis; the border is repeated.
fn moved(sample: &mut ArrayViewMutD<'_, f32>, axis: usize, by: isize) {
    if by == 0 {
        return;
    }
    let n = sample.shape()[axis];
    let from: Vec<usize> = (0..n as isize).map(|i| (i - by).clamp(0, n as isize - 1) as usize).collect();
    let new = sample.select(Axis(axis), &from);
    sample.assign(&new);
}

#[cfg(test)]
mod tests {
    use ndarray::{Array4, s};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn images_are_mirrored_and_moved_and_nothing_else() {
        let image = Array4::from_shape_fn((64, 3, 8, 8), |(_, c, h, w)| (100 * c + 10 * h + w) as f32);
        let mut batch = image.clone().into_dyn();
        Augment::default().apply(&mut batch, &mut ChaCha8Rng::seed_from_u64(1));
        let (mut mirrored, mut shifted) = (0, 0);
        for sample in batch.outer_iter() {
            let row = sample.slice(s![1, 3, ..]).to_vec();
            let falls = row[6] < row[1];
            mirrored += usize::from(falls);
            shifted += usize::from(sample[[1, 3, 3]] != 133.0 && !falls);
            // Rows are those of the image, moved by at most one.
            let tens = ((row[3] - 100.0) / 10.0).floor();
            assert!((2.0..=4.0).contains(&tens), "{row:?}");
        }
        assert!((20..44).contains(&mirrored) && shifted > 10, "{mirrored} {shifted}");
    }

    #[test]
    fn what_is_no_image_stays_and_grey_images_are_not_mirrored() {
        let mut table = ArrayD::from_elem(vec![4, 10], 1.0);
        Augment::default().apply(&mut table, &mut ChaCha8Rng::seed_from_u64(1));
        assert!(table.iter().all(|&v| v == 1.0));
        let grey = Array4::from_shape_fn((16, 1, 8, 8), |(_, _, _, w)| w as f32);
        let mut batch = grey.clone().into_dyn();
        Augment { flip: true, shift: 0.0 }.apply(&mut batch, &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(batch, grey.into_dyn());
    }
}
