//! The whole inbound door: policy as it is written, tokens as they are signed, one connection.

mod review;

use std::net::Ipv4Addr;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::*;
use crate::auth::active::Armory;
use crate::auth::issuers::Services;
use crate::auth::testing::{TestKey, b64, compiled, services};

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
        let bearer = token.map(|token| format!("Bearer {token}"));
        let fields: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        self.ask_with(path, &fields, None).await
    }

    /// With these header fields, over a connection with this certificate.
    async fn ask_with(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        certificate: Option<[u8; 32]>,
    ) -> Result<Admission, Reason> {
        let peer = certificate.map(|thumbprint| Peer { id: None, thumbprint });
        self.ask_from(path, fields, peer.as_ref()).await
    }

    /// The same, over a connection of this peer.
    async fn ask_from(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        peer: Option<&Peer>,
    ) -> Result<Admission, Reason> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        let ask = Ask {
            method: "GET",
            path: &CanonicalPath::parse(path).unwrap(),
            query: None,
            host: "orders.shop",
            port: None,
            grpc: false,
            headers: &headers,
            source: Ipv4Addr::LOCALHOST.into(),
            scheme: "http",
            peer,
        };
        let port = self.active.snapshot.inbound(8080).unwrap();
        let door = super::Door {
            port,
            active: &self.active,
            verifier: &self.verifier,
            last: &self.last,
            explainer: &Explainer::new(self.services.clock.clone()),
        };
        door.admit(ask).await.map_err(|refusal| refusal.reason)
    }

    /// The same with a credential of this scheme, and a proof where there is one.
    async fn show(&self, scheme: &str, token: &str, proof: Option<&str>) -> Option<Reason> {
        let credential = format!("{scheme} {token}");
        let mut fields = vec![("authorization", credential.as_str())];
        fields.extend(proof.map(|proof| ("dpop", proof)));
        self.ask_with("/read", &fields, None).await.err()
    }

    async fn reason(&self, path: &str, token: &str) -> Option<Reason> {
        self.ask(path, Some(token)).await.err()
    }
}

fn snapshot(key: &TestKey, rules: &str, audience: &str) -> countersign_policy::Snapshot {
    snapshot_of(&policy(key, rules, audience))
}

fn snapshot_of(text: &str) -> countersign_policy::Snapshot {
    compiled("shop", text)
}

fn policy(key: &TestKey, rules: &str, audience: &str) -> String {
    format!(
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
    )
}

#[tokio::test]
async fn v16_in_9_the_audience_is_ours_exactly() {
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
    let forged = format!("{signed}.{}", b64(forged.signature("EdDSA", signed.as_bytes())));
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

/// A key of a caller, whose thumbprint is that of RFC 7638 §3.1.
struct Holder(TestKey);

// === impl Holder ===

impl Holder {
    fn new() -> Self {
        Self(TestKey::p256())
    }

    fn jwk(&self) -> Value {
        let mut jwk = self.0.jwk("");
        jwk.as_object_mut().unwrap().remove("kid");
        jwk
    }

    fn cnf(&self) -> Value {
        // serde_json writes members in the order of their names, which is the one that is demanded.
        json!({"cnf": {"jkt": hash(&self.jwk().to_string())}})
    }

    /// A proof for `GET http://orders.shop/read` with this token.
    fn proof(&self, door: &Door, token: &str, jti: &str) -> String {
        let claims = json!({
            "jti": jti, "htm": "GET", "htu": "http://orders.shop/read", "iat": door.services.clock.unix(),
            "ath": hash(token),
        });
        self.0.sign(&json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk()}), &claims)
    }
}

fn hash(text: &str) -> String {
    b64(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()))
}

#[tokio::test]
async fn v31_v33_a_token_that_is_bound_to_a_key_needs_a_new_proof_each_time() {
    let (door, holder) = (Door::new(RULES), Holder::new());
    let token = door.token(&holder.cnf());
    for jti in ["1", "2", "3"] {
        let proof = holder.proof(&door, &token, jti);
        assert_eq!(door.show("DPoP", &token, Some(&proof)).await, None, "{jti}");
        assert_eq!(door.show("dpop", &token, Some(&proof)).await, Some(Reason::ProofReplayed), "{jti}");
    }
    // Over another connection too, which knows nothing of this one.
    let proof = holder.proof(&door, &token, "1");
    door.last.remember("other", door.last.recall(&token).unwrap());
    assert_eq!(door.show("DPoP", &token, Some(&proof)).await, Some(Reason::ProofReplayed));
}

#[tokio::test]
async fn v31_no_proof_two_proofs_and_those_for_others_are_invalid() {
    let (door, holder) = (Door::new(RULES), Holder::new());
    let token = door.token(&holder.cnf());
    let proof = holder.proof(&door, &token, "1");
    let other = holder.proof(&door, &door.token(&json!({"jti": "2"})), "2");
    let stranger = Holder::new().proof(&door, &token, "3");
    for bad in [None, Some(""), Some("a.b.c"), Some(&*other), Some(&*stranger), Some(&*format!("{proof},"))] {
        assert_eq!(door.show("DPoP", &token, bad).await, Some(Reason::ProofInvalid), "{bad:?}");
    }
    let credential = format!("DPoP {token}");
    let twice = [("authorization", &*credential), ("dpop", &proof), ("dpop", &proof)];
    assert_eq!(door.ask_with("/read", &twice, None).await.err(), Some(Reason::ProofInvalid));
    let elsewhere = [("authorization", &*credential), ("dpop", &proof)];
    assert_eq!(door.ask_with("/other", &elsewhere, None).await.err(), Some(Reason::ProofInvalid));
    // None of which has used up the good one.
    assert_eq!(door.show("DPoP", &token, Some(&proof)).await, None);
    let old = holder.proof(&door, &token, "4");
    door.services.clock.advance(Duration::from_secs(61));
    assert_eq!(door.show("DPoP", &token, Some(&old)).await, Some(Reason::ProofInvalid));
}

#[tokio::test]
async fn v32_a_bound_token_is_no_bearer_token_and_the_other_way_round() {
    let (door, holder) = (Door::new(RULES), Holder::new());
    let (bound, bearer) = (door.token(&holder.cnf()), door.token(&json!({})));
    for jti in ["1", "2"] {
        // Whatever caches know.
        let proof = holder.proof(&door, &bound, jti);
        assert_eq!(door.show("Bearer", &bound, None).await, Some(Reason::BindingMismatch));
        assert_eq!(door.show("Bearer", &bound, Some(&proof)).await, Some(Reason::BindingMismatch));
        assert_eq!(door.show("DPoP", &bound, Some(&proof)).await, None);
        let proof = holder.proof(&door, &bearer, &format!("{jti} bearer"));
        assert_eq!(door.show("DPoP", &bearer, Some(&proof)).await, Some(Reason::BindingMismatch));
        assert_eq!(door.show("DPoP", &bearer, None).await, Some(Reason::BindingMismatch));
        assert_eq!(door.show("Bearer", &bearer, None).await, None);
    }
}

#[tokio::test]
async fn v30_a_token_that_is_bound_to_a_certificate_needs_that_certificate() {
    let (door, holder) = (Door::new(RULES), Holder::new());
    let token = door.token(&json!({"cnf": {"x5t#S256": b64([7; 32])}}));
    let proof = holder.proof(&door, &token, "1");
    let (bearer, dpop) = (format!("Bearer {token}"), format!("DPoP {token}"));
    for _ in 0..2 {
        for certificate in [None, Some([0; 32]), Some([8; 32])] {
            let fields = [("authorization", &*bearer)];
            let reason = door.ask_with("/read", &fields, certificate).await.err();
            assert_eq!(reason, Some(Reason::BindingMismatch), "{certificate:?}");
        }
        let admission = door.ask_with("/read", &[("authorization", &bearer)], Some([7; 32])).await.unwrap();
        assert!(admission.token.is_some());
        // A proof of a key is none of a certificate.
        let fields = [("authorization", &*dpop), ("dpop", &proof)];
        let reason = door.ask_with("/read", &fields, Some([7; 32])).await.err();
        assert_eq!(reason, Some(Reason::BindingMismatch));
    }
    // And the certificate none of a key.
    let token = door.token(&holder.cnf());
    let fields = [("authorization", &*format!("Bearer {token}"))];
    assert_eq!(door.ask_with("/read", &fields, Some([7; 32])).await.err(), Some(Reason::BindingMismatch));
    // A bearer token is one over mTLS too.
    let fields = [("authorization", &*format!("Bearer {}", door.token(&json!({}))))];
    assert!(door.ask_with("/read", &fields, Some([7; 32])).await.is_ok());
}

#[tokio::test]
async fn what_is_wrong_with_the_token_comes_before_its_proof() {
    let (door, holder) = (Door::new(RULES), Holder::new());
    let mut claims = holder.cnf();
    claims["exp"] = json!(1);
    let expired = door.token(&claims);
    for proof in [None, Some("nonsense"), Some(&*holder.proof(&door, &expired, "1"))] {
        assert_eq!(door.show("DPoP", &expired, proof).await, Some(Reason::Expired), "{proof:?}");
        assert_eq!(door.show("DPoP", "nonsense", proof).await, Some(Reason::MalformedToken), "{proof:?}");
    }
}

#[tokio::test]
async fn policy_may_demand_that_tokens_are_bound() {
    let mut door = Door::new(RULES);
    let (holder, bearer) = (Holder::new(), door.token(&json!({})));
    let bound = door.token(&holder.cnf());
    let entry = policy(&door.key, RULES, AUDIENCE).replace(r#"shop"] }]"#, r#"shop"], binding: required }]"#);
    let rule = "[{ name: read, to: { paths: [/read] }, from: { binding: required } }]";
    for (text, reason) in
        [(entry, Reason::BindingMismatch), (policy(&door.key, rule, AUDIENCE), Reason::NoRule)]
    {
        door.active = door.armory.arm(snapshot_of(&text));
        assert_eq!(door.show("Bearer", &bearer, None).await, Some(reason), "{text}");
        let proof = holder.proof(&door, &bound, reason.as_str());
        assert_eq!(door.show("DPoP", &bound, Some(&proof)).await, None, "{text}");
    }
}

#[tokio::test]
async fn in_audit_mode_a_bad_proof_passes_and_is_told() {
    let (mut door, holder) = (Door::new(RULES), Holder::new());
    let audit =
        policy(&door.key, RULES, AUDIENCE).replace("spec:\n  tokens", "spec:\n  mode: audit\n  tokens");
    door.active = door.armory.arm(snapshot_of(&audit));
    let token = door.token(&holder.cnf());
    let proof = holder.proof(&door, &token, "1");
    let credential = format!("DPoP {token}");
    for (proof, reason) in
        [(&*proof, None), (&*proof, Some(Reason::ProofReplayed)), ("", Some(Reason::ProofInvalid))]
    {
        let fields = [("authorization", &*credential), ("dpop", proof)];
        let admission = door.ask_with("/read", &fields, None).await.unwrap();
        assert_eq!((admission.would_refuse, admission.token.is_none()), (reason, reason.is_some()));
    }
}

#[tokio::test]
async fn a_public_rule_uses_up_no_proof() {
    let mut door = Door::new(RULES);
    let holder = Holder::new();
    let token = door.token(&holder.cnf());
    let proof = holder.proof(&door, &token, "1");
    door.change("[{ name: open, public: true, to: { paths: [/read] } }]", AUDIENCE);
    assert_eq!(door.show("DPoP", &token, Some(&proof)).await, None);
    door.change(RULES, AUDIENCE);
    assert_eq!(door.show("DPoP", &token, Some(&proof)).await, None);
}

#[tokio::test]
async fn in_25_a_certificate_alone_lets_in_where_a_rule_says_so_and_a_token_must_be_good_even_so() {
    let door = Door::new(
        r#"[
          { name: peer, to: { paths: [/peer] }, from: { peers: ["spiffe://td/*"] } },
          { name: both, to: { paths: [/both] }, from: { peers: ["spiffe://td/*"], scopes: [orders] } },
          { name: open, public: true, to: { paths: [/open] } },
          { name: banned, effect: deny, from: { peers: ["spiffe://td/banned"] } },
        ]"#,
    );
    let peer = |id: Option<&str>| Peer { id: id.map(str::to_owned), thumbprint: [7; 32] };
    let (ours, banned, strange, unnamed) = (
        peer(Some("spiffe://td/a")),
        peer(Some("spiffe://td/banned")),
        peer(Some("spiffe://x/a")),
        peer(None),
    );
    let (good, expired) =
        (format!("Bearer {}", door.token(&json!({}))), format!("Bearer {}", door.token(&json!({"exp": 1}))));
    for (path, token, peer, expected) in [
        ("/peer", None, Some(&ours), None),
        ("/peer", Some(&good), Some(&ours), None),
        ("/peer", Some(&expired), Some(&ours), Some(Reason::Expired)),
        ("/peer", None, Some(&strange), Some(Reason::NoRule)),
        ("/peer", None, Some(&unnamed), Some(Reason::NoRule)),
        ("/peer", None, None, Some(Reason::PeerRequired)),
        ("/peer", Some(&good), None, Some(Reason::PeerRequired)),
        ("/peer", None, Some(&banned), Some(Reason::DeniedByRule)),
        ("/both", Some(&good), Some(&ours), None),
        ("/both", None, Some(&ours), Some(Reason::MissingToken)),
        ("/both", Some(&good), None, Some(Reason::PeerRequired)),
        ("/both", Some(&good), Some(&strange), Some(Reason::NoRule)),
        ("/open", None, Some(&unnamed), None),
        ("/open", None, Some(&banned), Some(Reason::DeniedByRule)),
    ] {
        let fields: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
        let admitted = door.ask_from(path, &fields, peer).await;
        assert_eq!(admitted.as_ref().err(), expected.as_ref(), "{path} {token:?} {peer:?}");
        if let Ok(admission) = admitted {
            assert_eq!(admission.anonymous, path == "/open");
        }
    }
}
