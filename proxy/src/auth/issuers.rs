//! Which keys does an issuer publish? Discovery and key sets, fetched in the background and kept through outages.

use std::sync::Arc;

use countersign_policy::snapshot::Issuer;
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::fetch::Fetcher;
use crate::metrics::Metrics;
use crate::state::dir::StateDir;
use crate::state::files::PolicyFiles;

/// What the keeper of key sets works with.
#[derive(Clone, Debug)]
pub struct Services {
    pub fetcher: Fetcher,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub files: PolicyFiles,
    pub state_dir: Option<StateDir>,
    /// The runtime of the background thread: fetches run there, never on a worker.
    pub background: Handle,
}

/// Every issuer's keys, across reloads: an issuer whose fingerprint is unchanged keeps its keys.
#[derive(Debug)]
pub struct Issuers {}

/// The keys of one issuer, kept fresh in the background for as long as a snapshot holds it.
#[derive(Debug)]
pub struct IssuerKeys {}

impl Issuers {
    pub fn new(_services: Services) -> Self {
        todo!()
    }

    /// The keepers for these issuers, in their order. Issuers that are not named any more stop being fetched.
    pub fn arm(&self, _issuers: &[Issuer]) -> Vec<Arc<IssuerKeys>> {
        todo!()
    }
}

impl IssuerKeys {
    /// Has a key set been had (from the issuer, a file or disk) that may still be used?
    pub fn is_ready(&self) -> bool {
        todo!()
    }
}
