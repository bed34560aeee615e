//! What is fitted: how much of a chip's peaks networks reach, and what the fixed costs are.

use serde::{Deserialize, Serialize};

/// The fitted part of a profile. Fixed costs count in cycles of the cube's clock, so that they carry over to chips with another one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coefficients {
    /// Fixed cost of a kernel, cycles of the cube's clock.
    pub launch_cycles: f64,
    /// Fixed cost of an inference, cycles of the cube's clock.
    pub inference_cycles: f64,
    /// Share of the cube's multiply-adds that is reached, padding already counted.
    pub cube: f64,
    /// Share of the vector units' bytes a cycle that is reached.
    pub vector: f64,
    /// Share of the bandwidth between L2 and the cores that is reached.
    pub l2: f64,
    /// Share of the DRAM bandwidth that is reached.
    pub ddr: f64,
    /// Effective over nominal size of L2.
    pub l2_size: f64,
    /// DRAM traffic of tensors that go from dense convolutions to dense convolutions, over that of other tensors: ATC's L2 fusion slices such
    /// chains (`--buffer_optimize=l2_optimize`, its default).
    pub chained: f64,
    /// Traffic of a move or layout change in pieces smaller than a block of channels, over its bytes.
    pub unaligned: f64,
    /// Traffic of the change of the network's input to the chip's layout, over its bytes.
    pub input: f64,
    /// Cube time of a grouped convolution over that of its enlarged groups.
    pub grouped: f64,
    /// Cube time of a depthwise convolution over that of its enlarged groups.
    pub depthwise: f64,
    /// Passes of the vector unit that taking a product out of the cube costs.
    pub drain: f64,
    /// Passes of a ReLU.
    pub relu: f64,
    /// Passes of pooling for each pixel of its window.
    pub pool: f64,
    /// Passes of HardSigmoid and HardSwish.
    pub hard_sigmoid: f64,
    /// Passes of Sigmoid, Exp and the like.
    pub sigmoid: f64,
    /// Passes of Erf, Tanh, Gelu and the like.
    pub erf: f64,
}

/// The coefficients by name, with the standard deviation of the logarithm that a fit expects before it has seen data.
pub const NAMES: [(&str, f64); 18] = [
    ("launch_cycles", 0.4),
    ("inference_cycles", 0.6),
    ("cube", 0.15),
    ("vector", 0.5),
    ("l2", 0.3),
    ("ddr", 0.2),
    ("l2_size", 0.5),
    ("chained", 0.3),
    ("unaligned", 0.5),
    ("input", 0.7),
    ("grouped", 0.5),
    ("depthwise", 0.5),
    ("drain", 0.5),
    ("relu", 0.7),
    ("pool", 0.4),
    ("hard_sigmoid", 0.4),
    ("sigmoid", 0.4),
    ("erf", 0.4),
];

impl Coefficients {
    /// The values in the order of [`NAMES`].
    pub const fn values(&self) -> [f64; NAMES.len()] {
        [
            self.launch_cycles,
            self.inference_cycles,
            self.cube,
            self.vector,
            self.l2,
            self.ddr,
            self.l2_size,
            self.chained,
            self.unaligned,
            self.input,
            self.grouped,
            self.depthwise,
            self.drain,
            self.relu,
            self.pool,
            self.hard_sigmoid,
            self.sigmoid,
            self.erf,
        ]
    }

    /// Coefficients of values in the order of [`NAMES`].
    pub const fn of(values: [f64; NAMES.len()]) -> Self {
        let [
            launch_cycles,
            inference_cycles,
            cube,
            vector,
            l2,
            ddr,
            l2_size,
            chained,
            unaligned,
            input,
            grouped,
            depthwise,
            drain,
            relu,
            pool,
            hard_sigmoid,
            sigmoid,
            erf,
        ] = values;
        Self {
            launch_cycles,
            inference_cycles,
            cube,
            vector,
            l2,
            ddr,
            l2_size,
            chained,
            unaligned,
            input,
            grouped,
            depthwise,
            drain,
            relu,
            pool,
            hard_sigmoid,
            sigmoid,
            erf,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_names_stand_in_the_order_of_the_fields() {
        let mut values = [0.0; NAMES.len()];
        values.iter_mut().zip(1..).for_each(|(v, n)| *v = f64::from(n));
        let coefficients = Coefficients::of(values);
        assert_eq!(coefficients.values(), values);
        let written = serde_json::to_value(coefficients).unwrap();
        for ((name, _), value) in NAMES.iter().zip(values) {
            assert_eq!(written[name], value, "{name}");
        }
    }
}
