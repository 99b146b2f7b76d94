//! The sidecar of Countersign. A request travels from [`listen`] through [`http`], asks at the doors of [`auth`] and goes
//! on; [`state`] is what changes meanwhile. ARCHITECTURE.md tells the life of a request.

pub mod admin;
pub mod app;
pub mod auth;
pub mod clock;
pub mod config;
pub mod connect;
pub mod descriptors;
pub mod drain;
pub mod fetch;
pub mod http;
pub mod init;
pub mod limit;
pub mod listen;
pub mod local;
pub mod memory;
pub mod metrics;
pub mod names;
pub mod own;
pub mod record;
pub mod redirected;
pub mod rejection;
pub mod seats;
pub mod socket;
pub mod state;
pub mod tcp;

pub use app::App;
pub use config::Config;
