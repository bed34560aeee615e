//! When to give a candidate up: an always-valid sequential test on paired differences.
//!
//! Samples are drawn without replacement in one fixed order. With Dᵢ ∈ [−1, 1] the loss of the candidate against the
//! float model on sample i, a gambler bets against "the mean of D over the whole set is at most b": the stakes make
//! K = Π (1 + λᵢ (Dᵢ − bᵢ)) a supermartingale under that claim, so that K ≥ 1/α has probability at most α, however
//! often one looks (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2020,
//! arXiv 2010.09686, with its rule for sampling without replacement).

/// The test "the drop over the whole set is above `budget`".
#[derive(Debug, Clone)]
pub struct Bet {
    budget: f64,
    total: usize,
    seen: usize,
    sum: f64,
    squares: f64,
    capital: f64,
    alpha: f64,
}

impl Bet {
    /// Share of the largest allowed stake that is used.
    const CAUTION: f64 = 0.5;

    /// A test against a budget on a set of `total` samples, wrong with probability at most `alpha`.
    pub const fn new(budget: f64, total: usize, alpha: f64) -> Self {
        Self { budget, total, seen: 0, sum: 0.0, squares: 0.0, capital: 1.0, alpha }
    }

    /// Takes the next difference; true as soon as the drop over the whole set is certainly above the budget.
    pub fn push(&mut self, d: f64) -> bool {
        let left = (self.total - self.seen.min(self.total - 1)) as f64;
        // What the mean of the rest would have to be if the whole set's were the budget.
        let b = (self.total as f64 * self.budget - self.sum) / left;
        // A prior of two even samples keeps the first stakes small.
        let n = self.seen as f64;
        let mean = (self.sum + 2.0 * self.budget) / (n + 2.0);
        let variance = (self.squares + 0.5) / (n + 2.0) - mean * mean;
        let edge = mean - b;
        let limit = Self::CAUTION / (1.0 + b).max(f64::EPSILON);
        let stake = if edge > 0.0 { (edge / (variance.max(1e-6) + edge * edge)).clamp(0.0, limit) } else { 0.0 };
        self.capital *= 1.0 + stake * (d - b);
        self.seen += 1;
        self.sum += d;
        self.squares += d * d;
        // The claim can no longer be true whatever comes.
        let impossible = self.sum - (self.total - self.seen) as f64 > self.total as f64 * self.budget;
        self.capital >= 1.0 / self.alpha || impossible
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, seq::SliceRandom};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::data::Metric;

    /// Share of 400 shuffles of a set of 2,000 differences that are given up, and the mean number of samples seen.
    fn given_up(losses: usize, gains: usize, budget: f64) -> (f64, f64) {
        let mut set: Vec<f64> = vec![1.0; losses];
        set.extend(vec![-1.0; gains]);
        set.resize(2000, 0.0);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (mut stopped, mut seen) = (0, 0);
        for _ in 0..400 {
            set.shuffle(&mut rng);
            let mut bet = Bet::new(budget, set.len(), 0.05);
            let at = set.iter().position(|&d| bet.push(d));
            stopped += usize::from(at.is_some());
            seen += at.map_or(2000, |i| i + 1);
        }
        (f64::from(stopped as u32) / 400.0, seen as f64 / 400.0)
    }

    #[test]
    fn a_candidate_at_the_budget_is_given_up_in_at_most_five_per_cent_of_runs() {
        assert!(given_up(60, 20, 0.02).0 <= 0.05);
        assert!(given_up(200, 160, 0.02).0 <= 0.05);
    }

    #[test]
    fn a_hopeless_candidate_is_given_up_early() {
        let (share, seen) = given_up(500, 100, 0.02);
        assert!(share > 0.99 && seen < 250.0, "{share} {seen}");
    }

    const RUNS: usize = 200;

    /// Shares of the runs in which a candidate ends before its last sample, and in which it is accepted after it, by a budget of a point. Each run
    /// draws its samples without replacement from `whole`, of which the candidate gets `rate` otherwise than the float model, and loses `drop`.
    fn run(rate: f64, drop: f64, samples: usize, whole: usize) -> (f64, f64) {
        const BUDGET: f64 = 0.01;
        let count = |share: f64| (share * whole as f64).round() as usize;
        let (losses, gains) = (count((rate + drop) / 2.0), count((rate - drop) / 2.0));
        let mut all: Vec<f64> = vec![1.0; losses];
        all.extend(vec![-1.0; gains]);
        all.resize(whole, 0.0);
        let mut rng = ChaCha8Rng::seed_from_u64((1e4 * (rate + 10.0 * drop)) as u64 + samples as u64);
        let (mut given_up, mut accepted) = (0, 0);
        for _ in 0..RUNS {
            let met: Vec<f64> = all.partial_shuffle(&mut rng, samples).0.to_vec();
            let mut bet = Bet::new(BUDGET, samples, 0.05);
            let at = met.iter().position(|&d| bet.push(d)).filter(|at| at + 1 < samples);
            given_up += usize::from(at.is_some());
            if at.is_none() {
                let float: Vec<f64> = met.iter().map(|&d| f64::from(u8::from(d > 0.0))).collect();
                let candidate: Vec<f64> = met.iter().map(|&d| f64::from(u8::from(d < 0.0))).collect();
                let interval = Metric::Top1.paired(&float, &candidate, 0.95).unwrap();
                accepted += usize::from(interval.high <= BUDGET);
            }
        }
        (given_up as f64 / RUNS as f64, accepted as f64 / RUNS as f64)
    }

    const RATES: [f64; 3] = [0.03, 0.06, 0.12];
    const SIZES: [usize; 2] = [2000, 10_000];

    #[test]
    fn a_candidate_within_the_budget_is_thrown_out_in_at_most_five_per_cent_of_runs() {
        for (rate, drop) in RATES.into_iter().flat_map(|r| [(r, 0.01), (r, 0.009), (r, 0.005), (r, 0.0)]) {
            for samples in SIZES {
                // The samples are the whole set, so that the drop over it is known.
                let (given_up, _) = run(rate, drop, samples, samples);
                assert!(given_up <= 0.05, "{given_up} of runs at {rate} {drop} with {samples}");
            }
        }
    }

    #[test]
    fn a_candidate_two_points_over_the_budget_is_accepted_in_at_most_five_per_cent_of_runs() {
        for rate in RATES {
            for (samples, whole) in SIZES.into_iter().flat_map(|s| [(s, s), (s, 50_000)]) {
                let (given_up, accepted) = run(rate, 0.03, samples, whole);
                assert!(accepted <= 0.05, "{accepted} of runs at {rate} with {samples} of {whole}");
                // Nearly all of the others end before their last sample.
                assert!(given_up >= 0.95, "{given_up} of runs at {rate} with {samples} of {whole}");
            }
        }
    }

    #[test]
    fn a_candidate_exactly_at_the_budget_is_accepted_in_at_most_five_per_cent_of_runs() {
        for (rate, samples) in RATES.into_iter().flat_map(|r| SIZES.map(|s| (r, s))) {
            let (_, accepted) = run(rate, 0.01, samples, 50_000);
            assert!(accepted <= 0.05, "{accepted} of runs at {rate} with {samples}");
        }
    }
}
