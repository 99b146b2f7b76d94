//! Who issues the tokens? The OpenID-certified server of `tests/servers/oidc-provider.mjs`, and a client of our own.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::client;
use super::policy::AUDIENCE;
use super::process::Process;
use super::tools::node;

/// The secret of the client `checkout`: Basic needs it form-encoded first (RFC 6749 §2.3.1).
pub(crate) const SECRET: &str = "canary-secret: +/%&=";

/// The credentials of the client `checkout` as they stand in `Authorization: Basic`.
pub(crate) fn basic() -> String {
    STANDARD.encode(format!("checkout:{}", form(SECRET)))
}

/// application/x-www-form-urlencoded.
pub(crate) fn form(text: &str) -> String {
    let one = |byte: u8| match byte {
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// A running authorization server.
#[derive(Debug)]
pub(crate) struct Issuer {
    process: Process,
    pub(crate) url: String,
}

impl Issuer {
    /// One with the client `checkout` (a secret; both scopes of orders), and these settings on top.
    pub(crate) fn start(over: &Value) -> Self {
        let mut settings = json!({
            "clients": [{"id": "checkout", "secret": SECRET, "scope": "orders:read orders:write"}],
            "resources": {AUDIENCE: "orders:read orders:write"},
        });
        for (name, value) in over.as_object().expect("an object") {
            settings[name] = value.clone();
        }
        let mut process =
            Process::spawn("oidc-provider", node("oidc-provider.mjs").arg(settings.to_string()));
        let line: Value =
            serde_json::from_str(&process.first_line(Duration::from_secs(30))).expect("a line of JSON");
        Self { process, url: line["issuer"].as_str().expect("an issuer").to_owned() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.url
            .rsplit_once('/')
            .and_then(|(_, address)| address.parse().ok())
            .expect("http://127.0.0.1:port")
    }

    /// A token by client credentials, as an application without a sidecar would get it.
    pub(crate) fn token(&self, scope: &str) -> String {
        let basic = basic();
        let body = format!("grant_type=client_credentials&scope={}&resource={}", form(scope), form(AUDIENCE));
        let headers = [
            ("Authorization", &*format!("Basic {basic}")),
            ("Content-Type", "application/x-www-form-urlencoded"),
        ];
        let answer = client::request(self.address(), "POST", "/token", &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    /// A new signing key; `how` is empty, `?publish-only` or `?drop`.
    pub(crate) fn rotate(&self, how: &str) {
        self.manage("POST", &format!("/-/rotate{how}"));
    }

    /// How often this path was asked for.
    pub(crate) fn requests(&self, path: &str) -> u64 {
        self.manage("GET", "/-/requests")[path].as_u64().unwrap_or(0)
    }

    /// From now on every answer takes this long.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.manage("POST", &format!("/-/delay?ms={}", delay.as_millis()));
    }

    /// Gone, without a goodbye.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    fn manage(&self, method: &str, target: &str) -> Value {
        let answer = client::request(self.address(), method, target, &[], b"");
        assert_eq!(answer.status, 200, "{target}");
        answer.json()
    }
}
