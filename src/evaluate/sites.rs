//! The cost of a plan by site: a layer, what stands before it to bring its input into its format, and what stands behind it up to the next.

use crate::{
    compress::Outline,
    device::{KernelTime, Prediction, Profile, kernel::Op},
    trial::Part,
};

/// Latency (ms) and bytes by layer of the float network, then of what is in front of all layers and of the inference itself. The sums are the plan's
/// cost.
pub fn by_site(outline: &Outline, prediction: &Prediction, profile: &Profile) -> Vec<Part> {
    let parts = &outline.structured.parts;
    let of_part = |name: &str| parts.iter().position(|names| names.iter().any(|n| n == name));
    let rest = parts.len();
    let mut sites = vec![[0.0; 2]; rest + 1];
    sites[rest][0] += prediction.fixed_us / 1e3;
    let (mut last, mut waiting) = (rest, 0.0);
    let site_of = |kernel: &KernelTime| kernel.layer.as_deref().and_then(of_part);
    for kernel in &prediction.kernels {
        let ms = kernel.us / 1e3;
        match site_of(kernel) {
            Some(site) => {
                sites[site][0] += ms + std::mem::take(&mut waiting);
                last = site;
            }
            None if kernel.op == Op::Quantize => waiting += ms,
            None => sites[last][0] += ms,
        }
    }
    sites[last][0] += waiting;
    for (node, bytes) in outline.bytes_by_node(profile) {
        sites[of_part(node).unwrap_or(rest)][1] += bytes as f64;
    }
    sites
}
