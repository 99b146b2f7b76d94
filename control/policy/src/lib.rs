//! What may pass? The policy language of Countersign: documents are parsed, compiled to a [`Snapshot`] and decided, all
//! without I/O, async or a clock, so that the proxy, `check`, `test` and `explain` cannot disagree.
//!
//! ```text
//! files -> Source -> Documents -> Snapshot -> Decision
//!  source::split  parse     compile(workload)  PortPolicy, Policies::decide
//! ```
//!
//! # Semantics
//!
//! Stated here once; everything else refers to these numbers.
//!
//! 1. **A policy stands alone.** Its rules see only a token that its own `tokens` accept, whatever else came with the
//!    request. On a port that several policies select, a deny of any wins, else an allow of any, else the request is
//!    denied. What is shown to the application (`forwardClaims`, `forwardToken`) is what the policy whose rule allowed
//!    says; the header names of all of them are stripped from every request on the port, in any case and with `_` for
//!    `-`, public requests too.
//! 2. **An allow rule says from whom**: `from`, or `public: true`; neither is an error, and so are both. Token words
//!    demand a token. `from: {}` is any caller whose token the policy accepts. With several issuers a rule holds for each
//!    of them, unless it names `issuers`. A public rule names `paths` or `grpc`.
//! 3. **A deny rule** without `from` hits everybody; with `from`, callers who have it; `unless` spares those who have it.
//!    More than one scope in a deny's `from` is an error. What cannot be evaluated (a claim of a shape that does not
//!    compare) matches for a deny and does not for an allow; a claim that is absent is not met, by either.
//! 4. **Within `to`, `from` and `unless`** fields are and-ed, the values of a field or-ed, but of scopes all are demanded.
//!    Nothing is coerced: strings, integers and booleans equal only themselves. A claim that is a list matches where it
//!    holds one of the values. In `claims`, a plain `yes`, `no`, `on` or `off` and a plain number with a leading zero are
//!    errors, since other parsers read them otherwise.
//!    `binding: required` is met by a token that is bound to a certificate or key; that the caller holds it has been
//!    verified by then. In an entry of `tokens` it says that others are not accepted: `binding_mismatch`.
//!    `grpc` in an allow rule needs a request of that content type; in a deny rule the path alone decides, since servers
//!    answer gRPC calls that do not say so.
//! 5. **Order.** (a) Framing, host and path are in order, else 400. (b) A deny rule that needs no token to be judged.
//!    (c) A public rule: the token is not looked at, the caller is anonymous, and the deny rules are judged so: `unless`
//!    spares nobody, a `from` hits nobody. (d) A token that is there must verify and be accepted by a policy on the port;
//!    one that is not there is missing. (e) Deny rules, then allow rules, then 403: `insufficient_scope` where an allow
//!    rule matches in all but its scopes (the first such rule), else `no_rule`.
//! 6. **Audit and shadow.** Where an `enforce` policy selects a port, only those decide, and `audit` policies are decided
//!    apart. A rule with `shadow: true` decides nothing; the request is decided once more as if it were live.
//! 7. **Ports that nobody selects** are not decided here: [`Snapshot::inbound`] is `None`.
//! 8. **Paths** have one canonical form, [`path::CanonicalPath`], which is judged and forwarded; patterns are whole
//!    segments, [`path::PathPattern`]. The query is never matched.
//! 9. **Hosts** are compared in normal form, [`host::normalize`]; `*.` is exactly one label. Of several outbound rules for
//!    a destination the closest wins: exact host before wildcard, then named port before default, then a policy with
//!    `workloads` before one without; two that are equally close are an error. One `audience` or `resource` for several
//!    hosts is an error unless `sameAudience: true` says that it is meant.
//! 10. **`when`** (CEL) is not supported by this version.
//! 11. **Files** that policy names are [`snapshot::FileRef`]s: read by who runs the snapshot, never here.
//! 12. **All or nothing.** [`Documents::parse`] and [`Documents::compile`] take a version as a whole and tell all that is
//!     wrong with it; what it replaces stays until it is right.
//!     Documents of kind `PolicyTest` are no part of it: [`Trials`] reads them, and nobody else.
//! 13. **TLS of a port** is what any policy on it writes, whatever its mode; those that write `tls` write the same, or it
//!     is an error. `clientAuth` needs `clientCaFile`; a `clientCaFile` alone means `required`.

mod assemble;
pub mod bundle;
mod compile;
mod decide;
mod document;
pub mod documents;
mod field;
mod fingerprint;
pub mod host;
pub mod inbound;
pub mod lint;
pub mod outbound;
pub mod path;
mod places;
pub mod problem;
pub mod profile;
pub mod reason;
pub mod request;
mod rule;
pub mod schema;
pub mod snapshot;
pub mod source;
pub mod spiffe;
pub mod trial;
pub mod workload;
pub mod yaml;

pub use bundle::{Acknowledgement, Bundle, Outcome};
pub use documents::Documents;
pub use inbound::{Decision, PortPolicy};
pub use problem::Problem;
pub use profile::Profile;
pub use reason::Reason;
pub use request::{AccessRequest, Principal, Token};
pub use snapshot::Snapshot;
pub use source::Source;
pub use trial::Trials;
pub use workload::Workload;
