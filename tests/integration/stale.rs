//! What if the application closes a kept connection just as a request goes out on it? What may be sent twice is sent once more, and
//! nothing else is (RFC 9110 §9.2.2).

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::client::{Answer, Connection};
use crate::support::issuer::{Issuer, SECRET};
use crate::support::policy::{self, Folder, issuer_discovered, open_policy};
use crate::support::proxy::{Proxy, Settings};
use crate::support::scripted::{Scripted, Served};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// An application that closes its first connection when the second request comes on it.
fn moody(mut served: Served) {
    let mut count = 0;
    while let Some(head) = served.head() {
        count += 1;
        let is_second = served.index == 0 && count == 2;
        match head.split(' ').nth(1).unwrap_or_default() {
            "/stale" if is_second => return,
            "/half" if is_second => return served.say("HTTP/1.1 200 O"),
            "/never" => return,
            "/last" => {
                served.say(OK);
                return;
            }
            _ => served.say(OK),
        }
    }
}

struct World {
    application: Scripted,
    proxy: Proxy,
    _folder: Folder,
}

impl World {
    fn new() -> Self {
        let (application, folder) = (Scripted::start(moody), open_policy());
        let settings = Settings::policies(folder.path(), "orders").before(application.address());
        // One worker, whose connections they are.
        let proxy = settings.with(&["--workers", "1"]).start();
        Self { application, proxy, _folder: folder }
    }

    /// What becomes of a request behind another one on the same connection.
    fn second(&self, method: &str, target: &str, body: &[u8]) -> Answer {
        let mut connection = Connection::open(self.proxy.inbound()).unwrap();
        assert_eq!(connection.request("GET", "/first", &[], b"").unwrap().status, 200);
        connection.request(method, target, &[("X-Two", "a"), ("X-Two", "b")], body).unwrap()
    }

    fn assert_sent(&self, times: usize, target: &str) {
        assert_eq!(self.application.asked(target), times, "{:?}", self.application.heads());
    }
}

#[test]
fn what_may_be_sent_twice_is_sent_once_more() {
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        let world = World::new();
        assert_eq!(world.second(method, "/stale", b"").status, 200, "{method}");
        world.assert_sent(2, "/stale");
        let heads = world.application.heads();
        assert_eq!(heads[1], heads[2], "not the same request");
        assert!(heads[2].starts_with(method) && heads[2].matches("x-two: ").count() == 2, "{heads:?}");
    }
}

#[test]
fn what_may_have_been_done_is_not_done_again() {
    for (method, body) in [("POST", &b""[..]), ("PATCH", b""), ("POST", b"order"), ("PUT", b"order")] {
        let world = World::new();
        let answer = world.second(method, "/stale", body);
        assert_eq!((answer.status, &*answer.reason()), (502, "upstream_unreachable"), "{method}");
        world.assert_sent(1, "/stale");
    }
}

#[test]
fn an_answer_that_has_begun_is_not_asked_for_again() {
    let world = World::new();
    assert_eq!(world.second("GET", "/half", b"").status, 502);
    world.assert_sent(1, "/half");
}

/// It was no stale connection.
#[test]
fn a_new_connection_that_ends_is_not_tried_again() {
    let world = World::new();
    let mut connection = Connection::open(world.proxy.inbound()).unwrap();
    assert_eq!(connection.request("GET", "/never", &[], b"").unwrap().status, 502);
    world.assert_sent(1, "/never");
    // Nor a second time.
    let world = World::new();
    assert_eq!(world.second("GET", "/never", b"").status, 502);
    world.assert_sent(2, "/never");
}

/// Of which nothing was sent.
#[test]
fn a_connection_that_has_ended_before_is_not_used() {
    let world = World::new();
    let mut connection = Connection::open(world.proxy.inbound()).unwrap();
    for _ in 0..3 {
        assert_eq!(connection.request("POST", "/last", &[], b"").unwrap().status, 200);
        thread::sleep(Duration::from_millis(100));
    }
    world.assert_sent(3, "/last");
}

/// Outbound, the token goes along both times.
#[test]
fn out_5_a_request_that_is_sent_once_more_has_its_token_once() {
    let (issuer, destination) = (Issuer::start(&json!({})), Scripted::start(moody));
    let port = destination.address().port();
    let text = issuer_discovered(&issuer.url) + &policy::credential() + &policy::outbound(port, &json!({}));
    let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
    let proxy = Settings::policies(folder.path(), "checkout").with(&["--workers", "1"]).start();
    let mut connection = Connection::open(proxy.outbound()).unwrap();
    let host = format!("localhost:{port}");
    for target in ["/first", "/stale"] {
        assert_eq!(connection.request("GET", target, &[("Host", &host)], b"").unwrap().status, 200);
    }
    assert_eq!(destination.asked("/stale"), 2, "{:?}", destination.heads());
    for head in destination.heads() {
        assert_eq!(head.matches("authorization: Bearer ").count(), 1, "{head}");
    }
}
