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
//!    (`issuers`, `scopes`, `clients`, `subjects`, `roles`, `claims`, `binding`) demand a token, peer words (`peers`,
//!    `serviceAccounts`) a client certificate that was verified, both both; `sources` demand nothing and let nobody in by
//!    themselves. `from: {}` is any caller whose token the policy accepts, or where it lists no `tokens`, any caller with
//!    a certificate. With several issuers a rule holds for each of them, unless it names `issuers`. A public rule names
//!    `paths` or `grpc`.
//! 3. **A deny rule** without `from` hits everybody; with `from`, callers who have it; `unless` spares those who have it.
//!    More than one scope in a deny's `from` is an error. What cannot be evaluated matches for a deny and does not for an
//!    allow: a claim or header of a shape that does not compare, a raw path where others may split it otherwise, and
//!    `{claims.NAME}` in a path without a token that the policy accepts, or where the claim is absent, empty, no string or
//!    holds `/`. A claim in `claims`, a header or a name in the certificate that is absent is not met, by either.
//! 4. **Within `to`, `from` and `unless`** fields are and-ed, the values of a field or-ed, but of scopes and headers all are
//!    demanded. Nothing is coerced: strings, integers and booleans equal only themselves. A claim that is a list matches
//!    where it holds one of the values. In `claims`, a plain `yes`, `no`, `on` or `off` and a plain number with a leading
//!    zero are errors, since other parsers read them otherwise.
//!    `binding: required` is met by a token that is bound to a certificate or key; that the caller holds it has been
//!    verified by then. In an entry of `tokens` it says that others are not accepted: `binding_mismatch`.
//!    `grpc` in an allow rule needs a request of that content type; in a deny rule the path alone decides, since servers
//!    answer gRPC calls that do not say so.
//!    `peers` compares the one SPIFFE ID of the certificate; a trailing `/*` is all below, not the ID itself.
//!    `serviceAccounts: [ns/sa]` is short for `spiffe://cluster.local/ns/NS/sa/SA`; for another trust domain write
//!    `peers`. `sources` are networks of the direct peer, never of a header; IPv4 in IPv6 counts as IPv4.
//!    `headers` are judged as they are forwarded, names in any case and with `_` for `-`: for an allow there is one, and
//!    every line is one of the values; for a deny one line is, or one item of its list.
//! 5. **Order.** (a) Framing, host and path are in order, else 400. (b) A deny rule that needs no token to be judged: it
//!    has no token word, no `{claims.NAME}` and no `when`. (c) A public rule: the token is not looked at, the caller is anonymous, and
//!    the deny rules are judged so: `unless` with a token word spares nobody, a `from` with one hits nobody. Certificate
//!    and address are what they are. (d) A token that is there must verify and be accepted by a policy on the port,
//!    whatever certificate came with it. One that is not there is missing, unless an allow rule is satisfied without, or
//!    all allow rules for this request (there is one) would be, or no policy on the port accepts any. (e) Deny rules, then
//!    allow rules, then 403: `insufficient_scope` where an allow rule matches in all but its scopes (the first such rule),
//!    else `peer_required` where one does in all but that no certificate was shown, else `no_rule`.
//! 6. **Audit and shadow.** Where an `enforce` policy selects a port, only those decide, and `audit` policies are decided
//!    apart. A rule with `shadow: true` decides nothing; the request is decided once more as if it were live.
//! 7. **Ports that nobody selects** are not decided here: [`Snapshot::inbound`] is `None`.
//! 8. **Paths** have one canonical form, [`path::CanonicalPath`], which is judged and forwarded; patterns are whole
//!    segments, [`path::PathPattern`]. The query is never matched. `%2F`, `%25` and `%3B` are refused ([`PortPolicy::path`])
//!    but in the part below the `*` of an allow rule with `rawPaths: true` that decides; such a path is raw from its
//!    first segment with one on. Only rules with `rawPaths` allow it, and only where their pattern ends before that. A
//!    deny rule hits if what it names of the plain part matches and it goes on into the raw one.
//! 9. **Hosts** are compared in normal form, [`host::normalize`]; `*.` is exactly one label. Of several outbound rules for
//!    a destination the closest wins: exact host before wildcard, then named port before default, then a policy with
//!    `workloads` before one without; two that are equally close are an error. One `audience` or `resource` for several
//!    hosts is an error unless `sameAudience: true` says that it is meant.
//! 10. **`when`** is one expression of CEL, judged after the words, and a boolean. It names `claims`, `request.method`,
//!     `request.path` (canonical, without escapes), `request.host`, `request.headers["name"]` (in
//!     lower case; its whole text, also where that is a list: `to.headers` knows items), `path.NAME` (what `{NAME}` of the first pattern that matches stands for, without escapes), `peer.id` and
//!     `source.ip`; any other name is an error, and so is what is known not to be a boolean. There are literals, lists of them,
//!     `&& || ! ?: == != < <= > >= in + - * / %`, member, index, `has`, `size`, `startsWith`, `endsWith`, `contains`, `int` and
//!     `string`; no macros that loop and no regular expressions. At most 1 KiB of text and 16 levels.
//!     Meant as the CEL specification says, but where values of different kinds meet (a list and a string, `"1"` and `1`; numbers
//!     are of one kind): they are not unequal, they cannot be compared. What cannot be evaluated (that, a name that is absent, a
//!     header with several lines or also spelled with `_`, a raw path, a result out of range) matches for a deny and does not for an
//!     allow, unless the other side of `&&` or `||` decides. Without a token `claims` cannot be evaluated, on a public request too.
//! 11. **Files** that policy names are [`snapshot::FileRef`]s: read by who runs the snapshot, never here.
//! 12. **All or nothing.** [`Documents::parse`] and [`Documents::compile`] take a version as a whole and tell all that is
//!     wrong with it; what it replaces stays until it is right.
//!     Documents of kind `PolicyTest` are no part of it: [`Trials`] reads them, and nobody else.
//! 13. **TLS of a port** is what any policy on it writes, whatever its mode; those that write `tls` write the same, or it
//!     is an error. `clientAuth` needs `clientCaFile`; a `clientCaFile` alone means `required`.
//! 14. **Opaque tokens** (those that are not three segments of base64url) go to the one issuer of the port whose entry in
//!     `tokens` says `introspect`; two, or two credentials, are an error, whatever the modes of their policies. A policy
//!     accepts such a token only where its own entry for that issuer says so.
//! 15. **Resource metadata** (`resourceMetadata: true`) is that of the one https URL without a query among the policy's
//!     audiences; none, two, or another one in another policy on the port are errors. It is served without a token, unless
//!     a deny that needs none hits (5b).
//! 16. **Ports that are not HTTP** (`protocol: tcp` or `tls`; every policy on a port says the same): the connection is decided, once,
//!     by the same rules, as a request of which nothing is known but the peer's certificate (`tcp` with `tls`) and address:
//!     [`Policies::decide_connection`](inbound::Policies::decide_connection). Words of HTTP, of tokens and, where none can be shown, of
//!     certificates are errors; a public rule names no paths. Outbound, `protocol: tcp` and `tls: passthrough` name destinations to
//!     which bytes pass, without a token ([`outbound::Carries`]).

pub mod asked;
mod assemble;
pub mod bundle;
mod compile;
pub mod condition;
mod decide;
mod document;
pub mod documents;
pub mod explain;
mod field;
mod fingerprint;
pub mod headers;
pub mod host;
pub mod inbound;
pub mod json;
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
mod untrusted;
pub mod workload;
pub mod yaml;

pub use bundle::{Acknowledgement, Bundle, Outcome};
pub use documents::Documents;
pub use explain::Explanation;
pub use inbound::{Decision, PortPolicy, PortProtocol};
pub use problem::Problem;
pub use profile::Profile;
pub use reason::Reason;
pub use request::{AccessRequest, Principal, Token};
pub use snapshot::Snapshot;
pub use source::Source;
pub use trial::Trials;
pub use workload::Workload;
