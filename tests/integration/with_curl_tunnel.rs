//! What passes through a tunnel, and for whom is there one? curl with CONNECT, to a TLS server that we did not write.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::client::raw;
use crate::support::policy::{Folder, document};
use crate::support::ports::Port;
use crate::support::process::{Process, run};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tls::Ca;
use crate::support::wait_until;

/// A server of OpenSSL, a server that counts what it hears, and rules for both and for others.
struct World {
    /// `tls: passthrough`
    own_tls: Port,
    counting: Canary,
    proxy: Proxy,
    folder: Folder,
    _openssl: Process,
}

/// Accepts, says nothing, and counts.
struct Canary {
    port: Port,
    connections: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
}

impl Canary {
    fn start() -> Self {
        let port = Port::lease();
        let listener = TcpListener::bind(port.address()).unwrap();
        let (connections, bytes) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (accepted, heard) = (connections.clone(), bytes.clone());
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                accepted.fetch_add(1, Ordering::Relaxed);
                let heard = heard.clone();
                thread::spawn(move || {
                    let mut buffer = [0; 1024];
                    while let Ok(read @ 1..) = stream.read(&mut buffer) {
                        heard.fetch_add(read, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { port, connections, bytes }
    }
}

/// What lets the application's own TLS pass to these ports, and other rules.
fn policy(egress: &str, own_tls: &[u16], connect: &str) -> String {
    let (to, timeouts) = (json!({ "hosts": ["localhost"], "ports": own_tls }), json!({ "connect": connect }));
    let rules = json!([
        { "name": "own-tls", "to": to, "tls": "passthrough", "timeouts": timeouts },
        { "name": "plain", "to": { "hosts": ["localhost"], "ports": [1] }, "tls": "none" },
        { "name": "ours", "to": { "hosts": ["localhost"], "ports": [2] } },
        { "name": "bytes", "to": { "hosts": ["localhost"], "ports": [3] }, "protocol": "tcp", "tls": "none" },
    ]);
    document("OutboundPolicy", "checkout", &json!({ "egress": egress, "rules": rules }))
}

impl World {
    fn new(egress: &str) -> Self {
        let (ca, own_tls, counting) = (Ca::new("theirs"), Port::lease(), Canary::start());
        let server = ca.server();
        let text = policy(egress, &[own_tls.number(), counting.port.number()], "9s");
        let folder = Folder::with(&[
            ("policy.yaml", &text),
            ("ca.crt", &ca.pem),
            ("tls.crt", &server.cert),
            ("tls.key", &server.key),
        ]);
        let mut openssl = Command::new("openssl");
        openssl.args(["s_server", "-www", "-quiet", "-accept", &own_tls.address().to_string()]);
        openssl.arg("-cert").arg(folder.file("tls.crt")).arg("-key").arg(folder.file("tls.key"));
        let openssl = Process::spawn("openssl s_server", &mut openssl);
        wait_until("openssl listens", Duration::from_secs(10), || {
            TcpStream::connect(own_tls.address()).is_ok()
        });
        let proxy = Settings::policies(folder.path(), "checkout").start();
        Self { own_tls, counting, proxy, folder, _openssl: openssl }
    }

    /// Through the sidecar: curl's exit code, what its proxy answered, what the server answered, and the body.
    fn curl(&self, arguments: &[&str]) -> (Option<i32>, u16, u16, String) {
        let mut command = Command::new("curl");
        command.args(["-q", "--silent", "--max-time", "20", "--noproxy", "", "--proxytunnel"]);
        command.args(["--write-out", "\n%{http_connect} %{http_code}"]);
        command.arg("--cacert").arg(self.folder.file("ca.crt"));
        command.args(["--proxy", &format!("http://{}", self.proxy.outbound())]).args(arguments);
        let done = run(&mut command, Duration::from_secs(30));
        let (body, last) = done.stdout.rsplit_once('\n').unwrap();
        let (connect, code) = last.split_once(' ').unwrap();
        (done.code, connect.parse().unwrap(), code.parse().unwrap(), body.to_owned())
    }

    fn status(&self, head: &str) -> u16 {
        let (p, q) = (self.own_tls.number().to_string(), self.counting.port.number().to_string());
        let head = head.replace("{p}", &p).replace("{q}", &q);
        raw(self.proxy.outbound(), format!("{head}\r\n\r\n").as_bytes()).unwrap().status
    }

    fn ended(&self) -> f64 {
        let labels = [("decision", "reject"), ("reason", "ambiguous_destination")];
        self.proxy.scrape().sum("countersign_streams_ended_total", &labels)
    }
}

#[test]
fn out_12_tls_of_the_application_passes_untouched_to_a_host_that_a_rule_lets_pass() {
    let world = World::new("deny");
    let url = format!("https://localhost:{}/", world.own_tls.number());
    // curl verifies the server's own certificate, by its own CA.
    let (code, connect, status, body) = world.curl(&["--ipv4", &url]);
    assert_eq!((code, connect, status), (Some(0), 200, 200), "{body}");
    assert!(body.contains("Ciphers supported in s_server binary"), "{body}");
    let scrape = world.proxy.scrape();
    let count = |name: &str, labels: &[(&str, &str)]| scrape.sum(name, labels);
    assert_eq!(count("countersign_outbound_bypassed_total", &[("reason", "passthrough")]), 1.0);
    assert_eq!(
        count("countersign_requests_total", &[("direction", "outbound"), ("decision", "bypass")]),
        1.0
    );
    let bytes = |flow| count("countersign_tcp_bytes_total", &[("direction", "outbound"), ("flow", flow)]);
    assert!(bytes("sent") > 200.0 && bytes("received") > body.len() as f64, "{scrape:?}");
    wait_until("the tunnel is gone", Duration::from_secs(5), || {
        world.proxy.scrape().sum("countersign_connections", &[("protocol", "tcp")]) == 0.0
    });
}

#[test]
fn out_12_what_is_said_in_a_tunnel_has_to_be_tls_for_the_host_that_was_asked_for() {
    let world = World::new("pass");
    let port = world.counting.port.number();
    // TLS for another host, though the tunnel is to one that may be.
    let elsewhere = format!("other.example:{port}:localhost:{port}");
    let url = format!("https://other.example:{port}/");
    let (code, connect, status, _) = world.curl(&["--ipv4", "--connect-to", &elsewhere, &url]);
    assert!(code != Some(0) && (connect, status) == (200, 0), "{code:?} {connect} {status}");
    wait_until("it is counted", Duration::from_secs(5), || world.ended() == 1.0);
    // TLS for nobody.
    let (code, ..) = world.curl(&[
        "--ipv4",
        "--connect-to",
        &format!("127.0.0.1:{port}:localhost:{port}"),
        &format!("https://127.0.0.1:{port}/"),
    ]);
    assert!(code != Some(0), "{code:?}");
    wait_until("it is counted", Duration::from_secs(5), || world.ended() == 2.0);
    // No TLS at all.
    let (code, ..) = world.curl(&["--ipv4", &format!("http://localhost:{port}/")]);
    assert!(code != Some(0), "{code:?}");
    wait_until("it is counted", Duration::from_secs(5), || world.ended() == 3.0);
    assert_eq!(world.counting.bytes.load(Ordering::Relaxed), 0, "the destination has heard something");
}

#[test]
fn a_tunnel_lasts_for_as_long_as_policy_lets_it_pass() {
    for (egress, reason) in [("deny", "egress_denied"), ("pass", "method_not_allowed")] {
        let world = World::new(egress);
        let (p, q) = (world.own_tls.number(), world.counting.port.number());
        let mut client = Command::new("python3");
        client.args(["-u", "-c", HOLD, &world.proxy.outbound().port().to_string(), &p.to_string()]);
        let mut client = Process::spawn("a tunnel", &mut client);
        assert_eq!(client.first_line(Duration::from_secs(10)), "open");
        let open = || world.proxy.scrape().sum("countersign_connections", &[("protocol", "tcp")]);
        assert_eq!(open(), 1.0);
        let reloads =
            || world.proxy.scrape().sum("countersign_policy_reloads_total", &[("result", "applied")]);
        let before = reloads();
        world.folder.write("policy.yaml", &policy(egress, &[p, q], "8s"));
        wait_until("other timeouts", Duration::from_secs(10), || reloads() > before);
        thread::sleep(Duration::from_millis(300));
        assert_eq!((open(), client.exited()), (1.0, None), "what still passes goes on");
        world.folder.write("policy.yaml", &policy(egress, &[q], "8s"));
        wait_until("its end", Duration::from_secs(10), || open() == 0.0);
        let labels = [("decision", "reject"), ("reason", reason)];
        assert_eq!(world.proxy.scrape().sum("countersign_streams_ended_total", &labels), 1.0, "{reason}");
        client.wait(Duration::from_secs(5));
        assert_eq!(client.stdout(), "open\nreset\n");
    }
}

/// TLS in a tunnel, in which nothing is said once it stands.
const HOLD: &str = r#"
import select, socket, ssl, sys
proxy, port = sys.argv[1:]
tunnel = socket.create_connection(("127.0.0.1", int(proxy)))
tunnel.sendall(f"CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
assert b" 200 " in tunnel.recv(1024)
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
tls = context.wrap_socket(tunnel, server_hostname="localhost")
print("open")
# A reset is an error of the socket, which Python's TLS does not tell from an end.
hears = select.poll()
hears.register(tls, 0)
print("reset" if any(event & select.POLLERR for _, event in hears.poll(25000)) else "not reset")
"#;

#[test]
fn out_12_there_is_no_tunnel_but_to_what_a_rule_lets_pass() {
    let (open, closed) = (World::new("pass"), World::new("deny"));
    for (head, of_open, of_closed) in [
        // Other rules, and none.
        ("CONNECT localhost:1 HTTP/1.1\r\nHost: localhost:1", 405, 405),
        ("CONNECT localhost:2 HTTP/1.1\r\nHost: localhost:2", 405, 405),
        ("CONNECT localhost:3 HTTP/1.1\r\nHost: localhost:3", 405, 405),
        ("CONNECT localhost:4 HTTP/1.1\r\nHost: localhost:4", 405, 403),
        ("CONNECT other.example:{q} HTTP/1.1\r\nHost: other.example:{q}", 405, 403),
        // An address is no name.
        ("CONNECT 127.0.0.1:{q} HTTP/1.1\r\nHost: 127.0.0.1:{q}", 405, 403),
        ("CONNECT [::1]:{q} HTTP/1.1\r\nHost: [::1]:{q}", 405, 403),
        // Named in two ways, or not in full.
        ("CONNECT localhost:{q} HTTP/1.1\r\nHost: localhost:{p}", 403, 403),
        ("CONNECT localhost:{q} HTTP/1.1\r\nHost: other.example:{q}", 403, 403),
        ("CONNECT localhost:{q} HTTP/1.1\r\nHost: localhost:{q}\r\nHost: localhost:{q}", 400, 400),
        ("CONNECT localhost:{q} HTTP/1.1", 400, 400),
        ("CONNECT localhost HTTP/1.1\r\nHost: localhost", 400, 400),
        // What has a body is no tunnel.
        ("CONNECT localhost:{q} HTTP/1.1\r\nHost: localhost:{q}\r\nContent-Length: 3", 400, 400),
        ("CONNECT localhost:{q} HTTP/1.1\r\nHost: localhost:{q}\r\nTransfer-Encoding: chunked", 400, 400),
        // And what a rule lets pass is no HTTP.
        ("GET http://localhost:{q}/ HTTP/1.1\r\nHost: localhost:{q}", 403, 403),
        ("GET http://localhost:3/ HTTP/1.1\r\nHost: localhost:3", 403, 403),
    ] {
        assert_eq!((open.status(head), closed.status(head)), (of_open, of_closed), "{head}");
    }
    for world in [&open, &closed] {
        assert_eq!(world.counting.connections.load(Ordering::Relaxed), 0, "a destination was dialled");
    }
    // Nobody is there: in HTTP, before the tunnel.
    let nobody = Port::lease();
    let folder = Folder::with(&[(
        "policy.yaml",
        &document(
            "OutboundPolicy",
            "checkout",
            &json!({ "rules": [{ "name": "a", "to": { "hosts": ["localhost"], "ports": [nobody.number()] }, "tls": "passthrough" }] }),
        ),
    )]);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let ask = |to: SocketAddr| {
        let port = nobody.number();
        raw(to, format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n").as_bytes())
    };
    assert_eq!(ask(proxy.outbound()).unwrap().status, 502);
}
