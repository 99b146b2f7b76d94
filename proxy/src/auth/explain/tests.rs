use std::time::Duration;

use super::*;

#[test]
fn so_many_are_explained_in_a_second_and_no_more() {
    let clock = Clock::default();
    let explainer = Explainer::new(clock.clone());
    // Time goes on meanwhile, and every 10 ms there may be one more.
    let admitted = || {
        let start = std::time::Instant::now();
        let admitted = (0..10_000).filter(|_| explainer.admits()).count();
        (admitted, 101 + usize::try_from(start.elapsed().as_millis() / 10).unwrap())
    };
    for _ in 0..2 {
        let (admitted, most) = admitted();
        assert!((100..=most).contains(&admitted), "{admitted}, at most {most}");
        clock.advance(Duration::from_secs(5));
    }
}

#[test]
fn what_a_token_is_bound_to_is_said_without_it() {
    let (headers, path) = (http::HeaderMap::new(), "/".to_owned());
    let path = countersign_policy::path::CanonicalPath::parse(&path).unwrap();
    let peer = countersign_policy::request::Peer { id: None, thumbprint: [7; 32] };
    let ask = |peer| Ask {
        method: "GET",
        path: &path,
        query: None,
        host: "h",
        port: None,
        grpc: false,
        headers: &headers,
        source: std::net::Ipv4Addr::LOCALHOST.into(),
        scheme: "https",
        peer,
    };
    for (cnf, scheme, peer, expected) in [
        (
            json!({ "x5t#S256": "HASH" }),
            "Bearer",
            None,
            "the certificate whose hash is in x5t#S256, found no certificate",
        ),
        (json!({ "x5t#S256": "HASH" }), "Bearer", Some(&peer), "x5t#S256, found another certificate"),
        (
            json!({ "x5t#S256": "HASH" }),
            "DPoP",
            Some(&peer),
            "the scheme Bearer, for a token that is bound to a certificate, found DPoP",
        ),
        (
            json!({ "jkt": "HASH" }),
            "Bearer",
            None,
            "the scheme DPoP, for a token that is bound to a key, found Bearer",
        ),
        (json!(null), "DPoP", None, "the scheme Bearer, for a token that is bound to nothing, found DPoP"),
        (json!({}), "Bearer", None, "one of x5t#S256 and jkt, found both, or another method"),
    ] {
        let told = binding(&cnf, scheme, &ask(peer)).to_string();
        assert!(told.contains(expected) && !told.contains("HASH"), "{told}");
    }
}
