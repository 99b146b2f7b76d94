//! The two doors, used by every protocol and knowing none: what a caller shows is verified, what we show is attached.

pub(crate) mod discovery;
mod issuer_metrics;
pub mod issuers;
mod json;
mod jwks;
mod jwt;
mod keeper;
pub mod tokens;
mod verdicts;
pub mod verify;

#[cfg(test)]
mod testing;
