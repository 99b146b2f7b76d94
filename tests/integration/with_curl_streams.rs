//! Does a client that we did not write see that a stream was cut? curl over HTTP/1.1 and HTTP/2, where the answer does not end.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{Folder, LOCAL_ISSUER, document, inbound};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tools::curl_to_the_end;
use crate::support::upstream::Upstream;
use crate::support::{now, wait_until};

/// The versions, and what curl says of an answer that lacks its end: CURLE_PARTIAL_FILE, CURLE_HTTP2_STREAM.
const VERSIONS: [(&str, i32); 2] = [("--http1.1", 18), ("--http2-prior-knowledge", 92)];

struct World {
    key: Key,
    folder: Folder,
    _upstream: Upstream,
    proxy: Proxy,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let (key, upstream) = (Key::new("k1"), Upstream::start());
        let issuer = json!({"issuer": LOCAL_ISSUER, "jwks": {"file": "keys.jwks"}, "leeway": "0s"});
        let folder = Folder::with(&[
            ("issuer.yaml", &document("Issuer", "corp", &issuer)),
            ("orders.yaml", &rules("/stream")),
            ("keys.jwks", &key_set(&[&key]).to_string()),
        ]);
        let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
        Self { key, folder, _upstream: upstream, proxy }
    }

    fn bearer(&self, seconds: i64) -> String {
        let token = self.key.token(&claims(LOCAL_ISSUER, &json!({"exp": now() + seconds})));
        format!("Authorization: Bearer {token}")
    }

    fn url(&self) -> String {
        format!("http://{}/stream", self.proxy.inbound())
    }
}

/// Writes a file and waits until it is in force.
fn write(world: &World, name: &str, text: &str) {
    let before = world.proxy.version();
    world.folder.write(name, text);
    wait_until("the new policy", Duration::from_secs(5), || world.proxy.version() != before);
}

fn rules(path: &str) -> String {
    inbound(&json!([{"name": "listen", "to": {"paths": [path]}, "from": {"scopes": ["orders:read"]}}]))
}

#[test]
fn an_answer_breaks_off_when_its_token_expires() {
    let world = World::new();
    for (version, code) in VERSIONS {
        let done = curl_to_the_end(&[version, "-H", &world.bearer(3), &world.url()]);
        assert_eq!(done.code, Some(code), "{version}: {}", done.stderr);
        assert!(done.stdout.lines().count() > 50, "{version}: {}", done.stdout);
        assert!(done.took > Duration::from_secs(1) && done.took < Duration::from_secs(6), "{:?}", done.took);
        assert!(version == "--http1.1" || done.stderr.contains("INTERNAL_ERROR"), "{}", done.stderr);
    }
}

#[test]
fn an_answer_breaks_off_when_policy_no_longer_allows_it_and_no_sooner() {
    let world = World::new();
    let begun = || world.proxy.scrape().sum("countersign_requests_total", &[("decision", "allow")]);
    for (index, (version, code)) in VERSIONS.into_iter().enumerate() {
        thread::scope(|scope| {
            let (bearer, url) = (world.bearer(300), world.url());
            let curl = scope.spawn(move || curl_to_the_end(&[version, "-H", &bearer, &url]));
            wait_until("the stream", Duration::from_secs(5), || begun() > index as f64);
            let other = document("InboundPolicy", "other", &json!({"ports": [index + 1], "rules": []}));
            write(&world, "other.yaml", &other);
            thread::sleep(Duration::from_secs(2));
            assert!(!curl.is_finished(), "an unrelated policy ended it");
            write(&world, "orders.yaml", &rules("/elsewhere"));
            let done = curl.join().unwrap();
            assert_eq!(done.code, Some(code), "{version}: {}", done.stderr);
            assert!(done.took < Duration::from_secs(8), "{version}: {:?}", done.took);
            write(&world, "orders.yaml", &rules("/stream"));
        });
    }
}
