//! Is the application's own TLS its own from end to end? Python's OpenSSL to Node's through both sidecars: the certificate that
//! is seen, and every byte.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::meshed::Recorder;
use crate::support::pair::{Pair, rule};
use crate::support::pods::{As, Pod, open_to_all};
use crate::support::policy::Folder;
use crate::support::tls::Ca;
use crate::support::wait_until;

/// Asks by TLS and says what it saw: the hash of the certificate, and how many bytes it sent and received below TLS.
fn ask(pod: &Pod, who: As, ca: &str, to: &str, length: usize) -> Value {
    let done = pod.run(who, "python3", &["-c", CLIENT, ca, to, "8443", &length.to_string()]);
    assert_eq!(done.code, Some(0), "{to}: {}", done.stderr);
    serde_json::from_str(&done.stdout).expect("a line of JSON")
}

#[test]
fn tls_of_applications_passes_both_sidecars_byte_for_byte() {
    // The rule is for HTTP on that very port, and `egress: deny` would not know whom the TLS is for: it passes, counted.
    let tcp = json!({"ports": [8443], "protocol": "tcp", "rules": [{"name": "all", "public": true}]});
    let hosts = ["v4.shop.test", "v6.shop.test"];
    let pair = Pair::start(&json!({"rules": [rule("orders", &hosts, &[8443])]}), &[tcp], &[], "");
    let [a, b] = pair.pods();
    let (ca, folder) = (Ca::new("applications"), Folder::with(&[]));
    folder.write("ca.crt", &ca.pem);
    open_to_all(folder.path());
    let trusted = folder.file("ca.crt").display().to_string();
    let server = ca.server();
    let at = ["0.0.0.0:8443", "[::]:8443"].map(|at| at.parse::<SocketAddr>().unwrap());
    let recorder = Recorder::start_tls(b, &at, &server.cert, &server.key);

    let direct = ask(a, As::Ids(0, 16016), &trusted, &b.v4.to_string(), 10);
    // Past the own sidecar, and in by the other.
    let both = |seen: &Value| ["sent", "received"].map(|name| seen[name].as_u64().expect("a number"));
    let [sent, received] = both(&direct);
    wait_until("it to be counted", Duration::from_secs(5), || pair.bytes() == [(0, 0), (sent, received)]);
    for (number, (host, length)) in hosts.iter().zip([10, 1_000_000]).enumerate() {
        let before = pair.bytes();
        let seen = ask(a, As::Root, &trusted, host, length);
        assert_eq!(seen["certificate"], direct["certificate"], "{host}");
        let expected = <(u64, u64)>::from(both(&seen));
        assert!(expected.0 > length as u64 && expected.1 > 1000, "{seen}");
        let since = || {
            let now = pair.bytes();
            [0, 1].map(|at| (now[at].0 - before[at].0, now[at].1 - before[at].1))
        };
        let mut counted = since();
        for _ in 0..20 {
            if counted == [expected; 2] {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            counted = since();
        }
        assert_eq!(counted, [expected; 2], "{host}: the sidecars, and the application");
        let tls = [("reason", "tls")];
        let bypassed = pair.checkout.scrape().sum("countersign_outbound_bypassed_total", &tls);
        assert_eq!(bypassed, [1.0, 2.0][number], "{host}");
    }
    let requests = recorder.seen();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| request["headers"].get("authorization").is_none()), "{requests:?}");
}

#[test]
fn where_egress_is_denied_tls_between_applications_goes_by_server_name() {
    let outbound = json!({"egress": "deny", "rules": [
        {"name": "secure", "to": {"hosts": ["localhost.shop.test", "v4.shop.test"], "ports": [8443]}, "tls": "passthrough"},
        rule("http", &["orders.shop.test"], &[8443]),
    ]});
    let tcp = json!({"ports": [8443], "protocol": "tcp", "rules": [{"name": "all", "public": true}]});
    let pair = Pair::start(&outbound, &[tcp], &[], "");
    let [a, b] = pair.pods();
    let server = Ca::new("applications").server();
    let at = ["0.0.0.0:8443", "[::]:8443"].map(|at| at.parse::<SocketAddr>().unwrap());
    let recorder = Recorder::start_tls(b, &at, &server.cert, &server.key);
    let shown = |who, to: &str, name: &[&str]| {
        let arguments = [&["s_client", "-connect", to, "-no_ign_eof"][..], name].concat();
        let done = a.run(who, "openssl", &arguments);
        let begins = done.stdout.find("-----BEGIN CERTIFICATE-----");
        begins.map(|at| done.stdout[at..].split("-----END").next().unwrap_or_default().to_owned())
    };
    let (v4, v6) = (format!("{}:8443", b.v4), format!("[{}]:8443", b.v6));
    let direct = shown(As::Sidecar, &v4, &["-servername", "v4.shop.test"]);
    assert!(direct.is_some(), "the server answers");
    wait_until("the names", Duration::from_secs(10), || {
        shown(As::Application, &v4, &["-servername", "v4.shop.test"]) == direct
    });
    for (to, name, passes) in [
        (&v4, &["-servername", "v4.shop.test"][..], true),
        // Named by a rule for HTTP, and by none; without a name; and at an address that the name has not.
        (&v4, &["-servername", "orders.shop.test"], false),
        (&v4, &["-servername", "other.test"], false),
        (&v4, &["-noservername"], false),
        (&v6, &["-servername", "v4.shop.test"], false),
    ] {
        let seen = shown(As::Application, to, name);
        assert_eq!(seen.is_some(), passes, "{to} {name:?}");
        assert!(!passes || seen == direct);
    }
    assert!(recorder.seen().is_empty());
    let (scrape, denied) = (pair.checkout.scrape(), [("protocol", "tcp"), ("decision", "reject")]);
    let refused =
        |reason| scrape.sum("countersign_requests_total", &[&denied[..], &[("reason", reason)]].concat());
    assert_eq!(refused("egress_denied") + refused("ambiguous_destination"), 4.0, "{scrape:?}");
    assert!(scrape.sum("countersign_outbound_bypassed_total", &[("reason", "passthrough")]) >= 2.0);
    assert_eq!(scrape.sum("countersign_outbound_bypassed_total", &[("reason", "tls")]), 0.0);
}

/// TLS over memory, so that its bytes can be counted on their way to the socket and from it.
const CLIENT: &str = r#"
import hashlib, json, socket, ssl, sys
ca, host, port, length = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
inward, outward, counts = ssl.MemoryBIO(), ssl.MemoryBIO(), {"sent": 0, "received": 0}
tls = ssl.create_default_context(cafile=ca).wrap_bio(inward, outward, server_hostname="localhost")
wire = socket.create_connection((host, port), timeout=10)

def flush():
    data = outward.read()
    wire.sendall(data)
    counts["sent"] += len(data)

def step(action):
    while True:
        try:
            result = action()
            flush()
            return result
        except ssl.SSLWantReadError:
            flush()
            data = wire.recv(65536)
            counts["received"] += len(data)
            if data:
                inward.write(data)
            else:
                inward.write_eof()

step(tls.do_handshake)
certificate = hashlib.sha256(tls.getpeercert(True)).hexdigest()
head = f"POST /x HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
step(lambda: tls.write(head.encode()))
for at in range(0, length, 16384):
    step(lambda: tls.write(b"x" * min(16384, length - at)))
answer = b""
while b"\n" not in answer.partition(b"\r\n\r\n")[2]:
    answer += step(lambda: tls.read(65536))
while data := wire.recv(65536):
    counts["received"] += len(data)
assert answer.startswith(b"HTTP/1.1 200 "), answer
print(json.dumps({"certificate": certificate, **counts}))
"#;
