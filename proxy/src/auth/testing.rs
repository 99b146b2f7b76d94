//! What do the tests of this directory sign with? Fresh keys, tokens of any shape, and an issuer to verify them for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaKeyPair,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use countersign_policy::snapshot::{Algorithm, Issuer, KeySource};
use countersign_policy::{Documents, Profile, Snapshot, Workload, source};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use crate::auth::issuers::Services;
use crate::clock::Clock;
use crate::connect::Connector;
use crate::fetch::Fetcher;
use crate::metrics::Metrics;
use crate::state::files::PolicyFiles;

/// A key pair that signs tokens.
pub(crate) enum TestKey {
    Rsa(RsaKeyPair),
    Ec(&'static str, EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

impl TestKey {
    pub(crate) fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn p256() -> Self {
        Self::Ec("P-256", EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn p384() -> Self {
        Self::Ec("P-384", EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn ed25519() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    /// The public key as a JWK with this id.
    pub(crate) fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(pair) => {
                let (n, e) = rsa_components(pair.public_key().as_ref());
                json!({"kty": "RSA", "n": b64(n), "e": b64(e), "kid": kid})
            }
            Self::Ec(crv, pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(if *crv == "P-256" { 32 } else { 48 });
                json!({"kty": "EC", "crv": crv, "x": b64(x), "y": b64(y), "kid": kid})
            }
            Self::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key()), "kid": kid})
            }
        }
    }

    pub(crate) fn signature(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let padding: &'static dyn aws_lc_rs::signature::RsaEncoding = match alg {
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ec(_, pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token of exactly this header and these claims, JSON or not.
    pub(crate) fn sign_text(&self, alg: &str, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(claims));
        format!("{signed}.{}", b64(self.signature(alg, signed.as_bytes())))
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let alg = header["alg"].as_str().unwrap_or_default().to_owned();
        self.sign_text(&alg, &header.to_string(), &claims.to_string())
    }
}

/// Modulus and exponent of an RSAPublicKey in DER (RFC 8017 §A.1.1).
fn rsa_components(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    fn value(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, start) = match der[1] {
            short @ 0..=0x7f => (usize::from(short), 2),
            0x81 => (usize::from(der[2]), 3),
            _ => (usize::from(der[2]) << 8 | usize::from(der[3]), 4),
        };
        der[start..].split_at(length)
    }
    let (n, rest) = value(value(der).0);
    (n.iter().copied().skip_while(|b| *b == 0).collect(), value(rest).0.to_vec())
}

/// These documents, for a workload of this namespace.
pub(crate) fn compiled(namespace: &str, text: &str) -> Snapshot {
    let workload = Workload { namespace: namespace.to_owned(), ..Workload::default() };
    let documents = Documents::parse(source::split("policy.yaml", text.as_bytes()).unwrap()).unwrap();
    documents.compile(&workload).unwrap()
}

/// An issuer with the defaults of policy.
pub(crate) fn issuer(url: &str, jwks: KeySource) -> Issuer {
    let mut fingerprint = [0; 32];
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("{url} {jwks:?}").as_bytes());
    fingerprint.copy_from_slice(hash.as_ref());
    Issuer {
        name: "corp".to_owned(),
        issuer: Arc::from(url),
        jwks,
        token_endpoint: None,
        introspection_endpoint: None,
        profile: Profile::Rfc9068,
        algorithms: vec![
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
            Algorithm::ES256,
            Algorithm::ES384,
            Algorithm::EdDSA,
        ],
        leeway: Duration::from_secs(30),
        ca_file: None,
        insecure: true,
        fingerprint,
    }
}

/// A stand-in for an issuer: metadata and a key set over plain http on loopback, in whatever state a test wants it.
#[derive(Clone)]
pub(crate) struct StandIn {
    pub(crate) url: String,
    state: Arc<Mutex<StandInState>>,
}

#[derive(Default)]
struct StandInState {
    answers: HashMap<String, String>,
    asked: Vec<String>,
    delay: Duration,
    down: bool,
}

impl StandIn {
    /// One that publishes these keys, and metadata by RFC 8414.
    pub(crate) async fn start(keys: Vec<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stand_in = Self { url: url.clone(), state: Arc::default() };
        stand_in.publish(keys);
        let metadata = json!({"issuer": url, "jwks_uri": format!("{url}/jwks"), "token_endpoint": format!("{url}/token")});
        stand_in.answer("/.well-known/oauth-authorization-server", &ok("", &metadata.to_string()));
        let server = stand_in.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(server.clone().serve(stream));
            }
        });
        stand_in
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let request = String::from_utf8(request).unwrap();
        let path = request.split(' ').nth(1).unwrap().to_owned();
        let (answer, delay, down) = {
            let mut state = self.state.lock().unwrap();
            state.asked.push(path.clone());
            let answer = state.answers.get(&path).cloned().unwrap_or_else(|| status(404));
            (answer, state.delay, state.down)
        };
        tokio::time::sleep(delay).await;
        if down {
            return;
        }
        let tag = answer.lines().find_map(|line| line.strip_prefix("etag: "));
        let known = tag.is_some_and(|tag| request.contains(&format!("if-none-match: {tag}\r\n")));
        let answer = if known { status(304) } else { answer };
        let _ = stream.write_all(answer.as_bytes()).await;
    }

    /// What is answered at this path from now on: a whole HTTP answer.
    pub(crate) fn answer(&self, path: &str, answer: &str) {
        self.state.lock().unwrap().answers.insert(path.to_owned(), answer.to_owned());
    }

    /// Publishes these keys from now on.
    pub(crate) fn publish(&self, keys: Vec<Value>) {
        self.answer("/jwks", &ok("", &json!({ "keys": keys }).to_string()));
    }

    /// Takes its time for every answer.
    pub(crate) fn delay(&self, delay: Duration) {
        self.state.lock().unwrap().delay = delay;
    }

    /// Closes every connection without an answer, or not any more.
    pub(crate) fn down(&self, down: bool) {
        self.state.lock().unwrap().down = down;
    }

    /// How often this path was asked for.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.state.lock().unwrap().asked.iter().filter(|asked| *asked == path).count()
    }
}

/// A whole answer with a body, and these header lines (each with its CRLF).
pub(crate) fn ok(headers: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}", body.len())
}

pub(crate) fn status(status: u16) -> String {
    format!("HTTP/1.1 {status} Status\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

/// What keepers work with, on the test's own runtime.
pub(crate) fn services() -> Services {
    Services {
        fetcher: Fetcher::new(Connector::for_tests()),
        clock: Clock::default(),
        metrics: Metrics::new().unwrap(),
        files: PolicyFiles::BesideDocument,
        state_dir: None,
        background: Handle::current(),
    }
}

/// Waits until this holds; a test that waits for ever has failed.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain: {what}");
}
