//! Which part of latency and drop the front's picture shows, so that outliers do not squash what matters.

use crate::report::format::Unit;
use crate::report::words;
use crate::study::summary::Summary;

/// The part of the plane that is shown.
pub struct Window {
    /// Latency from, to, milliseconds.
    pub x: (f64, f64),
    /// Drop from, to, on the scale of the metric's unit.
    pub y: (f64, f64),
    /// Trials that are not to be seen.
    pub outside: usize,
}

impl Window {
    /// Shows the subject, the float model, the limits and as much of the front as fits without squashing them: drops up to
    /// three times the budget, or six times the front's median where there is no budget.
    pub fn around(summary: &Summary) -> Self {
        let unit = Unit::of(&summary.metric);
        let shown = |drop: Option<f64>| drop.map(|d| unit.scale(d)).filter(|d| d.is_finite());
        let mut drops: Vec<f64> = summary.front.iter().filter_map(|p| shown(Some(p.drop))).collect();
        drops.sort_by(f64::total_cmp);
        if drops.is_empty() {
            drops = summary.cloud.iter().filter_map(|p| shown(p.drop)).collect();
            drops.sort_by(f64::total_cmp);
            drops.truncate(drops.len().div_ceil(2));
        }
        let budget = shown(summary.budget.accuracy_drop).filter(|b| *b > 0.0);
        let median = drops.get(drops.len() / 2).copied().unwrap_or(0.0);
        let subject = words::subject(summary);
        let least = subject.and_then(|p| shown(p.drop_high).or(shown(Some(p.drop)))).unwrap_or(0.0).max(budget.unwrap_or(0.0) * 1.5);
        let most = budget.map_or(6.0 * median, |b| 3.0 * b);
        let highs = summary.front.iter().filter_map(|p| shown(p.drop_high));
        let high = highs.chain(drops.iter().copied()).fold(0.0, f64::max).min(most).max(least);
        let lows = summary.front.iter().filter_map(|p| shown(p.drop_low).or(shown(Some(p.drop))));
        let low = lows.fold(0.0, f64::min).max(-0.6 * high.max(0.0));
        let high = if high > 0.0 { high } else { (-low).max(unit.scale(1e-3)) };
        let y = (low - 0.08 * (high - low), high + 0.08 * (high - low));

        let base = summary.baseline.latency_ms.max(1e-6);
        let limit = summary.budget.latency_ms.filter(|l| *l < 1.5 * base);
        let tried = summary.cloud.iter().filter(|p| p.drop.is_some() || summary.front.is_empty()).map(|p| p.latency_ms);
        let left = summary.front.iter().map(|p| p.latency_ms).chain(tried).chain(limit).filter(|x| x.is_finite()).fold(base, f64::min);
        let right = limit.unwrap_or(base).max(base);
        let left = left.min(0.8 * right);
        let pad = 0.07 * (right - left);
        let x = ((left - pad).max(0.0), right + 1.3 * pad);

        let mut window = Self { x, y, outside: 0 };
        let front = summary.front.iter().map(|p| (p.latency_ms, shown(Some(p.drop))));
        let cloud = summary.cloud.iter().map(|p| (p.latency_ms, shown(p.drop)));
        window.outside = front.chain(cloud).filter(|(x, y)| !window.holds(*x, y.unwrap_or(0.0))).count();
        window
    }

    fn holds(&self, x: f64, y: f64) -> bool {
        (self.x.0..=self.x.1).contains(&x) && (self.y.0..=self.y.1).contains(&y)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture;
    use super::*;

    #[test]
    fn one_point_without_any_drop_still_has_a_scale() {
        let mut summary = fixture::unlimited();
        summary.cloud.clear();
        summary.front.truncate(1);
        summary.front[0].drop = 0.0;
        summary.front[0].drop_low = Some(0.0);
        summary.front[0].drop_high = Some(0.0);
        let window = Window::around(&summary);
        assert!(window.y.0 < 0.0 && window.y.1 > 0.0, "{:?}", window.y);
    }
}
