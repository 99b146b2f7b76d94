//! Where does policy come from, and what happens to each update? The start-up rules and the loop that follows them.
//!
//! `App` does three things: `source.owner()` for the state directory, `source.start(..)` for the first snapshot, and, in a
//! task of its own, `updates.run(apply)` for all later ones. A version is a hash of the content and nothing decides by
//! age, so that a rollback is an update like any other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use countersign_policy::{Acknowledgement, Bundle, Documents, Outcome, Problem, Snapshot, Source, Workload};
use tokio::time::{Instant, sleep, sleep_until};

use super::backoff::Backoff;
use super::control::{Answer, ControlClient, ControlError, ControlUrl, join_token};
use super::dir::{StateDir, hex};
use super::files::PolicyFiles;
use super::folder;
use super::report::{Polled, Report};
use super::watch::Watch;
use crate::connect::Connector;
use crate::metrics::Metrics;

/// Between two polls at least, should the control plane not hold its answers back.
const POLL_PACE: Duration = Duration::from_secs(1);

/// Where policy comes from.
#[derive(Clone, Debug)]
pub enum PolicySource {
    /// `--policies`: a file or a folder, and who we are.
    Folder { path: PathBuf, workload: Workload },
    /// `--control`: the control plane, which also says who we are.
    Control { url: ControlUrl, ca_file: PathBuf, join_token_file: PathBuf },
}

/// Why there is nothing to start with: exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "{path}: no usable policy, and no last good one of this workload in the state directory; {count} to correct, \
         the first is {first}"
    )]
    Policy { path: String, count: usize, first: String },
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("no random numbers: the system gives none, so nothing here can be trusted")]
    Instance,
}

/// What there is at the start.
#[derive(Debug)]
pub struct Start {
    /// None, with `--control` alone: no policy yet, so unready, and everything is answered 503.
    pub snapshot: Option<Snapshot>,
    pub updates: Updates,
}

/// All that comes later.
#[derive(Debug)]
pub struct Updates {
    report: Report,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Folder { path: PathBuf, workload: Workload, watch: Watch, read: Read },
    Control { client: ControlClient },
}

/// What a folder held.
type Read = Result<Vec<Source>, Vec<Problem>>;

// === impl PolicySource ===

impl PolicySource {
    /// Namespace and workload for [`StateDir::open`]. With `--control` only the control plane knows these, so what stands for
    /// them is its address and a hash of the join token: another token may be another workload.
    pub fn owner(&self) -> Result<(String, String), StartError> {
        match self {
            Self::Folder { workload, .. } => Ok((workload.namespace.clone(), workload.name.clone())),
            Self::Control { url, join_token_file, .. } => {
                let token = join_token(join_token_file)?;
                let text =
                    zeroize::Zeroizing::new(format!("countersign state directory\0{}", token.as_str()));
                Ok((url.to_string(), hex(digest(&SHA256, text.as_bytes()).as_ref())))
            }
        }
    }

    /// How the files that this policy names are found.
    pub fn files(&self, secrets_dir: &Path) -> PolicyFiles {
        match self {
            Self::Folder { .. } => PolicyFiles::BesideDocument,
            Self::Control { .. } => PolicyFiles::Under(secrets_dir.to_owned()),
        }
    }

    /// The first snapshot. A folder is read and, if it is bad, replaced by the last good policy of the state directory.
    /// The control plane is not waited for: the last good policy runs until it answers.
    pub async fn start(
        self,
        state: Option<StateDir>,
        metrics: Arc<Metrics>,
        connector: Connector,
    ) -> Result<Start, StartError> {
        let mut report = Report::new(metrics, state);
        match self {
            Self::Folder { path, workload } => {
                let watch = Watch::new(&path);
                let read = read_folder(&path).await;
                let snapshot = start_folder(&mut report, &path, &workload, read.clone()).await?;
                let origin = Origin::Folder { path, workload, watch, read };
                Ok(Start { snapshot: Some(snapshot), updates: Updates { report, origin } })
            }
            Self::Control { url, ca_file, join_token_file } => {
                let instance = instance().ok_or(StartError::Instance)?;
                let client = ControlClient::new(url, ca_file, join_token_file, instance, connector);
                let snapshot = restore(&mut report, None).await;
                let origin = Origin::Control { client };
                Ok(Start { snapshot, updates: Updates { report, origin } })
            }
        }
    }
}

async fn start_folder(
    report: &mut Report,
    path: &Path,
    workload: &Workload,
    read: Read,
) -> Result<Snapshot, StartError> {
    let problems = match check(read, workload).await {
        // Empty is fine at the very first start; later it is more likely a mount that failed.
        Ok((_, bundle)) if bundle.documents.is_empty() && has_documents(report).await => empty(path),
        Ok((snapshot, bundle)) => {
            report.applied(&snapshot.version, bundle).await;
            return Ok(snapshot);
        }
        Err(problems) => problems,
    };
    report.rejected(None, &problems);
    let first = problems.first().map(Problem::to_string).unwrap_or_default();
    let (path, count) = (path.display().to_string(), problems.len());
    restore(report, Some(workload)).await.ok_or(StartError::Policy { path, count, first })
}

async fn has_documents(report: &Report) -> bool {
    report.last_good().await.is_some_and(|(bundle, _)| !bundle.documents.is_empty())
}

/// The last good policy, compiled for who we are: with `--control` that is in the bundle.
async fn restore(report: &mut Report, workload: Option<&Workload>) -> Option<Snapshot> {
    let (bundle, saved_at) = report.last_good().await?;
    let workload = workload.unwrap_or(&bundle.workload);
    match check(Ok(bundle.documents), workload).await {
        Ok((snapshot, _)) => {
            report.restored(&snapshot.version, saved_at);
            Some(snapshot)
        }
        Err(problems) => {
            report.rejected(Some(&bundle.version), &problems);
            None
        }
    }
}

// === impl Updates ===

impl Updates {
    /// Hands every good update to `apply`, for ever. A bad one changes a metric, the log and the acknowledgement; a panic,
    /// here or in `apply`, is a bad update.
    pub async fn run(self, mut apply: impl FnMut(Snapshot) + Send) {
        let Self { mut report, origin } = self;
        match origin {
            Origin::Folder { path, workload, mut watch, mut read } => loop {
                watch.changed().await;
                let now = read_folder(&path).await;
                if now != read {
                    read = now.clone();
                    folder_changed(&mut report, &path, &workload, now, &mut apply).await;
                }
            },
            Origin::Control { client } => follow(&mut report, client, &mut apply).await,
        }
    }
}

async fn folder_changed(
    report: &mut Report,
    path: &Path,
    workload: &Workload,
    read: Read,
    apply: &mut (impl FnMut(Snapshot) + Send),
) {
    let checked = match check(read, workload).await {
        Ok((_, bundle)) if bundle.documents.is_empty() => Err(empty(path)),
        checked => checked,
    };
    if let Err(problems) = update(report, checked, apply).await {
        report.rejected(None, &problems);
    }
}

/// One long poll after another. What became of a version is told before the next poll, and again on a new connection, since
/// a control plane that restarted has forgotten it.
async fn follow(report: &mut Report, mut client: ControlClient, apply: &mut (impl FnMut(Snapshot) + Send)) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    let instance = client.instance().to_owned();
    let mut seen = report.running().map(str::to_owned);
    let acknowledge = |version: &str, outcome, running: Option<&str>, problems| Acknowledgement {
        instance: instance.clone(),
        version: version.to_owned(),
        outcome,
        running: running.map(str::to_owned),
        problems,
    };
    let mut last =
        seen.as_deref().map(|version| acknowledge(version, Outcome::Applied, Some(version), Vec::new()));
    let mut told = false;
    loop {
        let began = Instant::now();
        if let (Some(what), false) = (&last, told) {
            told = tell(&mut client, what).await;
        }
        match client.poll(seen.as_deref()).await {
            Ok(Answer::Unchanged) => {
                report.polled(Polled::Unchanged);
                backoff.reset();
                sleep_until(began + POLL_PACE).await;
            }
            Ok(Answer::Bundle { version, body }) => {
                report.polled(Polled::Bundle);
                backoff.reset();
                let result = bundle_came(report, &body, apply).await;
                let outcome = if result.is_ok() { Outcome::Applied } else { Outcome::Rejected };
                let problems = result.err().unwrap_or_default();
                if outcome == Outcome::Rejected {
                    report.rejected(Some(&version), &problems);
                }
                last = Some(acknowledge(&version, outcome, report.running(), problems));
                (told, seen) = (false, Some(version));
            }
            Err(error) => {
                report.polled(Polled::Failure);
                let wait = backoff.failed();
                tracing::warn!(%error, retry_in = ?wait, "no policy from the control plane, what runs stays");
                told = false;
                sleep(wait).await;
            }
        }
    }
}

/// Has it been told, or is there no use in trying again?
async fn tell(client: &mut ControlClient, what: &Acknowledgement) -> bool {
    match client.acknowledge(what).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, version = what.version, "the acknowledgement was not accepted");
            matches!(error, ControlError::Status(_))
        }
    }
}

async fn bundle_came(
    report: &mut Report,
    body: &[u8],
    apply: &mut (impl FnMut(Snapshot) + Send),
) -> Result<(), Vec<Problem>> {
    let bundle: Bundle = serde_json::from_slice(body).map_err(|error| {
        vec![Problem::of_file("bundle", &format!("is not one that this version can read: {error}"))]
    })?;
    let checked = check(Ok(bundle.documents.clone()), &bundle.workload).await;
    update(report, checked.map(|(snapshot, _)| (snapshot, bundle)), apply).await
}

/// Applies what was checked. A version that already runs is not applied again.
async fn update(
    report: &mut Report,
    checked: Result<(Snapshot, Bundle), Vec<Problem>>,
    apply: &mut (impl FnMut(Snapshot) + Send),
) -> Result<(), Vec<Problem>> {
    let (snapshot, bundle) = checked?;
    let version = snapshot.version.clone();
    if report.running() != Some(&version) {
        let applied = catch_unwind(AssertUnwindSafe(|| apply(snapshot)));
        applied.map_err(|_| vec![Problem::of_file(&version, "internal error: applying it failed")])?;
    }
    report.applied(&version, bundle).await;
    Ok(())
}

/// Parses and compiles, on a thread where it may take its time and may panic.
async fn check(read: Read, workload: &Workload) -> Result<(Snapshot, Bundle), Vec<Problem>> {
    let (sources, workload) = (read?, workload.clone());
    let checked = tokio::task::spawn_blocking(move || {
        let documents = Documents::parse(sources)?;
        let snapshot = documents.compile(&workload)?;
        let bundle = Bundle { version: snapshot.version.clone(), workload, documents: documents.sources() };
        Ok((snapshot, bundle))
    });
    checked
        .await
        .unwrap_or_else(|_| Err(vec![Problem::of_file("policy", "internal error: compiling it failed")]))
}

async fn read_folder(path: &Path) -> Read {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || folder::read(&owned)).await;
    read.unwrap_or_else(|_| Err(vec![Problem::of_file(path.display(), "internal error: reading it failed")]))
}

fn empty(path: &Path) -> Vec<Problem> {
    let message = "holds no policy any more: to deny everything, say so with a policy without rules";
    vec![Problem::of_file(path.display(), message)]
}

fn instance() -> Option<String> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(hex(&bytes))
}

#[cfg(test)]
mod tests;
