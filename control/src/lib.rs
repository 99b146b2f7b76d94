//! The control plane of Countersign.

pub mod issuer;
