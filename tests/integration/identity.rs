//! What does the application learn of the caller? What was verified, and nothing that the caller could have written.

use serde_json::{Value, json};

use crate::support::client::{get, get_with};
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
    (Settings::policies(folder.path(), "orders").before(target).start(), folder)
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
