//! What do the tests stand on? Processes that end with the test, servers, clients, tokens and policy folders.

pub(crate) mod authority;
pub(crate) mod client;
pub(crate) mod control;
pub(crate) mod django;
pub(crate) mod endless;
pub(crate) mod fault;
pub(crate) mod fault_proxy;
pub(crate) mod fault_rows;
pub(crate) mod frames;
pub(crate) mod init;
pub(crate) mod issuer;
pub(crate) mod jose;
pub(crate) mod meshed;
pub(crate) mod metrics;
pub(crate) mod nameserver;
pub(crate) mod pair;
pub(crate) mod pods;
pub(crate) mod policy;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw_client;
pub(crate) mod raw_upstream;
pub(crate) mod recorder;
pub(crate) mod scripted;
pub(crate) mod strict;
pub(crate) mod tls;
pub(crate) mod tools;
pub(crate) mod upstream;
pub(crate) mod versions;
pub(crate) mod ws;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_owned()
}

/// A binary of this workspace, built beside the tests (`tests/run` builds them first).
pub(crate) fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the running test has a path");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let path = profile.join(name);
    assert!(
        path.exists(),
        "{name} is not built: run `cargo build --profile demo --workspace --bins`, or tests/run"
    );
    path
}

/// Waits until `ready` is true, looking every 10 ms; panics after `limit`. Returns how long it took.
pub(crate) fn wait_until(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

/// Waits until a sidecar has kept an entry (`policy`, `keys`) in its state directory: it does so beside its work.
pub(crate) fn wait_for_state(folder: &Path, entry: &str) {
    let kept = |name: std::ffi::OsString| {
        let name = name.to_string_lossy();
        name.contains(&format!("-{entry}")) && !name.ends_with(".tmp")
    };
    wait_until("an entry of the state directory", Duration::from_secs(10), || {
        fs::read_dir(folder)
            .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|e| kept(e.file_name()))))
    });
}

/// Seconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    since.as_secs().try_into().expect("before the year 292277026596")
}
