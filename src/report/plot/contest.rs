//! Strategies side by side: hypervolume against samples inferred, a staircase a run.

use plotters::prelude::*;

use super::canvas::{
    Align, BLUE, Board, GREEN, INK, LINE, OLIVE, ORANGE, PALE, PURPLE, SOFT, TEAL, VERMILION, draw, line, nice_step, text,
};
use crate::{error::Result, report::format, spec::StrategyName, study::Ran};

const SIZE: (u32, u32) = (860, 520);
const FRAME: (i32, i32, i32, i32) = (72, 48, 700, 460);

/// The runs as SVG text; the axis of samples is logarithmic.
///
/// # Errors
/// [`crate::Error::Internal`] if the drawing library fails, which it has no reason to.
pub fn contest_svg(runs: &[Ran], title: &str) -> Result<String> {
    draw(SIZE, |board| {
        text(board, title, (16, 22), Align::Left, 14.0, INK, true)?;
        let samples = || runs.iter().flat_map(|r| r.hypervolume.iter().map(|h| h.0)).chain(runs.iter().map(|r| r.samples));
        let (Some(low), Some(high)) = (samples().filter(|s| *s > 0).min(), samples().max()) else {
            return text(board, "nothing was measured", (380, 260), Align::Middle, 14.0, SOFT, false);
        };
        let top_of = runs.iter().map(Ran::last).fold(0.0, f64::max).max(1e-9);
        let (left, top, right, bottom) = FRAME;
        let (low, high) = ((low as f64).log10().floor(), (high as f64).log10().max((low as f64).log10().floor() + 0.5));
        let x = |samples: u64| {
            left + (((samples.max(1) as f64).log10() - low).max(0.0) / (high - low) * f64::from(right - left)).round() as i32
        };
        let y = |share: f64| bottom - (share / (1.05 * top_of) * f64::from(bottom - top)).round() as i32;
        for power in low as i32..=high.floor() as i32 {
            let at = 10u64.pow(u32::try_from(power).unwrap_or(0));
            line(board, (x(at), top), (x(at), bottom), LINE)?;
            text(board, &format::count(at), (x(at), bottom + 14), Align::Middle, 11.0, SOFT, false)?;
        }
        let step = nice_step(top_of, 6.0);
        for i in 0..=(top_of / step) as i32 {
            let share = f64::from(i) * step;
            line(board, (left, y(share)), (right, y(share)), LINE)?;
            text(board, &format::trimmed(&format::fixed(share, 4)), (left - 8, y(share)), Align::Right, 11.0, SOFT, false)?;
        }
        for run in runs {
            staircase(board, run, (&x, &y))?;
        }
        let mut named: Vec<StrategyName> = Vec::new();
        runs.iter().for_each(|r| {
            if !named.contains(&r.strategy) {
                named.push(r.strategy)
            }
        });
        for (strategy, i) in named.into_iter().zip(0..) {
            let at = (right + 20, top + 12 + 20 * i);
            line(board, at, (at.0 + 18, at.1), color(strategy).stroke_width(3))?;
            text(board, strategy.name(), (at.0 + 26, at.1), Align::Left, 12.0, INK, false)?;
        }
        text(board, "samples inferred", ((left + right) / 2, bottom + 36), Align::Middle, 12.0, INK, false)?;
        text(board, "share of the reference box that the measured front dominates", (left, top - 12), Align::Left, 12.0, INK, false)
    })
}

fn staircase(board: &Board, run: &Ran, (x, y): (&dyn Fn(u64) -> i32, &dyn Fn(f64) -> i32)) -> Result<()> {
    let style = color(run.strategy).stroke_width(2);
    let mut before = None;
    for &(samples, share) in &run.hypervolume {
        let here = (x(samples), y(share));
        if let Some((_, height)) = before {
            line(board, before.unwrap_or(here), (here.0, height), style)?;
            line(board, (here.0, height), here, style)?;
        }
        before = Some(here);
    }
    before.map_or(Ok(()), |at| line(board, at, (x(run.samples), at.1), style))
}

const fn color(strategy: StrategyName) -> RGBColor {
    match strategy {
        StrategyName::Additive => VERMILION,
        StrategyName::Evolve => BLUE,
        StrategyName::Anneal => TEAL,
        StrategyName::Random => PALE,
        StrategyName::Nsga2 => PURPLE,
        StrategyName::Uniform => SOFT,
        StrategyName::Amct => GREEN,
        StrategyName::Aimet => ORANGE,
        StrategyName::Nncf => OLIVE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Stop;

    #[test]
    fn every_run_is_a_staircase_and_every_strategy_has_a_name() {
        let run = |strategy, seed| Ran {
            strategy,
            seed,
            stop: Stop::Settled { rounds: 3 },
            trials: 9,
            samples: 40_000,
            hypervolume: vec![(1000, 0.1), (9000, 0.3), (30_000, 0.35)],
            fastest_ms: None,
            fastest_certain_ms: Some(0.2),
            seconds: 1.0,
        };
        let svg =
            contest_svg(&[run(StrategyName::Additive, 1), run(StrategyName::Additive, 2), run(StrategyName::Random, 1)], "t").unwrap();
        // Two steps of two lines and a tail each; two keys.
        assert_eq!(svg.matches("<polyline").count() - svg.matches("stroke=\"#DFE4E9\"").count(), 3 * 5 + 2);
        assert!(svg.contains("additive") && svg.contains("random") && !svg.contains("NaN"));
        assert!(contest_svg(&[], "t").unwrap().contains("nothing was measured"));
    }
}
