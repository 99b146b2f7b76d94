//! What do the policy files say? The YAML that the demo writes, edits, and shows in part.

use std::io;
use std::path::{Path, PathBuf};

/// The folder with policy.
#[derive(Debug)]
pub(crate) struct Policies {
    folder: PathBuf,
}

/// Where things are, for the texts.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The issuer identifier.
    pub(crate) issuer: String,
    /// The port of `orders`' sidecar, as `checkout` dials it.
    pub(crate) orders_sidecar: u16,
    /// The port of `orders` itself.
    pub(crate) orders: u16,
}

// === impl Policies ===

impl Policies {
    /// Writes all files.
    pub(crate) fn write(folder: &Path, places: &Places) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let policies = Self { folder: folder.to_owned() };
        policies.put("issuer.yaml", &issuer(places))?;
        policies.put("checkout.yaml", &checkout(places))?;
        policies.put("orders.yaml", &orders(places))?;
        Ok(policies)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Replaces a piece of a file. That it is there is the demo's own business.
    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) -> io::Result<()> {
        let text = self.read(file)?;
        if !text.contains(from) {
            return Err(io::Error::other(format!("{file} does not hold {from:?}")));
        }
        self.put(file, &text.replacen(from, to, 1))
    }

    pub(crate) fn append(&self, file: &str, more: &str) -> io::Result<()> {
        self.put(file, &(self.read(file)? + more))
    }

    /// The lines of a file from the one that holds `from`, so many.
    pub(crate) fn excerpt(&self, file: &str, from: &str, lines: usize) -> String {
        let text = self.read(file).unwrap_or_default();
        let shown: Vec<&str> = text.lines().skip_while(|line| !line.contains(from)).take(lines).collect();
        let indent = shown.iter().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
        shown.iter().map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n")
    }

    fn read(&self, file: &str) -> io::Result<String> {
        std::fs::read_to_string(self.folder.join(file))
    }

    /// As an editor or a ConfigMap does it: the new file takes the place of the old one at once.
    fn put(&self, file: &str, text: &str) -> io::Result<()> {
        let beside = self.folder.join(format!(".{file}"));
        std::fs::write(&beside, text)?;
        std::fs::rename(beside, self.folder.join(file))
    }
}

fn issuer(places: &Places) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: {{ name: demo }}
spec:
  issuer: {issuer}
  caFile: control-ca.pem
",
        issuer = places.issuer
    )
}

fn checkout(places: &Places) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1
kind: Credential
metadata: {{ name: checkout, namespace: shop }}
spec:
  issuer: demo
  clientId: checkout
  authentication:
    clientSecretBasic: {{ secretFile: checkout-secret }}
---
apiVersion: countersign.dev/v1alpha1
kind: OutboundPolicy
metadata: {{ name: checkout, namespace: shop }}
spec:
  workloads: {{ labels: {{ app: checkout }} }}
  rules:
  - name: orders
    to: {{ hosts: [localhost], ports: [{port}] }}
    token: {{ credential: checkout, audience: \"https://orders.shop\" }}
    tls: none        # loopback; the default is verified TLS
",
        port = places.orders_sidecar
    )
}

fn orders(places: &Places) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: {{ name: orders, namespace: shop }}
spec:
  workloads: {{ labels: {{ app: orders }} }}
  ports: [{port}]
  tokens:
  - {{ issuer: demo, audiences: [\"https://orders.shop\"] }}
  forwardClaims: {{ X-Client-Id: \"@client\" }}
  rules:
  - name: write
    to: {{ methods: [GET, POST], paths: [/orders, \"/orders/v1/*\"] }}
    from: {{ scopes: [orders:write], clients: [checkout] }}
  - name: cancel
    to: {{ methods: [DELETE], paths: [\"/orders/{{id}}\"] }}
    from: {{ scopes: [orders:admin] }}
",
        port = places.orders
    )
}

/// A rule that is to come, tried in the shadow.
pub(crate) const NO_V1: &str = "  - name: no-v1
    shadow: true
    effect: deny
    to: { paths: [\"/orders/v1/*\"] }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_edited_and_shown_in_part() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { issuer: "https://localhost:1".into(), orders_sidecar: 2, orders: 3 };
        let policies = Policies::write(folder.path(), &places).unwrap();
        policies.edit("orders.yaml", "orders:admin", "orders:write").unwrap();
        let shown = policies.excerpt("orders.yaml", "name: cancel", 3);
        assert!(shown.starts_with("- name: cancel\n  to: "));
        assert!(shown.ends_with("\n  from: { scopes: [orders:write] }"));
        policies.append("orders.yaml", NO_V1).unwrap();
        assert!(policies.excerpt("orders.yaml", "name: no-v1", 9).contains("shadow: true"));
        assert!(policies.edit("orders.yaml", "nothing of the kind", "").is_err());
        assert_eq!(std::fs::read_dir(policies.folder()).unwrap().count(), 3);
    }
}
