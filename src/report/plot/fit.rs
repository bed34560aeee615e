//! A fit of the cost model: predicted against measured time, and errors family by family.

use plotters::prelude::*;

use super::canvas::{Align, BLUE, Board, GREEN, INK, LINE, SOFT, Spot, VERMILION, block, dashes, dot, draw, line, text};
use crate::{device::fit::validate::Held, error::Result, report::format};

const SIZE: (u32, u32) = (760, 640);
const FRAME: (i32, i32, i32, i32) = (84, 56, 736, 580);
const ROW: i32 = 26;
/// Largest error an axis shows: half and double the measured time.
const FAR: f64 = std::f64::consts::LN_2;

/// Predicted against measured time on logarithmic axes, with a band of ±25 %, as SVG text. Small batches are green, large ones vermilion.
///
/// # Errors
/// [`crate::Error::Internal`] if the drawing library fails, which it has no reason to.
pub fn predicted_svg(held: &[Held], title: &str) -> Result<String> {
    draw(SIZE, |board| {
        text(board, title, (16, 22), Align::Left, 14.0, INK, true)?;
        let times = || held.iter().flat_map(|h| [h.measured_ms, h.predicted_ms]).filter(|t| *t > 0.0 && t.is_finite());
        let (Some(low), Some(high)) = (times().reduce(f64::min), times().reduce(f64::max)) else {
            return text(board, "nothing was measured", (380, 320), Align::Middle, 14.0, SOFT, false);
        };
        let (low, high) = (low.log10().floor(), high.log10().ceil().max(low.log10().floor() + 1.0));
        let share = |ms: f64| (ms.log10() - low) / (high - low);
        let (left, top, right, bottom) = FRAME;
        let x = |ms: f64| left + (share(ms) * f64::from(right - left)).round() as i32;
        let y = |ms: f64| bottom - (share(ms) * f64::from(bottom - top)).round() as i32;
        for power in low as i32..=high as i32 {
            let ms = 10f64.powi(power);
            line(board, (x(ms), top), (x(ms), bottom), LINE)?;
            line(board, (left, y(ms)), (right, y(ms)), LINE)?;
            let label = format::trimmed(&format::fixed(ms, 3));
            text(board, &label, (x(ms), bottom + 14), Align::Middle, 11.0, SOFT, false)?;
            text(board, &label, (left - 8, y(ms)), Align::Right, 11.0, SOFT, false)?;
        }
        let ends = [10f64.powf(low), 10f64.powf(high)];
        let diagonal = |factor: f64, color: RGBColor| {
            // Cut to the frame: predicted = factor × measured.
            let from = ends[0].max(ends[0] / factor);
            let to = ends[1].min(ends[1] / factor);
            line(board, (x(from), y(from * factor)), (x(to), y(to * factor)), color)
        };
        diagonal(1.0, INK)?;
        diagonal(1.25, SOFT)?;
        diagonal(0.75, SOFT)?;
        for h in held {
            let paint = batch_color(h.batch).mix(0.75);
            dot(board, (x(h.measured_ms), y(h.predicted_ms)), 4, paint.filled())?;
        }
        text(board, "measured, ms", ((left + right) / 2, bottom + 36), Align::Middle, 12.0, INK, false)?;
        text(board, "predicted, ms; lines: equal and ±25 %", (left, top - 14), Align::Left, 12.0, INK, false)?;
        legend(board, (right - 260, top - 14))
    })
}

/// A row for each family with a dot for each measurement: how far its prediction is off, as SVG text.
///
/// # Errors
/// [`crate::Error::Internal`] if the drawing library fails, which it has no reason to.
pub fn families_svg(held: &[Held], title: &str) -> Result<String> {
    let families = crate::report::fit::names(held, |h| &h.family);
    let (left, right, top) = (150, 736, 84);
    let bottom = top + ROW * i32::try_from(families.len().max(2)).unwrap_or(i32::MAX / 64);
    let x = |error: f64| left + ((error.clamp(-FAR, FAR) / FAR + 1.0) / 2.0 * f64::from(right - left)).round() as i32;
    draw((SIZE.0, (bottom + 44) as u32), |board| {
        text(board, title, (16, 22), Align::Left, 14.0, INK, true)?;
        legend(board, (right - 260, 46))?;
        for (i, _) in families.iter().enumerate().filter(|(i, _)| i % 2 == 0) {
            let y = top + ROW * i32::try_from(i).unwrap_or(0);
            block(board, (12, y), (right + 12, y + ROW), LINE.mix(0.4).filled())?;
        }
        for ratio in [0.5f64, 0.75, 1.0, 1.25, 1.5, 2.0] {
            let at = x(ratio.ln());
            let (from, to): (Spot, Spot) = ((at, top - 6), (at, bottom + 4));
            if ratio == 1.0 {
                line(board, from, to, INK)?
            } else {
                dashes(board, from, to, SOFT.mix(0.6).into())?
            }
            text(board, &format!("×{}", format::trimmed(&format::fixed(ratio, 2))), (at, bottom + 16), Align::Middle, 11.0, SOFT, false)?;
        }
        for (family, i) in families.iter().zip(0..) {
            let y = top + ROW * i + ROW / 2;
            text(board, &format::shortened(family, 20), (left - 12, y), Align::Right, 12.0, INK, false)?;
            for h in held.iter().filter(|h| h.family == *family) {
                dot(board, (x(h.error()), y), 4, batch_color(h.batch).mix(0.7).filled())?;
            }
        }
        text(board, "predicted over measured time", ((left + right) / 2, bottom + 34), Align::Middle, 12.0, INK, false)
    })
}

fn batch_color(batch: usize) -> RGBColor {
    match batch {
        0..=3 => GREEN,
        4..=15 => BLUE,
        _ => VERMILION,
    }
}

fn legend(board: &Board, (x, y): Spot) -> Result<()> {
    for (i, (batch, words)) in [(1, "batch 1–2"), (8, "4–8"), (32, "16 and more")].into_iter().enumerate() {
        let at = x + [0, 92, 150][i];
        dot(board, (at, y), 4, batch_color(batch).filled())?;
        text(board, words, (at + 10, y), Align::Left, 11.0, SOFT, false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::Precision;

    fn held(family: &str, batch: usize, predicted_ms: f64) -> Held {
        Held { network: "n".into(), family: family.into(), batch, precision: Precision::Fp16, measured_ms: 1.0, predicted_ms }
    }

    #[test]
    fn every_measurement_is_a_dot_and_every_family_a_row() {
        let rows = [held("one", 1, 1.1), held("one", 8, 0.8), held("two", 64, 40.0)];
        for svg in [predicted_svg(&rows, "t").unwrap(), families_svg(&rows, "t").unwrap()] {
            // Three in the legend.
            assert_eq!(svg.matches("<circle").count(), 6);
            assert!(!svg.contains("NaN"));
        }
        assert!(families_svg(&rows, "t").unwrap().contains("two"));
    }

    #[test]
    fn where_nothing_was_measured_it_says_so() {
        assert!(predicted_svg(&[], "t").unwrap().contains("nothing was measured"));
        families_svg(&[], "t").unwrap();
    }
}
