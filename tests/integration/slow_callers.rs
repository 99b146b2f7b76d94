//! How long does a caller have to say what it wants? Ten seconds from its first byte, however it dribbles.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::Connection;
use crate::support::policy::{Folder, inbound, issuer_with_file};
use crate::support::proxy::Settings;
use crate::support::upstream::Upstream;
use crate::support::wait_until;

/// Says the first at once and the rest byte by byte, each second one. How long it was listened to.
fn dribble(to: SocketAddr, first: &[u8], rest: &[u8]) -> Duration {
    let mut stream = TcpStream::connect(to).expect("a connection");
    let start = Instant::now();
    stream.write_all(first).expect("it listens");
    for byte in rest.iter().cycle() {
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        match stream.read(&mut [0; 1024]) {
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {}
            Ok(0) | Err(_) => break,
            // The settings of HTTP/2.
            Ok(_) => {}
        }
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(40), "{first:?} is still listened to");
    }
    start.elapsed()
}

/// A head of HTTP/2 on this stream.
fn frame(stream: u8, fields: &[u8]) -> Vec<u8> {
    let length = u8::try_from(fields.len()).expect("a short one");
    [&[0, 0, length, 1, 5, 0, 0, 0, stream], fields].concat()
}

#[test]
fn in_24_a_head_that_dribbles_is_cut_off_and_silence_is_not() {
    let upstream = Upstream::start();
    let rules = json!([{"name": "all", "public": true, "to": {"paths": ["/*"]}}]);
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&rules))),
        ("keys.jwks", r#"{"keys":[]}"#),
    ]);
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    let (inbound, outbound) = (proxy.inbound(), proxy.outbound());
    let mut quiet = Connection::open(inbound).unwrap();
    let ask = |quiet: &mut Connection| quiet.request("GET", "/status/204", &[], b"").unwrap().status;
    assert_eq!(ask(&mut quiet), 204);

    let after_one = "GET /status/204 HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n";
    let one = frame(1, b"\x82\x86\x04\x0b/slow/60000\x01\x01a");
    let begun = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], &one].concat();
    let (preface, next) = (
        &begun[..begun.len() - one.len()],
        frame(3, &[&b"\x82\x86\x84\x01\x01a\0\x01x\x64"[..], &[b'b'; 100]].concat()),
    );
    let cases: [(_, &[u8], &[u8]); 9] = [
        (inbound, b"G", b"ET / HTTP/1.1\r\nHost: a\r\nX: aaaaaaaaaaaaaaaaaaaaaaa"),
        (inbound, b"P", b"RI * HTTP/2.0\r\n"),
        (inbound, b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: aaaaaaaaaaaaaaaaaaaaaaaaaa"),
        (inbound, b"PRI", b" * HTTP/2.0\r\n\r\nSM"),
        (outbound, b"GET http://localhost:1/ HTTP/1.1\r\n", b"X: aaaaaaaaaaaaaaaaaaaaaaaaaa"),
        (inbound, after_one.as_bytes(), b"X: aaaaaaaaaaaaaaaaaaaaaaaaaa"),
        (inbound, preface, &next),
        (inbound, &begun, &next),
        (outbound, preface, &next),
    ];
    thread::scope(|scope| {
        let dribbling = cases.map(|(to, first, rest)| (first, scope.spawn(move || dribble(to, first, rest))));
        for (first, case) in dribbling {
            let (first, took) = (String::from_utf8_lossy(first), case.join().unwrap());
            let limit = Duration::from_secs(9)..Duration::from_secs(20);
            assert!(limit.contains(&took), "{first:?} was listened to for {took:?}");
        }
    });
    let count = |direction| {
        let labels = [("direction", direction), ("cause", "head")];
        proxy.scrape().sum("countersign_connections_timed_out_total", &labels)
    };
    wait_until("all to be counted", Duration::from_secs(5), || {
        count("inbound") > 6.5 && count("outbound") > 1.5
    });
    assert_eq!(ask(&mut quiet), 204, "silence has its time");
    assert!(upstream.count() <= 4, "half a head went on");
}
