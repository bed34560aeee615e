//! Output shapes of recurrent operators.

use super::{
    model::int_attribute,
    proto::NodeProto,
    shape::Known,
    shape_rule::{Dims, count},
};

/// Y \[steps, directions, batch, hidden\], Y_h and Y_c \[directions, batch, hidden\]; with layout 1 batch comes first in all.
pub(super) fn recurrent(node: &NodeProto, known: &Known) -> Option<Vec<Dims>> {
    let &[directions, _, hidden] = known.dims(node, 2)? else { return None };
    outputs(node, known, directions, hidden)
}

/// The same for ONNX Runtime's quantized LSTM, whose weights are stored transposed.
pub(super) fn quantized(node: &NodeProto, known: &Known) -> Option<Vec<Dims>> {
    let &[directions, hidden, _] = known.dims(node, 2)? else { return None };
    outputs(node, known, directions, count(node, "hidden_size").unwrap_or(hidden))
}

fn outputs(node: &NodeProto, known: &Known, directions: usize, hidden: usize) -> Option<Vec<Dims>> {
    let &[a, b, _] = known.dims(node, 0)? else { return None };
    let (all, last) = match int_attribute(node, "layout", 0) {
        0 => (vec![a, directions, b, hidden], vec![directions, b, hidden]),
        1 => (vec![a, b, directions, hidden], vec![a, directions, hidden]),
        _ => return None,
    };
    Some(vec![all, last.clone(), last])
}

#[cfg(test)]
mod tests {
    use crate::graph::shape_case::{case, is};

    #[test]
    fn recurrent_layers_give_every_step_and_the_last_in_either_layout() {
        let lstm = |layout: i64| case("LSTM").of(&[5, 3, 8]).of(&[2, 28, 8]).of(&[2, 28, 7]).int("layout", layout).outputs(3);
        assert_eq!(lstm(0), [is(&[5, 2, 3, 7]), is(&[2, 3, 7]), is(&[2, 3, 7])]);
        assert_eq!(lstm(1), [is(&[5, 3, 2, 7]), is(&[5, 2, 7]), is(&[5, 2, 7])]);
        assert_eq!(lstm(2), [None, None, None]);
    }

    #[test]
    fn the_quantized_lstm_reads_its_hidden_size_from_transposed_weights() {
        let lstm = case("DynamicQuantizeLSTM").contrib().of(&[5, 3, 8]).of(&[2, 8, 28]).of(&[2, 7, 28]);
        assert_eq!(lstm.outputs(2), [is(&[5, 2, 3, 7]), is(&[2, 3, 7])]);
    }
}
