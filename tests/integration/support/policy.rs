//! What do the platform engineers write? Policy folders of a test, and the documents that most tests share.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The `iss` of tokens that a test signs itself.
pub(crate) const LOCAL_ISSUER: &str = "https://issuer.test";
/// The audience of the service behind the sidecar.
pub(crate) const AUDIENCE: &str = "https://orders.shop";

/// A policy folder.
#[derive(Debug)]
pub(crate) struct Folder(TempDir);

impl Folder {
    /// A folder with these files.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().expect("a temporary folder"));
        for (name, text) in files {
            folder.write(name, text);
        }
        folder
    }

    /// Writes a file as an editor does: a new one beside it, renamed over the old.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        let beside = self.path().join(format!(".{name}.new"));
        fs::write(&beside, text).expect("the folder can be written");
        fs::rename(&beside, &path).expect("the folder can be written");
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.path().join(name)).expect("the file is there");
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }
}

/// Any document; JSON is YAML.
pub(crate) fn document(kind: &str, name: &str, spec: &Value) -> String {
    let metadata =
        if kind == "Issuer" { json!({"name": name}) } else { json!({"name": name, "namespace": "shop"}) };
    let document = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec,
    });
    format!("---\n{document}\n")
}

/// An issuer whose keys stand in a file of the folder.
pub(crate) fn issuer_with_file(file: &str) -> String {
    document("Issuer", "corp", &json!({"issuer": LOCAL_ISSUER, "jwks": {"file": file}}))
}

/// An issuer whose keys stand in its document: files stay with the sidecar, policy travels.
pub(crate) fn issuer_inline(keys: &Value) -> String {
    document("Issuer", "corp", &json!({"issuer": LOCAL_ISSUER, "jwks": {"inline": keys}}))
}

/// An issuer on loopback whose metadata is discovered over plain HTTP.
pub(crate) fn issuer_discovered(url: &str) -> String {
    document("Issuer", "corp", &json!({"issuer": url, "insecure": true}))
}

/// The policy of the orders service, with these rules.
pub(crate) fn inbound(rules: &Value) -> String {
    inbound_with(rules, &json!({}))
}

/// The same, with more fields.
pub(crate) fn inbound_with(rules: &Value, more: &Value) -> String {
    let mut spec = json!({
        "workloads": {"labels": {"app": "orders"}},
        "tokens": [{"issuer": "corp", "audiences": [AUDIENCE]}],
        "rules": rules,
    });
    for (name, value) in more.as_object().expect("an object") {
        spec.as_object_mut().expect("an object").insert(name.clone(), value.clone());
    }
    document("InboundPolicy", "orders", &spec)
}

/// What the orders service accepts where the issuer `corp` is asked about opaque tokens, as the client `checkout`.
pub(crate) fn asking() -> Value {
    json!({"tokens": [{"issuer": "corp", "audiences": [AUDIENCE], "introspect": {"credential": "checkout"}}]})
}

/// Rules that most tests share: reading, writing, health for everybody, and a part that is closed.
pub(crate) fn usual_rules() -> Value {
    json!([
        {"name": "read", "to": {"methods": ["GET"], "paths": ["/orders", "/orders/*"]}, "from": {"scopes": ["orders:read"]}},
        {"name": "write", "to": {"methods": ["POST"], "paths": ["/orders"]}, "from": {"scopes": ["orders:write"]}},
        {"name": "health", "public": true, "to": {"methods": ["GET"], "paths": ["/healthz"]}},
        {"name": "closed", "effect": "deny", "to": {"paths": ["/orders/secret/*"]}},
    ])
}

/// How a workload authenticates to the issuer `corp` with a secret in the file `client-secret`.
pub(crate) fn credential() -> String {
    let spec = json!({
        "issuer": "corp", "clientId": "checkout",
        "authentication": {"clientSecretBasic": {"secretFile": "client-secret"}},
    });
    document("Credential", "checkout", &spec)
}

/// The policy of the checkout service: a token for `localhost` on the port, in plain text.
pub(crate) fn outbound(port: u16, more: &Value) -> String {
    let mut rule = json!({
        "name": "orders", "to": {"hosts": ["localhost"], "ports": [port]}, "tls": "none",
        "token": {"credential": "checkout", "scopes": ["orders:read"], "resource": AUDIENCE},
    });
    for (name, value) in more.as_object().expect("an object") {
        rule.as_object_mut().expect("an object").insert(name.clone(), value.clone());
    }
    let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "rules": [rule]});
    document("OutboundPolicy", "checkout", &spec)
}

/// checkout reaches `localhost` on this port, by HTTP/1.1 whatever it speaks itself, and without a token.
pub(crate) fn out_by_http1(port: u16) -> Folder {
    let rule = json!({
        "name": "one", "to": {"hosts": ["localhost"], "ports": [port]}, "tls": "none", "protocol": "http1",
    });
    let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "rules": [rule]});
    Folder::with(&[("policy.yaml", &document("OutboundPolicy", "checkout", &spec))])
}

/// Everybody may do everything on the port of the orders service: what is refused then is refused for its form.
pub(crate) fn open_policy() -> Folder {
    open_policy_with(&json!({}))
}

/// The same, with more fields.
pub(crate) fn open_policy_with(more: &Value) -> Folder {
    let rules = json!([{"name": "all", "public": true, "to": {"paths": ["/*"]}}]);
    let policy = issuer_with_file("keys.jwks") + &inbound_with(&rules, more);
    Folder::with(&[("policy.yaml", &policy), ("keys.jwks", r#"{"keys":[]}"#)])
}
