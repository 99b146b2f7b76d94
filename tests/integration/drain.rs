//! How does a sidecar end? On SIGTERM: no longer ready, what is in flight is finished, exit 0.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::{self, Connection, get};
use crate::support::policy::{Folder, inbound, issuer_with_file};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

fn open_proxy(upstream: &Upstream) -> (Proxy, Folder) {
    let rules = json!([{"name": "all", "public": true, "to": {"paths": ["/*"]}}]);
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&rules))),
        ("keys.jwks", r#"{"keys":[]}"#),
    ]);
    (Settings::policies(folder.path(), "orders").before(upstream.address()).start(), folder)
}

#[test]
fn sigterm_finishes_what_is_in_flight_and_exits_0() {
    let upstream = Upstream::start();
    let (mut proxy, _folder) = open_proxy(&upstream);
    let to = proxy.inbound();
    // A connection that idles, and a request that takes its time.
    let mut idle = Connection::open(to).unwrap();
    assert_eq!(idle.request("GET", "/", &[], b"").unwrap().status, 200);
    let slow = thread::spawn(move || get(to, "/slow/1500", &[]));
    wait_until("the slow request", Duration::from_secs(5), || upstream.count() == 2);

    let start = Instant::now();
    proxy.process.terminate();
    wait_until("the end of readiness", Duration::from_secs(1), || !proxy.is_ready());
    let answer = slow.join().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "at last"));
    assert!(idle.is_closed(), "an idle connection stayed open");
    assert_eq!(proxy.process.wait(Duration::from_secs(10)).code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert!(TcpStream::connect(to).is_err(), "somebody still listens");
}

/// A connection on which nothing was ever said has nothing in flight.
#[test]
fn a_silent_connection_does_not_hold_up_the_end() {
    let upstream = Upstream::start();
    let (mut proxy, _folder) = open_proxy(&upstream);
    let _silent = TcpStream::connect(proxy.inbound()).unwrap();
    let mut dribbling = TcpStream::connect(proxy.inbound()).unwrap();
    dribbling.write_all(b"P").unwrap();
    assert_eq!(get(proxy.inbound(), "/", &[]).status, 200, "both have been accepted");
    let start = Instant::now();
    proxy.process.terminate();
    assert_eq!(proxy.process.wait(Duration::from_secs(20)).code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[test]
fn drain_by_the_admin_page_ends_the_same_way() {
    let upstream = Upstream::start();
    let (mut proxy, _folder) = open_proxy(&upstream);
    assert_eq!(get(proxy.admin(), "/drain", &[]).status, 405, "a GET has no effect");
    assert!(proxy.is_ready());
    assert!(client::request(proxy.admin(), "POST", "/drain", &[], b"").status < 300);
    assert_eq!(proxy.process.wait(Duration::from_secs(10)).code(), Some(0));
}
