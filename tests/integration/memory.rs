//! Who can read a sidecar's memory, where its tokens are? No core file, and no other process of the same user.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::support::ports::Port;
use crate::support::process::{Process, temporary};
use crate::support::{binary, wait_until};

/// Nobody, by convention.
const OTHER: u32 = 65534;

/// The user that a process may be read by: its own, or root where it cannot be dumped (proc(5)). `/proc/PID` itself is
/// readable by all and always belongs to the user of the process.
fn owner(process: &Process) -> u32 {
    fs::metadata(PathBuf::from(format!("/proc/{}/mem", process.id()))).expect("it runs").uid()
}

/// As another user where we are root, since everything of root's belongs to root anyway. Says who it is.
fn unprivileged(command: &mut Command) -> u32 {
    let own = fs::metadata("/proc/self/mem").expect("/proc").uid();
    if own == 0 {
        command.uid(OTHER).gid(OTHER);
        return OTHER;
    }
    own
}

#[test]
fn out_13_no_core_file_and_no_debugger_of_the_same_user_shows_a_sidecars_memory() {
    let mut other = Command::new("sleep");
    let user = unprivileged(other.arg("60"));
    let other = Process::spawn("sleep", &mut other);
    wait_until("a program as that user", Duration::from_secs(5), || owner(&other) == user);

    let (_folder, path) = temporary();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let (outbound, admin) = (Port::lease(), Port::lease());
    let mut sidecar = Command::new(binary("countersign-proxy"));
    sidecar.arg("run").arg("--policies").arg(&path).args(["--workload", "checkout"]);
    sidecar.args(["--outbound", &outbound.address().to_string(), "--admin", &admin.address().to_string()]);
    unprivileged(&mut sidecar);
    let mut sidecar = Process::spawn("the sidecar", &mut sidecar);
    wait_until("the sidecar's admin listener", Duration::from_secs(20), || {
        assert!(sidecar.exited().is_none(), "{}", sidecar.stderr());
        std::net::TcpStream::connect(admin.address()).is_ok()
    });
    assert_eq!(owner(&sidecar), 0, "its memory belongs to root, who alone may read it");
    assert!(!sidecar.stderr().contains("stays dumpable"), "{}", sidecar.stderr());
}
