//! Tokens signed here, keys that stand in policy; and a stand-in for an issuer where keys have to change.

use std::time::Duration;

use aws_lc_rs::hmac;
use countersign_policy::Snapshot;
use countersign_policy::request::Binding;
use countersign_policy::snapshot::{Algorithm, KeySource};
use serde_json::{Value, json};

use super::*;
use crate::auth::issuers::{Issuers, Services};
use crate::auth::testing::{StandIn, TestKey, b64, compiled, eventually, issuer, services};

const ISS: &str = "https://issuer.example/realms/shop";

/// The inbound door, and everybody's connection.
struct Door {
    services: Services,
    verifier: Verifier,
    armory: Issuers,
    /// Of which the port is taken.
    accepting: Snapshot,
    issuers: Vec<Issuer>,
    keys: Vec<Arc<IssuerKeys>>,
    last: LastVerdict,
}

/// Policy that accepts the tokens of these issuers, in this order.
fn accepting(issuers: &[Issuer]) -> Snapshot {
    let (mut documents, mut tokens) = (String::new(), Vec::new());
    for (place, issuer) in issuers.iter().enumerate() {
        let spec = json!({"issuer": &*issuer.issuer, "insecure": true});
        documents += &document("Issuer", &format!("i{place}"), &spec);
        tokens.push(json!({"issuer": format!("i{place}"), "audiences": ["a"]}));
    }
    documents += &document("InboundPolicy", "all", &json!({"tokens": tokens}));
    let snapshot = compiled("default", &documents);
    assert!(snapshot.issuers.iter().map(|issuer| &issuer.issuer).eq(issuers.iter().map(|i| &i.issuer)));
    snapshot
}

fn document(kind: &str, name: &str, spec: &Value) -> String {
    let metadata = json!({"name": name});
    format!(
        "---\n{}\n",
        json!({"apiVersion": "countersign.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
    )
}

impl Door {
    fn new(issuers: Vec<Issuer>) -> Self {
        let services = services();
        let armory = Issuers::new(services.clone());
        let keys = armory.arm(&issuers);
        let verifier = Verifier::new(services.clock.clone(), services.metrics.clone());
        let accepting = accepting(&issuers);
        Self { services, verifier, armory, accepting, issuers, keys, last: LastVerdict::default() }
    }

    /// One issuer with these keys in policy.
    fn with_keys(keys: &[Value]) -> Self {
        Self::new(vec![issuer(ISS, KeySource::Inline(json!({ "keys": keys })))])
    }

    fn rearm(&mut self, issuers: Vec<Issuer>) {
        self.keys = self.armory.arm(&issuers);
        self.accepting = accepting(&issuers);
        self.issuers = issuers;
    }

    async fn verify_on(&self, last: &LastVerdict, token: &str) -> Result<Arc<Token>, Reason> {
        self.verifier.check(last, token, self.accepted()).await
    }

    fn accepted(&self) -> Accepted<'_> {
        let port = self.accepting.inbound(8080).unwrap();
        Accepted { port, issuers: &self.issuers, keys: &self.keys }
    }

    /// On a connection of its own.
    async fn verify(&self, token: &str) -> Result<Arc<Token>, Reason> {
        self.verify_on(&LastVerdict::default(), token).await
    }

    async fn reason(&self, token: &str) -> Option<Reason> {
        self.verify(token).await.err()
    }

    fn now(&self) -> i64 {
        self.services.clock.unix()
    }

    /// A token that is in order, but for these claims: `null` takes one away.
    fn claims(&self, changes: Value) -> Value {
        let now = self.now();
        let mut claims = json!({
            "iss": ISS, "aud": "https://orders.shop", "sub": "checkout", "client_id": "checkout", "jti": "1",
            "iat": now, "exp": now + 300, "scope": "orders:read orders:write",
        });
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(name).map(|_| ()),
                value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()).map(|_| ()),
            };
        }
        claims
    }

    fn count(&self, result: &str) -> u64 {
        self.services.metrics.verified_token_cache.with_label_values(&[result]).get()
    }
}

fn header(alg: &str, kid: &str) -> Value {
    json!({"alg": alg, "typ": "at+jwt", "kid": kid})
}

/// A door with one Ed25519 key `a`, the key, and how it signs claims.
fn ed25519() -> (Door, TestKey) {
    let key = TestKey::ed25519();
    (Door::with_keys(&[key.jwk("a")]), key)
}

async fn reason_of_claims(changes: Value) -> Option<Reason> {
    let (door, key) = ed25519();
    door.reason(&key.sign(&header("EdDSA", "a"), &door.claims(changes))).await
}

#[tokio::test]
async fn v21_every_algorithm_of_the_default_list_is_accepted() {
    let (rsa, p256, p384, ed) = (TestKey::rsa(), TestKey::p256(), TestKey::p384(), TestKey::ed25519());
    let mut named = ed.jwk("named");
    named["alg"] = "Ed25519".into();
    let door = Door::with_keys(&[rsa.jwk("rsa"), p256.jwk("p256"), p384.jwk("p384"), ed.jwk("ed"), named]);
    for (key, kid, algorithms) in [
        (&rsa, "rsa", &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..]),
        (&p256, "p256", &["ES256"]),
        (&p384, "p384", &["ES384"]),
        // Two names for one thing (RFC 9864 §2.2).
        (&ed, "ed", &["EdDSA", "Ed25519"]),
        (&ed, "named", &["EdDSA", "Ed25519"]),
    ] {
        for algorithm in algorithms {
            let token =
                door.verify(&key.sign(&header(algorithm, kid), &door.claims(json!({})))).await.unwrap();
            assert_eq!(token.client.as_deref(), Some("checkout"), "{algorithm}");
            assert_eq!(token.scopes, ["orders:read", "orders:write"]);
        }
    }
}

#[tokio::test]
async fn v21_what_jsonwebtoken_signs_is_accepted() {
    use aws_lc_rs::encoding::AsDer;
    let pair = aws_lc_rs::signature::RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let door = Door::with_keys(&[TestKey::Rsa(pair).jwk("k")]);
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256);
    header.typ = Some("at+jwt".to_owned());
    header.kid = Some("k".to_owned());
    let pem = jsonwebtoken::EncodingKey::from_rsa_pem(pem(der.as_ref()).as_bytes()).unwrap();
    let token = jsonwebtoken::encode(&header, &door.claims(json!({})), &pem).unwrap();
    assert!(door.verify(&token).await.is_ok());
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

#[tokio::test]
async fn v9_hmac_made_with_the_rsa_public_key_is_refused() {
    let rsa = TestKey::rsa();
    let TestKey::Rsa(pair) = &rsa else { unreachable!() };
    let public: &[u8] = aws_lc_rs::signature::KeyPair::public_key(pair).as_ref();
    let n = rsa.jwk("a")["n"].as_str().unwrap().to_owned();
    let door = Door::with_keys(&[rsa.jwk("a")]);
    for secret in [public, n.as_bytes(), b""] {
        for (name, algorithm) in [("HS256", hmac::HMAC_SHA256), ("HS512", hmac::HMAC_SHA512)] {
            let signed =
                format!("{}.{}", b64(header(name, "a").to_string()), b64(door.claims(json!({})).to_string()));
            let tag = hmac::sign(&hmac::Key::new(algorithm, secret), signed.as_bytes());
            let token = format!("{signed}.{}", b64(tag));
            assert_eq!(door.reason(&token).await, Some(Reason::UnsupportedAlgorithm));
        }
    }
}

#[tokio::test]
async fn v9_the_allow_list_is_the_issuers() {
    let (rsa, ed) = (TestKey::rsa(), TestKey::ed25519());
    let mut corp = issuer(ISS, KeySource::Inline(json!({"keys": [rsa.jwk("rsa"), ed.jwk("ed")]})));
    corp.algorithms = vec![Algorithm::PS256];
    let door = Door::new(vec![corp]);
    let sign = |key: &TestKey, alg: &str, kid: &str| key.sign(&header(alg, kid), &door.claims(json!({})));
    assert_eq!(door.reason(&sign(&rsa, "PS256", "rsa")).await, None);
    assert_eq!(door.reason(&sign(&rsa, "RS256", "rsa")).await, Some(Reason::UnsupportedAlgorithm));
    assert_eq!(door.reason(&sign(&ed, "EdDSA", "ed")).await, Some(Reason::UnsupportedAlgorithm));
}

#[tokio::test]
async fn v9_in_3_the_algorithm_has_to_fit_the_key() {
    let (rsa, p256) = (TestKey::rsa(), TestKey::p256());
    let door = Door::with_keys(&[rsa.jwk("rsa"), p256.jwk("p256")]);
    for (alg, kid) in [("ES256", "rsa"), ("EdDSA", "rsa"), ("RS256", "p256"), ("ES384", "p256")] {
        let token = p256.sign(&header(alg, kid), &door.claims(json!({})));
        assert_eq!(door.reason(&token).await, Some(Reason::UnknownKey), "{alg} with {kid}");
    }
    // The padding is part of the algorithm.
    let claims = door.claims(json!({})).to_string();
    let token = rsa.sign_text("PS256", &header("RS256", "rsa").to_string(), &claims);
    assert_eq!(door.reason(&token).await, Some(Reason::BadSignature));
}

#[tokio::test]
async fn v10_any_change_breaks_the_signature() {
    let (door, key) = ed25519();
    let good = key.sign(&header("EdDSA", "a"), &door.claims(json!({})));
    assert_eq!(door.reason(&good).await, None);
    let [head, _, signature]: [&str; 3] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let forged = b64(door.claims(json!({"client_id": "admin"})).to_string());
    assert_eq!(door.reason(&format!("{head}.{forged}.{signature}")).await, Some(Reason::BadSignature));
    // Other bytes that mean the same: a space in the header.
    let spaced = b64(format!(" {}", header("EdDSA", "a")));
    let (_, rest) = good.split_once('.').unwrap();
    assert_eq!(door.reason(&format!("{spaced}.{rest}")).await, Some(Reason::BadSignature));
    let other = TestKey::ed25519().sign(&header("EdDSA", "a"), &door.claims(json!({})));
    assert_eq!(door.reason(&other).await, Some(Reason::BadSignature));
    let unsigned = format!("{}.", good.rsplit_once('.').unwrap().0);
    assert_eq!(door.reason(&unsigned).await, Some(Reason::BadSignature));
}

#[tokio::test]
async fn v13_in_4_keys_in_the_header_are_never_used() {
    let (door, _) = ed25519();
    let mine = TestKey::ed25519();
    let server = StandIn::start(vec![mine.jwk("a")]).await;
    let url = format!("{}/jwks", server.url);
    for (name, value) in [
        ("jwk", mine.jwk("a")),
        ("jku", url.clone().into()),
        ("x5u", url.into()),
        ("x5c", json!(["MIIB"])),
        ("jwk", json!(1)),
    ] {
        for (kid, reason) in [("a", Reason::BadSignature), ("mine", Reason::UnknownKey)] {
            let mut head = header("EdDSA", kid);
            head[name] = value.clone();
            let token = mine.sign(&head, &door.claims(json!({})));
            assert_eq!(door.reason(&token).await, Some(reason), "{name}");
        }
    }
    assert_eq!(server.asked("/jwks"), 0);
}

#[tokio::test]
async fn v14_two_issuers_may_share_a_kid() {
    let (one, two) = (TestKey::ed25519(), TestKey::ed25519());
    let inline = |key: &TestKey| KeySource::Inline(json!({"keys": [key.jwk("shared")]}));
    let (a, b) = ("https://a.example", "https://b.example");
    let door = Door::new(vec![issuer(a, inline(&one)), issuer(b, inline(&two))]);
    let sign =
        |key: &TestKey, iss: &str| key.sign(&header("EdDSA", "shared"), &door.claims(json!({"iss": iss})));
    assert_eq!(&*door.verify(&sign(&one, a)).await.unwrap().issuer, a);
    assert_eq!(&*door.verify(&sign(&two, b)).await.unwrap().issuer, b);
    assert_eq!(door.reason(&sign(&one, b)).await, Some(Reason::BadSignature));
    assert_eq!(door.reason(&sign(&two, a)).await, Some(Reason::BadSignature));
}

#[tokio::test]
async fn v15_iss_is_the_exact_string() {
    for other in
        [format!("{ISS}/"), ISS.to_uppercase(), format!("{ISS} "), ISS[1..].to_owned(), String::new()]
    {
        assert_eq!(reason_of_claims(json!({"iss": other})).await, Some(Reason::UnknownIssuer), "{other}");
    }
    assert_eq!(reason_of_claims(json!({"iss": null})).await, Some(Reason::MissingClaim));
    assert_eq!(reason_of_claims(json!({"iss": [ISS]})).await, Some(Reason::MissingClaim));
}

#[tokio::test]
async fn v17_exp_is_demanded_and_in_the_future() {
    let (door, key) = ed25519();
    let exp = |exp: i64| key.sign(&header("EdDSA", "a"), &door.claims(json!({"exp": exp})));
    let now = door.now();
    assert_eq!(door.reason(&exp(now + 60)).await, None);
    // Within the leeway of 30 s.
    assert_eq!(door.reason(&exp(now - 25)).await, None);
    assert_eq!(door.reason(&exp(now - 30)).await, Some(Reason::Expired));
    assert_eq!(door.reason(&exp(0)).await, Some(Reason::Expired));
    for bad in
        [Value::Null, json!("9999999999"), json!(true), json!(-1), json!(1e15), json!(i64::MAX), json!([1])]
    {
        assert_eq!(reason_of_claims(json!({"exp": bad})).await, Some(Reason::MissingClaim), "{bad}");
    }
}

/// To the second (RFC 7519 §4.1.4, §4.1.5): `exp` and the leeway are over on their second, `nbf` has come on it.
#[test]
fn v17_v18_the_bounds_of_time() {
    const NOW: i64 = 1_800_000_000;
    let within = |exp: i64, nbf: i64, iat: i64| {
        let claims = json!({"iss": ISS, "aud": "a", "exp": exp, "nbf": nbf, "iat": iat});
        let token = Profile::Generic.token(&ISS.into(), claims.as_object().unwrap().clone()).unwrap();
        in_time(&token, Duration::from_secs(30), NOW).err()
    };
    assert_eq!(within(NOW - 29, NOW, NOW), None);
    assert_eq!(within(NOW - 30, NOW, NOW), Some(Reason::Expired));
    assert_eq!(within(NOW + 1, NOW + 30, NOW + 30), None);
    assert_eq!(within(NOW + 1, NOW + 31, NOW), Some(Reason::NotYetValid));
    assert_eq!(within(NOW + 1, NOW, NOW + 31), Some(Reason::NotYetValid));
}

#[tokio::test]
async fn in_11_a_verdict_is_void_on_the_second_at_which_it_ends() {
    let (door, _) = ed25519();
    let (_, tag) = door.keys[0].key(Some("a"), Algorithm::EdDSA).await.unwrap();
    let accepted = door.accepted();
    let until = door.now() + 10;
    let verdict = Verdict { issuer: ISS.into(), tag, until, outcome: Err(Reason::Expired) };
    assert!(accepted.holds(&verdict, until - 1));
    assert!(!accepted.holds(&verdict, until));
}

/// 16 KiB are a token, one byte more is none.
#[tokio::test]
async fn in_2_a_token_of_exactly_the_limit_is_verified() {
    let (door, key) = ed25519();
    // Base64 skips one length in four; another header makes up for it.
    let fitting = ["", "b", "bb"].into_iter().find_map(|pad| {
        let head = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "a", "pad": pad});
        (11_500..12_500)
            .map(|n| key.sign(&head, &door.claims(json!({"padding": "x".repeat(n)}))))
            .find(|token| token.len() == TOKEN_LIMIT)
    });
    let token = &fitting.expect("some length fits");
    assert_eq!(token.len(), 16 * 1024);
    assert_eq!(door.reason(token).await, None);
    assert_eq!(door.reason(&format!("{token}A")).await, Some(Reason::MalformedToken));
}

#[tokio::test]
async fn v18_nbf_and_iat_are_respected_and_may_be_fractional() {
    let now = services().clock.unix();
    let inexact = |at: i64| json!(serde_json::Number::from_f64(f64::from(i32::try_from(at).unwrap()) + 0.5));
    for name in ["nbf", "iat"] {
        for fine in [json!(now), json!(now - 3600), json!(now + 20), inexact(now - 1), inexact(now + 20)] {
            assert_eq!(reason_of_claims(json!({name: fine})).await, None, "{name} {fine}");
        }
        for early in [json!(now + 60), json!(now + 3600), inexact(now + 60)] {
            assert_eq!(
                reason_of_claims(json!({name: early})).await,
                Some(Reason::NotYetValid),
                "{name} {early}"
            );
        }
        for bad in [json!("1"), json!(false), json!([now]), json!(-5)] {
            assert_eq!(
                reason_of_claims(json!({name: bad})).await,
                Some(Reason::MissingClaim),
                "{name} {bad}"
            );
        }
    }
    assert_eq!(reason_of_claims(json!({"exp": inexact(now + 60)})).await, None);
}

#[tokio::test]
async fn v19_the_type_is_that_of_an_access_token() {
    let (door, key) = ed25519();
    for (typ, fine) in [
        (json!("at+jwt"), true),
        (json!("AT+JWT"), true),
        (json!("application/at+jwt"), true),
        (json!("JWT"), false),
        (json!(""), false),
        (json!("at+jwt "), false),
        (json!("dpop+jwt"), false),
        (json!("client-authentication+jwt"), false),
        (Value::Null, false),
    ] {
        let mut head = header("EdDSA", "a");
        match &typ {
            Value::Null => head.as_object_mut().unwrap().remove("typ").map(|_| ()),
            typ => head.as_object_mut().unwrap().insert("typ".to_owned(), typ.clone()).map(|_| ()),
        };
        let reason = door.reason(&key.sign(&head, &door.claims(json!({})))).await;
        assert_eq!(reason, (!fine).then_some(Reason::WrongType), "{typ}");
    }
}

#[tokio::test]
async fn v20_in_8_every_demanded_claim_is_there_and_has_its_type() {
    for name in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        for bad in [Value::Null, json!({}), json!(true)] {
            assert_eq!(
                reason_of_claims(json!({name: bad})).await,
                Some(Reason::MissingClaim),
                "{name} {bad}"
            );
        }
    }
    for (name, bad) in
        [("aud", json!([])), ("aud", json!(["a", 1])), ("aud", json!(1)), ("scope", json!(["a"]))]
    {
        assert_eq!(reason_of_claims(json!({name: bad})).await, Some(Reason::MissingClaim), "{name} {bad}");
    }
}

#[tokio::test]
async fn v12_in_6_duplicate_names_and_depth_and_range() {
    let (door, key) = ed25519();
    let claims = door.claims(json!({})).to_string();
    let head = header("EdDSA", "a").to_string();
    let with = |member: &str| key.sign_text("EdDSA", &head, &format!("{{{member},{}", &claims[1..]));
    assert_eq!(door.reason(&with(r#""x":{"y":[{"z":1}]}"#)).await, None);
    for bad in [
        r#""sub":"admin""#.to_owned(),
        r#""s\u0075b":"admin""#.to_owned(),
        r#""x":{"y":[{"z":1,"z":2}]}"#.to_owned(),
        format!(r#""x":{}{}"#, "[".repeat(32), "]".repeat(32)),
        r#""x":1e999"#.to_owned(),
        r#""x":99999999999999999999"#.to_owned(),
    ] {
        assert_eq!(door.reason(&with(&bad)).await, Some(Reason::MalformedToken), "{bad}");
    }
    let doubled = head.replacen('{', r#"{"kid":"b","#, 1);
    assert_eq!(door.reason(&key.sign_text("EdDSA", &doubled, &claims)).await, Some(Reason::MalformedToken));
}

#[tokio::test]
async fn v32_v30_what_a_token_is_bound_to_is_told_and_what_nobody_can_prove_refused() {
    let (door, key) = ed25519();
    let hash = b64([7; 32]);
    for (cnf, binding) in [
        (json!({"jkt": hash}), Binding::Key(hash.clone())),
        (json!({"x5t#S256": hash}), Binding::Certificate([7; 32])),
    ] {
        let token = key.sign(&header("EdDSA", "a"), &door.claims(json!({ "cnf": cnf })));
        for _ in 0..2 {
            assert_eq!(door.verify(&token).await.unwrap().binding, binding, "from the cache too");
        }
    }
    for cnf in [json!({"jwk": {}}), json!({}), json!({"jkt": hash, "x5t#S256": hash})] {
        assert_eq!(reason_of_claims(json!({"cnf": cnf})).await, Some(Reason::BindingMismatch), "{cnf}");
    }
    assert_eq!(reason_of_claims(json!({"cnf": "x"})).await, Some(Reason::MissingClaim));
}

#[tokio::test]
async fn v37_a_jwt_svid_need_not_name_its_issuer() {
    let (spire, corp) = (TestKey::p256(), TestKey::ed25519());
    let mut svid = issuer("https://spire.example", KeySource::Inline(json!({"keys": [spire.jwk("k")]})));
    svid.profile = Profile::JwtSvid;
    svid.fingerprint = [1; 32];
    let corp_issuer = issuer(ISS, KeySource::Inline(json!({"keys": [corp.jwk("k")]})));
    let mut door = Door::new(vec![corp_issuer.clone(), svid.clone()]);
    let claims = json!({"sub": "spiffe://shop/checkout", "aud": ["orders"], "exp": door.now() + 300});
    let token = spire.sign(&json!({"alg": "ES256", "kid": "k", "typ": "JWT"}), &claims);
    assert_eq!(&*door.verify(&token).await.unwrap().issuer, "https://spire.example");
    let foreign = corp.sign(&json!({"alg": "EdDSA", "kid": "k"}), &claims);
    assert_eq!(door.reason(&foreign).await, Some(Reason::UnknownKey));
    // Where no issuer of JWT-SVIDs is accepted, or two are, it is nobody's.
    door.rearm(vec![corp_issuer.clone()]);
    assert_eq!(door.reason(&token).await, Some(Reason::MissingClaim));
    let mut second = svid.clone();
    second.issuer = Arc::from("https://other-spire.example");
    second.fingerprint = [2; 32];
    door.rearm(vec![svid, second]);
    let fresh = spire.sign(&json!({"alg": "ES256", "kid": "k"}), &claims);
    assert_eq!(door.reason(&fresh).await, Some(Reason::UnknownIssuer));
    assert_eq!(door.reason(&token).await, Some(Reason::UnknownIssuer), "known from a port with one of them");
}

#[tokio::test]
async fn the_order_of_reasons() {
    let (door, key) = ed25519();
    let expired = json!({"exp": 1, "iss": "https://other.example", "jti": null});
    let head = |alg: &str, kid: &str, typ: &str| json!({"alg": alg, "kid": kid, "typ": typ});
    let forger = TestKey::ed25519();
    for (token, reason) in [
        (forger.sign_text("EdDSA", r#"{"alg":"none"}"#, "[]"), Reason::MalformedToken),
        (forger.sign(&head("none", "b", "x"), &door.claims(expired.clone())), Reason::UnsupportedAlgorithm),
        (forger.sign(&head("EdDSA", "b", "x"), &door.claims(expired)), Reason::UnknownIssuer),
        (forger.sign(&head("EdDSA", "b", "x"), &door.claims(json!({"exp": 1}))), Reason::UnknownKey),
        (forger.sign(&head("EdDSA", "a", "x"), &door.claims(json!({"exp": 1}))), Reason::BadSignature),
        (key.sign(&head("EdDSA", "a", "x"), &door.claims(json!({"exp": 1, "jti": null}))), Reason::WrongType),
        (
            key.sign(&head("EdDSA", "a", "at+jwt"), &door.claims(json!({"exp": 1, "jti": null}))),
            Reason::MissingClaim,
        ),
        (key.sign(&head("EdDSA", "a", "at+jwt"), &door.claims(json!({"exp": 1}))), Reason::Expired),
    ] {
        assert_eq!(door.reason(&token).await, Some(reason));
    }
}

#[tokio::test]
async fn in_1_no_keys_are_our_fault_and_refuse() {
    let key = TestKey::ed25519();
    let door = Door::with_keys(&[]);
    let token = key.sign(&header("EdDSA", "a"), &door.claims(json!({})));
    assert_eq!(door.reason(&token).await, Some(Reason::KeysUnavailable));
    let nobody = Door::new(vec![]);
    assert_eq!(nobody.reason(&token).await, Some(Reason::UnknownIssuer));
}

#[tokio::test]
async fn in_11_a_token_is_verified_once() {
    let (door, key) = ed25519();
    let token = key.sign(&header("EdDSA", "a"), &door.claims(json!({})));
    let counts = |door: &Door| ["miss", "hit", "connection", "negative"].map(|result| door.count(result));
    assert!(door.verify_on(&door.last, &token).await.is_ok());
    assert_eq!(counts(&door), [1, 0, 0, 0]);
    assert!(door.verify_on(&door.last, &token).await.is_ok());
    assert_eq!(counts(&door), [1, 0, 1, 0]);
    let other_connection = LastVerdict::default();
    for _ in 0..2 {
        assert!(door.verify_on(&other_connection, &token).await.is_ok());
    }
    assert_eq!(counts(&door), [1, 1, 2, 0]);
    let second = key.sign(&header("EdDSA", "a"), &door.claims(json!({"jti": "2"})));
    let verified = door.verify_on(&door.last, &second).await.unwrap();
    assert_eq!(verified.claims["jti"], "2");
    assert_eq!(door.verify_on(&door.last, &token).await.unwrap().claims["jti"], "1");
    assert_eq!(counts(&door), [2, 2, 2, 0]);
    assert_eq!(door.services.metrics.auth_duration.with_label_values(&["verify"]).get_sample_count(), 2);
}

#[tokio::test]
async fn in_11_exp_is_checked_at_each_hit() {
    let (door, key) = ed25519();
    let token = key.sign(&header("EdDSA", "a"), &door.claims(json!({"exp": door.now() + 60})));
    let other_connection = LastVerdict::default();
    assert!(door.verify_on(&door.last, &token).await.is_ok());
    door.services.clock.advance(Duration::from_secs(59));
    assert!(door.verify_on(&door.last, &token).await.is_ok());
    assert_eq!(door.count("miss"), 1);
    door.services.clock.advance(Duration::from_secs(32));
    assert_eq!(door.verify_on(&door.last, &token).await.err(), Some(Reason::Expired));
    assert_eq!(door.verify_on(&other_connection, &token).await.err(), Some(Reason::Expired));
}

#[tokio::test]
async fn in_11_a_verdict_lives_ten_minutes_at_most() {
    let (door, key) = ed25519();
    let token = key.sign(&header("EdDSA", "a"), &door.claims(json!({"exp": door.now() + 86_400})));
    assert!(door.verify_on(&door.last, &token).await.is_ok());
    door.services.clock.advance(Duration::from_secs(599));
    assert!(door.verify_on(&door.last, &token).await.is_ok());
    assert_eq!(door.count("miss"), 1);
    door.services.clock.advance(Duration::from_secs(2));
    assert!(door.verify_on(&door.last, &token).await.is_ok());
    assert_eq!(door.count("miss"), 2);
}

#[tokio::test]
async fn in_11_a_removed_key_kills_its_verdicts_at_once() {
    let (old, new) = (TestKey::ed25519(), TestKey::ed25519());
    let server = StandIn::start(vec![old.jwk("old"), new.jwk("new")]).await;
    let door = Door::new(vec![issuer(&server.url, KeySource::Discovery)]);
    let sign =
        |key: &TestKey, kid: &str| key.sign(&header("EdDSA", kid), &door.claims(json!({"iss": server.url})));
    let token = sign(&old, "old");
    assert!(door.verify_on(&door.last, &token).await.is_ok());
    // Rotation: the issuer publishes others, and a token with one of them brings the news.
    server.publish(vec![new.jwk("new"), TestKey::ed25519().jwk("newest")]);
    let unknown =
        TestKey::ed25519().sign(&header("EdDSA", "newest"), &door.claims(json!({"iss": server.url})));
    assert_eq!(door.reason(&unknown).await, Some(Reason::BadSignature));
    assert_eq!(door.verify_on(&door.last, &token).await.err(), Some(Reason::UnknownKey));
    assert_eq!(door.reason(&token).await, Some(Reason::UnknownKey));
    assert!(door.verify(&sign(&new, "new")).await.is_ok());
}

#[tokio::test]
async fn in_11_a_verdict_is_void_where_its_issuer_or_settings_are_not_in_force() {
    let (mut door, key) = ed25519();
    let token = key.sign(&header("EdDSA", "a"), &door.claims(json!({})));
    assert!(door.verify_on(&door.last, &token).await.is_ok());
    let strict =
        Issuer { algorithms: vec![Algorithm::RS256], fingerprint: [3; 32], ..door.issuers[0].clone() };
    let same = door.issuers.clone();
    door.rearm(vec![strict]);
    assert_eq!(door.verify_on(&door.last, &token).await.err(), Some(Reason::UnsupportedAlgorithm));
    door.rearm(vec![]);
    assert_eq!(door.verify_on(&door.last, &token).await.err(), Some(Reason::UnknownIssuer));
    // An edit elsewhere invalidates nothing.
    let other = issuer("https://other.example", KeySource::Inline(json!({"keys": [key.jwk("a")]})));
    door.rearm([vec![other], same].concat());
    let misses = door.count("miss");
    assert!(door.verify_on(&door.last, &token).await.is_ok());
    assert_eq!(door.count("miss"), misses);
}

#[tokio::test]
async fn a_flood_of_one_bad_token_costs_one_signature_check() {
    let (door, _) = ed25519();
    let token = TestKey::ed25519().sign(&header("EdDSA", "a"), &door.claims(json!({})));
    for _ in 0..100 {
        assert_eq!(door.reason(&token).await, Some(Reason::BadSignature));
    }
    assert_eq!((door.count("miss"), door.count("negative")), (1, 99));
    door.services.clock.advance(Duration::from_secs(31));
    assert_eq!(door.reason(&token).await, Some(Reason::BadSignature));
    assert_eq!(door.count("miss"), 2);
}

#[tokio::test]
async fn a_refusal_that_may_pass_is_not_remembered() {
    let (door, key) = ed25519();
    let early = key.sign(&header("EdDSA", "a"), &door.claims(json!({"nbf": door.now() + 40})));
    assert_eq!(door.reason(&early).await, Some(Reason::NotYetValid));
    door.services.clock.advance(Duration::from_secs(11));
    assert_eq!(door.reason(&early).await, None);

    // A bad signature is bad under this key set alone.
    let (first, second) = (TestKey::ed25519(), TestKey::ed25519());
    let server = StandIn::start(vec![first.jwk("k")]).await;
    let door = Door::new(vec![issuer(&server.url, KeySource::Discovery)]);
    let token = second.sign(&header("EdDSA", "k"), &door.claims(json!({"iss": server.url})));
    assert_eq!(door.reason(&token).await, Some(Reason::BadSignature));
    server.publish(vec![second.jwk("k")]);
    let unknown = second.sign(&header("EdDSA", "unknown"), &door.claims(json!({"iss": server.url})));
    assert_eq!(door.reason(&unknown).await, Some(Reason::UnknownKey));
    assert_eq!(door.reason(&token).await, None);
}

#[tokio::test]
async fn in_13_a_thousand_tokens_with_random_kids_are_one_fetch() {
    let key = TestKey::ed25519();
    let server = StandIn::start(vec![key.jwk("a")]).await;
    let door = Arc::new(Door::new(vec![issuer(&server.url, KeySource::Discovery)]));
    let claims = door.claims(json!({"iss": server.url}));
    assert_eq!(door.reason(&key.sign(&header("EdDSA", "a"), &claims)).await, None);
    let mut asking = tokio::task::JoinSet::new();
    for i in 0..1000 {
        let token = key.sign(&header("EdDSA", &format!("random {i}")), &claims);
        let door = door.clone();
        asking.spawn(async move { door.reason(&token).await });
    }
    assert!(asking.join_all().await.iter().all(|reason| *reason == Some(Reason::UnknownKey)));
    assert_eq!(server.asked("/jwks"), 2);
}

#[tokio::test]
async fn an_outage_of_the_issuer_is_never_the_callers_fault() {
    let key = TestKey::ed25519();
    let server = StandIn::start(vec![key.jwk("a")]).await;
    server.down(true);
    let door = Door::new(vec![issuer(&server.url, KeySource::Discovery)]);
    let token = key.sign(&header("EdDSA", "a"), &door.claims(json!({"iss": server.url})));
    assert_eq!(door.reason(&token).await, Some(Reason::KeysUnavailable));
    server.down(false);
    eventually("keys", || door.keys[0].is_ready()).await;
    assert_eq!(door.reason(&token).await, None);
}
