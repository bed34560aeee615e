//! Predicted against measured drop: how far the search's model of the network can be believed.

use plotters::prelude::*;

use super::canvas::{Align, BLUE, Board, INK, LINE, PALE, SOFT, VERMILION, dot, draw, line, nice_step, text};
use crate::{
    error::Result,
    report::format::{self, Unit},
    study::summary::{FrontPoint, Summary},
};

const SIZE: (u32, u32) = (560, 520);
const FRAME: (i32, i32, i32, i32) = (72, 52, 540, 460);

/// The front's points with their intervals, and in the background other trials of which something was measured; none where nothing was predicted.
///
/// # Errors
/// [`crate::Error::Internal`] if the drawing library fails, which it has no reason to.
pub fn drops_svg(summary: &Summary) -> Result<Option<String>> {
    let front: Vec<(f64, &FrontPoint)> = summary.front.iter().filter_map(|p| Some((p.predicted_drop?, p))).collect();
    let others: Vec<(f64, f64)> = summary.cloud.iter().filter_map(|p| Some((p.predicted_drop?, p.drop?))).collect();
    if front.is_empty() {
        return Ok(None);
    }
    let unit = Unit::of(&summary.metric);
    let ends = front.iter().flat_map(|(predicted, p)| [*predicted, p.drop_low.unwrap_or(p.drop), p.drop_high.unwrap_or(p.drop)]);
    let values = || ends.clone().map(|v| unit.scale(v)).filter(|v| v.is_finite());
    let (low, high) = (values().fold(0.0, f64::min), values().fold(0.0, f64::max));
    let span = (high - low).max(1e-6);
    let (low, high) = (low - 0.04 * span, high + 0.04 * span);
    let (left, top, right, bottom) = FRAME;
    let share = |v: f64| (v - low) / (high - low);
    let x = |v: f64| left + (share(v) * f64::from(right - left)).round() as i32;
    let y = |v: f64| bottom - (share(v) * f64::from(bottom - top)).round() as i32;
    let inside = |v: f64| (low..=high).contains(&v);
    let paint = |board: &Board| -> Result<()> {
        let step = nice_step(high - low, 6.0);
        let first = (low / step).ceil() as i32;
        for i in first..=(high / step).floor() as i32 {
            let at = f64::from(i) * step;
            line(board, (x(at), top), (x(at), bottom), LINE)?;
            line(board, (left, y(at)), (right, y(at)), LINE)?;
            let label = format::trimmed(&format::fixed(at, 3)).replace('-', "−");
            text(board, &label, (x(at), bottom + 14), Align::Middle, 11.0, SOFT, false)?;
            text(board, &label, (left - 8, y(at)), Align::Right, 11.0, SOFT, false)?;
        }
        line(board, (x(low), y(low)), (x(high), y(high)), SOFT)?;
        for (predicted, measured) in others.iter().map(|(p, m)| (unit.scale(*p), unit.scale(*m))).filter(|(p, m)| inside(*p) && inside(*m))
        {
            dot(board, (x(predicted), y(measured)), 3, PALE.filled())?;
        }
        for (predicted, point) in &front {
            let at = x(unit.scale(*predicted));
            if let (Some(low), Some(high)) = (point.drop_low, point.drop_high) {
                line(board, (at, y(unit.scale(low))), (at, y(unit.scale(high))), BLUE.mix(0.6))?;
            }
            let color = if summary.chosen == Some(point.trial) { VERMILION } else { BLUE };
            dot(board, (at, y(unit.scale(point.drop))), 5, color.filled())?;
        }
        let words = if unit == Unit::Points { ", points" } else { "" };
        let title = match summary.predicted_rank_correlation {
            Some(r) => format!("Predicted and measured drop; rank correlation {} on the front", format::fixed(r, 2).replace('-', "−")),
            None => "Predicted and measured drop".to_string(),
        };
        text(board, &title, (16, 22), Align::Left, 14.0, INK, true)?;
        text(board, &format!("measured{words}"), (left, top - 12), Align::Left, 12.0, INK, false)?;
        text(board, &format!("predicted{words}"), ((left + right) / 2, bottom + 36), Align::Middle, 12.0, INK, false)
    };
    draw(SIZE, paint).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture;

    #[test]
    fn every_point_of_the_front_that_was_predicted_is_a_dot_with_its_interval() {
        let mut summary = fixture::within();
        let nothing = Summary { front: Vec::new(), ..summary.clone() };
        assert_eq!(drops_svg(&nothing).unwrap(), None);
        summary.front.iter_mut().for_each(|p| p.predicted_drop = Some(p.drop * 1.1));
        summary.predicted_rank_correlation = Some(0.97);
        let svg = drops_svg(&summary).unwrap().unwrap();
        assert_eq!(svg.matches("r=\"5\"").count(), summary.front.len());
        assert!(svg.contains("rank correlation 0.97") && !svg.contains("NaN"));
    }
}
