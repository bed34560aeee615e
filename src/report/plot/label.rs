//! Labels that stay clear of one another: each takes the first free place around its dot, or is left out.

use super::canvas::{Align, Board, Spot, line, text, width};
use crate::error::Result;
use plotters::style::RGBColor;

/// A rectangle in pixels: left, top, right, bottom.
pub type Rect = (i32, i32, i32, i32);

/// What is taken on the board so far.
pub struct Labels {
    frame: Rect,
    taken: Vec<Rect>,
}

/// How a label looks.
#[derive(Debug, Clone, Copy)]
pub struct Dress {
    /// Height of the font, pixels.
    pub pixels: f64,
    /// Its colour.
    pub color: RGBColor,
    /// Whether it is bold.
    pub bold: bool,
}

impl Labels {
    /// Labels that must lie within a frame.
    pub fn within(frame: Rect) -> Self {
        Self { frame, taken: Vec::new() }
    }

    /// Keeps labels off a rectangle.
    pub fn take(&mut self, rect: Rect) {
        self.taken.push(rect);
    }

    /// Draws a label around a dot of this radius if there is a free place, and says whether there was.
    pub fn around(&mut self, board: &Board, words: &str, (x, y): Spot, radius: i32, dress: Dress) -> Result<bool> {
        let (near, up) = (radius + 5, radius + 9);
        let places = [
            ((x + near, y - 6 - radius), Align::Left),
            ((x - near, y + 6 + radius), Align::Right),
            ((x + near, y), Align::Left),
            ((x - near, y), Align::Right),
            ((x, y - up), Align::Middle),
            ((x, y + up), Align::Middle),
            ((x - near, y - 6 - radius), Align::Right),
            ((x + near, y + 6 + radius), Align::Left),
            ((x + near, y - up - 8), Align::Left),
            ((x - near, y + up + 8), Align::Right),
            ((x - near, y - up - 8), Align::Right),
            ((x + near, y + up + 8), Align::Left),
        ];
        self.first_free(board, words, &places, dress)
    }

    /// Draws a label further off, with a thin line to its dot, at the nearest free place, and says whether there was one.
    pub fn called_out(&mut self, board: &Board, words: &str, (x, y): Spot, radius: i32, dress: Dress) -> Result<bool> {
        let rings = (2..14).map(|ring| ring * 12);
        let places = rings.flat_map(|far| {
            let side = far * 2 / 3;
            [
                ((x + side, y - far), Align::Left),
                ((x - side, y - far), Align::Right),
                ((x + far, y - side / 2), Align::Left),
                ((x - side, y + far), Align::Right),
                ((x + side, y + far), Align::Left),
            ]
        });
        let places: Vec<(Spot, Align)> = places.collect();
        let free = places.iter().find(|(spot, align)| self.is_free(span(words, *spot, *align, dress)));
        let Some(&((to_x, to_y), _)) = free else {
            return Ok(false);
        };
        let (dx, dy) = (f64::from(to_x - x), f64::from(to_y - y));
        let reach = f64::from(radius) / dx.hypot(dy).max(1.0);
        let from = (x + (dx * reach).round() as i32, y + (dy * reach).round() as i32);
        line(board, from, (to_x, to_y + (y - to_y).signum() * 8), dress.color)?;
        self.first_free(board, words, &places, dress)
    }

    /// Draws a label in the first of these places that is free, and says whether one was.
    pub fn first_free(&mut self, board: &Board, words: &str, places: &[(Spot, Align)], dress: Dress) -> Result<bool> {
        let free =
            places.iter().map(|(spot, align)| (*spot, *align, span(words, *spot, *align, dress))).find(|(.., rect)| self.is_free(*rect));
        let Some((spot, align, rect)) = free else {
            return Ok(false);
        };
        self.taken.push(rect);
        text(board, words, spot, align, dress.pixels, dress.color, dress.bold)?;
        Ok(true)
    }

    fn is_free(&self, rect: Rect) -> bool {
        let inside = rect.0 >= self.frame.0 && rect.1 >= self.frame.1 && rect.2 <= self.frame.2 && rect.3 <= self.frame.3;
        inside && !self.taken.iter().any(|t| rect.0 < t.2 && t.0 < rect.2 && rect.1 < t.3 && t.1 < rect.3)
    }
}

fn span(words: &str, (x, y): Spot, align: Align, dress: Dress) -> Rect {
    let wide = if dress.bold { width(words, dress.pixels * 1.06) } else { width(words, dress.pixels) };
    let half = (dress.pixels * 0.62).ceil() as i32;
    let left = match align {
        Align::Left => x,
        Align::Middle => x - wide / 2,
        Align::Right => x - wide,
    };
    (left - 1, y - half, left + wide + 1, y + half)
}

#[cfg(test)]
mod tests {
    use super::super::canvas::{INK, draw};
    use super::*;

    const DRESS: Dress = Dress { pixels: 12.0, color: INK, bold: false };

    #[test]
    fn labels_never_overlap_and_give_up_when_there_is_no_room() {
        let mut labels = Labels::within((0, 0, 300, 200));
        let mut placed = 0;
        draw((300, 200), |board| {
            for _ in 0..40 {
                placed += usize::from(labels.around(board, "trial 17", (150, 100), 6, DRESS)?);
            }
            Ok(())
        })
        .unwrap();
        assert!((2..40).contains(&placed), "{placed}");
        let overlap = |a: &Rect, b: &Rect| a.0 < b.2 && b.0 < a.2 && a.1 < b.3 && b.1 < a.3;
        for (i, a) in labels.taken.iter().enumerate() {
            assert!(labels.taken[..i].iter().all(|b| !overlap(a, b)));
        }
    }
}
