//! Is there memory for one more request? What is resident is looked at from time to time, against what we may have: better to shed
//! than to be killed.

use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::metrics::Metrics;

/// What we may have, and whether we have more.
#[derive(Debug)]
pub struct Memory {
    /// In bytes; `None`: nobody has said, so nothing is ever short.
    most: Option<u64>,
    is_short: AtomicBool,
    metrics: Arc<Metrics>,
}

// === impl Memory ===

impl Memory {
    /// As many MiB as were `asked` for, or a part of what the cgroup has.
    pub fn new(asked: Option<NonZeroU64>, metrics: Arc<Metrics>) -> Self {
        let most = match asked {
            Some(mebibytes) => Some(mebibytes.get().saturating_mul(MIB)),
            None => limit_of_cgroup(Path::new("/")).map(|limit| limit / 100 * SHARE),
        };
        metrics.max_memory.set(most.map_or(0, |most| i64::try_from(most).unwrap_or(i64::MAX)));
        Self { most, is_short: AtomicBool::new(false), metrics }
    }

    /// Is there too little for a request more, as of the last look, or of one `now`?
    pub fn is_short(&self, now: bool) -> bool {
        if now {
            self.look_now();
        }
        self.is_short.load(Ordering::Relaxed)
    }

    /// Looks from time to time, if there is anything to compare with; runs as long as the sidecar.
    pub async fn watch(&self) {
        while self.most.is_some() {
            self.look_now();
            tokio::time::sleep(LOOK).await;
        }
    }

    fn look_now(&self) {
        if let Some(most) = self.most
            && let Some(resident) = resident()
        {
            self.look(resident, most);
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self { most: None, is_short: AtomicBool::new(false), metrics: Metrics::new().unwrap() }
    }

    /// In bytes.
    pub(crate) fn look(&self, resident: u64, most: u64) {
        let is_short = resident > most;
        if self.is_short.swap(is_short, Ordering::Relaxed) != is_short {
            let (resident, most) = (resident / MIB, most / MIB);
            match is_short {
                true => tracing::warn!(resident, most, "memory is short (MiB): requests are shed"),
                false => tracing::info!(resident, most, "memory is no longer short (MiB)"),
            }
        }
        self.metrics.memory_short.set(i64::from(is_short));
    }
}

/// In bytes, shared pages too, as the kernel counts them to the cgroup of one of those who share them.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The least that our cgroup or one above it may have, in bytes, under this root: of version 2 (`memory.max`), or of version 1, where
/// a number beyond all memory means none. `None` where there is no limit, or none that can be read.
fn limit_of_cgroup(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = text.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        match controllers {
            "" => Some((root.join("sys/fs/cgroup"), "memory.max", path)),
            // In the root of a container it is under another path than on the host: there our own is at the mount.
            _ if controllers.split(',').any(|one| one == "memory") => {
                Some((root.join("sys/fs/cgroup/memory"), "memory.limit_in_bytes", path))
            }
            _ => None,
        }
    });
    let limits = mounts.flat_map(|(mount, file, path)| {
        let own = mount.join(path.trim_start_matches('/'));
        let up: Vec<PathBuf> =
            own.ancestors().take_while(|at| at.starts_with(&mount)).map(Path::to_path_buf).collect();
        up.into_iter()
            .filter_map(move |folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok())
    });
    limits.filter(|limit| *limit < NONE).min()
}

const MIB: u64 = 1024 * 1024;
/// Of a hundred parts of a limit. The rest is for what the kernel holds for our sockets, and for what comes between two looks.
const SHARE: u64 = 80;
/// What version 1 says where nothing was said is near `i64::MAX`.
const NONE: u64 = 1 << 62;
const LOOK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(asked: u64) -> Memory {
        Memory::new(NonZeroU64::new(asked), Metrics::new().unwrap())
    }

    #[test]
    fn os_5_memory_is_short_from_one_look_to_the_next() {
        let memory = memory(64);
        assert_eq!((memory.most, memory.metrics.max_memory.get()), (Some(64 * MIB), 64 << 20));
        for (resident, is_short) in [(64, false), (65, true), (66, true), (63, false)] {
            memory.look(resident * MIB, 64 * MIB);
            assert_eq!(memory.is_short(false), is_short, "{resident} MiB");
            assert_eq!(memory.metrics.memory_short.get(), i64::from(is_short));
        }
    }

    #[test]
    fn what_is_resident_is_what_was_touched() {
        let before = resident().unwrap();
        let touched = std::hint::black_box(vec![1_u8; 64 * 1024 * 1024]);
        let more = resident().unwrap() - before;
        assert!(more > 48 * MIB, "{more} for {}", touched.len());
    }

    /// The file of `/proc`, one of `/sys/fs/cgroup` or two, and the limit.
    type Case<'a> = (&'a str, &'a [[&'a str; 2]], Option<u64>);

    #[test]
    fn the_least_limit_of_a_cgroup_and_those_above_it_holds() {
        let cases: [Case<'_>; 8] = [
            (
                "0::/pod/sidecar\n",
                &[["pod/sidecar/memory.max", "67108864\n"], ["pod/memory.max", "max\n"]],
                Some(64 * MIB),
            ),
            (
                "0::/pod/sidecar\n",
                &[["pod/sidecar/memory.max", "max\n"], ["pod/memory.max", "1048576\n"]],
                Some(MIB),
            ),
            // A container sees its own as the root.
            ("0::/\n", &[["memory.max", "33554432\n"]], Some(32 * MIB)),
            ("0::/\n", &[["memory.max", "max\n"]], None),
            ("0::/\n", &[], None),
            (
                "5:cpu:/a\n4:memory:/a\n0::/\n",
                &[["memory/a/memory.limit_in_bytes", "2097152\n"]],
                Some(2 * MIB),
            ),
            ("4:cpu,memory:/gone\n", &[["memory/memory.limit_in_bytes", "3145728\n"]], Some(3 * MIB)),
            ("4:memory:/\n", &[["memory/memory.limit_in_bytes", "9223372036854771712\n"]], None),
        ];
        for (own, files, limit) in cases {
            let folder = tempfile::tempdir().unwrap();
            let write = |path: PathBuf, text: &str| {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            };
            write(folder.path().join("proc/self/cgroup"), own);
            for [path, text] in files {
                write(folder.path().join("sys/fs/cgroup").join(path), text);
            }
            assert_eq!(limit_of_cgroup(folder.path()), limit, "{own:?} {files:?}");
        }
    }

    #[tokio::test]
    async fn without_a_limit_nobody_looks() {
        let memory = Memory { most: None, ..memory(1) };
        memory.watch().await;
        assert!(!memory.is_short(true));
    }
}
