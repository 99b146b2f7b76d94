//! Are names found as the system finds them, followed when they move, and kept when nobody answers? A sidecar whose
//! nameserver is dnsmasq, and places at several addresses that remember who came.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use countersign_proxy::metrics::Metrics;
use countersign_proxy::names::{Files, Names};
use serde_json::json;

use crate::support::client::raw;
use crate::support::fault::{CANARY_TOKEN, Fault, Mode, token_with};
use crate::support::issuer::SECRET;
use crate::support::nameserver::{Nameserver, alone};
use crate::support::policy::{self, Folder, document};
use crate::support::ports::Port;
use crate::support::process::{Process, run};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tls::Ca;
use crate::support::wait_until;

const RESOLV_CONF: &str = "nameserver 127.0.0.1\n\
    search shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5 timeout:1 attempts:2\n";
const ADDRESSES: &[&str] = &["10.77.0.1/32", "10.77.0.2/32", "10.77.0.3/32", "10.77.0.9/32"];
/// Seconds.
const TTL: u32 = 2;

/// One port at every address of the machine. It says at which address it was reached, and closes.
struct Places {
    port: u16,
    visits: Arc<Mutex<Vec<Visit>>>,
}

#[derive(Clone, Debug)]
struct Visit {
    at: Instant,
    address: IpAddr,
    head: String,
}

/// A sidecar with a token for these hosts on the port of the places.
struct World {
    places: Places,
    proxy: Proxy,
    _fault: Fault,
    _folder: Folder,
}

// === impl Places ===

impl Places {
    fn open() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port");
        let places = Self { port: listener.local_addr().expect("an address").port(), visits: Arc::default() };
        let visits = places.visits.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let visits = visits.clone();
                thread::spawn(move || serve(stream, &visits));
            }
        });
        places
    }

    /// Forgets who came until now, and says who it was.
    fn visits(&self) -> Vec<Visit> {
        std::mem::take(&mut *self.visits.lock().expect("visits"))
    }
}

fn serve(mut stream: TcpStream, visits: &Mutex<Vec<Visit>>) {
    let address = stream.local_addr().expect("an address").ip();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    visits.lock().expect("visits").push(Visit { at: Instant::now(), address, head });
    let body = address.to_string();
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
}

impl Visit {
    fn carries_token(&self) -> bool {
        self.head.contains(&format!("Bearer {CANARY_TOKEN}"))
    }
}

// === impl World ===

impl World {
    fn new(hosts: &[&str]) -> Self {
        let fault = Fault::alone(Mode::Answer(token_with(&json!({}))));
        let places = Places::open();
        let rule = json!({"to": {"hosts": hosts, "ports": [places.port]}, "sameAudience": true});
        let text = fault.issuer("http://127.0.0.1:1")
            + &policy::credential()
            + &policy::outbound(places.port, &rule);
        let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
        let proxy = Settings::policies(folder.path(), "checkout").start();
        Self { places, proxy, _fault: fault, _folder: folder }
    }

    /// One request for this authority: its status and body.
    fn ask(&self, host: &str) -> (u16, String) {
        let port = self.places.port;
        let head = format!("GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n");
        let answer = raw(self.proxy.outbound(), head.as_bytes()).expect("an answer");
        (answer.status, answer.text())
    }

    /// Who was visited, by a request for this host, and with the token?
    fn reached(&self, host: &str) -> Vec<(String, bool)> {
        self.places.visits();
        let (status, body) = self.ask(host);
        let visits = self.places.visits();
        assert!(visits.is_empty() || status == 200, "{host}: {status} {body}");
        let written = format!("\r\nhost: {host}:{}\r\n", self.places.port).to_lowercase();
        assert!(visits.iter().all(|visit| visit.head.to_lowercase().contains(&written)), "{visits:?}");
        visits.iter().map(|visit| (visit.address.to_string(), visit.carries_token())).collect()
    }
}

#[test]
fn out_1_out_2_names_are_completed_as_the_system_does_and_the_token_goes_to_the_rule_s_host() {
    let test = "with_dnsmasq::out_1_out_2_names_are_completed_as_the_system_does_and_the_token_goes_to_the_rule_s_host";
    if !alone(test, RESOLV_CONF, ADDRESSES) {
        return;
    }
    let _dns = Nameserver::start(
        53,
        TTL,
        "10.77.0.1 orders.shop.svc.cluster.local a.web.svc.cluster.local\n\
         10.77.0.2 other.shop.svc.cluster.local\n10.77.0.9 orders.shop b.web orders\n\
         10.77.0.3 pay.test\n10.77.0.2 pay.test.shop.svc.cluster.local\n",
    );
    let world = World::new(&[
        "orders.shop.svc.cluster.local",
        "*.web.svc.cluster.local",
        "gone.shop.svc.cluster.local",
        "pay.test",
    ]);
    let (token, bare) = (true, false);
    let at = |address: &str, token: bool| vec![(address.to_owned(), token)];
    for host in ["orders", "Orders", "orders.shop", "orders.shop.svc", "orders.shop.svc.cluster.local."] {
        assert_eq!(world.reached(host), at("10.77.0.1", token), "{host}");
    }
    assert_eq!(world.reached("a.web"), at("10.77.0.1", token), "a wildcard, by a name that is somebody's");
    // No rule is about them: they go where the system would lead them, without a token.
    assert_eq!(world.reached("orders.shop."), at("10.77.0.9", bare), "complete: somebody else's");
    assert_eq!(world.reached("b.web"), at("10.77.0.9", bare), "the wildcard fits, but nobody is there");
    assert_eq!(world.reached("other"), at("10.77.0.2", bare));
    assert_eq!(world.reached("10.77.0.1"), at("10.77.0.1", bare));
    // With a dot it is complete, also where a rule names just that; without one the system completes it first.
    assert_eq!(world.reached("pay.test."), at("10.77.0.3", token));
    assert_eq!(world.reached("pay.test"), at("10.77.0.2", token));
    // A rule names it, and it is not there: it goes nowhere, whoever else may have the shorter name.
    assert_eq!(world.reached("gone"), []);
    assert_eq!(world.ask("gone").0, 502);
}

/// A tunnel is for whom a short name means, as a request is; inside, the TLS may ask for it by either name.
#[test]
fn out_12_a_tunnel_to_a_short_name_leads_to_the_rule_s_host() {
    let test = "with_dnsmasq::out_12_a_tunnel_to_a_short_name_leads_to_the_rule_s_host";
    if !alone(test, RESOLV_CONF, ADDRESSES) {
        return;
    }
    let _dns =
        Nameserver::start(53, TTL, "10.77.0.1 orders.shop.svc.cluster.local\n10.77.0.9 orders other\n");
    let (pair, port) = (Ca::new("theirs").server(), Port::lease().number());
    let spec = json!({"rules": [
        {"name": "orders", "to": {"hosts": ["orders.shop.svc.cluster.local"], "ports": [port]}, "tls": "passthrough"},
    ]});
    let policy = document("OutboundPolicy", "checkout", &spec);
    let folder = Folder::with(&[("policy.yaml", &policy), ("tls.crt", &pair.cert), ("tls.key", &pair.key)]);
    let mut openssl = Command::new("openssl");
    openssl.args(["s_server", "-www", "-quiet", "-accept", &format!("10.77.0.1:{port}")]);
    openssl.arg("-cert").arg(folder.file("tls.crt")).arg("-key").arg(folder.file("tls.key"));
    let _openssl = Process::spawn("openssl s_server", &mut openssl);
    wait_until("openssl listens", Duration::from_secs(10), || {
        TcpStream::connect(("10.77.0.1", port)).is_ok()
    });
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let curl = |tunnel: &str, asks_for: &str| {
        let mut command = Command::new("curl");
        command.args(["-q", "--silent", "--insecure", "--max-time", "20", "--noproxy", "", "--proxytunnel"]);
        command.args(["--output", "/dev/null", "--write-out", "%{http_connect} %{http_code}"]);
        command.args(["--proxy", &format!("http://{}", proxy.outbound())]);
        command.args(["--connect-to", &format!("::{tunnel}:{port}"), &format!("https://{asks_for}:{port}/")]);
        run(&mut command, Duration::from_secs(30)).stdout
    };
    let full = "orders.shop.svc.cluster.local";
    for (tunnel, asks_for) in
        [("orders", "orders"), ("orders.shop", "orders.shop"), ("orders", full), (full, full)]
    {
        assert_eq!(curl(tunnel, asks_for), "200 200", "{tunnel} for {asks_for}\n{}", proxy.log());
    }
    // Another name inside; names that are complete, or somebody else's.
    assert_eq!(curl("orders", "orders.shop"), "200 000");
    assert_eq!(curl("orders.", "orders"), "405 000");
    assert_eq!(curl("other", "other"), "405 000");
    assert_eq!(curl(&format!("{full}."), full), "200 200");
}

/// A nameserver that leads a rule's host to this machine's loopback gets nobody's token (DNS rebinding).
#[test]
fn out_1_a_name_that_is_led_to_loopback_is_not_followed() {
    let test = "with_dnsmasq::out_1_a_name_that_is_led_to_loopback_is_not_followed";
    if !alone(test, RESOLV_CONF, ADDRESSES) {
        return;
    }
    let hosts = ["orders.example", "both.example"];
    let _dns = Nameserver::start(
        53,
        TTL,
        "127.0.0.1 orders.example both.example\n0.0.0.0 orders.example\n::1 orders.example\n10.77.0.1 both.example\n",
    );
    let world = World::new(&hosts);
    for _ in 0..4 {
        assert_eq!(world.reached(hosts[0]), []);
        assert_eq!(world.reached(hosts[1]), [("10.77.0.1".to_owned(), true)]);
    }
}

/// The service moves twice, and between that nobody answers for longer than its TTL.
#[test]
fn a_moved_service_is_followed_within_its_ttl_and_an_outage_fails_no_request() {
    let test = "with_dnsmasq::a_moved_service_is_followed_within_its_ttl_and_an_outage_fails_no_request";
    if !alone(test, RESOLV_CONF, ADDRESSES) {
        return;
    }
    let host = "orders.shop.svc.cluster.local";
    let at = |address: &str| format!("{address} {host}\n");
    let mut dns = Nameserver::start(53, TTL, &at("10.77.0.1"));
    let world = World::new(&[host]);
    let unanswered = || world.proxy.scrape().sum("countersign_names_unanswered", &[]);
    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let (status, body) = world.ask("orders");
                    assert_eq!(status, 200, "{body}");
                    sent.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(2));
                }
            });
        }
        let last_at = |address: &str, since: Instant| {
            let visits = world.places.visits();
            assert!(visits.iter().all(Visit::carries_token), "{visits:?}");
            let there = visits.iter().filter(|visit| visit.address.to_string() == address);
            there.map(|visit| visit.at.saturating_duration_since(since)).max()
        };
        thread::sleep(Duration::from_secs(3));

        let moved = Instant::now();
        dns.say(&at("10.77.0.2"));
        thread::sleep(Duration::from_secs(5));
        let late = last_at("10.77.0.1", moved).expect("it was there");
        assert!(late < Duration::from_millis(2500), "followed only after {late:?}");
        assert!(last_at("10.77.0.1", moved).is_none(), "nobody goes there any more");

        dns.stop();
        wait_until("trouble that is told", Duration::from_secs(15), || unanswered() > 0.0);
        thread::sleep(Duration::from_secs(5));
        let before = sent.load(Ordering::Relaxed);
        thread::sleep(Duration::from_secs(1));
        assert!(sent.load(Ordering::Relaxed) > before + 10, "requests go on");
        assert!(last_at("10.77.0.3", moved).is_none());

        dns.restart(&at("10.77.0.3"));
        wait_until("the end of trouble", Duration::from_secs(15), || unanswered() == 0.0);
        thread::sleep(Duration::from_millis(200));
        world.places.visits();
        thread::sleep(Duration::from_millis(500));
        assert!(world.places.visits().iter().all(|visit| visit.address == IpAddr::from([10, 77, 0, 3])));
    });
    assert!(sent.load(Ordering::Relaxed) > 500, "{sent:?}");
    let scrape = world.proxy.scrape();
    assert_eq!(
        scrape.sum("countersign_requests_total", &[("direction", "outbound"), ("decision", "attach")]),
        scrape.sum("countersign_requests_total", &[("direction", "outbound")]),
        "none failed"
    );
    let log = world.proxy.log();
    assert_eq!(log.matches("no nameserver answers for a name").count(), 1, "{log}");
    assert_eq!(log.matches("a name is answered for again").count(), 1, "{log}");
}

/// Ends the load when the scope ends, whatever the reason.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// dnsmasq, asked by the sidecar's own resolver: what it shows in parts is known whole.
#[test]
fn a_name_with_many_addresses_is_recognised_by_all_of_them() {
    let port = Port::lease();
    // What a port is leased by: dnsmasq takes it over.
    let number = port.number();
    drop(port);
    let line = |range: std::ops::Range<u8>| -> String {
        range.map(|last| format!("10.78.0.{last} pool.example\nfd78::{last} pool.example\n")).collect()
    };
    let mut dns = Nameserver::start(number, 1, &line(1..9));
    let folder = tempfile::tempdir().expect("a folder");
    let files = Files {
        resolv_conf: folder.path().join("resolv.conf"),
        hosts: folder.path().join("hosts"),
        port: number,
    };
    std::fs::write(&files.resolv_conf, "nameserver 127.0.0.1\noptions timeout:2\n").expect("a file");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let names =
        Names::of(files, runtime.handle().clone(), Metrics::new().expect("a registry")).expect("a resolver");
    let hosts: Vec<Arc<str>> = vec!["pool.example".into()];
    names.keep(hosts.clone());
    let whose =
        |address: String| runtime.block_on(names.at(address.parse().expect("an address"), &hosts)) == hosts;
    for last in 1..9 {
        assert!(whose(format!("10.78.0.{last}")) && whose(format!("fd78::{last}")), "{last}");
    }
    // Another part of them from now on: both are known.
    dns.say(&line(9..17));
    thread::sleep(Duration::from_millis(1500));
    for last in 1..17 {
        assert!(whose(format!("10.78.0.{last}")) && whose(format!("fd78::{last}")), "{last}");
    }
    assert!(!whose("10.78.0.99".to_owned()));
    // To dial: the present ones alone, both families, beginning with another one each time.
    let dial =
        || runtime.block_on(names.addresses("pool.example", Duration::from_secs(2))).expect("addresses");
    let firsts: BTreeSet<IpAddr> = (0..32).filter_map(|_| dial().first().copied()).collect();
    assert_eq!((dial().len(), firsts.len()), (16, 8), "{firsts:?}");
}

#[test]
fn no_address_no_answer_and_no_route_are_told_apart() {
    if !alone("with_dnsmasq::no_address_no_answer_and_no_route_are_told_apart", RESOLV_CONF, ADDRESSES) {
        return;
    }
    let mut dns = Nameserver::start(53, TTL, "192.0.2.1 far.test\n");
    let rule = json!({
        "name": "all", "to": {"hosts": ["*.test"]}, "tls": "none", "timeouts": {"connect": "500ms"},
    });
    let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "rules": [rule]});
    let folder = Folder::with(&[("policy.yaml", &document("OutboundPolicy", "checkout", &spec))]);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let assert_fails = |host: &str, status: u16, reason: &str, error: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = raw(proxy.outbound(), head.as_bytes()).expect("an answer");
        assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{host}");
        assert_eq!(answer.header("proxy-status"), Some(format!("countersign; error={error}").as_str()));
    };
    assert_fails("gone.test", 502, "upstream_unreachable", "dns_error");
    assert_fails("far.test", 502, "upstream_unreachable", "destination_ip_unroutable");
    dns.stop();
    // It hears questions, and says nothing.
    let _mute = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).expect("the port of the nameserver");
    assert_fails("late.test", 504, "upstream_timeout", "dns_timeout");
}
