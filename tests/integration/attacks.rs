//! Can anything be smuggled through? Raw HTTP/1.1 attacks against the assembled sidecar, in both directions, before an upstream
//! that accounts for every byte. `tests/attacks.md` shows them beside what other proxies do.

mod frames;
mod http2;
mod notation;
mod table;
mod written;

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::support::policy::{self, Folder, inbound_with};
use crate::support::proxy::{Proxy, Settings};
use crate::support::raw_client::talk;
use crate::support::recorder::Recorder;
use crate::support::root;
use notation::unescaped;
use table::{Attack, BEHIND, Outcome, code};

/// Longer than an unread body is heard out.
const QUIET: Duration = Duration::from_millis(1500);

#[test]
fn in_15_16_17_20_21_nothing_is_smuggled_to_the_application() {
    let upstream = Recorder::start();
    let (proxy, _folder) = open(upstream.address());
    run("a.test", proxy.inbound(), &upstream, |attack| Some(&attack.inbound));
}

#[test]
fn in_15_16_17_20_21_nothing_is_smuggled_to_a_destination() {
    let upstream = Recorder::start();
    let rules = json!([{"name": "other", "to": {"hosts": ["other.test"]}, "tls": "none"}]);
    let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "rules": rules});
    let folder = Folder::with(&[("policy.yaml", &policy::document("OutboundPolicy", "checkout", &spec))]);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    run(&upstream.address().to_string(), proxy.outbound(), &upstream, |attack| attack.outbound.as_ref());
}

/// Everybody may do everything: what is refused is refused for its form.
fn open(application: SocketAddr) -> (Proxy, Folder) {
    let key = crate::support::jose::Key::new("k1");
    let rules = json!([{"name": "all", "public": true, "to": {"paths": ["/*"]}}]);
    let forward = json!({"forwardClaims": {"X-Client-Id": "@client", "X-Tenant": "tenant"}});
    let folder = Folder::with(&[
        ("policy.yaml", &(policy::issuer_with_file("keys.jwks") + &inbound_with(&rules, &forward))),
        ("keys.jwks", &crate::support::jose::key_set(&[&key]).to_string()),
    ]);
    (Settings::policies(folder.path(), "orders").before(application).start(), folder)
}

fn run(host: &str, to: SocketAddr, upstream: &Recorder, of: impl Fn(&Attack) -> Option<&Outcome>) {
    let (mut ran, mut broken, mut cut, mut wrong) = (0, 0, 0, Vec::new());
    let behind = unescaped(BEHIND, host);
    for attack in &table::all() {
        let Some(outcome) = of(attack) else { continue };
        let bytes = [&attack.bytes(host), behind.as_bytes()].concat();
        let heard = talk(to, &bytes, 2, QUIET).expect("a connection");
        let recorded = upstream.take();
        if let Err(error) = outcome.judge(host, &heard, &recorded) {
            wrong.push(format!("{}: {}\n    {error}", attack.name, attack.sent));
        }
        ran += 1;
        // The upstream may hear of the end of one only during the next.
        broken += usize::from(matches!(outcome, Outcome::Broken));
        cut += recorded.cut.len();
        assert!(cut <= broken, "{}: {recorded:?}", attack.name);
    }
    assert!(ran >= 250, "{ran} attacks");
    assert!(wrong.is_empty(), "{} of {ran}:\n{}", wrong.len(), wrong.join("\n"));
}

/// What other proxies do is recorded; what we do is checked above, and is what the tables say.
#[test]
fn the_table_of_attacks_is_current() {
    let shown = fs::read_to_string(root().join("tests/attacks.md")).expect("tests/attacks.md");
    let rows = shown.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| attack |"));
    let (rows, attacks) = (rows.collect::<Vec<_>>(), table::all());
    assert_eq!(rows.len(), attacks.len(), "run ./tests/attacks/reference");
    for (row, attack) in rows.into_iter().zip(attacks) {
        let ours = format!(" | {} | {} | ", code(&attack.sent), code(&attack.expected));
        let is_current = row.starts_with(&format!("| {}", attack.name)) && row.contains(&ours);
        assert!(is_current, "run ./tests/attacks/reference:\n{row}\n{}{ours}", attack.name);
    }
}
