//! What let a request in, asked again: by the policy, keys and time of now.

use super::*;
use crate::auth::enforce::Standing;
use crate::rejection::Explained;

/// GET /read, with a bearer token.
async fn review(door: &Door, token: &str, held: Option<&Arc<Token>>) -> Result<Standing, Reason> {
    let credential = format!("Bearer {token}");
    review_with(door, &credential, held, None).await
}

async fn review_with(
    door: &Door,
    credential: &str,
    held: Option<&Arc<Token>>,
    certificate: Option<[u8; 32]>,
) -> Result<Standing, Reason> {
    review_fully(door, credential, held, certificate).await.map_err(|refusal| refusal.reason)
}

async fn review_fully(
    door: &Door,
    credential: &str,
    held: Option<&Arc<Token>>,
    certificate: Option<[u8; 32]>,
) -> Result<Standing, Refusal> {
    let peer = certificate.map(|thumbprint| Peer { id: None, thumbprint });
    let fields = [(http::header::AUTHORIZATION, HeaderValue::try_from(credential).unwrap())];
    let ask = Ask {
        method: "GET",
        path: &CanonicalPath::parse("/read").unwrap(),
        query: None,
        host: "orders.shop",
        port: None,
        grpc: false,
        headers: &fields.into_iter().collect(),
        source: Ipv4Addr::LOCALHOST.into(),
        scheme: "http",
        peer: peer.as_ref(),
    };
    let Door { active, verifier, last, services, .. } = door;
    let explainer = &Explainer::new(services.clock.clone());
    let port = active.snapshot.inbound(8080).unwrap();
    let door = super::super::Door { port, active, verifier, last, explainer };
    door.review(ask, held, false).await
}

/// A policy with this field on top.
fn granting(door: &mut Door, field: &str) {
    let text = policy(&door.key, RULES, AUDIENCE).replace("  rules:", &format!("  {field}\n  rules:"));
    door.active = door.armory.arm(snapshot_of(&text));
}

async fn held(door: &Door, token: &str) -> Option<Arc<Token>> {
    door.ask("/read", Some(token)).await.unwrap().token
}

#[tokio::test]
async fn what_still_holds_says_until_when() {
    let mut door = Door::new(RULES);
    let token = door.token(&json!({}));
    let held = held(&door, &token).await;
    let expires = held.as_ref().unwrap().expires_at;
    let counted = || door.active.decisions[0].get();
    let before = counted();
    // The leeway of an issuer is 30 s where policy says nothing.
    let standing = review(&door, &token, held.as_ref()).await.unwrap();
    assert_eq!(standing, Standing { until: Some(expires + 30), would_end: None });
    assert_eq!(counted(), before, "nobody asked for anything new");
    granting(&mut door, "expiredTokenGrace: 10m");
    assert_eq!(review(&door, &token, held.as_ref()).await.unwrap().until, Some(expires + 630));
}

#[tokio::test]
async fn a_token_that_expired_holds_for_its_grace_and_only_for_what_was_open() {
    let mut door = Door::new(RULES);
    let token = door.token(&json!({}));
    let held = held(&door, &token).await;
    door.services.clock.advance(Duration::from_secs(331));
    assert_eq!(review(&door, &token, held.as_ref()).await, Err(Reason::Expired));
    granting(&mut door, "expiredTokenGrace: 10m");
    assert!(review(&door, &token, held.as_ref()).await.is_ok());
    assert_eq!(door.reason("/read", &token).await, Some(Reason::Expired), "a new request");
    assert_eq!(
        review(&door, &token, None).await,
        Err(Reason::Expired),
        "nobody looked at it when it was good"
    );
    // Grace is about time alone.
    door.change("[{ name: read, to: { paths: [/read] }, from: { scopes: [other] } }]", AUDIENCE);
    assert_eq!(review(&door, &token, held.as_ref()).await, Err(Reason::InsufficientScope));
    granting(&mut door, "expiredTokenGrace: 10m");
    door.services.clock.advance(Duration::from_secs(600));
    assert_eq!(review(&door, &token, held.as_ref()).await, Err(Reason::Expired));
}

#[tokio::test]
async fn what_policy_and_keys_say_now_counts() {
    let mut door = Door::new(RULES);
    let token = door.token(&json!({}));
    let held = held(&door, &token).await;
    for (rules, audience, expected) in [
        ("[{ name: other, to: { paths: [/other] }, from: {} }]", AUDIENCE, Reason::NoRule),
        ("[{ name: no, effect: deny, from: { sources: [127.0.0.0/8] } }]", AUDIENCE, Reason::DeniedByRule),
        (RULES, "https://mail.shop", Reason::WrongAudience),
    ] {
        door.change(rules, audience);
        assert_eq!(review(&door, &token, held.as_ref()).await, Err(expected), "{rules}");
    }
    door.change("[{ name: all, public: true, to: { paths: [/*] } }]", AUDIENCE);
    assert_eq!(review(&door, &token, held.as_ref()).await.unwrap().until, None, "it rests on no token");
    door.change(RULES, AUDIENCE);
    assert!(review(&door, &token, held.as_ref()).await.is_ok());
    let other = policy(&TestKey::ed25519(), RULES, AUDIENCE);
    door.active = door.armory.arm(snapshot_of(&other));
    assert_eq!(review(&door, &token, held.as_ref()).await, Err(Reason::BadSignature), "its key is gone");
}

#[tokio::test]
async fn audit_mode_only_says_what_it_would_do() {
    let mut door = Door::new(RULES);
    let token = door.token(&json!({}));
    let held = held(&door, &token).await;
    granting(&mut door, "mode: audit");
    door.services.clock.advance(Duration::from_secs(331));
    let standing = review(&door, &token, held.as_ref()).await.unwrap();
    assert_eq!(standing, Standing { until: None, would_end: Some(Reason::Expired) });
}

/// The proof was for the moment of the request; that the certificate is still the connection's can be told.
#[tokio::test]
async fn v30_v32_what_is_bound_stays_bound_and_needs_no_second_proof() {
    let (door, holder) = (Door::new(RULES), Holder::new());
    let token = door.token(&holder.cnf());
    let credential = format!("DPoP {token}");
    let proven = Arc::new(Token { binding: Binding::Key(thumbprint(&holder)), ..sample(&door).await });
    assert!(review_with(&door, &credential, Some(&proven), None).await.is_ok());
    for unproven in [None, Some(Arc::new(sample(&door).await))] {
        let review = review_with(&door, &credential, unproven.as_ref(), None).await;
        assert_eq!(review, Err(Reason::BindingMismatch));
    }
    let token = door.token(&json!({"cnf": {"x5t#S256": b64([7; 32])}}));
    let credential = format!("Bearer {token}");
    assert!(review_with(&door, &credential, None, Some([7; 32])).await.is_ok());
    assert_eq!(review_with(&door, &credential, None, Some([8; 32])).await, Err(Reason::BindingMismatch));
}

fn thumbprint(holder: &Holder) -> String {
    holder.cnf()["cnf"]["jkt"].as_str().unwrap().to_owned()
}

async fn sample(door: &Door) -> Token {
    held(door, &door.token(&json!({}))).await.unwrap().as_ref().clone()
}

/// Shadow rules and audit policies decide nothing (semantics 6), and a rule about something else is not about this.
#[tokio::test]
async fn fields_that_are_gone_end_only_what_a_live_rule_may_be_about() {
    let mut door = Door::new(RULES);
    let token = door.token(&json!({}));
    let held = held(&door, &token).await;
    let read = &RULES[1..RULES.len() - 1];
    for (more, ends) in [
        ("shadow: true, effect: deny, to: { headers: { X-Debug: [\"on\"] } }", false),
        ("effect: deny, to: { paths: [/other/*], headers: { X-Debug: [\"on\"] } }", false),
        ("effect: deny, to: { methods: [POST] }, when: 'request.headers[\"x-debug\"] == \"on\"'", false),
        ("to: { hosts: [mail.shop], headers: { X-Debug: [\"on\"] } }, from: {}", false),
        ("effect: deny, to: { paths: [/read], headers: { X-Debug: [\"on\"] } }", true),
        ("effect: deny, to: { paths: [\"/{claims.sub}\"], headers: { X-Debug: [\"on\"] } }", true),
        ("effect: deny, when: 'request.headers[\"x-debug\"] == \"on\"'", true),
    ] {
        let rules = format!("[{read}, {{ name: more, {more} }}]");
        door.change(&rules, AUDIENCE);
        let standing = review(&door, &token, held.as_ref()).await;
        assert_eq!(standing.map(|_| ()), if ends { Err(Reason::NoRule) } else { Ok(()) }, "{more}");
        let audit = policy(&door.key, &rules, AUDIENCE).replace("  rules:", "  mode: audit\n  rules:");
        door.active = door.armory.arm(snapshot_of(&audit));
        let standing = review(&door, &token, held.as_ref()).await.unwrap();
        assert_eq!(standing.would_end, ends.then_some(Reason::NoRule), "{more}");
        let beside = audit.split("---").last().unwrap().replace("name: orders,", "name: audited,");
        let both = format!("{}---\n{beside}", policy(&door.key, RULES, AUDIENCE));
        door.active = door.armory.arm(snapshot_of(&both));
        assert!(review(&door, &token, held.as_ref()).await.is_ok(), "an audit policy beside: {more}");
    }
}

/// As for a new request (RFC 9449 §7.2), though nobody looked at the token when it came.
#[tokio::test]
async fn what_is_not_bound_was_shown_as_a_bearer_token() {
    let door = Door::new(RULES);
    let credential = format!("DPoP {}", door.token(&json!({})));
    assert_eq!(review_with(&door, &credential, None, None).await, Err(Reason::BindingMismatch));
    let bound = door.token(&json!({"cnf": {"x5t#S256": b64([7; 32])}}));
    let review = review_with(&door, &format!("DPoP {bound}"), None, Some([7; 32])).await;
    assert_eq!(review, Err(Reason::BindingMismatch));
}

#[tokio::test]
async fn within_the_grace_claims_are_read_by_the_profile_of_now() {
    let mut door = Door::new(RULES);
    let token = door.token(&json!({"scope": "other", "azp": "checkout"}));
    let stale = Arc::new(Token { scopes: vec!["orders".to_owned()], ..held_any(&door, &token).await });
    granting(&mut door, "expiredTokenGrace: 10m");
    door.services.clock.advance(Duration::from_secs(331));
    assert_eq!(
        review(&door, &token, Some(&stale)).await,
        Err(Reason::InsufficientScope),
        "what another profile made of it"
    );
}

/// What `forward` answers with where there is no answer yet.
#[tokio::test]
async fn what_does_not_hold_says_what_would_as_a_refusal_does() {
    let mut door = Door::new(RULES);
    let token = door.token(&json!({}));
    let held = held(&door, &token).await;
    door.change("[{ name: write, to: { paths: [/read] }, from: { scopes: [\"orders:write\"] } }]", AUDIENCE);
    let credential = format!("Bearer {token}");
    let refusal = review_fully(&door, &credential, held.as_ref(), None).await.unwrap_err();
    assert_eq!(
        (refusal.reason, refusal.scopes.as_slice()),
        (Reason::InsufficientScope, &["orders:write".to_owned()][..])
    );
    assert_eq!(
        refusal.rule.as_ref().map(|name| &*name.rule),
        Some("write"),
        "by name: the next snapshot numbers anew"
    );
    assert!(matches!(refusal.explained, Explained::Fully(_)));
    let bound = policy(&door.key, RULES, AUDIENCE).replace("audiences:", "binding: required, audiences:");
    door.active = door.armory.arm(snapshot_of(&bound));
    let refusal = review_fully(&door, &credential, held.as_ref(), None).await.unwrap_err();
    assert_eq!((refusal.reason, refusal.offers.dpop), (Reason::BindingMismatch, true));
    granting(&mut door, "expiredTokenGrace: 0s");
    door.services.clock.advance(Duration::from_secs(331));
    let refusal = review_fully(&door, &credential, held.as_ref(), None).await.unwrap_err();
    assert!(refusal.reason == Reason::Expired && matches!(refusal.explained, Explained::Fully(_)));
}

async fn held_any(door: &Door, token: &str) -> Token {
    let read = door.verifier.verify(
        &door.last,
        token,
        door.active.snapshot.inbound(8080).unwrap(),
        &door.active.snapshot.issuers,
        &door.active.keys,
    );
    read.await.unwrap().as_ref().clone()
}
