//! Who says where names are? dnsmasq, and a namespace of the test's own in which it is the system's nameserver.

use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::pods::{As, Pod};
use super::process::{Process, run};
use super::wait_until;

/// dnsmasq. It knows what it is told, and says of all else that there is no such name.
#[derive(Debug)]
pub(crate) struct Nameserver {
    process: Option<Process>,
    port: u16,
    /// Of its answers, in seconds.
    ttl: u32,
    /// Where it is not in the test's own namespace.
    pod: Option<Pod>,
    address: Ipv4Addr,
    /// Of its datagrams, in bytes: a longer answer is cut off, and has to be asked for by TCP.
    longest: u16,
    folder: TempDir,
}

impl Nameserver {
    /// Starts it with these lines of a hosts file.
    pub(crate) fn start(port: u16, ttl: u32, hosts: &str) -> Self {
        Self::begin(port, ttl, None, Ipv4Addr::LOCALHOST, LONGEST, hosts)
    }

    /// The same on port 53 of a pod's loopback.
    pub(crate) fn start_in(pod: &Pod, ttl: u32, hosts: &str) -> Self {
        Self::begin(53, ttl, Some(pod.clone()), Ipv4Addr::LOCALHOST, LONGEST, hosts)
    }

    /// The same for other pods, with datagrams as short as they may be.
    pub(crate) fn start_terse(pod: &Pod, ttl: u32, hosts: &str) -> Self {
        Self::begin(53, ttl, Some(pod.clone()), pod.v4, 512, hosts)
    }

    fn begin(port: u16, ttl: u32, pod: Option<Pod>, address: Ipv4Addr, longest: u16, hosts: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut server = Self { process: None, port, ttl, pod, address, longest, folder };
        server.restart(hosts);
        server
    }

    /// Ends it: nobody answers any more.
    pub(crate) fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again, with this to say.
    pub(crate) fn restart(&mut self, hosts: &str) {
        self.stop();
        let file = self.folder.path().join("hosts");
        fs::write(&file, hosts).expect("a hosts file");
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--log-facility=-"]);
        command.args(["--no-resolv", "--no-hosts", "--bind-interfaces"]);
        // What is not in the file is no name.
        command.args(["--user=root", "--address=/#/"]);
        command.args([format!("--port={}", self.port), format!("--local-ttl={}", self.ttl)]);
        command.arg(format!("--listen-address={}", self.address));
        command.arg(format!("--edns-packet-max={}", self.longest));
        command.arg(format!("--addn-hosts={}", file.display()));
        if let Some(pod) = &self.pod {
            command = pod.here(As::Root, &command);
        }
        let process = self.process.insert(Process::spawn("dnsmasq", &mut command));
        // It has bound its port then.
        wait_until("dnsmasq", Duration::from_secs(10), || process.stderr().contains("started, version"));
    }

    /// Has it say something else from now on.
    pub(crate) fn say(&mut self, hosts: &str) {
        fs::write(self.folder.path().join("hosts"), hosts).expect("a hosts file");
        let process = self.process.as_ref().expect("it runs");
        let hung_up = Command::new("kill").args(["-HUP", &process.id().to_string()]).status();
        assert!(hung_up.expect("kill runs").success());
    }
}

/// Runs the test that calls it in network and mount namespaces of its own, with these addresses on its loopback interface:
/// resolv.conf is this text there, and the machine's own is untouched. `true` inside, where the test goes on; `false` outside,
/// once it has passed inside.
pub(crate) fn alone(test: &str, resolv_conf: &str, addresses: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        settle(resolv_conf, addresses);
        return true;
    }
    let program = std::env::current_exe().expect("the test's program");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--fork", "--kill-child"]).arg(program);
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    let done = run(&mut command, Duration::from_secs(120));
    let passed = done.code == Some(0) && done.stdout.contains("1 passed");
    assert!(passed, "inside (it needs root):\n{}\n{}", done.stdout, done.stderr);
    false
}

fn settle(resolv_conf: &str, addresses: &[&str]) {
    command("ip", ["link", "set", "lo", "up"].map(OsString::from));
    for address in addresses {
        command("ip", ["addr", "add", address, "dev", "lo"].map(OsString::from));
    }
    let folder = tempfile::tempdir().expect("a temporary folder").keep();
    for (name, text) in [("resolv.conf", resolv_conf), ("hosts", "127.0.0.1 localhost\n")] {
        let (file, system) = (folder.join(name), Path::new("/etc").join(name));
        fs::write(&file, text).expect("a file");
        command("mount", ["--bind".into(), file.into_os_string(), system.into_os_string()]);
    }
}

fn command<const N: usize>(program: &str, arguments: [OsString; N]) {
    let done = run(Command::new(program).args(&arguments), Duration::from_secs(10));
    assert_eq!(done.code, Some(0), "{program} {arguments:?}: {}", done.stderr);
}

/// What dnsmasq says where nobody tells it.
const LONGEST: u16 = 1232;
/// Set inside.
const INSIDE: &str = "COUNTERSIGN_TEST_ALONE";
