//! What if the control plane dies? Sidecars go on, start from disk meanwhile, and catch up when it is back.

use std::time::Duration;

use serde_json::json;

use crate::support::client::{get, get_with};
use crate::support::control::Control;
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{Folder, LOCAL_ISSUER, inbound, issuer_inline, usual_rules};
use crate::support::process::temporary;
use crate::support::upstream::Upstream;
use crate::support::{wait_for_state, wait_until};

fn policies(key: &Key, rules: &serde_json::Value) -> String {
    issuer_inline(&key_set(&[key])) + &inbound(rules)
}

#[test]
fn a_change_reaches_the_sidecar_within_a_second_timed() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let folder = Folder::with(&[("orders.yaml", &policies(&key, &usual_rules()))]);
    let control = Control::start(folder.path(), &[]);
    let proxy = control.sidecar("orders").before(upstream.address()).start();
    let token = key.token(&claims(LOCAL_ISSUER, &json!({})));
    assert_eq!(get_with(proxy.inbound(), "/orders", &token).status, 200);
    assert_eq!(get_with(proxy.inbound(), "/new", &token).status, 403);
    folder.write(
        "orders.yaml",
        &policies(&key, &json!([{"name": "new", "to": {"paths": ["/new"]}, "from": {}}])),
    );
    let took = wait_until("the change", Duration::from_secs(1), || {
        get_with(proxy.inbound(), "/new", &token).status == 200
    });
    println!("through the control plane: {took:?}");

    // What is wrong with the next version is known there, and changes nothing here.
    folder.write("orders.yaml", "kind: [\n");
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(get_with(proxy.inbound(), "/new", &token).status, 200);
    assert!(control.process.stderr().contains("orders.yaml"), "the control plane does not say what is wrong");
}

#[test]
fn kill_9_of_the_control_plane_harms_nobody() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let (_state, state) = temporary();
    let folder = Folder::with(&[("orders.yaml", &policies(&key, &usual_rules()))]);
    let mut control = Control::start(folder.path(), &[]);
    let state_dir = state.join("sidecar");
    let with_state = ["--state-dir", &*state_dir.to_string_lossy()];
    let mut proxy = control.sidecar("orders").with(&with_state).before(upstream.address()).start();
    let without_state = control.sidecar("orders").before(upstream.address());
    let token = key.token(&claims(LOCAL_ISSUER, &json!({})));
    let check = |to| {
        assert_eq!(get_with(to, "/orders", &token).status, 200);
        assert_eq!(get(to, "/orders", &[]).reason(), "missing_token");
        assert_eq!(get_with(to, "/orders/secret", &token).reason(), "denied_by_rule");
    };
    check(proxy.inbound());

    wait_for_state(&state_dir, "policy");

    control.kill();
    check(proxy.inbound());
    // A sidecar that is restarted meanwhile starts from disk, and one that has no disk refuses.
    proxy.restart();
    proxy.wait_ready();
    check(proxy.inbound());
    let fresh = without_state.launch();
    assert!(!fresh.is_ready());
    assert_eq!(get_with(fresh.inbound(), "/orders", &token).reason(), "policy_unavailable");

    // A damaged file is as good as none: it refuses rather than guesses.
    for entry in std::fs::read_dir(&state_dir).unwrap().flatten() {
        let (path, mode) =
            (entry.path(), std::os::unix::fs::PermissionsExt::mode(&entry.metadata().unwrap().permissions()));
        if path.is_file() {
            assert_eq!(mode & 0o777, 0o600, "{path:?}");
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    proxy.restart();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!proxy.is_ready(), "a damaged file was believed");
    assert_eq!(get_with(proxy.inbound(), "/orders", &token).reason(), "policy_unavailable");

    // It is back: so is everybody.
    folder.write(
        "orders.yaml",
        &policies(&key, &json!([{"name": "new", "to": {"paths": ["/new"]}, "from": {}}])),
    );
    control.restart();
    for to in [proxy.inbound(), fresh.inbound()] {
        wait_until("the new policy", Duration::from_secs(30), || get_with(to, "/new", &token).status == 200);
    }
}
