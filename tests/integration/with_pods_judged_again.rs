//! Does what goes out as bytes rest on the policy of today? Connections that were let pass, and another policy, in simulated
//! pods.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::meshed::Meshed;
use crate::support::pods::{As, Net, Pod, open_to_all};
use crate::support::policy::{Folder, document};
use crate::support::process::Process;
use crate::support::wait_until;

/// A connection that asks again and again, and prints each answer.
fn held(pod: &Pod, to: &Pod, port: u16) -> Process {
    let witness = pod.own(As::Application, "countersign-witness");
    let path = witness.get_args().last().expect("the program").to_string_lossy().into_owned();
    let says = format!("(for i in $(seq 200); do sleep 0.2; echo; done) | {path} hold {}", to.at(port)[0]);
    Process::spawn("countersign-witness", pod.command(As::Application, "sh").args(["-c", &says]))
}

/// The same, by what looks like TLS.
fn held_by_tls(pod: &Pod, to: &Pod, port: u16) -> Process {
    let mut command = pod.command(As::Root, "python3");
    command.args(["-u", "-c", TLS, &to.v4.to_string(), &port.to_string()]);
    Process::spawn("python3", &mut command)
}

const TLS: &str = r#"
import socket, sys, time
server = socket.create_connection((sys.argv[1], int(sys.argv[2])))
answers = server.makefile()
try:
    while answer := answers.readline():
        print(answer.strip())
        time.sleep(0.2)
        server.sendall(b"\x16")
except ConnectionResetError:
    print("error")
"#;

fn lines(held: &Process) -> usize {
    held.stdout().lines().count()
}

/// A rule for the server on this port, in plain text.
fn to(port: u16, more: &Value) -> Value {
    let mut rule = json!({"name": format!("port-{port}"), "to": {"hosts": ["db.shop.test"], "ports": [port]}, "tls": "none"});
    rule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    rule
}

#[test]
fn what_goes_out_as_bytes_ends_when_policy_does_not_let_it_pass_any_more() {
    let policy = |spec: &Value| document("OutboundPolicy", "checkout", spec);
    let tcp = json!({"protocol": "tcp"});
    let patient = json!({"protocol": "tcp", "timeouts": {"connect": "3s", "idle": "20s"}});
    let net = Net::with_pods(2);
    let [a, b] = &net.pods[..] else { panic!() };
    a.hosts(&format!("127.0.0.1 localhost\n{} db.shop.test\n", b.v4));
    let before = json!({"rules": [to(7000, &tcp), to(7001, &tcp), to(7002, &tcp)]});
    let folder = Folder::with(&[("policy.yaml", &policy(&before))]);
    let checkout = Meshed::start(a, folder.path(), "checkout", &[]);
    let _servers: Vec<_> = (7000..7005).map(|port| b.witness(As::Root, &b.at(port))).collect();

    let mut held: Vec<_> = (7000..7004).map(|port| held(a, b, port)).collect();
    held.push(held_by_tls(a, b, 7004));
    wait_until("answers", Duration::from_secs(10), || held.iter().all(|held| lines(held) > 2));
    let ended = |reason: &str| {
        let labels = [("decision", "reject"), ("reason", reason)];
        checkout.scrape().sum("countersign_streams_ended_total", &labels)
    };
    let change = |spec: &Value| {
        let reloads = || checkout.scrape().sum("countersign_policy_reloads_total", &[("result", "applied")]);
        let already = reloads();
        folder.write("policy.yaml", &policy(spec));
        open_to_all(folder.path());
        wait_until("a policy", Duration::from_secs(10), || reloads() > already);
    };
    // Other timeouts are for connections to come, a rule more is none of these, and TLS is none for HTTP, though nobody listened.
    let http = json!({"name": "http", "to": {"hosts": ["*.shop.test"], "ports": [7004]}, "tls": "none"});
    change(
        &json!({"rules": [to(7000, &patient), to(7001, &patient), to(7002, &patient), to(7009, &tcp), http]}),
    );
    let so_far: Vec<_> = held.iter().map(lines).collect();
    wait_until("more answers", Duration::from_secs(10), || {
        held.iter().zip(&so_far).all(|(held, so_far)| lines(held) > so_far + 2)
    });
    assert_eq!(ended("egress_denied") + ended("no_rule"), 0.0);

    // The first is still named; the third is HTTP; the others are not named.
    change(&json!({"egress": "deny", "rules": [to(7000, &tcp), to(7002, &json!({}))]}));
    wait_until("four ends", Duration::from_secs(10), || {
        held[1..].iter().all(|held| held.stdout().contains("error"))
    });
    assert_eq!((ended("egress_denied"), ended("no_rule")), (3.0, 1.0), "{}", checkout.log());
    let so_far = lines(&held[0]);
    wait_until("more answers", Duration::from_secs(10), || lines(&held[0]) > so_far + 2);
    assert!(!held[0].stdout().contains("error"), "{}", held[0].stdout());
    let line = checkout.access_log().into_iter().find(|line| line["reason"] == "no_rule").expect("a line");
    let host = format!("{}:7002", b.v4);
    assert_eq!(
        (line["host"].as_str(), line["direction"].as_str()),
        (Some(&*host), Some("outbound")),
        "{line}"
    );
}
