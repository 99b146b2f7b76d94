//! How is the control plane started? The built `countersign-control`, as an operator would run it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::binary;
use super::process::{Finished, run};

/// `countersign-control check` of these paths.
pub(crate) fn check(paths: &[&Path]) -> Finished {
    run(Command::new(binary("countersign-control")).arg("check").args(paths), Duration::from_secs(20))
}
