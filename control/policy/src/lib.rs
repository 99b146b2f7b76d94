//! What may pass? The policy language of Countersign: documents are parsed, compiled to a [`Snapshot`] and decided, all
//! without I/O, async or a clock, so that the proxy, `check`, `test` and `explain` cannot disagree.

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
pub mod outbound;
pub mod path;
mod places;
pub mod problem;
pub mod profile;
pub mod reason;
pub mod request;
mod rule;
pub mod snapshot;
pub mod source;
pub mod spiffe;
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
pub use workload::Workload;
