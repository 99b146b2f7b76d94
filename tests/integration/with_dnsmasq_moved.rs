//! Does a connection that is kept busy follow its name? A service that moves while requests come without a pause, and a
//! request that began before it did.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::meshed::Recorder;
use crate::support::nameserver::{Nameserver, alone};
use crate::support::policy::{Folder, document};
use crate::support::ports::Port;
use crate::support::proxy::{Proxy, Settings};
use crate::support::wait_until;

const RESOLV_CONF: &str = "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n";
const OLD: &str = "10.77.0.1";
const NEW: &str = "10.77.0.2";
/// Ten seconds of grace, up to ten more until somebody looks, and the TTL.
const FOLLOWED: Duration = Duration::from_secs(10 + 10 + 1);

/// At which address was a request for this path answered?
fn at(proxy: &Proxy, host: &str, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut stream = TcpStream::connect(proxy.outbound()).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    stream.write_all(head.as_bytes()).expect("it is written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{host}{path}: {answer}\n{}", proxy.log());
    // Of one line, whatever its framing.
    let json = answer.find('{').zip(answer.rfind('}')).map(|(first, last)| &answer[first..=last]);
    let seen: Value = serde_json::from_str(json.expect("a line of JSON")).expect("JSON");
    let at = seen["at"].as_str().expect("an address");
    at.rsplit_once(':').expect("a port").0.to_owned()
}

#[test]
fn a_connection_that_is_kept_busy_follows_its_name_and_ends_what_it_carries() {
    let test = "with_dnsmasq_moved::a_connection_that_is_kept_busy_follows_its_name_and_ends_what_it_carries";
    if !alone(test, RESOLV_CONF, &["10.77.0.1/32", "10.77.0.2/32"]) {
        return;
    }
    let ports = [Port::lease(), Port::lease()].map(|port| port.number());
    let [old, new] = [OLD, NEW].map(|at| format!("{at} one.example two.example any.wild.example\n"));
    let mut dns = Nameserver::start(53, 1, &old);
    let places = |port: u16| [OLD, NEW].map(|at| format!("{at}:{port}").parse().expect("an address"));
    let _one = Recorder::here(&places(ports[0]), false);
    let _two = Recorder::here(&places(ports[1]), true);
    let rule = |name: &str, host: &str, port: u16, protocol: &str| json!({"name": name, "tls": "none", "protocol": protocol, "to": {"hosts": [host], "ports": [port]}});
    let spec = json!({"rules": [
        rule("one", "one.example", ports[0], "http1"),
        rule("two", "two.example", ports[1], "http2"),
        rule("any", "*.wild.example", ports[0], "http1"),
    ]});
    let folder = Folder::with(&[("policy.yaml", &document("OutboundPolicy", "checkout", &spec))]);
    let proxy = Settings::policies(folder.path(), "checkout").with(&["--workers", "1"]).start();
    // The last one is kept fresh by nobody.
    let hosts = [("one.example", ports[0]), ("two.example", ports[1]), ("any.wild.example", ports[0])]
        .map(|(host, port)| format!("{host}:{port}"));
    let stop = AtomicBool::new(false);
    let answers = Mutex::new(Vec::<(Instant, usize, String)>::new());
    let of = |index: usize| -> Vec<(Instant, String)> {
        let answers = answers.lock().expect("answers");
        answers.iter().filter(|(_, of, _)| *of == index).map(|(time, _, at)| (*time, at.clone())).collect()
    };
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for (index, host) in hosts.iter().enumerate() {
            let (proxy, stop, answers) = (&proxy, &stop, &answers);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let answered = at(proxy, host, "/x");
                    answers.lock().expect("answers").push((Instant::now(), index, answered));
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
        wait_until("answers", Duration::from_secs(10), || (0..3).all(|index| of(index).len() > 20));
        let slow: Vec<_> = hosts[..2]
            .iter()
            .map(|host| {
                let proxy = &proxy;
                scope.spawn(move || at(proxy, host, "/slow/28000"))
            })
            .collect();
        thread::sleep(Duration::from_millis(200));
        dns.say(&new);
        let moved = Instant::now();
        wait_until("the new place", FOLLOWED + Duration::from_secs(12), || {
            (0..3).all(|index| of(index).last().is_some_and(|(_, at)| at == NEW))
        });
        for slow in slow {
            assert_eq!(slow.join().expect("an answer"), OLD, "what was on its way ended there");
        }
        // Nor is the connection used again that it was on.
        thread::sleep(Duration::from_millis(500));
        for (index, host) in hosts.iter().enumerate() {
            let answers = of(index);
            let first = answers.iter().position(|(_, at)| at == NEW).expect("it was followed");
            let after = answers[first].0 - moved;
            eprintln!("{host} was followed after {after:?}");
            // A name that nobody keeps fresh is asked for when somebody looks, and the answer counts at the next look.
            let limit = FOLLOWED + Duration::from_secs(if index == 2 { 11 } else { 1 });
            assert!(after < limit, "{host} only after {after:?}");
            assert!(answers[..first].iter().all(|(_, at)| at == OLD));
            assert!(answers[first..].iter().all(|(_, at)| at == NEW), "{host} went back");
        }
    });
}

/// Ends the load when the scope ends, whatever the reason.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
