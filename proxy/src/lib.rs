//! The sidecar of Countersign: how a request travels from `listen` through `http` and `auth` to the workload or its peer.

pub mod auth;
pub mod clock;
pub mod connect;
pub mod fetch;
pub mod metrics;
pub mod state;
