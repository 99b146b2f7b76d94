//! What let a request in, asked again: by the policy, keys and time of now.

use super::*;
use crate::auth::enforce::Standing;

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
    door.review(ask, held).await.map_err(|refusal| refusal.reason)
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
