//! Rounding to integers on a grid, to the bit as ONNX Runtime's QuantizeLinear does it, but without dividing.
//!
//! The result is a staircase in x: round_half_even(clip(x/s)). A division by a constant is x·(1/s) with 1/s as the sum of two floats, h + l:
//! fma(x, h, x·l) is off by 2⁻⁴⁸ before it is rounded (Brisebarre, Muller and Raina, "Accelerating correctly rounded
//! floating-point division when the divisor is known in advance", 2004). Both that and the division grow with x, so that they give
//! the same everywhere if they do so at both ends of every stair; this is checked for each grid, and where it fails, we divide.

/// 1.5·2²³: adding and taking it away rounds a small float half to even.
const ROUND: f32 = 12_582_912.0;

/// Stairs of a grid at most, for their ends to be more than some floats apart.
const MOST_STAIRS: f32 = 4096.0;

/// What turns values into integers, less an offset.
#[derive(Debug, Clone, Copy)]
pub struct Rounding {
    scale: f32,
    before: Option<f32>,
    low: f32,
    high: f32,
    quick: Option<Quick>,
}

/// The staircase without a division.
#[derive(Debug, Clone, Copy)]
struct Quick {
    /// 1/scale is `head` + `tail`.
    head: f32,
    tail: f32,
    /// Values of the lowest and the highest stair.
    low: f32,
    high: f32,
}

/// A value between two limits; the lower one if it is none.
#[inline(always)]
fn clip(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

impl Quick {
    #[inline(always)]
    fn round(self, x: f32) -> f32 {
        let x = clip(x, self.low, self.high);
        (x.mul_add(self.head, x * self.tail) + ROUND) - ROUND
    }
}

impl Rounding {
    /// Rounds x/scale half to even and clips it to whole limits; what is no number gives the lower one. As QuantizeLinear, less its zero point.
    pub fn new(scale: f32, low: f32, high: f32) -> Self {
        let divided = Self { scale, before: None, low, high, quick: None };
        Self { quick: divided.without_division(), ..divided }
    }

    /// Clips x/scale + before to whole limits, rounds it half to even, and takes `before` away again; what is no number stays. As plain arithmetic
    /// does it: this always divides.
    pub const fn by_arithmetic(scale: f32, before: f32, low: f32, high: f32) -> Self {
        Self { scale, before: Some(before), low, high, quick: None }
    }

    /// The integer of a value, by division.
    #[inline(always)]
    fn exact(self, x: f32) -> f32 {
        let Some(before) = self.before else { return (clip(x / self.scale, self.low, self.high) + ROUND) - ROUND };
        let x = x / self.scale + before;
        let x = if x < self.low { self.low } else { x };
        let x = if x > self.high { self.high } else { x };
        (x + ROUND) - (ROUND + before)
    }

    /// Integers of all values.
    pub fn apply(&self, from: &[f32], to: &mut [f32]) {
        let done = self.quick.and_then(|quick| {
            with_fused_multiply_add(
                #[inline(always)]
                || to.iter_mut().zip(from).for_each(|(to, &x)| *to = quick.round(x)),
            )
        });
        if done.is_none() {
            to.iter_mut().zip(from).for_each(|(to, &x)| *to = self.exact(x));
        }
    }

    /// Integers in the place of the values.
    pub fn apply_in_place(&self, values: &mut [f32]) {
        let done = self.quick.and_then(|quick| {
            with_fused_multiply_add(
                #[inline(always)]
                || values.iter_mut().for_each(|x| *x = quick.round(*x)),
            )
        });
        if done.is_none() {
            values.iter_mut().for_each(|x| *x = self.exact(*x));
        }
    }

    /// The staircase without a division, if it was found to be the same.
    fn without_division(self) -> Option<Quick> {
        let usual = (1e-30..1e30).contains(&self.scale) && self.high - self.low <= MOST_STAIRS;
        let whole = self.low <= self.high && self.low.abs() <= MOST_STAIRS && self.low.fract() == 0.0 && self.high.fract() == 0.0;
        if !(usual && whole) {
            return None;
        }
        let head = 1.0 / self.scale;
        let tail = (1.0 / f64::from(self.scale) - f64::from(head)) as f32;
        let quick = Quick { head, tail, low: self.low * self.scale, high: self.high * self.scale };
        let same = with_fused_multiply_add(
            #[inline(always)]
            || self.same_stairs(quick),
        );
        same.unwrap_or(false).then_some(quick)
    }

    /// Whether both staircases step at the same floats.
    #[inline(always)]
    fn same_stairs(self, quick: Quick) -> bool {
        let same = |x: f32| self.exact(x).to_bits() == quick.round(x).to_bits();
        let mut stair = self.low;
        while stair < self.high {
            let step = ((f64::from(stair) + 0.5) * f64::from(self.scale)) as f32;
            let (below, above) = (step.next_down().next_down(), step.next_up().next_up());
            let around = [below, step.next_down(), step, step.next_up(), above];
            if self.exact(below) != stair || self.exact(above) != stair + 1.0 || !around.into_iter().all(same) {
                return false;
            }
            stair += 1.0;
        }
        [quick.low, quick.high, f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().all(same)
    }
}

/// Runs a loop compiled for processors that multiply and add in one instruction; `None` if this one does not.
#[inline(always)]
pub(super) fn with_fused_multiply_add<T>(work: impl FnOnce() -> T) -> Option<T> {
    #[cfg(target_arch = "x86_64")]
    {
        match pulp::Arch::new() {
            pulp::Arch::V4(processor) => Some(processor.vectorize(work)),
            pulp::Arch::V3(processor) => Some(processor.vectorize(work)),
            _ => None,
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        Some(work())
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = work;
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn both(rounding: Rounding, values: &[f32]) -> (Vec<u32>, Vec<u32>) {
        let mut quick = vec![0.0; values.len()];
        rounding.apply(values, &mut quick);
        let mut in_place = values.to_vec();
        rounding.apply_in_place(&mut in_place);
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&quick), bits(&in_place));
        (bits(&quick), values.iter().map(|&x| rounding.exact(x).to_bits()).collect())
    }

    proptest! {
        #[test]
        fn without_dividing_every_value_gets_the_same_integer(
            scale in prop_oneof![1e-6f32..1e3, Just(0.1f32), Just(1.0f32), Just(0.003_921_569f32), Just(f32::EPSILON)],
            offset in -128i32..=127, bits in prop_oneof![Just(4u32), Just(8u32)],
            free in proptest::collection::vec(any::<f32>(), 64), near in proptest::collection::vec((-300i32..300, -3i32..=3), 64),
        ) {
            let half = 1i32 << (bits - 1);
            let offset = offset.clamp(-half, half - 1);
            let rounding = Rounding::new(scale, (-half - offset) as f32, (half - 1 - offset) as f32);
            let tie = |&(k, ulps): &(i32, i32)| {
                let x = (k as f32 + 0.5) * scale;
                (0..ulps.abs()).fold(x, |x, _| if ulps < 0 { x.next_down() } else { x.next_up() })
            };
            let values: Vec<f32> = free.iter().copied().chain(near.iter().map(tie)).collect();
            let (quick, exact) = both(rounding, &values);
            prop_assert_eq!(quick, exact);
        }
    }

    #[test]
    fn the_stairs_of_usual_grids_need_no_division() {
        if with_fused_multiply_add(|| ()).is_none() {
            return;
        }
        let found = (1..1000).filter(|i| Rounding::new(*i as f32 * 1.7e-3, 0.0, 255.0).quick.is_some()).count();
        assert!(found > 990, "{found} of 999");
    }

    #[test]
    fn every_float_gets_the_same_integer_on_one_grid() {
        let rounding = Rounding::new(0.047_058_824, -100.0, 155.0);
        // Every 251st float of all; near the stairs the property above looks closer.
        let values: Vec<f32> = (0..=u32::MAX).step_by(251 * 16).map(f32::from_bits).collect();
        let (quick, exact) = both(rounding, &values);
        assert_eq!(quick, exact);
    }

    #[test]
    fn odd_grids_are_divided() {
        for (scale, low, high) in [(1e-40, 0.0, 255.0), (1.0, 0.5, 255.0), (1.0, 0.0, 1e6), (f32::NAN, 0.0, 1.0)] {
            assert!(Rounding::new(scale, low, high).quick.is_none());
        }
    }
}
