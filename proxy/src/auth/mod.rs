//! The two doors, used by every protocol and knowing none: what a caller shows is verified, what we show is attached.

pub mod issuers;
pub mod tokens;
pub mod verify;

mod client_auth;
mod failure;
mod grant;
mod http_date;
mod lifetime;
mod secret;
mod slot;
mod token_metrics;
mod token_source;

#[cfg(test)]
mod token_server;
