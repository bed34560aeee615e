//! The option table.

use crate::network::Options;

/// todo
pub fn table(options: &Options) {
    let _ = options;
}
