//! Does a sidecar forget those who have left? Connections opened and closed from 16 addresses at once as fast as the machine
//! makes it, outbound and inbound, and what the sidecar holds before and after. `COUNTERSIGN_CHURN=60` makes the round last a
//! minute instead of some seconds; nextest shows the figures with `--success-output final`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;

use crate::support::meshed::Meshed;
use crate::support::pair::{Pair, rule, whole};
use crate::support::pods::{As, Pod};
use crate::support::process::Process;
use crate::support::wait_until;

/// Seconds of one round.
fn lasts() -> u64 {
    let asked = std::env::var("COUNTERSIGN_CHURN");
    asked.map_or(8, |seconds| seconds.parse().expect("COUNTERSIGN_CHURN: a number of seconds"))
}

const SOURCES: u8 = 16;

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    /// Resident memory, in KiB.
    memory: u64,
}

impl Held {
    fn by(sidecar: &Meshed) -> Self {
        let folder = format!("/proc/{}", sidecar.id());
        let descriptors = fs::read_dir(format!("{folder}/fd")).expect("it runs").count();
        let status = fs::read_to_string(format!("{folder}/status")).expect("it runs");
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        Self { descriptors, memory: memory.trim().trim_end_matches(" kB").parse().expect("a number") }
    }

    /// Once nobody is there any more.
    fn at_rest(sidecar: &Meshed) -> Self {
        wait_until("all connections to be closed", Duration::from_secs(10), || {
            let scrape = sidecar.scrape();
            scrape.sum("countersign_connections", &[]) == 0.0
        });
        std::thread::sleep(Duration::from_millis(500));
        Self::by(sidecar)
    }
}

/// Makes room for many connections that have just ended.
fn make_room(pod: &Pod) {
    for (setting, value) in [
        ("net/ipv4/tcp_tw_reuse", 1),
        // Rules of nat remember each connection.
        ("net/netfilter/nf_conntrack_tcp_timeout_time_wait", 1),
        ("net/netfilter/nf_conntrack_tcp_timeout_close", 1),
    ] {
        let line = format!("test ! -e /proc/sys/{setting} || echo {value} > /proc/sys/{setting}");
        assert_eq!(pod.run(As::Root, "sh", &["-c", &line]).code, Some(0), "{setting}");
    }
}

/// More addresses for those who ask: 10.16.NET.1 and on.
fn addresses(pod: &Pod, device: &str, net: u8) -> Vec<Ipv4Addr> {
    let addresses: Vec<_> = (1..=SOURCES).map(|last| Ipv4Addr::new(10, 16, net, last)).collect();
    for address in &addresses {
        pod.ip(&format!("address add {address}/16 dev {device}"));
    }
    addresses
}

/// Connections from all of these addresses to each of these in turn. What the clients say of them in the end.
struct Churn(Process);

impl Churn {
    fn start(pod: &Pod, seconds: u64, from: &[Ipv4Addr], to: &[String]) -> Self {
        let from: Vec<_> = from.iter().map(ToString::to_string).collect();
        let mut command = pod.own(As::Application, "countersign-witness");
        command.args(["churn", &seconds.to_string(), &from.join(",")]).args(to);
        Self(Process::spawn("countersign-witness", &mut command))
    }

    /// How many ended as this says, and how many in all.
    fn end(mut self, expected: &str) -> (u64, u64) {
        let status = self.0.wait(Duration::from_secs(2 * lasts() + 90));
        assert!(status.success(), "{}", self.0.stderr());
        let (mut good, mut all) = (0, 0);
        for line in self.0.stdout().lines() {
            let (how, count) = line.rsplit_once(' ').expect("a line and a number");
            let count: u64 = count.parse().expect("a number");
            all += count;
            if expected.split('|').any(|expected| expected == how) {
                good += count;
            } else {
                eprintln!("{how}: {count}");
            }
        }
        (good, all)
    }
}

#[test]
fn timed_connections_from_many_addresses_leave_nothing_behind() {
    let open = json!({"ports": [7000], "protocol": "tcp", "rules": [{"name": "all", "public": true}]});
    let guarded = json!({
        "ports": [8080], "tokens": [{"issuer": "corp", "audiences": ["https://orders.shop"]}],
        "rules": [{"name": "read", "from": {"scopes": ["orders:read"]}}],
    });
    // 7001 is a port of a rule for somebody else: each connection is looked at.
    let outbound = json!({"rules": [rule("other", &["other.shop.test"], &[7001])]});
    let pair = Pair::start(&outbound, &[open, guarded], &[], "203.0.113.99 other.shop.test\n");
    let [a, b] = pair.pods();
    let world = &pair.net.world;
    for pod in [a, b, world] {
        make_room(pod);
    }
    let (ours, theirs) = (addresses(a, "eth0", 1), addresses(world, "br0", 3));
    let any = |port: u16| SocketAddr::from(([0; 16], port));
    let _servers = [b.witness(As::Root, &[any(7000), any(8080)]), world.witness(As::Root, &[any(7001)])];

    let round = |seconds: u64| {
        // A sidecar for each direction, both at once: a's for what it sends out, b's for what comes in from the world, by bytes
        // and by HTTP, which is refused.
        let out = Churn::start(a, seconds, &ours, &["203.0.113.5:7001".to_owned()]);
        let to = [format!("{}:7000", b.v4), format!("http://{}:8080", b.v4)];
        let inward = Churn::start(world, seconds, &theirs, &to);
        (out.end("line"), inward.end("line|401"))
    };
    let (warm, _) = round(3);
    assert!(warm.0 > 0);
    let before = [&pair.checkout, &pair.orders].map(Held::at_rest);
    let seconds = lasts();
    let (out, inward) = round(seconds);
    let after = [&pair.checkout, &pair.orders].map(Held::at_rest);
    eprintln!(
        "{seconds} s: outbound {} ({}/s), inbound {} ({}/s); before {before:?}, after {after:?}",
        out.1,
        out.1 / seconds,
        inward.1,
        inward.1 / seconds
    );
    // All of them were served, and by whom we mean.
    assert_eq!((out.0, inward.0), (out.1, inward.1), "none failed");
    assert!(out.1 / seconds > 100 && inward.1 / seconds > 100, "{out:?} {inward:?}");
    let bypassed =
        pair.checkout.scrape().sum("countersign_outbound_bypassed_total", &[("reason", "no_rule")]);
    assert!(whole(bypassed) >= out.1, "{bypassed} of {out:?}");
    let entered = pair.orders.scrape().sum("countersign_requests_total", &[("direction", "inbound")]);
    assert!(whole(entered) >= inward.1, "{entered} of {inward:?}");
    for (before, after) in before.iter().zip(&after) {
        assert!(after.descriptors <= before.descriptors + 8, "descriptors: {before:?} {after:?}");
        // Not 200 bytes for each that was there, where the machine makes 4,000 a second.
        assert!(after.memory <= before.memory + 6 * 1024, "memory: {before:?} {after:?}");
    }
}
