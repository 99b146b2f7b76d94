//! The whole inbound door: policy as it is written, tokens as they are signed, one connection.

use std::net::Ipv4Addr;
use std::time::Duration;

use countersign_policy::{Documents, Workload, source};
use http::header::{AUTHORIZATION, HeaderValue};
use serde_json::{Value, json};

use super::*;
use crate::auth::active::Armory;
use crate::auth::issuers::Services;
use crate::auth::testing::{TestKey, services};

const RULES: &str = "[{ name: read, to: { paths: [/read] }, from: { scopes: [orders] } }]";
const AUDIENCE: &str = "https://orders.shop";

struct Door {
    key: TestKey,
    services: Services,
    armory: Armory,
    active: Active,
    verifier: Verifier,
    /// One connection.
    last: LastVerdict,
}

// === impl Door ===

impl Door {
    fn new(rules: &str) -> Self {
        let (key, services) = (TestKey::ed25519(), services());
        let armory = Armory::new(services.clone());
        let active = armory.arm(snapshot(&key, rules, AUDIENCE));
        let verifier = Verifier::new(services.clock.clone(), services.metrics.clone());
        Self { key, services, armory, active, verifier, last: LastVerdict::default() }
    }

    /// Policy changes; the connection stays.
    fn change(&mut self, rules: &str, audience: &str) {
        self.active = self.armory.arm(snapshot(&self.key, rules, audience));
    }

    /// A token that is in order but for these claims; `null` takes one away.
    fn token(&self, changes: &Value) -> String {
        let now = self.services.clock.unix();
        let mut claims = json!({
            "iss": "https://login.example.com", "aud": AUDIENCE, "sub": "checkout", "client_id": "checkout",
            "jti": "1", "iat": now, "exp": now + 300, "scope": "orders",
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        self.key.sign(&json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "a"}), &claims)
    }

    async fn ask(&self, path: &str, token: Option<&str>) -> Result<Admission, Reason> {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}")).unwrap());
        }
        let ask = Ask {
            method: "GET",
            path: &CanonicalPath::parse(path).unwrap(),
            query: None,
            host: "orders.shop",
            grpc: false,
            headers: &headers,
            source: Ipv4Addr::LOCALHOST.into(),
            scheme: "http",
            certificate: None,
        };
        let port = self.active.snapshot.inbound(8080).unwrap();
        let metrics = &self.services.metrics;
        let door =
            super::Door { port, active: &self.active, verifier: &self.verifier, last: &self.last, metrics };
        door.admit(ask).await.map_err(|refusal| refusal.reason)
    }

    async fn reason(&self, path: &str, token: &str) -> Option<Reason> {
        self.ask(path, Some(token)).await.err()
    }
}

fn snapshot(key: &TestKey, rules: &str, audience: &str) -> countersign_policy::Snapshot {
    let text = format!(
        r#"
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: {{ name: corp }}
spec: {{ issuer: https://login.example.com, jwks: {{ inline: {{ keys: [{jwk}] }} }} }}
---
apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: {{ name: orders, namespace: shop }}
spec:
  tokens: [{{ issuer: corp, audiences: ["{audience}"] }}]
  rules: {rules}
"#,
        jwk = key.jwk("a"),
    );
    let workload = Workload { namespace: "shop".to_owned(), ..Workload::default() };
    let documents = Documents::parse(source::split("policy.yaml", text.as_bytes()).unwrap()).unwrap();
    documents.compile(&workload).unwrap()
}

#[tokio::test]
async fn v16_the_audience_is_ours_exactly() {
    let mut door = Door::new(RULES);
    for aud in [json!(AUDIENCE), json!(["https://other", AUDIENCE])] {
        assert_eq!(door.reason("/read", &door.token(&json!({ "aud": aud }))).await, None, "{aud}");
    }
    let wrong = [
        json!("https://orders.shop/"),
        json!("https://ORDERS.shop"),
        json!("https://orders"),
        json!("https://orders.shop https://other"),
        json!("*"),
        json!(["https://other"]),
    ];
    for aud in wrong {
        let reason = door.reason("/read", &door.token(&json!({ "aud": aud }))).await;
        assert_eq!(reason, Some(Reason::WrongAudience), "{aud}");
    }
    for aud in [json!(null), json!(1), json!([]), json!([1]), json!({})] {
        let reason = door.reason("/read", &door.token(&json!({ "aud": aud }))).await;
        assert!(matches!(reason, Some(Reason::MissingClaim | Reason::WrongAudience)), "{aud}: {reason:?}");
    }
    // That the token was verified before tells nothing about another audience.
    let token = door.token(&json!({}));
    assert_eq!(door.reason("/read", &token).await, None);
    door.change(RULES, "https://mail.shop");
    assert_eq!(door.reason("/read", &token).await, Some(Reason::WrongAudience));
}

#[tokio::test]
async fn v22_a_subject_is_no_client_and_a_client_no_subject() {
    let door = Door::new(
        "[{ name: client, to: { paths: [/client] }, from: { clients: [checkout] } },
          { name: subject, to: { paths: [/subject] }, from: { subjects: [alice] } }]",
    );
    let machine = door.token(&json!({}));
    let user = door.token(&json!({"sub": "alice", "client_id": "web"}));
    assert_eq!(door.reason("/client", &machine).await, None);
    assert_eq!(door.reason("/subject", &user).await, None);
    // A user who is called like a client, and a client that is called like a user.
    let user = door.token(&json!({"sub": "checkout", "client_id": "web"}));
    let client = door.token(&json!({"sub": "x", "client_id": "alice"}));
    assert_eq!(door.reason("/client", &user).await, Some(Reason::NoRule));
    assert_eq!(door.reason("/subject", &client).await, Some(Reason::NoRule));
}

#[tokio::test]
async fn v35_every_request_of_a_connection_is_judged() {
    let mut door = Door::new(RULES);
    let good = door.token(&json!({}));
    let forged = TestKey::ed25519();
    let (signed, _) = good.rsplit_once('.').unwrap();
    let forged =
        format!("{signed}.{}", crate::auth::testing::b64(forged.signature("EdDSA", signed.as_bytes())));
    for _ in 0..2 {
        assert_eq!(door.reason("/read", &good).await, None);
        assert_eq!(door.ask("/read", None).await.err(), Some(Reason::MissingToken));
        assert_eq!(door.reason("/read", &forged).await, Some(Reason::BadSignature));
        assert_eq!(door.reason("/other", &good).await, Some(Reason::NoRule));
        let weak = door.token(&json!({"scope": "mail"}));
        assert_eq!(door.reason("/read", &weak).await, Some(Reason::InsufficientScope));
    }
    door.change("[{ name: read, to: { paths: [/other] }, from: {} }]", AUDIENCE);
    assert_eq!(door.reason("/read", &good).await, Some(Reason::NoRule));
    assert_eq!(door.reason("/other", &good).await, None);
    door.services.clock.advance(Duration::from_secs(331));
    assert_eq!(door.reason("/other", &good).await, Some(Reason::Expired));
}

#[tokio::test]
async fn a_public_rule_makes_its_caller_anonymous() {
    let door = Door::new("[{ name: health, public: true, to: { paths: [/healthz] } }]");
    for token in [door.token(&json!({})), "nonsense".to_owned()] {
        let admission = door.ask("/healthz", Some(&token)).await.unwrap();
        assert!(admission.token.is_none() && admission.would_refuse.is_none());
    }
}
