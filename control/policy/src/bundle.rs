//! What travels between the planes? The policy of one workload one way, what became of it the other way.

use serde::{Deserialize, Serialize};

use crate::problem::Problem;
use crate::source::Source;
use crate::workload::Workload;

/// The policy of one workload, as `GET /v1/policy` answers it and the sidecar's state directory keeps it. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Bundle {
    /// Hash of the content, in hex; the entity tag (RFC 9110 §8.8.3) of the answer.
    pub version: String,
    /// Who the reader is.
    pub workload: Workload,
    pub documents: Vec<Source>,
}

/// What a sidecar made of a bundle, as it posts it to `/v1/acknowledgements`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Acknowledgement {
    /// Tells the sidecars of one workload apart: random, anew at each start, hex.
    pub instance: String,
    /// The version that is acknowledged.
    pub version: String,
    pub outcome: Outcome,
    /// The version that is enforced now; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<String>,
    /// Why it was rejected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// What became of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Applied,
    Rejected,
}

impl Outcome {
    /// As metrics and logs print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Rejected => "rejected",
        }
    }
}
