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
}
