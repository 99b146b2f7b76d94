//! The two doors, used by every protocol and knowing none: what a caller shows is verified, what we show is attached.

pub mod active;
pub mod attach;
mod client_auth;
pub mod credentials;
pub(crate) mod discovery;
pub mod enforce;
mod failure;
mod grant;
mod http_date;
mod issuer_metrics;
pub mod issuers;
mod json;
mod jwks;
mod jwt;
mod keeper;
mod lifetime;
mod secret;
mod slot;
mod token_endpoint;
mod token_metrics;
mod token_source;
pub mod tokens;
mod verdicts;
pub mod verify;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod token_server;
