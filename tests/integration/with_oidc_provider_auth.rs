//! Who are we to the issuer, and what is our token bound to? Every method of client authentication, and tokens that are
//! bound to a certificate, against an authorization server that we did not write.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::authority::{Authority, Pair};
use crate::support::client::{Answer, Connection, get};
use crate::support::issuer::{Issuer, SECRET};
use crate::support::jose::{self, Key, key_set};
use crate::support::policy::{self, Folder, document, issuer_discovered};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::{Seen, Upstream};
use crate::support::{now, wait_until};

/// The name in the client's certificate.
pub(crate) const URI: &str = "spiffe://shop.test/checkout";
/// The `sub` of what the platform says of us.
const SUBJECT: &str = "system:serviceaccount:shop:checkout";

struct World {
    issuer: Issuer,
    upstream: Upstream,
    proxy: Proxy,
    folder: Folder,
}

impl World {
    /// A running issuer, and a workload that authenticates so; with these fields in its rule, and these files.
    fn new(
        issuer: Issuer,
        upstream: Upstream,
        authentication: &Value,
        rule: &Value,
        files: &[(&str, &str)],
    ) -> Self {
        let spec = json!({"issuer": "corp", "clientId": "checkout", "authentication": authentication});
        let server = match issuer.url.starts_with("https") {
            true => document("Issuer", "corp", &json!({"issuer": issuer.url, "caFile": "ca.crt"})),
            false => issuer_discovered(&issuer.url),
        };
        let text =
            server + &document("Credential", "checkout", &spec) + &policy::outbound(upstream.port(), rule);
        let folder = Folder::with(files);
        folder.write("policy.yaml", &text);
        let proxy = Settings::policies(folder.path(), "checkout").start();
        Self { issuer, upstream, proxy, folder }
    }

    fn authority(&self) -> String {
        format!("localhost:{}", self.upstream.port())
    }

    fn get(&self) -> Answer {
        get(self.proxy.outbound(), "/a", &[("Host", &self.authority())])
    }

    /// The claims of the token that a request shows, once it passes.
    fn claims(&self) -> Value {
        let answer = self.get();
        assert_eq!(answer.status, 200, "{} {}", answer.text(), self.proxy.log());
        shown(&self.upstream.last())
    }

    fn rotate(&self, pair: &Pair) {
        self.folder.write("tls.crt", &pair.certificate);
        self.folder.write("tls.key", &pair.key);
    }
}

/// The claims of the one token in a request.
pub(crate) fn shown(seen: &Seen) -> Value {
    let shown = seen.all("authorization");
    assert_eq!(shown.len(), 1);
    jose::decode(shown[0].strip_prefix("Bearer ").unwrap())
}

/// An issuer with one client, over TLS that asks for client certificates: at its own port, or at an alias.
pub(crate) fn issuer_with_certificates(
    authority: &Authority,
    alias: bool,
    client: &Value,
) -> (Issuer, Folder) {
    let server = authority.server();
    let files = Folder::with(&[
        ("server.crt", &server.certificate),
        ("server.key", &server.key),
        ("client-ca.crt", &authority.pem()),
    ]);
    let path = |name: &str| files.file(name).display().to_string();
    let issuer = Issuer::start(&json!({
        "tls": {
            "cert": path("server.crt"), "key": path("server.key"), "clientCa": path("client-ca.crt"), "alias": alias,
        },
        "clients": [client],
    }));
    (issuer, files)
}

/// Where the issuer is asked for tokens by those who have a certificate.
fn port_for_certificates(issuer: &Issuer) -> String {
    let url = issuer.alias.as_ref().unwrap_or(&issuer.url);
    url.rsplit_once(':').unwrap().1.to_owned()
}

#[test]
fn c4_c6_client_secret_post_has_the_secret_in_the_form_alone() {
    let client =
        json!({"id": "checkout", "method": "client_secret_post", "secret": SECRET, "scope": "orders:read"});
    let world = World::new(
        Issuer::start(&json!({"clients": [client]})),
        Upstream::start(),
        &json!({"clientSecretPost": {"secretFile": "client-secret"}}),
        &json!({}),
        &[("client-secret", &format!("{SECRET}\n"))],
    );
    assert_eq!(world.claims()["client_id"], "checkout");
    let asked = world.issuer.last();
    assert_eq!(
        (&asked.form["client_id"], &asked.form["client_secret"]),
        (&json!("checkout"), &json!(SECRET))
    );
    assert!(asked.headers["authorization"].is_null(), "{asked:?}");
}

/// The key is found by its `kid` among others, and the audience may be the endpoint, for servers that want that.
#[test]
fn c19_an_assertion_names_its_key_and_the_audience_that_policy_says() {
    let (other, key) = (Key::new("other"), Key::new("ours"));
    for audience in ["issuer", "tokenEndpoint"] {
        let client = json!({"id": "checkout", "jwks": key_set(&[&other, &key]), "scope": "orders:read"});
        let method =
            json!({"keyFile": "key.pem", "keyId": "ours", "algorithm": "ES256", "audience": audience});
        let world = World::new(
            Issuer::start(&json!({"clients": [client]})),
            Upstream::start(),
            &json!({"privateKeyJwt": method}),
            &json!({}),
            &[("key.pem", &key.private_pem())],
        );
        world.claims();
        let asked = world.issuer.last();
        let assertion = asked.form["client_assertion"].as_str().unwrap();
        let endpoint = format!("{}/token", world.issuer.url);
        let expected = if audience == "issuer" { &world.issuer.url } else { &endpoint };
        assert_eq!(jose::decode(assertion)["aud"], json!(expected));
        // The header, read as if it were the claims.
        let header = jose::decode(&format!(".{assertion}"));
        assert_eq!((&header["kid"], &header["alg"]), (&json!("ours"), &json!("ES256")));
    }
}

/// RFC 8705 §2.1 and §2.2, at the issuer's own port and at the one that its metadata names for this (§5).
#[test]
fn c4_c22_tls_client_auth_works_by_authority_and_self_signed_and_at_an_alias() {
    let authority = Authority::new();
    for (method, alias) in [
        ("tls_client_auth", false),
        ("tls_client_auth", true),
        ("self_signed_tls_client_auth", false),
        ("self_signed_tls_client_auth", true),
    ] {
        let mut client = json!({"id": "checkout", "method": method, "scope": "orders:read"});
        let ours = match method {
            "tls_client_auth" => {
                client["subject"] = json!({"tls_client_auth_san_uri": URI});
                authority.client(URI)
            }
            _ => Pair::self_signed("checkout"),
        };
        client["certificate"] = json!(ours.certificate);
        let (issuer, _files) = issuer_with_certificates(&authority, alias, &client);
        let world = World::new(
            issuer,
            Upstream::start(),
            &json!({"tlsClientAuth": {"certFile": "tls.crt", "keyFile": "tls.key"}}),
            &json!({}),
            &[("ca.crt", &authority.pem()), ("tls.crt", &ours.certificate), ("tls.key", &ours.key)],
        );
        assert_eq!(world.claims()["client_id"], "checkout", "{method} {alias}");
        let asked = world.issuer.last();
        assert_eq!(asked.certificate, Some(ours.x5t), "{method} {alias}");
        assert_eq!(asked.port.to_string(), port_for_certificates(&world.issuer), "{method} {alias}");
        assert_eq!(asked.form["client_id"], "checkout");
        for none in ["client_secret", "client_assertion"] {
            assert!(asked.form[none].is_null() && asked.headers["authorization"].is_null(), "{asked:?}");
        }
    }
}

/// What the platform writes into a file: a token for this issuer.
fn platform_token(platform: &Key, issuer: &str, jti: &str) -> String {
    let claims = json!({
        "iss": "https://kubernetes.test", "sub": SUBJECT, "aud": issuer, "jti": jti, "iat": now(), "exp": now() + 600,
    });
    platform.sign(&json!({"alg": "ES256", "kid": platform.kid}), &claims)
}

#[test]
fn c21_the_token_of_the_platform_authenticates_us_and_its_successor_is_used() {
    let platform = Key::new("platform");
    for kind in ["jwtBearer", "jwtSpiffe"] {
        let issuer = Issuer::start(&json!({
            "ttl": 2,
            "workloads": {"jwks": key_set(&[&platform]), "issuer": "https://kubernetes.test"},
            "clients": [{"id": "checkout", "method": "workload", "subject": SUBJECT, "scope": "orders:read"}],
        }));
        let first = platform_token(&platform, &issuer.url, "first");
        let world = World::new(
            issuer,
            Upstream::start(),
            &json!({"workloadToken": {"tokenFile": "token", "assertionType": kind}}),
            &json!({}),
            &[("token", &first)],
        );
        assert_eq!(world.claims()["client_id"], "checkout");
        let asked = world.issuer.last();
        let word = if kind == "jwtBearer" { "jwt-bearer" } else { "jwt-spiffe" };
        let written = format!("urn:ietf:params:oauth:client-assertion-type:{word}");
        assert_eq!(asked.form["client_assertion_type"], json!(written));
        assert_eq!((&asked.form["client_assertion"], asked.status), (&json!(first), Some(200)));
        // The platform renews it long before its end, without telling anybody.
        let second = platform_token(&platform, &world.issuer.url, "second");
        world.folder.write("token", &second);
        wait_until("the next token request", Duration::from_secs(10), || {
            world.get().status == 200 && world.issuer.last().form["client_assertion"] == json!(second)
        });
    }
}

#[test]
fn c21_the_token_of_the_platform_is_a_grant() {
    let platform = Key::new("platform");
    let issuer = Issuer::start(&json!({
        "jwtBearer": {"jwks": key_set(&[&platform])},
        "clients": [{"id": "checkout", "method": "none", "scope": "orders:read"}],
    }));
    let token = platform_token(&platform, &issuer.url, "only");
    let world = World::new(
        issuer,
        Upstream::start(),
        &json!({"workloadToken": {"tokenFile": "token", "grant": "jwtBearer"}}),
        &json!({}),
        &[("token", &token)],
    );
    assert_eq!(world.claims()["sub"], SUBJECT);
    let asked = world.issuer.last();
    assert_eq!(asked.form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    assert_eq!((&asked.form["assertion"], &asked.form["client_id"]), (&json!(token), &json!("checkout")));
    assert!(asked.form["client_assertion"].is_null(), "{asked:?}");
}

/// A workload with a secret and a certificate that its token is bound to; the destination demands the certificate.
fn bound(authority: &Authority, ours: &Pair, protocol: &str) -> (World, Folder) {
    let client =
        json!({"id": "checkout", "secret": SECRET, "certificateBound": true, "scope": "orders:read"});
    let (issuer, files) = issuer_with_certificates(authority, true, &client);
    let rule = json!({
        "tls": "originate", "binding": "mtls", "protocol": protocol,
        "originate": {"caFile": "ca.crt", "certFile": "tls.crt", "keyFile": "tls.key"},
    });
    let world = World::new(
        issuer,
        Upstream::start_with(authority.demanding()),
        &json!({"clientSecretBasic": {"secretFile": "client-secret"}}),
        &rule,
        &[
            ("ca.crt", &authority.pem()),
            ("client-secret", SECRET),
            ("tls.crt", &ours.certificate),
            ("tls.key", &ours.key),
        ],
    );
    (world, files)
}

#[test]
fn c22_a_token_is_bound_to_the_certificate_that_the_destination_sees() {
    let authority = Authority::new();
    let ours = authority.client(URI);
    for protocol in ["http1", "http2"] {
        let (world, _files) = bound(&authority, &ours, protocol);
        let claims = world.claims();
        assert_eq!(claims["cnf"]["x5t#S256"], json!(ours.x5t), "{claims}");
        assert_eq!(world.upstream.last().certificate, Some(ours.x5t.clone()));
        assert_eq!(world.issuer.last().certificate, Some(ours.x5t.clone()));
    }
}

/// The certificate of `tlsClientAuth` is the one that the token is bound to, and the rule need not name it again.
#[test]
fn c22_the_certificate_of_the_credential_binds_the_token_too() {
    let authority = Authority::new();
    let ours = authority.client(URI);
    let client = json!({
        "id": "checkout", "method": "tls_client_auth", "subject": {"tls_client_auth_san_uri": URI},
        "certificateBound": true, "scope": "orders:read",
    });
    let (issuer, _files) = issuer_with_certificates(&authority, false, &client);
    let world = World::new(
        issuer,
        Upstream::start_with(authority.demanding()),
        &json!({"tlsClientAuth": {"certFile": "tls.crt", "keyFile": "tls.key"}}),
        &json!({"tls": "originate", "originate": {"caFile": "ca.crt"}, "binding": "mtls"}),
        &[("ca.crt", &authority.pem()), ("tls.crt", &ours.certificate), ("tls.key", &ours.key)],
    );
    assert_eq!(world.claims()["cnf"]["x5t#S256"], json!(ours.x5t));
    assert_eq!(world.upstream.last().certificate, Some(ours.x5t));
}

/// Each request shows a token and the certificate that it is bound to, before and after, and none fails meanwhile.
#[test]
fn c23_a_rotated_certificate_brings_another_token_and_costs_no_request() {
    let authority = Authority::new();
    let (old, new) = (authority.client(URI), authority.client(URI));
    for protocol in ["http1", "http2"] {
        let (world, _files) = bound(&authority, &old, protocol);
        let mut connection = Connection::open(world.proxy.outbound()).unwrap();
        let destination = world.authority();
        let mut certificate = || {
            let answer = connection.request("GET", "/", &[("Host", &destination)], b"").unwrap();
            assert_eq!(answer.status, 200, "{} {}", answer.text(), world.proxy.log());
            world.upstream.last().certificate
        };
        assert_eq!(certificate(), Some(old.x5t.clone()));
        world.folder.write("tls.crt", &new.certificate);
        for _ in 0..20 {
            assert_eq!(
                certificate(),
                Some(old.x5t.clone()),
                "half of a pair is none, so the old one goes on"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        world.folder.write("tls.key", &new.key);
        wait_until("the next pair", Duration::from_secs(20), || certificate() == Some(new.x5t.clone()));
        for _ in 0..20 {
            assert_eq!(certificate(), Some(new.x5t.clone()));
        }
        for one in &world.upstream.seen() {
            assert_eq!(shown(one)["cnf"]["x5t#S256"], json!(one.certificate), "{protocol}");
        }
        assert_eq!(world.issuer.requests("/token"), 2, "one for each certificate");
        assert_eq!(
            world.proxy.scrape().sum("countersign_token_fetch_failures_total", &[]),
            0.0,
            "while half of the pair was there, nobody asked"
        );
    }
}

/// A destination that asks for a certificate gets the rule's, with or without a token, and the next one once that is there.
#[test]
fn out_8_the_rule_presents_its_certificate_and_a_replaced_one_gets_new_connections() {
    let authority = Authority::new();
    let (old, new) = (authority.client(URI), authority.client(URI));
    let client = json!({"id": "checkout", "secret": SECRET, "scope": "orders:read"});
    let (issuer, _files) = issuer_with_certificates(&authority, true, &client);
    let world = World::new(
        issuer,
        Upstream::start_with(authority.demanding()),
        &json!({"clientSecretBasic": {"secretFile": "client-secret"}}),
        &json!({
            "tls": "originate",
            "originate": {"caFile": "ca.crt", "certFile": "tls.crt", "keyFile": "tls.key"},
        }),
        &[
            ("ca.crt", &authority.pem()),
            ("client-secret", SECRET),
            ("tls.crt", &old.certificate),
            ("tls.key", &old.key),
        ],
    );
    let claims = world.claims();
    assert_eq!(world.upstream.last().certificate, Some(old.x5t));
    assert!(world.issuer.last().certificate.is_none(), "the rule's certificate is not the issuer's business");
    assert!(claims["cnf"].is_null(), "{claims}");
    world.rotate(&new);
    wait_until("the next certificate", Duration::from_secs(30), || {
        world.get().status == 200 && world.upstream.last().certificate.as_ref() == Some(&new.x5t)
    });
}
