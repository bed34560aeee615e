//! Output shapes of single operators, as the ONNX operator specification has them (opsets 7 to 22, older forms where
//! exporters still write them).
//!
//! Every rule is total: attributes that make no sense, or numbers that overflow, give `None`.

use super::{
    fold::{broadcast, slice_axis},
    model::{attribute, float_attribute, int_attribute, ints_attribute, string_attribute},
    proto::NodeProto,
    shape::Known,
    shape_window::{conv, conv_transpose, windows},
    tensor,
};

type Dims = Vec<usize>;

/// Shapes of a node's outputs in order, `None` for those unknown; may be shorter than the list of outputs.
pub(super) fn outputs(node: &NodeProto, known: &Known) -> Vec<Option<Dims>> {
    match node.op_type() {
        "Split" => split(node, known).map_or_else(Vec::new, |parts| parts.into_iter().map(Some).collect()),
        "MaxPool" | "Dropout" | "TopK" => vec![first(node, known); 2],
        "LSTM" | "GRU" | "RNN" => recurrent(node, known).map_or_else(Vec::new, |parts| parts.into_iter().map(Some).collect()),
        _ => vec![first(node, known)],
    }
}

fn first(node: &NodeProto, known: &Known) -> Option<Dims> {
    let x = || known.dims(node, 0);
    let int = |name: &str, default: i64| int_attribute(node, name, default);
    match node.op_type() {
        "Relu"
        | "LeakyRelu"
        | "PRelu"
        | "Sigmoid"
        | "Tanh"
        | "Clip"
        | "HardSigmoid"
        | "HardSwish"
        | "Elu"
        | "Selu"
        | "Celu"
        | "Gelu"
        | "FastGelu"
        | "QuickGelu"
        | "BiasGelu"
        | "Mish"
        | "Swish"
        | "Softplus"
        | "Softsign"
        | "ThresholdedRelu"
        | "Shrink"
        | "Erf"
        | "Exp"
        | "Log"
        | "Sqrt"
        | "Neg"
        | "Abs"
        | "Floor"
        | "Ceil"
        | "Round"
        | "Reciprocal"
        | "Sign"
        | "Sin"
        | "Cos"
        | "Tan"
        | "Asin"
        | "Acos"
        | "Atan"
        | "Sinh"
        | "Cosh"
        | "Not"
        | "IsNaN"
        | "IsInf"
        | "BitwiseNot"
        | "Identity"
        | "Dropout"
        | "Cast"
        | "CastLike"
        | "BatchNormalization"
        | "LayerNormalization"
        | "InstanceNormalization"
        | "GroupNormalization"
        | "RMSNormalization"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "LRN"
        | "Softmax"
        | "LogSoftmax"
        | "Hardmax"
        | "QuantizeLinear"
        | "DequantizeLinear"
        | "Trilu"
        | "CumSum"
        | "ScatterND"
        | "ScatterElements"
        | "Scatter"
        | "ReverseSequence"
        | "FakeQuant" => Some(x()?.to_vec()),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Min" | "Max" | "Mean" | "Sum" | "And" | "Or" | "Xor" | "Equal" | "Greater"
        | "Less" | "GreaterOrEqual" | "LessOrEqual" | "Where" | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" => {
            if known.opset > 0 && known.opset < 7 && int("broadcast", 0) == 1 {
                return Some(x()?.to_vec());
            }
            broadcast(&(0..node.input.len()).map(|i| known.dims(node, i)).collect::<Option<Vec<_>>>()?)
        }
        "Conv" | "FusedConv" | "ConvInteger" => conv(node, x()?, known.dims(node, 1)?),
        "QLinearConv" => conv(node, x()?, known.dims(node, 3)?),
        "ConvTranspose" => conv_transpose(node, x()?, known.dims(node, 1)?),
        "MaxPool" | "AveragePool" | "LpPool" => {
            let x = x()?;
            let kernel = ints_attribute(node, "kernel_shape")?.into_iter().map(|k| usize::try_from(k).ok()).collect::<Option<Dims>>()?;
            Some([x.get(..2)?, &windows(node, x.get(2..)?, &kernel)?].concat())
        }
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
            let x = x()?;
            Some(x.iter().enumerate().map(|(i, &d)| if i < 2 { d } else { 1 }).collect())
        }
        "Gemm" => gemm(node, x()?, known.dims(node, 1)?),
        "MatMul" | "MatMulInteger" => matmul(x()?, known.dims(node, 1)?),
        "Einsum" => einsum(node, known),
        "Flatten" => {
            let x = x()?;
            let at = split_point(int("axis", 1), x.len())?;
            Some(vec![product(&x[..at])?, product(&x[at..])?])
        }
        "Reshape" => reshape(x()?, &ints_attribute(node, "shape").or_else(|| known.ints(node, 1))?, int("allowzero", 0) == 1),
        "Transpose" => {
            let x = x()?;
            let order = ints_attribute(node, "perm").map_or_else(|| Some((0..x.len()).rev().collect()), |p| axes(&p, x.len()))?;
            (order.len() == x.len()).then(|| order.iter().map(|&i| x[i]).collect())
        }
        "Concat" => {
            let mut out = x()?.to_vec();
            let at = axis(int("axis", 1), out.len())?;
            for slot in 1..node.input.len() {
                out[at] = out[at].checked_add(*known.dims(node, slot)?.get(at)?)?;
            }
            Some(out)
        }
        "Slice" => slice(node, known),
        "Squeeze" => {
            let x = x()?;
            let gone = match ints_attribute(node, "axes").or_else(|| known.ints(node, 1)) {
                Some(list) => axes(&list, x.len())?,
                None if node.input.len() > 1 => return None,
                None => (0..x.len()).filter(|&i| x[i] == 1).collect(),
            };
            Some(x.iter().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, &d)| d).collect())
        }
        "Unsqueeze" => {
            let list = ints_attribute(node, "axes").or_else(|| known.ints(node, 1))?;
            let rank = x()?.len() + list.len();
            let new = axes(&list, rank)?;
            let mut old = x()?.iter();
            (0..rank).map(|i| if new.contains(&i) { Some(1) } else { old.next().copied() }).collect()
        }
        "Pad" => pad(node, known),
        "Resize" | "Upsample" => resize(node, known),
        "ArgMax" | "ArgMin" => reduce(x()?, Some(vec![int("axis", 0)]), int("keepdims", 1) != 0),
        op if op.starts_with("Reduce") => {
            let list = ints_attribute(node, "axes").or_else(|| known.ints(node, 1)).filter(|l| !l.is_empty());
            if list.is_none() && known.dims(node, 1).is_some_and(|d| d.first() != Some(&0)) {
                return None;
            }
            if list.is_none() && int("noop_with_empty_axes", 0) == 1 {
                Some(x()?.to_vec())
            } else {
                reduce(x()?, list, int("keepdims", 1) != 0)
            }
        }
        "Gather" => {
            let (x, index) = (x()?, known.dims(node, 1)?);
            let at = axis(int("axis", 0), x.len())?;
            Some([&x[..at], index, &x[at + 1..]].concat())
        }
        "GatherElements" => Some(known.dims(node, 1)?.to_vec()),
        "GatherND" => {
            let (x, index) = (x()?, known.dims(node, 1)?);
            let (last, lead) = index.split_last()?;
            let skip = usize::try_from(int("batch_dims", 0)).ok()?.checked_add(*last)?;
            Some([lead, x.get(skip..)?].concat())
        }
        "Expand" => {
            let to = sizes(&known.ints(node, 1)?)?;
            broadcast(&[x()?, &to])
        }
        "Tile" => {
            let repeats = sizes(&known.ints(node, 1)?)?;
            x()?.iter().zip(&repeats).map(|(&d, &r)| d.checked_mul(r)).collect()
        }
        "DepthToSpace" | "SpaceToDepth" => {
            let [n, c, h, w] = *x()? else { return None };
            let b = usize::try_from(int("blocksize", 0)).ok().filter(|&b| b > 0)?;
            let square = b.checked_mul(b)?;
            Some(if node.op_type() == "DepthToSpace" {
                vec![n, c / square, h.checked_mul(b)?, w.checked_mul(b)?]
            } else {
                vec![n, c.checked_mul(square)?, h / b, w / b]
            })
        }
        "Constant" => attribute(node, "value").and_then(|a| a.t.as_ref()).map(tensor::dims),
        "ConstantOfShape" | "RandomNormal" | "RandomUniform" => sizes(&ints_attribute(node, "shape").or_else(|| known.ints(node, 0))?),
        "Shape" => Some(vec![x()?.len()]),
        "Size" => Some(vec![]),
        "OneHot" => {
            let depth = usize::try_from(*known.ints(node, 1)?.first()?).ok()?;
            let mut out = x()?.to_vec();
            let at = axis(int("axis", -1), out.len() + 1)?;
            out.insert(at, depth);
            Some(out)
        }
        "TopK" => {
            let k = attribute(node, "k").map(|a| a.i()).or_else(|| known.ints(node, 1)?.first().copied())?;
            let mut out = x()?.to_vec();
            let at = axis(int("axis", -1), out.len())?;
            out[at] = usize::try_from(k).ok()?;
            Some(out)
        }
        "GridSample" => {
            let grid = known.dims(node, 1)?;
            Some([x()?.get(..2)?, grid.get(1..grid.len().checked_sub(1)?)?].concat())
        }
        _ => None,
    }
}

/// An axis counted from either end.
pub(super) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    usize::try_from(if axis < 0 { axis.checked_add(rank)? } else { axis }).ok().filter(|&a| a < rank as usize)
}

fn axes(list: &[i64], rank: usize) -> Option<Dims> {
    list.iter().map(|&a| axis(a, rank)).collect()
}

fn split_point(at: i64, rank: usize) -> Option<usize> {
    if usize::try_from(at) == Ok(rank) { Some(rank) } else { axis(at, rank) }
}

fn sizes(list: &[i64]) -> Option<Dims> {
    list.iter().map(|&d| usize::try_from(d).ok()).collect()
}

fn product(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

fn gemm(node: &NodeProto, a: &[usize], b: &[usize]) -> Option<Dims> {
    let (&[r, c], &[s, t]) = (a, b) else { return None };
    let rows = if int_attribute(node, "transA", 0) == 1 { c } else { r };
    let columns = if int_attribute(node, "transB", 0) == 1 { s } else { t };
    Some(vec![rows, columns])
}

fn matmul(a: &[usize], b: &[usize]) -> Option<Dims> {
    let (rows, columns) = ((a.len() > 1).then(|| a[a.len() - 2]), (b.len() > 1).then(|| b[b.len() - 1]));
    let inner = if b.len() > 1 { b[b.len() - 2] } else { *b.first()? };
    if *a.last()? != inner {
        return None;
    }
    let lead = |d: &[usize]| d.len().saturating_sub(2);
    let mut out = broadcast(&[&a[..lead(a)], &b[..lead(b)]])?;
    out.extend(rows.into_iter().chain(columns));
    Some(out)
}

/// Einstein summation without an ellipsis: the output's letters name the sizes.
fn einsum(node: &NodeProto, known: &Known) -> Option<Dims> {
    let equation = string_attribute(node, "equation", "").replace(' ', "");
    let (terms, out) = equation.split_once("->")?;
    let size = |letter: char| {
        let found = terms.split(',').enumerate().find_map(|(slot, term)| Some((slot, term.chars().position(|c| c == letter)?)));
        found.and_then(|(slot, at)| known.dims(node, slot)?.get(at).copied())
    };
    if equation.contains('.') { None } else { out.chars().map(size).collect() }
}

fn reshape(x: &[usize], to: &[i64], allow_zero: bool) -> Option<Dims> {
    let mut out = Dims::with_capacity(to.len());
    let mut free = None;
    for (i, &d) in to.iter().enumerate() {
        out.push(match d {
            0 if !allow_zero => *x.get(i)?,
            -1 if free.is_none() => {
                free = Some(i);
                1
            }
            d => usize::try_from(d).ok()?,
        });
    }
    let (all, rest) = (product(x)?, product(&out)?);
    match free {
        Some(i) if rest > 0 && all % rest == 0 => out[i] = all / rest,
        None if all == rest => {}
        _ => return None,
    }
    Some(out)
}

fn split(node: &NodeProto, known: &Known) -> Option<Vec<Dims>> {
    let x = known.dims(node, 0)?;
    let at = axis(int_attribute(node, "axis", 0), x.len())?;
    let parts = match ints_attribute(node, "split").or_else(|| known.ints(node, 1)) {
        Some(list) => sizes(&list)?,
        None if node.input.get(1).is_some_and(|n| !n.is_empty()) => return None,
        None => {
            let n = node.output.len().max(1);
            let chunk = x[at].div_ceil(n);
            (0..n).map(|i| chunk.min(x[at].saturating_sub(i * chunk))).collect()
        }
    };
    let part = |size| {
        let mut out = x.to_vec();
        out[at] = size;
        out
    };
    Some(parts.into_iter().map(part).collect())
}

fn slice(node: &NodeProto, known: &Known) -> Option<Dims> {
    let mut out = known.dims(node, 0)?.to_vec();
    let list = |name: &str, slot: usize| ints_attribute(node, name).or_else(|| known.ints(node, slot));
    let (starts, ends) = (list("starts", 1)?, list("ends", 2)?);
    let given = |slot: usize| node.input.get(slot).is_some_and(|n| !n.is_empty());
    let default_axes = || (!given(3)).then(|| (0..i64::try_from(starts.len()).unwrap_or(0)).collect());
    let at = axes(&list("axes", 3).or_else(default_axes)?, out.len())?;
    let steps = list("steps", 4).or_else(|| (!given(4)).then(|| vec![1; starts.len()]))?;
    for (i, &a) in at.iter().enumerate() {
        out[a] = slice_axis(out[a], *starts.get(i)?, *ends.get(i)?, *steps.get(i)?)?.1;
    }
    Some(out)
}

fn pad(node: &NodeProto, known: &Known) -> Option<Dims> {
    let mut out = known.dims(node, 0)?.to_vec();
    let old = || ints_attribute(node, "pads").or_else(|| ints_attribute(node, "paddings"));
    let pads = old().or_else(|| known.ints(node, 1))?;
    let at = match known.ints(node, 3) {
        Some(list) => axes(&list, out.len())?,
        None if node.input.get(3).is_some_and(|n| !n.is_empty()) => return None,
        None => (0..out.len()).collect(),
    };
    for (i, &a) in at.iter().enumerate() {
        let sum = pads.get(i)?.checked_add(*pads.get(i + at.len())?)?;
        out[a] = usize::try_from(i64::try_from(out[a]).ok()?.checked_add(sum)?).ok()?;
    }
    Some(out)
}

fn resize(node: &NodeProto, known: &Known) -> Option<Dims> {
    let mut out = known.dims(node, 0)?.to_vec();
    let at = ints_attribute(node, "axes").map_or_else(|| Some((0..out.len()).collect()), |l| axes(&l, out.len()))?;
    if let Some(list) = known.ints(node, 3).filter(|l| !l.is_empty()) {
        if list.len() != at.len() || string_attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch" {
            return None;
        }
        for (&a, &d) in at.iter().zip(&list) {
            out[a] = usize::try_from(d).ok()?;
        }
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
    if scales.len() != at.len() || scales.iter().any(|&s| s.is_nan() || s <= 0.0) {
        return None;
    }
    for (&a, s) in at.iter().zip(&scales) {
        out[a] = (out[a] as f64 * s).floor() as usize;
    }
    Some(out)
}

fn reduce(x: &[usize], list: Option<Vec<i64>>, keep: bool) -> Option<Dims> {
    let gone = list.map_or_else(|| Some((0..x.len()).collect()), |l| axes(&l, x.len()))?;
    let left = x.iter().enumerate().filter(|(i, _)| keep || !gone.contains(i));
    Some(left.map(|(i, &d)| if gone.contains(&i) { 1 } else { d }).collect())
}

/// Y \[steps, directions, batch, hidden\], Y_h and Y_c \[directions, batch, hidden\]; the default layout only.
fn recurrent(node: &NodeProto, known: &Known) -> Option<Vec<Dims>> {
    let &[steps, batch, _] = known.dims(node, 0)? else { return None };
    let &[directions, _, hidden] = known.dims(node, 2)? else { return None };
    let last = vec![directions, batch, hidden];
    (int_attribute(node, "layout", 0) == 0).then(|| vec![vec![steps, directions, batch, hidden], last.clone(), last])
}
