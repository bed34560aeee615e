//! Every option alone: a row for each layer, its measured distance on the left, its predicted error on the right.

use plotters::prelude::*;

use super::{
    canvas::{Align, Board, GREEN, INK, LINE, SOFT, Spot, VERMILION, block, dot, draw, drawn, line, text, width},
    layers::color,
};
use crate::{
    error::Result,
    precision::Precision,
    report::format,
    study::{Distance, Sensitivity, SensitivityRow},
};

const WIDTH: i32 = 1080;
const TOP: i32 = 106;
const ROW: i32 = 22;
/// Where each panel begins and ends.
const PANELS: [(i32, i32); 2] = [(262, 650), (682, 1056)];
/// Decades an axis shows at most; what is below them stands at its left end.
const DECADES: i32 = 8;

/// Marks of every option on logarithmic axes as SVG text: dots in the colour of their precision, squares for shares of channels and diamonds
/// for ranks, the milder ones paler.
///
/// # Errors
/// [`crate::Error::Internal`] if the drawing library fails, which it has no reason to.
pub fn sensitivity_svg(found: &Sensitivity) -> Result<String> {
    let mut layers: Vec<(&str, Vec<&SensitivityRow>)> = Vec::new();
    for row in &found.rows {
        match layers.last_mut().filter(|(name, _)| *name == row.layer) {
            Some((_, rows)) => rows.push(row),
            None => layers.push((&row.layer, vec![row])),
        }
    }
    let height = TOP + ROW * i32::try_from(layers.len().max(2)).unwrap_or(i32::MAX / 64) + 40;
    draw((WIDTH as u32, height as u32), |board| {
        let measured = Axis::of(found.rows.iter().filter_map(|r| r.distance(found.distance)), PANELS[0]);
        let predicted = Axis::of(found.rows.iter().filter_map(|r| r.predicted_error), PANELS[1]);
        let (Some(measured), predicted) = (measured, predicted) else {
            return text(board, "nothing was measured", (WIDTH / 2, height / 2), Align::Middle, 14.0, SOFT, false);
        };
        legend(board, found)?;
        for (i, _) in layers.iter().enumerate().filter(|(i, _)| i % 2 == 0) {
            let y = TOP + ROW * i32::try_from(i).unwrap_or(0);
            block(board, (12, y), (WIDTH - 12, y + ROW), LINE.mix(0.4).filled())?;
        }
        let bottom = height - 36;
        let what = match found.distance {
            Distance::Kl => "measured: KL divergence from float, nats",
            Distance::Noise => "measured: squared error per squared output",
        };
        measured.draw(board, bottom, what)?;
        if let Some(axis) = &predicted {
            axis.draw(board, bottom, "predicted: error of the layer per its variance")?;
        }
        for ((name, rows), i) in layers.iter().zip(0..) {
            let y = TOP + ROW * i + ROW / 2;
            text(board, &format::shortened(name, 36), (PANELS[0].0 - 12, y), Align::Right, 11.5, INK, false)?;
            for row in rows {
                let paint = paint(row, rows);
                if let Some(value) = row.distance(found.distance) {
                    mark(board, row, (measured.at(value), y), paint)?;
                }
                if let (Some(axis), Some(value)) = (&predicted, row.predicted_error) {
                    mark(board, row, (axis.at(value), y), paint)?;
                }
            }
        }
        Ok(())
    })
}

/// A logarithmic axis between two powers of ten.
struct Axis {
    low: i32,
    high: i32,
    from: i32,
    to: i32,
}

impl Axis {
    /// The axis that holds these values; none if none is above zero.
    fn of(values: impl Iterator<Item = f64>, (from, to): (i32, i32)) -> Option<Self> {
        let logs: Vec<f64> = values.filter(|v| *v > 0.0 && v.is_finite()).map(f64::log10).collect();
        let high = logs.iter().copied().reduce(f64::max)?.ceil() as i32;
        let low = logs.iter().copied().fold(f64::INFINITY, f64::min).floor() as i32;
        Some(Self { low: low.max(high - DECADES).min(high - 1), high, from, to })
    }

    fn at(&self, value: f64) -> i32 {
        let log = if value > 0.0 { value.log10() } else { f64::NEG_INFINITY };
        let share = ((log - f64::from(self.low)) / f64::from(self.high - self.low)).clamp(0.0, 1.0);
        self.from + (share * f64::from(self.to - self.from)).round() as i32
    }

    fn draw(&self, board: &Board, bottom: i32, what: &str) -> Result<()> {
        text(board, what, ((self.from + self.to) / 2, TOP - 30), Align::Middle, 12.0, INK, false)?;
        for power in self.low..=self.high {
            let x = self.at(10f64.powi(power));
            line(board, (x, TOP - 6), (x, bottom + 4), LINE)?;
            let label = match power {
                -3..=3 => format::trimmed(&format::fixed(10f64.powi(power), 3)),
                _ => format!("1e{power}"),
            };
            text(board, &label, (x, bottom + 14), Align::Middle, 11.0, SOFT, false)?;
            text(board, &label, (x, TOP - 13), Align::Middle, 11.0, SOFT, false)?;
        }
        Ok(())
    }
}

/// The colour of an option's mark: a precision's own; of several ranks or shares of a layer the strongest is full, others are paler.
fn paint(row: &SensitivityRow, rows: &[&SensitivityRow]) -> RGBAColor {
    let strongest = rows.iter().all(|o| match (row.keep, row.rank) {
        (Some(keep), _) => o.keep.is_none_or(|k| k >= keep),
        (_, Some(rank)) => o.rank.is_none_or(|r| r >= rank || o.form != row.form),
        _ => true,
    });
    let full = if strongest { 1.0 } else { 0.45 };
    match row.precision {
        Some(precision) => color(precision).mix(1.0),
        None if row.keep.is_some() => VERMILION.mix(full),
        None => GREEN.mix(full),
    }
}

fn mark(board: &Board, row: &SensitivityRow, (x, y): Spot, paint: RGBAColor) -> Result<()> {
    match (row.keep, row.rank) {
        (Some(_), _) => block(board, (x - 4, y - 4), (x + 4, y + 4), paint.filled()),
        (_, Some(_)) => drawn(board.draw(&Polygon::new([(x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)], paint.filled()))),
        _ => dot(board, (x, y), 5, paint.filled()),
    }
}

fn legend(board: &Board, found: &Sensitivity) -> Result<()> {
    let title = format!("Each option alone, everything else in float: {}, {} samples", found.model, format::count(found.samples as u64));
    text(board, &format::shortened(&title, 90), (16, 22), Align::Left, 14.0, INK, true)?;
    let used = Precision::ALL.into_iter().filter_map(|p| found.rows.iter().find(|r| r.precision == Some(p)).map(|r| (p.name(), r)));
    let keep = found.rows.iter().find(|r| r.keep.is_some()).map(|r| ("channels kept", r));
    let rank = found.rows.iter().find(|r| r.rank.is_some()).map(|r| ("rank", r));
    let paler = keep.is_some() || rank.is_some();
    let mut x = 24;
    for (name, row) in used.chain(keep).chain(rank) {
        mark(board, row, (x, 46), paint(row, &[row]))?;
        text(board, name, (x + 11, 46), Align::Left, 12.0, SOFT, false)?;
        x += 11 + width(name, 12.0) + 18;
    }
    if paler { text(board, "(paler: milder)", (x - 8, 46), Align::Left, 12.0, SOFT, false) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::{Measured, RankCorrelation};

    fn row(layer: &str, precision: Option<Precision>, keep: Option<f64>, kl: f64) -> SensitivityRow {
        let measured = Measured { kl: Some(kl), noise: kl, sqnr_db: 30.0, accuracy: 0.8, drop: 0.0, drop_low: None, drop_high: None };
        SensitivityRow {
            layer: layer.into(),
            layers: vec![layer.into()],
            option: "option".into(),
            precision,
            keep,
            rank: if precision.is_none() && keep.is_none() { Some(16) } else { None },
            form: None,
            sparsity: None,
            predicted_error: Some(kl / 3.0),
            measured: Some(measured),
            failed: None,
            us_saved: 1.0,
            bytes_saved: 1,
        }
    }

    fn found(rows: Vec<SensitivityRow>) -> Sensitivity {
        Sensitivity {
            model: "net".into(),
            device: "chip".into(),
            batch: 1,
            metric: "top1".into(),
            samples: 500,
            confidence: 0.95,
            accuracy: 0.8,
            latency_ms: 1.0,
            bytes: 1,
            distance: Distance::Kl,
            options: rows.len(),
            rank_correlation: RankCorrelation::default(),
            rows,
        }
    }

    #[test]
    fn a_decade_is_as_wide_wherever_it_is_and_zero_stands_at_the_left_end() {
        let axis = Axis::of([0.002, 0.9, 0.0].into_iter(), (0, 300)).unwrap();
        assert_eq!([0.0, 1e-9, 0.001, 0.01, 0.1, 1.0, 7.0].map(|v| axis.at(v)), [0, 0, 0, 100, 200, 300, 300]);
    }

    #[test]
    fn every_layer_has_its_name_once_and_every_option_two_marks() {
        let rows = vec![row("a", Some(Precision::Int8), None, 0.1), row("a", None, Some(0.5), 0.0), row("b", None, None, 2.0)];
        let svg = sensitivity_svg(&found(rows)).unwrap();
        // One of each in the legend.
        assert_eq!((svg.matches("<circle").count(), svg.matches("<polygon").count()), (3, 3));
        assert!(svg.contains("int8") && svg.contains("channels kept") && !svg.contains("int4") && !svg.contains("NaN"));
    }

    #[test]
    fn where_nothing_was_measured_it_says_so() {
        assert!(sensitivity_svg(&found(Vec::new())).unwrap().contains("nothing was measured"));
    }
}
