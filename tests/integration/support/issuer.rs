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
    /// Where it asks for client certificates, if that is another port (`mtls_endpoint_aliases`, RFC 8705 §5).
    pub(crate) alias: Option<String>,
    management: SocketAddr,
}

/// A request of a token, as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct TokenRequest {
    pub(crate) form: Value,
    /// Names in lower case.
    pub(crate) headers: Value,
    pub(crate) port: u16,
    /// The SHA-256 of the client certificate (base64url), as in `x5t#S256`.
    pub(crate) certificate: Option<String>,
    /// Of the answer.
    pub(crate) status: Option<u16>,
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
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        Self {
            process,
            url: text("issuer").expect("an issuer"),
            alias: text("alias"),
            management: text("management").and_then(|address| address.parse().ok()).expect("an address"),
        }
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

    /// A token that is bound to the key of this proof (RFC 9449 §5), with the answer's `token_type`.
    pub(crate) fn bound_token(&self, scope: &str, proof: &str) -> (String, String) {
        let basic = format!("Basic {}", basic());
        let body = format!("grant_type=client_credentials&scope={}&resource={}", form(scope), form(AUDIENCE));
        let headers = [
            ("Authorization", &*basic),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("DPoP", proof),
        ];
        let answer = client::request(self.address(), "POST", "/token", &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let text = |name: &str| answer.json()[name].as_str().expect("a text").to_owned();
        (text("access_token"), text("token_type"))
    }

    /// The token is no good any more (RFC 7009).
    pub(crate) fn revoke(&self, token: &str) {
        let basic = format!("Basic {}", basic());
        let headers = [("Authorization", &*basic), ("Content-Type", "application/x-www-form-urlencoded")];
        let body = format!("token={}", form(token));
        let answer = client::request(self.address(), "POST", "/token/revocation", &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
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

    /// The client has another secret from now on.
    pub(crate) fn set_secret(&self, client: &str, secret: &str) {
        self.manage("POST", &format!("/-/client?id={client}&secret={}", form(secret)));
    }

    /// The DPoP nonces that it gave out so far are no good any more (RFC 9449 §8).
    pub(crate) fn renew_nonces(&self) {
        self.manage("POST", "/-/nonce");
    }

    /// The last request of a token: how the client authenticated, and what it asked for.
    pub(crate) fn last(&self) -> TokenRequest {
        let last = self.manage("GET", "/-/last");
        let number = |name: &str| last[name].as_u64().and_then(|number| number.try_into().ok());
        TokenRequest {
            form: last["form"].clone(),
            headers: last["headers"].clone(),
            port: number("port").expect("a request has come"),
            certificate: last["certificate"].as_str().map(str::to_owned),
            status: number("status"),
        }
    }

    /// Gone, without a goodbye.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    fn manage(&self, method: &str, target: &str) -> Value {
        let answer = client::request(self.management, method, target, &[], b"");
        assert_eq!(answer.status, 200, "{target}");
        answer.json()
    }
}
