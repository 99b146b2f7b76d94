//! Does a token that is bound to our certificate pass the sidecar of the other side, and no other token? From sidecar to
//! sidecar, with the tokens of an authorization server that we did not write.

use serde_json::json;

use crate::support::authority::Authority;
use crate::support::client::get;
use crate::support::issuer::SECRET;
use crate::support::policy::{self, AUDIENCE, Folder, document};
use crate::support::proxy::Settings;
use crate::support::upstream::Upstream;
use crate::with_oidc_provider_auth::{URI, issuer_with_certificates, shown};

#[test]
fn c22_v30_from_sidecar_to_sidecar_a_stolen_token_is_of_no_use() {
    let authority = Authority::new();
    let (ours, server) = (authority.client(URI), authority.server());
    let client =
        json!({"id": "checkout", "secret": SECRET, "certificateBound": true, "scope": "orders:read"});
    let (issuer, _files) = issuer_with_certificates(&authority, true, &client);
    let upstream = Upstream::start();
    let corp = document("Issuer", "corp", &json!({"issuer": issuer.url, "caFile": "ca.crt"}));
    let more = json!({
        "tokens": [{"issuer": "corp", "audiences": [AUDIENCE], "binding": "required"}],
        "tls": {"certFile": "tls.crt", "keyFile": "tls.key", "clientCaFile": "ca.crt"},
    });
    let text = corp.clone() + &policy::inbound_with(&policy::usual_rules(), &more);
    let ca = authority.pem();
    let orders_folder = Folder::with(&[
        ("policy.yaml", text.as_str()),
        ("ca.crt", &ca),
        ("tls.crt", &server.certificate),
        ("tls.key", &server.key),
    ]);
    let orders = Settings::policies(orders_folder.path(), "orders").before(upstream.address()).start();
    let port = orders.inbound().port();
    let statuses = ["mtls", "none"].map(|binding| {
        let rule = json!({
            "tls": "originate", "binding": binding,
            "originate": {"caFile": "ca.crt", "certFile": "tls.crt", "keyFile": "tls.key"},
        });
        let text = corp.clone() + &policy::credential() + &policy::outbound(port, &rule);
        let folder = Folder::with(&[
            ("policy.yaml", text.as_str()),
            ("client-secret", SECRET),
            ("ca.crt", &ca),
            ("tls.crt", &ours.certificate),
            ("tls.key", &ours.key),
        ]);
        let checkout = Settings::policies(folder.path(), "checkout").start();
        let host = format!("localhost:{port}");
        let answer = get(checkout.outbound(), "/orders/7", &[("Host", &host)]);
        (answer.status, answer.text())
    });
    assert_eq!(statuses[0].0, 200, "{statuses:?} {}", orders.log());
    assert_ne!(statuses[1].0, 200, "the same certificate, and a token that is not bound to it");
    assert_eq!(shown(&upstream.last())["cnf"]["x5t#S256"], json!(ours.x5t));
}
