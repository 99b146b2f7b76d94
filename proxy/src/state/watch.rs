//! When did a file or folder change? Kernel events, gathered, with a slow look at the metadata as a safety net.

use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::folder;

/// Changes are gathered until none came for this long ...
const QUIET: Duration = Duration::from_millis(100);
/// ... but no longer than this, so that a file that is written without end is still seen within a second.
const GATHER: Duration = Duration::from_millis(400);
/// How often the metadata is compared: for network file systems and symlinks that lead elsewhere, of which no events come.
const POLL: Duration = Duration::from_secs(2);
/// The same where the kernel gives no events at all.
const POLL_ALONE: Duration = Duration::from_millis(500);

/// Watches one file, or a folder of policy files.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    stamp: Stamp,
    /// What was at the path when the events were subscribed to: device, inode.
    root: Option<(u64, u64)>,
    events: mpsc::Receiver<()>,
    /// Keeps the events coming. None: the kernel refused, e.g. because it has no watches left.
    watcher: Option<RecommendedWatcher>,
}

/// Identity, size and times of every file, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(u64);

// === impl Watch ===

impl Watch {
    /// To be called before the first read, so that no change falls in between.
    pub fn new(path: &Path) -> Self {
        let (watcher, events) = subscribe(path);
        Self { path: path.to_owned(), stamp: stamp(path), root: root(path), events, watcher }
    }

    /// Waits until something may have changed, and has been quiet for 100 ms. Cancel safe: what is missed is seen by the
    /// next poll.
    pub async fn changed(&mut self) {
        loop {
            let poll = if self.watcher.is_some() { POLL } else { POLL_ALONE };
            match timeout(poll, self.events.recv()).await {
                Ok(Some(())) => {
                    self.gather().await;
                    if root(&self.path) != self.root {
                        self.subscribe_again();
                    }
                    self.stamp = stamp_of(&self.path, self.stamp).await;
                    return;
                }
                Ok(None) => self.watcher = None,
                Err(_elapsed) => {
                    if self.polled().await {
                        return;
                    }
                }
            }
            if self.watcher.is_none() {
                sleep_until(Instant::now() + POLL_ALONE).await;
                if self.polled().await {
                    return;
                }
            }
        }
    }

    /// Has something changed without an event? Then the events may be those of a folder that is gone.
    async fn polled(&mut self) -> bool {
        let now = stamp_of(&self.path, self.stamp).await;
        if now == self.stamp {
            return false;
        }
        self.subscribe_again();
        self.stamp = stamp_of(&self.path, now).await;
        true
    }

    fn subscribe_again(&mut self) {
        (self.watcher, self.events) = subscribe(&self.path);
        self.root = root(&self.path);
    }

    async fn gather(&mut self) {
        let end = Instant::now() + GATHER;
        while Instant::now() < end {
            if !matches!(timeout(QUIET, self.events.recv()).await, Ok(Some(()))) {
                return;
            }
        }
    }
}

fn root(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// A channel of one place is enough: an event that finds it full tells nothing new.
fn subscribe(path: &Path) -> (Option<RecommendedWatcher>, mpsc::Receiver<()>) {
    let (send, receive) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.map_or(true, |event| is_change(event.kind)) {
            let _ = send.try_send(());
        }
    });
    // A file is watched through its folder: editors and ConfigMaps replace it by renaming another one.
    let (target, mode) = match path.is_dir() {
        true => (path, RecursiveMode::Recursive),
        false => (path.parent().unwrap_or(path), RecursiveMode::NonRecursive),
    };
    let target = if target.as_os_str().is_empty() { Path::new(".") } else { target };
    let subscribed = watcher.and_then(|mut watcher| watcher.watch(target, mode).map(|()| watcher));
    if let Err(error) = &subscribed {
        tracing::warn!(path = %path.display(), %error, "no events for these files: they are polled instead");
    }
    (subscribed.ok(), receive)
}

/// Reading is no change; it would wake us by our own hand.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

async fn stamp_of(path: &Path, otherwise: Stamp) -> Stamp {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || stamp(&path)).await.unwrap_or(otherwise)
}

/// What the files look like from outside, errors included.
pub(crate) fn stamp(path: &Path) -> Stamp {
    let mut hash = DefaultHasher::new();
    for file in folder::files(path) {
        match file {
            Ok(file) => {
                hash_metadata(&mut hash, std::fs::metadata(&file).ok());
                file.hash(&mut hash);
            }
            Err(problem) => problem.hash(&mut hash),
        }
    }
    Stamp(hash.finish())
}

fn hash_metadata(hash: &mut DefaultHasher, metadata: Option<Metadata>) {
    let Some(file) = metadata else { return };
    (file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec())
        .hash(hash);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const WITHIN: Duration = Duration::from_millis(900);

    async fn seen(watch: &mut Watch) -> bool {
        timeout(WITHIN, watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn sees_a_write_a_new_folder_and_a_removal() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.yaml"), "1").unwrap();
        let mut watch = Watch::new(root.path());
        fs::write(root.path().join("a.yaml"), "2").unwrap();
        assert!(seen(&mut watch).await, "a write");
        fs::create_dir(root.path().join("sub")).unwrap();
        fs::write(root.path().join("sub/b.yaml"), "1").unwrap();
        assert!(seen(&mut watch).await, "a new folder");
        fs::write(root.path().join("sub/b.yaml"), "2").unwrap();
        assert!(seen(&mut watch).await, "a write in the new folder");
        fs::remove_file(root.path().join("a.yaml")).unwrap();
        assert!(seen(&mut watch).await, "a removal");
    }

    #[tokio::test]
    async fn is_not_woken_by_reading() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a.yaml");
        fs::write(&file, "1").unwrap();
        let mut watch = Watch::new(root.path());
        fs::read(&file).unwrap();
        fs::read_dir(root.path()).unwrap().count();
        assert!(!seen(&mut watch).await);
    }

    #[tokio::test]
    async fn sees_a_config_map_swapped() {
        let root = tempfile::tempdir().unwrap();
        for version in ["..1", "..2"] {
            fs::create_dir(root.path().join(version)).unwrap();
            fs::write(root.path().join(version).join("a.yaml"), version).unwrap();
        }
        symlink("..1", root.path().join("..data")).unwrap();
        symlink("..data/a.yaml", root.path().join("a.yaml")).unwrap();
        let mut folder = Watch::new(root.path());
        let mut file = Watch::new(&root.path().join("a.yaml"));
        symlink("..2", root.path().join("..tmp")).unwrap();
        fs::rename(root.path().join("..tmp"), root.path().join("..data")).unwrap();
        let (folder, file) = tokio::join!(seen(&mut folder), seen(&mut file));
        assert!(folder && file);
    }

    #[tokio::test]
    async fn sees_a_file_replaced_by_rename() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("token");
        fs::write(&file, "1").unwrap();
        let mut watch = Watch::new(&file);
        fs::write(root.path().join("new"), "2").unwrap();
        fs::rename(root.path().join("new"), &file).unwrap();
        assert!(seen(&mut watch).await);
    }

    #[tokio::test]
    async fn polls_where_no_events_come() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("later");
        let mut watch = Watch::new(&path);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a.yaml"), "1").unwrap();
        assert!(timeout(Duration::from_secs(3), watch.changed()).await.is_ok());
        fs::write(path.join("a.yaml"), "2").unwrap();
        assert!(seen(&mut watch).await, "events again");
    }
}
