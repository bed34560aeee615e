//! Output sizes of sliding windows (convolution, transposed convolution, pooling and its inverses), of regions and of
//! resizing.

use super::{
    model::{attribute, float_attribute, int_attribute, ints_attribute, string_attribute},
    proto::NodeProto,
    shape::Known,
    shape_rule::{Dims, axes, given, product, sizes},
};

/// Where the channels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// \[batch, channels, …\], ONNX's own.
    ChannelsFirst,
    /// \[batch, …, channels\], as some operators of ONNX Runtime.
    ChannelsLast,
}

/// A shape as \[batch, channels, …\], and the way back.
fn channels_first(x: &[usize], layout: Layout) -> Option<Dims> {
    let mut out = x.to_vec();
    if layout == Layout::ChannelsLast {
        out.get_mut(1..)?.rotate_right(1);
    }
    (out.len() >= 2).then_some(out)
}

fn arranged(mut out: Dims, layout: Layout) -> Option<Dims> {
    if layout == Layout::ChannelsLast {
        out.get_mut(1..)?.rotate_left(1);
    }
    Some(out)
}

pub(super) fn conv(node: &NodeProto, x: &[usize], w: &[usize], layout: Layout) -> Option<Dims> {
    let x = channels_first(x, layout)?;
    if x.len() < 3 || w.len() != x.len() {
        return None;
    }
    arranged([&[x[0], w[0]], windows(node, &x[2..], &w[2..])?.as_slice()].concat(), layout)
}

pub(super) fn pool(node: &NodeProto, x: &[usize], layout: Layout) -> Option<Dims> {
    let x = channels_first(x, layout)?;
    let kernel = sizes(&ints_attribute(node, "kernel_shape")?)?;
    arranged([&x[..2], &windows(node, &x[2..], &kernel)?].concat(), layout)
}

pub(super) fn global(x: &[usize], layout: Layout) -> Option<Dims> {
    let x = channels_first(x, layout)?;
    arranged(x.iter().enumerate().map(|(i, &d)| if i < 2 { d } else { 1 }).collect(), layout)
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
    let auto = string_attribute(node, "auto_pad", "NOTSET");
    let pads = if auto == "VALID" { vec![0; 2 * spatial] } else { list("pads", 0, 2 * spatial) };
    let extra = list("output_padding", 0, spatial);
    let wanted = ints_attribute(node, "output_shape");
    let size = |i: usize| {
        if let Some(list) = &wanted {
            return usize::try_from(*list.get(i + list.len().checked_sub(spatial)?)?).ok();
        }
        let (n, k) = (i64::try_from(x[i + 2]).ok()?, i64::try_from(w[i + 2]).ok()?);
        if auto.starts_with("SAME") {
            return usize::try_from(n.checked_mul(*strides.get(i)?)?).ok();
        }
        let span = dilations.get(i)?.checked_mul(k.checked_sub(1)?)?.checked_add(1)?;
        let whole = strides.get(i)?.checked_mul(n.checked_sub(1)?)?.checked_add(span)?.checked_add(*extra.get(i)?)?;
        usize::try_from(whole.checked_sub(*pads.get(i)?)?.checked_sub(*pads.get(i + spatial)?)?).ok()
    };
    let sizes = (0..spatial).map(size).collect::<Option<Dims>>()?;
    Some([&[x[0], w[1].checked_mul(group)?], sizes.as_slice()].concat())
}

/// The inverse of max pooling: the size asked for, else the smallest that pools to the input's.
pub(super) fn unpool(node: &NodeProto, known: &Known) -> Option<Dims> {
    if given(node, 2) {
        return sizes(&known.ints(node, 2)?);
    }
    let x = known.dims(node, 0)?;
    let kernel = ints_attribute(node, "kernel_shape")?;
    let spatial = x.len().checked_sub(2).filter(|&s| s == kernel.len())?;
    let strides = ints_attribute(node, "strides").unwrap_or_else(|| vec![1; spatial]);
    let pads = ints_attribute(node, "pads").unwrap_or_else(|| vec![0; 2 * spatial]);
    let size = |i: usize| {
        let whole = i64::try_from(x[i + 2]).ok()?.checked_sub(1)?.checked_mul(*strides.get(i)?)?.checked_add(kernel[i])?;
        usize::try_from(whole.checked_sub(*pads.get(i)?)?.checked_sub(*pads.get(i + spatial)?)?).ok()
    };
    Some([&x[..2], &(0..spatial).map(size).collect::<Option<Dims>>()?].concat())
}

/// Columns \[batch, channels · block, …\] back to an image \[batch, channels, image…\].
pub(super) fn col2im(node: &NodeProto, known: &Known) -> Option<Dims> {
    let &[batch, columns, _] = known.dims(node, 0)? else { return None };
    let block = product(&sizes(&known.ints(node, 2)?)?).filter(|&b| b > 0 && columns % b == 0)?;
    Some([&[batch, columns / block], sizes(&known.ints(node, 1)?)?.as_slice()].concat())
}

/// Pooled regions: \[regions, channels, height, width\].
pub(super) fn regions(node: &NodeProto, x: &[usize], regions: &[usize]) -> Option<Dims> {
    let size = match ints_attribute(node, "pooled_shape") {
        Some(list) => sizes(&list)?,
        None => sizes(&[int_attribute(node, "output_height", 1), int_attribute(node, "output_width", 1)])?,
    };
    Some([&[*regions.first()?, *x.get(1)?], size.as_slice()].concat())
}

/// Sampling positions for \[batch, channels, size…\]: \[batch, size…, number of axes\].
pub(super) fn affine_grid(node: &NodeProto, known: &Known) -> Option<Dims> {
    let size = sizes(&known.ints(node, 1)?)?;
    let spatial = size.get(2..).filter(|s| matches!(s.len(), 2 | 3))?;
    Some([&size[..1], spatial, &[spatial.len()]].concat())
}

pub(super) fn resize(node: &NodeProto, known: &Known) -> Option<Dims> {
    let mut out = known.dims(node, 0)?.to_vec();
    let at = ints_attribute(node, "axes").map_or_else(|| Some((0..out.len()).collect()), |l| axes(&l, out.len()))?;
    if let Some(list) = known.ints(node, 3).filter(|l| !l.is_empty()) {
        let wanted = sizes(&list).filter(|w| w.len() == at.len())?;
        let fitted =
            fit(&at.iter().map(|&a| out[a]).collect::<Dims>(), wanted, &string_attribute(node, "keep_aspect_ratio_policy", "stretch"))?;
        at.iter().zip(fitted).for_each(|(&a, d)| out[a] = d);
        return Some(out);
    }
    let listed = || attribute(node, "scales").map(|a| a.floats.iter().map(|&f| f64::from(f)).collect::<Vec<_>>());
    let constant = |slot: usize| node.input.get(slot).and_then(|n| known.small.get(n)).map(|s| s.data.clone()).filter(|d| !d.is_empty());
    let pair = || {
        let scale = |name| attribute(node, name).map(|_| f64::from(float_attribute(node, name, 1.0)));
        Some(vec![1.0, 1.0, scale("height_scale")?, scale("width_scale")?])
    };
    let slot = if node.op_type() == "Upsample" || known.opset < 11 { 1 } else { 2 };
    let scales = listed().or_else(|| constant(slot)).or_else(pair)?;
    if scales.len() != at.len() {
        return None;
    }
    for (&a, &s) in at.iter().zip(&scales) {
        // Scales are f32, and so is the product in ONNX Runtime: 0.7 × 10 is 7 there.
        let size = (out[a] as f32 * s as f32).floor();
        out[a] = (s > 0.0 && size < 9e15).then_some(size as usize)?;
    }
    Some(out)
}

/// Wanted sizes under the policy of `Resize` for the aspect ratio.
fn fit(from: &[usize], wanted: Dims, policy: &str) -> Option<Dims> {
    let scales = from.iter().zip(&wanted).map(|(&d, &w)| w as f32 / d as f32);
    let scale = match policy {
        "stretch" => return Some(wanted),
        "not_larger" => scales.fold(f32::INFINITY, f32::min),
        "not_smaller" => scales.fold(0.0, f32::max),
        _ => return None,
    };
    from.iter().map(|&d| Some((d as f32 * scale).round()).filter(|v| *v < 9e15).map(|v| v as usize)).collect()
}

#[cfg(test)]
mod tests {
    use crate::graph::{
        proto::{AttributeProto, attribute_proto::AttributeType},
        shape_case::{case, is},
    };

    fn floats(name: &str, values: &[f32]) -> AttributeProto {
        let kind = Some(AttributeType::Floats as i32);
        AttributeProto { name: Some(name.into()), r#type: kind, floats: values.to_vec(), ..Default::default() }
    }

    #[test]
    fn resizing_follows_sizes_axes_and_the_policy_for_the_aspect_ratio() {
        let resize = |policy: &str| {
            let sizes = case("Resize").of(&[1, 1, 2, 4]).without().without().is(&[7, 8]).ints("axes", &[2, 3]);
            sizes.string("keep_aspect_ratio_policy", policy).shape()
        };
        assert_eq!(resize("stretch"), is(&[1, 1, 7, 8]));
        assert_eq!(resize("not_larger"), is(&[1, 1, 4, 8]));
        assert_eq!(resize("not_smaller"), is(&[1, 1, 7, 14]));
        assert_eq!(resize("sideways"), None);
    }

    #[test]
    fn scales_multiply_as_single_floats() {
        let upsample = |scale: f32| case("Upsample").opset(7).of(&[10, 3]).attribute(floats("scales", &[scale, 1.0])).shape();
        assert_eq!(upsample(0.7), is(&[7, 3]));
        assert_eq!(upsample(2.55), is(&[25, 3]));
        assert_eq!(upsample(f32::NAN), None);
        assert_eq!(upsample(f32::INFINITY), None);
        assert_eq!(upsample(-1.0), None);
    }

    #[test]
    fn columns_become_an_image_again() {
        assert_eq!(case("Col2Im").of(&[1, 10, 12]).is(&[3, 4]).is(&[1, 5]).shape(), is(&[1, 2, 3, 4]));
        assert_eq!(case("Col2Im").of(&[1, 10, 12]).is(&[3, 4]).is(&[0, 5]).shape(), None);
    }

    #[test]
    fn pooling_is_undone_to_the_asked_or_the_smallest_size() {
        let unpool = || case("MaxUnpool").of(&[1, 1, 2, 2]).of(&[1, 1, 2, 2]).ints("kernel_shape", &[2, 2]).ints("strides", &[2, 2]);
        assert_eq!(unpool().shape(), is(&[1, 1, 4, 4]));
        assert_eq!(unpool().is(&[1, 1, 5, 5]).shape(), is(&[1, 1, 5, 5]));
    }

    #[test]
    fn regions_and_sampling_grids_have_the_sizes_asked_for() {
        let align = case("RoiAlign").of(&[1, 6, 10, 10]).of(&[3, 4]).of(&[3]).int("output_height", 5);
        assert_eq!(align.shape(), is(&[3, 6, 5, 1]));
        let pool = case("MaxRoiPool").of(&[1, 6, 10, 10]).of(&[3, 5]).ints("pooled_shape", &[2, 4]);
        assert_eq!(pool.shape(), is(&[3, 6, 2, 4]));
        assert_eq!(case("AffineGrid").of(&[2, 2, 3]).is(&[2, 3, 5, 6]).shape(), is(&[2, 5, 6, 2]));
        assert_eq!(case("AffineGrid").of(&[2, 3, 4]).is(&[2, 3, 4, 5, 6]).shape(), is(&[2, 4, 5, 6, 3]));
        assert_eq!(case("AffineGrid").of(&[2, 3, 4]).is(&[2]).shape(), None);
    }

    #[test]
    fn a_deformable_convolution_is_sized_as_a_plain_one_and_valid_padding_is_none() {
        assert_eq!(case("DeformConv").of(&[1, 1, 3, 3]).of(&[1, 1, 2, 2]).ints("pads", &[1, 1, 1, 1]).shape(), is(&[1, 1, 4, 4]));
        let back = case("ConvTranspose").of(&[1, 1, 3]).of(&[1, 2, 3]).ints("pads", &[1, 1]).string("auto_pad", "VALID");
        assert_eq!(back.shape(), is(&[1, 2, 5]));
    }
}
