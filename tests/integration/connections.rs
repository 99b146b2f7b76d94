//! Who may connect, when too many do? So many of one source, so many in all, and never at the cost of the application's own.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::support::policy::{Folder, document, inbound, issuer_with_file};
use crate::support::ports::Port;
use crate::support::process::{Process, run};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;
use crate::support::{binary, tls, wait_until};

const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const THREE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const SOON: Duration = Duration::from_secs(5);

fn open_to_all() -> Folder {
    let rules = json!([{"name": "all", "public": true, "to": {"paths": ["/*"]}}]);
    Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&rules))),
        ("keys.jwks", r#"{"keys":[]}"#),
    ])
}

fn bounded(folder: &Folder, target: SocketAddr, total: usize, per_source: usize) -> Proxy {
    let (total, per_source) = (total.to_string(), per_source.to_string());
    let flags = ["--max-connections", &total, "--max-connections-per-source", &per_source];
    Settings::policies(folder.path(), "orders").before(target).with(&flags).start()
}

fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((from, 0)).into()).expect("all of 127.0.0.0/8 is ours");
    socket.connect(&to.into()).expect("the queue has room");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

/// Says this and hears so much of the answer, or that the connection was reset.
fn ask(mut stream: &TcpStream, said: &str, expected: &str) -> io::Result<()> {
    stream.write_all(said.as_bytes())?;
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard)?;
    assert_eq!(String::from_utf8_lossy(&heard), expected);
    Ok(())
}

const GET: &str = "GET /status/204 HTTP/1.1\r\nHost: a\r\n\r\n";

/// A connection that is served, and stays open. `None`: it was reset.
fn held(from: Ipv4Addr, to: SocketAddr) -> Option<TcpStream> {
    let stream = connect(from, to);
    match ask(&stream, GET, "HTTP/1.1 204 ") {
        Ok(()) => Some(stream),
        Err(error) if is_reset(&error) => None,
        Err(error) => panic!("neither served nor reset: {error}"),
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

fn refused(proxy: &Proxy, direction: &str, cause: &str) -> f64 {
    let labels = [("direction", direction), ("cause", cause)];
    proxy.scrape().sum("countersign_connections_refused_total", &labels)
}

fn assert_is(found: f64, expected: u32) {
    assert!((found - f64::from(expected)).abs() < f64::EPSILON, "{found}, not {expected}");
}

#[test]
fn os_5_one_source_has_a_share_and_all_together_a_total() {
    let (folder, upstream) = (open_to_all(), Upstream::start());
    let proxy = bounded(&folder, upstream.address(), 5, 3);
    let to = proxy.inbound();
    let mut one: Vec<_> = (0..3).map(|_| held(ONE, to).expect("a place")).collect();
    assert!(held(ONE, to).is_none(), "one source has more than its share");
    let two: Vec<_> = (0..2).map(|_| held(TWO, to).expect("a place, whatever others do")).collect();
    assert_is(refused(&proxy, "inbound", "source"), 1);
    assert_is(refused(&proxy, "inbound", "total"), 0);
    assert!(held(THREE, to).is_none(), "there are more than the total");
    assert_is(refused(&proxy, "inbound", "total"), 1);
    // A place that was given back is anybody's.
    one.pop();
    let mut three = None;
    wait_until("a place", SOON, || {
        three = held(THREE, to);
        three.is_some()
    });
    drop((one, two, three));
    // Every place comes back, else there would be none for all of these.
    wait_until("all places", SOON, || {
        let again: Vec<_> =
            [ONE, ONE, ONE, TWO, TWO].into_iter().filter_map(|source| held(source, to)).collect();
        again.len() == 5
    });
    let log = proxy.log();
    assert!(log.contains(r#""cause":"source""#) && log.contains(r#""source":"127.0.0.1""#), "{log}");
    assert_is(proxy.scrape().sum("countersign_max_connections", &[("direction", "inbound")]), 5);
}

#[test]
fn os_5_a_flood_from_outside_leaves_the_way_out_and_the_pages() {
    let (folder, upstream) = (open_to_all(), Upstream::start());
    let proxy = bounded(&folder, upstream.address(), 30, 20);
    // None of them ever says a word.
    let silent: Vec<_> =
        (0..200).map(|n| connect(if n % 2 == 0 { ONE } else { TWO }, proxy.inbound())).collect();
    wait_until("the flood", SOON, || {
        refused(&proxy, "inbound", "source") + refused(&proxy, "inbound", "total") >= 170.0
    });
    assert!(held(THREE, proxy.inbound()).is_none());
    let out: Vec<_> = (0..30).map(|_| connect(ONE, proxy.outbound())).collect();
    let target = format!("GET http://{0}/status/204 HTTP/1.1\r\nHost: {0}\r\n\r\n", upstream.address());
    for out in &out {
        ask(out, &target, "HTTP/1.1 204 ").expect("the application's own connection");
    }
    assert!(is_reset(&ask(&connect(ONE, proxy.outbound()), &target, "HTTP/1.1 204 ").unwrap_err()));
    assert_is(refused(&proxy, "outbound", "total"), 1);
    drop(silent);
    wait_until("a place", SOON, || held(THREE, proxy.inbound()).is_some());
}

fn status_of(caller: &mut TcpStream) -> String {
    let mut answer = String::new();
    caller.read_to_string(&mut answer).expect("an answer, and the end of the connection");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn os_5_silent_neighbours_do_not_keep_a_probe_from_the_health_listener() {
    let (folder, listener) = (open_to_all(), Port::lease());
    let (flags, health) = (["--health", &listener.address().to_string()], listener.address());
    let proxy = Settings::policies(folder.path(), "orders").with(&flags).start();
    // Sources enough for all places, some of which say half a head; the one of the probe has all it may have.
    let neighbours: Vec<_> = (0..60)
        .map(|n| {
            let mut neighbour = connect(Ipv4Addr::new(127, 0, 0, 1 + n / 20), health);
            if n % 2 == 0 {
                neighbour.write_all(b"GET /livez HTTP/1.1\r\n").expect("it listens, or will");
            }
            neighbour
        })
        .collect();
    for from in [ONE, TWO, Ipv4Addr::new(127, 0, 0, 9)] {
        let (began, mut probe) = (Instant::now(), connect(from, health));
        probe.write_all(b"GET /livez HTTP/1.1\r\nHost: pod\r\n\r\n").expect("it listens");
        assert_eq!(status_of(&mut probe), "HTTP/1.1 200 OK", "{from}");
        assert!(began.elapsed() < Duration::from_secs(1), "{from}: {:?}", began.elapsed());
    }
    assert!(refused(&proxy, "health", "source") >= 10.0, "{}", refused(&proxy, "health", "source"));
    assert_is(refused(&proxy, "admin", "source") + refused(&proxy, "admin", "total"), 0);
    // Half a head has two seconds.
    for mut neighbour in neighbours {
        let heard = neighbour.read(&mut [0; 1]);
        assert!(
            heard.as_ref().map_or_else(is_reset, |read| *read == 0),
            "it is still listened to: {heard:?}"
        );
    }
}

/// Answers every upgrade to WebSocket with the key of RFC 6455 §1.3, and keeps the connection.
fn websocket_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
                );
                while let Ok(1..) = stream.read(&mut [0; 4096]) {}
            });
        }
    });
    address
}

#[test]
fn os_5_a_websocket_keeps_its_place_until_it_ends() {
    let folder = open_to_all();
    let proxy = bounded(&folder, websocket_server(), 2, 2);
    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let open = || {
        let stream = connect(ONE, proxy.inbound());
        ask(&stream, upgrade, "HTTP/1.1 101 ").map(|()| stream)
    };
    let mut tunnels = vec![open().expect("a place"), open().expect("a place")];
    let labels = [("direction", "inbound"), ("protocol", "websocket")];
    wait_until("both to be tunnels alone", SOON, || {
        let http = [("direction", "inbound"), ("protocol", "http")];
        let scrape = proxy.scrape();
        scrape.sum("countersign_connections", &labels) > 1.5
            && scrape.sum("countersign_connections", &http) < 0.5
    });
    assert!(is_reset(&open().expect_err("a third one")));
    tunnels.pop();
    wait_until("a place", SOON, || open().is_ok());
}

/// A tunnel of the application's: bytes that nobody looks into.
#[test]
fn os_5_a_relay_keeps_its_place_until_it_ends() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("it is bound").port();
    let rule = json!({"name": "tls", "to": {"hosts": ["localhost"], "ports": [port]}, "tls": "passthrough"});
    let folder =
        Folder::with(&[("policy.yaml", &document("OutboundPolicy", "checkout", &json!({"rules": [rule]})))]);
    let flags = ["--max-connections", "2"];
    let proxy = Settings::policies(folder.path(), "checkout").with(&flags).start();
    let open = || {
        let stream = connect(ONE, proxy.outbound());
        let connect = format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
        ask(&stream, &connect, "HTTP/1.1 200 OK\r\n")?;
        (&stream).write_all(&tls::client_hello("localhost"))?;
        Ok::<_, io::Error>(stream)
    };
    let mut tunnels: Vec<_> = (0..2).map(|_| open().expect("a place")).collect();
    let relayed: Vec<_> = (0..2).map(|_| silent.accept().expect("a tunnel").0).collect();
    for mut far in &relayed {
        far.read_exact(&mut [0; 5]).expect("the ClientHello");
    }
    let scrape = proxy.scrape();
    let open_of = |protocol| {
        scrape.sum("countersign_connections", &[("direction", "outbound"), ("protocol", protocol)])
    };
    assert_is(open_of("tcp"), 2);
    assert_is(open_of("http"), 0);
    assert!(is_reset(&open().expect_err("a third one")));
    drop((tunnels.pop(), relayed));
    wait_until("a place", SOON, || open().is_ok());
}

fn prlimit(process: &Process, soft: usize) {
    let status = Command::new("prlimit")
        .args(["--pid", &process.id().to_string(), &format!("--nofile={soft}:")])
        .status()
        .expect("prlimit, of util-linux");
    assert!(status.success());
}

fn descriptors(process: &Process) -> Vec<usize> {
    let open = fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs");
    open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// A reset, and no answer of any kind.
fn is_turned_away(mut caller: &TcpStream) -> bool {
    let said = caller.write_all(GET.as_bytes());
    match said.and_then(|()| caller.read(&mut [0; 1])) {
        Ok(read) => read == 0,
        Err(error) if is_reset(&error) => true,
        Err(error) => panic!("nobody answers: {error}"),
    }
}

/// Nobody hangs in the queue of a sidecar that has no descriptor left, and it goes on as soon as it has some.
#[test]
fn os_5_without_descriptors_callers_are_turned_away_and_later_served() {
    let (folder, upstream) = (open_to_all(), Upstream::start());
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    let to = proxy.inbound();
    assert!(held(ONE, to).is_some());
    // What is open stays open; beyond it there is room for next to nothing.
    let open = descriptors(&proxy.process);
    let limit = open.iter().max().expect("some are open") + 1;
    prlimit(&proxy.process, limit);
    let begin = Instant::now();
    let callers: Vec<_> = (0..60 + limit - open.len()).map(|_| connect(ONE, to)).collect();
    let turned_away = callers.iter().filter(|caller| is_turned_away(caller)).count();
    assert!(turned_away > 30, "{turned_away}");
    let readers: Vec<_> = (0..30).map(|_| connect(ONE, proxy.admin())).collect();
    assert!(
        readers.iter().filter(|reader| is_turned_away(reader)).count() > 20,
        "the pages find descriptors"
    );
    assert!(begin.elapsed() < Duration::from_secs(15), "callers waited for {:?}", begin.elapsed());
    drop((callers, readers));
    prlimit(&proxy.process, limits(&proxy.process).1);
    let kept: Vec<_> = (0..50).map(|_| held(ONE, to).expect("it is served again")).collect();
    assert!(refused(&proxy, "inbound", "descriptors") > 30.0);
    assert!(refused(&proxy, "admin", "descriptors") > 20.0);
    drop(kept);
}

fn limits(process: &Process) -> (usize, usize) {
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.id())).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("the limit");
    let mut numbers = line.split_whitespace().flat_map(str::parse);
    (numbers.next().expect("the soft one"), numbers.next().expect("the hard one"))
}

fn with_ulimit(ulimit: &str, more: &str) -> Command {
    let (outbound, admin) = (Port::lease(), Port::lease());
    let mut command = Command::new("sh");
    let proxy = binary("countersign-proxy").display().to_string();
    let (outbound, admin) = (outbound.address(), admin.address());
    command.args(["-c", &format!("{ulimit}; exec {proxy} run --outbound {outbound} --admin {admin} {more}")]);
    command
}

#[test]
fn os_5_the_limit_of_descriptors_is_taken_as_far_as_it_goes() {
    let folder = open_to_all();
    let policies = format!("--policies {}", folder.path().display());
    let sidecar = Process::spawn("sidecar", &mut with_ulimit("ulimit -Sn 256; ulimit -Hn 1024", &policies));
    wait_until("the soft limit to be the hard one", SOON, || limits(&sidecar) == (1024, 1024));
    wait_until("a warning that it is little", SOON, || sidecar.stderr().contains("few connections"));
    // Its table does not grow under load, which would hold up everybody (`FDSize` of proc_pid_status(5)).
    let status = fs::read_to_string(format!("/proc/{}/status", sidecar.id())).expect("it runs");
    assert!(status.lines().any(|line| line == "FDSize:\t1024"), "{status}");
    for (ulimit, flags, word) in [
        ("ulimit -n 64", "", "64 file descriptors leave none"),
        ("ulimit -n 1024", "--max-connections 5000", "--max-connections 5000: 1024 file descriptors carry"),
    ] {
        let done = run(&mut with_ulimit(ulimit, &format!("{policies} {flags}")), Duration::from_secs(20));
        assert!(done.code == Some(2) && done.stderr.contains(word), "{done:?}");
    }
}
