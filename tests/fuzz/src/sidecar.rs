//! With what does a target verify? The verifier of the sidecar, an issuer per profile, and keys that never change.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use countersign_policy::snapshot::{Issuer, KeySource};
use countersign_policy::{Documents, Reason, Snapshot, Token, Workload, source};
use countersign_proxy::auth::issuers::{IssuerKeys, Issuers, Services};
use countersign_proxy::auth::verify::{LastVerdict, Verifier};
use countersign_proxy::clock::Clock;
use countersign_proxy::connect::Connector;
use countersign_proxy::fetch::Fetcher;
use countersign_proxy::metrics::Metrics;
use countersign_proxy::names::Names;
use countersign_proxy::state::files::PolicyFiles;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Handle, Runtime};

/// The port of the application.
pub(crate) const PORT: u16 = 8080;
/// The profiles, each of which is the last word of its issuer's identifier too.
pub(crate) const PROFILES: [&str; 7] =
    ["rfc9068", "generic", "keycloak", "entra", "cognito", "kubernetes", "jwt-svid"];

/// All that verifying takes.
pub(crate) struct Sidecar {
    pub(crate) ed25519: Ed25519KeyPair,
    pub(crate) p256: EcdsaKeyPair,
    pub(crate) snapshot: Snapshot,
    keys: Vec<Arc<IssuerKeys>>,
    verifier: Verifier,
    services: Services,
    runtime: Runtime,
}

pub(crate) static SIDECAR: LazyLock<Sidecar> = LazyLock::new(Sidecar::new);

// === impl Sidecar ===

impl Sidecar {
    fn new() -> Self {
        let ed25519 = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let snapshot = snapshot(&json!({"keys": [ed25519_jwk(&ed25519), p256_jwk(&p256)]}));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let metrics = Metrics::new().expect("a registry");
        let names = Names::system(runtime.handle().clone(), metrics.clone()).expect("a resolver");
        let services = services(Connector::new(names), metrics, runtime.handle());
        let keys = Issuers::new(services.clone()).arm(&snapshot.issuers);
        let verifier = Verifier::new(services.clock.clone(), services.metrics.clone());
        Self { ed25519, p256, snapshot, keys, verifier, services, runtime }
    }

    /// What the sidecar says to a token on a connection of its own.
    pub(crate) fn verify(&self, token: &str) -> Result<Arc<Token>, Reason> {
        self.verify_with(token, &self.snapshot.issuers, &self.keys)
    }

    /// The same, had the first issuer published this key set; and whether any key of it can be used.
    pub(crate) fn verify_under(&self, token: &str, key_set: Value) -> (bool, Result<Arc<Token>, Reason>) {
        let mut issuers = self.snapshot.issuers.clone();
        for issuer in &mut issuers {
            issuer.jwks = KeySource::Inline(json!({}));
        }
        let first = issuers.first_mut().expect("there is one for each profile");
        first.jwks = KeySource::Inline(key_set);
        let keys = Issuers::new(self.services.clone()).arm(&issuers);
        let usable = keys.first().is_some_and(|keys| keys.is_ready());
        (usable, self.verify_with(token, &issuers, &keys))
    }

    fn verify_with(
        &self,
        token: &str,
        issuers: &[Issuer],
        keys: &[Arc<IssuerKeys>],
    ) -> Result<Arc<Token>, Reason> {
        let port = self.snapshot.inbound(PORT).expect("the policy selects the port");
        self.runtime.block_on(self.verifier.verify(&LastVerdict::default(), token, port, issuers, keys))
    }

    /// A token of exactly these bytes as header and claims, rightly signed.
    pub(crate) fn sign(&self, header: &[u8], claims: &[u8], with_p256: bool) -> String {
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = if with_p256 {
            let signature = self.p256.sign(&SystemRandom::new(), signed.as_bytes());
            encode(signature.expect("P-256 signs").as_ref())
        } else {
            encode(self.ed25519.sign(signed.as_bytes()).as_ref())
        };
        format!("{signed}.{signature}")
    }
}

/// What everything in a sidecar works with, without a network and without a disk.
pub(crate) fn services(connector: Connector, metrics: Arc<Metrics>, background: &Handle) -> Services {
    Services {
        fetcher: Fetcher::new(connector),
        clock: Clock::default(),
        metrics,
        files: PolicyFiles::BesideDocument,
        state_dir: None,
        background: background.clone(),
    }
}

/// One issuer for each profile, all with this key set, and a rule for everybody.
fn snapshot(key_set: &Value) -> Snapshot {
    let mut text = String::new();
    for profile in PROFILES {
        let issuer = json!({"issuer": issuer(profile), "profile": profile, "jwks": {"inline": key_set}});
        text += &document("Issuer", profile, &issuer);
    }
    let tokens: Vec<_> = PROFILES
        .iter()
        .map(|profile| json!({"issuer": profile, "audiences": ["https://orders.shop"]}))
        .collect();
    text += &document(
        "InboundPolicy",
        "orders",
        &json!({"tokens": tokens, "ports": [PORT], "rules": [{"name": "any", "to": {"paths": ["/*"]}, "from": {}}]}),
    );
    compiled(&text)
}

/// A document of policy; JSON is YAML.
pub(crate) fn document(kind: &str, name: &str, spec: &Value) -> String {
    let metadata =
        if kind == "Issuer" { json!({"name": name}) } else { json!({"name": name, "namespace": "shop"}) };
    let version = "countersign.dev/v1alpha1";
    format!("---\n{}\n", json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}))
}

/// What these documents say for the workload whose sidecar it is.
pub(crate) fn compiled(text: &str) -> Snapshot {
    let sources = source::split("fuzz.yaml", text.as_bytes()).expect("documents in order");
    let workload = Workload { namespace: "shop".into(), name: "orders".into(), ..Workload::default() };
    let compiled = Documents::parse(sources).and_then(|documents| documents.compile(&workload));
    compiled.expect("a policy in order")
}

/// The identifier of the issuer with this profile.
pub(crate) fn issuer(profile: &str) -> String {
    format!("https://issuer.test/{profile}")
}

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn ed25519_jwk(key: &Ed25519KeyPair) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key()), "kid": "ed"})
}

fn p256_jwk(key: &EcdsaKeyPair) -> Value {
    // An uncompressed point (SEC 1 §2.3.3): 4, then x and y.
    let (_, point) = key.public_key().as_ref().split_first().expect("a point");
    let (x, y) = point.split_at(32);
    json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y), "kid": "ec"})
}
