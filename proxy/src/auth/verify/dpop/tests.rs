//! One good proof, and each of the checks broken once. Each is refused for that flaw and no other.

use serde_json::{Map, json};

use super::*;
use crate::auth::testing::{TestKey, b64};
use crate::auth::verify::jwt::algorithm_named;
use crate::rejection::PROOF_ALGORITHMS;

const NOW: i64 = 1_800_000_000;
const TOKEN: &str = "a.b.c";

/// A caller with its key, and the request that it makes.
struct Caller {
    key: TestKey,
    alg: &'static str,
    header: Value,
    claims: Value,
}

// === impl Caller ===

impl Caller {
    fn new(key: TestKey, alg: &'static str) -> Self {
        let mut jwk = key.jwk("a");
        jwk.as_object_mut().unwrap().remove("kid");
        let header = json!({"typ": "dpop+jwt", "alg": alg, "jwk": jwk});
        let claims = json!({
            "jti": "e1j3V_bKic8-LAEB", "htm": "GET", "htu": "http://orders.shop:8080/orders", "iat": NOW,
            "ath": hash(TOKEN),
        });
        Self { key, alg, header, claims }
    }

    fn p256() -> Self {
        Self::new(TestKey::p256(), "ES256")
    }

    /// RFC 7638 §3.3: the demanded members, in the order of their names, without white space.
    fn thumbprint(&self) -> String {
        let demanded = ["crv", "e", "kty", "n", "x", "y"];
        let all = self.key.jwk("a");
        let members: Map<String, Value> =
            demanded.iter().filter_map(|name| Some(((*name).to_owned(), all.get(name)?.clone()))).collect();
        hash(&Value::Object(members).to_string())
    }

    /// With a member of the header changed; `null` takes it away.
    fn header(mut self, name: &str, value: Value) -> Self {
        set(&mut self.header, name, value);
        self
    }

    fn claim(mut self, name: &str, value: Value) -> Self {
        set(&mut self.claims, name, value);
        self
    }

    fn proof(&self) -> String {
        self.key.sign_text(self.alg, &self.header.to_string(), &self.claims.to_string())
    }

    fn show(&self) -> Result<String, Flaw> {
        show(&self.proof(), &self.thumbprint())
    }

    fn flaw(&self) -> Option<Flaw> {
        self.show().err()
    }
}

fn set(object: &mut Value, name: &str, value: Value) {
    object[name] = value;
    object.as_object_mut().unwrap().retain(|_, value| !value.is_null());
}

/// `GET http://orders.shop:8080/orders` with a token that is bound to this key.
fn show(proof: &str, key: &str) -> Result<String, Flaw> {
    at("http", "orders.shop", Some(8080), "/orders", |target| check(proof, key, TOKEN, target, NOW))
}

fn at<T>(scheme: &str, host: &str, port: Option<u16>, path: &str, then: impl FnOnce(&Target<'_>) -> T) -> T {
    let path = &CanonicalPath::parse(path).unwrap();
    then(&Target { method: "GET", scheme, host, port, path })
}

/// A proof and a key that we did not make.
#[test]
fn v31_the_example_of_the_standard_is_good() {
    // RFC 9449 §7.1, figure 12, and its `jkt` in figure 8.
    let proof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
    let key = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    let token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
    let shown = |token, iat| {
        at("https", "resource.example.org", None, "/protectedresource", |target| {
            check(proof, key, token, target, iat)
        })
    };
    assert_eq!(shown(token, 1_562_262_618).as_deref(), Ok("e1j3V_bKic8-LAEB"));
    assert_eq!(shown(TOKEN, 1_562_262_618), Err(Flaw::TokenHash));
    assert_eq!(shown(token, NOW), Err(Flaw::Time));
}

#[test]
fn v31_every_algorithm_of_the_challenge_is_good() {
    let mut names = PROOF_ALGORITHMS.split(' ').collect::<Vec<_>>();
    let keys = [
        (TestKey::rsa as fn() -> TestKey, &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..]),
        (TestKey::p256, &["ES256"]),
        (TestKey::p384, &["ES384"]),
        (TestKey::ed25519, &["EdDSA", "Ed25519"]),
    ];
    for (key, algorithms) in keys {
        for alg in algorithms {
            assert_eq!(Caller::new(key(), alg).show().as_deref(), Ok("e1j3V_bKic8-LAEB"), "{alg}");
            assert!(algorithm_named(alg).is_ok());
            names.retain(|name| name != alg);
        }
    }
    assert!(names.is_empty(), "promised and not tried: {names:?}");
}

/// Check 2. (Check 1, one field, is made where headers are read.)
#[test]
fn v31_a_proof_is_one_well_formed_jwt() {
    let caller = Caller::p256();
    let (good, key) = (caller.proof(), caller.thumbprint());
    assert!(show(&good, &key).is_ok());
    for bad in [
        "",
        "a.b.c",
        &format!("{good},{good}"),
        &format!("{good}, {good}"),
        &format!("{good} "),
        &format!("{good}="),
        &format!("{good}.e30"),
        good.rsplit_once('.').unwrap().0,
    ] {
        assert_eq!(show(bad, &key), Err(Flaw::Malformed), "{bad}");
    }
    // Names that occur twice, in header, key and claims.
    let doubled = |header: &str, claims: &str| show(&caller.key.sign_text("ES256", header, claims), &key);
    let (header, claims) = (caller.header.to_string(), caller.claims.to_string());
    assert!(doubled(&header, &claims).is_ok());
    for (header, claims) in [
        (header.replacen('{', r#"{"alg":"ES256","#, 1), claims.clone()),
        (header.replacen(r#""jwk":{"#, r#""jwk":{"kty":"EC","#, 1), claims.clone()),
        (header.clone(), claims.replacen('{', r#"{"jti":"a","#, 1)),
    ] {
        assert_eq!(doubled(&header, &claims), Err(Flaw::Malformed), "{header} {claims}");
    }
    for (name, value) in [("crit", json!(["jwk"])), ("b64", json!(false)), ("zip", json!("DEF"))] {
        assert_eq!(Caller::p256().header(name, value).flaw(), Some(Flaw::Malformed), "{name}");
    }
}

/// Check 3.
#[test]
fn v31_every_demanded_claim_is_there_and_has_its_type() {
    for name in ["jti", "htm", "htu", "iat", "ath"] {
        for value in [json!(null), json!(true), json!([]), json!({}), json!([NOW]), json!("")] {
            assert_eq!(Caller::p256().claim(name, value.clone()).flaw(), Some(Flaw::Claim), "{name} {value}");
        }
    }
    assert_eq!(Caller::p256().claim("iat", json!(NOW.to_string())).flaw(), Some(Flaw::Claim));
    assert_eq!(Caller::p256().claim("jti", json!(7)).flaw(), Some(Flaw::Claim));
    // What is not ours to ask for.
    for (name, value) in [("nonce", json!("n")), ("exp", json!(1)), ("other", json!({}))] {
        assert_eq!(Caller::p256().claim(name, value).flaw(), None, "{name}");
    }
}

/// Check 4.
#[test]
fn v31_the_type_is_that_of_a_proof() {
    for typ in [json!(null), json!("JWT"), json!("at+jwt"), json!("jwt"), json!("DPoP"), json!("dpop+jwt ")] {
        assert_eq!(Caller::p256().header("typ", typ.clone()).flaw(), Some(Flaw::Type), "{typ}");
    }
}

/// Check 5.
#[test]
fn v31_v9_the_algorithm_is_asymmetric() {
    for alg in ["none", "HS256", "HS512", "ES512", "ES256K", "es256", ""] {
        assert_eq!(Caller::p256().header("alg", json!(alg)).flaw(), Some(Flaw::Algorithm), "{alg}");
    }
    // Of another key.
    for alg in ["RS256", "EdDSA", "ES384"] {
        assert_eq!(Caller::p256().header("alg", json!(alg)).flaw(), Some(Flaw::Key), "{alg}");
    }
}

/// Check 6.
#[test]
fn v31_the_signature_is_that_of_the_embedded_key() {
    let caller = Caller::p256();
    let (good, key) = (caller.proof(), caller.thumbprint());
    let (signed, _) = good.rsplit_once('.').unwrap();
    let forged = TestKey::p256().signature("ES256", signed.as_bytes());
    for signature in [b64(forged), b64([0; 64]), b64([]), b64([7; 63])] {
        assert_eq!(show(&format!("{signed}.{signature}"), &key), Err(Flaw::Signature), "{signature}");
    }
    let [_, claims, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let spaced = format!("{}.{claims}.{signature}", b64(format!(" {}", caller.header)));
    assert_eq!(show(&spaced, &key), Err(Flaw::Signature));
}

/// Check 7.
#[test]
fn v31_the_key_is_public() {
    for member in ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"] {
        let mut caller = Caller::p256();
        caller.header["jwk"][member] = json!("AA");
        assert_eq!(caller.flaw(), Some(Flaw::PrivateKey), "{member}");
    }
}

#[test]
fn v31_v13_the_key_is_in_the_header_and_nowhere_else() {
    for jwk in [json!(null), json!(1), json!("key"), json!([]), json!({})] {
        assert_eq!(Caller::p256().header("jwk", jwk.clone()).flaw(), Some(Flaw::Key), "{jwk}");
    }
    let mut symmetric = Caller::p256();
    symmetric.header["jwk"] = json!({"kty": "oct"});
    assert_eq!(symmetric.flaw(), Some(Flaw::Key));
    for (member, value) in
        [("use", json!("enc")), ("key_ops", json!(["sign"])), ("alg", json!("ES384")), ("x", json!("AA"))]
    {
        let mut caller = Caller::p256();
        caller.header["jwk"][member] = value;
        assert_eq!(caller.flaw(), Some(Flaw::Key), "{member}");
    }
    for (member, value) in
        [("use", json!("sig")), ("key_ops", json!(["verify"])), ("alg", json!("ES256")), ("kid", json!("k"))]
    {
        let mut caller = Caller::p256();
        caller.header["jwk"][member] = value;
        assert_eq!(caller.flaw(), None, "{member}");
    }
}

/// Check 8.
#[test]
fn v31_htm_is_the_method() {
    for htm in ["POST", "get", "HEAD", "GET "] {
        assert_eq!(Caller::p256().claim("htm", json!(htm)).flaw(), Some(Flaw::Method), "{htm}");
    }
}

/// Check 9.
#[test]
fn v31_htu_is_the_uri_in_normal_form() {
    let named = |htu: &str, scheme: &str, port, path: &str| {
        at(scheme, "orders.shop", port, path, |target| target.is_named_by(htu))
    };
    for (htu, scheme, port, path) in [
        ("http://orders.shop:8080/orders", "http", Some(8080), "/orders"),
        ("HTTP://Orders.SHOP:8080/orders", "http", Some(8080), "/orders"),
        ("http://orders.shop.:8080/orders", "http", Some(8080), "/orders"),
        ("http://orders.shop:8080/orders?a=b", "http", Some(8080), "/orders"),
        ("http://orders.shop:8080/orders#a", "http", Some(8080), "/orders"),
        ("http://orders.shop:8080/orders#a?b/c", "http", Some(8080), "/orders"),
        ("http://orders.shop/orders", "http", None, "/orders"),
        ("http://orders.shop:80/orders", "http", None, "/orders"),
        ("http://orders.shop/orders", "http", Some(80), "/orders"),
        ("https://orders.shop:443/orders", "https", None, "/orders"),
        ("http://orders.shop", "http", None, "/"),
        ("http://orders.shop?a=b", "http", None, "/"),
        ("http://orders.shop/a%c3%a4", "http", None, "/a%C3%A4"),
        ("http://orders.shop/%61b~", "http", None, "/ab%7e"),
    ] {
        assert!(named(htu, scheme, port, path), "{htu} is {scheme} {port:?} {path}");
    }
    for htu in [
        "https://orders.shop:8080/orders",
        "http://orders.shop/orders",
        "http://orders.shop:80/orders",
        "http://orders.shop:8081/orders",
        "http://orders.shop:08080/orders",
        "http://stock.shop:8080/orders",
        "http://orders.shop.evil.example:8080/orders",
        "http://evil.example/?http://orders.shop:8080/orders",
        "http://evil.example#@orders.shop:8080/orders",
        "http://user@orders.shop:8080/orders",
        "http://orders.shop:8080\\@evil.example/orders",
        "http://orders.shop:8080/orders/",
        "http://orders.shop:8080/Orders",
        "http://orders.shop:8080/orders/1",
        "http://orders.shop:8080/x/../orders",
        "http://orders.shop:8080//orders",
        "http://orders.shop:8080/%6frders%00",
        "http://orders.shop:8080",
        "//orders.shop:8080/orders",
        "/orders",
        "orders.shop:8080/orders",
        "http:/orders.shop:8080/orders",
        " http://orders.shop:8080/orders",
        "http://orders.shop:8080/orders ",
        "http://",
        "://",
    ] {
        assert_eq!(Caller::p256().claim("htu", json!(htu)).flaw(), Some(Flaw::Uri), "{htu}");
    }
}

/// Check 11. (Check 10 has no object: we hand out no nonces.)
#[test]
fn v31_iat_is_within_the_window() {
    for fine in [
        json!(NOW),
        json!(NOW - LIFE),
        json!(NOW + AHEAD),
        json!(1_799_999_940.5),
        json!(1_800_000_000.5),
        json!(1.8e9),
    ] {
        assert_eq!(Caller::p256().claim("iat", fine.clone()).flaw(), None, "{fine}");
    }
    for bad in [
        json!(NOW - LIFE - 1),
        json!(NOW + AHEAD + 1),
        json!(0),
        json!(-NOW),
        json!(i64::MAX),
        json!(NOW * 1000),
        json!(1_799_999_939.9),
    ] {
        assert_eq!(Caller::p256().claim("iat", bad.clone()).flaw(), Some(Flaw::Time), "{bad}");
    }
}

/// Check 12.
#[test]
fn v31_the_proof_is_for_this_token_and_this_key() {
    for ath in [hash("a.b.d"), format!("{}=", hash(TOKEN)), hash(TOKEN).to_lowercase(), TOKEN.to_owned()] {
        assert_eq!(Caller::p256().claim("ath", json!(ath)).flaw(), Some(Flaw::TokenHash), "{ath}");
    }
    let (mine, theirs) = (Caller::p256(), Caller::p256());
    assert_eq!(show(&mine.proof(), &theirs.thumbprint()), Err(Flaw::Key));
    assert_eq!(show(&mine.proof(), ""), Err(Flaw::Key));
    // The right key in the header, signed by the wrong one.
    let stolen = Caller { header: theirs.header.clone(), ..Caller::p256() };
    assert_eq!(show(&stolen.proof(), &theirs.thumbprint()), Err(Flaw::Signature));
}

#[test]
fn v31_in_5_a_weak_key_is_none() {
    let short = Caller::new(TestKey::rsa(), "RS256");
    let mut jwk = short.key.jwk("a");
    jwk.as_object_mut().unwrap().remove("kid");
    // Half of the modulus: a key of 1024 bits, whose thumbprint the token may well name.
    let n = jwk["n"].as_str().unwrap();
    jwk["n"] = json!(n[..n.len() / 2 - 1].to_owned());
    let key = hash(&json!({"e": jwk["e"], "kty": "RSA", "n": jwk["n"]}).to_string());
    assert_eq!(show(&short.header("jwk", jwk).proof(), &key), Err(Flaw::Key));
}
