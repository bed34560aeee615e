//! Gulliver tunes the compression of trained ONNX networks for Huawei Ascend NPUs: bit widths, channel sparsity and
//! decomposition ranks in one search, accuracy measured through ONNX Runtime, latency predicted from a chip profile.
//!
//! The library is the tool; the binary only parses arguments and shows events. Modules import one way, in this order
//! (`tests/layers.rs` holds it): `error`, `precision`, `spec`, `graph`, `device`, `data`, `runtime`, `space`, `trial`,
//! `front`, `compress`, `evaluate`, `search`, `study`, `report`, `export`, `cli`.

pub mod error;
pub mod graph;
pub mod precision;
pub mod space;
pub mod study;
pub mod trial;

pub use error::{Error, Result};
