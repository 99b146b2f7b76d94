//! The control plane of Countersign: how policy travels from a folder through `versions` and `api` to the sidecars, and
//! the `issuer` for those who have no authorization server.

pub mod admin;
pub mod api;
pub mod app;
pub mod ca;
pub mod check;
pub mod config;
pub mod explain;
mod fleet;
mod folder;
pub mod issuer;
mod join;
mod junit;
mod metrics;
mod published;
pub mod schema;
mod server;
mod state;
pub mod trial;
mod versions;
mod yaml;
