//! The least value of a function of one number.

use argmin::{
    core::{CostFunction, Executor},
    solver::brent::BrentOpt,
};

struct Scalar<F>(F);

impl<F: Fn(f64) -> f64> CostFunction for Scalar<F> {
    type Param = f64;
    type Output = f64;

    fn cost(&self, x: &f64) -> Result<f64, argmin::core::Error> {
        Ok((self.0)(*x))
    }
}

/// Where a function is least between two numbers: the best of a grid of `steps` intervals, refined by Brent's method between that
/// point's neighbours. The error of a grid as a function of its range has many small valleys, so that neither would do alone.
pub(super) fn least(f: impl Fn(f64) -> f64, (low, high): (f64, f64), steps: u32) -> f64 {
    let width = (high - low) / f64::from(steps);
    let at = |i: u32| low + width * f64::from(i);
    // From the high end: of equals the widest range wins.
    let best = (0..=steps).rev().map(|i| (at(i), f(at(i)))).reduce(|a, b| if b.1 < a.1 { b } else { a });
    let Some((x, value)) = best.filter(|_| width > 0.0) else { return high };
    let solver = BrentOpt::new((x - width).max(low), (x + width).min(high)).set_tolerance(1e-4, 1e-9);
    let found = Executor::new(Scalar(&f), solver).configure(|state| state.max_iters(20)).timer(false).run();
    let refined = found.ok().and_then(|r| r.state.best_param);
    refined.filter(|&r| f(r) < value).unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_of_several_valleys_is_found_to_a_fraction_of_a_step() {
        let f = |x: f64| (x - 0.4321).abs().min((x - 2.7).abs() + 0.05);
        assert!((least(f, (0.0, 3.0), 30) - 0.4321).abs() < 1e-3);
    }

    #[test]
    fn of_a_flat_function_the_high_end_is_taken() {
        assert_eq!(least(|_| 1.0, (0.5, 2.0), 10), 2.0);
        assert_eq!(least(|x| x, (2.0, 2.0), 10), 2.0);
    }
}
