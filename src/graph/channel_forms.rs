//! How operators that only rearrange pass channels on.

use super::{
    channels::Tracer,
    fold::slice_axis,
    grid::{Grid, LIMIT, blocks, each},
    group::EntryPlace,
    model::{attribute, int_attribute, ints_attribute, string_attribute},
    proto::NodeProto,
    shape_rule::axis,
};

impl<'a> Tracer<'a> {
    /// The rule of a node that rearranges.
    pub(super) fn form(&mut self, i: usize, node: &'a NodeProto) -> Option<()> {
        if node.op_type() == "Concat" {
            return self.concat(node);
        }
        if !self.maps.contains_key(node.input.first()?.as_str()) {
            return node.input.iter().all(|v| !self.maps.contains_key(v.as_str())).then_some(());
        }
        match node.op_type() {
            "Split" => self.split(i, node),
            "Slice" => self.slice(i, node),
            "Gather" => self.gather(node),
            "Reshape" | "Flatten" => self.reshape(node),
            "Transpose" => self.transpose(node),
            "Squeeze" | "Unsqueeze" => self.squeeze(node),
            "Resize" | "Upsample" => self.resize(node),
            "Pad" => self.pad(node),
            "Expand" => self.expand(node),
            "DepthToSpace" | "SpaceToDepth" => self.depth_and_space(node),
            _ => None,
        }
    }

    fn concat(&mut self, node: &'a NodeProto) -> Option<()> {
        let out = node.output.first()?;
        let grids: Vec<Option<Grid>> = node.input.iter().map(|v| self.maps.get(v.as_str()).cloned()).collect();
        if grids.iter().all(Option::is_none) {
            return Some(());
        }
        let at = axis(int_attribute(node, "axis", 1), self.rank(out)?)?;
        if grids.iter().flatten().all(|g| g.position(at).is_none()) {
            return self.side_by_side(out, grids);
        }
        let mut atoms = Vec::new();
        for (value, grid) in node.input.iter().zip(grids) {
            match grid {
                Some(grid) => atoms.extend(grid.as_line().filter(|(a, _)| *a == at)?.1),
                None => {
                    let n = *self.shapes.dims(value)?.get(at)?;
                    let fixed = self.fresh(n.min(LIMIT));
                    self.freeze_atoms(fixed.clone(), "it is not made by a layer");
                    atoms.extend(fixed);
                }
            }
        }
        self.set(out, Grid::line(at, atoms));
        Some(())
    }

    /// Values with the same channels joined along another axis.
    fn side_by_side(&mut self, out: &'a str, grids: Vec<Option<Grid>>) -> Option<()> {
        let grids = grids.into_iter().collect::<Option<Vec<Grid>>>()?;
        let first = grids.first()?.clone();
        if grids.iter().any(|g| (&g.axes, &g.dims) != (&first.axes, &first.dims)) {
            return None;
        }
        for grid in &grids[1..] {
            first.atoms.iter().zip(&grid.atoms).for_each(|(&a, &b)| self.join(a, b));
        }
        self.set(out, first);
        Some(())
    }

    /// Where a list of integers of a node stands: in a constant input, or in an attribute.
    fn list_place(&self, i: usize, node: &NodeProto, name: &str, slot: usize) -> Option<(EntryPlace, Vec<i64>)> {
        if let Some(list) = ints_attribute(node, name) {
            return Some((EntryPlace::Attribute(i, name.to_string()), list));
        }
        let constant = node.input.get(slot).filter(|n| !n.is_empty())?;
        let list = self.index.ints(constant)?;
        (self.index.readers(constant).len() == 1).then(|| (EntryPlace::Constant(constant.clone()), list))
    }

    fn split(&mut self, i: usize, node: &'a NodeProto) -> Option<()> {
        let input = node.input.first()?;
        let grid = self.maps.get(input.as_str())?.clone();
        let at = axis(int_attribute(node, "axis", 0), self.rank(input)?)?;
        let Some(position) = grid.position(at) else {
            node.output.iter().filter(|o| !o.is_empty()).for_each(|o| self.set(o, grid.clone()));
            return Some(());
        };
        let (place, sizes) = self.list_place(i, node, "split", 1)?;
        let sizes: Vec<usize> = sizes.into_iter().map(|s| usize::try_from(s).ok()).collect::<Option<_>>()?;
        let total = sizes.iter().try_fold(0usize, |n, &s| n.checked_add(s))?;
        if total != grid.dims[position] || sizes.len() != node.output.len() || sizes.contains(&0) {
            return None;
        }
        let mut start = 0;
        for (k, (output, size)) in node.output.iter().zip(sizes).enumerate() {
            let part = grid.picked(position, &(start..start + size).collect::<Vec<_>>());
            self.count(place.clone(), k, &part, position);
            self.set(output, part);
            start += size;
        }
        self.keep_parts(&grid, position, node);
        Some(())
    }

    /// Parts along an axis of several-axed channels are told apart by their index, which must not move.
    fn keep_parts(&mut self, grid: &Grid, position: usize, node: &NodeProto) {
        if grid.axes.len() > 1 {
            self.keep_whole(grid, position, super::channel_rules::reason(node));
        }
    }

    fn slice(&mut self, i: usize, node: &'a NodeProto) -> Option<()> {
        let input = node.input.first()?;
        let mut grid = self.maps.get(input.as_str())?.clone();
        let dims = self.shapes.dims(input)?.to_vec();
        let ((starts_at, starts), (ends_at, ends)) = (self.list_place(i, node, "starts", 1)?, self.list_place(i, node, "ends", 2)?);
        let list = |name: &str, slot: usize| ints_attribute(node, name).or_else(|| self.index.ints(node.input.get(slot)?));
        let given = |slot: usize| node.input.get(slot).is_some_and(|n| !n.is_empty());
        let axes = list("axes", 3).or_else(|| (!given(3)).then(|| (0..starts.len() as i64).collect()))?;
        let steps = list("steps", 4).or_else(|| (!given(4)).then(|| vec![1; starts.len()]))?;
        for (k, &a) in axes.iter().enumerate() {
            let at = axis(a, dims.len())?;
            let Some(position) = grid.position(at) else { continue };
            let (start, count, step) = slice_axis(dims[at], *starts.get(k)?, *ends.get(k)?, *steps.get(k)?)?;
            let start = usize::try_from(start).ok()?;
            if count == dims[at] && step == 1 {
                continue;
            }
            if step != 1 || count == 0 {
                return None;
            }
            self.keep_parts(&grid, position, node);
            let prefix = |n: usize| grid.picked(position, &(0..n).collect::<Vec<_>>());
            if start > 0 {
                self.count(starts_at.clone(), k, &prefix(start), position);
            }
            if start + count < dims[at] || usize::try_from(ends[k]).is_ok_and(|e| e == dims[at]) {
                self.count(ends_at.clone(), k, &prefix(start + count), position);
            }
            grid = grid.picked(position, &(start..start + count).collect::<Vec<_>>());
        }
        self.set(node.output.first()?, grid);
        Some(())
    }

    fn gather(&mut self, node: &'a NodeProto) -> Option<()> {
        let (input, indices) = (node.input.first()?, node.input.get(1)?);
        let grid = self.maps.get(input.as_str())?.clone();
        let at = axis(int_attribute(node, "axis", 0), self.rank(input)?)?;
        let rank = self.rank(indices)?;
        let Some(position) = grid.position(at) else {
            return self.pass(node, |a| Some(if a > at { a + rank - 1 } else { a }));
        };
        if grid.axes.len() == 1 || rank != 0 {
            return None;
        }
        let chosen = *self.index.ints(indices)?.first()?;
        let length = grid.dims[position] as i64;
        let chosen = usize::try_from(if chosen < 0 { chosen + length } else { chosen }).ok().filter(|&c| c < grid.dims[position])?;
        self.keep_parts(&grid, position, node);
        let one = grid.picked(position, &[chosen]);
        let rest = |list: &[usize]| list.iter().enumerate().filter(|(p, _)| *p != position).map(|(_, &v)| v).collect::<Vec<_>>();
        let axes = rest(&one.axes).into_iter().map(|a| if a > at { a - 1 } else { a }).collect();
        self.set(node.output.first()?, Grid { axes, dims: rest(&one.dims), atoms: one.atoms });
        Some(())
    }

    fn reshape(&mut self, node: &'a NodeProto) -> Option<()> {
        let (input, output) = (node.input.first()?, node.output.first()?);
        let grid = self.maps.get(input.as_str())?.clone();
        let (from, to) = (self.shapes.dims(input)?.to_vec(), self.shapes.dims(output)?.to_vec());
        // The tracked runs of axes, each with its axes before and after.
        let runs: Vec<_> = blocks(&from, &to)?.into_iter().filter(|(f, _)| f.clone().any(|a| grid.position(a).is_some())).collect();
        let axes: Vec<usize> = runs.iter().flat_map(|(_, t)| t.clone()).collect();
        let dims: Vec<usize> = axes.iter().map(|&a| to[a]).collect();
        if axes.is_empty() || dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).is_none_or(|n| n > LIMIT) {
            return None;
        }
        let atoms = each(&dims, |at| {
            let mut old = vec![0; from.len()];
            let mut used = 0;
            for (f, t) in &runs {
                let mut flat = t.clone().fold(0, |flat, a| {
                    used += 1;
                    flat * to[a] + at[used - 1]
                });
                for a in f.clone().rev() {
                    (old[a], flat) = (flat % from[a], flat / from[a]);
                }
            }
            grid.at(&grid.axes.iter().map(|&a| old[a]).collect::<Vec<_>>())
        });
        let made = Grid { axes, dims, atoms }.simple();
        if node.op_type() == "Reshape" {
            self.reshape_counts(node, &made)?;
        }
        self.set(output, made);
        Some(())
    }

    /// Notes the entries of a Reshape's target that count channels, where they are constants.
    fn reshape_counts(&mut self, node: &'a NodeProto, made: &Grid) -> Option<()> {
        let target = node.input.get(1)?;
        let pieces = self.pieces(target);
        for (position, &a) in made.axes.iter().enumerate() {
            let Some(Some((constant, entry, value))) = pieces.get(a) else { continue };
            if *value > 0 {
                if self.index.readers(constant).len() != 1 {
                    return None;
                }
                self.count(EntryPlace::Constant(constant.clone()), *entry, made, position);
            }
        }
        Some(())
    }

    /// For each entry of a list of integers the constant it comes from, its place in it and its value; none if it is computed.
    fn pieces(&self, value: &str) -> Vec<Option<(String, usize, i64)>> {
        if let Some(list) = self.index.ints(value) {
            return list.into_iter().enumerate().map(|(k, v)| Some((value.to_string(), k, v))).collect();
        }
        let computed = || vec![None; self.shapes.dims(value).and_then(|d| d.first().copied()).unwrap_or(1).min(64)];
        let Some(node) = self.index.producer.get(value).map(|&i| &self.nodes[i]) else { return computed() };
        match node.op_type() {
            "Concat" => node.input.iter().flat_map(|v| self.pieces(v)).collect(),
            "Cast" | "Identity" | "Unsqueeze" => match node.input.first().map(|v| self.pieces(v)) {
                Some(list) if self.index.readers(value).len() == 1 => list,
                _ => computed(),
            },
            _ => computed(),
        }
    }

    fn transpose(&mut self, node: &'a NodeProto) -> Option<()> {
        let rank = self.rank(node.input.first()?)?;
        let perm = ints_attribute(node, "perm").unwrap_or_else(|| (0..rank as i64).rev().collect());
        self.pass(node, |a| perm.iter().position(|&p| usize::try_from(p) == Ok(a)))
    }

    fn squeeze(&mut self, node: &'a NodeProto) -> Option<()> {
        let (input, output) = (node.input.first()?, node.output.first()?);
        let squeeze = node.op_type() == "Squeeze";
        let rank = if squeeze { self.rank(input)? } else { self.rank(output)? };
        let given = ints_attribute(node, "axes").or_else(|| node.input.get(1).and_then(|a| self.index.ints(a)));
        let axes: Vec<usize> = match given {
            Some(list) => list.into_iter().map(|a| axis(a, rank)).collect::<Option<_>>()?,
            None if squeeze => self.shapes.dims(input)?.iter().enumerate().filter(|(_, d)| **d == 1).map(|(i, _)| i).collect(),
            None => return None,
        };
        // An axis of one index, left over from channels taken apart, may go.
        let mut grid = self.maps.get(input.as_str())?.clone();
        if squeeze {
            for p in (0..grid.axes.len()).rev() {
                if grid.axes.len() > 1 && grid.dims[p] == 1 && axes.contains(&grid.axes[p]) {
                    grid.axes.remove(p);
                    grid.dims.remove(p);
                }
            }
        }
        let grid = grid.moved(|a| {
            if squeeze {
                (!axes.contains(&a)).then(|| a - axes.iter().filter(|&&x| x < a).count())
            } else {
                (0..rank).filter(|x| !axes.contains(x)).nth(a)
            }
        })?;
        self.set(output, grid);
        Some(())
    }

    fn resize(&mut self, node: &'a NodeProto) -> Option<()> {
        if string_attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch" {
            return None;
        }
        let grid = self.maps.get(node.input.first()?.as_str())?.clone();
        if grid.as_line()?.0 != 1 {
            return None;
        }
        if let Some(sizes) = node.input.get(3).filter(|s| !s.is_empty()) {
            let listed = attribute(node, "axes").map(|a| a.ints.clone());
            let entry = listed.map_or(Some(1), |l| l.iter().position(|&a| a == 1));
            if let Some(Some((constant, k, _))) = entry.and_then(|e| self.pieces(sizes).get(e).cloned()) {
                if self.index.readers(&constant).len() != 1 {
                    return None;
                }
                self.count(EntryPlace::Constant(constant), k, &grid, 0);
            }
        }
        self.pass(node, Some)
    }

    fn pad(&mut self, node: &'a NodeProto) -> Option<()> {
        let pads = ints_attribute(node, "pads").or_else(|| node.input.get(1).and_then(|p| self.index.ints(p)))?;
        let rank = self.rank(node.input.first()?)?;
        let axes: Vec<usize> = match node.input.get(3).filter(|a| !a.is_empty()) {
            Some(list) => self.index.ints(list)?.into_iter().map(|a| axis(a, rank)).collect::<Option<_>>()?,
            None => (0..rank).collect(),
        };
        let untouched = |a: usize| match axes.iter().position(|&x| x == a) {
            Some(k) => pads.get(k) == Some(&0) && pads.get(k + axes.len()) == Some(&0),
            None => true,
        };
        self.pass(node, |a| untouched(a).then_some(a))
    }

    /// Repeats along other axes only.
    fn expand(&mut self, node: &'a NodeProto) -> Option<()> {
        let (input, output) = (node.input.first()?, node.output.first()?);
        let (from, to) = (self.shapes.dims(input)?.to_vec(), self.shapes.dims(output)?.to_vec());
        let grid = self.maps.get(input.as_str())?.moved(|a| (a + to.len()).checked_sub(from.len()))?;
        let pieces = self.pieces(node.input.get(1)?);
        let lead = to.len().checked_sub(pieces.len())?;
        for (position, &a) in grid.axes.iter().enumerate() {
            if to[a] != grid.dims[position] {
                return None;
            }
            if let Some(Some((constant, k, value))) = a.checked_sub(lead).and_then(|p| pieces.get(p))
                && *value > 1
            {
                if self.index.readers(constant).len() != 1 {
                    return None;
                }
                self.count(EntryPlace::Constant(constant.clone()), *k, &grid, position);
            }
        }
        self.set(output, grid);
        Some(())
    }

    /// Pixel shuffle and its inverse: the channels that become one pixel's neighbourhood go together.
    fn depth_and_space(&mut self, node: &'a NodeProto) -> Option<()> {
        let grid = self.maps.get(node.input.first()?.as_str())?.clone();
        let (_, atoms) = grid.as_line().filter(|(a, _)| *a == 1)?;
        let block = usize::try_from(int_attribute(node, "blocksize", 1)).ok().filter(|&b| b > 0)?;
        let square = block.checked_mul(block)?;
        let made: Vec<usize> = if node.op_type() == "SpaceToDepth" {
            if atoms.len().checked_mul(square)? > LIMIT {
                return None;
            }
            (0..square).flat_map(|_| atoms.iter().copied()).collect()
        } else {
            if atoms.len() % square != 0 {
                return None;
            }
            let n = atoms.len() / square;
            let by_column = string_attribute(node, "mode", "DCR") == "CRD";
            let part = |c: usize, k: usize| if by_column { atoms[c * square + k] } else { atoms[k * n + c] };
            for c in 0..n {
                (1..square).for_each(|k| self.join(part(c, 0), part(c, k)));
            }
            (0..n).map(|c| part(c, 0)).collect()
        };
        self.set(node.output.first()?, Grid::line(1, made));
        Some(())
    }
}
