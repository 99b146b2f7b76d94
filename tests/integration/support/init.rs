//! How do the tests run `init`? With chosen programs in its `PATH`, in a simulated pod.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::pods::{As, Pod, open_to_all};
use super::process::{Finished, run};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// What the matrix asks `init` for.
pub(crate) const FLAGS: &[&str] = &[
    "--exclude-inbound-ports=9090",
    "--exclude-outbound-ports=22,5000-5010",
    "--exclude-outbound-cidrs=203.0.113.128/25,2001:db8:1::/48",
];

/// The programs that `init` finds, in a folder that is all of its `PATH`.
pub(crate) struct Programs {
    folder: TempDir,
}

impl Programs {
    pub(crate) fn nft() -> Self {
        Self::of(&[("nft", "nft")])
    }

    /// `legacy` or `nft`: iptables comes in two kinds.
    pub(crate) fn iptables(kind: &str) -> Self {
        let mut programs = Vec::new();
        for family in ["iptables", "ip6tables"] {
            programs.push((family.to_owned(), format!("{family}-{kind}")));
            programs.push((format!("{family}-restore"), format!("{family}-{kind}-restore")));
        }
        let programs: Vec<_> = programs.iter().map(|(name, real)| (name.as_str(), real.as_str())).collect();
        Self::of(&programs)
    }

    /// All that may be there, with iptables of this kind.
    pub(crate) fn any(kind: &str) -> Self {
        let more = ["nft", "iptables-legacy", "ip6tables-legacy"];
        let programs = Self::iptables(kind);
        for name in more {
            symlink(installed(name), programs.folder.path().join(name)).unwrap();
        }
        programs
    }

    pub(crate) fn of(programs: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, real) in programs {
            symlink(installed(real), folder.path().join(name)).unwrap();
        }
        open_to_all(folder.path());
        Self { folder }
    }

    pub(crate) fn all() -> [(&'static str, Self); 3] {
        [
            ("nft", Self::nft()),
            ("iptables-legacy", Self::iptables("legacy")),
            ("iptables-nft", Self::iptables("nft")),
        ]
    }

    /// Another program in place of this one.
    pub(crate) fn with_script(self, name: &str, script: &str) -> Self {
        let path = self.folder.path().join(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    pub(crate) fn without(self, name: &str) -> Self {
        fs::remove_file(self.folder.path().join(name)).unwrap();
        self
    }

    pub(crate) fn command(&self, pod: &Pod, who: As, flags: &[&str]) -> Command {
        let mut command = pod.command(who, "env");
        command.arg(format!("PATH={}", self.folder.path().display()));
        command.arg(pod.program("countersign-proxy")).arg("init").args(flags);
        command
    }

    pub(crate) fn init(&self, pod: &Pod, flags: &[&str]) -> Finished {
        run(&mut self.command(pod, As::Root, flags), LIMIT)
    }

    /// That must work.
    pub(crate) fn install(&self, pod: &Pod, flags: &[&str]) {
        let done = self.init(pod, flags);
        assert_eq!(done.code, Some(0), "{flags:?}: {done:?}");
        assert_eq!(done.stderr, "", "{flags:?}");
    }
}

fn installed(program: &str) -> PathBuf {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|folder| Path::new(folder).join(program));
    folders.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("{program} is not installed"))
}

/// All rules of the pod, as those who keep them print them.
pub(crate) fn rules(pod: &Pod) -> Vec<String> {
    ["nft --stateless list ruleset", "iptables-legacy -t nat -S", "ip6tables-legacy -t nat -S"]
        .map(|command| {
            let words: Vec<&str> = command.split(' ').collect();
            let done = pod.run(As::Root, words[0], &words[1..]);
            assert_eq!(done.code, Some(0), "{command}: {}", done.stderr);
            done.stdout
        })
        .into()
}

pub(crate) fn shell(pod: &Pod, script: &str) {
    let done = pod.run(As::Root, "sh", &["-ec", script]);
    assert_eq!(done.code, Some(0), "{script}: {}", done.stderr);
}
