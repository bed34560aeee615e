//! Rows paired with kernels.

use super::{
    family::{Family, appears_as, family, has_size_of},
    names::Names,
    table::Row,
};
use crate::device::kernel::{Kernel, Op};

/// Rows times kernels between two neighbours beyond which place is no evidence.
const MOST: usize = 1 << 22;

/// What a pair rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// Node names in the rows' names.
    Name,
    /// Kind, shapes, and the place between neighbours, where they leave one way alone.
    Place,
}

/// Rows that did the work of kernels. More than one kernel: the compiler fused what we keep apart. More than one row: it kept
/// apart what we fuse, or added an operator.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Pair {
    /// Indices of kernels, rising.
    pub kernels: Vec<usize>,
    /// Indices of rows, rising.
    pub rows: Vec<usize>,
    /// Sum of the rows' durations, µs.
    pub us: f64,
    /// What it rests on.
    pub evidence: Evidence,
}

/// Kernels and rows, each in one pair or in none.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct Matching {
    /// Pairs, by their first kernels.
    pub pairs: Vec<Pair>,
    /// Indices of rows of no kernel.
    pub unmatched_rows: Vec<usize>,
    /// Indices of kernels without a row.
    pub unmatched_kernels: Vec<usize>,
}

/// Pairs the rows of one inference with its kernels. Where two pairings are as good, neither is made.
pub fn match_rows(kernels: &[Kernel], rows: &[Row]) -> Matching {
    let mut links = Links::new(kernels, rows);
    links.by_name();
    links.by_place();
    links.additions();
    links.matching()
}

/// The matching as it grows.
struct Links<'a> {
    kernels: &'a [Kernel],
    rows: &'a [Row],
    family: Vec<Option<Family>>,
    /// Kernels of each row.
    of: Vec<Vec<usize>>,
    taken: Vec<bool>,
    placed: Vec<bool>,
    /// Rows that change a tensor's form for a kernel that their names give, and that kernel.
    serving: Vec<(usize, usize)>,
}

impl<'a> Links<'a> {
    fn new(kernels: &'a [Kernel], rows: &'a [Row]) -> Self {
        Self {
            kernels,
            rows,
            family: rows.iter().map(family).collect(),
            of: vec![Vec::new(); rows.len()],
            taken: vec![false; kernels.len()],
            placed: vec![false; rows.len()],
            serving: Vec::new(),
        }
    }

    fn link(&mut self, row: usize, kernels: Vec<usize>) {
        for &k in &kernels {
            self.taken[k] = true;
        }
        self.of[row] = kernels;
    }

    fn may_be(&self, row: usize, kernel: usize) -> bool {
        self.family[row].is_none_or(|f| appears_as(self.kernels[kernel].op, f))
    }

    fn by_name(&mut self) {
        let names = Names::new(self.kernels);
        let mut claims: Vec<Vec<usize>> = vec![Vec::new(); self.kernels.len()];
        for row in 0..self.rows.len() {
            let found = names.find(&self.rows[row].name);
            let is_form = matches!(self.family[row], Some(Family::Quantize | Family::Transform));
            let serves = is_form && !found.kernels.iter().any(|&k| self.may_be(row, k));
            match (found.kernels.as_slice(), found.quantized.as_slice(), found.loose.as_slice()) {
                (&[served], ..) | (&[], &[served], _) if serves => self.serving.push((row, served)),
                (&[_, ..], ..) if !serves => self.link(row, found.kernels),
                (&[], &[], &[one]) if self.may_be(row, one) => claims[one].push(row),
                _ => {}
            }
        }
        for (kernel, claim) in claims.iter().enumerate() {
            if let (&[row], false) = (claim.as_slice(), self.taken[kernel]) {
                self.link(row, vec![kernel]);
            }
        }
        for (row, served) in self.serving.clone() {
            let forms = (0..served).rev().take_while(|&k| matches!(self.kernels[k].op, Op::Quantize | Op::Transform));
            let fitting: Vec<usize> =
                forms.filter(|&k| !self.taken[k] && self.may_be(row, k) && has_size_of(&self.rows[row], &self.kernels[k])).collect();
            if let &[one] = fitting.as_slice() {
                self.link(row, vec![one]);
            }
        }
    }

    /// Pairs what lies between the same neighbours.
    fn by_place(&mut self) {
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        if self.rows.iter().all(|r| r.start_us.is_some()) {
            order.sort_by(|&a, &b| self.rows[a].start_us.unwrap_or_default().total_cmp(&self.rows[b].start_us.unwrap_or_default()));
        }
        let spans: Vec<Option<(usize, usize)>> =
            order.iter().map(|&r| self.of[r].iter().min().copied().zip(self.of[r].iter().max().copied())).collect();
        let (mut row_from, mut kernel_from) = (0, 0);
        let ends = backbone(&spans).into_iter().map(|at| (at, spans[at]));
        for (at, span) in ends.chain([(order.len(), None)]) {
            let (first, last) = span.unwrap_or((self.kernels.len(), self.kernels.len()));
            let rows: Vec<usize> = order[row_from..at].iter().copied().filter(|&r| self.of[r].is_empty()).collect();
            let kernels: Vec<usize> = (kernel_from..first).filter(|&k| !self.taken[k]).collect();
            let fits = |r: usize, k: usize| self.family[r].is_some() && self.may_be(r, k) && has_size_of(&self.rows[r], &self.kernels[k]);
            for (row, kernel) in forced(&rows, &kernels, fits) {
                self.link(row, vec![kernel]);
                self.placed[row] = true;
            }
            (row_from, kernel_from) = (at + 1, last + 1);
        }
    }

    /// Gives a change of form that is no kernel of ours to the kernel it is named after.
    fn additions(&mut self) {
        for (row, served) in self.serving.clone() {
            if self.of[row].is_empty() && self.taken[served] {
                self.of[row] = vec![served];
            }
        }
    }

    /// Joins rows that share kernels and kernels that share rows.
    fn matching(self) -> Matching {
        let mut group: Vec<usize> = (0..self.kernels.len()).collect();
        for list in &self.of {
            for &k in list.iter().skip(1) {
                let (a, b) = (root(&group, list[0]), root(&group, k));
                group[a.max(b)] = a.min(b);
            }
        }
        let mut pairs: Vec<Pair> = Vec::new();
        let mut pair_of: Vec<Option<usize>> = vec![None; self.kernels.len()];
        for k in (0..self.kernels.len()).filter(|&k| self.taken[k]) {
            let first = root(&group, k);
            let at = *pair_of[first].get_or_insert_with(|| {
                pairs.push(Pair { kernels: Vec::new(), rows: Vec::new(), us: 0.0, evidence: Evidence::Name });
                pairs.len() - 1
            });
            pairs[at].kernels.push(k);
        }
        let mut unmatched_rows = Vec::new();
        for (row, list) in self.of.iter().enumerate() {
            let Some(at) = list.first().and_then(|&k| pair_of[root(&group, k)]) else {
                unmatched_rows.push(row);
                continue;
            };
            pairs[at].rows.push(row);
            pairs[at].us += self.rows[row].duration_us;
            if self.placed[row] {
                pairs[at].evidence = Evidence::Place;
            }
        }
        let unmatched_kernels = (0..self.kernels.len()).filter(|&k| !self.taken[k]).collect();
        Matching { pairs, unmatched_rows, unmatched_kernels }
    }
}

fn root(group: &[usize], mut k: usize) -> usize {
    while group[k] != k {
        k = group[k];
    }
    k
}

/// The longest chain of spans, each wholly behind the one before.
fn backbone(spans: &[Option<(usize, usize)>]) -> Vec<usize> {
    // ends[l]: the span with the least end that a chain of l + 1 can end with.
    let mut ends: Vec<(usize, usize)> = Vec::new();
    let mut before: Vec<Option<usize>> = vec![None; spans.len()];
    for (at, span) in spans.iter().enumerate() {
        let Some((first, last)) = *span else { continue };
        let length = ends.partition_point(|&(end, _)| end < first);
        before[at] = length.checked_sub(1).map(|l| ends[l].1);
        match ends.get_mut(length) {
            Some(end) if last < end.0 => *end = (last, at),
            Some(_) => {}
            None => ends.push((last, at)),
        }
    }
    let mut chain: Vec<usize> = std::iter::successors(ends.last().map(|&(_, at)| at), |&at| before[at]).collect();
    chain.reverse();
    chain
}

/// Pairs that every longest alignment of the two lists contains, both kept in order.
fn forced(rows: &[usize], kernels: &[usize], fits: impl Fn(usize, usize) -> bool) -> Vec<(usize, usize)> {
    let (n, m) = (rows.len(), kernels.len());
    if n == 0 || m == 0 || n.saturating_mul(m) > MOST {
        return Vec::new();
    }
    let fit: Vec<Vec<bool>> = rows.iter().map(|&r| kernels.iter().map(|&k| fits(r, k)).collect()).collect();
    let mut ahead = vec![vec![0u32; m + 1]; n + 1];
    let mut behind = ahead.clone();
    for i in 0..n {
        for j in 0..m {
            ahead[i + 1][j + 1] = (ahead[i][j] + u32::from(fit[i][j])).max(ahead[i][j + 1]).max(ahead[i + 1][j]);
        }
    }
    for i in (0..n).rev() {
        for j in (0..m).rev() {
            behind[i][j] = (behind[i + 1][j + 1] + u32::from(fit[i][j])).max(behind[i][j + 1]).max(behind[i + 1][j]);
        }
    }
    // An alignment has one pair of each rank; a pair that is alone in its rank is in all of them.
    let mut ranks: Vec<Vec<(usize, usize)>> = vec![Vec::new(); ahead[n][m] as usize];
    for i in 0..n {
        for j in (0..m).filter(|&j| fit[i][j] && ahead[i][j] + 1 + behind[i + 1][j + 1] == ahead[n][m]) {
            ranks[ahead[i][j] as usize].push((rows[i], kernels[j]));
        }
    }
    ranks.into_iter().filter(|r| r.len() == 1).flatten().collect()
}
