//! A node of the network and what a rule needs to know of it.

use crate::{
    error::{Error, Result},
    graph::{
        Index,
        model::{attribute, float_attribute, int_attribute, ints_attribute, string_attribute},
        proto::NodeProto,
        shape::Shapes,
    },
};

/// A node whose inputs' gradients are to be computed.
pub struct Site<'a> {
    /// The node.
    pub node: &'a NodeProto,
    /// Shapes of all values of the network.
    pub shapes: &'a Shapes,
    /// Constants of the network.
    pub index: &'a Index<'a>,
    /// Version of the default operator set.
    pub opset: i64,
    /// Of which inputs the gradient is needed.
    pub needs: Vec<bool>,
    /// Place of the node.
    pub at: usize,
}

impl Site<'_> {
    /// Name of an input; empty if it was left out.
    pub fn input(&self, slot: usize) -> &str {
        self.node.input.get(slot).map_or("", String::as_str)
    }

    /// Name of an output.
    pub fn output(&self, slot: usize) -> &str {
        self.node.output.get(slot).map_or("", String::as_str)
    }

    /// Whether the gradient of an input is needed.
    pub fn needs(&self, slot: usize) -> bool {
        self.needs.get(slot).copied().unwrap_or(false)
    }

    /// Dimensions of an input.
    ///
    /// # Errors
    /// If they are not known.
    pub fn dims(&self, slot: usize) -> Result<&[usize]> {
        self.shape(self.input(slot))
    }

    /// Dimensions of an output.
    ///
    /// # Errors
    /// If they are not known.
    pub fn out_dims(&self, slot: usize) -> Result<&[usize]> {
        self.shape(self.output(slot))
    }

    fn shape(&self, value: &str) -> Result<&[usize]> {
        self.shapes.dims(value).ok_or_else(|| self.refuse(format!("the shape of {value} is not known")))
    }

    /// An attribute's integer.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        int_attribute(self.node, name, default)
    }

    /// An attribute's integers.
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        ints_attribute(self.node, name)
    }

    /// An attribute's float.
    pub fn float(&self, name: &str, default: f32) -> f32 {
        float_attribute(self.node, name, default)
    }

    /// An attribute's text.
    pub fn text(&self, name: &str, default: &str) -> String {
        string_attribute(self.node, name, default)
    }

    /// Whether the node has an attribute.
    pub fn has(&self, name: &str) -> bool {
        attribute(self.node, name).is_some()
    }

    /// An axis counted from the front.
    pub fn axis(&self, axis: i64, rank: usize) -> usize {
        usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).unwrap_or(0).min(rank)
    }

    /// Integers of a constant input, or of the attribute that stood for it in older operator sets.
    pub fn list(&self, slot: usize, name: &str) -> Option<Vec<i64>> {
        let constant = Some(self.input(slot)).filter(|n| !n.is_empty()).and_then(|n| self.index.ints(n));
        constant.or_else(|| self.ints(name))
    }

    /// The same, where an input that is computed is an error.
    ///
    /// # Errors
    /// If the input is there and no constant.
    pub fn settled(&self, slot: usize, name: &str) -> Result<Option<Vec<i64>>> {
        let list = self.list(slot, name);
        if list.is_none() && !self.input(slot).is_empty() {
            return Err(self.refuse(format!("its {name} are computed")));
        }
        Ok(list)
    }

    /// A float of a constant input, or of the attribute that stood for it in older operator sets.
    pub fn limit(&self, slot: usize, name: &str) -> Option<f32> {
        let constant = Some(self.input(slot)).filter(|n| !n.is_empty()).and_then(|n| self.index.floats(n));
        constant.and_then(|a| a.first().copied()).or_else(|| attribute(self.node, name).map(|a| a.f()))
    }

    /// An error of this node.
    pub fn refuse(&self, reason: String) -> Error {
        let message = format!("{} cannot be differentiated: {reason}", self.node.op_type());
        Error::layer(self.node.name(), message, "export the model with fixed shapes besides the batch, and with opset 13 to 21")
    }
}
