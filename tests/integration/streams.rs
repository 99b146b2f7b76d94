//! When is a stream idle? Only when nothing moves in either direction; and an upstream that never answers costs each
//! caller its own patience, not that of all who came before.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::client::{Connection, get};
use crate::support::policy::{Folder, document, inbound_with, issuer_with_file};
use crate::support::ports::Port;
use crate::support::proxy::{Proxy, Settings};

/// An application that answers before it has read the request, and goes on for 3 s, whatever comes: with a chunk every
/// 300 ms, or with all of them at the end.
fn ticker(ticks: bool) -> Port {
    let port = Port::lease();
    let listener = TcpListener::bind(port.address()).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                for _ in 0..10 {
                    thread::sleep(Duration::from_millis(300));
                    if ticks && stream.write_all(b"4\r\ntick\r\n").is_err() {
                        return;
                    }
                }
                let _ = stream.write_all(b"3\r\nend\r\n0\r\n\r\n");
                // What is unread at the end must not reset the connection.
                let _ = stream.read(&mut [0; 4096]);
            });
        }
    });
    port
}

fn impatient_proxy(target: SocketAddr) -> (Proxy, Folder) {
    let rules = json!([{"name": "all", "public": true, "to": {"paths": ["/*"]}}]);
    let policy = inbound_with(&rules, &json!({"timeouts": {"idle": "1s", "firstByte": "1s"}}));
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &policy)),
        ("keys.jwks", r#"{"keys":[]}"#),
    ]);
    (Settings::policies(folder.path(), "orders").before(target).start(), folder)
}

const OPEN: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";

fn chunks(connection: &mut Connection) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = connection.chunk()? {
        all.extend(chunk);
    }
    Ok(all)
}

#[test]
fn a_caller_may_listen_for_long_with_its_request_open() {
    let application = ticker(true);
    let (proxy, _folder) = impatient_proxy(application.address());
    let mut connection = Connection::open(proxy.inbound()).unwrap();
    connection.send(OPEN).unwrap();
    assert_eq!(connection.head().unwrap().0, 200);
    assert_eq!(chunks(&mut connection).unwrap(), ["tick".repeat(10).as_bytes(), b"end"].concat());
}

#[test]
fn a_caller_may_send_for_long_while_the_answer_is_open() {
    let application = ticker(false);
    let (proxy, _folder) = impatient_proxy(application.address());
    let mut connection = Connection::open(proxy.inbound()).unwrap();
    connection.send(OPEN).unwrap();
    assert_eq!(connection.head().unwrap().0, 200);
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(300));
        connection.send(b"3\r\nabc\r\n").unwrap();
    }
    assert_eq!(chunks(&mut connection).unwrap(), b"end");
}

#[test]
fn where_neither_moves_the_stream_ends() {
    let application = ticker(false);
    let (proxy, _folder) = impatient_proxy(application.address());
    let mut connection = Connection::open(proxy.inbound()).unwrap();
    connection.send(OPEN).unwrap();
    assert_eq!(connection.head().unwrap().0, 200);
    assert!(chunks(&mut connection).is_err(), "an idle stream went on");
}

/// It is full, and says nothing: that is its fault, and ends.
#[test]
fn an_application_that_takes_nothing_times_out() {
    let full = Port::lease();
    let _listener = TcpListener::bind(full.address()).unwrap();
    let (proxy, _folder) = impatient_proxy(full.address());
    let mut caller = TcpStream::connect(proxy.inbound()).unwrap();
    caller.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut sender = caller.try_clone().unwrap();
    thread::spawn(move || {
        let _ = sender.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
        let _ = sender.write_all(&vec![0; 100_000_000]);
    });
    let mut line = [0; 12];
    caller.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 504");
}

#[test]
fn who_waits_for_anothers_connection_waits_no_longer_than_its_own_limit() {
    let silent = Port::lease();
    let _listener = TcpListener::bind(silent.address()).unwrap();
    let rule = json!({
        "name": "silent", "to": {"hosts": ["localhost"], "ports": [silent.number()]},
        "tls": "originate", "protocol": "http2", "timeouts": {"connect": "1s"},
    });
    let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "rules": [rule]});
    let folder = Folder::with(&[("policy.yaml", &document("OutboundPolicy", "checkout", &spec))]);
    let proxy = Settings::policies(folder.path(), "checkout").with(&["--workers", "1"]).start();
    let (to, target) = (proxy.outbound(), format!("http://localhost:{}/", silent.number()));
    let start = Instant::now();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let target = target.clone();
            let host = format!("localhost:{}", silent.number());
            thread::spawn(move || get(to, &target, &[("Host", &host)]).status)
        })
        .collect();
    for caller in callers {
        assert!([502, 504].contains(&caller.join().unwrap()));
    }
    assert!(start.elapsed() < Duration::from_millis(3500), "{:?}", start.elapsed());
}
