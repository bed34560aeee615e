//! ONNX Runtime: the one compute engine, found or fetched, and run.
//!
//! * [`surroundings`]: what the environment variables say; [`telemetry`]: switched off before anything starts.
//! * [`locate`]: the shared library on this machine; [`fetch`]: the library from PyPI, once, by the user's own pip.
//! * [`session`]: models loaded and run; [`port`]: their inputs and outputs as data; `optimise`: ONNX Runtime's basic optimiser.
//! * `operator`: an operator of ours that rounds values to a grid; [`rounding`]: its arithmetic.
//! * `cutoff`, `pooling`, `scatter`, `convolution`, `quantizer`: operators of ours for training; `direct`: convolutions whose weights change; `spread`: work over
//!   threads. Only operators, `session` and
//!   `optimise` call `ort`.
//! * [`doctor`]: what of this works here, as data for `gulliver doctor`.
//!
//! ```no_run
//! # fn main() -> gulliver::Result<()> {
//! use gulliver::runtime::{Runtime, Session, SessionOptions};
//! let runtime = Runtime::start(&mut |notice| tracing::info!("{notice}"))?;
//! let model = std::fs::read("model.onnx").map_err(gulliver::Error::io("read", "model.onnx"))?;
//! let mut session = Session::from_bytes(&runtime, "model.onnx", &model, SessionOptions::default())?;
//! let image = ndarray::ArrayD::<f32>::zeros(vec![1, 3, 32, 32]);
//! let outputs = session.run(&[("input", image.view())])?;
//! # let _ = outputs;
//! # Ok(())
//! # }
//! ```

mod convolution;
mod cutoff;
mod direct;
pub mod doctor;
pub mod fetch;
pub mod locate;
mod operator;
mod optimise;
mod pooling;
pub mod port;
mod quantizer;
pub mod rounding;
mod scatter;
mod scratch;
pub mod session;
mod spread;
pub mod surroundings;
pub mod telemetry;
#[cfg(test)]
mod tests;

pub use doctor::{Check, examine};
pub use locate::{Found, Origin, PassedOver};
pub use operator::{DOMAIN, ROUND};
pub use optimise::{Optimised, optimise_basic};
pub use port::{Element, Port};
pub use rounding::Rounding;
pub use session::{Level, Runtime, Session, SessionOptions};
