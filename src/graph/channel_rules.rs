//! How operators that compute pass channels on: one rule an operator. A rule that gives none lets no channel of its inputs go.

use super::{
    channels::Tracer,
    grid::{Grid, each},
    model::{int_attribute, ints_attribute},
    proto::NodeProto,
    shape_rule::axis,
};

/// Why a node without a rule holds the channels it reads.
pub(super) fn reason(node: &NodeProto) -> String {
    let (op, name) = (node.op_type(), node.name());
    let over = op.starts_with("Reduce") || op.starts_with("Arg") || op.ends_with("Normalization") || op.contains("Softmax");
    if over || matches!(op, "LRN" | "TopK" | "CumSum") {
        return format!("{op} {name} computes over its channels");
    }
    if matches!(op, "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" | "Mean" | "Sum" | "Pow" | "Where" | "Concat") {
        return format!("{op} {name} joins its channels with others that must stay");
    }
    format!("{op} {name} reads its channels")
}

impl<'a> Tracer<'a> {
    /// The rule of a node that is no layer.
    pub(super) fn rule(&mut self, i: usize, node: &'a NodeProto) -> Option<()> {
        let custom = !matches!(node.domain(), "" | "ai.onnx");
        if custom
            && !(node.domain() == "com.microsoft" && matches!(node.op_type(), "Gelu" | "FastGelu" | "QuickGelu") && node.input.len() == 1)
        {
            return None;
        }
        match node.op_type() {
            "Relu" | "LeakyRelu" | "ThresholdedRelu" | "Clip" | "Sigmoid" | "HardSigmoid" | "HardSwish" | "Swish" | "Tanh" | "Elu"
            | "Selu" | "Celu" | "Softplus" | "Softsign" | "Erf" | "Gelu" | "FastGelu" | "QuickGelu" | "Mish" | "Abs" | "Neg" | "Exp"
            | "Log" | "Sqrt" | "Reciprocal" | "Floor" | "Ceil" | "Round" | "Sign" | "Sin" | "Cos" | "Tan" | "Atan" | "Sinh" | "Cosh"
            | "Asin" | "Acos" | "Not" | "IsNaN" | "IsInf" | "Identity" | "Dropout" | "Cast" | "Shrink" => self.pass(node, Some),
            "Shape" | "Size" => Some(()),
            "BatchNormalization" | "InstanceNormalization" => self.per_channel_parameters(node),
            "MaxPool" | "AveragePool" | "LpPool" | "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
                self.pass(node, |axis| (axis == 1).then_some(1))
            }
            "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" | "Mean" | "PRelu" | "Sum" | "Pow" | "Where" | "Equal" | "Greater" | "Less"
            | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" => self.elementwise(node),
            "MatMul" => self.product(node),
            "Softmax" | "LogSoftmax" | "LayerNormalization" | "RMSNormalization" => self.along_other_axes(node),
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare" | "ReduceLogSumExp" => {
                self.reduce(node)
            }
            _ => self.form(i, node),
        }
    }

    /// Passes the first input's channels to the first output, at the axis that `to` gives.
    pub(super) fn pass(&mut self, node: &'a NodeProto, to: impl Fn(usize) -> Option<usize>) -> Option<()> {
        let Some(grid) = self.maps.get(node.input.first()?.as_str()) else { return Some(()) };
        let grid = grid.moved(to)?;
        self.set(node.output.first()?, grid);
        Some(())
    }

    fn per_channel_parameters(&mut self, node: &'a NodeProto) -> Option<()> {
        let Some(grid) = self.maps.get(node.input.first()?.as_str()).cloned() else { return Some(()) };
        if grid.as_line()?.0 != 1 {
            return None;
        }
        for parameter in &node.input[1..] {
            let constant = self.index.constants.get(parameter.as_str())?;
            if self.index.readers(parameter).len() != 1 || constant.dims != [grid.atoms.len() as i64] {
                return None;
            }
        }
        for parameter in &node.input[1..] {
            self.cut(parameter, vec![(0, 0)], &grid);
        }
        self.set(node.output.first()?, grid);
        Some(())
    }

    fn elementwise(&mut self, node: &'a NodeProto) -> Option<()> {
        let out = node.output.first()?;
        let mut tracked: Vec<Grid> = Vec::new();
        let operands = node.input.iter().filter(|v| !v.is_empty());
        if operands.clone().all(|v| !self.maps.contains_key(v.as_str())) {
            return Some(());
        }
        let out_rank = self.rank(out)?;
        for value in operands.clone() {
            if let Some(grid) = self.maps.get(value.as_str()) {
                let rank = self.rank(value)?;
                tracked.push(grid.moved(|a| (a + out_rank).checked_sub(rank))?);
            }
        }
        let widest = tracked.iter().max_by_key(|g| (g.atoms.len(), g.axes.len()))?.clone();
        // One channel that meets many is not one of them.
        let single = |g: &Grid| g.atoms.len() == 1 && widest.atoms.len() > 1;
        for grid in tracked.iter().filter(|g| single(g)) {
            self.freeze_atoms(grid.atoms.clone(), "it is one channel that meets many");
        }
        tracked.retain(|g| !single(g));
        let mut cuts: Vec<(&str, Vec<(usize, usize)>)> = Vec::new();
        for value in operands {
            let dims = self.shapes.dims(value)?;
            if self.maps.contains_key(value.as_str()) {
                continue;
            }
            // Where an operand is as long as the channels, it must be a constant that is cut with them.
            let on = |(p, &a): (usize, &usize)| {
                let own = (a + dims.len()).checked_sub(out_rank)?;
                dims.get(own).is_some_and(|&d| d != 1).then_some((p, own))
            };
            let axes: Vec<(usize, usize)> = widest.axes.iter().enumerate().filter_map(on).collect();
            if axes.is_empty() {
                continue;
            }
            if !self.index.constants.contains_key(value.as_str()) || self.index.readers(value).len() != 1 {
                return None;
            }
            cuts.push((value, axes));
        }
        let fits = |g: &Grid| g.axes.iter().zip(&g.dims).all(|(&a, &d)| widest.position(a).is_some_and(|p| widest.dims[p] == d));
        if !tracked.iter().all(fits) {
            return None;
        }
        for grid in &tracked {
            let at: Vec<usize> = grid.axes.iter().filter_map(|&a| widest.position(a)).collect();
            let pairs = each(&widest.dims, |i| (widest.at(i), grid.at(&at.iter().map(|&p| i[p]).collect::<Vec<_>>())));
            pairs.into_iter().for_each(|(a, b)| self.join(a, b));
        }
        for (tensor, axes) in cuts {
            self.cut(tensor, axes, &widest);
        }
        self.set(out, widest);
        Some(())
    }

    /// A product of two activations. Batch axes (heads) of both go together, and so do the features that are summed over.
    fn product(&mut self, node: &'a NodeProto) -> Option<()> {
        let (a, b, out) = (node.input.first()?, node.input.get(1)?, node.output.first()?);
        let (left, right) = (self.maps.get(a.as_str()).cloned(), self.maps.get(b.as_str()).cloned());
        if left.is_none() && right.is_none() {
            return Some(());
        }
        let (da, db, rank) = (self.shapes.dims(a)?.to_vec(), self.shapes.dims(b)?.to_vec(), self.rank(out)?);
        if da.len() < 2 || db.len() < 2 {
            return None;
        }
        // Both in the axes of the output, and one more for what is summed over.
        let sum = rank;
        let place = |g: Option<Grid>, dims: &[usize], row: usize, column: usize| match g {
            None => Some(Grid { axes: vec![], dims: vec![], atoms: vec![] }),
            Some(g) => g.moved(|axis| match dims.len() - axis {
                2 => Some(row),
                1 => Some(column),
                from_end => rank.checked_sub(from_end),
            }),
        };
        let (left, right) = (place(left, &da, rank - 2, sum)?, place(right, &db, sum, rank - 1)?);
        let whole = |g: &Grid, other: &Grid, other_dims: &[usize]| {
            g.axes.iter().zip(&g.dims).all(|(&axis, &d)| {
                let batch = axis + 2 < rank;
                let facing = if batch { (axis + other_dims.len()).checked_sub(rank).map_or(1, |i| other_dims[i]) } else { d };
                match other.position(axis) {
                    Some(p) => other.dims[p] == d,
                    None => (batch && facing == 1) || (!batch && axis != sum),
                }
            })
        };
        if !whole(&left, &right, &db) || !whole(&right, &left, &da) {
            return None;
        }
        if left.position(rank - 2).is_some() && right.position(rank - 1).is_some() {
            return None;
        }
        let mut axes: Vec<usize> = left.axes.iter().chain(&right.axes).copied().collect();
        axes.sort_unstable();
        axes.dedup();
        let size = |axis: usize| left.position(axis).map(|p| left.dims[p]).or_else(|| right.position(axis).map(|p| right.dims[p]));
        let dims = axes.iter().map(|&x| size(x)).collect::<Option<Vec<_>>>()?;
        let of = |g: &Grid, i: &[usize]| {
            let own: Vec<usize> = g.axes.iter().filter_map(|x| axes.iter().position(|y| y == x)).map(|p| i[p]).collect();
            (!g.axes.is_empty()).then(|| g.at(&own))
        };
        let meeting = each(&dims, |i| (of(&left, i), of(&right, i)));
        // Without a common axis the product mixes nothing that would have to go together.
        let common = left.axes.iter().any(|x| right.axes.contains(x));
        if common {
            meeting.iter().for_each(|m| {
                if let (Some(x), Some(y)) = m {
                    self.join(*x, *y);
                }
            });
        }
        let outer: Vec<usize> = axes.iter().copied().filter(|&x| x != sum).collect();
        if outer.is_empty() {
            return Some(());
        }
        let one: Vec<usize> = meeting.into_iter().map(|(x, y)| x.or(y)).collect::<Option<_>>()?;
        let full = Grid { axes: axes.clone(), dims, atoms: one };
        let grid = match full.position(sum) {
            None => full,
            Some(p) => {
                for i in 1..full.dims[p] {
                    let (first, other) = (full.picked(p, &[0]).atoms, full.picked(p, &[i]).atoms);
                    first.into_iter().zip(other).for_each(|(x, y)| self.join(x, y));
                }
                let first = full.picked(p, &[0]);
                let keep = |list: &[usize]| list.iter().enumerate().filter(|(i, _)| *i != p).map(|(_, &v)| v).collect();
                Grid { axes: keep(&first.axes), dims: keep(&first.dims), atoms: first.atoms }
            }
        };
        self.set(out, grid);
        Some(())
    }

    /// Softmax and its like: channels pass where the operator works along other axes.
    fn along_other_axes(&mut self, node: &'a NodeProto) -> Option<()> {
        let input = node.input.first()?;
        let Some(grid) = self.maps.get(input.as_str()) else { return Some(()) };
        let softmax = node.op_type().ends_with("Softmax");
        let one_axis = softmax && self.opset >= 13;
        let default = if softmax && !one_axis { 1 } else { -1 };
        let first = axis(int_attribute(node, "axis", default), self.rank(input)?)?;
        if grid.axes.iter().any(|&a| if one_axis { a == first } else { a >= first }) {
            return None;
        }
        self.pass(node, Some)
    }

    fn reduce(&mut self, node: &'a NodeProto) -> Option<()> {
        let input = node.input.first()?;
        if !self.maps.contains_key(input.as_str()) {
            return Some(());
        }
        let rank = self.rank(input)?;
        let axes = ints_attribute(node, "axes").or_else(|| node.input.get(1).and_then(|a| self.index.ints(a)))?;
        if axes.is_empty() {
            return None;
        }
        let axes: Vec<usize> = axes.into_iter().map(|a| axis(a, rank)).collect::<Option<_>>()?;
        let keep = int_attribute(node, "keepdims", 1) == 1;
        self.pass(node, |a| {
            let before = axes.iter().filter(|&&x| x < a).count();
            (!axes.contains(&a)).then_some(if keep { a } else { a - before })
        })
    }
}
