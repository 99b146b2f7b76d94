//! Who is connected, and on which version? What sidecars told us, per workload and instance; forgotten when they are gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use countersign_policy::{Acknowledgement, Outcome, Problem, Workload};
use serde::Serialize;

use crate::versions::{lock, now};

/// Sidecars that are remembered per workload: the one that was silent for longest gives way.
const MAX_INSTANCES: usize = 1000;
/// Problems that are remembered per sidecar.
const MAX_PROBLEMS: usize = 20;
/// A sidecar counts as connected for this long between two polls.
const BETWEEN_POLLS: Duration = Duration::from_secs(5);
/// A sidecar that was silent for this long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// All sidecars that were seen. Cheap to clone; all clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fleet(Arc<Mutex<BTreeMap<Name, BTreeMap<String, Sidecar>>>>);

/// Namespace and name of a workload.
type Name = (String, String);

#[derive(Debug)]
struct Sidecar {
    polls: usize,
    seen: Instant,
    told: Option<Told>,
}

/// Its last acknowledgement.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    version: String,
    outcome: Outcome,
    running: Option<String>,
    problems: Vec<Problem>,
    /// Seconds since the epoch.
    told_at: u64,
}

/// A line of `GET /v1/workloads`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line {
    namespace: String,
    name: String,
    instance: String,
    connected: bool,
    silent_seconds: u64,
    #[serde(flatten)]
    told: Option<Told>,
}

/// One poll that is going on.
#[derive(Debug)]
pub(crate) struct Poll {
    fleet: Fleet,
    name: Name,
    instance: String,
}

// === impl Fleet ===

impl Fleet {
    /// The sidecar is connected until the poll is dropped, by whatever ends it.
    pub(crate) fn poll(&self, workload: &Workload, instance: &str) -> Poll {
        let (name, instance) = (name(workload), instance.to_owned());
        self.with(&name, &instance, |sidecar| sidecar.polls = sidecar.polls.saturating_add(1));
        Poll { fleet: self.clone(), name, instance }
    }

    pub(crate) fn told(&self, workload: &Workload, mut what: Acknowledgement) {
        what.problems.truncate(MAX_PROBLEMS);
        let Acknowledgement { instance, version, outcome, running, problems } = what;
        let told = Told { version, outcome, running, problems, told_at: now() };
        self.with(&name(workload), &instance, |sidecar| sidecar.told = Some(told));
    }

    /// Every sidecar that is remembered, by workload.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let mut workloads = lock(&self.0);
        for sidecars in workloads.values_mut() {
            sidecars.retain(|_, sidecar| sidecar.polls > 0 || sidecar.seen.elapsed() < FORGOTTEN);
        }
        workloads.retain(|_, sidecars| !sidecars.is_empty());
        let line = |(namespace, name): &Name, instance: &str, sidecar: &Sidecar| Line {
            namespace: namespace.clone(),
            name: name.clone(),
            instance: instance.to_owned(),
            connected: sidecar.polls > 0 || sidecar.seen.elapsed() < BETWEEN_POLLS,
            silent_seconds: if sidecar.polls > 0 { 0 } else { sidecar.seen.elapsed().as_secs() },
            told: sidecar.told.clone(),
        };
        let lines = workloads.iter().flat_map(|(workload, sidecars)| {
            sidecars.iter().map(move |(instance, sidecar)| line(workload, instance, sidecar))
        });
        lines.collect()
    }

    fn with(&self, name: &Name, instance: &str, change: impl FnOnce(&mut Sidecar)) {
        let mut workloads = lock(&self.0);
        let sidecars = workloads.entry(name.clone()).or_default();
        if !sidecars.contains_key(instance) && sidecars.len() >= MAX_INSTANCES {
            let silent = sidecars.iter().min_by_key(|(_, sidecar)| (sidecar.polls > 0, sidecar.seen));
            if let Some(silent) = silent.map(|(instance, _)| instance.clone()) {
                sidecars.remove(&silent);
            }
        }
        let fresh = || Sidecar { polls: 0, seen: Instant::now(), told: None };
        let sidecar = sidecars.entry(instance.to_owned()).or_insert_with(fresh);
        sidecar.seen = Instant::now();
        change(sidecar);
    }
}

fn name(workload: &Workload) -> Name {
    (workload.namespace.clone(), workload.name.clone())
}

// === impl Poll ===

impl Drop for Poll {
    fn drop(&mut self) {
        self.fleet
            .with(&self.name, &self.instance, |sidecar| sidecar.polls = sidecar.polls.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_who_is_connected_and_forgets_the_most_silent() {
        let fleet = Fleet::default();
        let workload = Workload { namespace: "shop".into(), name: "checkout".into(), ..Workload::default() };
        let poll = fleet.poll(&workload, "first");
        for instance in 0..MAX_INSTANCES + 5 {
            drop(fleet.poll(&workload, &instance.to_string()));
        }
        let lines = fleet.lines();
        assert_eq!(lines.len(), MAX_INSTANCES);
        assert!(lines.iter().any(|line| line.instance == "first" && line.connected), "it is polling");
        assert!(!lines.iter().any(|line| line.instance == "0"));
        drop(poll);
        assert_eq!(lock(&fleet.0)[&name(&workload)]["first"].polls, 0);
    }
}
