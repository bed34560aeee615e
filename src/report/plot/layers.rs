//! Where the time goes: every layer's predicted time, the float model's pale behind the compressed one's.

use plotters::prelude::*;

use super::canvas::{Align, BLUE, Board, INK, LINE, OLIVE, ORANGE, PURPLE, SOFT, TEAL, block, draw, drawn, line, nice_step, text, width};
use crate::error::Result;
use crate::precision::Precision;
use crate::report::{format, words};
use crate::study::summary::{LayerRow, Summary};

const WIDTH: i32 = 960;
const TOP: i32 = 56;
const ROW: i32 = 26;
const LEFT: i32 = 230;
const RIGHT: i32 = 700;

/// A horizontal bar for each layer of the chosen plan (or of the nearest miss) as SVG text: float time pale, time now in the
/// colour of the precision.
///
/// # Errors
/// [`crate::Error::Internal`] if the drawing library fails, which it has no reason to.
pub fn layers_svg(summary: &Summary) -> Result<String> {
    let rows = &summary.layers;
    let height = TOP + ROW * i32::try_from(rows.len().max(1)).unwrap_or(i32::MAX / 64) + 44;
    draw((WIDTH as u32, height as u32), |board| {
        let longest = rows.iter().flat_map(|r| [r.us, r.float_us]).filter(|us| us.is_finite()).fold(0.0, f64::max);
        if longest <= 0.0 {
            return text(board, "no plan to show", (WIDTH / 2, height / 2), Align::Middle, 14.0, SOFT, false);
        }
        legend(board, summary)?;
        grid(board, longest, height - 38)?;
        for (row, i) in rows.iter().zip(0..) {
            bar(board, row, TOP + ROW * i + ROW / 2, longest)?;
        }
        Ok(())
    })
}

fn at(us: f64, longest: f64) -> i32 {
    let share = if us.is_finite() { (us / longest).clamp(0.0, 1.0) } else { 0.0 };
    LEFT + (share * f64::from(RIGHT - LEFT)).round() as i32
}

/// The colour of a precision.
pub(super) fn color(precision: Precision) -> RGBColor {
    match precision {
        Precision::Fp16 => PURPLE,
        Precision::W8a16 => TEAL,
        Precision::Int8 => BLUE,
        Precision::W4a8 => OLIVE,
        Precision::Int4 => ORANGE,
    }
}

fn legend(board: &Board, summary: &Summary) -> Result<()> {
    let title = match words::subject(summary) {
        Some(point) => format!("Predicted time per layer, trial {}", point.trial),
        None => "Predicted time per layer".to_owned(),
    };
    text(board, &title, (16, 22), Align::Left, 14.0, INK, true)?;
    let used = Precision::ALL.into_iter().filter(|p| summary.layers.iter().any(|r| r.treatment.precision == *p));
    let mut right = WIDTH - 16;
    for (name, paint) in [("float model", LINE)].into_iter().chain(used.map(|p| (p.name(), color(p)))).collect::<Vec<_>>().into_iter().rev()
    {
        text(board, name, (right, 22), Align::Right, 12.0, SOFT, false)?;
        right -= width(name, 11.0) + 18;
        block(board, (right, 16), (right + 13, 28), paint.filled())?;
        right -= 20;
    }
    Ok(())
}

fn grid(board: &Board, longest: f64, bottom: i32) -> Result<()> {
    let step = nice_step(longest, 6.0);
    let ticks = (longest / step).floor() as u32;
    for tick in 0..=ticks {
        let us = f64::from(tick) * step;
        let x = at(us, longest);
        line(board, (x, TOP - 6), (x, bottom), LINE)?;
        let label = format::count(us.round() as u64);
        let label = if step < 1.0 { format::trimmed(&format::fixed(us, 4)) } else { label };
        text(board, &label, (x, bottom + 12), Align::Middle, 11.0, SOFT, false)?;
    }
    text(board, "µs per batch", (RIGHT + 12, bottom + 12), Align::Left, 11.0, SOFT, false)
}

fn bar(board: &Board, row: &LayerRow, y: i32, longest: f64) -> Result<()> {
    let (now, float) = (at(row.us, longest), at(row.float_us, longest));
    text(board, &format::shortened(&row.layer, 31), (LEFT - 10, y), Align::Right, 12.0, INK, false)?;
    block(board, (LEFT, y - 9), (float.max(LEFT + 1), y + 9), LINE.filled())?;
    drawn(board.draw(&Rectangle::new([(LEFT, y - 5), (now.max(LEFT + 1), y + 5)], color(row.treatment.precision).filled())))?;
    let (kept, all) = row.channels;
    let mut words = format!("{}, {}×, {}", format::micros(row.us), format::ratio(row.us, row.float_us), row.treatment.precision);
    if kept < all {
        words += &format!(", {kept}/{all} ch");
    }
    match row.treatment.reduced() {
        reduced if reduced.is_empty() => {}
        reduced if row.treatment.rank.is_some() => words += &format!(", rank {reduced}"),
        reduced => words += &format!(", {reduced}"),
    }
    text(board, &words, (now.max(float) + 8, y), Align::Left, 11.5, SOFT, false)
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture;
    use super::*;

    #[test]
    fn every_layer_has_its_bar_and_its_figures() {
        let summary = fixture::within();
        let svg = layers_svg(&summary).unwrap();
        assert!(summary.layers.iter().all(|row| svg.contains(&format::shortened(&row.layer, 31))));
        assert!(svg.contains("rank 48") && svg.contains("/512 ch"));
    }

    #[test]
    fn a_result_without_a_plan_says_so() {
        assert!(layers_svg(&fixture::empty()).unwrap().contains("no plan to show"));
    }

    #[test]
    fn a_time_that_is_no_number_draws_no_bar() {
        let mut summary = fixture::within();
        summary.layers[0].us = f64::NAN;
        assert!(!layers_svg(&summary).unwrap().contains("NaN"));
    }
}
