//! Does a listener before an application take what is not HTTP? A port that policy declares `tcp`, without any redirect.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::policy::{Folder, document};
use crate::support::ports::Port;
use crate::support::proxy::Settings;
use crate::support::wait_until;

/// Greets whoever comes, and says back what it hears.
fn greeter() -> Port {
    let port = Port::lease();
    let listener = TcpListener::bind(port.address()).expect("a port");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut heard = [0; 1024];
                let mut said = stream.write_all(b"+hello\n");
                while let (Ok(()), Ok(read @ 1..)) = (&said, stream.read(&mut heard)) {
                    said = stream.write_all(&heard[..read]);
                }
            });
        }
    });
    port
}

fn open(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
    stream
}

fn hears(stream: &mut TcpStream, expected: &[u8]) -> bool {
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard).is_ok() && heard == expected
}

#[test]
fn a_listener_takes_bytes_where_policy_says_that_the_port_is_no_http() {
    let application = greeter();
    let policy = |protocol: &str, rules: &Value| {
        let spec = json!({"ports": [application.number()], "protocol": protocol, "rules": rules});
        document("InboundPolicy", "orders", &spec)
    };
    let deny = |source: &str| {
        json!([
            {"name": "some", "effect": "deny", "from": {"sources": [source]}},
            {"name": "all", "public": true},
        ])
    };
    let folder = Folder::with(&[("policy.yaml", &policy("tcp", &deny("192.0.2.0/24")))]);
    let proxy = Settings::policies(folder.path(), "orders").before(application.address()).start();
    // The server begins; then what is no HTTP at all goes there and back, to its end.
    let mut first = open(proxy.inbound());
    assert!(hears(&mut first, b"+hello\n"), "{}", proxy.log());
    first.write_all(b"\0\x01PING\n").expect("it is written");
    assert!(hears(&mut first, b"\0\x01PING\n"));
    first.shutdown(std::net::Shutdown::Write).expect("an end");
    assert_eq!(first.read(&mut [0; 1]).expect("an end"), 0);

    // Policy changes: what is open ends, and nothing new comes in.
    let mut held = open(proxy.inbound());
    assert!(hears(&mut held, b"+hello\n"));
    folder.write("policy.yaml", &policy("tcp", &deny("127.0.0.0/8")));
    assert!(held.read(&mut [0; 1]).is_err(), "it is reset");
    assert!(!hears(&mut open(proxy.inbound()), b"+hello\n"));
    let sum = |name: &str, labels: &[(&str, &str)]| proxy.scrape().sum(name, labels);
    let tcp = |decision, reason| {
        [("direction", "inbound"), ("protocol", "tcp"), ("decision", decision), ("reason", reason)]
    };
    assert_eq!(sum("countersign_requests_total", &tcp("allow", "")[..3]), 2.0);
    assert_eq!(sum("countersign_requests_total", &tcp("deny", "denied_by_rule")), 1.0);
    assert_eq!(sum("countersign_streams_ended_total", &[("reason", "denied_by_rule")]), 1.0);

    // It is HTTP from now on: bytes that were let in before are not.
    folder.write("policy.yaml", &policy("tcp", &deny("192.0.2.0/24")));
    let mut again = None;
    wait_until("the policy", Duration::from_secs(10), || {
        let mut stream = open(proxy.inbound());
        let is_open = hears(&mut stream, b"+hello\n");
        again = Some(stream);
        is_open
    });
    folder.write(
        "policy.yaml",
        &policy("http", &json!([{"name": "open", "public": true, "to": {"paths": ["/open"]}}])),
    );
    assert!(again.expect("a connection").read(&mut [0; 1]).is_err(), "it is reset");
    let mut http = open(proxy.inbound());
    http.write_all(b"GET /other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it is written");
    assert!(hears(&mut http, b"HTTP/1.1 403 "));
}
