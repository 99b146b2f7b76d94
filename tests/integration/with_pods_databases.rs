//! Do protocols pass that are none of ours? Redis sessions byte for byte through both sidecars, and a mail server that
//! speaks first.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::pair::{Pair, rule};
use crate::support::pods::{As, Pod};
use crate::support::process::Process;
use crate::support::wait_until;

/// By sidecars: 6379 is named by rules on both sides, 6380 by none.
fn pair() -> Pair {
    let outbound = json!({"rules": [
        {"name": "cache", "to": {"hosts": ["v4.shop.test", "v6.shop.test"], "ports": [6379]}, "protocol": "tcp", "tls": "none"},
        rule("other", &["other.shop.test"], &[6380, 2525]),
    ]});
    let inbound = json!({
        "ports": [6379, 2525], "protocol": "tcp",
        "rules": [
            {"name": "elsewhere", "effect": "deny", "from": {"sources": ["192.0.2.0/24"]}},
            {"name": "all", "public": true},
        ],
    });
    Pair::start(&outbound, &[inbound], &["--inbound-default", "pass"], "203.0.113.99 other.shop.test\n")
}

/// The server is one program with a tool, which goes by its name.
fn redis(pod: &Pod, port: u16) -> Process {
    let mut command = pod.command(As::Application, "bash");
    command.args(["-c", "exec -a redis-server redis-check-rdb \"$@\"", "redis-server"]);
    command.args(["--bind", "0.0.0.0", "::", "--port", &port.to_string(), "--protected-mode", "no"]);
    let server = Process::spawn("redis-server", command.args(["--save", ""]));
    wait_until("redis-server", Duration::from_secs(10), || {
        server.stdout().contains("Ready to accept connections")
    });
    server
}

/// redis-cli in a shell, so that it can be fed. What it prints.
fn cli(pod: &Pod, before: &str, host: &str, port: u16, command: &str) -> String {
    let line = format!("{before} redis-cli -h {host} -p {port} {command}");
    let done = pod.run(As::Application, "sh", &["-c", &line]);
    assert_eq!(done.code, Some(0), "{line}: {done:?}");
    done.stdout.trim_end().to_owned()
}

/// What the server itself has counted, asked for past the sidecars: what came in and what went out.
fn counted(pod: &Pod, port: u16) -> (u64, u64) {
    let text = cli(pod, "", "127.0.0.1", port, "INFO stats");
    let of = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a counter");
        line.trim().parse().expect("a number")
    };
    // The question is among what came in, and the answer to the one before among what went out.
    let (question, reset) = ("*2\r\n$4\r\nINFO\r\n$5\r\nstats\r\n".len() as u64, "+OK\r\n".len() as u64);
    (of("total_net_input_bytes:") - question, of("total_net_output_bytes:") - reset)
}

#[test]
fn redis_sessions_pass_byte_for_byte() {
    let pair = pair();
    let [a, b] = pair.pods();
    let _servers = [redis(b, 6379), redis(b, 6380)];
    for (port, host, reason) in
        [(6379, "v4.shop.test", "tcp"), (6379, "v6.shop.test", "tcp"), (6380, "v4.shop.test", "no_rule")]
    {
        assert_eq!(cli(b, "", "127.0.0.1", port, "CONFIG RESETSTAT"), "OK");
        let before = pair.bytes();
        // A few small ones on one connection, a large one each way, and one that waits to be told.
        let several = "printf 'SET one 1\\nINCR one\\nGET one\\n' |";
        assert_eq!(cli(a, several, host, port, ""), "OK\n2\n2");
        assert_eq!(cli(a, "head -c 3000000 /dev/zero | tr '\\0' x |", host, port, "-x SET large"), "OK");
        assert_eq!(cli(a, "", host, port, "GET large").len(), 3_000_000);
        let listen = format!("redis-cli -h {host} -p {port} SUBSCRIBE news");
        let listener = Process::spawn(
            "redis-cli",
            a.command(As::Application, "sh").args(["-c", &format!("exec {listen}")]),
        );
        wait_until("a subscription", Duration::from_secs(5), || listener.stdout().contains("subscribe"));
        assert_eq!(cli(a, "", host, port, "PUBLISH news 'it is out'"), "1");
        wait_until("the news", Duration::from_secs(5), || listener.stdout().contains("it is out"));
        drop(listener);

        let server = counted(b, port);
        assert!(server.0 > 3_000_000 && server.1 > 3_000_000, "{server:?}");
        let since = || -> Vec<(u64, u64)> {
            let now = pair.bytes();
            now.iter().zip(&before).map(|(now, before)| (now.0 - before.0, now.1 - before.1)).collect()
        };
        let mut seen = since();
        for _ in 0..20 {
            if seen == [server; 2] {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            seen = since();
        }
        assert_eq!(seen, [server; 2], "{host}:{port}: the sidecars, and the server");
        let bypassed =
            pair.checkout.scrape().sum("countersign_outbound_bypassed_total", &[("reason", reason)]);
        assert!(bypassed >= 5.0, "{reason}: {bypassed}");
    }
}

/// A mail server as small as can be, and Python's own client, which says nothing before it is greeted.
#[test]
fn a_server_that_speaks_first_is_heard_at_once_through_both() {
    let pair = pair();
    let [a, b] = pair.pods();
    let _server = Process::spawn("a mail server", b.command(As::Root, "python3").args(["-c", SERVER]));
    let listens = || b.run(As::Root, "ss", &["-Htln", "sport = :2525"]).stdout.contains("2525");
    wait_until("the mail server", Duration::from_secs(10), listens);
    // 2525 is a port of a rule for HTTP, to somebody else.
    for host in [b.v4.to_string(), b.v6.to_string(), "v4.shop.test".to_owned()] {
        let done = a.run(As::Root, "python3", &["-c", CLIENT, &host]);
        assert_eq!(done.code, Some(0), "{host}: {}\n{}", done.stderr, pair.checkout.log());
        let seen: Value = serde_json::from_str(&done.stdout).expect("a line of JSON");
        assert_eq!(seen["said"], json!([250, "mail.shop.test"]), "{seen}");
        assert!(seen["seconds"].as_f64().is_some_and(|seconds| seconds < 1.0), "{host}: {seen}");
    }
    let passed = [("direction", "inbound"), ("protocol", "tcp"), ("decision", "allow")];
    assert_eq!(pair.orders.scrape().sum("countersign_requests_total", &passed), 3.0);
}

const SERVER: &str = r#"
import socket, socketserver
class Mail(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 mail.shop.test\r\n")
        for line in self.rfile:
            if line.upper().startswith(b"QUIT"):
                self.wfile.write(b"221 mail.shop.test\r\n")
                return
            self.wfile.write(b"250 mail.shop.test\r\n")
class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
Server(("::", 2525), Mail).serve_forever()
"#;

const CLIENT: &str = r#"
import json, smtplib, sys, time
start = time.monotonic()
mail = smtplib.SMTP(sys.argv[1], 2525, local_hostname="checkout", timeout=10)
seconds = time.monotonic() - start
code, text = mail.ehlo()
print(json.dumps({"seconds": seconds, "said": [code, text.decode()]}))
mail.quit()
"#;
