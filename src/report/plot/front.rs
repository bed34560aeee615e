//! The front: accuracy drop against predicted latency, with the limits, the float model and the trials that lost.

use plotters::prelude::*;

use super::canvas::{
    Align, BLUE, Board, GREEN, INK, LINE, PALE, SOFT, Spot, VERMILION, block, dashes, dot, draw, drawn, font, line, text, width,
};
use super::label::{Dress, Labels};
use super::window::Window;
use crate::error::Result;
use crate::report::format::{self, Unit};
use crate::report::words;
use crate::study::summary::{FrontPoint, Summary};

const SIZE: (u32, u32) = (960, 560);
const TOP: u32 = 66;

/// The front as SVG text: latency in milliseconds to the right, drop (points for shares of samples) upwards.
///
/// # Errors
/// [`crate::Error::Internal`] if the drawing library fails, which it has no reason to.
pub fn front_svg(summary: &Summary) -> Result<String> {
    draw(SIZE, |board| {
        let window = Window::around(summary);
        let frame = axes(board, summary, &window)?;
        limits(board, summary, &frame)?;
        band(board, summary, &frame)?;
        cloud(board, summary, &frame)?;
        drawn(board.draw(&PathElement::new(steps(summary, &frame), BLUE.mix(0.4).stroke_width(2))))?;
        points(board, summary, &frame)?;
        labels(board, summary, &frame)?;
        legend(board, summary, &window)
    })
}

/// The window on the board: from the plane to pixels.
struct Frame {
    window: (f64, f64, f64, f64),
    left: i32,
    top: i32,
    right: i32,
    bottom: i32,
    unit: Unit,
}

impl Frame {
    fn x(&self, latency_ms: f64) -> i32 {
        let (from, to, ..) = self.window;
        let share = ((latency_ms - from) / (to - from)).clamp(0.0, 1.0);
        self.left + (share * f64::from(self.right - self.left)).round() as i32
    }

    fn y(&self, drop: f64) -> i32 {
        let (.., from, to) = self.window;
        let share = ((self.unit.scale(drop) - from) / (to - from)).clamp(0.0, 1.0);
        self.bottom - (share * f64::from(self.bottom - self.top)).round() as i32
    }

    /// The spot of a point; none outside the window.
    fn spot(&self, latency_ms: f64, drop: f64) -> Option<Spot> {
        let (x0, x1, y0, y1) = self.window;
        let inside = (x0..=x1).contains(&latency_ms) && (y0..=y1).contains(&self.unit.scale(drop));
        inside.then(|| (self.x(latency_ms), self.y(drop)))
    }
}

fn axes(board: &Board, summary: &Summary, window: &Window) -> Result<Frame> {
    let unit = Unit::of(&summary.metric);
    let mut builder = ChartBuilder::on(board);
    builder.margin_top(TOP).margin_right(24).margin_left(8).x_label_area_size(50).y_label_area_size(64);
    let mut chart = drawn(builder.build_cartesian_2d(window.x.0..window.x.1, window.y.0..window.y.1))?;
    let what = if unit == Unit::Points { "percentage points" } else { "in the metric's units" };
    drawn(
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(LINE)
            .axis_style(PALE)
            .x_labels(9)
            .y_labels(8)
            .x_label_formatter(&|x| format::trimmed(&format::fixed(*x, 6)))
            .y_label_formatter(&|y| format::trimmed(&format::fixed(*y, 6)))
            .x_desc(format!("predicted latency, ms per batch of {}", format::count(summary.batch as u64)))
            .y_desc(format!("{} drop, {what}", format::shortened(&summary.metric, 30)))
            .label_style(font(12.0, SOFT))
            .axis_desc_style(font(13.0, INK))
            .draw(),
    )?;
    let (x, y) = chart.plotting_area().get_pixel_range();
    let frame = (window.x.0, window.x.1, window.y.0, window.y.1);
    Ok(Frame { window: frame, left: x.start, top: y.start, right: x.end - 1, bottom: y.end - 1, unit })
}

fn limits(board: &Board, summary: &Summary, frame: &Frame) -> Result<()> {
    let budget = summary.budget.accuracy_drop.map(|d| frame.y(d));
    let limit = summary.budget.latency_ms.filter(|l| *l <= frame.window.1).map(|l| frame.x(l));
    if budget.is_some() || limit.is_some() {
        let (top, right) = (budget.unwrap_or(frame.top), limit.unwrap_or(frame.right));
        block(board, (frame.left, top), (right, frame.bottom), GREEN.mix(0.07).filled())?;
    }
    let zero = frame.y(0.0);
    line(board, (frame.left, zero), (frame.right, zero), PALE)?;
    if let Some(y) = budget {
        dashes(board, (frame.left, y), (frame.right, y), GREEN.stroke_width(2))?;
    }
    if let Some(x) = limit {
        dashes(board, (x, frame.bottom), (x, frame.top), GREEN.stroke_width(2))?;
    }
    Ok(())
}

/// The latencies that are not told apart from the subject's, milliseconds.
fn not_told(summary: &Summary) -> Option<(usize, f64, f64)> {
    let (point, error) = (words::subject(summary)?, summary.latency_error.as_ref()?);
    let factor = 1.0 + error.ratio_error;
    Some((point.trial, point.latency_ms / factor, point.latency_ms * factor)).filter(|(_, low, high)| low < high)
}

fn band(board: &Board, summary: &Summary, frame: &Frame) -> Result<()> {
    let Some((_, low, high)) = not_told(summary) else { return Ok(()) };
    block(board, (frame.x(low), frame.top), (frame.x(high), frame.bottom), VERMILION.mix(0.07).filled())
}

fn cloud(board: &Board, summary: &Summary, frame: &Frame) -> Result<()> {
    for point in &summary.cloud {
        match point.drop {
            Some(drop) => {
                if let Some(spot) = frame.spot(point.latency_ms, drop) {
                    dot(board, spot, 3, PALE.mix(0.75).filled())?;
                }
            }
            None if (frame.window.0..=frame.window.1).contains(&point.latency_ms) => {
                let x = frame.x(point.latency_ms);
                line(board, (x, frame.bottom), (x, frame.bottom - 9), PALE)?;
            }
            None => {}
        }
    }
    Ok(())
}

/// The corners of the least drop to be had at each latency, from the top of the window; the float model is the last step.
fn steps(summary: &Summary, frame: &Frame) -> Vec<Spot> {
    if summary.front.is_empty() {
        return Vec::new();
    }
    let mut ends: Vec<(f64, f64)> = summary.front.iter().map(|p| (p.latency_ms, p.drop)).collect();
    ends.push((summary.baseline.latency_ms, 0.0));
    ends.retain(|(x, y)| frame.spot(*x, *y).is_some());
    ends.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut corners: Vec<Spot> = Vec::new();
    let mut least = f64::INFINITY;
    for (latency_ms, drop) in ends {
        if drop >= least {
            continue;
        }
        let (x, y) = (frame.x(latency_ms), frame.y(drop));
        match corners.last() {
            Some(&(_, before)) => corners.push((x, before)),
            None => corners.push((x, frame.top)),
        }
        corners.push((x, y));
        least = drop;
    }
    let last = corners.last().map(|&(_, y)| (frame.x(summary.baseline.latency_ms), y));
    corners.extend(last);
    corners
}

fn radius(summary: &Summary, bytes: u64) -> i32 {
    let share = bytes as f64 / summary.baseline.bytes.max(1) as f64;
    (share.max(0.0).sqrt() * 12.0).clamp(3.0, 12.0).round() as i32
}

fn points(board: &Board, summary: &Summary, frame: &Frame) -> Result<()> {
    let subject = words::subject(summary).map(|p| p.trial);
    let (others, last): (Vec<&FrontPoint>, Vec<_>) = summary.front.iter().partition(|p| Some(p.trial) != subject);
    for point in others.into_iter().chain(last) {
        let Some((x, y)) = frame.spot(point.latency_ms, point.drop) else {
            continue;
        };
        let r = radius(summary, point.bytes);
        let color = if Some(point.trial) == subject { VERMILION } else { BLUE };
        if let (Some(low), Some(high)) = (point.drop_low, point.drop_high) {
            let (low, high) = (frame.y(low), frame.y(high));
            line(board, (x, low), (x, high), color)?;
            for end in [low, high] {
                line(board, (x - 4, end), (x + 4, end), color)?;
            }
        }
        if Some(point.trial) == subject {
            dot(board, (x, y), r + 5, color.mix(0.25).filled())?;
        }
        dot(board, (x, y), r + 1, WHITE.filled())?;
        dot(board, (x, y), r, color.filled())?;
    }
    if let Some(spot) = frame.spot(summary.baseline.latency_ms, 0.0) {
        diamond(board, spot, 8)?;
    }
    Ok(())
}

fn diamond(board: &Board, (x, y): Spot, r: i32) -> Result<()> {
    drawn(board.draw(&Polygon::new([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], INK.filled())))
}

fn labels(board: &Board, summary: &Summary, frame: &Frame) -> Result<()> {
    let mut labels = Labels::within((frame.left + 2, frame.top, frame.right, frame.bottom - 10));
    let spots: Vec<(&FrontPoint, Spot, i32)> =
        summary.front.iter().filter_map(|p| Some((p, frame.spot(p.latency_ms, p.drop)?, radius(summary, p.bytes)))).collect();
    for (point, (x, y), r) in &spots {
        labels.take((x - r, y - r, x + r, y + r));
        if let (Some(low), Some(high)) = (point.drop_low, point.drop_high) {
            labels.take((x - 4, frame.y(high) - 1, x + 4, frame.y(low) + 1));
        }
    }
    for pair in steps(summary, frame).windows(2) {
        let (a, b) = (pair[0], pair[1]);
        labels.take((a.0.min(b.0) - 2, a.1.min(b.1) - 2, a.0.max(b.0) + 2, a.1.max(b.1) + 2));
    }
    for (x, y) in summary.cloud.iter().filter_map(|p| frame.spot(p.latency_ms, p.drop?)) {
        labels.take((x - 3, y - 3, x + 3, y + 3));
    }
    let base = frame.spot(summary.baseline.latency_ms, 0.0);
    if let Some((x, y)) = base {
        labels.take((x - 8, y - 8, x + 8, y + 8));
    }
    if let Some(budget) = summary.budget.accuracy_drop {
        let y = frame.y(budget);
        labels.take((frame.left, y - 2, frame.right, y + 2));
        let words = format!("budget {}", frame.unit.limit_in_words(budget));
        let places =
            [((frame.right - 8, y - 11), Align::Right), ((frame.right - 8, y + 12), Align::Right), ((frame.left + 8, y - 11), Align::Left)];
        labels.first_free(board, &words, &places, Dress { pixels: 12.0, color: GREEN, bold: true })?;
    }
    if let Some(limit) = summary.budget.latency_ms.filter(|l| *l <= frame.window.1) {
        let x = frame.x(limit);
        labels.take((x - 2, frame.top, x + 2, frame.bottom));
        let words = format!("limit {}", format::millis_limit(limit));
        let rows = (frame.top + 12..frame.bottom).step_by(18);
        let places: Vec<_> = rows.flat_map(|y| [((x + 8, y), Align::Left), ((x - 8, y), Align::Right)]).collect();
        labels.first_free(board, &words, &places, Dress { pixels: 12.0, color: GREEN, bold: true })?;
    }
    let subject = words::subject(summary).map(|p| p.trial);
    for (point, spot, r) in spots.iter().filter(|(p, ..)| Some(p.trial) == subject) {
        let ratio = format::ratio(point.latency_ms, summary.baseline.latency_ms);
        let change = format::change(point.bytes as f64, summary.baseline.bytes as f64);
        let words = format!("trial {}: {ratio}× latency, {change} size", point.trial);
        let dress = Dress { pixels: 13.0, color: VERMILION, bold: true };
        if !labels.around(board, &words, *spot, r + 5, dress)? && !labels.called_out(board, &words, *spot, r + 5, dress)? {
            labels.around(board, &format!("trial {}", point.trial), *spot, r + 5, dress)?;
        }
    }
    if let Some(spot) = base {
        labels.around(board, "float model", spot, 8, Dress { pixels: 12.0, color: INK, bold: true })?;
    }
    for (point, spot, r) in spots.iter().filter(|(p, ..)| Some(p.trial) != subject) {
        labels.around(board, &point.trial.to_string(), *spot, *r, Dress { pixels: 11.0, color: BLUE, bold: false })?;
    }
    Ok(())
}

fn legend(board: &Board, summary: &Summary, window: &Window) -> Result<()> {
    let mut x = 24;
    let y = 22;
    let mut entry = |name: &str, swatch: &dyn Fn(Spot) -> Result<()>| {
        swatch((x, y))?;
        text(board, name, (x + 14, y), Align::Left, 12.0, SOFT, false)?;
        x += 14 + width(name, 12.0) + 26;
        Ok::<(), crate::Error>(())
    };
    if !summary.front.is_empty() {
        entry("front", &|spot| dot(board, spot, 6, BLUE.filled()))?;
    }
    if words::subject(summary).is_some() {
        let name = if words::chosen(summary).is_some() { "chosen" } else { "nearest miss" };
        entry(name, &|spot| {
            dot(board, spot, 9, VERMILION.mix(0.25).filled())?;
            dot(board, spot, 6, VERMILION.filled())
        })?;
    }
    entry("float model", &|spot| diamond(board, spot, 7))?;
    if summary.cloud.iter().any(|p| p.drop.is_some()) {
        entry("other trials", &|spot| dot(board, spot, 3, PALE.filled()))?;
    }
    if summary.cloud.iter().any(|p| p.drop.is_none()) {
        entry("rejected, no sample run", &|(x, y)| line(board, (x, y - 5), (x, y + 5), PALE))?;
    }
    if summary.budget.accuracy_drop.is_some() || summary.budget.latency_ms.is_some() {
        entry("limits of drop and latency", &|(x, y)| block(board, (x - 8, y - 6), (x + 8, y + 6), GREEN.mix(0.2).filled()))?;
    }
    let mut said = Vec::new();
    if !summary.front.is_empty() {
        said.push("area of a dot: deployed size".to_owned());
    }
    if summary.front.iter().any(|p| p.drop_low.is_some()) {
        said.push(format!("bar: {} interval of the drop", format::percent(summary.budget.confidence)));
    }
    said.extend(not_told(summary).map(|(trial, ..)| format!("shaded: latency not told apart from trial {trial}'s")));
    match window.outside {
        0 => {}
        1 => said.push("1 trial lies outside the picture".to_owned()),
        n => said.push(format!("{} trials lie outside the picture", format::count(n as u64))),
    }
    text(board, &said.join("; "), (16, 46), Align::Left, 12.0, SOFT, false)
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture;
    use super::*;

    #[test]
    fn every_result_gives_a_picture_with_numbers_only() {
        for (name, summary) in fixture::all() {
            let svg = front_svg(&summary).unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
            assert!(svg.contains("float model"), "{name}");
        }
    }

    #[test]
    fn the_chosen_point_and_the_limits_are_named() {
        let svg = front_svg(&fixture::within()).unwrap();
        assert!(svg.contains("trial 17: 0.49× latency, −73 % size"));
        assert!(svg.contains("budget 1 point"));
    }

    #[test]
    fn points_far_above_the_budget_are_counted_and_do_not_squash_the_rest() {
        let summary = fixture::within();
        let window = Window::around(&summary);
        assert!(window.y.1 < 4.0, "{:?}", window.y);
        assert!(window.outside > 0);
        assert!(front_svg(&summary).unwrap().contains(&format!("{} trials lie outside the picture", window.outside)));
    }

    #[test]
    fn the_chosen_points_band_is_drawn_where_the_error_is_known() {
        let (low, high) = (1.23 * 0.49 / 1.13, 1.23 * 0.49 * 1.13);
        let (trial, from, to) = not_told(&fixture::within()).unwrap();
        assert!(trial == 17 && (from - low).abs() < 1e-12 && (to - high).abs() < 1e-12);
        let band = "shaded: latency not told apart from trial 17";
        assert!(front_svg(&fixture::within()).unwrap().contains(band));
        assert!(!front_svg(&fixture::unmeasured()).unwrap().contains("shaded"));
    }

    #[test]
    fn figures_that_are_no_numbers_are_not_drawn() {
        let mut summary = fixture::within();
        summary.front[0].drop = f64::NAN;
        summary.cloud[0].latency_ms = f64::INFINITY;
        assert!(!front_svg(&summary).unwrap().contains("NaN"));
    }

    #[test]
    fn a_model_that_costs_nothing_still_gives_a_picture() {
        for latency_ms in [0.0, f64::NAN] {
            let mut summary = fixture::empty();
            summary.baseline.latency_ms = latency_ms;
            summary.baseline.bytes = 0;
            assert!(!front_svg(&summary).unwrap().contains("NaN"));
        }
    }
}
