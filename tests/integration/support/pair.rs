//! What do two applications need to talk? Two pods whose traffic is redirected to their sidecars, the policies of both, and
//! an issuer in the world.

use serde_json::{Value, json};

use super::meshed::{Meshed, issuer};
use super::pods::{Net, Pod};
use super::policy::{AUDIENCE, Folder, credential, document};
use super::process::Process;

/// `checkout` in the first pod, which asks, and `orders` in the second, which is asked.
pub(crate) struct Pair {
    pub(crate) checkout: Meshed,
    pub(crate) orders: Meshed,
    _issuer: Process,
    _folders: [Folder; 2],
    pub(crate) net: Net,
}

impl Pair {
    /// With this specification of the outbound policy, and these of inbound policies: who they are for is added. `hosts` are
    /// more lines of the first pod's hosts file, in which the second is `orders.shop.test` by both families, and
    /// `v4.shop.test` and `v6.shop.test` by one.
    pub(crate) fn start(outbound: &Value, inbound: &[Value], more: &[&str], hosts: &str) -> Self {
        let net = Net::with_pods(2);
        let [a, b] = &net.pods[..] else { panic!() };
        let (issuer, url) = issuer(&net.world, "203.0.113.1");
        a.hosts(&format!(
            "127.0.0.1 localhost\n{} orders.shop.test v4.shop.test\n{} orders.shop.test v6.shop.test\n{hosts}",
            b.v4, b.v6
        ));
        let corp = document("Issuer", "corp", &json!({"issuer": url, "insecure": true}));
        let of = |app: &str, spec: &Value| {
            let mut spec = spec.clone();
            spec["workloads"] = json!({"labels": {"app": app}});
            spec
        };
        let policy =
            corp.clone() + &credential() + &document("OutboundPolicy", "checkout", &of("checkout", outbound));
        let asking = Folder::with(&[("policy.yaml", &policy), ("client-secret", "checkout-secret")]);
        let inbound = inbound.iter().enumerate().map(|(number, spec)| {
            document("InboundPolicy", &format!("orders-{number}"), &of("orders", spec))
        });
        let asked = Folder::with(&[("policy.yaml", &(corp + &inbound.collect::<String>()))]);
        let orders = Meshed::start(b, asked.path(), "orders", more);
        let checkout = Meshed::start(a, asking.path(), "checkout", &[]);
        Self { checkout, orders, _issuer: issuer, _folders: [asking, asked], net }
    }

    pub(crate) fn pods(&self) -> [&Pod; 2] {
        let [a, b] = &self.net.pods[..] else { panic!() };
        [a, b]
    }

    /// The bytes that went to servers and came from them, as either sidecar counts them.
    pub(crate) fn bytes(&self) -> [(u64, u64); 2] {
        [(&self.checkout, "outbound"), (&self.orders, "inbound")].map(|(sidecar, direction)| {
            let scrape = sidecar.scrape();
            let of =
                |flow| scrape.sum("countersign_tcp_bytes_total", &[("direction", direction), ("flow", flow)]);
            (whole(of("sent")), whole(of("received")))
        })
    }
}

/// A counter.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counters are whole and not negative"
)]
pub(crate) fn whole(count: f64) -> u64 {
    count as u64
}

/// A rule for HTTP in plain text to these hosts on these ports, with a token of `checkout` for `orders`.
pub(crate) fn rule(name: &str, hosts: &[&str], ports: &[u16]) -> Value {
    json!({
        "name": name, "to": {"hosts": hosts, "ports": ports}, "tls": "none", "sameAudience": hosts.len() > 1,
        "token": {"credential": "checkout", "scopes": ["orders:read"], "resource": AUDIENCE},
    })
}
