//! Can a request mean two things? Malformed and ambiguous HTTP/1.1, byte by byte: refused, and never at the application.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{self, Answer, Connection, get};
use crate::support::policy::{self, Folder, inbound_with};
use crate::support::proxy::{Proxy, Settings};
use crate::support::raw_upstream::RawUpstream;
use crate::support::upstream::Upstream;
use crate::support::wait_until;

/// Everybody may do everything: what is refused here is refused for its form.
fn open_rules() -> Value {
    json!([{"name": "all", "public": true, "to": {"paths": ["/*"]}}])
}

fn open_proxy(target: std::net::SocketAddr) -> (Proxy, Folder) {
    open_proxy_with(target, &[])
}

/// With these flags.
fn open_proxy_with(target: std::net::SocketAddr, flags: &[&str]) -> (Proxy, Folder) {
    let key = crate::support::jose::Key::new("k1");
    let forward = json!({"forwardClaims": {"X-Client-Id": "@client", "X-Tenant": "tenant"}});
    let folder = Folder::with(&[
        ("policy.yaml", &(policy::issuer_with_file("keys.jwks") + &inbound_with(&open_rules(), &forward))),
        ("keys.jwks", &crate::support::jose::key_set(&[&key]).to_string()),
    ]);
    (Settings::policies(folder.path(), "orders").before(target).with(flags).start(), folder)
}

/// A name and the bytes of a request.
const MALFORMED: &[(&str, &str)] = &[
    ("two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"),
    ("a list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc"),
    ("a signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc"),
    ("a hexadecimal length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc"),
    ("an empty length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\nabc"),
    (
        "a coding before chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "a coding after chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    (
        "chunked twice",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("an unknown coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a space before the colon", "GET / HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n"),
    ("a folded line", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n"),
    ("a NUL in a value", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n"),
    ("a bare CR in a value", "GET / HTTP/1.1\r\nHost: a\r\nX-A: b\rX-B: c\r\n\r\n"),
    ("no host", "GET / HTTP/1.1\r\n\r\n"),
    ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ("two equal hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    ("a host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    ("a host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("an empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    ("another host in the target", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a target without a slash", "GET orders HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("dot segments", "GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("encoded dot segments", "GET /a/%2e%2E/b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("an encoded slash", "GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a backslash", "GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("an encoded NUL", "GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a double encoding", "GET /a%252e HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a bad escape", "GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("an empty segment", "GET /a//b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a path parameter", "GET /a;b HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("raw UTF-8", "GET /ä HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("a nominated Authorization", "GET / HTTP/1.1\r\nHost: a\r\nConnection: authorization\r\n\r\n"),
    ("a nominated identity header", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Client-Id\r\n\r\n"),
];

/// What hyper makes unambiguous before we see it (RFC 9112 §6.3, RFC 9110 §8.6): what is judged is what is forwarded, in
/// one framing, and no second request is read where two framings were given. A name, the bytes, what the application sees.
const NORMALISED: &[(&str, &str, &str)] = &[
    (
        "length and chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked",
    ),
    (
        "chunked and length",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "transfer-encoding: chunked",
    ),
    (
        "two equal lengths",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "content-length: 3",
    ),
    ("a fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "GET /a HTTP/1.1"),
];

#[test]
fn malformed_requests_never_reach_the_application() {
    let upstream = RawUpstream::start();
    let (proxy, _folder) = open_proxy(upstream.address());
    assert_eq!(get(proxy.inbound(), "/", &[]).status, 200);
    let mut wrong = Vec::new();
    for (name, bytes) in MALFORMED {
        let before = upstream.messages().len();
        let answer = client::raw(proxy.inbound(), bytes.as_bytes());
        if !is_refusal(&answer) {
            wrong.push(format!("{name}: {answer:?}"));
        }
        if let Some(message) = upstream.messages().get(before) {
            wrong.push(format!("{name}: at the application as {message:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// hyper answers by itself what it cannot read. That is counted and logged, of each connection the one that ends it.
#[test]
fn what_is_no_request_is_counted_and_logged() {
    let upstream = RawUpstream::start();
    let (proxy, _folder) = open_proxy(upstream.address());
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(66_000));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-A: b\r\n".repeat(250));
    let cases = [
        ("GET / HTTP/1.1\r\nHost : S3CR3T\r\n\r\n", 400, "bad_request"),
        ("G(T /S3CR3T HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request"),
        (&long, 414, "head_too_large"),
        (&many, 431, "head_too_large"),
    ];
    for (to, direction) in [(proxy.inbound(), "inbound"), (proxy.outbound(), "outbound")] {
        for (bytes, status, _) in cases {
            let mut connection = Connection::open(to).unwrap();
            if direction == "inbound" {
                assert_eq!(connection.request("GET", "/before", &[], b"").unwrap().status, 200);
            }
            connection.send(bytes.as_bytes()).unwrap();
            let answer = connection.answer("GET").unwrap();
            assert_eq!(answer.status, status, "{:?}", bytes.get(..40));
            assert!(answer.header("proxy-status").is_none() && connection.is_closed());
        }
        let decision = if direction == "inbound" { "deny" } else { "reject" };
        for reason in ["bad_request", "head_too_large"] {
            let labels =
                [("direction", direction), ("protocol", "http1"), ("decision", decision), ("reason", reason)];
            wait_until("both to be counted", Duration::from_secs(5), || {
                proxy.scrape().sum("countersign_requests_total", &labels) > 1.5
            });
            assert_eq!(proxy.scrape().sum("countersign_requests_total", &labels), 2.0);
            let text = || proxy.process.stdout();
            let is_its =
                |line: &&str| [direction, reason].iter().all(|word| line.contains(&format!("\"{word}\"")));
            wait_until("its lines", Duration::from_secs(5), || text().lines().filter(is_its).count() == 2);
            let line: Value = serde_json::from_str(text().lines().find(is_its).unwrap()).unwrap();
            assert_eq!((&line["source"], &line["host"]), (&json!("127.0.0.1"), &json!("")), "{line}");
            assert!(line.get("path").is_none() && line.get("decision_id").is_none(), "{line}");
        }
    }
    assert!(!proxy.process.stdout().contains("S3CR3T"));
}

/// Too much of anything is refused by us, with our answer where hyper leaves us one (security IN-24).
#[test]
fn heads_are_bounded() {
    let upstream = RawUpstream::start();
    let (proxy, _folder) = open_proxy(upstream.address());
    let fields = |count: usize| (0..count).map(|n| format!("X-N{n}: v\r\n")).collect::<String>();
    for (name, head, reason) in [
        ("fields", format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(150)), Some("head_too_large")),
        (
            "a field",
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n", "x".repeat(66_000)),
            Some("head_too_large"),
        ),
        (
            "a target",
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(17_000)),
            Some("uri_too_long"),
        ),
        ("very many fields", format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(5_000)), None),
        ("megabytes", format!("GET / HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n", "x".repeat(4_000_000)), None),
    ] {
        let answer = client::raw(proxy.inbound(), head.as_bytes());
        match (&answer, reason) {
            (Ok(answer), Some(reason)) => assert_eq!(answer.reason(), reason, "{name}"),
            // What hyper itself cuts off may close the connection while we still write.
            _ => assert!(reason.is_none() && answer.is_err() || is_refusal(&answer), "{name}: {answer:?}"),
        }
    }
    assert!(upstream.messages().is_empty());
}

/// 4xx, or the connection closed without an answer.
fn is_refusal(answer: &io::Result<Answer>) -> bool {
    match answer {
        Ok(answer) => (400..500).contains(&answer.status),
        Err(error) => matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn what_can_be_read_in_one_way_only_after_all_is_forwarded_in_that_way() {
    let upstream = RawUpstream::start();
    let (proxy, _folder) = open_proxy(upstream.address());
    for (name, bytes, seen) in NORMALISED {
        let before = upstream.messages().len();
        let mut connection = Connection::open(proxy.inbound()).unwrap();
        connection.send(bytes.as_bytes()).unwrap();
        let answer = connection.answer("POST");
        let messages = upstream.messages();
        let framings =
            |message: &str| message.matches("-encoding:").count() + message.matches("-length:").count();
        match messages.get(before) {
            None => assert!(is_refusal(&answer), "{name}: {answer:?}"),
            Some(message) => {
                assert!(message.contains(seen) && framings(message) <= 1, "{name}: {message:?}");
                assert_eq!(bytes.contains("chunked"), connection.is_closed(), "{name}");
            }
        }
        assert!(messages.len() <= before + 1, "{name}: {messages:?}");
    }
}

/// A second request hidden in the body of the first is a body, whatever the framing says.
#[test]
fn a_hidden_request_is_never_answered() {
    let upstream = RawUpstream::start();
    let (proxy, _folder) = open_proxy(upstream.address());
    let hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";
    for framing in [
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
            hidden.len() + 5
        ),
        format!("Transfer-Encoding: gzip, chunked\r\nContent-Length: 0\r\n\r\n{hidden}"),
        format!("Content-Length: 0\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()),
        format!("Content-Length: {}\r\n\r\n{hidden}", hidden.len()),
    ] {
        let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}");
        let mut connection = Connection::open(proxy.inbound()).unwrap();
        connection.send(bytes.as_bytes()).unwrap();
        let first = connection.answer("POST");
        if first.is_ok_and(|answer| answer.status >= 400) {
            assert!(connection.is_closed(), "open after a framing refusal: {framing:?}");
        }
        let hit = upstream.messages().into_iter().find(|message| message.starts_with("GET /hidden"));
        assert!(hit.is_none(), "{framing:?} became {hit:?}");
    }
}

/// Its client may send the body or not: nobody could tell that from the next request.
#[test]
fn a_refusal_of_what_waits_for_a_100_ends_the_connection() {
    let upstream = RawUpstream::start();
    let (proxy, _folder) = open_proxy(upstream.address());
    for (expect, is_closed) in [("", false), ("Expect: 100-continue\r\n", true)] {
        let head = format!("POST /a//b HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: 5\r\n\r\n");
        let mut connection = Connection::open(proxy.inbound()).unwrap();
        connection.send(head.as_bytes()).unwrap();
        let answer = connection.answer("POST").unwrap();
        let says_so = answer.headers.iter().any(|(name, value)| name == "connection" && value == "close");
        assert_eq!((answer.status, says_so), (400, is_closed), "{expect}");
        if is_closed {
            assert!(connection.is_closed());
        }
    }
    assert!(upstream.messages().is_empty());
}

/// What is forwarded is one message of our own: one Host, one framing, nothing of the hop.
#[test]
fn the_application_sees_one_reserialised_message() {
    let upstream = RawUpstream::start();
    let (proxy, _folder) = open_proxy(upstream.address());
    let bytes = "POST /a%41?q=%2e%2e//x;y HTTP/1.1\r\nhOsT: orders.test\r\nConnection: keep-alive, Keep-Alive\r\n\
        Keep-Alive: timeout=5\r\nTE: gzip\r\nUpgrade: h2c\r\nProxy-Authorization: Basic eDp5\r\n\
        Transfer-Encoding: Chunked\r\nCookie: a=b\r\n\r\n3;ext=1\r\nabc\r\n0\r\n\r\n";
    assert_eq!(client::raw(proxy.inbound(), bytes.as_bytes()).unwrap().status, 200);
    let message = upstream.messages().pop().unwrap();
    let lower = message.to_ascii_lowercase();
    assert!(message.starts_with("POST /aA?q=%2e%2e//x;y HTTP/1.1\r\n"), "{message}");
    assert_eq!(lower.matches("host: orders.test\r\n").count(), 1, "{message}");
    assert_eq!(lower.matches("transfer-encoding: chunked\r\n").count(), 1, "{message}");
    assert!(
        lower.contains("cookie: a=b\r\n") && lower.contains("abc") && !lower.contains("ext=1"),
        "{message}"
    );
    for gone in ["keep-alive", "te: ", "upgrade", "proxy-authorization", "content-length", "http2-settings"] {
        assert!(!lower.contains(&format!("\r\n{gone}")), "{gone} in {message}");
    }
}

/// A body that breaks off is the caller's fault, and the upstream's connection is of no use any more.
#[test]
fn a_body_that_is_malformed_is_refused() {
    let upstream = RawUpstream::start();
    let (proxy, _folder) = open_proxy(upstream.address());
    for body in ["zz\r\nhello\r\n0\r\n\r\n", "5\r\nhelloworld\r\n0\r\n\r\n", "5 \r\nhello\r\n-1\r\n\r\n"] {
        let bytes = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let answer = client::raw(proxy.inbound(), bytes.as_bytes()).unwrap();
        assert_eq!((answer.status, &*answer.reason()), (400, "bad_request"), "{body:?}");
        assert!(upstream.messages().is_empty(), "{body:?}: {:?}", upstream.messages());
    }
    assert_eq!(get(proxy.inbound(), "/", &[]).status, 200);
}

/// A body is forwarded whatever the method, also where only chunks say how long it is.
#[test]
fn the_body_of_a_get_is_not_lost() {
    let upstream = RawUpstream::start();
    let (proxy, _folder) = open_proxy(upstream.address());
    for (framing, sent) in
        [("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"), ("Content-Length: 5", "hello")]
    {
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{sent}");
        assert_eq!(client::raw(proxy.inbound(), bytes.as_bytes()).unwrap().status, 200);
        let message = upstream.messages().pop().unwrap();
        assert!(message.ends_with(&format!("\r\n\r\n{sent}")), "{framing}: {message:?}");
        assert!(message.to_ascii_lowercase().contains(&framing.to_ascii_lowercase()), "{message:?}");
    }
}

/// A caller cannot say who it is: identity headers are ours, in any spelling, on public paths too; whatever becomes of other
/// fields with `_`.
#[test]
fn in_18_identity_headers_are_stripped_from_strangers_and_underscores_from_all() {
    for (flags, kept, dropped) in
        [(&[][..], &[][..], 4.0), (&["--header-underscores", "pass"], &["1", "2"], 0.0)]
    {
        let upstream = Upstream::start();
        let (proxy, _folder) = open_proxy_with(upstream.address(), flags);
        let spoofed = [
            ("X-Client-Id", "admin"),
            ("x-client-id", "admin"),
            ("X_Client_Id", "admin"),
            ("x-client_ID", "admin"),
            ("X-TENANT", "acme"),
            ("X-Other", "kept"),
            ("X_Other", "1"),
            ("x_other", "2"),
        ];
        assert_eq!(get(proxy.inbound(), "/", &spoofed).status, 200);
        let seen = upstream.last();
        let names: Vec<_> = seen.headers.keys().map(|name| name.as_str().replace('_', "-")).collect();
        for name in ["x-client-id", "x-tenant"] {
            assert!(!names.iter().any(|n| n == name), "{name} in {names:?}");
        }
        assert_eq!(seen.all("x-other"), ["kept"]);
        assert_eq!(seen.all("x_other"), kept, "{flags:?}");
        let counted = proxy.scrape().sum("countersign_underscore_headers_dropped_total", &[]);
        assert!((counted - dropped).abs() < f64::EPSILON, "{counted}, {flags:?}");
        // On the way out they are the application's own business.
        let authority = upstream.address().to_string();
        assert_eq!(get(proxy.outbound(), "/", &[("Host", &authority), ("X_Other", "3")]).status, 200);
        assert_eq!(upstream.last().all("x_other"), ["3"]);
    }
}
