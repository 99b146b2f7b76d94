//! Who issues opaque tokens? Django OAuth Toolkit in `tests/servers/django-oauth.py`, which answers in HTTP/1.0.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{self, Answer};
use super::issuer::form;
use super::policy::document;
use super::process::Process;
use super::tools::python;

/// A running authorization server.
#[derive(Debug)]
pub(crate) struct Django {
    _process: Process,
    pub(crate) address: SocketAddr,
}

impl Django {
    /// One with the client `checkout`, which has this secret.
    pub(crate) fn start(secret: &str) -> Self {
        let settings = json!({"clients": [{"id": "checkout", "secret": secret}]});
        let mut process =
            Process::spawn("django-oauth.py", python("django-oauth.py").arg(settings.to_string()));
        let line: Value =
            serde_json::from_str(&process.first_line(Duration::from_secs(60))).expect("a line of JSON");
        let address = line["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
        Self { _process: process, address }
    }

    /// The document of this issuer. It has no metadata, so policy names its endpoint.
    pub(crate) fn issuer(&self) -> String {
        let url = format!("http://{}", self.address);
        let endpoint = format!("{url}/o/token/");
        let asked = format!("{url}/o/introspect/");
        let spec = json!({
            "issuer": url, "tokenEndpoint": endpoint, "introspectionEndpoint": asked, "insecure": true,
        });
        document("Issuer", "corp", &spec)
    }

    /// A token for this scope; with `resource`, for this audience (RFC 8707).
    pub(crate) fn token(&self, basic: &str, scope: &str, resource: Option<&str>) -> String {
        let resource = resource.map(|resource| format!("&resource={}", form(resource))).unwrap_or_default();
        let body = format!("grant_type=client_credentials&scope={}{resource}", form(scope));
        let answer = self.post("/o/token/", basic, &body);
        answer.json()["access_token"].as_str().expect("a token").to_owned()
    }

    /// The token is no good any more (RFC 7009).
    pub(crate) fn revoke(&self, basic: &str, token: &str) {
        self.post("/o/revoke_token/", basic, &format!("token={token}"));
    }

    /// How often it was asked about a token.
    pub(crate) fn introspections(&self) -> u64 {
        self.manage("GET", "/-/requests")["/o/introspect/"].as_u64().unwrap_or(0)
    }

    /// How many tokens it was asked for.
    pub(crate) fn token_requests(&self) -> u64 {
        self.manage("GET", "/-/requests")["/o/token/"].as_u64().unwrap_or(0)
    }

    /// From now on every answer takes this long.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.manage("POST", &format!("/-/delay?ms={}", delay.as_millis()));
    }

    /// What it says of a token (RFC 7662).
    pub(crate) fn introspect(&self, token: &str, basic: &str) -> Value {
        self.post("/o/introspect/", basic, &format!("token={token}")).json()
    }

    fn post(&self, path: &str, basic: &str, body: &str) -> Answer {
        let basic = format!("Basic {basic}");
        let headers = [("Authorization", &*basic), ("Content-Type", "application/x-www-form-urlencoded")];
        let answer = client::request(self.address, "POST", path, &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer
    }

    fn manage(&self, method: &str, target: &str) -> Value {
        let answer = client::request(self.address, method, target, &[], b"");
        assert_eq!(answer.status, 200, "{target}");
        answer.json()
    }
}
