//! Which version is published, and since when? The folder and the join tokens, followed; an update is taken as a whole or
//! not at all.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_policy::{Documents, Outcome, Problem, Source};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::folder::{self, Stamp};
use crate::join::{self, Member};
use crate::metrics::Metrics;
use crate::published::Published;
use crate::state::StateDir;

/// How often the files are looked at, and for how long they must look the same before they are read.
const LOOK: Duration = Duration::from_millis(200);
const QUIET: Duration = Duration::from_millis(100);
/// Files that change all the time are read all the same after so long.
const GATHER: Duration = Duration::from_millis(400);
/// Versions that are remembered for the admin page.
const HISTORY: usize = 50;
/// Name of the last good policy in the state directory.
const LAST_GOOD: &str = "policy";

/// For people: what was published when, and what was refused last.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// The newest last.
    pub(crate) versions: VecDeque<Recorded>,
    /// None as soon as the source is good again.
    pub(crate) rejected: Option<Rejected>,
    /// The same for the join tokens.
    pub(crate) join_tokens_rejected: Option<Rejected>,
}

/// A version, and since when (seconds since the epoch).
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Recorded {
    pub(crate) version: String,
    pub(crate) published_at: u64,
    pub(crate) documents: usize,
}

/// An update that was refused, and when (seconds since the epoch).
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rejected {
    pub(crate) rejected_at: u64,
    pub(crate) problems: Vec<String>,
}

/// The one writer.
#[derive(Debug)]
pub(crate) struct Publisher {
    policies: PathBuf,
    join_tokens: PathBuf,
    state: StateDir,
    metrics: Metrics,
    status: Arc<Mutex<Status>>,
    published: watch::Sender<Arc<Published>>,
    /// What is published, for the day when the other of the two changes.
    documents: Arc<Documents>,
    members: Vec<Member>,
    seen: (Option<Stamp>, Option<Stamp>),
}

/// Why there is nothing to serve: exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum NothingToServe {
    #[error("{0}")]
    JoinTokens(String),
    #[error(
        "{path}: no usable policy, and no last good one in the state directory; {count} to correct, the first is \
         {first}: `countersign-control check` prints all"
    )]
    Policy { path: String, count: usize, first: String },
}

// === impl Publisher ===

impl Publisher {
    /// Reads both for the first time. A bad policy is replaced by the last good one of the state directory.
    pub(crate) async fn start(
        policies: PathBuf,
        join_tokens: PathBuf,
        state: StateDir,
        metrics: Metrics,
    ) -> Result<Self, NothingToServe> {
        let seen = (stamp(&policies).await, stamp(&join_tokens).await);
        let members = read_members(&join_tokens).await.map_err(NothingToServe::JoinTokens)?;
        let last_good = last_good(&state).await;
        let read = read_documents(&policies, members.clone()).await.and_then(|good| {
            // Empty is fine at the very first start; later it is more likely a mount that failed.
            if good.0.is_empty() && last_good.is_some() { Err(empty(&policies)) } else { Ok(good) }
        });
        let status = Arc::new(Mutex::new(Status::default()));
        let (documents, published, fresh) = match read {
            Ok((documents, published, sources)) => (documents, published, Some(sources)),
            Err(problems) => {
                reject(&metrics, &status, &problems);
                let (documents, published) = restore(last_good, members.clone()).await.ok_or_else(|| {
                    let first = problems.first().map(Problem::to_string).unwrap_or_default();
                    NothingToServe::Policy {
                        path: policies.display().to_string(),
                        count: problems.len(),
                        first,
                    }
                })?;
                tracing::warn!(version = published.version, "policy from the state directory is served");
                (documents, published, None)
            }
        };
        let published = watch::Sender::new(Arc::new(published));
        let (documents, state_dir) = (Arc::new(documents), state);
        let mut publisher = Self {
            policies,
            join_tokens,
            state: state_dir,
            metrics,
            status,
            published,
            documents,
            members,
            seen,
        };
        match fresh {
            Some(sources) => publisher.record(sources).await,
            None => publisher.show_version(),
        }
        Ok(publisher)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    pub(crate) fn status(&self) -> Arc<Mutex<Status>> {
        self.status.clone()
    }

    /// Follows both for ever. Nothing ends this: what is bad is reported, and what was good stays.
    pub(crate) async fn run(mut self) {
        let mut restless = None;
        loop {
            sleep(LOOK).await;
            let now = (stamp(&self.policies).await, stamp(&self.join_tokens).await);
            if now == self.seen {
                continue;
            }
            sleep(QUIET).await;
            let is_quiet = (stamp(&self.policies).await, stamp(&self.join_tokens).await) == now;
            if !is_quiet && restless.get_or_insert_with(Instant::now).elapsed() < GATHER {
                continue;
            }
            restless = None;
            let (policies, members) = (now.0 != self.seen.0, now.1 != self.seen.1);
            self.seen = now;
            if members {
                self.members_changed().await;
            }
            // A version that was refused for the sake of one workload may be good without it.
            if policies || (members && lock(&self.status).rejected.is_some()) {
                self.policies_changed().await;
            }
        }
    }

    async fn policies_changed(&mut self) {
        match read_documents(&self.policies, self.members.clone()).await {
            Ok((documents, ..)) if documents.is_empty() => self.reject(&empty(&self.policies)),
            // Touched, or put back to what is published.
            Ok((documents, published, _)) if documents.version() == self.documents.version() => {
                self.documents = Arc::new(documents);
                self.published.send_replace(Arc::new(published));
                lock(&self.status).rejected = None;
            }
            Ok((documents, published, sources)) => {
                self.documents = Arc::new(documents);
                self.published.send_replace(Arc::new(published));
                self.record(sources).await;
            }
            Err(problems) => self.reject(&problems),
        }
    }

    async fn members_changed(&mut self) {
        let rejected = match read_members(&self.join_tokens).await {
            Err(problem) => vec![problem],
            Ok(members) => {
                let (documents, new) = (self.documents.clone(), members.clone());
                match blocking(move || Published::lenient(&documents, &new)).await {
                    None => vec!["internal error: applying the join tokens failed".to_owned()],
                    Some((published, problems)) => {
                        tracing::info!(workloads = members.len(), "the join tokens are taken over");
                        self.members = members;
                        self.published.send_replace(Arc::new(published));
                        problems
                    }
                }
            }
        };
        let outcome = if rejected.is_empty() { Outcome::Applied } else { Outcome::Rejected };
        self.metrics.join_token_reloads.with_label_values(&[outcome.name()]).inc();
        for problem in &rejected {
            tracing::error!("join tokens: {problem}");
        }
        let rejected = (!rejected.is_empty()).then(|| Rejected { rejected_at: now(), problems: rejected });
        lock(&self.status).join_tokens_rejected = rejected;
    }

    /// What is published now is good: it is counted, told and kept.
    async fn record(&mut self, sources: Vec<Source>) {
        self.metrics.policy_reloads.with_label_values(&[Outcome::Applied.name()]).inc();
        self.show_version();
        tracing::info!(
            version = self.documents.version(),
            documents = self.documents.len(),
            "policy published"
        );
        lock(&self.status).rejected = None;
        let state = self.state.clone();
        let saved = blocking(move || state.save(LAST_GOOD, &serde_json::to_vec(&sources)?)).await;
        if let Some(Err(error)) = saved {
            tracing::warn!(%error, "policy could not be kept in the state directory: a restart may be without it");
        }
    }

    fn show_version(&self) {
        let version = self.documents.version();
        let recorded =
            Recorded { version: version.to_owned(), published_at: now(), documents: self.documents.len() };
        self.metrics.version(version);
        let mut status = lock(&self.status);
        status.versions.push_back(recorded);
        if status.versions.len() > HISTORY {
            status.versions.pop_front();
        }
    }

    fn reject(&self, problems: &[Problem]) {
        reject(&self.metrics, &self.status, problems);
    }
}

fn reject(metrics: &Metrics, status: &Mutex<Status>, problems: &[Problem]) {
    metrics.policy_reloads.with_label_values(&[Outcome::Rejected.name()]).inc();
    tracing::error!(problems = problems.len(), "policy rejected, the last good one stays");
    for problem in problems {
        tracing::error!("{problem}");
    }
    let problems = problems.iter().map(Problem::to_string).collect();
    lock(status).rejected = Some(Rejected { rejected_at: now(), problems });
}

async fn read_documents(
    path: &Path,
    members: Vec<Member>,
) -> Result<(Documents, Published, Vec<Source>), Vec<Problem>> {
    let owned = path.to_owned();
    let read = blocking(move || {
        let documents = Documents::parse(folder::read(&owned)?)?;
        let published = Published::new(&documents, &members)?;
        let sources = documents.sources();
        Ok((documents, published, sources))
    });
    let failed = || Err(vec![Problem::of_file(path.display(), "internal error: compiling it failed")]);
    read.await.unwrap_or_else(failed)
}

async fn read_members(path: &Path) -> Result<Vec<Member>, String> {
    let owned = path.to_owned();
    let read = blocking(move || join::read(&owned)).await;
    read.unwrap_or_else(|| Err(format!("{}: internal error: reading it failed", path.display())))
}

async fn last_good(state: &StateDir) -> Option<Vec<Source>> {
    let state = state.clone();
    let bytes = blocking(move || state.load(LAST_GOOD)).await??;
    let sources: Vec<Source> = serde_json::from_slice(&bytes).ok()?;
    // As good as none: an empty folder is no news then.
    (!sources.is_empty()).then_some(sources)
}

async fn restore(sources: Option<Vec<Source>>, members: Vec<Member>) -> Option<(Documents, Published)> {
    let sources = sources?;
    blocking(move || {
        let documents = Documents::parse(sources).ok()?;
        // Members may have changed since; one that it does not compile for must not take it from all others.
        let (published, problems) = Published::lenient(&documents, &members);
        for problem in problems {
            tracing::error!("{problem}");
        }
        Some((documents, published))
    })
    .await?
}

async fn stamp(path: &Path) -> Option<Stamp> {
    let path = path.to_owned();
    blocking(move || folder::stamp(&path)).await
}

/// On a thread where it may take its time. None: it panicked, which ends nothing.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn empty(path: &Path) -> Vec<Problem> {
    let message = "holds no policy any more: to deny everything, say so with a policy without rules";
    vec![Problem::of_file(path.display(), message)]
}

/// Seconds since the epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
