use std::net::{Ipv4Addr, Ipv6Addr};

use countersign_policy::headers::Underscores;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::auth::explain::Explainer;
use crate::auth::verify::Verifier;
use crate::clock::Clock;
use crate::config::{AccessLog, InboundDefault};
use crate::connect::Connector;
use crate::http::grant::Watched;
use crate::http::sidecar::Sidecar;
use crate::listen;
use crate::record::Recorder;
use crate::state::files::PolicyFiles;

fn worker() -> Arc<Worker> {
    let (metrics, clock) = (Metrics::new().unwrap(), Clock::default());
    Worker::new(Arc::new(Sidecar {
        policy: crate::state::live::live(None).0,
        verifier: Verifier::new(clock.clone(), metrics.clone()),
        explainer: Explainer::new(clock.clone()),
        recorder: Recorder::new(AccessLog::Off, clock, metrics.clone()).unwrap().0,
        metrics,
        connector: Connector::for_tests(),
        files: PolicyFiles::BesideDocument,
        inbound_default: InboundDefault::Deny,
        header_underscores: Underscores::Drop,
        outbound: None,
        watched: Watched::default(),
    }))
}

/// Without a look at whose user we are.
fn redirect(own_port: u16, metrics: &Metrics) -> Arc<Redirect> {
    Arc::new(Redirect {
        own_ports: vec![own_port],
        probe: Probe::default(),
        local: Local::default(),
        inbound: Meters::new(metrics, Direction::Inbound),
        outbound: Meters::new(metrics, Direction::Outbound),
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
        let redirect = redirect(port, &worker.sidecar.metrics);
        let (_signal, drain) = crate::drain::channel();
        inbound::serve(redirect, worker.clone(), far, peer, drain).await;
        let end = near.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
        let labels = ["inbound", "tcp", "deny", "ambiguous_destination"];
        assert_eq!(worker.sidecar.metrics.requests.with_label_values(&labels).get(), 1);
    }
}

#[tokio::test]
async fn readiness_waits_for_names_that_rules_are_known_by() {
    let worker = worker();
    let names = crate::names::Names::for_tests();
    let redirect = redirect(1, &worker.sidecar.metrics);
    names.keep(["localhost".into()]);
    while !redirect.is_prepared(&names) {
        assert!(redirect.asked_since.get().unwrap().elapsed() <= PREPARATION * 2);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(names.are_asked());
    names.keep(["later.test".into()]);
    assert!(redirect.is_prepared(&names), "who was ready once stays so");
}
