use countersign_policy::snapshot::KeySource;
use serde_json::json;

use super::*;
use crate::auth::testing::{TestKey, b64, issuer};

fn corp() -> Issuer {
    issuer("https://issuer.example", KeySource::Discovery)
}

fn set(keys: Vec<Value>) -> Result<KeySet, JwksError> {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), &corp())
}

fn with(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

/// The set lives, and the key is not in it.
fn assert_skipped(bad: Value) {
    let good = TestKey::ed25519().jwk("good");
    let set = set(vec![bad.clone(), good]).unwrap();
    assert_eq!(set.len(), 1, "{bad}");
    assert!(matches!(set.find(Some("good"), Algorithm::EdDSA), Lookup::Key(_)));
}

#[test]
fn v9_every_algorithm_verifies_with_its_own_key_alone() {
    let keys = [
        (TestKey::rsa(), vec!["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
        (TestKey::p256(), vec!["ES256"]),
        (TestKey::p384(), vec!["ES384"]),
        (TestKey::ed25519(), vec!["EdDSA"]),
    ];
    let set = set(keys.iter().enumerate().map(|(i, (key, _))| key.jwk(&i.to_string())).collect()).unwrap();
    for (i, (key, names)) in keys.iter().enumerate() {
        for algorithm in corp().algorithms {
            let name = format!("{algorithm:?}");
            let Lookup::Key(found) = set.find(Some(&i.to_string()), algorithm) else {
                assert!(!names.contains(&name.as_str()), "{name}");
                continue;
            };
            assert!(names.contains(&name.as_str()), "{name}");
            let mut signature = key.signature(&name, b"message");
            assert!(found.verify(algorithm, b"message", &signature), "{name}");
            assert!(!found.verify(algorithm, b"massage", &signature), "{name}");
            signature[7] ^= 1;
            assert!(!found.verify(algorithm, b"message", &signature), "{name}");
        }
    }
}

#[test]
fn v11_an_ecdsa_signature_is_r_and_s_of_exact_length() {
    let key = TestKey::p256();
    let set = set(vec![key.jwk("k")]).unwrap();
    let Lookup::Key(found) = set.find(Some("k"), Algorithm::ES256) else { panic!() };
    let signature = key.signature("ES256", b"m");
    assert_eq!(signature.len(), 64);
    assert!(found.verify(Algorithm::ES256, b"m", &signature));
    let longer = [&signature[..], &[0]].concat();
    let padded = [&[0], &signature[..32], &[0], &signature[32..]].concat();
    // The form of X.509: a SEQUENCE of two INTEGERs.
    let der = [&[0x30, 0x44, 2, 0x20], &signature[..32], &[2, 0x20], &signature[32..]].concat();
    for bad in [&signature[..63], &longer, &padded, &der, &[], &[0; 64]] {
        assert!(!found.verify(Algorithm::ES256, b"m", bad), "{} bytes", bad.len());
    }
}

#[test]
fn v11_in_5_weak_rsa_keys_are_skipped() {
    let good = TestKey::rsa().jwk("rsa");
    assert_eq!(set(vec![good.clone()]).unwrap().len(), 1);
    let modulus = |bits: usize| {
        let mut n = vec![0xff; bits.div_ceil(8)];
        n[0] >>= n.len() * 8 - bits;
        Value::from(b64(n))
    };
    for bits in [512, 1024, 2047, 8193, 16384] {
        assert_skipped(with(good.clone(), "n", modulus(bits)));
    }
    assert_eq!(set(vec![with(good.clone(), "n", modulus(2048))]).unwrap().len(), 1);
    // Zero bytes in front do not make it longer.
    let padded = [vec![0; 128], vec![0xff; 128]].concat();
    assert_skipped(with(good.clone(), "n", b64(padded).into()));
    let mut even = vec![0xff; 256];
    even[255] = 0xfe;
    assert_skipped(with(good.clone(), "n", b64(even).into()));
    for exponent in [&[1][..], &[2], &[1, 0, 0], &[0], &[0, 1], &[], &[0xff; 64]] {
        assert_skipped(with(good.clone(), "e", b64(exponent).into()));
    }
    assert_eq!(set(vec![with(good.clone(), "e", b64([3]).into())]).unwrap().len(), 1);
    for bad in ["", "AQAB=", "AQ AB", "!"] {
        assert_skipped(with(good.clone(), "e", bad.into()));
    }
}

#[test]
fn v11_in_5_points_off_the_curve_are_skipped() {
    for (key, size) in [(TestKey::p256(), 32), (TestKey::p384(), 48)] {
        let good = key.jwk("ec");
        assert_eq!(set(vec![good.clone()]).unwrap().len(), 1);
        for bad in
            [vec![0; size], vec![1; size], vec![0xff; size], vec![1; size - 1], vec![1; size + 1], vec![]]
        {
            assert_skipped(with(good.clone(), "y", b64(bad).into()));
        }
        assert_skipped(with(
            with(good.clone(), "x", b64(vec![0; size]).into()),
            "y",
            b64(vec![0; size]).into(),
        ));
        for curve in ["P-521", "secp256k1", "Ed25519", "p-256", ""] {
            assert_skipped(with(good.clone(), "crv", curve.into()));
        }
    }
    let p256 = TestKey::p256().jwk("ec");
    assert_skipped(with(p256, "crv", "P-384".into()));
}

#[test]
fn in_5_small_order_ed25519_keys_are_skipped() {
    let good = TestKey::ed25519().jwk("ed");
    let hex = |text: &str| -> Vec<u8> {
        (0..32).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
    };
    let top = |last: &str, fill: &str, first: &str| format!("{first}{}{last}", fill.repeat(30));
    for point in [
        top("00", "00", "00"),
        top("80", "00", "00"),
        top("00", "00", "01"),
        top("80", "00", "01"),
        top("7f", "ff", "ec"),
        top("ff", "ff", "ec"),
        top("7f", "ff", "ed"),
        top("7f", "ff", "ee"),
        top("ff", "ff", "ee"),
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05".to_owned(),
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85".to_owned(),
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a".to_owned(),
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa".to_owned(),
    ] {
        assert_skipped(with(good.clone(), "x", b64(hex(&point)).into()));
    }
    for length in [0, 31, 33, 57] {
        assert_skipped(with(good.clone(), "x", b64(vec![9; length]).into()));
    }
    assert_skipped(with(good.clone(), "crv", "X25519".into()));
    assert_skipped(with(good, "crv", "Ed448".into()));
}

/// What only looks like one of them is none: other people's keys are not to be skipped.
#[test]
fn in_5_no_other_point_is_taken_for_one_of_small_order() {
    let point = |first: u8, middle: u8, last: u8| [&[first][..], &[middle; 30], &[last]].concat();
    for small in [point(0, 0, 0), point(1, 0, 0x80), point(0xec, 0xff, 0x7f), point(0xff, 0xff, 0xff)] {
        assert!(is_small_order(&small), "{small:x?}");
    }
    for other in [
        point(2, 0, 0),
        point(0, 0, 1),
        point(1, 0, 0x40),
        point(0xeb, 0xff, 0x7f),
        point(0xff, 0xff, 0x7e),
        point(0, 0xff, 0x7f),
        point(0xff, 0, 0x7f),
        point(1, 0xff, 0),
    ] {
        assert!(!is_small_order(&other), "{other:x?}");
        let mut one_off = point(0, 0, 0);
        one_off[17] = other[0].max(1);
        assert!(!is_small_order(&one_off), "{one_off:x?}");
        let mut one_off = point(0xed, 0xff, 0x7f);
        one_off[17] = 0xfe;
        assert!(!is_small_order(&one_off), "{one_off:x?}");
    }
}

#[test]
fn v23_keys_that_are_not_for_this_are_skipped() {
    let good = TestKey::p256().jwk("k");
    for bad in [
        json!({"kty": "oct", "k": b64([7; 64]), "kid": "h", "alg": "HS256"}),
        json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}),
        json!({"kty": 1}),
        json!({"kty": "RSA"}),
        json!({}),
        json!(null),
        json!("key"),
        json!([]),
        with(good.clone(), "use", "enc".into()),
        with(good.clone(), "use", "SIG".into()),
        with(good.clone(), "use", json!(["sig"])),
        with(good.clone(), "key_ops", json!(["sign"])),
        with(good.clone(), "key_ops", json!([])),
        with(good.clone(), "key_ops", "verify".into()),
        with(good.clone(), "kid", json!(7)),
        with(good.clone(), "alg", "ES384".into()),
        with(good.clone(), "alg", "RS256".into()),
        with(good.clone(), "alg", "HS256".into()),
        with(good.clone(), "alg", "ECDH-ES".into()),
        with(good.clone(), "alg", json!(["ES256"])),
        with(good.clone(), "kty", "OKP".into()),
        with(good.clone(), "kty", "oct".into()),
    ] {
        assert_skipped(bad);
    }
    for fine in [
        with(good.clone(), "use", "sig".into()),
        with(good.clone(), "key_ops", json!(["verify"])),
        with(good.clone(), "key_ops", json!(["sign", "verify"])),
        with(good.clone(), "alg", "ES256".into()),
        with(good.clone(), "x5c", json!(["MIIB"])),
        with(good, "unknown", json!({"a": 1})),
    ] {
        assert_eq!(set(vec![fine.clone()]).unwrap().len(), 1, "{fine}");
    }
}

#[test]
fn in_3_the_alg_of_a_key_binds_it() {
    let key = TestKey::rsa();
    let bound = set(vec![with(key.jwk("k"), "alg", "PS256".into())]).unwrap();
    assert!(matches!(bound.find(Some("k"), Algorithm::PS256), Lookup::Key(_)));
    assert!(matches!(bound.find(Some("k"), Algorithm::RS256), Lookup::Unfit));
    // One key listed once per algorithm is one key.
    let listed = vec![with(key.jwk("k"), "alg", "PS256".into()), with(key.jwk("k"), "alg", "RS256".into())];
    let listed = set(listed).unwrap();
    assert_eq!(listed.len(), 1);
    for algorithm in [Algorithm::PS256, Algorithm::RS256] {
        assert!(matches!(listed.find(Some("k"), algorithm), Lookup::Key(_)));
    }
}

/// `Ed25519` says more exactly what `EdDSA` says (RFC 9864 §2.2); it is the name of nothing else.
#[test]
fn v9_v23_ed25519_is_eddsa_by_its_new_name() {
    let key = TestKey::ed25519();
    for name in ["EdDSA", "Ed25519"] {
        let set = set(vec![with(key.jwk("k"), "alg", name.into())]).unwrap();
        let Lookup::Key(found) = set.find(Some("k"), Algorithm::EdDSA) else { panic!("{name}") };
        assert!(found.verify(Algorithm::EdDSA, b"m", &key.signature("EdDSA", b"m")), "{name}");
        assert!(matches!(set.find(Some("k"), Algorithm::ES256), Lookup::Unfit), "{name}");
    }
    for name in ["Ed448", "ed25519", "EDDSA", "ES256", ""] {
        assert_skipped(with(key.jwk("k"), "alg", name.into()));
    }
    assert_skipped(with(TestKey::p256().jwk("k"), "alg", "Ed25519".into()));
    assert_skipped(with(TestKey::rsa().jwk("k"), "alg", "Ed25519".into()));
    // Listed under both names it is one key.
    let both = ["EdDSA", "Ed25519"].map(|name| with(key.jwk("k"), "alg", name.into()));
    let both = set(both.to_vec()).unwrap();
    assert_eq!(both.len(), 1);
    assert!(matches!(both.find(Some("k"), Algorithm::EdDSA), Lookup::Key(_)));
    // The issuer's `algorithms` bind it under either name.
    let mut issuer = corp();
    issuer.algorithms = vec![Algorithm::ES256];
    let keys = json!({"keys": [with(key.jwk("k"), "alg", "Ed25519".into())]});
    assert_eq!(KeySet::from_document(&keys, &issuer).unwrap_err(), JwksError::NoUsableKey);
}

#[test]
fn v9_the_issuers_algorithms_bind_its_keys() {
    let mut issuer = corp();
    issuer.algorithms = vec![Algorithm::ES256];
    let keys = json!({"keys": [TestKey::p256().jwk("ec"), TestKey::rsa().jwk("rsa")]});
    assert_eq!(KeySet::from_document(&keys, &issuer).unwrap().len(), 1);
}

#[test]
fn two_keys_that_fit_are_none() {
    let (a, b, ec) = (TestKey::ed25519(), TestKey::ed25519(), TestKey::p256());
    let same = set(vec![a.jwk("k"), b.jwk("k"), ec.jwk("k")]).unwrap();
    assert!(matches!(same.find(Some("k"), Algorithm::EdDSA), Lookup::Unfit));
    assert!(matches!(same.find(Some("k"), Algorithm::ES256), Lookup::Key(_)));
    assert!(matches!(same.find(Some("K"), Algorithm::ES256), Lookup::UnknownId));
    // Without an id: the only one that fits.
    assert!(matches!(same.find(None, Algorithm::ES256), Lookup::Key(_)));
    assert!(matches!(same.find(None, Algorithm::EdDSA), Lookup::Unfit));
    assert!(matches!(same.find(None, Algorithm::RS256), Lookup::Unfit));
}

#[test]
fn a_key_without_an_id_is_found_without_one_only() {
    let key = TestKey::ed25519();
    let mut jwk = key.jwk("");
    jwk.as_object_mut().unwrap().remove("kid");
    let set = set(vec![jwk]).unwrap();
    assert!(matches!(set.find(None, Algorithm::EdDSA), Lookup::Key(_)));
    assert!(matches!(set.find(Some(""), Algorithm::EdDSA), Lookup::UnknownId));
}

#[test]
fn in_12_what_is_no_key_set_or_too_large_is_refused() {
    let key = TestKey::ed25519();
    for bad in
        ["", "{}", "[]", "null", r#"{"keys":{}}"#, r#"{"keys":null}"#, "<html>", "{\"keys\":[]", "\u{0}"]
    {
        assert_eq!(KeySet::parse(bad.as_bytes(), &corp()).unwrap_err(), JwksError::NotAKeySet, "{bad}");
    }
    assert_eq!(set(vec![]).unwrap_err(), JwksError::NoUsableKey);
    assert_eq!(set(vec![json!({"kty": "oct", "k": "AAAA"})]).unwrap_err(), JwksError::NoUsableKey);
    assert_eq!(set((0..100).map(|i| key.jwk(&i.to_string())).collect()).unwrap().len(), 100);
    assert_eq!(set((0..101).map(|i| key.jwk(&i.to_string())).collect()).unwrap_err(), JwksError::TooManyKeys);
    let document = json!({"keys": [key.jwk("a")]}).to_string();
    let filled = |length: usize| format!("{document}{}", " ".repeat(length - document.len()));
    assert!(KeySet::parse(filled(1024 * 1024).as_bytes(), &corp()).is_ok());
    assert_eq!(KeySet::parse(filled(1024 * 1024 + 1).as_bytes(), &corp()).unwrap_err(), JwksError::TooLarge);
    let padded = format!("{{\"keys\":[]}}{}", " ".repeat(JWKS_LIMIT));
    assert_eq!(KeySet::parse(padded.as_bytes(), &corp()).unwrap_err(), JwksError::TooLarge);
}

#[test]
fn in_11_the_fingerprint_follows_keys_and_settings() {
    let (a, b) = (TestKey::ed25519(), TestKey::p256());
    let both = set(vec![a.jwk("a"), b.jwk("b")]).unwrap();
    let turned = set(vec![b.jwk("b"), a.jwk("a")]).unwrap();
    assert_eq!(both.fingerprint(), turned.fingerprint());
    let mut other_issuer = corp();
    other_issuer.fingerprint = [7; 32];
    let document = json!({"keys": [a.jwk("a"), b.jwk("b")]});
    let others = [
        set(vec![a.jwk("a")]).unwrap(),
        set(vec![a.jwk("a"), b.jwk("c")]).unwrap(),
        set(vec![a.jwk("b"), b.jwk("a")]).unwrap(),
        set(vec![a.jwk("a"), TestKey::p256().jwk("b")]).unwrap(),
        KeySet::from_document(&document, &other_issuer).unwrap(),
    ];
    for other in others {
        assert_ne!(both.fingerprint(), other.fingerprint());
    }
}
