use std::borrow::Cow;
use std::path::Path;

use super::*;

fn names(folder: &Path, resolv_conf: &str, hosts: &str, port: u16) -> Names {
    let files = Files { resolv_conf: folder.join("resolv.conf"), hosts: folder.join("hosts"), port };
    std::fs::write(&files.resolv_conf, resolv_conf).unwrap();
    std::fs::write(&files.hosts, hosts).unwrap();
    Names::of(files, Handle::current(), Metrics::new().unwrap()).unwrap()
}

const KUBERNETES: &str = "nameserver 127.0.0.1\n\
    search shop.svc.cluster.local svc.cluster.local. Cluster.Local\noptions ndots:5\n";

#[tokio::test]
async fn a_name_stands_for_itself_and_for_what_the_search_path_makes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let kubernetes = names(folder.path(), KUBERNETES, "", 9);
    let full = |name: &'static str| kubernetes.full_names(name).map(Cow::into_owned).collect::<Vec<_>>();
    let orders =
        ["orders", "orders.shop.svc.cluster.local", "orders.svc.cluster.local", "orders.cluster.local"];
    assert_eq!(full("orders"), orders);
    assert_eq!(full("orders.shop")[2], "orders.shop.svc.cluster.local");
    assert_eq!(full("orders.shop.svc")[3], "orders.shop.svc.cluster.local");
    assert_eq!(full("orders."), ["orders"], "a trailing dot: it is complete");
    assert_eq!(full("a.b.c.d.e.f"), ["a.b.c.d.e.f"], "as many dots as ndots");
    for alone in ["127.0.0.1", "[::1]", "localhost", "web.localhost"] {
        assert_eq!(full(alone), [alone]);
    }
    let long = format!("{0}.{0}.{0}.{0}", "a".repeat(60));
    assert_eq!(kubernetes.full_names(&long).count(), 2, "253 bytes are the most");
    assert!(matches!(kubernetes.full_names("orders").next(), Some(Cow::Borrowed(_))));

    let plain = names(folder.path(), "nameserver 127.0.0.1\n", "", 9);
    assert_eq!(plain.full_names("orders").count(), 1);
}
