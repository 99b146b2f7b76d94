//! Does a pod reach itself past its own policy? Not by the forward proxy either, as HTTP or through a tunnel.

use serde_json::json;

use crate::support::meshed::{Meshed, Recorder, curl};
use crate::support::pods::{As, Net};
use crate::support::policy::{Folder, document};

#[test]
fn the_forward_proxy_is_no_way_around_the_pods_own_policy() {
    let net = Net::with_pods(2);
    let [a, b] = &net.pods[..] else { panic!() };
    let workloads = json!({"labels": {"app": "orders"}});
    let inbound = json!({
        "workloads": workloads, "ports": [8080],
        "rules": [{"name": "open", "public": true, "to": {"paths": ["/open"]}}],
    });
    let tunnels = json!({"workloads": workloads, "rules": [
        {"name": "tls", "to": {"hosts": ["own.shop.test", "own6.shop.test"], "ports": [8443]}, "tls": "passthrough"},
    ]});
    let policy =
        document("InboundPolicy", "orders", &inbound) + &document("OutboundPolicy", "orders", &tunnels);
    let folder = Folder::with(&[("policy.yaml", &policy)]);
    a.hosts(&format!(
        "127.0.0.1 localhost\n{0} own.shop.test both.shop.test\n{1} own6.shop.test\n{2} both.shop.test\n",
        a.v4, a.v6, b.v4
    ));
    let orders = Meshed::start(a, folder.path(), "orders", &[]);
    let ours = Recorder::start(a, &["0.0.0.0:8080", "[::]:8080"].map(|at| at.parse().unwrap()));
    let theirs = Recorder::start(b, &b.at(8080));
    let _bytes = a.witness(As::Application, &a.at(8443));
    let by_proxy = |url: &str| curl(a, &["--proxy", "http://127.0.0.1:16001", url]);

    // Dialled, they are judged like everybody's.
    for at in a.at(8080) {
        assert_eq!(curl(a, &[&format!("http://{at}/open")]).0, 200, "{at}");
        assert_eq!(curl(a, &[&format!("http://{at}/closed")]).0, 403, "{at}");
    }
    assert_eq!(ours.seen().len(), 2);
    let mapped = format!("[::ffff:{}]:8080", a.v4);
    let own =
        a.at(8080).into_iter().map(|at| at.to_string()).chain([mapped, "own.shop.test:8080".to_owned()]);
    for at in own {
        for path in ["open", "closed"] {
            let (status, output) = by_proxy(&format!("http://{at}/{path}"));
            assert!(status == 403 && output.contains("ambiguous_destination"), "{at}: {output}");
        }
    }
    for host in ["own.shop.test", "own6.shop.test"] {
        let (status, output) = by_proxy(&format!("https://{host}:8443/"));
        assert!(status == 0 && output.contains("403"), "{host}: {output}");
    }
    assert_eq!(ours.seen().len(), 2, "{}", orders.log());
    // Loopback is the application's own, and a name that others have too leads to them.
    assert_eq!(by_proxy("http://127.0.0.1:8080/closed").0, 200);
    for _ in 0..6 {
        let (status, output) = by_proxy("http://both.shop.test:8080/x");
        assert_eq!(status, 200, "{output}");
    }
    assert_eq!((ours.seen().len(), theirs.seen().len()), (3, 6));
}
