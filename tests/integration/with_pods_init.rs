//! Do the rules of `init` lead each connection where they should, and nothing else? In simulated pods, by real connections
//! to listeners that say where they were going to; with nftables, and with both kinds of iptables.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use crate::support::init::{FLAGS, LIMIT, Programs, rules, shell};
use crate::support::pods::{As, Net, Pod};
use crate::support::process::{Process, run};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

// === where connections go ===

/// Servers in two pods and the world, as the matrix needs them; the first pod has the sidecar.
struct Servers {
    net: Net,
    _running: Vec<Process>,
}

impl Servers {
    fn start() -> Self {
        let net = Net::with_pods(2);
        let [a, b] = &net.pods[..] else { panic!() };
        let any = |port| SocketAddr::from(([0; 16], port));
        let sidecar =
            ["127.0.0.1:16001", "[::1]:16001", "[::]:16006", "127.0.0.1:16020", "[::]:16021"].map(at);
        let application = [any(8080), any(9090), at("127.0.0.1:7070"), at("127.0.0.53:7053")];
        let world = [any(80)];
        let running = vec![
            a.witness(As::Sidecar, &sidecar),
            a.witness(As::Application, &application),
            b.witness(As::Root, &[any(8080), any(22), any(5005)]),
            net.world.witness(As::Root, &world),
        ];
        Self { net, _running: running }
    }
}

const OUTBOUND: &str = "outbound";
const INBOUND: &str = "inbound";
const DIRECT: &str = "direct";

/// Asks each and compares who answered, and where it says that the connection was going to.
fn assert_goes(from: &Pod, who: As, cases: &[(SocketAddr, &str)]) {
    let to: Vec<_> = cases.iter().map(|(to, _)| *to).collect();
    compare(&format!("{who:?}"), cases, &from.ask(who, &to));
}

fn compare(who: &str, cases: &[(SocketAddr, &str)], answers: &[String]) {
    assert_eq!(cases.len(), answers.len());
    for ((to, expected), answer) in cases.iter().zip(answers) {
        let mut words = answer.split(' ');
        let (listener, original) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (place, port) = match listener {
            "127.0.0.1:16001" if to.is_ipv4() => (OUTBOUND, 0),
            "[::1]:16001" if to.is_ipv6() => (OUTBOUND, 0),
            "[::]:16006" => (INBOUND, 0),
            _ => (DIRECT, listener.parse::<SocketAddr>().map_or(0, |at| at.port())),
        };
        assert_eq!(place, *expected, "{who} to {to}: {answer}");
        if place == DIRECT {
            assert_eq!(port, to.port(), "{who} to {to}: {answer}");
        } else {
            assert_eq!(original, to.to_string(), "{who} to {to}: {answer}");
        }
    }
}

fn both(pod: &Pod, port: u16, expected: &'static str) -> [(SocketAddr, &'static str); 2] {
    pod.at(port).map(|to| (to, expected))
}

/// The whole matrix, with rules for `FLAGS` installed.
fn assert_matrix(servers: &Servers) {
    let [a, b] = &servers.net.pods[..] else { panic!() };
    let application = [
        both(b, 8080, OUTBOUND),
        [(at("203.0.113.7:80"), OUTBOUND), (at("[2001:db8::7]:80"), OUTBOUND)],
        // The platform's metadata is a destination like any other.
        [(at("169.254.169.254:80"), OUTBOUND), (at("203.0.113.127:80"), OUTBOUND)],
        both(b, 22, DIRECT),
        both(b, 5005, DIRECT),
        [(at("203.0.113.128:80"), DIRECT), (at("[2001:db8:1::7]:80"), DIRECT)],
        [(at("127.0.0.1:7070"), DIRECT), (at("127.0.0.53:7053"), DIRECT)],
        [(at("127.0.0.1:8080"), DIRECT), (at("[::1]:8080"), DIRECT)],
        // Its own service, and its own ports that are bound on loopback alone.
        both(a, 8080, INBOUND),
        both(a, 7070, INBOUND),
        both(a, 9090, DIRECT),
        both(a, 16021, DIRECT),
        both(a, 16001, INBOUND),
        both(a, 16020, INBOUND),
    ];
    assert_goes(a, As::Application, application.as_flattened());
    assert_goes(a, As::Root, &both(b, 8080, OUTBOUND));
    // The sidecar itself reaches everybody, and the application at the pod's own address.
    let sidecar = [both(b, 8080, DIRECT), both(a, 8080, DIRECT)];
    for who in [As::Sidecar, As::Ids(16016, 1000), As::Ids(1000, 16016)] {
        assert_goes(a, who, sidecar.as_flattened());
    }
    let to: Vec<_> = sidecar.as_flattened().iter().map(|(to, _)| *to).collect();
    compare("marked", sidecar.as_flattened(), &a.ask_marked(&to));
    let neighbour = [
        both(a, 8080, INBOUND),
        both(a, 7070, INBOUND),
        both(a, 9090, DIRECT),
        both(a, 16021, DIRECT),
        both(a, 16001, INBOUND),
        both(a, 16006, INBOUND),
        both(a, 16020, INBOUND),
    ];
    assert_goes(b, As::Application, neighbour.as_flattened());
    for (from, to) in [(a, b), (b, a)] {
        compare("UDP", &both(to, 8080, DIRECT), &from.ask_udp(As::Application, &to.at(8080)));
    }
    compare("UDP", &[(at("203.0.113.7:80"), DIRECT)], &a.ask_udp(As::Application, &[at("203.0.113.7:80")]));
}

#[test]
fn inj_7_connections_go_where_the_rules_say() {
    let servers = Servers::start();
    let pod = &servers.net.pods[0];
    let untouched = rules(pod);
    for (name, programs) in Programs::all() {
        programs.install(pod, FLAGS);
        assert_matrix(&servers);
        programs.install(pod, &["--remove"]);
        // Without rules everything is direct again.
        let [a, b] = &servers.net.pods[..] else { panic!() };
        assert_goes(a, As::Application, [both(b, 8080, DIRECT), both(a, 8080, DIRECT)].as_flattened());
        assert_goes(b, As::Application, &both(a, 8080, DIRECT));
        if name != "iptables-nft" {
            assert_eq!(rules(pod), untouched, "{name}");
        }
    }
}

#[test]
fn what_is_included_alone_is_redirected() {
    let servers = Servers::start();
    let [a, b] = &servers.net.pods[..] else { panic!() };
    let flags = ["--include-inbound-ports=8080", "--include-outbound-cidrs=10.16.0.0/16,2001:db8::/32"];
    for (_, programs) in Programs::all() {
        programs.install(a, &flags);
        assert_goes(
            a,
            As::Application,
            &[
                (b.at(8080)[0], OUTBOUND),
                (b.at(8080)[1], DIRECT),
                (at("203.0.113.7:80"), DIRECT),
                (at("[2001:db8::7]:80"), OUTBOUND),
                (a.at(8080)[0], INBOUND),
                (a.at(9090)[1], DIRECT),
            ],
        );
        assert_goes(b, As::Application, [both(a, 8080, INBOUND), both(a, 9090, DIRECT)].as_flattened());
        programs.install(a, &["--remove"]);
    }
}

/// A neighbour that sends packets to 127.0.0.1 by way of us: led to the inbound listener they would arrive, from there
/// at what the application has bound on loopback alone.
#[test]
fn a_neighbour_does_not_reach_loopback_through_the_redirect() {
    let servers = Servers::start();
    let [a, b] = &servers.net.pods[..] else { panic!() };
    shell(
        b,
        &format!(
            "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
             ip route del table local local 127.0.0.0/8 dev lo
             ip route del table local local 127.0.0.1 dev lo
             ip route add 127.0.0.1/32 via {} src {}",
            a.v4, b.v4
        ),
    );
    let [asked, answered] = [(a, "ip daddr 127.0.0.1"), (b, "ip saddr 127.0.0.1")].map(|(pod, what)| {
        shell(
            pod,
            &format!(
                "nft add table ip seen
                 nft 'add chain ip seen here {{ type filter hook prerouting priority -300; }}'
                 nft add rule ip seen here iifname eth0 {what} counter"
            ),
        );
        move || {
            let seen = pod.run(As::Root, "nft", &["list", "table", "ip", "seen"]).stdout;
            let count = seen.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
            count.parse::<u64>().unwrap()
        }
    });
    for (name, programs) in Programs::all() {
        programs.install(a, &[]);
        let before = asked();
        let answers = b.ask(As::Application, &[at("127.0.0.1:7070")]);
        assert_eq!(answers, ["error: TimedOut"], "{name}");
        assert!(asked() > before, "{name}: the packets have come");
        assert_eq!(answered(), 0, "{name}: nobody answers them");
        programs.install(a, &["--remove"]);
    }
}

/// A packet that the kernel drops in silence makes an entry for its connection. If rules were asked about SYN alone, a
/// SYN behind it would pass along that entry, around us.
#[test]
fn no_packet_opens_a_way_for_the_syn_behind_it() {
    let net = Net::with_pods(2);
    let [a, b] = &net.pods[..] else { panic!() };
    let _application = a.witness(As::Application, &a.at(8080)[..1]);
    // The neighbour's own kernel knows nothing of its raw packets, and would reset what answers them.
    shell(
        b,
        "nft add table ip quiet
         nft 'add chain ip quiet out { type filter hook output priority 0; }'
         nft 'add rule ip quiet out tcp flags & rst == rst drop'",
    );
    let sneak = |port: u16| {
        let mut command = b.own(As::Root, "countersign-witness");
        let from = SocketAddr::from((b.v4, port));
        let done = run(command.args(["sneak", &from.to_string(), &a.at(8080)[0].to_string()]), LIMIT);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        done.stdout.trim().to_owned()
    };
    for (port, (name, programs)) in (40_000..).zip(Programs::all()) {
        programs.install(a, &[]);
        // Nobody listens where it is led to: any answer but a reset is the application's.
        assert_eq!(sneak(port), "RST", "{name}");
        programs.install(a, &["--remove"]);
    }
    Programs::nft().install(a, &[]);
    shell(a, "nft 'insert rule inet countersign inbound tcp flags & (fin|syn|rst|ack) != syn accept'");
    assert_eq!(sneak(40_010), "SYN-ACK", "this test can fail");
}

#[test]
fn connections_that_are_open_go_on_when_the_rules_are_replaced() {
    let servers = Servers::start();
    let [a, b] = &servers.net.pods[..] else { panic!() };
    let programs = Programs::nft();
    programs.install(a, &[]);
    let mut held = Held::open(a, b.at(8080)[0]);
    assert!(held.answer().contains(" 127.0.0.1:16001 "));
    for flags in [&["--exclude-outbound-ports=8080"][..], &[]] {
        programs.install(a, flags);
        let answer = held.ask();
        assert!(answer.contains(" 127.0.0.1:16001 "), "{flags:?}: {answer}");
    }
}

/// What is open when the first rules come was not led to the sidecar, and does not go on beside it.
#[test]
fn connections_from_before_the_first_rules_end() {
    let servers = Servers::start();
    let [a, b] = &servers.net.pods[..] else { panic!() };
    let mut held = [Held::open(a, b.at(8080)[0]), Held::open(b, a.at(8080)[1])];
    for held in &mut held {
        assert!(held.answer().contains(" [::]:8080 "));
    }
    Programs::nft().install(a, &[]);
    for held in &mut held {
        let answer = held.ask();
        eprintln!("{answer}");
        assert!(answer.contains("error: "), "{answer}");
    }
}

/// A client that keeps its connection and asks again on demand.
struct Held {
    child: Child,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Held {
    fn open(from: &Pod, to: SocketAddr) -> Self {
        let mut command = from.own(As::Application, "countersign-witness");
        command.args(["hold", &to.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, answers }
    }

    fn answer(&mut self) -> String {
        self.answers.next().unwrap().unwrap()
    }

    fn ask(&mut self) -> String {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.answer()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === replacing ===

#[test]
fn inj_7_timed_no_connection_escapes_while_the_rules_are_replaced() {
    let servers = Servers::start();
    let [a, b] = &servers.net.pods[..] else { panic!() };
    for (name, programs) in Programs::all() {
        programs.install(a, &[]);
        let probe = |from: &Pod, to: SocketAddr| {
            let mut command = from.own(As::Application, "countersign-witness");
            Process::spawn("a prober", command.args(["probe", &to.to_string(), "1000", "4"]))
        };
        // 2,000 a second: out by IPv4 and in by IPv6.
        let mut probers = [probe(a, b.at(8080)[0]), probe(b, a.at(8080)[1])];
        let (end, mut replaced) = (Instant::now() + Duration::from_millis(3500), 0);
        while Instant::now() < end {
            let flags: &[&str] = if replaced % 2 == 0 { &["--exclude-outbound-ports=22"] } else { &[] };
            programs.install(a, flags);
            replaced += 1;
        }
        for (prober, listener) in probers.iter_mut().zip(["127.0.0.1:16001", "[::]:16006"]) {
            assert!(prober.wait(LIMIT).success());
            let seen = prober.stdout();
            let count = seen.strip_prefix(listener).and_then(|rest| rest.trim().parse::<u64>().ok());
            assert!(count.is_some_and(|count| count > 1000), "{name}, replaced {replaced} times: {seen}");
        }
        assert!(replaced > 10, "{name}: {replaced}");
        programs.install(a, &["--remove"]);
    }
}
