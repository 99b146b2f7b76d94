//! Where do traffic's own roads come from? Simulated pods: network namespaces on a bridge that stands in one of its own, all
//! of them gone when the test ends, and the machine's own network as it was.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::binary;
use super::process::{Finished, Process, run};

/// A bridge and what hangs on it. It is the pods' default gateway, and any address of 203.0.113.0/24, 2001:db8::/32 and
/// 169.254.169.254 leads to it: servers there are "the world".
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) world: Pod,
    pub(crate) pods: Vec<Pod>,
    before: Host,
    /// Programs where every user can run them.
    _programs: TempDir,
}

/// One network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    name: String,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
    programs: PathBuf,
}

/// As whom a program runs in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum As {
    /// With all rights, as an init container's would be.
    Root,
    /// 16016:16016 without capabilities, as Kubernetes runs the sidecar.
    Sidecar,
    /// 1000:1000 without capabilities.
    Application,
    /// This user and group, without capabilities.
    Ids(u32, u32),
}

const LIMIT: Duration = Duration::from_secs(20);

// === impl Net ===

impl Net {
    /// A bridge with so many pods. The machine's own network is looked at before and compared when this is dropped.
    pub(crate) fn with_pods(count: u8) -> Self {
        let status = fs::read_to_string("/proc/self/status").expect("/proc/self/status");
        let root = status
            .lines()
            .any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
        assert!(
            root,
            "network namespaces need root: run as root; tests/run --allow-missing leaves these tests out"
        );
        remove_stale();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (pid, net) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let prefix = format!("{PREFIX}-{pid}-{}-{net}", started(pid).expect("we run"));
        let programs = tempfile::tempdir().expect("a temporary folder");
        open_to_all(programs.path());
        let pod = |last: u8| Pod {
            name: format!("{prefix}-{last}"),
            v4: Ipv4Addr::new(10, 16, 0, last),
            v6: Ipv6Addr::new(0xfd16, 0, 0, 0, 0, 0, 0, last.into()),
            programs: programs.path().to_owned(),
        };
        let net = Self {
            world: pod(254),
            pods: (1..=count).map(pod).collect(),
            before: Host::now(),
            _programs: programs,
        };
        net.build();
        net
    }

    /// What the names of its namespaces begin with: others that begin so are removed if the test is killed.
    pub(crate) fn name(&self) -> &str {
        self.world.name.rsplit_once('-').map_or("", |(name, _)| name)
    }

    fn build(&self) {
        let world = &self.world;
        world.add();
        world.ip("link add br0 type bridge");
        world.ip(&format!("address add {}/24 dev br0", world.v4));
        world.ip(&format!("-6 address add {}/64 dev br0 nodad", world.v6));
        world.ip("link set br0 up");
        world.ip("route add local 203.0.113.0/24 dev lo");
        world.ip("route add local 169.254.169.254/32 dev lo");
        world.ip("-6 route add local 2001:db8::/32 dev lo");
        let done = world.run(As::Root, "sh", &["-c", "echo 1 > /proc/sys/net/ipv6/ip_nonlocal_bind"]);
        assert_eq!(done.code, Some(0), "{done:?}");
        for pod in &self.pods {
            pod.add();
            let [.., last] = pod.v4.octets();
            // Made where they belong: the machine's own namespace never sees them.
            world.ip(&format!("link add pod{last} type veth peer name eth0 netns {}", pod.name));
            world.ip(&format!("link set pod{last} master br0 up"));
            pod.ip(&format!("address add {}/24 dev eth0", pod.v4));
            pod.ip(&format!("-6 address add {}/64 dev eth0 nodad", pod.v6));
            pod.ip("link set eth0 up");
            pod.ip(&format!("route add default via {}", world.v4));
            pod.ip(&format!("-6 route add default via {}", world.v6));
            pod.resolve_by("");
        }
        for pod in &self.pods {
            super::wait_until("the pod's link", LIMIT, || {
                pod.ip("-oneline link show eth0").contains("state UP")
            });
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for pod in self.pods.iter().chain([&self.world]) {
            remove(&pod.name);
        }
        if !std::thread::panicking() {
            assert_eq!(Host::now(), self.before, "the machine's own network is as it was");
        }
    }
}

// === impl Pod ===

impl Pod {
    fn add(&self) {
        ip(&["netns", "add", &self.name]);
        self.ip("link set lo up");
    }

    /// `ip` in this namespace, words separated by spaces. Returns what it prints.
    pub(crate) fn ip(&self, words: &str) -> String {
        let mut arguments = vec!["-n", &self.name];
        arguments.extend(words.split(' '));
        ip(&arguments)
    }

    /// Writes the pod's `/etc/resolv.conf`; programs that start later see it.
    pub(crate) fn resolve_by(&self, resolv_conf: &str) {
        let folder = Path::new("/etc/netns").join(&self.name);
        fs::create_dir_all(&folder).expect("/etc/netns can be written");
        fs::write(folder.join("resolv.conf"), resolv_conf).expect("a resolv.conf");
    }

    /// Writes the pod's `/etc/hosts`, likewise.
    pub(crate) fn hosts(&self, hosts: &str) {
        let folder = Path::new("/etc/netns").join(&self.name);
        fs::create_dir_all(&folder).expect("/etc/netns can be written");
        fs::write(folder.join("hosts"), hosts).expect("a hosts file");
    }

    /// A command that runs in the pod. It becomes the program itself (no shell or wrapper stays), so its id is the
    /// program's.
    pub(crate) fn command(&self, who: As, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]);
        let ids = match who {
            As::Root => None,
            As::Sidecar => Some((16016, 16016)),
            As::Application => Some((1000, 1000)),
            As::Ids(user, group) => Some((user, group)),
        };
        if let Some((user, group)) = ids {
            command.arg("setpriv").args([
                format!("--reuid={user}"),
                format!("--regid={group}"),
                "--clear-groups".to_owned(),
                "--inh-caps=-all".to_owned(),
                "--bounding-set=-all".to_owned(),
                "--no-new-privs".to_owned(),
            ]);
        }
        command.arg(program);
        command
    }

    /// A command that was made for elsewhere, with its arguments and variables, in the pod.
    pub(crate) fn here(&self, who: As, elsewhere: &Command) -> Command {
        let mut command = self.command(who, elsewhere.get_program());
        command.args(elsewhere.get_args());
        command.envs(elsewhere.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// The path of a program of this workspace, where any user can run it.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        let path = self.programs.join(name);
        if !path.exists() {
            let built = binary(name);
            fs::hard_link(&built, &path)
                .or_else(|_| fs::copy(&built, &path).map(|_| ()))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        path
    }

    /// The same as a command.
    pub(crate) fn own(&self, who: As, name: &str) -> Command {
        self.command(who, self.program(name))
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, who: As, program: &str, arguments: &[&str]) -> Finished {
        run(self.command(who, program).args(arguments), LIMIT)
    }

    /// A witness that listens on these addresses.
    pub(crate) fn witness(&self, who: As, addresses: &[SocketAddr]) -> Process {
        let mut command = self.own(who, "countersign-witness");
        command.arg("listen").args(addresses.iter().map(ToString::to_string));
        let mut process = Process::spawn("countersign-witness", &mut command);
        assert_eq!(process.first_line(LIMIT), "ready");
        process
    }

    /// Connects to these addresses from within the pod; what each answered, in the same order.
    pub(crate) fn ask(&self, who: As, addresses: &[SocketAddr]) -> Vec<String> {
        self.ask_by("ask", who, addresses)
    }

    /// The same by UDP.
    pub(crate) fn ask_udp(&self, who: As, addresses: &[SocketAddr]) -> Vec<String> {
        self.ask_by("ask-udp", who, addresses)
    }

    /// The same from sockets with the sidecar's mark.
    pub(crate) fn ask_marked(&self, addresses: &[SocketAddr]) -> Vec<String> {
        self.ask_by("ask-marked", As::Root, addresses)
    }

    fn ask_by(&self, how: &str, who: As, addresses: &[SocketAddr]) -> Vec<String> {
        let mut command = self.own(who, "countersign-witness");
        let limit = LIMIT + Duration::from_secs(3) * u32::try_from(addresses.len()).expect("few");
        let done = run(command.arg(how).args(addresses.iter().map(ToString::to_string)), limit);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let answers = done.stdout.lines().map(|line| line.split_once(' ').expect("an answer").1.to_owned());
        answers.collect()
    }

    /// Its addresses with this port.
    pub(crate) fn at(&self, port: u16) -> [SocketAddr; 2] {
        [IpAddr::from(self.v4), IpAddr::from(self.v6)].map(|ip| SocketAddr::new(ip, port))
    }
}

// === names and remains ===

/// `PREFIX-PID-START-NET-HOST`: the start time tells a process from a later one with its id.
const PREFIX: &str = "countersign-test";

/// Removes a namespace, whatever is left in it.
fn remove(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    for pid in pids.iter().flat_map(|output| std::str::from_utf8(&output.stdout)).flat_map(str::lines) {
        let _ = Command::new("kill").args(["-9", pid]).status();
    }
    let _ = Command::new("ip").args(["netns", "delete", name]).output();
    let _ = fs::remove_dir_all(Path::new("/etc/netns").join(name));
}

/// Removes what tests have left that were killed.
fn remove_stale() {
    let entries = ["/run/netns", "/etc/netns"].into_iter().filter_map(|folder| fs::read_dir(folder).ok());
    for entry in entries.flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')) else { continue };
        let mut parts = rest.split('-');
        let maker = parts.next().and_then(|pid| pid.parse().ok());
        let lives = maker.and_then(started).is_some_and(|start| parts.next() == Some(&start));
        if !lives {
            remove(&name);
        }
    }
}

/// When a process started, in ticks since boot; `None` if there is none.
fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19).map(str::to_owned)
}

fn ip(arguments: &[&str]) -> String {
    let done = Command::new("ip").args(arguments).output().expect("ip (iproute2) is installed");
    assert!(done.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Lets every user read a folder that a test made.
pub(crate) fn open_to_all(folder: &Path) {
    let done = Command::new("chmod").args(["-R", "go+rX"]).arg(folder).status().expect("chmod runs");
    assert!(done.success(), "chmod {}", folder.display());
}

// === the machine's own network ===

/// What must not change: rules, addresses, links and routes of the namespace that the tests run in.
#[derive(Debug, PartialEq, Eq)]
struct Host(Vec<(&'static str, String)>);

impl Host {
    fn now() -> Self {
        let mut seen = Vec::new();
        for command in [
            "nft --stateless list ruleset",
            "ip -oneline link",
            "ip -oneline address",
            "ip rule",
            "ip -6 rule",
            "ip route show table all",
            "ip -6 route show table all",
        ] {
            seen.push((command, lasting(&printed(command))));
        }
        // Asking a legacy table for its rules would make it.
        for (names, save) in [
            ("/proc/net/ip_tables_names", "iptables-legacy-save"),
            ("/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
        ] {
            let tables = fs::read_to_string(names).unwrap_or_default();
            let rules = if tables.is_empty() { String::new() } else { printed(save) };
            let rules: Vec<_> = rules.lines().filter(|line| line.starts_with('-')).collect();
            seen.push((names, tables + &rules.join("\n")));
        }
        Self(seen)
    }
}

fn printed(command: &str) -> String {
    let mut words = command.split(' ');
    let program = words.next().expect("a program");
    let done = Command::new(program).args(words).output();
    let done = done.unwrap_or_else(|error| panic!("{command}: {error}: tests/run installs what is missing"));
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Without what counts down by itself.
fn lasting(text: &str) -> String {
    let words = text.split_inclusive([' ', '\n']);
    let lasting = words.filter(|word| {
        !word.trim().trim_end_matches("sec").parse::<u64>().is_ok_and(|_| word.trim().ends_with("sec"))
    });
    lasting.collect()
}
