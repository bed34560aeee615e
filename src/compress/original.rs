//! The user's network as it came, and a network without its weights.

use prost::bytes::Bytes;

use crate::{
    error::Result,
    graph::{Model, model, proto::tensor_proto::DataLocation, tensor},
};

/// The user's network as it came.
#[derive(Debug)]
pub struct Original {
    /// The file.
    pub file: Bytes,
    pub(super) model: Model,
}

impl Original {
    /// The network in one piece: the file, or what stands for it where its weights lie in other files.
    ///
    /// # Errors
    /// If they cannot be read or are too large for one piece.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        if self.model.has_external_data() { self.model.to_bytes() } else { Ok(self.file.to_vec()) }
    }

    /// Bytes of the file and of the data that lies in other files.
    pub fn bytes(&self) -> u64 {
        let outside = model::tensors(self.model.graph()).filter(|t| t.data_location() == DataLocation::External);
        self.file.len() as u64 + outside.map(tensor::size_in_bytes).sum::<u64>()
    }

    /// Parts of the network that lie in other files, in order.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn external_data(&self) -> impl Iterator<Item = Result<Bytes>> {
        let outside = model::tensors(self.model.graph()).filter(|t| t.data_location() == DataLocation::External);
        outside.map(|t| Ok(tensor::content(t)?.unwrap_or_default()))
    }
}

/// A model whose float weights have dimensions but no data.
pub(super) fn skeleton(model: &Model) -> Model {
    let mut bare = Model { name: model.name.clone(), proto: model.proto.clone() };
    for t in &mut bare.graph_mut().initializer {
        if tensor::is_float(t) && tensor::elements(t).is_ok_and(|n| n > 1) {
            let kind = t.data_type;
            *t = tensor::without_data(&t.name.clone().unwrap_or_default(), &tensor::dims(t));
            t.data_type = kind;
        }
    }
    bare
}
