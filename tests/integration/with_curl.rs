//! Does a client that we did not write agree? curl over HTTP/1.1 and HTTP/2, in both directions, and with the control plane.

use serde_json::json;

use crate::support::control::{Control, JOIN_TOKEN};
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{
    self, Folder, LOCAL_ISSUER, inbound, inbound_with, issuer_with_file, usual_rules,
};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tls::Ca;
use crate::support::tools::{curl, curl_with};
use crate::support::upstream::Upstream;

fn orders(upstream: &Upstream, key: &Key) -> (Proxy, Folder) {
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&usual_rules()))),
        ("keys.jwks", &key_set(&[key]).to_string()),
    ]);
    (Settings::policies(folder.path(), "orders").before(upstream.address()).start(), folder)
}

#[test]
fn both_versions_of_http_are_judged_alike() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let (proxy, _folder) = orders(&upstream, &key);
    let bearer = format!("Authorization: Bearer {}", key.token(&claims(LOCAL_ISSUER, &json!({}))));
    let url = |path: &str| format!("http://{}{path}", proxy.inbound());
    for (flag, version, seen) in
        [("--http1.1", "1.1", "HTTP/1.1"), ("--http2-prior-knowledge", "2", "HTTP/2.0")]
    {
        let ask = |arguments: &[&str]| {
            let answer = curl(&[&[flag], arguments].concat());
            assert_eq!(answer.version, version, "{answer:?}");
            answer
        };
        let good = ask(&["-H", &bearer, &url("/orders?q=1")]);
        assert_eq!(good.status, 200, "{good:?}");
        assert_eq!(
            (upstream.last().version.as_str(), upstream.last().target.as_str()),
            (seen, "/orders?q=1")
        );
        let missing = ask(&[&url("/orders")]);
        assert_eq!(missing.status, 401);
        assert!(missing.output.to_lowercase().contains("www-authenticate: bearer realm="), "{missing:?}");
        assert!(missing.output.contains("missing_token"), "{missing:?}");
        let scope = ask(&["-H", &bearer, "--data", "{}", &url("/orders")]);
        assert!(scope.status == 403 && scope.output.contains(r#"scope="orders:write""#), "{scope:?}");
        let denied = ask(&["-H", &bearer, &url("/orders/secret")]);
        assert!(denied.status == 403 && denied.output.contains("denied_by_rule"), "{denied:?}");
        let ambiguous = ask(&["-H", &bearer, "--path-as-is", &url("/orders/../x")]);
        assert_eq!(ambiguous.status, 400, "{ambiguous:?}");
        let trailers = ask(&["-H", &bearer, "-H", "TE: trailers", &url("/orders/trailers")]);
        assert!(trailers.status == 200 && trailers.output.contains("x-checksum: abc"), "{trailers:?}");
    }
}

#[test]
fn in_25_both_versions_of_http_are_spoken_over_tls() {
    let (key, upstream, ca) = (Key::new("k1"), Upstream::start(), Ca::new("ours"));
    let (server, client) = (ca.server(), ca.client());
    let tls = json!({"tls": {"certFile": "tls.crt", "keyFile": "tls.key", "clientCaFile": "ca.crt"}});
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound_with(&usual_rules(), &tls))),
        ("keys.jwks", &key_set(&[&key]).to_string()),
        ("tls.crt", &server.cert),
        ("tls.key", &server.key),
        ("ca.crt", &ca.pem),
        ("client.crt", &client.cert),
        ("client.key", &client.key),
    ]);
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    let bearer = format!("Authorization: Bearer {}", key.token(&claims(LOCAL_ISSUER, &json!({}))));
    let url = format!("https://localhost:{}/orders?q=1", proxy.inbound().port());
    let file = |name: &str| folder.file(name).display().to_string();
    let (trusted, cert, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
    let known = ["--ipv4", "--cacert", &trusted, "--cert", &cert, "--key", &key];
    for (flags, version, seen) in [
        (&["--http1.1"][..], "1.1", "HTTP/1.1"),
        (&["--http2"], "2", "HTTP/2.0"),
        (&["--http1.1", "--no-alpn"], "1.1", "HTTP/1.1"),
        (&["--http2", "--tls-max", "1.2"], "2", "HTTP/2.0"),
    ] {
        let good = curl(&[flags, &known, &["-H", &bearer, &url]].concat());
        assert_eq!((good.status, good.version.as_str()), (200, version), "{flags:?} {good:?}");
        assert_eq!(
            (upstream.last().version.as_str(), upstream.last().target.as_str()),
            (seen, "/orders?q=1")
        );
        let missing = curl(&[flags, &known, &[&url]].concat());
        assert_eq!((missing.status, missing.version.as_str()), (401, version), "{flags:?} {missing:?}");
    }
    for refused in [
        &["--ipv4", "--cacert", &trusted][..],
        &["--ipv4", "--cert", &cert, "--key", &key],
        &[&known[..], &["--tls-max", "1.1"]].concat(),
    ] {
        let mut command = std::process::Command::new("curl");
        command.args(["-q", "--silent", "--max-time", "20", "--noproxy", "*"]).args(refused).arg(&url);
        let done = crate::support::process::run(&mut command, std::time::Duration::from_secs(30));
        assert!(done.code != Some(0) && done.stdout.is_empty(), "{refused:?}: {done:?}");
    }
}

#[test]
fn in_25_peers_are_known_in_both_versions_of_http() {
    let (upstream, ca) = (Upstream::start(), Ca::new("ours"));
    let (server, ours, other) =
        (ca.server(), ca.peer(&["spiffe://td/checkout"]), ca.peer(&["spiffe://td/cart"]));
    let spec = json!({
        "tls": {"certFile": "tls.crt", "keyFile": "tls.key", "clientCaFile": "ca.crt", "clientAuth": "optional"},
        "forwardClaims": {"X-Peer": "@peer"},
        "rules": [{"name": "checkout", "to": {"paths": ["/orders"]}, "from": {"peers": ["spiffe://td/checkout"]}}],
    });
    let folder = Folder::with(&[
        ("policy.yaml", &policy::document("InboundPolicy", "orders", &spec)),
        ("tls.crt", &server.cert),
        ("tls.key", &server.key),
        ("ca.crt", &ca.pem),
        ("ours.crt", &ours.cert),
        ("ours.key", &ours.key),
        ("other.crt", &other.cert),
        ("other.key", &other.key),
    ]);
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    let url = format!("https://localhost:{}/orders", proxy.inbound().port());
    let file = |name: &str| folder.file(name).display().to_string();
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let ask = |shown: &[&str]| {
            // Twice over one connection.
            let trusted = file("ca.crt");
            let flags =
                ["--ipv4", flag, "--cacert", &trusted, "-H", "X-Peer: spiffe://td/admin", "-o", "/dev/null"];
            curl(&[&flags, shown, &[&url, &url]].concat())
        };
        let known = ask(&["--cert", &file("ours.crt"), "--key", &file("ours.key")]);
        assert_eq!((known.status, known.version.as_str()), (200, version), "{known:?}");
        assert_eq!(upstream.last().all("x-peer"), ["spiffe://td/checkout"]);
        let unknown = ask(&["--cert", &file("other.crt"), "--key", &file("other.key")]);
        assert!(unknown.status == 403 && unknown.output.contains("no_rule"), "{unknown:?}");
        let nobody = ask(&[]);
        assert!(nobody.status == 403 && nobody.output.contains("peer_required"), "{nobody:?}");
    }
    assert_eq!(upstream.count(), 4);
}

/// A large body in both directions: streamed, complete, unchanged.
#[test]
fn large_bodies_pass_unchanged() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let (proxy, folder) = orders(&upstream, &key);
    let token = key.token(&claims(LOCAL_ISSUER, &json!({"scope": "orders:write"})));
    let body: String = (0..200_000).map(|n| format!("{n},")).collect();
    std::fs::write(folder.file("body"), &body).unwrap();
    let data = format!("@{}", folder.file("body").display());
    let (bearer, url) =
        (format!("Authorization: Bearer {token}"), format!("http://{}/orders", proxy.inbound()));
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        for framing in ["X-Framing: length", "Transfer-Encoding: chunked"] {
            if flag.contains("http2") && framing.contains("chunked") {
                continue;
            }
            let answer =
                curl(&[flag, "-H", &bearer, "-H", framing, "-H", "Expect:", "--data-binary", &data, &url]);
            assert_eq!(answer.status, 200);
            assert!(upstream.last().body == body.as_bytes(), "{} bytes arrived", upstream.last().body.len());
            assert!(answer.output.contains("199999,"), "the echo is cut");
        }
    }
}

/// Refused before the body has come: the answer is heard all the same, every time.
#[test]
fn a_refused_upload_hears_its_answer() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let (proxy, folder) = orders(&upstream, &key);
    std::fs::write(folder.file("body"), vec![b'x'; 3_000_000]).unwrap();
    let (data, url) =
        (format!("@{}", folder.file("body").display()), format!("http://{}/orders", proxy.inbound()));
    for flag in ["--http1.1", "--http2-prior-knowledge"] {
        for body in ["{}", data.as_str()] {
            for _ in 0..10 {
                let answer = curl(&[flag, "-H", "Expect:", "--data-binary", body, &url]);
                assert_eq!(answer.status, 401, "{answer:?}");
            }
        }
    }
    assert_eq!(upstream.count(), 0);
}

/// What the README tells an application to do: http_proxy, and plain URLs.
#[test]
fn curl_uses_the_outbound_listener_as_its_proxy() {
    let upstream = Upstream::start();
    let folder = Folder::with(&[("policy.yaml", "")]);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let via = format!("http://{}", proxy.outbound());
    let url = format!("http://127.0.0.1:{}/a%2fb/../c?x", upstream.port());
    let answer = curl(&["--noproxy", "", "--proxy", &via, "--path-as-is", &url]);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(upstream.last().target, "/a%2fb/../c?x", "outbound passes the target byte for byte");
    assert_eq!(upstream.last().all("authorization"), Vec::<String>::new());
    let connect = curl_status(&["--noproxy", "", "--proxy", &via, "--proxytunnel", &url]);
    assert_eq!(connect, 405);
}

/// The status that curl had from its proxy; curl itself calls a refused CONNECT a failure.
fn curl_status(arguments: &[&str]) -> u16 {
    let mut command = std::process::Command::new("curl");
    command
        .args(["-q", "--silent", "--output", "/dev/null", "--write-out", "%{http_connect}"])
        .args(arguments);
    let done = crate::support::process::run(&mut command, std::time::Duration::from_secs(20));
    done.stdout.trim().parse().expect("a status")
}

#[test]
fn the_control_plane_tells_nobody_who_cannot_say_who_it_is() {
    let text = policy::issuer_inline(&key_set(&[&Key::new("k1")])) + &inbound(&usual_rules());
    let folder = Folder::with(&[("orders.yaml", &text)]);
    let control = Control::start(folder.path(), &[]);
    let ca = control.ca_file();
    let ask = |headers: &[&str]| {
        let mut arguments = vec!["--cacert".to_owned(), ca.to_string_lossy().into_owned()];
        arguments.extend(headers.iter().flat_map(|h| ["-H".to_owned(), (*h).to_owned()]));
        arguments.push(format!("{}/v1/policy", control.url()));
        curl_with(&arguments)
    };
    assert_eq!(ask(&[]).status, 401);
    assert_eq!(ask(&["Authorization: Bearer nobody"]).status, 401);
    let orders = ask(&[&format!("Authorization: Bearer {JOIN_TOKEN}-orders")]);
    assert!(orders.status == 200 && orders.output.contains("InboundPolicy"), "{orders:?}");
    // Only what selects the workload: the policy of orders is nothing to checkout.
    let checkout = ask(&[&format!("Authorization: Bearer {JOIN_TOKEN}-checkout")]);
    assert!(checkout.status == 200 && !checkout.output.contains("InboundPolicy"), "{checkout:?}");
    assert!(!control.process.stderr().contains(JOIN_TOKEN), "a join token is in the log");
}
