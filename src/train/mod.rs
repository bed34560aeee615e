//! Training: gradients as graphs that ONNX Runtime runs, and what is done with them.
//!
//! * [`differentiate`](mod@differentiate): reverse mode, graph in, graph out.
//! * [`network`]: a network with its parameters apart, and fake quantizers with learned steps; [`loss`]: what is lowered.
//! * [`step`]: loss and gradients of a batch; [`optimise`]: from gradients to parameters; [`augment`]: images changed at random.
//! * [`run`]: epochs, judged by samples held back; [`checkpoint`]: a run on disk; [`recover`](mod@recover): a plan's network trained.

pub mod augment;
pub mod checkpoint;
pub mod differentiate;
pub mod loss;
pub mod network;
pub mod optimise;
pub mod recover;
pub mod run;
pub mod step;
#[cfg(test)]
mod tests;

pub use checkpoint::Checkpoint;
pub use differentiate::{Differentiated, Wanted, differentiate};
pub use loss::{Loss, Outputs};
pub use network::{Network, Parameter, Role};
pub use optimise::Rule;
pub use recover::{Recovered, Task, recover};
pub use run::{Epoch, Lesson, Progress, Settings, Trained, train};
