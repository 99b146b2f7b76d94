//! Does the application know nothing of it? Two pods whose traffic is redirected to their sidecars, with a world around them
//! that records what it gets: curl, both families, and everything that is none of ours.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::meshed::{Meshed, Recorder, curl, curl_as, issuer};
use crate::support::pods::{As, Net, Pod};
use crate::support::policy::{AUDIENCE, Folder, credential, document};
use crate::support::process::Process;
use crate::support::{tls, wait_until};

/// `checkout` in the first pod, `orders` in the second, and the issuer in the world.
struct Shop {
    checkout: Meshed,
    orders: Meshed,
    server: Recorder,
    issuer: Process,
    _folders: [Folder; 2],
    net: Net,
}

impl Shop {
    /// With these settings of the outbound policy.
    fn open(more: &Value) -> Self {
        let net = Net::with_pods(2);
        let [a, b] = &net.pods[..] else { panic!() };
        let (issuer, url) = issuer(&net.world, ISSUER);
        let corp = document("Issuer", "corp", &json!({"issuer": url, "insecure": true}));
        a.hosts(&format!("127.0.0.1 localhost\n{} orders.shop.test\n{} orders.shop.test\n", b.v4, b.v6));
        let outbound = Folder::with(&[
            ("policy.yaml", &(corp.clone() + &credential() + &outbound(more))),
            ("client-secret", "checkout-secret"),
        ]);
        let inbound = Folder::with(&[("policy.yaml", &(corp + &inbound()))]);
        // 8082 is nobody's, 9090 is the application's own.
        let [one, two, three] = [8080, 8081, 8082].map(|port| SocketAddr::from(([0, 0, 0, 0], port)));
        let [four, five] = [8080, 8081].map(|port| SocketAddr::from(([0u16; 8], port)));
        let private = SocketAddr::from(([127, 0, 0, 1], 9090));
        let server = Recorder::start(b, &[one, two, three, four, five, private]);
        let orders = Meshed::start(b, inbound.path(), "orders", &[]);
        let checkout = Meshed::start(a, outbound.path(), "checkout", &[]);
        Self { checkout, orders, server, issuer, _folders: [outbound, inbound], net }
    }

    fn pods(&self) -> [&Pod; 2] {
        let [a, b] = &self.net.pods[..] else { panic!() };
        [a, b]
    }
}

const ISSUER: &str = "203.0.113.1";

fn outbound(more: &Value) -> String {
    let mut spec = json!({
        "workloads": {"labels": {"app": "checkout"}},
        "rules": [{
            "name": "orders", "to": {"hosts": ["orders.shop.test"], "ports": [8080]}, "tls": "none",
            "token": {"credential": "checkout", "scopes": ["orders:read"], "resource": AUDIENCE},
        }],
    });
    for (name, value) in more.as_object().expect("an object") {
        match (&mut spec[name], value) {
            (Value::Array(rules), Value::Array(more)) => rules.extend(more.iter().cloned()),
            (place, value) => *place = value.clone(),
        }
    }
    document("OutboundPolicy", "checkout", &spec)
}

fn inbound() -> String {
    let tokens = json!([{"issuer": "corp", "audiences": [AUDIENCE]}]);
    let guarded = json!({
        "workloads": {"labels": {"app": "orders"}}, "ports": [8080], "tokens": tokens,
        "forwardClaims": {"X-Client-Id": "@client"},
        "rules": [{"name": "read", "to": {"methods": ["GET"], "paths": ["/*"]}, "from": {"scopes": ["orders:read"]}}],
    });
    let open = json!({
        "workloads": {"labels": {"app": "orders"}}, "ports": [8081, 9090],
        "rules": [{"name": "health", "public": true, "to": {"paths": ["/healthz"]}}],
    });
    document("InboundPolicy", "orders", &guarded) + &document("InboundPolicy", "open", &open)
}

#[test]
fn an_application_reaches_another_through_both_sidecars_and_knows_nothing_of_it() {
    let shop = Shop::open(&json!({}));
    let [a, b] = shop.pods();
    for family in ["-4", "-6"] {
        let (status, output) = curl(a, &[family, "http://orders.shop.test:8080/list?page=1"]);
        assert_eq!(status, 200, "{family}: {output}\n{}", shop.checkout.log());
    }
    let seen = shop.server.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    for (request, from) in seen.iter().zip([b.v4.to_string(), b.v6.to_string()]) {
        assert_eq!(request["headers"]["x-client-id"], "checkout");
        assert_eq!(request["headers"]["host"], "orders.shop.test:8080");
        assert_eq!(request["url"], "/list?page=1");
        assert_eq!(request["from"], from.as_str(), "our own connection comes from the pod's address");
    }

    // Policy is that of the port that was meant.
    for family in ["-4", "-6"] {
        let (status, output) = curl(a, &[family, "http://orders.shop.test:8081/healthz"]);
        assert_eq!(status, 200, "{output}");
        let (status, output) = curl(a, &[family, "http://orders.shop.test:8081/list"]);
        assert!(status == 401 || status == 403, "{output}");
        let (status, output) = curl(a, &[family, "-X", "POST", "http://orders.shop.test:8080/list"]);
        assert_eq!(status, 403, "{output}");
    }
    // Without the sidecar on its side, who asks has no token.
    let (status, output) =
        curl_as(a, As::Sidecar, &["-H", "X-Client-Id: checkout", "http://orders.shop.test:8080/list"]);
    assert!(status == 401 && output.contains("missing_token"), "{output}");
    // Calling its own address is calling from outside.
    for at in b.at(8080) {
        let (status, output) = curl(b, &[&format!("http://{at}/list")]);
        assert!(status == 401 && output.contains("missing_token"), "{at}: {output}");
    }
    assert_eq!(shop.server.seen().len(), 4, "nothing else came through");

    // Neither sidecar's own connections came back to it: the issuer's are not among what was counted.
    let (ours, theirs) = (shop.checkout.scrape(), shop.orders.scrape());
    let outbound = |labels: &[(&str, &str)]| ours.sum("countersign_requests_total", labels);
    assert_eq!(outbound(&[("direction", "outbound"), ("decision", "attach")]), 4.0);
    assert_eq!(outbound(&[("direction", "outbound"), ("protocol", "tcp")]), 4.0, "8081 is named by no rule");
    assert_eq!(outbound(&[("direction", "inbound")]), 0.0);
    assert_eq!(theirs.sum("countersign_requests_total", &[("direction", "outbound")]), 0.0);
    assert_eq!(
        theirs.sum("countersign_requests_total", &[("direction", "inbound"), ("decision", "allow")]),
        4.0
    );
    drop(shop.issuer);
}

#[test]
fn out_1_no_token_leaves_for_where_it_does_not_belong() {
    let canaries = json!({"rules": [
        {"name": "twin", "to": {"hosts": ["twin.shop.test"], "ports": [8080]}, "tls": "none",
         "token": {"credential": "checkout", "scopes": ["orders:write"], "resource": AUDIENCE}},
        {"name": "wild", "to": {"hosts": ["*.wild.test"], "ports": [8080]}, "tls": "none", "sameAudience": true,
         "token": {"credential": "checkout", "scopes": ["orders:read"], "resource": AUDIENCE}},
    ]});
    let shop = Shop::open(&canaries);
    let [a, b] = shop.pods();
    let world: Vec<SocketAddr> = ["203.0.113.66:8080", "203.0.113.67:8080", "[2001:db8::66]:8080"]
        .map(|at| at.parse().unwrap())
        .into();
    let canary = Recorder::start(&shop.net.world, &world);
    a.hosts(&format!(
        "127.0.0.1 localhost\n{} orders.shop.test twin.shop.test\n{} orders.shop.test\n203.0.113.66 a.wild.test\n",
        b.v4, b.v6
    ));
    let ask = |host: &str, to: &str, port: u16| {
        // curl connects where it is told, and says what it was asked to.
        curl(a, &["--connect-to", &format!("::{to}:{port}"), &format!("http://{host}/x")])
    };
    let mut wrong = Vec::new();
    for (host, to, expected) in [
        // A rule's host, sent to somebody else: on a port where a wildcard rule makes it ours to look into.
        ("orders.shop.test:8080", "203.0.113.66", 403),
        ("orders.shop.test:8080", "[2001:db8::66]", 403),
        ("twin.shop.test:8080", "203.0.113.66", 403),
        ("b.wild.test:8080", "203.0.113.66", 403),
        ("a.wild.test:8080", "203.0.113.67", 403),
        // A port that is not the one that it goes to, where a rule could be meant.
        ("a.wild.test:9999", "203.0.113.66", 403),
        ("orders.shop.test:8081", "203.0.113.66", 403),
        ("other.test:9999", "203.0.113.66", 200),
        // Nobody's names, and addresses: they pass, and have no token.
        ("203.0.113.66:8080", "203.0.113.66", 200),
        ("[2001:db8::66]:8080", "[2001:db8::66]", 200),
        ("other.test:8080", "203.0.113.67", 200),
        ("orders.shop.test.evil.test:8080", "203.0.113.66", 200),
    ] {
        let (status, output) = ask(host, to, 8080);
        let ambiguous = output.contains("ambiguous_destination");
        if status != expected || ambiguous != (expected == 403) {
            wrong.push(format!("{host} to {to}: {status} {output}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", shop.checkout.log());
    for request in canary.seen() {
        assert!(request["headers"].get("authorization").is_none(), "a token for somebody else: {request}");
    }

    // Two names on one address: each has its own token.
    for (host, expected) in [("orders.shop.test", 200), ("twin.shop.test", 403)] {
        let (status, output) = ask(&format!("{host}:8080"), &b.v4.to_string(), 8080);
        assert_eq!(status, expected, "{host}: {output}");
    }
    // A wildcard's host where it is at home.
    let (status, _) = ask("a.wild.test:8080", "203.0.113.66", 8080);
    assert_eq!(status, 200);
    let last = canary.seen().pop().unwrap();
    assert!(
        last["headers"]["authorization"].as_str().is_some_and(|token| token.starts_with("Bearer ")),
        "{last}"
    );

    // What is said on a kept connection is judged anew.
    let before = shop.server.seen().len();
    let flags = ["-4", "--silent", "--noproxy", "*"];
    let url = |path: &str| format!("http://orders.shop.test:8080/{path}");
    let (one, two, three) = (url("1"), url("2"), url("3"));
    let mut arguments = flags.to_vec();
    arguments.extend([&*one, "--next"].iter().chain(&flags).chain(&[
        "-H",
        "Host: elsewhere.test",
        &*two,
        "--next",
    ]));
    arguments.extend(flags.iter().chain(&["-w", "%{num_connects}", &*three]));
    let done = a.run(As::Application, "curl", &arguments);
    assert!(done.stdout.contains("missing_token") && done.stdout.ends_with("\n0"), "{done:?}");
    let paths: Vec<_> = shop.server.seen()[before..].iter().map(|request| request["url"].clone()).collect();
    assert_eq!(paths, ["/1", "/3"], "{done:?}");
}

#[test]
fn out_1_a_name_that_moved_is_followed_while_the_old_place_still_counts() {
    let shop = Shop::open(&json!({}));
    let [a, b] = shop.pods();
    let at = "203.0.113.70:8080".parse().unwrap();
    let canary = Recorder::start(&shop.net.world, &[at]);
    let (status, _) = curl(a, &["-4", "http://orders.shop.test:8080/1"]);
    assert_eq!(status, 200);
    // It moves: a connection to the new place is HTTP for us as soon as the resolver knows it.
    a.hosts("127.0.0.1 localhost\n203.0.113.70 orders.shop.test\n");
    let moved = || {
        curl(a, &["http://orders.shop.test:8080/2"]).0 == 200
            && canary.seen().last().is_some_and(|request| request["headers"].get("authorization").is_some())
    };
    wait_until("the new place", Duration::from_secs(20), moved);
    // Round robin: for ten minutes the old one counts as well.
    let (status, _) =
        curl(a, &["--connect-to", &format!("::{}:8080", b.v4), "http://orders.shop.test:8080/3"]);
    assert_eq!(status, 200);
}

#[test]
fn the_applications_own_tls_passes_untouched_and_is_counted() {
    let shop = Shop::open(&json!({}));
    let [a, _] = shop.pods();
    let ca = tls::Ca::new("world");
    let server = ca.server();
    let folder = Folder::with(&[("ca.crt", &ca.pem)]);
    crate::support::pods::open_to_all(folder.path());
    let trusted = folder.file("ca.crt").display().to_string();
    // 8080 is a port on which HTTP is looked into, 8443 is nobody's.
    let at: Vec<SocketAddr> = ["203.0.113.80:8080", "203.0.113.80:8443"].map(|at| at.parse().unwrap()).into();
    let world = Recorder::start_tls(&shop.net.world, &at, &server.cert, &server.key);
    a.hosts("127.0.0.1 localhost\n203.0.113.80 orders.shop.test\n");
    let bypassed =
        |reason| shop.checkout.scrape().sum("countersign_outbound_bypassed_total", &[("reason", reason)]);
    let ask = |at: &SocketAddr| {
        // The certificate that is seen is that of the server and nobody else's.
        let (status, output) =
            curl(a, &["--cacert", &trusted, "--connect-to", &format!("::{at}"), "https://localhost/x"]);
        assert_eq!(status, 200, "{at}: {output}");
    };
    ask(&at[1]);
    assert!(bypassed("no_rule") >= 1.0);
    // Once the address is known for that of a rule's host, the first byte tells.
    wait_until("the name", Duration::from_secs(20), || {
        ask(&at[0]);
        bypassed("tls") >= 1.0
    });
    for request in world.seen() {
        assert!(request["headers"].get("authorization").is_none(), "{request}");
    }
    let bytes = |flow| [("direction", "outbound"), ("flow", flow)];
    let scrape = shop.checkout.scrape();
    assert!(scrape.sum("countersign_tcp_bytes_total", &bytes("sent")) > 500.0);
    assert!(scrape.sum("countersign_tcp_bytes_total", &bytes("received")) > 1000.0);
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once() {
    let shop = Shop::open(&json!({}));
    let [a, _] = shop.pods();
    let at: Vec<SocketAddr> = ["203.0.113.90:5432", "203.0.113.90:8080", "[2001:db8::90]:5432"]
        .map(|at| at.parse().unwrap())
        .into();
    let _server = shop.net.world.witness(As::Root, &at);
    let start = Instant::now();
    let answers = a.ask(As::Application, &at);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    for (answer, at) in answers.iter().zip(&at) {
        let from = if at.is_ipv4() { format!(" {}:", a.v4) } else { format!(" [{}]:", a.v6) };
        assert!(answer.starts_with(&at.to_string()) && answer.contains(&from), "{answer}");
    }
}

#[test]
fn what_is_not_for_others_stays_closed() {
    let shop = Shop::open(&json!({}));
    let [a, b] = shop.pods();
    // As somebody whose traffic is not redirected, so that he sees what there is.
    for port in [8082, 16001, 16006, 16020] {
        for at in b.at(port) {
            let (status, output) = curl_as(a, As::Sidecar, &[&format!("http://{at}/healthz")]);
            assert_eq!(status, 0, "{at}: {output}");
        }
    }
    // Policy lets everybody in, and the application is not there for others.
    for at in b.at(9090) {
        let (status, output) = curl_as(a, As::Sidecar, &[&format!("http://{at}/healthz")]);
        assert!(status == 502 && output.contains("upstream_unreachable"), "{at}: {output}");
    }
    // The outbound listener is no relay for others, whoever they say that they want to reach.
    for at in b.at(16001).into_iter().chain(b.at(16006)) {
        let proxy = format!("http://{at}");
        let (status, output) = curl_as(a, As::Sidecar, &["--proxy", &proxy, "http://203.0.113.1:3000/jwks"]);
        assert_eq!(status, 0, "{at}: {output}");
    }
    let refused = shop.orders.access_log();
    for reason in ["no_rule", "ambiguous_destination"] {
        let line = refused.iter().find(|line| line["reason"] == reason);
        let line = line.unwrap_or_else(|| panic!("no line for {reason}: {refused:?}"));
        assert_eq!((&line["protocol"], &line["direction"]), (&json!("tcp"), &json!("inbound")), "{line}");
        assert_eq!(line["source"], a.v4.to_string().as_str(), "{line}");
    }
    assert!(shop.server.seen().is_empty());
    // The application itself reaches what is its own.
    let (status, _) = curl(b, &["http://127.0.0.1:9090/x"]);
    assert_eq!(status, 200);
    // And whoever dials the sidecar as a forward proxy is served as one.
    let (status, output) = curl(a, &["--proxy", "http://127.0.0.1:16001", "http://orders.shop.test:8080/x"]);
    assert_eq!(status, 200, "{output}");
}

#[test]
fn where_egress_is_denied_only_what_rules_name_goes_out() {
    let named = json!({"egress": "deny", "rules": [
        {"name": "tls", "to": {"hosts": ["secure.shop.test"], "ports": [8443]}, "tls": "passthrough"},
        {"name": "wild", "to": {"hosts": ["*.secure.test"], "ports": [8443]}, "tls": "passthrough"},
    ]});
    let shop = Shop::open(&named);
    let [a, b] = shop.pods();
    let ca = tls::Ca::new("world");
    let server = ca.server();
    let at: Vec<SocketAddr> =
        ["203.0.113.95:8443", "203.0.113.96:8443", "203.0.113.95:5432"].map(|at| at.parse().unwrap()).into();
    let world = Recorder::start_tls(&shop.net.world, &at, &server.cert, &server.key);
    a.hosts(&format!(
        "127.0.0.1 localhost\n{} orders.shop.test\n203.0.113.95 secure.shop.test a.secure.test\n",
        b.v4
    ));
    let names = ["secure.shop.test", "a.secure.test", "b.secure.test", "other.test"];
    // The name that rules go by has to be known.
    wait_until("the name", Duration::from_secs(20), || {
        curl(a, &["-k", "https://secure.shop.test:8443/0"]).0 == 200
    });
    for (name, to, expected) in [
        (names[0], "203.0.113.95:8443", 200),
        (names[1], "203.0.113.95:8443", 200),
        (names[2], "203.0.113.95:8443", 0),
        (names[3], "203.0.113.95:8443", 0),
        (names[0], "203.0.113.96:8443", 0),
        (names[1], "203.0.113.96:8443", 0),
        (names[0], "203.0.113.95:5432", 0),
    ] {
        let (status, output) =
            curl(a, &["-k", "--connect-to", &format!("::{to}"), &format!("https://{name}/x")]);
        assert_eq!(status, expected, "{name} to {to}: {output}");
    }
    // Who names nobody is nobody.
    let (status, _) = curl(a, &["-k", "https://203.0.113.95:8443/x"]);
    assert_eq!(status, 0);
    let (status, output) = curl(a, &["http://203.0.113.95:8443/x"]);
    assert_eq!(status, 0, "{output}");
    let (status, output) = curl(a, &["http://orders.shop.test:8080/x"]);
    assert_eq!(status, 200, "{output}");
    assert!(world.seen().iter().all(|request| request["headers"].get("authorization").is_none()));
    let scrape = shop.checkout.scrape();
    let rejected = [("direction", "outbound"), ("protocol", "tcp"), ("decision", "reject")];
    let sum =
        |reason| scrape.sum("countersign_requests_total", &[&rejected[..], &[("reason", reason)]].concat());
    assert!(sum("egress_denied") >= 4.0 && sum("ambiguous_destination") >= 1.0, "{scrape:?}");
}
