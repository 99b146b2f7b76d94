//! The two doors, used by every protocol and knowing none: what a caller shows is verified, what we show is attached.

pub mod active;
pub mod attach;
pub mod credentials;
pub mod enforce;
pub mod explain;
pub mod introspect;
pub mod issuers;
mod shadow;
pub mod tokens;
pub mod verify;

#[cfg(test)]
pub(crate) mod testing;
