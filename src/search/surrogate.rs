//! What a candidate will lose, predicted from the tables and corrected by what was measured.
//!
//! The distance of the output from the float model's is taken as β-th power of a sum over the axes, D = e^α (Σ wₐₒ dₐₒ)^β, where d are the damages of the
//! table and the weights w = exp(kind + axis + option) are near one. All of these are fitted to the measured distances at once, on the
//! logarithm, by Gauss–Newton with normal priors: a hierarchy, so that one measured candidate teaches something of every option in it and of
//! those of its kind. The posterior is taken as normal around the fit; weights drawn from it are what "perturbing the coefficients" means here (SPDY
//! draws them uniformly, Frantar and Alistarh 2022, arXiv 2201.13096; drawing from the posterior is Thompson sampling).
//!
//! The drop follows the distance by a power law, fitted to the measured drops by their standard errors. The distance needs no labels and is
//! known to a few per cent from some hundred samples where a drop is known to a point.

use faer::{Mat, Side, linalg::solvers::Solve};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Tables;
use crate::{
    space::{Candidate, Kind, Space},
    trial::{Score, Trial},
};

/// Prior standard deviations: of α, of β about 1, of a kind, an axis and an option.
const PRIOR: Prior = Prior { scale: 1.0, power: 0.15, kind: 0.7, axis: 0.5, option: 0.3 };
/// That of a kind whose damage is made up for behind it, which the tables do not see.
const MADE_UP_FOR: f64 = 1.5;
/// Standard deviation of the logarithm of a measured distance about the model.
const MISFIT: f64 = 0.12;
/// Steps of Gauss–Newton at most.
const STEPS: usize = 20;
/// Distances below this count as this.
const LEAST: f64 = 1e-9;

struct Prior {
    scale: f64,
    power: f64,
    kind: f64,
    axis: f64,
    option: f64,
}

/// Where the weights of every option stand: kind, axis, option.
type Places = Vec<Vec<Option<[usize; 3]>>>;

/// A fitted model of distance and drop.
#[derive(Debug, Clone)]
pub struct Surrogate {
    table: Vec<Vec<f64>>,
    places: Places,
    found: Vec<f64>,
    /// Cholesky factor of the posterior's precision.
    factor: Mat<f64>,
    drops: Drops,
}

impl Surrogate {
    /// Fits to all trials that were scored.
    pub fn fit<'a>(space: &Space, tables: &Tables, trials: impl IntoIterator<Item = &'a Trial>) -> Self {
        let scored: Vec<(&Candidate, &Score)> = trials
            .into_iter()
            .filter(|t| space.contains(&t.candidate))
            .filter_map(|t| t.outcome.scored().map(|(s, _)| (&t.candidate, s)))
            .collect();
        let (places, prior) = layout(space, &tables.damage);
        let mut fit = Self {
            table: tables.damage.clone(),
            places,
            found: vec![0.0; prior.len()],
            factor: Mat::from_fn(prior.len(), prior.len(), |i, j| if i == j { 1.0 / prior[i] } else { 0.0 }),
            drops: Drops::default(),
        };
        let distances: Vec<(&Candidate, f64)> =
            scored.iter().filter_map(|(c, s)| Some((*c, measured(s)?))).filter(|(c, _)| fit.sum(&fit.found, c) > LEAST).collect();
        fit.gauss_newton(&distances, &prior);
        let known: Vec<(f64, &Score)> = scored.iter().map(|(c, s)| (measured(s).unwrap_or_else(|| fit.distance(c)), *s)).collect();
        fit.drops = Drops::fit(&known);
        fit
    }

    /// Damages of all options with the fitted weights.
    pub fn damage(&self) -> Vec<Vec<f64>> {
        let found = &self.found;
        let weigh = |(d, place): (&f64, &Option<[usize; 3]>)| match place {
            Some(at) => d * at.iter().map(|&i| found[i]).sum::<f64>().clamp(-6.0, 6.0).exp(),
            None => *d,
        };
        self.table.iter().zip(&self.places).map(|(of, places)| of.iter().zip(places).map(weigh).collect()).collect()
    }

    /// The model with all of its distance drawn from what is believed of it.
    pub fn drawn(&self, rng: &mut ChaCha8Rng) -> Self {
        let normal = Mat::from_fn(self.found.len(), 1, |_, _| standard_normal(rng));
        // precision = L Lᵀ, so Lᵀ x = z has the posterior's covariance.
        let n = self.found.len();
        let mut x = vec![0.0; n];
        for i in (0..n).rev() {
            let rest: f64 = (i + 1..n).map(|j| self.factor[(j, i)] * x[j]).sum();
            x[i] = (normal[(i, 0)] - rest) / self.factor[(i, i)];
        }
        Self { found: self.found.iter().zip(x).map(|(f, d)| f + d).collect(), ..self.clone() }
    }

    /// Expected distance of a candidate.
    pub fn distance(&self, candidate: &Candidate) -> f64 {
        self.of_sum(self.sum(&self.found, candidate))
    }

    /// Expected distance where the damages of [`Surrogate::damage`] sum up to so much.
    pub fn of_sum(&self, sum: f64) -> f64 {
        (self.found[0] + (1.0 + self.found[1]) * sum.max(LEAST).ln()).exp()
    }

    /// Expected drop at a distance.
    pub fn drop_at(&self, distance: f64) -> f64 {
        self.drops.at(distance)
    }

    /// Expected drop of a candidate.
    pub fn drop(&self, candidate: &Candidate) -> f64 {
        self.drop_at(self.distance(candidate))
    }

    /// Drop of a measured candidate, from its drop and its distance, each by how well it is known; and the standard error of that.
    pub fn estimate(&self, score: &Score, candidate: &Candidate) -> (f64, f64) {
        let expected = self.drop_at(score.distance.unwrap_or_else(|| self.distance(candidate)));
        let (own, model) = (standard_error(score), self.drops.misfit(expected));
        let weight = 1.0 / own.powi(2).max(1e-12);
        let precision = weight + 1.0 / model.powi(2);
        ((weight * score.drop + expected / model.powi(2)) / precision, precision.sqrt().recip())
    }

    fn sum(&self, found: &[f64], candidate: &Candidate) -> f64 {
        self.shares(found, candidate).iter().map(|(_, d)| d).sum()
    }

    /// Places of the weights of a candidate's options and what each adds.
    fn shares(&self, found: &[f64], candidate: &Candidate) -> Vec<([usize; 3], f64)> {
        let of_axis = |(a, &o): (usize, &u16)| {
            let o = usize::from(o);
            let at = self.places[a][o]?;
            Some((at, self.table[a][o] * at.iter().map(|&i| found[i]).sum::<f64>().clamp(-6.0, 6.0).exp()))
        };
        candidate.0.iter().enumerate().filter_map(of_axis).collect()
    }

    fn gauss_newton(&mut self, measured: &[(&Candidate, f64)], prior: &[f64]) {
        let n = prior.len();
        for _ in 0..STEPS {
            let mut precision = Mat::from_fn(n, n, |i, j| if i == j { prior[i].powi(-2) } else { 0.0 });
            let mut right = Mat::from_fn(n, 1, |i, _| -self.found[i] * prior[i].powi(-2));
            for (candidate, distance) in measured {
                let shares = self.shares(&self.found, candidate);
                let sum: f64 = shares.iter().map(|(_, d)| d).sum::<f64>().max(LEAST);
                let power = 1.0 + self.found[1];
                let residual = distance.max(LEAST).ln() - self.of_sum(sum).ln();
                let mut slope: Vec<(usize, f64)> = vec![(0, 1.0), (1, sum.ln())];
                slope.extend(shares.iter().flat_map(|(at, d)| at.map(|i| (i, power * d / sum))));
                for &(i, a) in &slope {
                    right[(i, 0)] += a * residual / MISFIT.powi(2);
                    slope.iter().for_each(|&(j, b)| precision[(i, j)] += a * b / MISFIT.powi(2));
                }
            }
            let Ok(llt) = precision.llt(Side::Lower) else { return };
            let step = llt.solve(&right);
            self.factor = llt.L().to_owned();
            let longest = (0..n).map(|i| step[(i, 0)].abs()).fold(0.0, f64::max);
            let damped = if longest > 1.0 { 1.0 / longest } else { 1.0 };
            (0..n).for_each(|i| self.found[i] += damped * step[(i, 0)]);
            if longest < 1e-6 {
                break;
            }
        }
    }
}

/// Where the weights of each option stand (kind, axis, option), none for options without damage, and the prior of each.
fn layout(space: &Space, damage: &[Vec<f64>]) -> (Places, Vec<f64>) {
    let mut kinds: Vec<Kind> = space.axes.iter().map(|a| a.kind()).collect();
    kinds.sort();
    kinds.dedup();
    let mut prior = vec![PRIOR.scale, PRIOR.power];
    let made_up_for = |k: &Kind| matches!(k, Kind::Keep | Kind::Rank | Kind::Sparsity);
    prior.extend(kinds.iter().map(|k| if made_up_for(k) { MADE_UP_FOR } else { PRIOR.kind }));
    let mut places = Vec::new();
    for (axis, of) in space.axes.iter().zip(damage) {
        let kind = 2 + kinds.iter().position(|k| *k == axis.kind()).unwrap_or(0);
        let own = prior.len();
        prior.push(PRIOR.axis);
        let place = |d: &f64| {
            (*d > 0.0).then(|| {
                prior.push(PRIOR.option);
                [kind, own, prior.len() - 1]
            })
        };
        places.push(of.iter().map(place).collect());
    }
    (places, prior)
}

/// A measured distance; where a program scores whole models and there is none, the drop stands for it.
fn measured(score: &Score) -> Option<f64> {
    score.distance.or(Some(score.drop).filter(|d| *d > 0.0))
}

/// Standard error of a measured drop.
fn standard_error(score: &Score) -> f64 {
    match (score.drop_low, score.drop_high) {
        // Intervals are at 95 % unless the spec says otherwise, which changes this by less than what it is used for.
        (Some(low), Some(high)) => ((high - low) / 3.92).max(1e-6),
        _ => 1e-6,
    }
}

/// Drop as a power of distance.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Drops {
    /// Logarithm of the drop at distance 1.
    scale: f64,
    power: f64,
}

impl Default for Drops {
    /// Half a nat is worth a quarter of the answers: about what networks for classes show.
    fn default() -> Self {
        Self { scale: 0.5_f64.ln(), power: 0.9 }
    }
}

impl Drops {
    /// Prior standard deviations of scale and power.
    const PRIOR: [f64; 2] = [1.5, 0.15];

    fn at(&self, distance: f64) -> f64 {
        (self.scale + self.power * distance.max(LEAST).ln()).exp()
    }

    /// Standard deviation of a true drop about the law.
    fn misfit(&self, expected: f64) -> f64 {
        0.25 * expected + 0.001
    }

    fn fit(known: &[(f64, &Score)]) -> Self {
        let start = Self::default();
        let mut fit = start;
        for _ in 0..STEPS {
            let mut a = [[Self::PRIOR[0].powi(-2), 0.0], [0.0, Self::PRIOR[1].powi(-2)]];
            let mut b = [(start.scale - fit.scale) * a[0][0], (start.power - fit.power) * a[1][1]];
            for (distance, score) in known {
                let expected = fit.at(*distance);
                let variance = standard_error(score).powi(2) + fit.misfit(expected).powi(2);
                let slope = [expected, expected * distance.max(LEAST).ln()];
                for i in 0..2 {
                    b[i] += slope[i] * (score.drop - expected) / variance;
                    (0..2).for_each(|j| a[i][j] += slope[i] * slope[j] / variance);
                }
            }
            let det = a[0][0] * a[1][1] - a[0][1] * a[1][0];
            let step = [(a[1][1] * b[0] - a[0][1] * b[1]) / det, (a[0][0] * b[1] - a[1][0] * b[0]) / det];
            if !step.iter().all(|s| s.is_finite()) {
                return fit;
            }
            fit.scale += step[0].clamp(-0.5, 0.5);
            fit.power = (fit.power + step[1].clamp(-0.2, 0.2)).clamp(0.3, 2.0);
        }
        fit
    }
}

/// A standard normal number (Box and Muller).
fn standard_normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random_range(0.0..1.0));
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
