//! With what is TLS originated while its files are being replaced, one after the other? With what was last good.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::authority::{Authority, Pair};
use crate::support::client::{Answer, get};
use crate::support::policy::{Folder, document};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::Upstream;
use crate::support::wait_until;

/// A rule that presents a certificate, without a token, to a destination that demands one.
struct World {
    folder: Folder,
    upstream: Upstream,
    proxy: Proxy,
}

impl World {
    fn new(authority: &Authority, ours: &Pair) -> Self {
        let upstream = Upstream::start_with(authority.demanding());
        let rule = json!({
            "name": "orders", "to": {"hosts": ["localhost"], "ports": [upstream.port()]}, "tls": "originate",
            "originate": {"caFile": "ca.crt", "certFile": "tls.crt", "keyFile": "tls.key", "port": upstream.port()},
        });
        let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "rules": [rule]});
        let folder = Folder::with(&[
            ("policy.yaml", &document("OutboundPolicy", "checkout", &spec)),
            ("ca.crt", &authority.pem()),
            ("tls.crt", &ours.certificate),
            ("tls.key", &ours.key),
        ]);
        let proxy = Settings::policies(folder.path(), "checkout").start();
        Self { folder, upstream, proxy }
    }

    fn get(&self) -> Answer {
        let authority = format!("localhost:{}", self.upstream.port());
        get(self.proxy.outbound(), "/a", &[("Host", &authority)])
    }

    fn assert_presents(&self, pair: &Pair, when: &str) {
        let answer = self.get();
        assert_eq!(answer.status, 200, "{when}: {} {}", answer.text(), self.proxy.log());
        assert_eq!(self.upstream.last().certificate.as_ref(), Some(&pair.x5t), "{when}");
    }
}

/// Longer than from one look at the files to the next, after which the connections of before are gone.
const LOOK: Duration = Duration::from_secs(12);

#[test]
fn out_8_half_a_pair_or_ca_leaves_the_last_good_one_in_use_though_no_connection_is_left() {
    let authority = Authority::new();
    let [first, second, third] = [(); 3].map(|()| authority.client("spiffe://shop.test/checkout"));
    let world = World::new(&authority, &first);
    world.assert_presents(&first, "at the start");
    world.folder.write("tls.crt", &second.certificate);
    world.folder.write("tls.key", &second.key);
    thread::sleep(LOOK);
    world.folder.write("tls.key", &third.key);
    world.folder.write("ca.crt", "-----BEGIN CERTIF");
    for _ in 0..5 {
        world.assert_presents(&second, "while half of the third pair and of a CA is there");
    }
    for what in ["certificate", "caFile"] {
        let said = format!("the last good {what} of `originate` stays in use: ");
        assert_eq!(world.proxy.log().matches(&said).count(), 1, "{}", world.proxy.log());
    }
    world.folder.write("ca.crt", &authority.pem());
    world.folder.write("tls.crt", &third.certificate);
    wait_until("the third pair", 2 * LOOK, || {
        assert_eq!(world.get().status, 200, "{}", world.proxy.log());
        world.upstream.last().certificate.as_ref() == Some(&third.x5t)
    });
}

/// There is nothing to fall back on.
#[test]
fn out_8_half_a_pair_at_the_first_connection_is_refused() {
    let authority = Authority::new();
    let [ours, other] = [(); 2].map(|()| authority.client("spiffe://shop.test/checkout"));
    let half = Pair { key: other.key, ..ours.clone() };
    let world = World::new(&authority, &half);
    let answer = world.get();
    assert_eq!((answer.status, answer.reason()), (502, "upstream_unreachable".to_owned()));
    world.folder.write("tls.key", &ours.key);
    world.assert_presents(&ours, "as soon as it is whole");
}
