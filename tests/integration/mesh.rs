//! Do the parts work together? Two sidecars, the control plane and its embedded issuer; two applications that know nothing.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::support::client::{Answer, get, request};
use crate::support::control::Control;
use crate::support::policy::{AUDIENCE, Folder, document, inbound_with};
use crate::support::proxy::Proxy;
use crate::support::upstream::Upstream;
use crate::support::wait_until;

/// The secret of the client `checkout` of the embedded issuer.
pub(crate) const SECRET: &str = "canary-embedded-7c1d7b6a5e1f4c0c9d2b";

struct Mesh {
    upstream: Upstream,
    orders: Proxy,
    checkout: Proxy,
    folder: Folder,
    control: Control,
    _clients: Folder,
}

fn rules(scope: &str) -> Value {
    json!([{"name": "read", "to": {"methods": ["GET"], "paths": ["/orders/*"]}, "from": {"scopes": [scope], "clients": ["checkout"]}}])
}

fn orders_policy(scope: &str) -> String {
    inbound_with(&rules(scope), &json!({"forwardClaims": {"X-Client-Id": "@client"}}))
}

/// The clients file of the embedded issuer.
pub(crate) fn clients() -> String {
    let hash: String =
        digest(&SHA256, SECRET.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let client = json!({"clientId": "checkout", "secretSha256": hash, "scopes": ["orders:read"], "audiences": [AUDIENCE]});
    json!({ "clients": [client] }).to_string()
}

impl Mesh {
    fn start() -> Self {
        let upstream = Upstream::start();
        let clients = Folder::with(&[("clients.yaml", &clients()), ("client-secret", SECRET)]);
        let folder = Folder::with(&[]);
        let clients_file = clients.file("clients.yaml").display().to_string();
        let control =
            Control::start(folder.path(), &["--token-issuer", "{url}", "--token-clients", &clients_file]);
        fs::copy(control.ca_file(), clients.file("ca.pem")).unwrap();

        let secrets = clients.path().display().to_string();
        let orders = control
            .sidecar("orders")
            .with(&["--secrets-dir", &secrets])
            .before(upstream.address())
            .tracing()
            .start();
        let checkout = control.sidecar("checkout").with(&["--secrets-dir", &secrets]).tracing().start();
        let issuer = json!({"issuer": control.url(), "caFile": "ca.pem"});
        let credential = json!({
            "issuer": "corp", "clientId": "checkout",
            "authentication": {"clientSecretBasic": {"secretFile": "client-secret"}},
        });
        let rule = json!({
            "name": "orders", "to": {"hosts": ["localhost"], "ports": [orders.inbound().port()]}, "tls": "none",
            "token": {"credential": "checkout", "scopes": ["orders:read"], "audience": AUDIENCE},
        });
        let outbound = json!({"workloads": {"labels": {"app": "checkout"}}, "rules": [rule]});
        folder.write("issuer.yaml", &document("Issuer", "corp", &issuer));
        folder.write("orders.yaml", &orders_policy("orders:read"));
        folder.write(
            "checkout.yaml",
            &(document("Credential", "checkout", &credential)
                + &document("OutboundPolicy", "checkout", &outbound)),
        );
        let mesh = Self { upstream, orders, checkout, folder, control, _clients: clients };
        wait_until("the first call to pass", Duration::from_secs(20), || mesh.call().status == 200);
        mesh
    }

    /// What the application of checkout does: plain HTTP to its own sidecar.
    fn call(&self) -> Answer {
        let host = format!("localhost:{}", self.orders.inbound().port());
        get(self.checkout.outbound(), "/orders/7", &[("Host", &host)])
    }
}

#[test]
fn a_call_passes_through_both_sidecars_with_a_token_of_the_embedded_issuer() {
    let mesh = Mesh::start();
    assert_eq!(mesh.upstream.last().all("x-client-id"), ["checkout"]);
    // Around the sidecar there is no way in.
    assert_eq!(get(mesh.orders.inbound(), "/orders/7", &[]).reason(), "missing_token");

    // Policy changes while it runs: a scope that the client does not have.
    mesh.folder.write("orders.yaml", &orders_policy("orders:admin"));
    wait_until("the refusal", Duration::from_secs(2), || mesh.call().status == 403);
    assert_eq!(mesh.call().reason(), "insufficient_scope");
    mesh.folder.write("orders.yaml", &orders_policy("orders:read"));
    wait_until("the end of the refusal", Duration::from_secs(2), || mesh.call().status == 200);
}

#[test]
fn calls_go_on_without_control_plane_and_issuer() {
    let mut mesh = Mesh::start();
    mesh.control.kill();
    for _ in 0..20 {
        assert_eq!(mesh.call().status, 200);
    }
    mesh.control.restart();
    for _ in 0..20 {
        assert_eq!(mesh.call().status, 200);
    }
    let workloads = get(mesh.control.admin(), "/metrics", &[]);
    assert_eq!(workloads.status, 200);
}

/// Nothing secret in a log at trace level, a metric, an admin page or a refusal, on either plane.
#[test]
fn neither_plane_shows_a_secret() {
    let mesh = Mesh::start();
    let attached = mesh.upstream.last().all("authorization").remove(0);
    let mut pages = vec![
        mesh.control.process.stdout(),
        mesh.control.process.stderr(),
        mesh.checkout.log(),
        mesh.orders.log(),
    ];
    for page in ["/metrics", "/snapshot", "/tokens", "/readyz"] {
        pages.push(get(mesh.checkout.admin(), page, &[]).text());
        pages.push(get(mesh.orders.admin(), page, &[]).text());
    }
    for page in ["/metrics", "/readyz", "/"] {
        pages.push(get(mesh.control.admin(), page, &[]).text());
    }
    let wrong = [("Authorization", "Bearer canary-wrong")];
    pages.push(format!("{:?}", request(mesh.orders.inbound(), "POST", "/orders/7", &wrong, b"x")));
    let signature = attached.rsplit('.').next().unwrap();
    assert!(signature.len() > 60);
    for page in &pages {
        for secret in ["canary", signature] {
            assert!(!page.contains(secret), "{secret} in {page}");
        }
    }
    // What is kept on disk is for its owner alone.
    let mut folders: Vec<PathBuf> = vec![mesh.control.ca_file().parent().unwrap().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let mode = std::os::unix::fs::PermissionsExt::mode(&entry.metadata().unwrap().permissions());
            assert_eq!(mode & 0o077, 0, "{:?}", entry.path());
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
}
