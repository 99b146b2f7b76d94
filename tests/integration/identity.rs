//! What does the application learn of the caller? What was verified, and nothing that the caller could have written.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::support::client::{self, get, get_with};
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{Folder, LOCAL_ISSUER, inbound_with, issuer_with_file, usual_rules};
use crate::support::proxy::{Proxy, Settings};
use crate::support::raw_upstream::RawUpstream;
use crate::support::upstream::Upstream;

fn orders(target: std::net::SocketAddr, key: &Key, more: &Value) -> (Proxy, Folder) {
    let mut fields =
        json!({"forwardClaims": {"X-Client-Id": "@client", "X-Tenant": "tenant", "X-Scopes": "@scopes"}});
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound_with(&usual_rules(), &fields))),
        ("keys.jwks", &key_set(&[key]).to_string()),
    ]);
    // The harder case for us: what has `_` in its name is not gone anyhow.
    let settings = Settings::policies(folder.path(), "orders").before(target);
    (settings.with(&["--header-underscores", "pass"]).start(), folder)
}

#[test]
fn what_the_token_says_replaces_what_the_caller_says() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let (proxy, _folder) = orders(upstream.address(), &key, &json!({}));
    let token = key.token(&claims(LOCAL_ISSUER, &json!({"scope": "orders:read other", "tenant": "acme"})));
    let bearer = format!("Bearer {token}");
    let spoofed = [
        ("Authorization", bearer.as_str()),
        ("X-Client-Id", "admin"),
        ("x_tenant", "evil"),
        ("X-TENANT", "evil"),
    ];
    assert_eq!(get(proxy.inbound(), "/orders", &spoofed).status, 200);
    let seen = upstream.last();
    assert_eq!(seen.all("x-client-id"), ["checkout"]);
    assert_eq!(seen.all("x-tenant"), ["acme"]);
    assert_eq!(seen.all("x_tenant"), Vec::<String>::new());
    assert_eq!(seen.all("x-scopes"), ["orders:read other"]);

    // A claim that the token lacks is a header that is absent, not the caller's.
    let without = key.token(&claims(LOCAL_ISSUER, &json!({})));
    let bearer = format!("Bearer {without}");
    assert_eq!(
        get(proxy.inbound(), "/orders", &[("Authorization", &bearer), ("X-Tenant", "evil")]).status,
        200
    );
    assert_eq!(upstream.last().all("x-tenant"), Vec::<String>::new());
}

/// What belongs to the hop is removed before we add anything, so no `Connection` can have our word removed.
#[test]
fn in_17_a_caller_cannot_have_its_identity_removed() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let (proxy, _folder) = orders(
        upstream.address(),
        &key,
        &json!({"forwardClaims": {"Tenant": "tenant", "X-Client-Id": "@client"}}),
    );
    let token = key.token(&claims(LOCAL_ISSUER, &json!({"tenant": "acme"})));
    let bearer = format!("Bearer {token}");
    let nominating = [("Authorization", bearer.as_str()), ("Connection", "tenant"), ("Tenant", "evil")];
    assert_eq!(get(proxy.inbound(), "/orders", &nominating).status, 200);
    assert_eq!(upstream.last().all("tenant"), ["acme"]);
}

/// A claim is the issuer's text, and an issuer may let users choose it: it must not become a second header or value.
#[test]
fn a_claim_cannot_break_out_of_its_header() {
    let (key, upstream) = (Key::new("k1"), RawUpstream::start());
    let (proxy, _folder) = orders(upstream.address(), &key, &json!({}));
    for tenant in [
        "a\r\nX-Client-Id: admin",
        "a\nX-Client-Id: admin",
        "a\0b",
        "a, admin",
        "ä\u{2028}",
        " a ",
        "a%0d%0ab",
    ] {
        let token = key.token(&claims(LOCAL_ISSUER, &json!({"tenant": tenant})));
        let answer = get_with(proxy.inbound(), "/orders", &token);
        assert_eq!(answer.status, 200, "{tenant:?}: {answer:?}");
        let message = upstream.messages().pop().unwrap();
        let fields: Vec<_> =
            message.lines().filter(|line| line.to_ascii_lowercase().starts_with("x-tenant:")).collect();
        assert!(fields.len() <= 1, "{tenant:?}: {message:?}");
        assert!(message.contains("\r\nx-client-id: checkout\r\n"), "{tenant:?}: {message:?}");
        assert!(!message.to_ascii_lowercase().contains("\nx-client-id: admin"), "{tenant:?}: {message:?}");
        if let Some(field) = fields.first() {
            let value = field.split_once(": ").unwrap().1;
            assert!(value.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b','), "{tenant:?}: {value:?}");
        }
    }
    // Two that differ must not look alike.
    let shown = |tenant: &str| {
        let token = key.token(&claims(LOCAL_ISSUER, &json!({"tenant": tenant})));
        assert_eq!(get_with(proxy.inbound(), "/orders", &token).status, 200);
        let message = upstream.messages().pop().unwrap();
        message.lines().find(|line| line.to_ascii_lowercase().starts_with("x-tenant:")).map(str::to_owned)
    };
    assert_ne!(shown("a,b"), shown("a%2Cb"));
}

#[test]
fn the_token_goes_on_or_not_as_the_policy_says() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let token = key.token(&claims(LOCAL_ISSUER, &json!({})));
    for (mode, shown) in [("keep", 1), ("strip", 0)] {
        let (proxy, _folder) = orders(upstream.address(), &key, &json!({"forwardToken": mode}));
        assert_eq!(get_with(proxy.inbound(), "/orders", &token).status, 200);
        assert_eq!(upstream.last().all("authorization").len(), shown, "{mode}");
        // On a public path nobody verified it: a Bearer credential does not go on, other schemes do.
        assert_eq!(get_with(proxy.inbound(), "/healthz", &token).status, 200);
        assert_eq!(upstream.last().all("authorization"), Vec::<String>::new(), "{mode}");
        assert_eq!(upstream.last().all("x-client-id"), Vec::<String>::new(), "anonymous on a public path");
        assert_eq!(get(proxy.inbound(), "/healthz", &[("Authorization", "DPoP abc")]).status, 200);
        assert_eq!(upstream.last().all("authorization"), Vec::<String>::new(), "{mode}");
    }
    let (proxy, _folder) = orders(upstream.address(), &key, &json!({}));
    assert_eq!(get(proxy.inbound(), "/healthz", &[("Authorization", "Basic eDp5")]).status, 200);
    assert_eq!(upstream.last().all("authorization"), ["Basic eDp5"]);
}

/// Only the header carries a token: not the query, not a cookie, not a body (RFC 6750 §2, security IN-2).
#[test]
fn a_token_elsewhere_is_no_token() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let (proxy, _folder) = orders(upstream.address(), &key, &json!({}));
    let token = key.token(&claims(LOCAL_ISSUER, &json!({})));
    let to = proxy.inbound();
    for answer in [
        get(to, &format!("/orders?access_token={token}"), &[]),
        get(to, "/orders", &[("Cookie", &format!("Authorization=Bearer {token}"))]),
        get(to, "/orders", &[("Proxy-Authorization", &format!("Bearer {token}"))]),
        get(to, "/orders", &[("X-Authorization", &format!("Bearer {token}"))]),
    ] {
        // Two ways at once is `multiple_tokens`, one wrong way is none.
        assert!((400..402).contains(&answer.status), "{answer:?}");
    }
    for header in
        [format!("Bearer {token}, Bearer {token}"), format!("Bearer {token} x"), format!("Bearer  {token},")]
    {
        let answer = get(to, "/orders", &[("Authorization", &header)]);
        assert!((400..402).contains(&answer.status), "{header}: {answer:?}");
    }
    assert_eq!(upstream.count(), 0);
    // The scheme's case does not count (RFC 9110 §11.1).
    assert_eq!(get(to, "/orders", &[("Authorization", &format!("bEARER {token}"))]).status, 200);
}

/// Every way to write the name of an identity header that an application could take for it.
const SPOOFED: [&str; 8] = [
    "x-client-id",
    "x_client_id",
    "x-client_id",
    "x_client-id",
    "x-tenant",
    "x_tenant",
    "x-scopes",
    "x_scopes",
];

/// The names in these fields that read like one of our identity headers, with what they say.
fn identity(fields: &HeaderMap) -> Vec<(String, String)> {
    let folded = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let own = ["x-client-id", "x-tenant", "x-scopes"];
    let mut found: Vec<_> = fields
        .iter()
        .filter(|(name, _)| own.contains(&folded(name.as_str()).as_str()))
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    found.sort();
    found
}

fn verified() -> Vec<(String, String)> {
    [("x-client-id", "checkout"), ("x-scopes", "orders:read")]
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .into()
}

/// One request over HTTP/2 with prior knowledge, its body followed by trailers.
fn ask_h2(to: std::net::SocketAddr, target: &str, headers: &[(&str, &str)], trailers: HeaderMap) -> u16 {
    let frames = [Frame::data(Bytes::from_static(b"\0\0\0\0\0")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
    let mut request = Request::post(format!("http://{to}{target}")).version(Version::HTTP_2);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body.boxed()).expect("a request");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(to).await.expect("a connection");
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("HTTP/2");
        tokio::spawn(connection);
        sender.send_request(request).await.expect("an answer").status().as_u16()
    })
}

/// Over HTTP/2, as gRPC metadata, in the trailers, on a path for everybody and on one for a few: in no way does the caller say
/// who it is.
#[test]
fn v34_in_18_in_22_spoofed_metadata_and_trailers_never_reach_the_application() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let rules = json!([
        {"name": "call", "to": {"paths": ["/orders.Echo/*"]}, "from": {"scopes": ["orders:read"]}},
        {"name": "all", "public": true, "to": {"paths": ["/public/*"]}},
    ]);
    let forward =
        json!({"forwardClaims": {"X-Client-Id": "@client", "X-Tenant": "tenant", "X-Scopes": "@scopes"}});
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound_with(&rules, &forward))),
        ("keys.jwks", &key_set(&[&key]).to_string()),
    ]);
    let settings = Settings::policies(folder.path(), "orders").before(upstream.address());
    let proxy = settings.with(&["--header-underscores", "pass"]).start();
    let bearer = format!("Bearer {}", key.token(&claims(LOCAL_ISSUER, &json!({}))));
    for (target, grpc) in [("/orders.Echo/Say", true), ("/orders.Echo/Say", false), ("/public/a", false)] {
        let mut headers = vec![("authorization", bearer.as_str()), ("te", "trailers"), ("x-other", "kept")];
        if grpc {
            headers.push(("content-type", "application/grpc"));
        }
        headers.extend(SPOOFED.map(|name| (name, "admin")));
        let mut trailers = HeaderMap::new();
        for name in SPOOFED.into_iter().chain(["authorization", "cookie", "dpop", "x-checksum"]) {
            trailers.append(name, HeaderValue::from_static("admin"));
        }
        assert_eq!(ask_h2(proxy.inbound(), target, &headers, trailers), 200, "{target}");
        let seen = upstream.last();
        assert_eq!(seen.version, "HTTP/2.0");
        let expected = if target.starts_with("/public") { vec![] } else { verified() };
        assert_eq!(identity(&seen.headers), expected, "{target}");
        assert_eq!(seen.all("x-other"), ["kept"]);
        let left: Vec<_> = seen.trailers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(left, ["x-checksum"], "{target}");
    }
}

#[test]
fn in_18_trailers_with_an_underscore_go_as_fields_do() {
    let upstream = Upstream::start();
    let rules = json!([{"name": "all", "public": true, "to": {"paths": ["/public/*"]}}]);
    let folder = Folder::with(&[("policy.yaml", &inbound_with(&rules, &json!({"tokens": []})))]);
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    let mut trailers = HeaderMap::new();
    for name in ["x_tenant", "content_length", "x_forwarded_for", "x-checksum"] {
        trailers.append(name, HeaderValue::from_static("1"));
    }
    assert_eq!(ask_h2(proxy.inbound(), "/public/a", &[("te", "trailers")], trailers), 200);
    let seen = upstream.last();
    let left: Vec<_> = seen.trailers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(left, ["x-checksum"]);
}

/// The same over HTTP/1.1: in any case, in trailers that are announced, and nominated by `Connection` in every spelling.
#[test]
fn v34_in_17_in_18_spoofed_fields_and_trailers_of_http_1_never_reach_the_application() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let (proxy, _folder) = orders(upstream.address(), &key, &json!({}));
    let token = key.token(&claims(LOCAL_ISSUER, &json!({})));
    for (target, expected) in [("/orders", verified()), ("/healthz", vec![])] {
        let spoofed: String = SPOOFED
            .iter()
            .map(|name| {
                format!("{name}: admin\r\n{}: admin\r\n{}:admin\r\n", name.to_uppercase(), capital(name))
            })
            .collect();
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{spoofed}\
             Connection: x_client_id, close\r\nTrailer: X-Client-Id, X_Tenant, X-Checksum\r\n\
             Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Client-Id: admin\r\nX_Tenant: admin\r\n\
             x-scopes: admin\r\nAuthorization: Bearer x\r\nX-Checksum: 7\r\n\r\n"
        );
        let answer = client::raw(proxy.inbound(), request.as_bytes()).unwrap();
        assert_eq!(answer.status, 400, "nominated: {answer:?}");
        assert_eq!(upstream.count(), usize::from(target == "/healthz"));
        let request = request.replace("Connection: x_client_id, close", "Connection: close");
        let answer = client::raw(proxy.inbound(), request.as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = upstream.last();
        assert_eq!(identity(&seen.headers), expected, "{target}");
        assert_eq!(identity(&seen.trailers), [], "{target}");
        assert!(!seen.trailers.contains_key("authorization"), "{:?}", seen.trailers);
    }
}

fn capital(name: &str) -> String {
    let words = name.split_inclusive(['-', '_']);
    words.map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

/// What stood before some proxy is not what is asked of us: the request is judged as it came.
#[test]
fn in_23_no_field_of_a_proxy_decides() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let (proxy, _folder) = orders(upstream.address(), &key, &json!({}));
    let token = key.token(&claims(LOCAL_ISSUER, &json!({})));
    let bearer = format!("Bearer {token}");
    let claimed = [
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Host", "orders.shop"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Prefix", "/orders"),
        ("X-Forwarded-Client-Cert", "URI=spiffe://shop.test/checkout"),
        ("X-Original-URL", "/healthz"),
        ("X-Original-Method", "GET"),
        ("X-Rewrite-URL", "/healthz"),
        ("X-HTTP-Method-Override", "GET"),
        ("Forwarded", "for=127.0.0.1;host=orders.shop"),
        ("User-Agent", "kube-probe/1.33"),
    ];
    let ask = |method: &str, target: &str, shown: &[(&str, &str)]| {
        let answer = client::request(proxy.inbound(), method, target, &[shown, &claimed].concat(), b"");
        (answer.status, answer.header("x-countersign-reason").unwrap_or_default().to_owned())
    };
    let good = [("Authorization", bearer.as_str())];
    assert_eq!(ask("GET", "/orders", &[]), (401, "missing_token".to_owned()));
    assert_eq!(ask("GET", "/orders/secret/a", &good), (403, "denied_by_rule".to_owned()));
    assert_eq!(ask("DELETE", "/orders", &good), (403, "no_rule".to_owned()));
    assert_eq!(ask("GET", "/other", &good), (403, "no_rule".to_owned()));
    assert_eq!(upstream.count(), 0);
    assert_eq!(ask("GET", "/orders", &good).0, 200);
}

/// A refusal says its reason and nothing that the caller, or who listens, did not know: no token, key id, policy or rule.
#[test]
fn in_28_a_refusal_repeats_nothing() {
    let (key, upstream) = (Key::new("canary-kid"), Upstream::start());
    let (proxy, _folder) = orders(upstream.address(), &key, &json!({}));
    let good = claims(LOCAL_ISSUER, &json!({"sub": "canary-subject"}));
    let (signed, _) = key.token(&good).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let tokens = [
        "opaque-canary".to_owned(),
        format!("{signed}.AAAA"),
        Key::new("canary-other").token(&good),
        key.token(&claims("https://canary-issuer.test", &json!({}))),
        key.token(&claims(LOCAL_ISSUER, &json!({"exp": 1, "sub": "canary-subject"}))),
        key.token(&claims(LOCAL_ISSUER, &json!({"aud": "https://canary-audience"}))),
        key.token(&claims(LOCAL_ISSUER, &json!({"jti": null}))),
        key.token(&claims(LOCAL_ISSUER, &json!({"scope": "canary-scope"}))),
        key.sign(&json!({"alg": "ES256", "typ": "canary", "kid": "canary-kid"}), &good),
        key.sign(&json!({"alg": "HS256", "typ": "at+jwt", "kid": "canary-kid"}), &good),
    ];
    for token in &tokens {
        for target in ["/orders", "/orders/secret/a", "/canary-path"] {
            let answer = get_with(proxy.inbound(), target, token);
            assert!(matches!(answer.status, 401 | 403), "{answer:?}");
            let said = format!("{:?} {}", answer.headers, answer.text());
            assert!(!said.contains("canary"), "{said}");
            assert!(!token.split('.').any(|part| part.len() > 8 && said.contains(part)), "{said}");
            for name in ["orders/", "shop/", "\"read\"", "closed", "corp"] {
                assert!(!said.contains(name), "{name} in {said}");
            }
        }
    }
    assert_eq!(upstream.count(), 0);
}
