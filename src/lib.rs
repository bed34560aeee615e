//! Gulliver tunes the compression of trained ONNX networks for Huawei Ascend NPUs: bit widths, channel sparsity and
//! decomposition ranks in one search, accuracy measured through ONNX Runtime, latency predicted from a chip profile.
//!
//! The library is the tool; the binary only parses arguments and shows events. Modules import one way, in the order
//! they are listed here (`tests/layers.rs` holds it).

pub mod error;
pub mod precision;

pub mod graph;

pub mod data;
pub mod device;
pub mod runtime;

pub mod normalise;

pub mod spec;

pub mod space;

pub mod front;
pub mod trial;

pub mod compress;

pub mod train;

pub mod evaluate;

pub mod search;

pub mod study;

pub mod report;

pub mod cli;

pub use error::{Error, Result};
