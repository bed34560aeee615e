//! Output sizes of sliding windows: convolution, transposed convolution, pooling.

use super::{
    model::{int_attribute, ints_attribute, string_attribute},
    proto::NodeProto,
};

type Dims = Vec<usize>;

pub(super) fn conv(node: &NodeProto, x: &[usize], w: &[usize]) -> Option<Dims> {
    let (n, channels) = (*x.first()?, *w.first()?);
    if x.len() < 3 || w.len() != x.len() {
        return None;
    }
    Some([&[n, channels], windows(node, &x[2..], &w[2..])?.as_slice()].concat())
}

/// Output size of a sliding window along each spatial axis.
pub(super) fn windows(node: &NodeProto, x: &[usize], kernel: &[usize]) -> Option<Dims> {
    if x.len() != kernel.len() {
        return None;
    }
    let ones = || vec![1; x.len()];
    let strides = ints_attribute(node, "strides").unwrap_or_else(ones);
    let dilations = ints_attribute(node, "dilations").unwrap_or_else(ones);
    let pads = ints_attribute(node, "pads").unwrap_or_else(|| vec![0; 2 * x.len()]);
    let auto = string_attribute(node, "auto_pad", "NOTSET");
    let ceil = int_attribute(node, "ceil_mode", 0) == 1;
    let size = |i: usize| {
        let (n, k) = (i64::try_from(x[i]).ok()?, i64::try_from(kernel[i]).ok()?);
        let (s, d) = (*strides.get(i)?, *dilations.get(i)?);
        if s < 1 || d < 1 || k < 1 {
            return None;
        }
        if auto.starts_with("SAME") {
            return usize::try_from(n.checked_add(s - 1)? / s).ok();
        }
        let (before, after) = if auto == "VALID" { (0, 0) } else { (*pads.get(i)?, *pads.get(i + x.len())?) };
        let span = d.checked_mul(k - 1)?.checked_add(1)?;
        let room = n.checked_add(before)?.checked_add(after)?.checked_sub(span)?;
        if room < 0 {
            return None;
        }
        let mut out = room / s + 1;
        if ceil && room % s != 0 && out.checked_mul(s)? < n.checked_add(before)? {
            out += 1;
        }
        usize::try_from(out).ok()
    };
    (0..x.len()).map(size).collect()
}

pub(super) fn conv_transpose(node: &NodeProto, x: &[usize], w: &[usize]) -> Option<Dims> {
    let spatial = x.len().checked_sub(2)?;
    if w.len() != x.len() {
        return None;
    }
    let group = usize::try_from(int_attribute(node, "group", 1)).ok()?;
    let list = |name: &str, default: i64, len: usize| ints_attribute(node, name).unwrap_or_else(|| vec![default; len]);
    let (strides, dilations) = (list("strides", 1, spatial), list("dilations", 1, spatial));
    let (pads, extra) = (list("pads", 0, 2 * spatial), list("output_padding", 0, spatial));
    let wanted = ints_attribute(node, "output_shape");
    let same = string_attribute(node, "auto_pad", "NOTSET").starts_with("SAME");
    let size = |i: usize| {
        if let Some(list) = &wanted {
            return usize::try_from(*list.get(i + list.len().checked_sub(spatial)?)?).ok();
        }
        let (n, k) = (i64::try_from(x[i + 2]).ok()?, i64::try_from(w[i + 2]).ok()?);
        if same {
            return usize::try_from(n.checked_mul(*strides.get(i)?)?).ok();
        }
        let span = dilations.get(i)?.checked_mul(k.checked_sub(1)?)?.checked_add(1)?;
        let whole = strides.get(i)?.checked_mul(n.checked_sub(1)?)?.checked_add(span)?.checked_add(*extra.get(i)?)?;
        usize::try_from(whole.checked_sub(*pads.get(i)?)?.checked_sub(*pads.get(i + spatial)?)?).ok()
    };
    let sizes = (0..spatial).map(size).collect::<Option<Dims>>()?;
    Some([&[x[0], w[1].checked_mul(group)?], sizes.as_slice()].concat())
}
