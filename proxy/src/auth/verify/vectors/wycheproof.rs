//! Project Wycheproof: thousands of signatures that implementations got wrong before. What is invalid there is refused here;
//! what is valid there is accepted with the algorithm that has its parameters, and with no other.

use std::collections::BTreeSet;

use countersign_policy::snapshot::{Algorithm, KeySource};
use serde_json::{Value, json};
use wycheproof::{EllipticCurve, HashFunction, TestResult, ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify};

use crate::auth::issuers::jwks::{KeySet, Lookup};
use crate::auth::testing::{b64, issuer};

const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// How many vectors were accepted and refused, each with every algorithm of its kind.
#[derive(Debug, Default)]
struct Tally {
    accepted: usize,
    refused: usize,
    /// Of vectors that are invalid in their group for parameters that are right for another algorithm: what they say.
    crossed: BTreeSet<String>,
}

impl Tally {
    /// `own`: the algorithm is the one with the parameters of the group, and the vector is valid with them.
    fn count(&mut self, (own, valid): (bool, bool), accepted: bool, comment: &str) {
        match (own, valid) {
            (true, _) => assert_eq!(accepted, valid, "{comment}"),
            (false, true) => assert!(!accepted, "{comment}"),
            (false, false) if accepted => {
                self.crossed.insert(comment.split(" instead of ").next().unwrap_or_default().to_owned());
            }
            (false, false) => {}
        }
        if accepted { self.accepted += 1 } else { self.refused += 1 }
    }

    /// The version of the crate is locked, so that a set which is missing is seen.
    fn assert(&self, accepted: usize, refused: usize, crossed: &[&str]) {
        assert_eq!(self.crossed.iter().map(String::as_str).collect::<Vec<_>>(), crossed);
        assert_eq!((self.accepted, self.refused), (accepted, refused));
    }
}

fn set(jwk: Value) -> Option<KeySet> {
    let issuer = issuer("https://issuer.example", KeySource::Discovery);
    KeySet::from_document(&json!({ "keys": [jwk] }), &issuer).ok()
}

/// Is this a signature of the message by this key, as we see it? A key that we skip signs nothing.
fn accepts(set: Option<&KeySet>, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
    let Some(set) = set else { return false };
    let Lookup::Key(key) = set.find(None, algorithm) else { return false };
    key.verify(algorithm, message, signature)
}

/// The algorithm that signs with this padding and hash, if JWS has one that policy may name.
fn rsa_algorithm(hash: HashFunction, pss: bool) -> Option<Algorithm> {
    Some(match (hash, pss) {
        (HashFunction::Sha2_256, false) => Algorithm::RS256,
        (HashFunction::Sha2_384, false) => Algorithm::RS384,
        (HashFunction::Sha2_512, false) => Algorithm::RS512,
        (HashFunction::Sha2_256, true) => Algorithm::PS256,
        (HashFunction::Sha2_384, true) => Algorithm::PS384,
        (HashFunction::Sha2_512, true) => Algorithm::PS512,
        _ => return None,
    })
}

#[test]
fn v9_v11_in_3_pkcs1_signatures() {
    let mut tally = Tally::default();
    for name in rsa_pkcs1_verify::TestName::all() {
        for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
            let set = set(json!({"kty": "RSA", "n": b64(&*group.key.n), "e": b64(&*group.key.e)}));
            let own = rsa_algorithm(group.hash, false);
            for test in &group.tests {
                for algorithm in RSA {
                    let accepted = accepts(set.as_ref(), algorithm, &test.msg, &test.sig);
                    // `acceptable` is a DigestInfo without its NULL, which RFC 8017 §9.2 wants: refused.
                    let valid = test.result == TestResult::Valid;
                    tally.count((own == Some(algorithm), valid), accepted, &test.comment);
                }
            }
        }
    }
    let crossed = [
        // PS256, in the sets of salts of 32 bytes.
        "RSASSA-PSS signature",
        "The message is hashed with SHA-256",
        "The message is hashed with SHA-384",
        "The message is hashed with SHA-512",
    ];
    tally.assert(161, 37_051, &crossed);
}

#[test]
fn v9_v11_in_3_pss_signatures() {
    let mut tally = Tally::default();
    for name in rsa_pss_verify::TestName::all() {
        for group in rsa_pss_verify::TestSet::load(name).unwrap().test_groups {
            let set = set(json!({"kty": "RSA", "n": b64(&*group.key.n), "e": b64(&*group.key.e)}));
            let own = rsa_algorithm(group.hash, true).filter(|algorithm| {
                // PS256 is MGF1 with SHA-256 and a salt of 32 bytes, and so on (RFC 7518 §3.5): no other parameters exist.
                group.mgf_hash == Some(group.hash) && group.salt_size == digest_size(*algorithm)
            });
            for test in &group.tests {
                for algorithm in RSA {
                    let accepted = accepts(set.as_ref(), algorithm, &test.msg, &test.sig);
                    let valid = test.result == TestResult::Valid;
                    tally.count((own == Some(algorithm), valid), accepted, &test.comment);
                }
            }
        }
    }
    let crossed = [
        "PKCS #1 v1.5 signature with SHA-256",
        "PKCS #1 v1.5 signature with SHA-384",
        "PKCS #1 v1.5 signature with SHA-512",
        // PS256 in the sets of other salts.
        "s_len changed to 32",
    ];
    tally.assert(808, 20_174, &crossed);
}

fn digest_size(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::PS256 => 32,
        Algorithm::PS384 => 48,
        _ => 64,
    }
}

#[test]
fn v9_v11_in_3_in_5_ecdsa_signatures() {
    let mut tally = Tally::default();
    for name in ecdsa::TestName::all() {
        for group in ecdsa::TestSet::load(name).unwrap().test_groups {
            let (crv, own, size) = match group.key.curve {
                EllipticCurve::Secp256r1 => ("P-256", Algorithm::ES256, 32),
                EllipticCurve::Secp384r1 => ("P-384", Algorithm::ES384, 48),
                // ES512 and ES256K are not among the algorithms of policy, the others are no curves of JWS.
                EllipticCurve::Secp521r1 => ("P-521", Algorithm::ES384, 66),
                EllipticCurve::Secp256k1 => ("secp256k1", Algorithm::ES256, 32),
                _ => continue,
            };
            let (x, y) = group.key.key[1..].split_at(size);
            let set = set(json!({"kty": "EC", "crv": crv, "x": b64(x), "y": b64(y)}));
            let hash = if own == Algorithm::ES256 { HashFunction::Sha2_256 } else { HashFunction::Sha2_384 };
            // R and S side by side; a DER SEQUENCE of them is no signature of JWS, however valid (RFC 7518 §3.4).
            let jws =
                group.test_type == ecdsa::TestGroupTypeId::EcdsaP1363 && matches!(crv, "P-256" | "P-384");
            for test in &group.tests {
                for algorithm in [Algorithm::ES256, Algorithm::ES384] {
                    let accepted = accepts(set.as_ref(), algorithm, &test.msg, &test.sig);
                    let fits = jws && algorithm == own && group.hash == hash;
                    tally.count((fits, test.result == TestResult::Valid), accepted, &test.comment);
                }
            }
        }
    }
    tally.assert(366, 28_244, &[]);
}

#[test]
fn v9_v11_in_3_in_5_ed25519_signatures() {
    let mut tally = Tally::default();
    for name in eddsa::TestName::all() {
        for group in eddsa::TestSet::load(name).unwrap().test_groups {
            // Ed448 is not among the algorithms of policy.
            let (crv, ours) = match name {
                eddsa::TestName::Ed25519 => ("Ed25519", true),
                eddsa::TestName::Ed448 => ("Ed448", false),
            };
            let set = set(json!({"kty": "OKP", "crv": crv, "x": b64(&*group.key.pk)}));
            for test in &group.tests {
                let accepted = accepts(set.as_ref(), Algorithm::EdDSA, &test.msg, &test.sig);
                tally.count((ours, test.result == TestResult::Valid), accepted, &test.comment);
            }
        }
    }
    tally.assert(88, 150, &[]);
}
