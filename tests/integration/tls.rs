//! Does a port with `tls` speak TLS and nothing else? Handshakes, client certificates, files that change, policy that changes.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Answer, Connection, raw};
use crate::support::control::Control;
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{
    Folder, LOCAL_ISSUER, inbound, inbound_with, issuer_inline, issuer_with_file, usual_rules,
};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tls::{Ca, Pair};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

/// Files are looked at every 2 s.
const SOON: Duration = Duration::from_secs(15);

struct World {
    ca: Ca,
    server: Pair,
    token: String,
    folder: Folder,
    upstream: Upstream,
    proxy: Proxy,
}

fn tls(client_auth: Option<&str>) -> Value {
    let mut tls = json!({"certFile": "tls.crt", "keyFile": "tls.key"});
    if let Some(client_auth) = client_auth {
        tls["clientCaFile"] = json!("ca.crt");
        tls["clientAuth"] = json!(client_auth);
    }
    json!({ "tls": tls })
}

impl World {
    /// A port with this `tls`, and its files unless they come later.
    fn new(more: &Value, has_files: bool) -> Self {
        let (ca, key, upstream) = (Ca::new("ours"), Key::new("k1"), Upstream::start());
        let server = ca.server();
        let folder = Folder::with(&[
            ("issuer.yaml", &issuer_with_file("keys.jwks")),
            ("orders.yaml", &inbound_with(&usual_rules(), more)),
            ("keys.jwks", &key_set(&[&key]).to_string()),
            ("ca.crt", &ca.pem),
        ]);
        if has_files {
            write_pair(&folder, &server);
        }
        let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
        let token = key.token(&claims(LOCAL_ISSUER, &json!({"exp": crate::support::now() + 3600})));
        Self { ca, server, token, folder, upstream, proxy }
    }

    fn open(&self, shows: Option<&Pair>) -> io::Result<Connection> {
        Connection::open_tls(self.proxy.inbound(), self.ca.connection(shows)?)
    }

    /// One request with a good token on a connection of its own.
    fn ask(&self, shows: Option<&Pair>) -> io::Result<Answer> {
        self.ask_on(&mut self.open(shows)?)
    }

    fn ask_plain(&self) -> io::Result<Answer> {
        self.ask_on(&mut Connection::open(self.proxy.inbound())?)
    }

    fn ask_on(&self, connection: &mut Connection) -> io::Result<Answer> {
        connection.request("GET", "/orders", &[("Authorization", &format!("Bearer {}", self.token))], b"")
    }

    fn handshakes(&self, result: &str) -> f64 {
        self.proxy.scrape().sum("countersign_tls_handshakes_total", &[("result", result)])
    }
}

fn write_pair(folder: &Folder, pair: &Pair) {
    folder.write("tls.crt", &pair.cert);
    folder.write("tls.key", &pair.key);
}

#[test]
fn in_25_requests_over_tls_are_judged_as_all_others() {
    let world = World::new(&tls(None), true);
    let mut connection = world.open(None).unwrap();
    assert_eq!(connection.shown(), world.server.der());
    for _ in 0..3 {
        assert_eq!(world.ask_on(&mut connection).unwrap().status, 200);
    }
    assert_eq!(world.upstream.last().target, "/orders");
    assert_eq!(connection.request("GET", "/orders", &[], b"").unwrap().reason(), "missing_token");
    assert_eq!(connection.request("GET", "/healthz", &[], b"").unwrap().status, 200);
    let posted = connection.request("POST", "/orders", &[], &vec![b'x'; 500_000]).unwrap();
    assert_eq!(posted.reason(), "missing_token", "an upload that is refused hears so");
    assert_eq!(world.handshakes("success"), 1.0);
    let ca = Ca::new("another");
    assert!(Connection::open_tls(world.proxy.inbound(), ca.connection(None).unwrap()).is_err());
    wait_until("the failure in the metric", SOON, || world.handshakes("failure") == 1.0);
}

#[test]
fn in_25_plain_text_to_a_port_with_tls_gets_no_answer() {
    let world = World::new(&tls(None), true);
    let to = world.proxy.inbound();
    let token = format!("Authorization: Bearer {}", world.token);
    for bytes in [
        format!("GET /orders HTTP/1.1\r\nHost: a\r\n{token}\r\n\r\n"),
        "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "x".repeat(100_000),
    ] {
        let answer = raw(to, bytes.as_bytes());
        assert!(answer.is_err(), "{answer:?}");
    }
    assert_eq!(world.upstream.count(), 0);
    wait_until("the failures in the metric", SOON, || world.handshakes("failure") == 4.0);
    assert_eq!(world.ask(None).unwrap().status, 200);
}

#[test]
fn in_25_client_certificates_are_demanded_where_policy_says_so() {
    let world = World::new(&tls(Some("required")), true);
    let (ours, strange) = (world.ca.client(), Ca::new("another").client());
    assert_eq!(world.ask(Some(&ours)).unwrap().status, 200);
    for shown in [None, Some(&strange), Some(&world.server)] {
        let answer = world.ask(shown);
        assert!(answer.is_err(), "{shown:?}: {answer:?}");
    }
    assert_eq!(world.upstream.count(), 1);

    let world = World::new(&tls(Some("optional")), true);
    let ours = world.ca.client();
    for shown in [None, Some(&ours)] {
        assert_eq!(world.ask(shown).unwrap().status, 200);
    }
    for shown in [&strange, &world.server] {
        assert!(world.ask(Some(shown)).is_err(), "a certificate that is shown has to be good");
    }
}

#[test]
fn in_25_a_pair_is_replaced_without_a_restart_and_a_broken_one_is_not_used() {
    let world = World::new(&tls(None), true);
    let mut old = world.open(None).unwrap();
    assert_eq!(world.ask_on(&mut old).unwrap().status, 200);
    let shown = || world.open(None).unwrap().shown();

    let next = world.ca.server();
    write_pair(&world.folder, &next);
    wait_until("the new certificate", SOON, || shown() == next.der());
    assert_eq!(world.ask_on(&mut old).unwrap().status, 200, "an open connection was dropped");

    // Half of a rotation, then no rotation at all.
    let warnings = || world.proxy.log().matches("the last good files of `tls` stay in use").count();
    assert_eq!(warnings(), 0, "{}", world.proxy.log());
    world.folder.write("tls.crt", &world.ca.server().cert);
    wait_until("the warning", SOON, || warnings() == 1);
    assert_eq!(shown(), next.der());
    world.folder.remove("tls.key");
    wait_until("another warning", SOON, || warnings() == 2);
    assert_eq!(shown(), next.der());
    // An edit of policy elsewhere does not make it forget.
    let mut rules = usual_rules();
    rules[2]["to"]["paths"] = json!(["/livez"]);
    world.folder.write("orders.yaml", &inbound_with(&rules, &tls(None)));
    let health = |path: &str| {
        world.open(None).and_then(|mut connection| connection.request("GET", path, &[], b"")).unwrap().status
    };
    wait_until("the new policy", SOON, || health("/livez") == 200);
    assert_eq!(shown(), next.der());
    assert_eq!(world.ask_on(&mut old).unwrap().status, 200);

    let last = world.ca.server();
    write_pair(&world.folder, &last);
    wait_until("the last certificate", SOON, || shown() == last.der());
}

#[test]
fn in_25_without_its_files_a_port_is_closed_until_they_come() {
    let world = World::new(&tls(None), false);
    assert!(world.ask_plain().is_err());
    assert!(world.ask(None).is_err());
    assert_eq!(world.handshakes("no_certificate"), 2.0);
    let log = world.proxy.log();
    assert_eq!(log.matches("connections to the ports of this `tls` are closed").count(), 1, "{log}");
    assert!(log.contains("tls.crt cannot be read"), "{log}");
    write_pair(&world.folder, &world.server);
    wait_until("TLS", SOON, || world.ask(None).is_ok_and(|answer| answer.status == 200));
    assert!(world.ask_plain().is_err());
    let log = world.proxy.log();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}

/// No connection is dropped for it: those that were opened under the other policy end with their next answer.
#[test]
fn in_25_tls_comes_and_goes_with_policy() {
    let world = World::new(&json!({}), true);
    let mut plain = Connection::open(world.proxy.inbound()).unwrap();
    let answer = world.ask_on(&mut plain).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, None));

    world.folder.write("orders.yaml", &inbound_with(&usual_rules(), &tls(None)));
    wait_until("TLS", SOON, || world.ask(None).is_ok());
    assert!(world.ask_plain().is_err());
    let answer = world.ask_on(&mut plain).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(plain.is_closed(), "plain text goes on where TLS is demanded");

    let mut anonymous = world.open(None).unwrap();
    assert_eq!(world.ask_on(&mut anonymous).unwrap().header("connection"), None);
    world.folder.write("orders.yaml", &inbound_with(&usual_rules(), &tls(Some("required"))));
    let ours = world.ca.client();
    wait_until("client certificates", SOON, || world.ask(None).is_err() && world.ask(Some(&ours)).is_ok());
    let answer = world.ask_on(&mut anonymous).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert!(anonymous.is_closed(), "a caller without a certificate goes on where one is demanded");

    world.folder.write("orders.yaml", &inbound(&usual_rules()));
    wait_until("plain text", SOON, || world.ask_plain().is_ok());
}

/// A connection that was opened while nobody could say that plain text will not do.
#[test]
fn in_25_plain_text_from_before_the_first_policy_lets_nothing_in() {
    let (ca, key, upstream) = (Ca::new("ours"), Key::new("k1"), Upstream::start());
    let policy = inbound_with(&usual_rules(), &tls(Some("required")));
    let folder = Folder::with(&[("orders.yaml", &(issuer_inline(&key_set(&[&key])) + &policy))]);
    let secrets = Folder::with(&[("ca.crt", &ca.pem)]);
    write_pair(&secrets, &ca.server());
    let mut control = Control::start(folder.path(), &[]);
    let settings = control.sidecar("orders").with(&["--secrets-dir", &secrets.path().to_string_lossy()]);
    control.kill();
    let mut proxy = settings.before(upstream.address()).launch();

    let mut asked = Connection::open(proxy.inbound()).unwrap();
    assert_eq!(asked.request("GET", "/healthz", &[], b"").unwrap().reason(), "policy_unavailable");
    let silent = Connection::open(proxy.inbound()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    control.restart();
    proxy.wait_ready();
    for mut early in [asked, silent] {
        let answer = early.request("GET", "/healthz", &[], b"").unwrap();
        assert_eq!(
            (answer.reason().as_str(), answer.header("connection")),
            ("policy_unavailable", Some("close"))
        );
        assert!(early.is_closed());
    }
    assert_eq!(upstream.count(), 0);
}

#[test]
fn in_24_silent_handshakes_do_not_hold_up_the_end() {
    let mut world = World::new(&tls(None), true);
    let _silent = std::net::TcpStream::connect(world.proxy.inbound()).unwrap();
    let mut idle = world.open(None).unwrap();
    assert_eq!(world.ask_on(&mut idle).unwrap().status, 200);
    world.proxy.process.terminate();
    assert_eq!(world.proxy.process.wait(Duration::from_secs(8)).code(), Some(0));
    assert!(idle.is_closed(), "an idle connection stayed open");
}
