//! What changes while we run: cells with one writer each, and where their content comes from.

pub mod backoff;
pub mod certificate;
pub mod control;
pub mod dir;
pub mod files;
pub mod folder;
pub mod live;
pub(crate) mod peer;
mod report;
pub(crate) mod server_tls;
pub mod source;
pub mod watch;
