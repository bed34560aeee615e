//! Which nodes a fused operator's name speaks of.
//!
//! The compiler joins the names of what it fuses, with or without a sign between them, and adds words of its own:
//! `Div_331Mul_333`, `PartitionedCall_Conv_112_Conv2D_32`, `res2a_branch2cres2a_branch2c_dequant_layer`,
//! `pool1res2a_branch1_0_quant_layer` (pool1 alone: the input of res2a_branch1 is quantized in it).

use std::collections::{HashMap, HashSet};

use crate::device::kernel::Kernel;

/// Words that the compiler adds; another name may follow without a sign between.
const ADDED: [&str; 7] = ["quant_layer", "AscendQuant", "AscendDequant", "AscendRequant", "AscendAntiQuant", "quant", "lxslice"];

/// Node names, and whose they are.
pub(super) struct Names<'k> {
    owner: HashMap<&'k str, usize>,
    /// Lengths of names in bytes, each once.
    lengths: Vec<usize>,
    /// First parts of paths, as `resnet/`.
    roots: HashSet<&'k str>,
}

/// Kernels that a name speaks of.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// A node's name stands in it, set apart from what surrounds it.
    pub(super) kernels: Vec<usize>,
    /// As `kernels`, only less surely: with a number behind it or a path before it. Given if `kernels` is empty.
    pub(super) loose: Vec<usize>,
    /// The input of a node in these is quantized here. Given if `kernels` is empty.
    pub(super) quantized: Vec<usize>,
}

/// How a fragment is set apart from what stands on one side of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Clean,
    Loose,
    /// Letters meet: only right if the neighbour is a name too.
    Joined,
}

/// A node's name within a row's.
struct Fragment {
    from: usize,
    to: usize,
    kernel: usize,
    edge: Edge,
    /// Too short, or all digits: believed only if nothing else is left of the row's name.
    is_weak: bool,
    is_quantization: bool,
}

impl<'k> Names<'k> {
    /// Names of all kernels' nodes; a name that two kernels bear tells nothing.
    pub(super) fn new(kernels: &'k [Kernel]) -> Self {
        let mut owners: HashMap<&str, Vec<usize>> = HashMap::new();
        for (k, kernel) in kernels.iter().enumerate() {
            for name in kernel.nodes.iter().filter(|n| !n.is_empty()) {
                let list = owners.entry(name).or_default();
                if list.last() != Some(&k) {
                    list.push(k);
                }
            }
        }
        let owner: HashMap<&str, usize> =
            owners.into_iter().filter(|(_, list)| list.len() == 1).map(|(name, list)| (name, list[0])).collect();
        let mut lengths: Vec<usize> = owner.keys().map(|n| n.len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let roots = owner.keys().filter_map(|n| n.find('/').filter(|&at| at > 0).map(|at| &n[..=at])).collect();
        Self { owner, lengths, roots }
    }

    /// Kernels that the row's name speaks of, in order.
    pub(super) fn find(&self, row: &str) -> Found {
        if let Some(&kernel) = self.owner.get(row) {
            return Found { kernels: vec![kernel], ..Found::default() };
        }
        let all = self.fragments(row);
        let whole = cover(row, all.iter().filter(|f| f.edge == Edge::Clean));
        let is_whole =
            row.bytes().enumerate().all(|(at, b)| b"_/.:;,+-| ".contains(&b) || whole.iter().any(|f| (f.from..f.to).contains(&at)));
        let strict = if is_whole { whole } else { cover(row, all.iter().filter(|f| f.edge == Edge::Clean && !f.is_weak)) };
        let (quantized, kernels) = split(&strict);
        if !kernels.is_empty() {
            return Found { kernels, ..Found::default() };
        }
        let (_, loose) = split(&cover(row, all.iter().filter(|f| f.edge != Edge::Joined && !f.is_weak)));
        Found { kernels, loose, quantized }
    }

    /// All names that stand in the row's, those that are a piece of another word left out.
    fn fragments(&self, row: &str) -> Vec<Fragment> {
        let mut found: Vec<(Fragment, [Edge; 2])> = Vec::new();
        for from in 0..row.len() {
            for &length in &self.lengths {
                let to = from + length;
                let Some((name, &kernel)) = row.get(from..to).and_then(|name| self.owner.get_key_value(name)) else { continue };
                let (Some(left), Some(right)) = (left_edge(&row[..from], name), self.right_edge(name, &row[to..])) else { continue };
                let is_weak = length < 3 || !name.bytes().any(|b| b.is_ascii_alphabetic());
                let is_quantization = quantizes(&row[to..]);
                found.push((Fragment { from, to, kernel, edge: Edge::Clean, is_weak, is_quantization }, [left, right]));
            }
        }
        let begins: HashSet<usize> = found.iter().map(|(f, _)| f.from).collect();
        let ends: HashSet<usize> = found.iter().map(|(f, _)| f.to).collect();
        let healed = |edge: Edge, is_met: bool| if edge == Edge::Joined && is_met { Edge::Clean } else { edge };
        found
            .into_iter()
            .map(|(f, [left, right])| {
                let edge = healed(left, ends.contains(&f.from)).max(healed(right, begins.contains(&f.to)));
                Fragment { edge, ..f }
            })
            .collect()
    }

    /// How `name` is set apart from what follows; none if it is a piece of a longer word.
    fn right_edge(&self, name: &str, after: &str) -> Option<Edge> {
        let (last, next) = (name.bytes().next_back()?, after.bytes().next());
        match next {
            None => Some(Edge::Clean),
            Some(b'_') if quantizes(after) => Some(Edge::Clean),
            Some(b'_') if after[1..].starts_with(|c: char| c.is_ascii_digit()) => Some(Edge::Loose),
            Some(b) if b.is_ascii_digit() && last.is_ascii_alphanumeric() => None,
            Some(b) if is_letter(b) && is_letter(last) => {
                let is_path = self.roots.iter().any(|root| after.starts_with(root));
                Some(if is_path { Edge::Clean } else { Edge::Joined })
            }
            Some(_) => Some(Edge::Clean),
        }
    }
}

/// How `name` is set apart from what precedes it; none if it is a piece of a longer word.
fn left_edge(before: &str, name: &str) -> Option<Edge> {
    let (last, first) = (before.bytes().next_back(), name.bytes().next()?);
    match last {
        None => Some(Edge::Clean),
        Some(b'/') if first != b'/' => Some(Edge::Loose),
        Some(b) if first.is_ascii_digit() && b.is_ascii_digit() => None,
        Some(b) if is_letter(b) && (is_letter(first) || first.is_ascii_digit()) => {
            let is_apart = name.contains('/') || ADDED.iter().any(|word| before.ends_with(word));
            Some(if is_apart { Edge::Clean } else { Edge::Joined })
        }
        Some(_) => Some(Edge::Clean),
    }
}

/// Whether what follows a name says that its input is quantized: `_quant_layer`, `_0_quant_layer`, `.quant`, `/act_quant`.
fn quantizes(after: &str) -> bool {
    let sign = |c: char| "_./".contains(c);
    let Some(word) = after.strip_prefix(sign) else { return false };
    let word = word.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches(sign);
    let word = word.strip_prefix("act_").unwrap_or(word);
    ["quant", "Quant", "fakequant", "AscendQuant"].iter().any(|q| word.starts_with(q))
}

fn is_letter(b: u8) -> bool {
    b.is_ascii_alphabetic() || !b.is_ascii()
}

/// The fragments that together cover the most of the name without overlapping, the fewest of them if there are several ways.
fn cover<'f>(row: &str, fragments: impl Iterator<Item = &'f Fragment>) -> Vec<&'f Fragment> {
    let mut at: HashMap<usize, Vec<&Fragment>> = HashMap::new();
    for fragment in fragments {
        at.entry(fragment.from).or_default().push(fragment);
    }
    // best[i]: bytes covered from i on, fragments used (fewer is better), and the fragment that starts at i, if one does.
    let mut best: Vec<(usize, usize, Option<&Fragment>)> = vec![(0, 0, None); row.len() + 1];
    for i in (0..row.len()).rev() {
        best[i] = (best[i + 1].0, best[i + 1].1, None);
        for &f in at.get(&i).map_or(&[][..], Vec::as_slice) {
            let (bytes, count) = (best[f.to].0 + f.to - f.from, best[f.to].1 + 1);
            if bytes > best[i].0 || bytes == best[i].0 && count < best[i].1 {
                best[i] = (bytes, count, Some(f));
            }
        }
    }
    let (mut chosen, mut i) = (Vec::new(), 0);
    while i < row.len() {
        i = match best[i].2 {
            Some(f) => {
                chosen.push(f);
                f.to
            }
            None => i + 1,
        };
    }
    chosen
}

/// Kernels whose input is quantized, and the others, each once and in order.
fn split(fragments: &[&Fragment]) -> (Vec<usize>, Vec<usize>) {
    let of = |is_quantization: bool| {
        let mut list: Vec<usize> = fragments.iter().filter(|f| f.is_quantization == is_quantization).map(|f| f.kernel).collect();
        list.sort_unstable();
        list.dedup();
        list
    };
    (of(true), of(false))
}

#[cfg(test)]
mod tests {
    use super::super::tests::kernel;
    use super::*;

    /// What `row` speaks of among kernels of one node each: names, then `?` and what is loose, then `q` and what is quantized.
    fn said(row: &str, nodes: &[&str]) -> String {
        let kernels: Vec<Kernel> = nodes.iter().map(|n| kernel(n)).collect();
        let found = Names::new(&kernels).find(row);
        let list = |sign: &str, of: &[usize]| of.iter().map(|&k| format!("{sign}{}", nodes[k])).collect::<Vec<_>>();
        [list("", &found.kernels), list("?", &found.loose), list("q:", &found.quantized)].concat().join(" ")
    }

    #[test]
    fn names_joined_with_and_without_a_sign_are_found() {
        let nodes = ["Conv_0", "Relu_1", "Conv_12"];
        for row in ["Conv_0Relu_1", "Conv_0_Relu_1", "Conv_0;Relu_1", "PartitionedCall_Conv_0_Conv2D_32Relu_1", "Relu_1_Conv_0"] {
            assert_eq!(said(row, &nodes), "Conv_0 Relu_1", "{row}");
        }
        let paths = ["/layer1/conv1/Conv", "/layer1/relu/Relu", "/layer1/relu/Relu_1"];
        assert_eq!(said("/layer1/conv1/Conv_/layer1/relu/Relu", &paths), "/layer1/conv1/Conv /layer1/relu/Relu");
        assert_eq!(said("/layer1/conv1/Conv/layer1/relu/Relu_1", &paths), "/layer1/conv1/Conv /layer1/relu/Relu_1");
    }

    #[test]
    fn a_name_within_another_word_is_not_found() {
        for row in ["Conv_12", "Conv_01", "XConv_0", "Conv_10", "trans_TransData_12", "Conv2D_5"] {
            assert_eq!(said(row, &["Conv_1", "Conv_0", "Conv", "Data"]).replace("?Conv", ""), "", "{row}");
        }
    }

    #[test]
    fn what_quantizes_the_next_layers_input_does_not_belong_to_that_layer() {
        let nodes = ["pool1", "res2a_branch1", "res2a_branch2a", "res2a_branch2b"];
        assert_eq!(said("pool1res2a_branch1_0_quant_layer", &nodes), "pool1");
        assert_eq!(said("res2a_branch2ares2a_branch2a_dequant_layerres2a_branch2b_0_quant_layer", &nodes), "res2a_branch2a");
        assert_eq!(said("res2a_branch1_0_quant_layer", &nodes), "q:res2a_branch1");
        assert_eq!(said("PartitionedCall_/layer1/conv1/Conv_quant_layer", &["/layer1/conv1/Conv"]), "q:/layer1/conv1/Conv");
        assert_eq!(said("Conv_0_requant", &["Conv_0"]), "Conv_0");
    }

    #[test]
    fn paths_joined_letter_to_letter_are_found() {
        let nodes = ["net/b1/conv1/Conv2D", "net/b1/add", "net/b1/Relu"];
        let row = "net/b1/conv1/Conv2Dnet/b1/conv1/dequant/AscendDequantnet/b1/addnet/b1/Relunet/b2/act_quant/AscendQuant";
        assert_eq!(said(row, &nodes), nodes.join(" "));
    }

    #[test]
    fn a_number_behind_a_name_or_a_path_before_it_makes_it_loose() {
        assert_eq!(said("Add_1", &["Add"]), "?Add");
        assert_eq!(said("main/Add", &["Add"]), "?Add");
        assert_eq!(said("Add_1Relu_2", &["Add", "Relu_2"]), "Relu_2");
    }

    #[test]
    fn short_names_and_numbers_count_only_if_nothing_else_is_left() {
        assert_eq!(said("a_b", &["a", "b"]), "a b");
        assert_eq!(said("Conv_12", &["12"]), "");
        assert_eq!(said("12", &["12"]), "12");
    }

    #[test]
    fn a_name_of_two_kernels_tells_nothing() {
        assert_eq!(said("Conv_0Relu_1", &["Conv_0", "Conv_0", "Relu_1"]), "Relu_1");
    }
}
