//! What if a token endpoint answers something else than a token? Each answer through the built sidecar: what the
//! application sees, and what operators are told of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Answer, get};
use crate::support::fault::{CANARY_TOKEN, Fault, Mode, answer, granted, token_with};
use crate::support::issuer::{SECRET, basic, form};
use crate::support::policy::{self, Folder, document};
use crate::support::ports::Port;
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

/// A sidecar whose token endpoint says what a test wants. It logs all there is to log.
struct World {
    fault: Fault,
    upstream: Upstream,
    proxy: Proxy,
    _folder: Folder,
}

impl World {
    fn new(mode: Mode) -> Self {
        let fault = Fault::alone(mode);
        let issuer = fault.issuer("http://127.0.0.1:1");
        Self::with(fault, &issuer)
    }

    fn with(fault: Fault, issuer: &str) -> Self {
        let upstream = Upstream::start();
        let text = issuer.to_owned() + &policy::credential() + &policy::outbound(upstream.port(), &json!({}));
        let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
        let proxy = Settings::policies(folder.path(), "checkout").tracing().start();
        Self { fault, upstream, proxy, _folder: folder }
    }

    fn answering(bytes: Vec<u8>) -> Self {
        Self::new(Mode::Answer(bytes))
    }

    fn get(&self) -> Answer {
        let authority = format!("localhost:{}", self.upstream.port());
        get(self.proxy.outbound(), "/a", &[("Host", &authority)])
    }

    /// What `/tokens` says of the only slot.
    fn report(&self) -> Value {
        let report = get(self.proxy.admin(), "/tokens", &[]).json();
        let slots = report.as_array().or_else(|| report["tokens"].as_array());
        slots.unwrap_or_else(|| panic!("{report}"))[0].clone()
    }

    /// The token goes along, with so long a life.
    fn assert_attached(&self, case: &str, life: std::ops::RangeInclusive<i64>) {
        let answer = self.get();
        assert_eq!(answer.status, 200, "{case}: {answer:?} {}", self.proxy.log());
        assert_eq!(self.upstream.last().all("authorization"), [format!("Bearer {CANARY_TOKEN}")], "{case}");
        let left = self.report()["expires_in_seconds"].as_i64();
        assert!(left.is_some_and(|left| life.contains(&left)), "{case}: {left:?}");
        self.assert_silent(case);
    }

    /// 503, nothing reaches the upstream, and this is the cause.
    fn assert_refused(&self, case: &str, cause: &str) {
        let answer = self.get();
        assert_eq!(answer.status, 503, "{case}: {answer:?} {}", self.proxy.log());
        assert_eq!(answer.reason(), "token_unavailable", "{case}");
        assert!(answer.header("retry-after").is_some(), "{case}");
        assert!(answer.header("www-authenticate").is_none(), "{case}: it is not the application's fault");
        assert_eq!(self.upstream.count(), 0, "{case}");
        let failures = self.proxy.scrape();
        let failures = failures.all("countersign_token_fetch_failures_total");
        let counted: Vec<_> =
            failures.iter().filter(|one| one.value > 0.0).map(|one| &one.labels["cause"]).collect();
        assert_eq!(counted, [cause], "{case}: {}", self.report());
        let told = self.report();
        assert!(told["last_error"].as_str().is_some_and(|text| text.len() > 20), "{case}: {told}");
        assert_eq!(told["state"], "unavailable", "{case}: {told}");
        assert!(self.proxy.log().contains(&format!("\"cause\":\"{cause}\"")), "{case}: {}", self.proxy.log());
        self.assert_silent(case);
    }

    /// Nothing that was sent or received is written anywhere.
    fn assert_silent(&self, case: &str) {
        let pages =
            ["/metrics", "/snapshot", "/tokens"].map(|page| get(self.proxy.admin(), page, &[]).text());
        for text in pages.iter().chain([&self.proxy.log()]) {
            for secret in ["canary", SECRET, &form(SECRET), &basic()] {
                assert!(!text.contains(secret), "{case}: {secret} is shown");
            }
        }
    }
}

#[test]
fn c11_c12_c13_answers_that_are_tokens() {
    for (case, bytes, life) in [
        ("lower case", token_with(&json!({"token_type": "bearer"})), 290..=300),
        ("upper case", token_with(&json!({"token_type": "BEARER"})), 290..=300),
        // Not for ever: five minutes.
        ("no expires_in", token_with(&json!({"expires_in": null})), 290..=300),
        ("a string", token_with(&json!({"expires_in": "3600"})), 3590..=3600),
        ("a fraction", token_with(&json!({"expires_in": 600.5})), 590..=600),
        ("huge", token_with(&json!({"expires_in": 1e30})), 315_000_000..=315_400_000),
        ("more members", token_with(&json!({"ext_expires_in": 1, "refresh_token": "canary-r"})), 290..=300),
    ] {
        World::answering(bytes).assert_attached(case, life);
    }
}

/// As servers of HTTP/1.0 do: no length, and the end of the connection is that of the answer.
#[test]
fn an_answer_that_ends_with_its_connection_is_read() {
    let json = token_with(&json!({}));
    let body = json.windows(4).position(|four| four == b"\r\n\r\n").map(|at| &json[at + 4..]).unwrap();
    for version in ["1.0", "1.1"] {
        let head = format!("HTTP/{version} 200 OK\r\nContent-Type: application/json\r\n\r\n");
        World::answering([head.as_bytes(), body].concat()).assert_attached(version, 290..=300);
    }
}

#[test]
fn c12_out_10_answers_with_a_token_that_will_not_do() {
    let token = |value: &str| token_with(&json!({"access_token": value}));
    let kind = |value: Value| token_with(&json!({"token_type": value}));
    let life = |value: Value| token_with(&json!({"expires_in": value}));
    for (case, bytes, cause) in [
        ("N_A", kind(json!("N_A")), "token_type"),
        ("MAC", kind(json!("mac")), "token_type"),
        ("no token_type", kind(json!(null)), "token_type"),
        ("a token_type that is no text", kind(json!(1)), "malformed"),
        ("expires_in 0", life(json!(0)), "expired"),
        ("expires_in -1", life(json!(-1)), "expired"),
        ("expires_in in words", life(json!("canary soon")), "malformed"),
        ("no token", token_with(&json!({"access_token": null})), "malformed"),
        ("an empty token", token(""), "malformed"),
        ("CRLF in the token", token("canary\r\nX-Injected: canary"), "malformed"),
        ("a space in the token", token("canary canary"), "malformed"),
        ("a token that is not ASCII", token("canary-\u{e9}"), "malformed"),
        ("a token of 16 KiB and 1", token(&"canary-0".repeat(2048).replacen('0', "00", 1)), "malformed"),
    ] {
        World::answering(bytes).assert_refused(case, cause);
    }
}

#[test]
fn answers_that_are_no_tokens() {
    let whole = json!({"access_token": CANARY_TOKEN, "token_type": "Bearer"}).to_string();
    let twice =
        format!(r#"{{"access_token":"{CANARY_TOKEN}","access_token":"canary-b","token_type":"Bearer"}}"#);
    let html = b"<!DOCTYPE html><title>canary</title>Please log in";
    let cut = answer("200 OK", "", &[whole.as_bytes(), &[b' '; 100]].concat());
    for (case, bytes) in [
        ("truncated JSON", granted(&whole[..whole.len() - 5])),
        ("a truncated message", cut[..cut.len() - 50].to_vec()),
        ("an array", granted(&format!("[{whole}]"))),
        (
            "an array in the order of the members",
            granted(&format!(r#"["{CANARY_TOKEN}","Bearer",300,null]"#)),
        ),
        ("a member twice", granted(&twice)),
        ("more behind it", granted(&format!("{whole}{whole}"))),
        ("HTML", answer("200 OK", "Content-Type: text/html\r\n", html)),
        ("nothing", granted("")),
        ("204", b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        ("206", answer("206 Partial Content", "", whole.as_bytes())),
        ("no HTTP", b"canary: this is no HTTP\r\n\r\n".to_vec()),
        (
            "two lengths",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{whole}").into(),
        ),
    ] {
        World::answering(bytes).assert_refused(case, "malformed");
    }
}

/// More than a mebibyte, told in advance or not, and what would become much more.
#[test]
fn answers_of_any_size_are_bounded() {
    let large = token_with(&json!({"padding": "a".repeat(1024 * 1024)}));
    World::answering(large.clone()).assert_refused("1 MiB and more", "malformed");
    let start = large.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let chunk = format!("{:x}\r\n", large.len() - start);
    let chunked = [
        &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
        chunk.as_bytes(),
        &large[start..],
        b"\r\n0\r\n\r\n",
    ];
    World::answering(chunked.concat()).assert_refused("the same in chunks", "malformed");
    let fits = token_with(&json!({"padding": "a".repeat(1024 * 1024 - 200)}));
    World::answering(fits).assert_attached("a little less", 290..=300);
    // A kibibyte of zeros, packed: it is not looked into.
    let bomb = answer("200 OK", "Content-Encoding: gzip\r\n", GZIPPED);
    World::answering(bomb).assert_refused("gzip", "malformed");
    let head = format!("HTTP/1.1 200 OK\r\nX-Canary: {}\r\n", "a".repeat(128 * 1024));
    World::answering(head.into()).assert_refused("a head of 128 KiB", "malformed");
}

/// `head -c 1024 /dev/zero | gzip -n9`
const GZIPPED: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x63, 0x60, 0x18, 0x05, 0xa3, 0x60, 0x14,
    0x8c, 0x54, 0x00, 0x00, 0x2e, 0xaf, 0xb5, 0xef, 0x00, 0x04, 0x00, 0x00,
];

/// The application waits ten seconds at most, and the connection is given up then.
#[test]
fn an_answer_that_never_ends_is_given_up() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"access_token\":\"".to_vec();
    let world = World::new(Mode::Drip(head, Duration::from_millis(50)));
    let answer = world.get();
    assert_eq!((answer.status, answer.reason().as_str()), (503, "token_unavailable"), "{answer:?}");
    wait_until("the cause", Duration::from_secs(5), || world.report()["last_error"].is_string());
    world.assert_refused("a drip", "timeout");
}

/// The secret went to the endpoint that policy names, and goes to no other.
#[test]
fn out_4_a_redirect_sends_nobody_anything() {
    for status in
        ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        let elsewhere = Upstream::start();
        let location = format!("Location: http://{}/token\r\n", elsewhere.address());
        World::answering(answer(status, &location, b"")).assert_refused(status, "redirect");
        assert_eq!(elsewhere.count(), 0, "{status}");
    }
}

#[test]
fn c16_c17_errors_of_the_issuer() {
    let error = |error: &str| json!({"error": error, "error_description": "canary, you are"}).to_string();
    for (status, headers, body, cause, at_least) in [
        ("400 Bad Request", "", error("invalid_client"), "invalid_client", 25),
        (
            "401 Unauthorized",
            "WWW-Authenticate: Basic realm=\"canary\"\r\n",
            String::new(),
            "invalid_client",
            25,
        ),
        ("400 Bad Request", "", error("invalid_scope"), "invalid_scope", 25),
        ("400 Bad Request", "", error("invalid_target"), "invalid_target", 25),
        ("403 Forbidden", "", error("canary_error"), "rejected", 0),
        ("404 Not Found", "", "<html>canary".to_owned(), "rejected", 0),
        ("429 Too Many Requests", "Retry-After: 17\r\n", String::new(), "rate_limited", 15),
        ("503 Service Unavailable", "Retry-After: 17\r\n", "canary".to_owned(), "server_error", 15),
        ("500 Internal Server Error", "", "canary".to_owned(), "server_error", 0),
    ] {
        let world = World::answering(answer(status, headers, body.as_bytes()));
        world.assert_refused(status, cause);
        let retry_after: u64 = world.get().header("retry-after").unwrap().parse().unwrap();
        assert!(retry_after >= at_least, "{status} {cause}: {retry_after}");
        if at_least > 0 {
            // Whoever asks, the issuer is not asked again before that.
            assert_eq!(world.fault.connections(), 1, "{status} {cause}");
        }
    }
}

/// A connection that is cut, with and without an answer begun, and an endpoint that nobody serves.
#[test]
fn an_issuer_that_is_not_there() {
    World::new(Mode::Refuse).assert_refused("closed at once", "connect");
    let nobody = Port::lease();
    let endpoint = format!("http://{}/token", nobody.address());
    let spec = json!({"issuer": "http://127.0.0.1:1", "tokenEndpoint": endpoint, "insecure": true});
    World::with(Fault::alone(Mode::Refuse), &document("Issuer", "corp", &spec))
        .assert_refused("nobody", "connect");
}
