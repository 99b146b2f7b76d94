//! What does a flood cost? Bad tokens without number take no memory, and keys that change under load cost no request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::client::{Connection, get_with};
use crate::support::jose::{Key, claims, encode, key_set};
use crate::support::policy::{Folder, LOCAL_ISSUER, inbound, issuer_with_file, usual_rules};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

fn orders(target: SocketAddr, keys: &[&Key]) -> (Proxy, Folder) {
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&usual_rules()))),
        ("keys.jwks", &key_set(keys).to_string()),
    ]);
    let settings = Settings::policies(folder.path(), "orders").before(target).with(&["--access-log", "off"]);
    (settings.start(), folder)
}

/// The n-th of a flood of tokens that differ and are all bad, each in its way.
fn bad_token(n: usize, good: &str, key: &Key) -> String {
    let (signed, signature) = good.rsplit_once('.').expect("three segments");
    match n % 8 {
        // A signature check each: 64 bytes that are no signature of it.
        0 | 1 => format!("{signed}.{}", encode(&[&n.to_be_bytes()[..], &[1; 56]].concat())),
        // A key that nobody has.
        2 | 3 => {
            let header = format!(r#"{{"alg":"ES256","typ":"at+jwt","kid":"random-{n}"}}"#);
            let (_, claims) = signed.split_once('.').expect("two segments");
            format!("{}.{claims}.{signature}", encode(header.as_bytes()))
        }
        4 => format!("{n}{good}"),
        5 => format!("opaque-{n}"),
        6 => key.token(&claims(LOCAL_ISSUER, &json!({"jti": n.to_string(), "exp": 1_000_000_000}))),
        _ => key.token(&claims("https://stranger.test", &json!({"jti": n.to_string()}))),
    }
}

/// Resident memory of the sidecar, in KiB.
pub(crate) fn resident(proxy: &Proxy) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Sends these tokens over one connection, twenty at a time; every answer is a 401.
pub(crate) fn send(to: SocketAddr, mut tokens: impl Iterator<Item = String>) {
    let stream = TcpStream::connect(to).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let mut reader = BufReader::new(&stream);
    loop {
        let batch: Vec<_> = tokens.by_ref().take(20).collect();
        if batch.is_empty() {
            return;
        }
        let request =
            |token| format!("GET /orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
        let requests: String = batch.iter().map(request).collect();
        (&stream).write_all(requests.as_bytes()).expect("it reads");
        for token in batch {
            let status = answer(&mut reader);
            assert!(status.starts_with("HTTP/1.1 401 "), "{status} to {token}");
        }
    }
}

/// The status line of one answer, whose body is read too.
fn answer(reader: &mut impl BufRead) -> String {
    let (mut status, mut length) = (String::new(), 0);
    reader.read_line(&mut status).expect("an answer");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a head");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length]).expect("a body");
    status
}

/// `COUNTERSIGN_FLOOD=1000000` for the whole million; CI is content with fewer, since the caches are full long before.
#[test]
fn in_11_in_13_distinct_bad_tokens_without_number_leave_memory_flat() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let (proxy, _folder) = orders(upstream.address(), &[&key]);
    let good = key.token(&claims(LOCAL_ISSUER, &json!({})));
    assert_eq!(get_with(proxy.inbound(), "/orders", &good).status, 200);
    let tokens = std::env::var("COUNTERSIGN_FLOOD").map_or(40_000, |n| n.parse().expect("a number"));
    let (warm, threads, to) = (20_000, 4, proxy.inbound());
    let flood = |from: usize, until: usize| {
        thread::scope(|scope| {
            for first in 0..threads {
                let (good, key) = (&good, &key);
                scope.spawn(move || {
                    send(to, (from + first..until).step_by(threads).map(|n| bad_token(n, good, key)));
                });
            }
        });
        resident(&proxy)
    };
    let before = flood(0, warm);
    let after = flood(warm, warm + tokens);
    println!("resident after {warm} bad tokens {before} KiB, after {tokens} more {after} KiB");
    assert!(after < before + 4096, "from {before} to {after} KiB");
    // It still works, and remembers who is good.
    assert_eq!(get_with(to, "/orders", &good).status, 200);
    let refused = proxy.scrape().sum("countersign_requests_total", &[("decision", "deny")]);
    let sent = u32::try_from(warm + tokens).expect("a number");
    assert!(refused >= f64::from(sent), "{refused} were refused");
    assert_eq!(upstream.count(), 2);
}

/// Callers that never pause, and what they got that is not 200.
pub(crate) struct Load {
    token: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    callers: Vec<thread::JoinHandle<Vec<String>>>,
}

impl Load {
    pub(crate) fn start(to: SocketAddr, token: String) -> Self {
        let (token, stop, sent) =
            (Arc::new(Mutex::new(token)), Arc::default(), Arc::<AtomicUsize>::default());
        let callers = (0..3)
            .map(|_| {
                let (token, stop, sent) =
                    (Arc::clone(&token), Arc::<AtomicBool>::clone(&stop), Arc::clone(&sent));
                thread::spawn(move || {
                    let mut connection = Connection::open(to).expect("a connection");
                    let mut wrong = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let bearer = format!("Bearer {}", token.lock().expect("no caller panics with it"));
                        match connection.request("GET", "/orders", &[("Authorization", &bearer)], b"") {
                            Ok(answer) if answer.status == 200 => {}
                            other => wrong.push(format!("{other:?}")),
                        }
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    wrong
                })
            })
            .collect();
        Self { token, stop, sent, callers }
    }

    /// From now on this one; returns when every caller has used it for a while.
    pub(crate) fn switch(&self, token: &str) {
        token.clone_into(&mut self.token.lock().expect("no caller panics with it"));
        let before = self.sent.load(Ordering::Relaxed);
        wait_until("requests with the new token", Duration::from_secs(20), || {
            self.sent.load(Ordering::Relaxed) > before + 100
        });
    }

    pub(crate) fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.callers.into_iter().flat_map(|caller| caller.join().expect("a caller")).collect()
    }
}

/// Published, used, and the old one withdrawn, three times over: no request fails, and what the withdrawn key signed is refused
/// within one refresh, although its verdicts were cached by every connection.
#[test]
fn in_11_in_13_keys_rotate_under_load_and_a_withdrawn_key_is_worth_nothing() {
    let (keys, upstream) = ([0, 1, 2, 3].map(|n| Key::new(&format!("k{n}"))), Upstream::start());
    let tokens = keys.each_ref().map(|key| key.token(&claims(LOCAL_ISSUER, &json!({}))));
    let (proxy, folder) = orders(upstream.address(), &[&keys[0]]);
    let to = proxy.inbound();
    let refreshes = || proxy.scrape().sum("countersign_jwks_refreshes_total", &[("result", "success")]);
    let publish = |set: &[&Key]| {
        let before = refreshes();
        folder.write("keys.jwks", &key_set(set).to_string());
        wait_until("a refresh", Duration::from_secs(10), || refreshes() > before);
    };
    let load = Load::start(to, tokens[0].clone());
    for n in 0..3 {
        publish(&[&keys[n], &keys[n + 1]]);
        load.switch(&tokens[n + 1]);
        assert_eq!(get_with(to, "/orders", &tokens[n]).status, 200, "its key is still published");
        publish(&[&keys[n + 1]]);
        assert_eq!(get_with(to, "/orders", &tokens[n]).reason(), "unknown_key");
    }
    let wrong = load.end();
    assert!(wrong.is_empty(), "{} of them: {:?}", wrong.len(), wrong.first());
}

/// A frame of HTTP/2 for the whole connection.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short one");
    [&[0, 0, length, kind, flags, 0, 0, 0, 0], payload].concat()
}

/// Answers to pings that nobody sent, over as many connections as it takes; h2 has a word for each.
#[test]
fn in_24_strangers_do_not_fill_the_log() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let (proxy, _folder) = orders(upstream.address(), &[&key]);
    let (settings, ping, ack) = (4, 6, 1);
    for _ in 0..20 {
        let mut caller = TcpStream::connect(proxy.inbound()).expect("a connection");
        caller.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        said.extend(frame(settings, 0, b""));
        said.extend(frame(ping, ack, b"unasked!").repeat(500));
        said.extend(frame(ping, 0, b"all read"));
        caller.write_all(&said).expect("it reads");
        let (mut heard, pong) = (Vec::<u8>::new(), frame(ping, ack, b"all read"));
        while !heard.windows(pong.len()).any(|window| window == pong) {
            let mut some = [0; 1024];
            let read = caller.read(&mut some).expect("an answer");
            assert!(read > 0, "it was cut off before it was heard");
            heard.extend(&some[..read]);
        }
    }
    // More than that on one connection are too many.
    let mut caller = TcpStream::connect(proxy.inbound()).expect("a connection");
    let said = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(settings, 0, b"")].concat();
    caller.write_all(&said).expect("it reads");
    // It may be cut off before the last of them.
    let _ = caller.write_all(&frame(ping, ack, b"unasked!").repeat(5000));
    let labels = [("direction", "inbound"), ("cause", "frames")];
    wait_until("the end to be counted", Duration::from_secs(10), || {
        proxy.scrape().sum("countersign_connections_timed_out_total", &labels) > 0.5
    });
    let log = proxy.log();
    assert!(log.len() < 10_000, "{} bytes, the last of them {:?}", log.len(), log.lines().last());
    assert!(log.contains("the sidecar serves"), "our own words are written: {log}");
}
