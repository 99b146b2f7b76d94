use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::auth::testing::services;
use crate::http::sidecar::Sidecar;
use crate::listen;
use crate::state::live::live;

fn worker() -> Arc<Worker> {
    Worker::new(Arc::new(Sidecar::for_test(live(None).0, &services())))
}

/// Without a look at whose user we are.
fn redirect(own_port: u16, ways_in: &[(&str, &str)]) -> Arc<Redirect> {
    let ways_in = ways_in.iter().map(|(at, target)| (at.parse().unwrap(), target.parse().unwrap()));
    Arc::new(Redirect {
        own_ports: vec![own_port],
        probe: Probe::default(),
        ways_in: ways_in.collect(),
        local: Arc::default(),
        asked_since: OnceLock::new(),
        prepared: AtomicBool::new(false),
    })
}

/// A connection of each family that the machine has, to one listener for both.
async fn connected() -> Vec<(TcpStream, TcpStream, SocketAddr, u16)> {
    let mut listeners = listen::bind_both("[::]:0".parse().unwrap(), 1).unwrap();
    let port = listeners.address.port();
    let listener = TcpListener::from_std(listeners.sockets.pop().unwrap()).unwrap();
    let mut pairs = Vec::new();
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        if let Ok(near) = TcpStream::connect((ip, port)).await {
            let (far, peer) = listener.accept().await.unwrap();
            pairs.push((near, far, peer, port));
        }
    }
    assert!(!pairs.is_empty());
    pairs
}

#[tokio::test]
async fn what_was_not_redirected_has_no_other_destination() {
    for (_near, far, ..) in connected().await {
        assert_eq!(original_destination(&far).unwrap(), None);
    }
    let mapped = plain("[::ffff:192.0.2.1]:80".parse().unwrap());
    assert_eq!(mapped, "192.0.2.1:80".parse().unwrap());
    let scoped: SocketAddr = "[fe80::1%3]:80".parse().unwrap();
    assert_eq!(plain(scoped), scoped, "a link-local address is nothing without its interface");
}

#[tokio::test]
async fn out_12_the_inbound_listener_itself_is_no_way_in() {
    for (mut near, far, peer, port) in connected().await {
        let worker = worker();
        let redirect = redirect(port, &[]);
        let (_signal, drain) = crate::drain::channel();
        inbound::serve(redirect, worker.clone(), far, peer, drain).await;
        let end = near.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
        let labels = ["inbound", "tcp", "deny", "ambiguous_destination"];
        assert_eq!(worker.sidecar.metrics.requests.with_label_values(&labels).get(), 1);
    }
}

/// A listener that is not open at an address is no way in there, whatever else has its port.
#[test]
fn an_inbound_listener_leads_on_from_the_addresses_that_it_is_open_at() {
    let target = "127.0.0.1:8080";
    let leads = |at: &str, from: &str| redirect(1, &[(at, target)]).way_in(from.parse().unwrap()).is_some();
    for (at, from, expected) in [
        ("0.0.0.0:8081", "10.16.0.1:8081", true),
        ("0.0.0.0:8081", "[fd16::1]:8081", false),
        ("0.0.0.0:8081", "10.16.0.1:8080", false),
        ("[::]:8081", "10.16.0.1:8081", true),
        ("[::]:8081", "[fd16::1]:8081", true),
        ("10.16.0.1:8081", "10.16.0.1:8081", true),
        ("10.16.0.1:8081", "10.16.0.2:8081", false),
        ("127.0.0.1:8081", "10.16.0.1:8081", false),
        ("[::ffff:10.16.0.1]:8081", "10.16.0.1:8081", true),
    ] {
        assert_eq!(leads(at, from), expected, "{from} by {at}");
    }
}

#[tokio::test]
async fn readiness_waits_for_names_that_rules_are_known_by() {
    let names = crate::names::Names::for_tests();
    let redirect = redirect(1, &[]);
    names.keep(["localhost".into()]);
    while !redirect.is_prepared(&names) {
        assert!(redirect.asked_since.get().unwrap().elapsed() <= PREPARATION * 2);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(names.are_asked());
    names.keep(["later.test".into()]);
    assert!(redirect.is_prepared(&names), "who was ready once stays so");
}
