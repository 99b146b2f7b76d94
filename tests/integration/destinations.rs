//! Whom does a token reach? Every way to name a destination that is not quite the one of a rule, with upstreams that
//! remember each header: what the name says decides, and the request goes there or nowhere.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::support::client::{Connection, raw};
use crate::support::fault::{CANARY_TOKEN, Fault, Mode, token_with};
use crate::support::issuer::SECRET;
use crate::support::policy::{self, Folder};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::{Seen, Upstream};

/// A rule for `localhost` on the port of `named`; nobody names `other`.
struct World {
    named: Upstream,
    other: Upstream,
    proxy: Proxy,
    _fault: Fault,
    _folder: Folder,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It arrives with the token at the destination of the rule.
    Token,
    /// It goes wherever it is meant to go, or comes to nothing there, without the token.
    Bare,
    /// It is refused, and goes nowhere.
    Refused,
}
use Fate::{Bare, Refused, Token};

impl World {
    fn new() -> Self {
        let fault = Fault::alone(Mode::Answer(token_with(&json!({}))));
        let (named, other) = (Upstream::start(), Upstream::start());
        let text = fault.issuer("http://127.0.0.1:1")
            + &policy::credential()
            + &policy::outbound(named.port(), &json!({}));
        let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
        let proxy = Settings::policies(folder.path(), "checkout").start();
        Self { named, other, proxy, _fault: fault, _folder: folder }
    }

    /// Sends the head with `{p}` the port of the rule and `{q}` the other, and holds the outcome to what must be.
    fn judge(&self, head: &str, fate: Fate) {
        self.named.forget();
        self.other.forget();
        let head = head
            .replace("{p}", &self.named.port().to_string())
            .replace("{q}", &self.other.port().to_string());
        let answer = raw(self.proxy.outbound(), format!("{head}\r\nConnection: close\r\n\r\n").as_bytes());
        let status = answer.as_ref().map(|answer| answer.status);
        let (named, other) = (self.named.seen(), self.other.seen());
        assert!(!other.iter().any(carries_token), "{head:?}: the token went astray: {other:?}");
        match fate {
            Token => {
                assert!(status.is_ok_and(|status| status == 200), "{head:?}: {answer:?}");
                assert_eq!(named.len(), 1, "{head:?}");
                assert_eq!(named[0].all("authorization"), [format!("Bearer {CANARY_TOKEN}")], "{head:?}");
            }
            Bare => assert!(!named.iter().any(carries_token), "{head:?}: {named:?}"),
            Refused => {
                assert!(status.is_ok_and(|status| (400..500).contains(&status)), "{head:?}: {answer:?}");
                assert!(named.is_empty() && other.is_empty(), "{head:?}: {named:?} {other:?}");
            }
        }
    }
}

/// In any header, target or body.
fn carries_token(seen: &Seen) -> bool {
    let everywhere = format!("{seen:?} {}", String::from_utf8_lossy(&seen.body));
    everywhere.contains(CANARY_TOKEN) || seen.headers.contains_key("authorization")
}

#[test]
fn c30_out_2_the_name_of_the_rule_in_any_spelling() {
    let world = World::new();
    for host in ["localhost:{p}", "LOCALHOST:{p}", "LocalHost.:{p}", "localhost.:{p}"] {
        world.judge(&format!("GET / HTTP/1.1\r\nHost: {host}"), Token);
        world.judge(&format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}"), Token);
        world.judge(&format!("GET http://localhost:{{p}}/ HTTP/1.1\r\nHost: {host}"), Token);
        world.judge(&format!("GET http://{host} HTTP/1.1\r\nHost: localhost:{{p}}"), Token);
    }
}

/// The same address by another name, and the same name at another port.
#[test]
fn c30_out_2_a_destination_that_no_rule_names_gets_no_token() {
    let world = World::new();
    for host in [
        "localhost:{q}",
        "localhost",
        "localhost:80",
        "127.0.0.1:{p}",
        "127.0.0.1:{q}",
        // What resolvers read as addresses: other names of one address.
        "127.1:{p}",
        "0177.0.0.1:{p}",
        "0x7f.0.0.1:{p}",
        "2130706433:{p}",
        "0:{p}",
        "[::1]:{p}",
        "[::ffff:127.0.0.1]:{p}",
        "a.localhost:{p}",
        "localhost.localdomain:{p}",
        "localhost-:{p}",
        "xlocalhost:{p}",
    ] {
        world.judge(&format!("GET / HTTP/1.1\r\nHost: {host}"), Bare);
        world.judge(&format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}"), Bare);
    }
    // What a proxy might believe, and who asks for the rule's destination in words alone.
    for more in [
        "X-Forwarded-Host: localhost:{p}",
        "Forwarded: host=\"localhost:{p}\"",
        "X-Original-Host: localhost:{p}",
        "X-Host: localhost:{p}",
        "Referer: http://localhost:{p}/",
    ] {
        world.judge(&format!("GET /localhost:{{p}} HTTP/1.1\r\nHost: localhost:{{q}}\r\n{more}"), Bare);
        assert_eq!(world.other.count(), 1, "{more}: it arrives where Host says");
    }
    // The other one, with the path of the first.
    world.judge("GET /?http://localhost:{p}/ HTTP/1.1\r\nHost: localhost:{q}", Bare);
    world.judge("GET //localhost:{p}/ HTTP/1.1\r\nHost: localhost:{q}", Bare);
}

/// Two names in one request, or one that can be read in two ways: nobody chooses between them.
#[test]
fn c30_out_1_a_destination_that_can_be_read_in_two_ways_is_refused() {
    let world = World::new();
    for head in [
        // The target says one, Host the other.
        "GET http://localhost:{p}/ HTTP/1.1\r\nHost: localhost:{q}",
        "GET http://localhost:{q}/ HTTP/1.1\r\nHost: localhost:{p}",
        "GET http://localhost:{p}/ HTTP/1.1\r\nHost: 127.0.0.1:{p}",
        "GET http://127.0.0.1:{q}/ HTTP/1.1\r\nHost: localhost:{p}",
        "GET http://localhost:{p}/ HTTP/1.1\r\nHost: localhost",
        "GET http://localhost/ HTTP/1.1\r\nHost: localhost:{p}",
        "GET http://localhost:{p}/ HTTP/1.1\r\nHost:",
        "GET https://localhost:{p}/ HTTP/1.1\r\nHost: localhost:{p}",
        "GET ftp://localhost:{p}/ HTTP/1.1\r\nHost: localhost:{p}",
        // None, two, and a list.
        "GET / HTTP/1.1",
        "GET http://localhost:{p}/ HTTP/1.1",
        "GET / HTTP/1.1\r\nHost: localhost:{p}\r\nHost: localhost:{q}",
        "GET / HTTP/1.1\r\nHost: localhost:{q}\r\nHost: localhost:{p}",
        "GET / HTTP/1.1\r\nHost: localhost:{p}\r\nhost: localhost:{p}",
        "GET / HTTP/1.1\r\nHost: localhost:{p}, localhost:{q}",
        "GET / HTTP/1.1\r\nHost: localhost:{p} localhost:{q}",
        "GET / HTTP/1.1\r\nHost: localhost:{q}\r\n : localhost:{p}",
        // User information, which is not the host.
        "GET / HTTP/1.1\r\nHost: localhost:{p}@127.0.0.1:{q}",
        "GET / HTTP/1.1\r\nHost: user@localhost:{p}",
        "GET http://localhost:{p}@127.0.0.1:{q}/ HTTP/1.1\r\nHost: 127.0.0.1:{q}",
        "GET http://user:word@localhost:{p}/ HTTP/1.1\r\nHost: localhost:{p}",
        "GET http://127.0.0.1:{q}\\@localhost:{p}/ HTTP/1.1\r\nHost: localhost:{p}",
        // Ports, and what is none.
        "GET / HTTP/1.1\r\nHost: localhost:0{p}",
        "GET / HTTP/1.1\r\nHost: localhost:+{p}",
        "GET / HTTP/1.1\r\nHost: localhost:{p}:{q}",
        "GET / HTTP/1.1\r\nHost: localhost:{p}x",
        "GET / HTTP/1.1\r\nHost: localhost:",
        "GET / HTTP/1.1\r\nHost: localhost:99999",
        "GET / HTTP/1.1\r\nHost: localhost:0",
        // Names, and what is none.
        "GET / HTTP/1.1\r\nHost: localhost..:{p}",
        "GET / HTTP/1.1\r\nHost: .localhost:{p}",
        "GET / HTTP/1.1\r\nHost: local%68ost:{p}",
        "GET / HTTP/1.1\r\nHost: localhost%00:{p}",
        "GET / HTTP/1.1\r\nHost: localhost/x:{p}",
        "GET / HTTP/1.1\r\nHost: http://localhost:{p}",
        "GET / HTTP/1.1\r\nHost: loc\u{e4}lhost:{p}",
        "GET / HTTP/1.1\r\nHost: localhost:{p}#:{q}",
        "GET http://localhost:{p}#@127.0.0.1:{q}/ HTTP/1.1\r\nHost: localhost:{p}",
        "GET / HTTP/1.1\r\nHost: [localhost]:{p}",
        "GET / HTTP/1.1\r\nHost: [::1%25lo]:{p}",
        // Not a destination at all.
        "CONNECT localhost:{p} HTTP/1.1\r\nHost: localhost:{p}",
        "OPTIONS * HTTP/1.1\r\nHost: localhost:{p}",
        "GET localhost:{p} HTTP/1.1\r\nHost: localhost:{p}",
    ] {
        world.judge(head, Refused);
    }
}

/// One connection of the application, many destinations: each request is judged anew.
#[test]
fn c30_out_1_a_connection_that_had_a_token_has_none_for_the_next_destination() {
    let world = World::new();
    let mut connection = Connection::open(world.proxy.outbound()).unwrap();
    let (p, q) = (world.named.port(), world.other.port());
    for _ in 0..5 {
        for host in [format!("localhost:{p}"), format!("localhost:{q}"), format!("127.0.0.1:{p}")] {
            assert_eq!(connection.request("GET", "/", &[("Host", &host)], b"").unwrap().status, 200);
        }
    }
    assert_eq!((world.named.count(), world.other.count()), (10, 5));
    assert!(!world.other.seen().iter().any(carries_token));
    for seen in world.named.seen() {
        assert_eq!(carries_token(&seen), seen.all("host") == [format!("localhost:{p}")], "{seen:?}");
    }
}

/// Two requests at once in one write, and a body that looks like a request: the second is its own.
#[test]
fn c30_a_pipelined_request_is_judged_by_itself() {
    let world = World::new();
    let (p, q) = (world.named.port(), world.other.port());
    let mut stream = TcpStream::connect(world.proxy.outbound()).unwrap();
    let hidden = format!("GET /hidden HTTP/1.1\r\nHost: localhost:{p}\r\n\r\n");
    let text = format!(
        "POST /body HTTP/1.1\r\nHost: localhost:{q}\r\nContent-Length: {}\r\n\r\n{hidden}\
         GET /named HTTP/1.1\r\nHost: localhost:{p}\r\n\r\n\
         GET /other HTTP/1.1\r\nHost: localhost:{q}\r\n\r\n",
        hidden.len()
    );
    stream.write_all(text.as_bytes()).unwrap();
    crate::support::wait_until("three requests", Duration::from_secs(5), || {
        world.named.count() + world.other.count() == 3
    });
    stream.shutdown(Shutdown::Both).unwrap();
    let named: Vec<_> = world.named.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(named, ["/named"]);
    assert!(carries_token(&world.named.last()) && !world.other.seen().iter().any(carries_token));
}
