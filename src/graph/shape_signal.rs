//! Output shapes of signal processing (Fourier transforms, windows, mel filters) and of `Range`.

use super::{
    model::{attribute, int_attribute},
    proto::NodeProto,
    shape::Known,
    shape_rule::{Dims, axis, given, scalar},
};

pub(super) fn first(node: &NodeProto, known: &Known) -> Option<Dims> {
    match node.op_type() {
        "DFT" => dft(node, known),
        "STFT" => stft(node, known),
        "MelWeightMatrix" => Some(vec![scalar(node, known, 1)? / 2 + 1, scalar(node, known, 0)?]),
        _ => Some(vec![scalar(node, known, 0)?]),
    }
}

/// The axis is an attribute before opset 20 and an input since; one-sided, real to complex keeps n/2 + 1 bins, and the
/// inverse makes real numbers again.
fn dft(node: &NodeProto, known: &Known) -> Option<Dims> {
    let mut out = known.dims(node, 0)?.to_vec();
    let one_sided = int_attribute(node, "onesided", 0) != 0;
    let inverse = int_attribute(node, "inverse", 0) != 0;
    if !one_sided && !given(node, 1) {
        *out.last_mut()? = 2;
        return Some(out);
    }
    let at = match attribute(node, "axis") {
        Some(a) => a.i(),
        None if given(node, 2) => *known.ints(node, 2)?.first()?,
        None if known.opset >= 20 => -2,
        None => 1,
    };
    let at = axis(at, out.len())?;
    let last = out.len().checked_sub(1).filter(|&l| l != at)?;
    if given(node, 1) {
        out[at] = scalar(node, known, 1)?;
    } else if one_sided && inverse {
        out[at] = out[at].checked_sub(1)?.checked_mul(2)?;
    }
    if one_sided && !inverse {
        out[at] = out[at] / 2 + 1;
    }
    out[last] = if one_sided && inverse { 1 } else { 2 };
    Some(out)
}

/// \[batch, frames, bins, 2\].
fn stft(node: &NodeProto, known: &Known) -> Option<Dims> {
    let &[batch, length, ..] = known.dims(node, 0)? else { return None };
    let step = scalar(node, known, 1).filter(|&s| s > 0)?;
    let frame = if given(node, 3) { scalar(node, known, 3)? } else { *known.dims(node, 2)?.first()? };
    let frames = length.checked_sub(frame)? / step + 1;
    let bins = if int_attribute(node, "onesided", 1) != 0 { frame / 2 + 1 } else { frame };
    Some(vec![batch, frames, bins, 2])
}

/// Length of start, start + delta, … below the limit.
pub(super) fn range(node: &NodeProto, known: &Known) -> Option<Dims> {
    let number = |slot: usize| known.small.get(node.input.get(slot)?)?.data.first().copied();
    let count = ((number(1)? - number(0)?) / number(2)?).ceil();
    (count.is_finite() && count < 9e15).then(|| vec![count.max(0.0) as usize])
}

#[cfg(test)]
mod tests {
    use crate::graph::shape_case::{case, is};

    #[test]
    fn a_one_sided_transform_keeps_half_the_bins_and_its_inverse_makes_reals() {
        assert_eq!(case("DFT").of(&[1, 10, 1]).int("onesided", 1).shape(), is(&[1, 6, 2]));
        assert_eq!(case("DFT").of(&[1, 6, 2]).int("onesided", 1).int("inverse", 1).shape(), is(&[1, 10, 1]));
        assert_eq!(case("DFT").of(&[1, 10, 4, 1]).is(&[16]).is(&[1]).shape(), is(&[1, 16, 4, 2]));
        assert_eq!(case("DFT").opset(17).of(&[1, 10, 4, 1]).int("axis", 2).int("onesided", 1).shape(), is(&[1, 10, 3, 2]));
        assert_eq!(case("DFT").of(&[1, 10, 1]).is(&[4]).is(&[2]).shape(), None, "the axis of the parts is not one to transform");
    }

    #[test]
    fn a_short_time_transform_has_a_frame_a_step() {
        assert_eq!(case("STFT").of(&[1, 128, 1]).is(&[8]).of(&[16]).shape(), is(&[1, 15, 9, 2]));
        assert_eq!(case("STFT").of(&[1, 128, 1]).is(&[8]).without().is(&[16]).int("onesided", 0).shape(), is(&[1, 15, 16, 2]));
        assert_eq!(case("STFT").of(&[1, 128, 1]).is(&[0]).of(&[16]).shape(), None);
        assert_eq!(case("STFT").of(&[1, 8, 1]).is(&[8]).of(&[16]).shape(), None);
    }

    #[test]
    fn windows_filters_and_ranges_have_the_length_of_their_constants() {
        assert_eq!(case("HannWindow").is(&[10]).shape(), is(&[10]));
        assert_eq!(case("MelWeightMatrix").is(&[8]).is(&[16]).is(&[8192]).of(&[]).of(&[]).shape(), is(&[9, 8]));
        assert_eq!(case("Range").is(&[0]).is(&[5000]).is(&[2]).shape(), is(&[2500]));
        assert_eq!(case("Range").is(&[0]).is(&[5]).is(&[0]).shape(), None);
        assert_eq!(case("Range").is(&[5]).is(&[0]).is(&[1]).shape(), is(&[0]));
    }
}
