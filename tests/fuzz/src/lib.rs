//! What must hold whatever comes in? One module per input that others choose, each with one property: `check` takes any
//! bytes and panics where the property does not hold. libFuzzer drives them (`tests/fuzz/run`); the seeds in `seeds/` are
//! run as a plain test, so that the properties stay true and alive everywhere.

#![expect(
    clippy::expect_used,
    reason = "a property that does not hold panics: that is what the fuzzer looks for"
)]

pub mod condition;
pub mod jwks;
pub mod path;
pub mod policy;
mod sidecar;
pub mod token;

#[cfg(test)]
mod tests;
