//! Who are we? The workload that a snapshot is compiled for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The workload beside which a sidecar runs. Selectors see its namespace and labels, nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Workload {
    pub namespace: String,
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// For the template `{serviceAccount}` in a credential's `clientId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
}
