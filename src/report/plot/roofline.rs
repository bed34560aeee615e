//! A roofline: what each kernel reaches of the chip's cube and of its memories, after Williams, Waterman and Patterson (2009).
//!
//! Bytes are those of the tensors that a kernel reads and writes, wherever they lie: under the DRAM roof a kernel may have fetched all of
//! them from DRAM; above it, L2 held some.

use plotters::prelude::*;

use super::{
    canvas::{Align, BLUE, Board, GREEN, INK, LINE, ORANGE, PALE, PURPLE, SOFT, Spot, TEAL, VERMILION, dot, draw, line, text, width},
    label::{Dress, Labels},
};
use crate::{device::kernel::Op, error::Result, precision::Precision, report::format};

const SIZE: (i32, i32) = (960, 600);
/// Left, top, right and bottom of the plane.
const FRAME: (i32, i32, i32, i32) = (78, 88, 936, 540);
/// How many kernels are named, and how far these stand apart at least, pixels.
const NAMED: (usize, i32) = (6, 16);
/// How many of them may be named further off, by a line.
const CALLED_OUT: usize = 3;
/// Decimal logarithms within which kernels of one kind share a dot.
const SAME: f64 = 0.012;
/// Share of the points' time that sets the plane; the tiny kernels that are left may lie below it.
const PLANE_SHARE: f64 = 0.995;

/// Kernels under the roofs of a chip.
#[derive(Debug, Clone, PartialEq)]
pub struct Roofline {
    /// What is shown.
    pub title: String,
    /// Peak of the cube in each precision in use, 1e12 multiply-adds a second.
    pub cube_tmac: Vec<(Precision, f64)>,
    /// Bandwidth of the DRAM, 1e9 bytes a second.
    pub dram_gb_per_s: f64,
    /// Bandwidth between L2 and all cores, 1e9 bytes a second.
    pub l2_gb_per_s: f64,
    /// Kernels with multiply-adds.
    pub points: Vec<RooflinePoint>,
    /// Kernels without: how many, and their time, µs.
    pub without: (usize, f64),
    /// Time of the inference, µs.
    pub whole_us: f64,
}

/// A kernel with multiply-adds.
#[derive(Debug, Clone, PartialEq)]
pub struct RooflinePoint {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub op: Op,
    /// Multiply-adds, above 0.
    pub macs: f64,
    /// Bytes read and written, above 0.
    pub bytes: f64,
    /// Its time, µs, launch included.
    pub us: f64,
}

impl RooflinePoint {
    /// Multiply-adds a byte.
    fn intensity(&self) -> f64 {
        self.macs / self.bytes
    }

    /// 1e12 multiply-adds a second.
    fn tmac(&self) -> f64 {
        self.macs / self.us * 1e-6
    }

    fn is_finite(&self) -> bool {
        [self.intensity(), self.tmac()].iter().all(|v| v.is_finite() && *v > 0.0)
    }
}

/// Kernels of one kind at one place.
struct Dot<'a> {
    /// The longest of them.
    first: &'a RooflinePoint,
    /// How many.
    kernels: usize,
    /// Their time, µs.
    us: f64,
}

impl Dot<'_> {
    fn words(&self) -> String {
        let more = if self.kernels > 1 { format!(" ×{}", self.kernels) } else { String::new() };
        format!("{}{more}, {}", format::shortened(&self.first.name, 26), format::micros(self.us))
    }
}

/// The dots, the longest first.
fn dots(points: &[RooflinePoint]) -> Vec<Dot<'_>> {
    let mut points: Vec<&RooflinePoint> = points.iter().filter(|p| p.is_finite()).collect();
    points.sort_by(|a, b| b.us.total_cmp(&a.us));
    let near = |a: f64, b: f64| (a / b).log10().abs() < SAME;
    let mut dots: Vec<Dot> = Vec::new();
    for point in points {
        let alike =
            |d: &&mut Dot| d.first.op == point.op && near(d.first.intensity(), point.intensity()) && near(d.first.tmac(), point.tmac());
        match dots.iter_mut().find(alike) {
            Some(dot) => (dot.kernels, dot.us) = (dot.kernels + 1, dot.us + point.us),
            None => dots.push(Dot { first: point, kernels: 1, us: point.us }),
        }
    }
    dots.sort_by(|a, b| b.us.total_cmp(&a.us));
    dots
}

/// Dots whose area is their share of the time, on logarithmic axes, as SVG text.
///
/// # Errors
/// [`crate::Error::Internal`] if the drawing library fails, which it has no reason to.
pub fn roofline_svg(found: &Roofline) -> Result<String> {
    let mut dots = dots(&found.points);
    draw((SIZE.0 as u32, SIZE.1 as u32), |board| {
        text(board, &format::shortened(&found.title, 90), (16, 22), Align::Left, 15.0, INK, true)?;
        if dots.is_empty() {
            return text(board, "no kernel has multiply-adds", (SIZE.0 / 2, SIZE.1 / 2), Align::Middle, 14.0, SOFT, false);
        }
        let plane = Plane::around(found, &dots);
        let kernels = |dots: &[Dot]| dots.iter().map(|d| d.kernels).sum::<usize>();
        let all = kernels(&dots);
        dots.retain(|d| d.first.tmac().log10() >= plane.y.0);
        plane.draw(board)?;
        let radius = |d: &Dot| ((d.us / found.whole_us.max(f64::MIN_POSITIVE)).sqrt() * 42.0).clamp(3.0, 26.0).round() as i32;
        let spots: Vec<(Spot, i32)> = dots.iter().map(|d| (plane.spot(d.first.intensity(), d.first.tmac()), radius(d))).collect();
        let mut labels = Labels::within((FRAME.0 + 4, FRAME.1 + 4, FRAME.2 - 4, FRAME.3 - 4));
        spots.iter().for_each(|((x, y), r)| labels.take((x - r, y - r, x + r, y + r)));
        roofs(board, found, &plane, &mut labels)?;
        for (d, (spot, r)) in dots.iter().zip(&spots) {
            dot(board, *spot, r + 1, WHITE.filled())?;
            dot(board, *spot, *r, color(d.first.op).mix(0.72).filled())?;
        }
        let (mut named, mut called_out): (Vec<Spot>, usize) = (Vec::new(), 0);
        for (d, &(spot, r)) in dots.iter().zip(&spots) {
            let near = |other: &Spot| (other.0 - spot.0).abs().max((other.1 - spot.1).abs()) < NAMED.1;
            if named.len() == NAMED.0 || named.iter().any(near) {
                continue;
            }
            let dress = Dress { pixels: 11.5, color: INK, bold: false };
            if !labels.around(board, &d.words(), spot, r, dress)? {
                if called_out == CALLED_OUT || !labels.called_out(board, &d.words(), spot, r, dress)? {
                    continue;
                }
                called_out += 1;
            }
            named.push(spot);
        }
        legend(board, found, &dots, all - kernels(&dots))
    })
}

/// The colour of a kind.
fn color(op: Op) -> RGBColor {
    match op {
        Op::Conv => BLUE,
        Op::GroupConv => TEAL,
        Op::DepthwiseConv => ORANGE,
        Op::ConvTranspose => PURPLE,
        Op::MatMul => GREEN,
        _ => VERMILION,
    }
}

/// Logarithmic axes: multiply-adds a byte to the right, 1e12 multiply-adds a second upwards.
struct Plane {
    x: (f64, f64),
    y: (f64, f64),
}

impl Plane {
    /// The plane that holds the dots, the longest first, the roofs above them and where these meet.
    fn around(found: &Roofline, dots: &[Dot]) -> Self {
        let peak = found.cube_tmac.iter().map(|(_, t)| *t).fold(0.0, f64::max);
        let meet = peak * 1e3 / found.dram_gb_per_s;
        let span = |values: &mut dyn Iterator<Item = f64>| {
            let (least, most) = values.map(f64::log10).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
            let margin = 0.06 * (most - least).max(1.0);
            (least - margin, most + margin)
        };
        let whole: f64 = dots.iter().map(|d| d.us).sum();
        let mut sum = 0.0;
        let main = dots.iter().take_while(|d| {
            let before = sum;
            sum += d.us;
            before <= PLANE_SHARE * whole
        });
        let y = span(&mut main.map(|d| d.first.tmac()).chain([peak]));
        let x = span(&mut dots.iter().map(|d| d.first.intensity()).chain([meet]));
        Self { x, y }
    }

    fn spot(&self, intensity: f64, tmac: f64) -> Spot {
        let at = |value: f64, (from, to): (f64, f64)| ((value.log10() - from) / (to - from)).clamp(0.0, 1.0);
        let (left, top, right, bottom) = FRAME;
        let x = left + (at(intensity, self.x) * f64::from(right - left)).round() as i32;
        (x, bottom - (at(tmac, self.y) * f64::from(bottom - top)).round() as i32)
    }

    /// Grid lines at 1, 2 and 5 times powers of ten, labels where they do not crowd.
    fn draw(&self, board: &Board) -> Result<()> {
        let (left, top, right, bottom) = FRAME;
        let ticks = |(from, to): (f64, f64)| {
            let powers = from.floor() as i32..=to.floor() as i32;
            let each = powers.flat_map(|p| [1.0, 2.0, 5.0].map(|digit| (digit, digit * 10f64.powi(p))));
            each.filter(move |(_, v)| (from..=to).contains(&v.log10())).collect::<Vec<(f64, f64)>>()
        };
        let label = |value: f64| format::trimmed(&format::significant(value, 1));
        let shown = |digit: f64, (from, to): (f64, f64)| digit == 1.0 || to - from < 3.2;
        for (digit, value) in ticks(self.x) {
            let (x, _) = self.spot(value, 1.0);
            line(board, (x, top), (x, bottom), if digit == 1.0 { LINE.mix(1.0) } else { LINE.mix(0.5) })?;
            if shown(digit, self.x) {
                text(board, &label(value), (x, bottom + 13), Align::Middle, 12.0, SOFT, false)?;
            }
        }
        for (digit, value) in ticks(self.y) {
            let (_, y) = self.spot(1.0, value);
            line(board, (left, y), (right, y), if digit == 1.0 { LINE.mix(1.0) } else { LINE.mix(0.5) })?;
            if shown(digit, self.y) {
                text(board, &label(value), (left - 8, y), Align::Right, 12.0, SOFT, false)?;
            }
        }
        line(board, (left, bottom), (right, bottom), PALE)?;
        line(board, (left, top), (left, bottom), PALE)?;
        let middle = ((left + right) / 2, bottom + 36);
        text(board, "multiply-adds per byte read and written", middle, Align::Middle, 13.0, INK, false)?;
        text(board, "predicted, 10¹² multiply-adds a second", (left - 62, top - 20), Align::Left, 13.0, INK, false)
    }

    /// Where a memory's roof enters the plane and where it leaves it or meets the cube's highest.
    fn slope(&self, gb_per_s: f64, peak: f64) -> (f64, f64) {
        let to_tmac = gb_per_s / 1e3;
        let from = 10f64.powf(self.x.0).max(10f64.powf(self.y.0) / to_tmac);
        (from, (peak / to_tmac).min(10f64.powf(self.x.1)))
    }
}

fn roofs(board: &Board, found: &Roofline, plane: &Plane, labels: &mut Labels) -> Result<()> {
    let peak = found.cube_tmac.iter().map(|(_, t)| *t).fold(0.0, f64::max);
    let dress = Dress { pixels: 12.0, color: SOFT, bold: true };
    let (left, _, right, _) = FRAME;
    let level = |tmac: f64| (plane.spot(tmac * 1e3 / found.l2_gb_per_s, tmac).0.max(left), plane.spot(1.0, tmac).1);
    for (_, tmac) in &found.cube_tmac {
        let (from, y) = level(*tmac);
        line(board, (from, y), (right, y), SOFT.stroke_width(2))?;
        labels.take((from, y - 2, right, y + 2));
    }
    for (precision, tmac) in &found.cube_tmac {
        let (from, y) = level(*tmac);
        let words = format!("cube, {precision}: {}", format::significant(*tmac, 3));
        let (above, below) = (y - 11, y + 12);
        let right = [((right - 8, above), Align::Right), ((right - 8, below), Align::Right)];
        let left = [((from - 8, y - 4), Align::Right), ((from + 8, below), Align::Left)];
        let places = if *tmac == peak { [right, left].concat() } else { [[right[1], right[0]], left].concat() };
        labels.first_free(board, &words, &places, dress)?;
    }
    // Names may cross these two: they leave too little room otherwise.
    for (name, rate) in [("DRAM", found.dram_gb_per_s), ("L2", found.l2_gb_per_s)] {
        let (from, to) = plane.slope(rate, peak);
        if from >= to {
            continue;
        }
        let at = |share: f64| {
            let x = from * (to / from).powf(share);
            plane.spot(x, x * rate / 1e3)
        };
        line(board, at(0.0), at(1.0), PALE.stroke_width(2))?;
        let words = format!("{name}, {} GB/s", format::count(rate.round() as u64));
        let places: Vec<(Spot, Align)> = [0.12, 0.3, 0.5, 0.7, 0.02, 0.9]
            .into_iter()
            .flat_map(|share| {
                let (x, y) = at(share);
                [((x - 8, y - 10), Align::Right), ((x + 8, y + 12), Align::Left)]
            })
            .collect();
        labels.first_free(board, &words, &places, dress)?;
    }
    Ok(())
}

/// `tiny` kernels lie below the plane.
fn legend(board: &Board, found: &Roofline, dots: &[Dot], tiny: usize) -> Result<()> {
    let mut left = 16;
    for op in [Op::Conv, Op::GroupConv, Op::DepthwiseConv, Op::ConvTranspose, Op::MatMul, Op::Other] {
        if dots.iter().any(|d| d.first.op == op) {
            dot(board, (left + 6, 44), 6, color(op).mix(0.72).filled())?;
            text(board, op.words(), (left + 18, 44), Align::Left, 12.0, SOFT, false)?;
            left += width(op.words(), 12.0) + 34;
        }
    }
    let mut hidden = Vec::new();
    if let (kernels @ 1.., us) = found.without {
        let share = format::percent((us / found.whole_us * 100.0).round() / 100.0);
        hidden.push(format!("{} without multiply-adds ({share} of it)", format::counted(kernels as u64, "kernel")));
    }
    if tiny > 0 {
        hidden.push(format!("{tiny} far below"));
    }
    let words = match hidden.as_slice() {
        [] => "area: share of the time".to_owned(),
        hidden => format!("area: share of the time; not shown: {}", hidden.join(", ")),
    };
    text(board, &words, (SIZE.0 - 16, 44), Align::Right, 12.0, SOFT, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, op: Op, macs: f64, bytes: f64, us: f64) -> RooflinePoint {
        RooflinePoint { name: name.into(), op, macs, bytes, us }
    }

    fn chart(points: Vec<RooflinePoint>) -> Roofline {
        Roofline {
            title: "net.onnx on chip, batch 8".into(),
            cube_tmac: vec![(Precision::Fp16, 35.0), (Precision::Int8, 70.0)],
            dram_gb_per_s: 200.0,
            l2_gb_per_s: 1000.0,
            points,
            without: (3, 25.0),
            whole_us: 100.0,
        }
    }

    #[test]
    fn roofs_kinds_and_the_longest_kernels_are_named() {
        let many = (1..=9).map(|i| point(&format!("conv{i}"), Op::Conv, 1e9, 3e6 * f64::from(i), 40.0 + 5.0 * f64::from(i)));
        let svg = roofline_svg(&chart(many.chain([point("fc", Op::MatMul, 1e6, 1e6, 9.0)]).collect())).unwrap();
        for words in ["cube, fp16: 35.0", "cube, int8: 70.0", "DRAM, 200 GB/s", "L2, 1,000 GB/s", "matrix product", "conv9", "conv4"] {
            assert!(svg.contains(words), "{words}");
        }
        assert!(!svg.contains("conv3") && svg.contains("not shown: 3 kernels without multiply-adds (25 % of it)"));
    }

    #[test]
    fn kernels_at_one_place_share_a_dot_and_its_area() {
        let alike = ["a", "b", "c"].map(|name| point(name, Op::MatMul, 1e9, 1e7, 20.0));
        let svg = roofline_svg(&chart([&alike[..], &[point("d", Op::Conv, 1e9, 1e7, 20.0)]].concat())).unwrap();
        assert!(svg.contains("a ×3, 60.0 µs"), "{svg}");
    }

    #[test]
    fn a_network_without_products_says_so_and_odd_figures_are_left_out() {
        assert!(roofline_svg(&chart(vec![])).unwrap().contains("no kernel has multiply-adds"));
        let odd =
            vec![point("idle", Op::Conv, 0.0, 1.0, 1.0), point("nan", Op::Conv, 1e9, 1e6, f64::NAN), point("a", Op::Conv, 1e9, 1e6, 90.0)];
        let svg = roofline_svg(&chart(odd)).unwrap();
        assert!(!svg.contains("NaN") && !svg.contains("idle"));
    }
}
