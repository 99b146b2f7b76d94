//! What do the commands say to a person? Exit codes and errors of one line that name what is wrong.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::binary;
use crate::support::client::{get, get_with};
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{
    Folder, LOCAL_ISSUER, document, inbound, inbound_with, issuer_with_file, usual_rules,
};
use crate::support::ports::Port;
use crate::support::process::{Finished, run, temporary};
use crate::support::proxy::Settings;
use crate::support::upstream::Upstream;
use crate::support::{wait_for_state, wait_until};

fn proxy(arguments: &[&str]) -> Finished {
    run(Command::new(binary("countersign-proxy")).args(arguments), Duration::from_secs(20))
}

fn control(arguments: &[&str]) -> Finished {
    run(Command::new(binary("countersign-control")).args(arguments), Duration::from_secs(20))
}

#[test]
fn usage_and_configuration_errors_are_exit_2_and_say_what_to_do() {
    let good = Folder::with(&[("policy.yaml", "")]);
    let bad = Folder::with(&[(
        "orders.yaml",
        "apiVersion: countersign.dev/v1alpha1\nkind: Isuer\nmetadata: { name: a }\nspec: {}\n",
    )]);
    let (good, bad) = (good.path().display().to_string(), bad.path().display().to_string());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let admin = Port::lease().address().to_string();
    let (out, listen) = (["--outbound", "127.0.0.1:0"], Port::lease().address().to_string());
    for (arguments, words) in [
        (vec!["run"], &["--inbound"][..]),
        (vec!["run", "--policies", &good], &["--inbound"]),
        (vec!["run", out[0], out[1]], &["--policies", "--control"]),
        (
            vec!["run", "--policies", "/nowhere/at/all", out[0], out[1], "--admin", &admin],
            &["/nowhere/at/all"],
        ),
        (vec!["run", "--policies", &bad, out[0], out[1], "--admin", &admin], &["orders.yaml", "Isuer"]),
        (vec!["run", "--policies", &good, "--outbound", "0.0.0.0:1"], &["--outbound", "loopback"]),
        (vec!["run", "--policies", &good, out[0], out[1], "--admin", "0.0.0.0:1"], &["--admin", "loopback"]),
        (vec!["run", "--policies", &good, "--outbound", &listen, "--admin", &taken], &[&taken]),
        (vec!["run", "--policies", &good, "--inbound", "8080"], &["--inbound", "ADDR=TARGET"]),
        (
            vec![
                "run",
                "--policies",
                &good,
                out[0],
                out[1],
                "--admin",
                &admin,
                "--max-connections",
                "99999999",
            ],
            &["--max-connections 99999999", "ulimit -n"],
        ),
        (vec!["run", "--polices", &good], &["--polices"]),
    ] {
        let done = proxy(&arguments);
        assert_eq!(done.code, Some(2), "{arguments:?}: {done:?}");
        for word in words {
            assert!(done.stderr.contains(word), "{arguments:?} does not say {word}: {}", done.stderr);
        }
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    }
}

#[test]
fn check_is_0_1_or_2() {
    let good = Folder::with(&[("policy.yaml", &(issuer_with_file("k.jwks") + &inbound(&usual_rules())))]);
    let bad = Folder::with(&[("orders.yaml", "kind: [\n")]);
    let check = |path: &str| control(&["check", path]).code;
    assert_eq!(check(&good.path().to_string_lossy()), Some(0));
    assert_eq!(check(&good.file("policy.yaml").to_string_lossy()), Some(0));
    assert_eq!(check(&bad.path().to_string_lossy()), Some(1));
    assert_ne!(check("/nowhere/at/all"), Some(0));
    assert_eq!(control(&["check"]).code, Some(2));
}

#[test]
fn wait_is_0_when_ready_and_1_when_not() {
    let folder = Folder::with(&[("policy.yaml", "")]);
    let proxy_ = Settings::policies(folder.path(), "orders").start();
    assert_eq!(proxy(&["wait", "--admin", &proxy_.admin().to_string()]).code, Some(0));
    let start = Instant::now();
    let nobody = Port::lease().address().to_string();
    let done = proxy(&["wait", "--admin", &nobody, "--timeout", "1"]);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains(&nobody) && start.elapsed() < Duration::from_secs(5), "{done:?}");
}

/// A folder without policy is a valid policy that lets nobody in; a port that nobody selects likewise.
#[test]
fn what_no_policy_selects_is_refused_unless_a_flag_says_otherwise() {
    let upstream = Upstream::start();
    let empty = Folder::with(&[]);
    let others = Folder::with(&[("policy.yaml", &(issuer_with_file("k.jwks") + &inbound(&usual_rules())))]);
    for (folder, app, flags, status) in [
        (&empty, "orders", &[][..], 403),
        (&others, "somebody-else", &[], 403),
        (&others, "somebody-else", &["--inbound-default", "pass"], 200),
        (&others, "somebody-else", &["--inbound-default", "audit"], 200),
    ] {
        let proxy = Settings::policies(folder.path(), app).with(flags).before(upstream.address()).start();
        let answer = get(proxy.inbound(), "/orders", &[]);
        assert_eq!(answer.status, status, "{app} {flags:?}");
        if status == 403 {
            assert_eq!(answer.reason(), "no_rule");
        }
    }
    assert_eq!(upstream.count(), 2);
}

/// A policy in audit mode refuses nothing, and counts what it would have refused.
#[test]
fn audit_mode_lets_pass_and_counts() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let folder = Folder::with(&[
        (
            "policy.yaml",
            &(issuer_with_file("keys.jwks") + &inbound_with(&usual_rules(), &json!({"mode": "audit"}))),
        ),
        ("keys.jwks", &key_set(&[&key]).to_string()),
    ]);
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    let to = proxy.inbound();
    assert_eq!(get(to, "/orders", &[]).status, 200);
    assert_eq!(get_with(to, "/orders", "nonsense").status, 200);
    assert_eq!(get_with(to, "/orders/secret", &key.token(&claims(LOCAL_ISSUER, &json!({})))).status, 200);
    assert_eq!(get(to, "/orders/%2e%2e", &[]).status, 400, "bad framing is refused all the same");
    let scrape = proxy.scrape();
    for reason in ["missing_token", "malformed_token", "denied_by_rule"] {
        let counted = scrape.sum("countersign_requests_total", &[("decision", "audit"), ("reason", reason)]);
        assert!((counted - 1.0).abs() < f64::EPSILON, "{reason}: {counted}");
    }
    let inbound = [("direction", "inbound")];
    let (requests, timed) = (
        scrape.sum("countersign_requests_total", &inbound),
        scrape.sum("countersign_request_duration_seconds_count", &inbound),
    );
    assert!((requests - 4.0).abs() < f64::EPSILON, "four requests count as {requests}");
    assert!((timed - 4.0).abs() < f64::EPSILON, "four requests are timed as {timed}");
}

/// What is decided without a token waits for no issuer, also where a shadow rule or audit mode would like to know more.
#[test]
fn a_public_path_waits_for_no_keys() {
    let (key, upstream, silent) = (Key::new("k1"), Upstream::start(), Port::lease());
    let _listener = TcpListener::bind(silent.address()).unwrap();
    let keys = json!({"uri": format!("http://{}/jwks", silent.address())});
    let spec = json!({"issuer": LOCAL_ISSUER, "insecure": true, "jwks": keys});
    let mut rules = usual_rules();
    rules
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "trial", "shadow": true, "effect": "deny", "to": {"paths": ["/healthz"]}}));
    let token = key.token(&claims(LOCAL_ISSUER, &json!({})));
    for mode in ["enforce", "audit"] {
        let policy = document("Issuer", "corp", &spec) + &inbound_with(&rules, &json!({"mode": mode}));
        let folder = Folder::with(&[("policy.yaml", &policy)]);
        let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
        let start = Instant::now();
        assert_eq!(get_with(proxy.inbound(), "/healthz", &token).status, 200, "{mode}");
        assert!(start.elapsed() < Duration::from_millis(1900), "{mode}: {:?}", start.elapsed());
        let shadow = [("rule", "trial"), ("would", "deny")];
        let counted = proxy.scrape().sum("countersign_shadow_decisions_total", &shadow);
        assert!((counted - 1.0).abs() < f64::EPSILON, "{mode}: {counted}");
    }
}

/// Broken policy at the start: the last good from the state directory, else exit 2 (above).
#[test]
fn a_bad_start_uses_the_last_good_policy_of_the_same_workload() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let (_state, state) = temporary();
    let state = state.join("state").display().to_string();
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&usual_rules()))),
        ("keys.jwks", &key_set(&[&key]).to_string()),
    ]);
    let settings = || Settings::policies(folder.path(), "orders").before(upstream.address());
    let mut proxy_ = settings().with(&["--state-dir", &state]).start();
    let token = key.token(&claims(LOCAL_ISSUER, &json!({})));
    assert_eq!(get_with(proxy_.inbound(), "/orders", &token).status, 200);
    wait_for_state(std::path::Path::new(&state), "policy");
    folder.write("policy.yaml", "kind: [\n");
    proxy_.restart();
    proxy_.wait_ready();
    assert_eq!(get_with(proxy_.inbound(), "/orders", &token).status, 200);
    assert!(proxy_.log().contains("policy.yaml"), "the log does not say what is wrong");

    // What was kept for one workload is nothing to another.
    let path = folder.path().display().to_string();
    let admin = Port::lease().address().to_string();
    let other = proxy(&[
        "run",
        "--policies",
        &path,
        "--namespace",
        "shop",
        "--workload",
        "other",
        "--outbound",
        "127.0.0.1:0",
        "--admin",
        &admin,
        "--state-dir",
        &state,
    ]);
    assert_eq!(other.code, Some(2), "{other:?}");
}

/// Every flag is an environment variable too.
#[test]
fn the_environment_configures_it_as_well() {
    let (upstream, folder) = (Upstream::start(), Folder::with(&[]));
    let (inbound, admin) = (Port::lease(), Port::lease());
    let mut command = Command::new(binary("countersign-proxy"));
    command.arg("run").env("COUNTERSIGN_POLICIES", folder.path()).env("COUNTERSIGN_INBOUND_DEFAULT", "pass");
    command.env("COUNTERSIGN_INBOUND", format!("{}={}", inbound.address(), upstream.address()));
    command.env("COUNTERSIGN_ADMIN", admin.address().to_string());
    let _process = crate::support::process::Process::spawn("countersign-proxy", &mut command);
    assert_eq!(proxy(&["wait", "--admin", &admin.address().to_string()]).code, Some(0));
    assert_eq!(get(inbound.address(), "/", &[]).status, 200);
}

/// `/explain` tells the operator what the caller is not told.
#[test]
fn a_refusal_can_be_explained() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&usual_rules()))),
        ("keys.jwks", &key_set(&[&key]).to_string()),
    ]);
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    let token = key.token(&claims(LOCAL_ISSUER, &json!({})));
    let refused = get_with(proxy.inbound(), "/orders/secret/1", &token);
    assert_eq!(refused.reason(), "denied_by_rule");
    assert!(!refused.text().contains("closed"), "the caller learns the rule's name: {}", refused.text());
    let id = refused.json()["decision_id"].as_str().unwrap().to_owned();
    let explained = get(proxy.admin(), &format!("/explain?decision={id}"), &[]).json();
    assert_eq!(
        (&explained["policy"], &explained["rule"]),
        (&json!("shop/orders"), &json!("closed")),
        "{explained}"
    );
    assert_eq!(explained["reason"], "denied_by_rule");
    wait_until("the access log", Duration::from_secs(5), || proxy.process.stdout().contains(&id));
}
