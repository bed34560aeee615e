//! Which channel stands at which index of a value.

/// Larger tables of atoms than this are not followed.
pub(super) const LIMIT: usize = 1 << 18;

/// The atom of every index along some axes of a value; along its other axes all entries belong to the same atoms.
///
/// One axis is the usual case: the channels of an image, the features of a token. After a Reshape takes channels apart (heads and
/// their features, the groups of a shuffle) there are several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grid {
    /// Axes of the value, rising.
    pub(super) axes: Vec<usize>,
    /// Length of each.
    pub(super) dims: Vec<usize>,
    /// Atoms, row-major.
    pub(super) atoms: Vec<usize>,
}

impl Grid {
    /// Atoms along one axis.
    pub(super) fn line(axis: usize, atoms: Vec<usize>) -> Self {
        Self { axes: vec![axis], dims: vec![atoms.len()], atoms }
    }

    /// The axis and the atoms of a grid of one axis.
    pub(super) fn as_line(&self) -> Option<(usize, &[usize])> {
        match self.axes.as_slice() {
            [axis] => Some((*axis, &self.atoms)),
            _ => None,
        }
    }

    /// Position of an axis of the value among those of the grid.
    pub(super) fn position(&self, axis: usize) -> Option<usize> {
        self.axes.iter().position(|&a| a == axis)
    }

    /// The grid with other axes, one for one; sorted again. None if two become one.
    pub(super) fn moved(&self, to: impl Fn(usize) -> Option<usize>) -> Option<Self> {
        let axes = self.axes.iter().map(|&a| to(a)).collect::<Option<Vec<_>>>()?;
        let mut order: Vec<usize> = (0..axes.len()).collect();
        order.sort_by_key(|&p| axes[p]);
        if order.windows(2).any(|w| axes[w[0]] == axes[w[1]]) {
            return None;
        }
        let dims: Vec<usize> = order.iter().map(|&p| self.dims[p]).collect();
        let atoms = each(&dims, |at| {
            let mut own = vec![0; at.len()];
            order.iter().zip(at).for_each(|(&p, &i)| own[p] = i);
            self.at(&own)
        });
        Some(Self { axes: order.iter().map(|&p| axes[p]).collect(), dims, atoms })
    }

    /// The atom at an index for each of its axes.
    pub(super) fn at(&self, index: &[usize]) -> usize {
        self.atoms[index.iter().zip(&self.dims).fold(0, |flat, (&i, &d)| flat * d + i)]
    }

    /// Only some indices along an axis of the grid.
    pub(super) fn picked(&self, position: usize, kept: &[usize]) -> Self {
        let mut dims = self.dims.clone();
        dims[position] = kept.len();
        let atoms = each(&dims, |at| {
            let mut own = at.to_vec();
            own[position] = kept[at[position]];
            self.at(&own)
        });
        Self { axes: self.axes.clone(), dims, atoms }
    }

    /// The grid without axes along which nothing changes; at least one stays.
    pub(super) fn simple(mut self) -> Self {
        for position in (0..self.dims.len()).rev() {
            if self.dims.len() == 1 {
                break;
            }
            let stride = self.stride(position);
            let constant = self.along(position).enumerate().all(|(flat, (i, atom))| self.atoms[flat - i * stride] == atom);
            if constant {
                let first = self.picked(position, &[0]);
                self = Self { axes: without(&self.axes, position), dims: without(&self.dims, position), atoms: first.atoms };
            }
        }
        self
    }

    fn stride(&self, position: usize) -> usize {
        self.dims[position + 1..].iter().product()
    }

    /// All atoms, each with its index along an axis of the grid.
    pub(super) fn along(&self, position: usize) -> impl Iterator<Item = (usize, usize)> {
        let (stride, length) = (self.stride(position), self.dims[position]);
        self.atoms.iter().enumerate().map(move |(flat, &atom)| (flat / stride % length, atom))
    }

    /// An atom of every index along an axis of the grid.
    pub(super) fn edge(&self, position: usize) -> Vec<usize> {
        let stride = self.stride(position);
        (0..self.dims[position]).map(|i| self.atoms[i * stride]).collect()
    }
}

fn without(list: &[usize], position: usize) -> Vec<usize> {
    list.iter().enumerate().filter(|(i, _)| *i != position).map(|(_, &v)| v).collect()
}

/// Calls `f` with every index of `dims`, row-major.
pub(super) fn each<T>(dims: &[usize], mut f: impl FnMut(&[usize]) -> T) -> Vec<T> {
    let count: usize = dims.iter().product();
    let mut at = vec![0; dims.len()];
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        out.push(f(&at));
        for (i, d) in at.iter_mut().zip(dims).rev() {
            *i += 1;
            if *i < *d {
                break;
            }
            *i = 0;
        }
    }
    out
}

/// A run of axes before a Reshape and the run it becomes, of the same number of elements.
pub(super) type Block = (std::ops::Range<usize>, std::ops::Range<usize>);

/// Splits a Reshape into the shortest runs of axes that become each other.
pub(super) fn blocks(from: &[usize], to: &[usize]) -> Option<Vec<Block>> {
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::new();
    while i < from.len() || j < to.len() {
        let (start_i, start_j) = (i, j);
        let (mut a, mut b) = (1usize, 1usize);
        if i < from.len() {
            (a, i) = (from[i], i + 1);
        }
        if j < to.len() {
            (b, j) = (to[j], j + 1);
        }
        while a != b {
            if a < b {
                a = a.checked_mul(*from.get(i)?)?;
                i += 1;
            } else {
                b = b.checked_mul(*to.get(j)?)?;
                j += 1;
            }
        }
        out.push((start_i..i, start_j..j));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_grid_is_sorted_by_its_new_axes() {
        let g = Grid { axes: vec![1, 2], dims: vec![2, 3], atoms: vec![0, 1, 2, 3, 4, 5] };
        let t = g.moved(|a| Some(3 - a)).unwrap();
        assert_eq!(t, Grid { axes: vec![1, 2], dims: vec![3, 2], atoms: vec![0, 3, 1, 4, 2, 5] });
        assert_eq!(g.moved(|_| Some(1)), None);
    }

    #[test]
    fn axes_along_which_nothing_changes_are_dropped() {
        let g = Grid { axes: vec![1, 2], dims: vec![2, 3], atoms: vec![7, 7, 7, 9, 9, 9] };
        assert_eq!(g.simple(), Grid::line(1, vec![7, 9]));
        let g = Grid { axes: vec![1, 2], dims: vec![2, 2], atoms: vec![7, 8, 7, 8] };
        assert_eq!(g.simple(), Grid::line(2, vec![7, 8]));
    }

    #[test]
    fn a_reshape_is_split_where_the_products_agree() {
        assert_eq!(blocks(&[1, 197, 768], &[1, 197, 12, 64]), Some(vec![(0..1, 0..1), (1..2, 1..2), (2..3, 2..4)]));
        assert_eq!(blocks(&[2, 64, 7, 7], &[2, 3136]), Some(vec![(0..1, 0..1), (1..4, 1..2)]));
        assert_eq!(blocks(&[2, 3], &[4, 2]), None);
        assert_eq!(blocks(&[1, 8, 1, 1], &[1, 8]), Some(vec![(0..1, 0..1), (1..2, 1..2), (2..3, 2..2), (3..4, 2..2)]));
    }

    #[test]
    fn atoms_are_told_with_their_index_along_an_axis() {
        let g = Grid { axes: vec![0, 1], dims: vec![2, 3], atoms: vec![0, 1, 2, 3, 4, 5] };
        assert_eq!(g.along(1).collect::<Vec<_>>(), [(0, 0), (1, 1), (2, 2), (0, 3), (1, 4), (2, 5)]);
        assert_eq!((g.edge(0), g.edge(1)), (vec![0, 3], vec![0, 1, 2]));
    }
}
