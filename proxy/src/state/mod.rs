//! What changes while we run: cells with one writer each, and where their content comes from.

pub mod dir;
pub mod files;
pub mod live;
