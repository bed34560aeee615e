//! Sliding windows with everything said that an operator may leave out.

use super::Site;
use crate::error::Result;

/// Windows of a convolution or a pooling, an entry for each spatial axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Taps.
    pub kernel: Vec<usize>,
    /// Steps between windows.
    pub strides: Vec<usize>,
    /// Steps between taps.
    pub dilations: Vec<usize>,
    /// Zeros before the input.
    pub before: Vec<usize>,
    /// Zeros behind the input.
    pub behind: Vec<usize>,
}

impl Window {
    /// The windows of a node whose input and output have these spatial dimensions; what is missing behind for the last window is added.
    ///
    /// # Errors
    /// If the attributes do not fit each other.
    pub fn of(at: &Site<'_>, kernel: &[usize], input: &[usize], output: &[usize]) -> Result<Self> {
        let n = kernel.len();
        let list = |name: &str| -> Vec<usize> {
            let found = at.ints(name).unwrap_or_default();
            (0..n).map(|i| found.get(i).and_then(|&v| usize::try_from(v).ok()).unwrap_or(1)).collect()
        };
        let (strides, dilations) = (list("strides"), list("dilations"));
        if n != input.len() || n != output.len() || output.contains(&0) {
            return Err(at.refuse(format!("a window of {n} axes over {input:?}")));
        }
        let reach = |i: usize| (output[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1;
        let auto = at.text("auto_pad", "NOTSET");
        let (mut before, mut behind) = (vec![0; n], vec![0; n]);
        for i in 0..n {
            let missing = reach(i).saturating_sub(input[i]);
            match auto.as_str() {
                "SAME_UPPER" => before[i] = missing / 2,
                "SAME_LOWER" => before[i] = missing.div_ceil(2),
                "VALID" => {}
                _ => before[i] = at.ints("pads").and_then(|p| usize::try_from(*p.get(i)?).ok()).unwrap_or(0),
            }
            // More zeros than the last window reaches are read by none.
            behind[i] = reach(i).saturating_sub(input[i] + before[i]);
        }
        Ok(Self { kernel: kernel.to_vec(), strides, dilations, before, behind })
    }

    /// The places of the taps, row by row.
    pub fn taps(&self) -> Vec<Vec<usize>> {
        self.kernel.iter().fold(vec![Vec::new()], |all, &k| {
            all.into_iter().flat_map(|tap| (0..k).map(move |i| [tap.as_slice(), &[i]].concat())).collect()
        })
    }

    /// Elements that the padding adds so that all windows have what they read, for [`Tape::pad`](super::Tape::pad) of values with two more axes in front.
    pub fn pads(&self) -> (Vec<i64>, Vec<i64>) {
        let with = |p: &[usize]| [0, 0].into_iter().chain(p.iter().map(|&v| v as i64)).collect();
        (with(&self.before), with(&self.behind))
    }
}
