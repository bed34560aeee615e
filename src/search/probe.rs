//! The cost of a network as a sum of small tables, found by asking.
//!
//! A cost model is a function of the whole candidate. But the time of a layer's kernels, its site, depends on few decisions: its own, the channels of
//! its input and output, the precision of those that read it. Which these are is found by changing one axis at a time; then candidates are
//! asked for that show every site every combination of its axes, many sites at once, as in a covering array.

use std::collections::HashSet;

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::solve::Term;
use crate::{error::Result, space::Candidate, trial::Part};

/// Candidates around which single axes are changed.
const BASES: usize = 3;
/// Combinations of options that a site is told apart by at most.
const COMBINATIONS: usize = 2048;
/// Candidates that are asked for at most, for all sites together.
const QUESTIONS: usize = 6000;
/// Candidates that are asked for at once.
const TOGETHER: usize = 64;
/// A change of a site's time below this share of it is none: caches remember what other layers left in them.
const CHANGE: f64 = 0.002;

/// Tables of all sites. `parts` gives the parts of a candidate's cost, always in the same order of sites.
///
/// # Errors
/// As `parts`.
pub fn probe(options: &[usize], parts: &(dyn Fn(&Candidate) -> Result<Vec<Part>> + Sync)) -> Result<Vec<Term>> {
    let mut rng = ChaCha8Rng::seed_from_u64(options.len() as u64);
    let ask = |asked: &[Candidate]| asked.par_iter().map(parts).collect::<Result<Vec<_>>>();
    let scopes = scopes(options, &ask, &mut rng)?;
    let mut sites: Vec<Site> = scopes.into_iter().map(|axes| Site::new(axes, options)).collect();
    let mut asked = 0;
    while asked < QUESTIONS && sites.iter().any(|s| s.open > 0) {
        let batch: Vec<Candidate> = (0..TOGETHER).map(|_| covering(options, &sites, &mut rng)).collect();
        for (candidate, parts) in batch.iter().zip(ask(&batch)?) {
            sites.iter_mut().zip(parts).for_each(|(site, part)| site.see(candidate, part));
        }
        asked += batch.len();
    }
    Ok(sites.into_iter().map(Site::finish).collect())
}

/// The axes that each site's cost depends on.
fn scopes(options: &[usize], ask: &impl Fn(&[Candidate]) -> Result<Vec<Vec<Part>>>, rng: &mut ChaCha8Rng) -> Result<Vec<Vec<usize>>> {
    let mut influence: Vec<Vec<f64>> = Vec::new();
    for base in 0..BASES {
        let base: Vec<u16> = options.iter().map(|&n| if base == 0 { 0 } else { draw(n, rng) }).collect();
        let changed = |a: usize| {
            let mut other = base.clone();
            other[a] = (base[a] + 1) % u16::try_from(options[a]).unwrap_or(u16::MAX).max(1);
            Candidate(other)
        };
        let all: Vec<Candidate> = std::iter::once(Candidate(base.clone())).chain((0..options.len()).map(changed)).collect();
        let found = ask(&all)?;
        let Some((plain, changed)) = found.split_first() else { break };
        influence.resize(plain.len(), vec![0.0; options.len()]);
        for (a, parts) in changed.iter().enumerate() {
            for (s, (before, after)) in plain.iter().zip(parts).enumerate() {
                let share = (after[0] - before[0]).abs() / before[0].abs().max(1e-9);
                let weighs = if after[1] == before[1] { 0.0 } else { (after[1] - before[1]).abs() / before[1].abs().max(1.0) };
                influence[s][a] = influence[s][a].max(share.max(weighs));
            }
        }
    }
    let scope = |of: &Vec<f64>| {
        let mut axes: Vec<usize> = (0..of.len()).filter(|&a| of[a] > CHANGE).collect();
        axes.sort_by(|&a, &b| of[b].total_cmp(&of[a]).then(a.cmp(&b)));
        let mut combinations = 1;
        axes.retain(|&a| {
            let fits = combinations * options[a] <= COMBINATIONS;
            combinations *= if fits { options[a] } else { 1 };
            fits
        });
        axes.sort_unstable();
        axes
    };
    Ok(influence.iter().map(scope).collect())
}

/// A candidate that shows as many sites as it can a combination that they have not seen.
fn covering(options: &[usize], sites: &[Site], rng: &mut ChaCha8Rng) -> Candidate {
    let mut fixed: Vec<Option<u16>> = vec![None; options.len()];
    let mut order: Vec<usize> = (0..sites.len()).filter(|&s| sites[s].open > 0).collect();
    order.shuffle(rng);
    for s in order {
        if let Some(combination) = sites[s].unseen(&fixed, rng) {
            sites[s].axes.iter().zip(combination).for_each(|(&a, o)| fixed[a] = Some(o));
        }
    }
    Candidate(fixed.into_iter().zip(options).map(|(o, &n)| o.unwrap_or_else(|| draw(n, rng))).collect())
}

fn draw(n: usize, rng: &mut ChaCha8Rng) -> u16 {
    u16::try_from(rng.random_range(0..n.max(1))).unwrap_or(0)
}

/// What was seen of a site.
struct Site {
    axes: Vec<usize>,
    sizes: Vec<usize>,
    sums: Vec<Part>,
    seen: Vec<u32>,
    open: usize,
}

impl Site {
    fn new(axes: Vec<usize>, options: &[usize]) -> Self {
        let sizes: Vec<usize> = axes.iter().map(|&a| options[a]).collect();
        let all = sizes.iter().product();
        Self { axes, sizes, sums: vec![[0.0; 2]; all], seen: vec![0; all], open: all }
    }

    fn see(&mut self, candidate: &Candidate, part: Part) {
        let i = self.axes.iter().zip(&self.sizes).fold(0, |i, (&a, &n)| i * n + usize::from(candidate.0[a]));
        self.open -= usize::from(self.seen[i] == 0);
        self.seen[i] += 1;
        (0..2).for_each(|k| self.sums[i][k] += part[k]);
    }

    fn combination(&self, mut i: usize) -> Vec<u16> {
        let mut found = vec![0; self.sizes.len()];
        for (slot, &n) in found.iter_mut().zip(&self.sizes).rev() {
            *slot = u16::try_from(i % n).unwrap_or(0);
            i /= n;
        }
        found
    }

    /// A combination not seen yet that goes with what is fixed already.
    fn unseen(&self, fixed: &[Option<u16>], rng: &mut ChaCha8Rng) -> Option<Vec<u16>> {
        let start = rng.random_range(0..self.seen.len());
        let goes = |c: &Vec<u16>| self.axes.iter().zip(c).all(|(&a, &o)| fixed[a].is_none_or(|f| f == o));
        let all = (0..self.seen.len()).map(|i| (start + i) % self.seen.len());
        all.filter(|&i| self.seen[i] == 0).map(|i| self.combination(i)).find(goes)
    }

    /// The means of what was seen; where nothing was, what was seen of the combination that differs in the fewest axes.
    fn finish(self) -> Term {
        let known: Vec<usize> = (0..self.seen.len()).filter(|&i| self.seen[i] > 0).collect();
        let nearest = |i: usize| {
            let wanted = self.combination(i);
            let apart = |&j: &usize| self.combination(j).iter().zip(&wanted).filter(|(a, b)| a != b).count();
            known.iter().copied().min_by_key(apart).unwrap_or(0)
        };
        let of = |i: usize| if self.seen[i] > 0 { i } else { nearest(i) };
        let mean = |k: usize| (0..self.seen.len()).map(of).map(|i| self.sums[i][k] / f64::from(self.seen[i].max(1))).collect();
        let (ms, bytes) = (mean(0), mean(1));
        Term { axes: self.axes, ms, bytes }
    }
}

/// Tables that are no larger than they need be: those over the same axes are one.
pub fn merged(terms: Vec<Term>) -> Vec<Term> {
    let mut out: Vec<Term> = Vec::new();
    let mut seen: HashSet<Vec<usize>> = HashSet::new();
    for term in terms {
        if seen.insert(term.axes.clone()) {
            out.push(term);
        } else if let Some(same) = out.iter_mut().find(|t| t.axes == term.axes) {
            same.ms.iter_mut().zip(&term.ms).for_each(|(a, b)| *a += b);
            same.bytes.iter_mut().zip(&term.bytes).for_each(|(a, b)| *a += b);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three sites in a chain: a·b, b·c, c alone.
    fn chain(c: &Candidate) -> Result<Vec<Part>> {
        let v: Vec<f64> = c.0.iter().map(|&o| f64::from(o) + 1.0).collect();
        Ok(vec![[v[0] * v[1], v[0]], [10.0 * v[1] * v[2], v[2]], [v[2], 5.0]])
    }

    #[test]
    fn a_cost_that_is_a_sum_of_small_tables_is_found_exactly() {
        let terms = probe(&[3, 4, 2, 5], &chain).unwrap();
        assert_eq!(terms.iter().map(|t| t.axes.clone()).collect::<Vec<_>>(), [vec![0, 1], vec![1, 2], vec![2]]);
        let total = |c: &Candidate, k: usize| -> f64 {
            let of = |t: &Term| {
                let i = t.axes.iter().fold(0, |i, &a| i * [3, 4, 2, 5][a] + usize::from(c.0[a]));
                [t.ms[i], t.bytes[i]][k]
            };
            terms.iter().map(of).sum()
        };
        for (a, b, c, d) in [(0, 0, 0, 0), (2, 3, 1, 4), (1, 2, 0, 3), (2, 0, 1, 1)] {
            let candidate = Candidate(vec![a, b, c, d]);
            for k in 0..2 {
                let wanted: f64 = chain(&candidate).unwrap().iter().map(|p| p[k]).sum();
                assert!((total(&candidate, k) - wanted).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn tables_over_the_same_axes_become_one() {
        let one = Term { axes: vec![1], ms: vec![1.0, 2.0], bytes: vec![0.0, 1.0] };
        let other = Term { axes: vec![0], ..one.clone() };
        let merged = merged(vec![one.clone(), other.clone(), one]);
        assert_eq!(merged, [Term { axes: vec![1], ms: vec![2.0, 4.0], bytes: vec![0.0, 2.0] }, other]);
    }
}
