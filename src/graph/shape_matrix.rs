//! Output shapes of matrix products: Gemm, MatMul, Einsum.

use super::{
    fold::broadcast,
    model::{int_attribute, string_attribute},
    proto::NodeProto,
    shape::Known,
    shape_rule::Dims,
};

pub(super) fn gemm(node: &NodeProto, a: &[usize], b: &[usize]) -> Option<Dims> {
    let (&[r, c], &[s, t]) = (a, b) else { return None };
    let (rows, inner) = if int_attribute(node, "transA", 0) != 0 { (c, r) } else { (r, c) };
    let (depth, columns) = if int_attribute(node, "transB", 0) != 0 { (t, s) } else { (s, t) };
    (inner == depth).then(|| vec![rows, columns])
}

pub(super) fn matmul(a: &[usize], b: &[usize]) -> Option<Dims> {
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

/// Einstein summation; an ellipsis stands for the leading dimensions, broadcast over the operands.
pub(super) fn einsum(node: &NodeProto, known: &Known) -> Option<Dims> {
    let equation: Vec<char> = string_attribute(node, "equation", "").replace("...", ".").chars().filter(|c| *c != ' ').collect();
    let arrow = equation.windows(2).position(|w| w == ['-', '>']);
    let terms: Vec<&[char]> = equation[..arrow.unwrap_or(equation.len())].split(|&c| c == ',').collect();
    if terms.len() != node.input.len() || terms.iter().any(|t| t.len() > 64) {
        return None;
    }
    let mut size: Vec<(char, usize)> = vec![];
    let mut lead: Dims = vec![];
    for (slot, term) in terms.iter().enumerate() {
        let x = known.dims(node, slot)?;
        let dots = term.iter().position(|&c| c == '.');
        let letters = term.len() - usize::from(dots.is_some());
        let hidden = x.len().checked_sub(letters)?;
        if dots.is_none() && hidden > 0 {
            return None;
        }
        let mut at = 0;
        for &letter in *term {
            if letter == '.' {
                lead = broadcast(&[&lead, x.get(at..at + hidden)?])?;
                at += hidden;
                continue;
            }
            let d = *x.get(at)?;
            at += 1;
            match size.iter_mut().find(|(l, _)| *l == letter) {
                Some((_, s)) if *s == 1 => *s = d,
                Some((_, s)) if *s != d && d != 1 => return None,
                Some(_) => {}
                None => size.push((letter, d)),
            }
        }
    }
    let out: Vec<char> = match arrow {
        Some(at) => equation[at + 2..].to_vec(),
        None => {
            let all = || terms.iter().flat_map(|t| t.iter());
            let mut once: Vec<char> = size.iter().map(|s| s.0).filter(|l| all().filter(|c| *c == l).count() == 1).collect();
            once.sort_unstable();
            all().any(|&c| c == '.').then_some('.').into_iter().chain(once).collect()
        }
    };
    let mut dims = vec![];
    for letter in out {
        match letter {
            '.' => dims.extend_from_slice(&lead),
            _ => dims.push(size.iter().find(|(l, _)| *l == letter)?.1),
        }
    }
    Some(dims)
}

#[cfg(test)]
mod tests {
    use crate::graph::shape_case::{Found, case, is};

    fn einsum(equation: &str, operands: &[&[usize]]) -> Found {
        operands.iter().fold(case("Einsum"), |c, dims| c.of(dims)).string("equation", equation).shape()
    }

    #[test]
    fn letters_of_an_einstein_sum_name_the_sizes() {
        assert_eq!(einsum("bhqd, bhkd -> bhqk", &[&[2, 3, 4, 5], &[2, 3, 6, 5]]), is(&[2, 3, 4, 6]));
        assert_eq!(einsum("ij,jk", &[&[2, 3], &[3, 4]]), is(&[2, 4]));
        assert_eq!(einsum("i,i", &[&[5], &[5]]), is(&[]));
        assert_eq!(einsum("ii->i", &[&[4, 4]]), is(&[4]));
    }

    #[test]
    fn an_ellipsis_stands_for_the_leading_dimensions() {
        assert_eq!(einsum("...ij,...jk->...ik", &[&[7, 1, 2, 3], &[5, 3, 4]]), is(&[7, 5, 2, 4]));
        assert_eq!(einsum("...ii->...i", &[&[3, 5, 5]]), is(&[3, 5]));
    }

    #[test]
    fn sums_and_products_that_do_not_fit_have_no_shape() {
        assert_eq!(einsum("ij,jk->ik", &[&[2, 3], &[4, 5]]), None);
        assert_eq!(einsum("ij->x", &[&[2, 3]]), None);
        assert_eq!(einsum("ij", &[&[2]]), None);
        assert_eq!(case("Gemm").of(&[2, 3]).of(&[4, 5]).shape(), None);
    }

    #[test]
    fn a_quantized_product_is_a_product() {
        assert_eq!(case("QLinearMatMul").of(&[2, 2, 4]).of(&[]).of(&[]).of(&[2, 4, 3]).shape(), is(&[2, 2, 3]));
    }
}
