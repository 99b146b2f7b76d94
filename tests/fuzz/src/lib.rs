//! What must hold whatever comes in? One module per input that others choose, each with one property: `check` takes any
//! bytes and panics where the property does not hold. libFuzzer drives them (`tests/fuzz/run`); the seeds in `seeds/` are
//! run as a plain test, so that the properties stay true and alive everywhere.

#![expect(
    clippy::expect_used,
    reason = "a property that does not hold panics: that is what the fuzzer looks for"
)]

/// A whole connection takes a clock that can be moved, which no program has that is shipped.
#[cfg(any(test, feature = "libfuzzer"))]
pub mod attacks;
pub mod condition;
#[cfg(any(test, feature = "libfuzzer"))]
mod frames;
#[cfg(any(test, feature = "libfuzzer"))]
pub mod http1;
#[cfg(any(test, feature = "libfuzzer"))]
pub mod http2;
pub mod jwks;
pub mod path;
pub mod policy;
#[cfg(any(test, feature = "libfuzzer"))]
mod road;
mod sidecar;
/// The parser of the integration tests' strict upstream.
#[cfg(any(test, feature = "libfuzzer"))]
#[expect(clippy::indexing_slicing, reason = "an input that is read wrongly fails")]
#[path = "../../integration/support/strict.rs"]
mod strict;
pub mod token;

#[cfg(test)]
mod tests;
