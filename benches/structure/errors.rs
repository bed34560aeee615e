//! Errors of layers' outputs.

use crate::network::Options;

/// todo
pub fn ranks(options: &Options) {
    let _ = options;
}
/// todo
pub fn predicted(options: &Options) {
    let _ = options;
}
