//! The drawing board both pictures share: colours, text and dashed lines in pixels.
//!
//! The colours are those of Okabe and Ito (2008), which people with any kind of colour blindness can tell apart. The page's
//! style sheet turns the neutral ones round in dark mode, by their value.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result};

/// Text and outlines.
pub const INK: RGBColor = RGBColor(0x1F, 0x29, 0x33);
/// Secondary text.
pub const SOFT: RGBColor = RGBColor(0x5B, 0x67, 0x73);
/// Grid lines and pale bars.
pub const LINE: RGBColor = RGBColor(0xDF, 0xE4, 0xE9);
/// Things in the background.
pub const PALE: RGBColor = RGBColor(0xB8, 0xC0, 0xC8);
/// The front, and INT8.
pub const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xB2);
/// FP16.
pub const PURPLE: RGBColor = RGBColor(0xCC, 0x79, 0xA7);
/// Weight-only 8 bits.
pub const TEAL: RGBColor = RGBColor(0x56, 0xB4, 0xE9);
/// 4-bit weights with 8-bit activations.
pub const OLIVE: RGBColor = RGBColor(0x8C, 0x8C, 0x2B);
/// INT4.
pub const ORANGE: RGBColor = RGBColor(0xE6, 0x9F, 0x00);
/// The chosen point.
pub const VERMILION: RGBColor = RGBColor(0xD5, 0x5E, 0x00);
/// Limits.
pub const GREEN: RGBColor = RGBColor(0x00, 0x9E, 0x73);

/// A board of pixels.
pub type Board<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A place in pixels.
pub type Spot = (i32, i32);

/// Where a text stands relative to its spot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// It starts there.
    Left,
    /// It is centred there.
    Middle,
    /// It ends there.
    Right,
}

/// Draws on a white board of this size and gives the SVG.
pub fn draw(size: (u32, u32), paint: impl FnOnce(&Board) -> Result<()>) -> Result<String> {
    let mut svg = String::new();
    {
        let board = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        drawn(board.fill(&WHITE))?;
        paint(&board)?;
        drawn(board.present())?;
    }
    Ok(svg)
}

/// A drawing error as ours: writing into a string does not fail, so it would be a bug.
pub fn drawn<T, E: std::error::Error + Send + Sync>(result: Result<T, DrawingAreaErrorKind<E>>) -> Result<T> {
    result.map_err(|error| Error::Internal(format!("cannot draw: {error}")))
}

/// A font of so many pixels; plotters' SVG divides by 1.24.
pub fn font(pixels: f64, color: RGBColor) -> TextStyle<'static> {
    ("sans-serif", pixels * 1.24).into_font().color(&color)
}

/// A line of text, centred vertically on its spot.
pub fn text(board: &Board, words: &str, spot: Spot, align: Align, pixels: f64, color: RGBColor, bold: bool) -> Result<()> {
    let h = match align {
        Align::Left => HPos::Left,
        Align::Middle => HPos::Center,
        Align::Right => HPos::Right,
    };
    let style = if bold { FontStyle::Bold } else { FontStyle::Normal };
    let style = ("sans-serif", pixels * 1.24, style).into_font().color(&color).pos(Pos::new(h, VPos::Center));
    drawn(board.draw(&Text::new(words.to_owned(), spot, style)))
}

/// About how wide a text comes out in a common sans-serif font, rounded up.
pub fn width(words: &str, pixels: f64) -> i32 {
    (words.chars().count() as f64 * pixels * 0.56).ceil() as i32
}

/// A straight line.
pub fn line(board: &Board, from: Spot, to: Spot, style: impl Into<ShapeStyle>) -> Result<()> {
    drawn(board.draw(&PathElement::new([from, to], style)))
}

/// A dashed line, six pixels on and four off; horizontal or vertical.
pub fn dashes(board: &Board, from: Spot, to: Spot, style: ShapeStyle) -> Result<()> {
    let length = (to.0 - from.0).abs().max((to.1 - from.1).abs());
    let step = |at: i32| (from.0 + (to.0 - from.0).signum() * at, from.1 + (to.1 - from.1).signum() * at);
    for start in (0..length).step_by(10) {
        line(board, step(start), step((start + 6).min(length)), style)?;
    }
    Ok(())
}

/// A filled rectangle.
pub fn block(board: &Board, from: Spot, to: Spot, style: impl Into<ShapeStyle>) -> Result<()> {
    drawn(board.draw(&Rectangle::new([from, to], style)))
}

/// A dot.
pub fn dot(board: &Board, spot: Spot, radius: i32, style: impl Into<ShapeStyle>) -> Result<()> {
    drawn(board.draw(&Circle::new(spot, radius, style)))
}

/// Steps of 1, 2 or 5 times a power of ten that divide a length into at most so many parts.
pub fn nice_step(length: f64, most: f64) -> f64 {
    let rough = (length / most).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * power).find(|s| *s >= rough * 0.999_999).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_numbers() {
        let steps: Vec<String> = [1.0, 1.3, 0.07, 640.0].map(|l| format!("{:.4}", nice_step(l, 5.0))).into();
        assert_eq!(steps, ["0.2000", "0.5000", "0.0200", "200.0000"]);
    }
}
