//! What does the access log tell, and how much of it? One JSON object per line, its trace, and a flood that does not fill a disk.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::{Connection, get, raw};
use crate::support::policy::{Folder, document, inbound_with};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tools::curl_to_the_end;
use crate::support::upstream::Upstream;
use crate::support::{root, wait_until};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What is below `/orders` is for everybody, anything else for nobody.
fn orders(target: SocketAddr, access_log: &str) -> (Proxy, Folder) {
    let rules = json!([{"name": "all", "public": true, "to": {"paths": ["/orders/*"]}}]);
    let folder = Folder::with(&[("policy.yaml", &inbound_with(&rules, &json!({"tokens": []})))]);
    let settings = Settings::policies(folder.path(), "orders").before(target);
    (settings.with(&["--access-log", access_log]).start(), folder)
}

/// The lines so far: objects, of fields that README.md explains.
fn lines(proxy: &Proxy) -> Vec<Value> {
    let (text, explained) = (proxy.process.stdout(), explained());
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")));
    let check = |line: &Value| {
        let mut fields = line.as_object().expect("an object").keys();
        assert!(fields.all(|field| explained.contains(field)), "not in README.md: {line}");
    };
    lines.inspect(check).collect()
}

/// The fields in the table of README.md.
fn explained() -> BTreeSet<String> {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let (_, section) = readme.split_once("\n### Access log\n").expect("the section");
    let (table, _) = section.split_once("\n- ").expect("the table ends");
    let names =
        table.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
    names.flat_map(|names| names.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn readme_explains_no_field_that_is_not_there() {
    let source = fs::read_to_string(root().join("proxy/src/record/entry.rs")).expect("the source");
    let (_, entry) = source.split_once("pub struct Entry {").expect("what is recorded");
    let (entry, _) = entry.split_once("\n}").expect("it ends");
    let fields: BTreeSet<&str> =
        entry.lines().filter_map(|line| Some(line.strip_prefix("    pub ")?.split_once(':')?.0)).collect();
    let explained = explained();
    assert!(explained.len() > 12, "{explained:?}");
    for field in &explained {
        assert!(fields.contains(&**field) || field == "suppressed", "{field} is no field of the log");
    }
}

/// The line of the request for this path.
fn line_of(proxy: &Proxy, path: &str) -> Value {
    let find = || lines(proxy).into_iter().find(|line| line["path"] == path);
    wait_until("its line in the access log", Duration::from_secs(5), || find().is_some());
    find().expect("it was there")
}

#[test]
fn a_trace_passes_unchanged_and_is_logged_and_explained() {
    let upstream = Upstream::start();
    let (proxy, _folder) = orders(upstream.address(), "all");
    let authority = format!("localhost:{}", upstream.port());
    for (to, host, path) in [
        (proxy.inbound(), "orders.shop", "/orders/in"),
        (proxy.outbound(), authority.as_str(), "/orders/out"),
    ] {
        let fields =
            [("Host", host), ("Traceparent", TRACE), ("tracestate", "a=1,b=2"), ("tracestate", "c@d=3")];
        assert_eq!(get(to, path, &fields).status, 200);
        let seen = upstream.last();
        assert_eq!(seen.all("traceparent"), [TRACE]);
        assert_eq!(seen.all("tracestate"), ["a=1,b=2", "c@d=3"]);
        let line = line_of(&proxy, path);
        assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736", "{line}");
        assert_eq!(line["span_id"], "00f067aa0ba902b7");
        // Nor can the caller have it removed on the way.
        let nominated =
            get(to, path, &[("Host", host), ("traceparent", TRACE), ("Connection", "traceparent")]);
        assert_eq!((nominated.status, nominated.reason().as_str()), (400, "bad_request"));
    }
    let refused = get(proxy.inbound(), "/other", &[("traceparent", TRACE)]);
    assert_eq!(refused.status, 403);
    let id = refused.json()["decision_id"].as_str().expect("an id").to_owned();
    let explained = get(proxy.admin(), &format!("/explain?decision={id}"), &[]).json();
    assert_eq!(explained["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736", "{explained}");
    assert_eq!(explained["span_id"], "00f067aa0ba902b7");
}

#[test]
fn a_trace_that_is_not_valid_passes_and_is_not_believed() {
    let upstream = Upstream::start();
    let (proxy, _folder) = orders(upstream.address(), "all");
    let upper = TRACE.to_uppercase();
    let cases = [vec![upper.as_str()], vec!["ff-x\"y"], vec![TRACE, TRACE], vec![]];
    for (n, fields) in cases.into_iter().enumerate() {
        let path = format!("/orders/{n}");
        let headers: Vec<_> = fields.iter().map(|field| ("traceparent", *field)).collect();
        assert_eq!(get(proxy.inbound(), &path, &headers).status, 200);
        assert_eq!(upstream.last().all("traceparent"), fields, "none is invented either");
        let line = line_of(&proxy, &path);
        assert!(line.get("trace_id").is_none() && line.get("span_id").is_none(), "{line}");
    }
}

#[test]
fn what_callers_write_cannot_break_a_line() {
    let upstream = Upstream::start();
    let (proxy, _folder) = orders(upstream.address(), "all");
    let path = "/orders/\"quoted\"{}'";
    assert_eq!(get(proxy.inbound(), path, &[]).status, 200);
    assert_eq!(line_of(&proxy, path)["method"], "GET");
    let long = format!("/orders/{}", "a".repeat(5000));
    assert_eq!(get(proxy.inbound(), &long, &[("Host", "a.example")]).status, 200);
    assert_eq!(line_of(&proxy, &long[..256])["host"], "a.example");
    // A header of bytes that are no UTF-8.
    let mut connection = Connection::open(proxy.inbound()).expect("a connection");
    connection.send(b"GET /other HTTP/1.1\r\nHost: a\xff\"\\\xc3\r\n\r\n").expect("it reads");
    assert_eq!(connection.answer("GET").expect("an answer").status, 400);
    assert_eq!(line_of(&proxy, "/other")["host"], "", "it is none");
}

/// What is a host is shown as one, however it was written; what is none may hold what nobody should read.
#[test]
fn what_is_no_host_reaches_neither_log_nor_page() {
    let upstream = Upstream::start();
    let rules = json!([{"name": "all", "public": true, "to": {"paths": ["/orders/*"]}}]);
    let folder = Folder::with(&[("policy.yaml", &inbound_with(&rules, &json!({"tokens": []})))]);
    let settings = Settings::policies(folder.path(), "orders").before(upstream.address()).tracing();
    let proxy = settings.with(&["--access-log", "all"]).start();
    let cases = [
        ("http://user:S3CR3T@localhost/", "localhost"),
        ("/", "user:S3CR3T@localhost"),
        ("/", "S3CR3T@localhost:80"),
        ("/", "a?token=S3CR3T"),
        ("/", "a#S3CR3T"),
        ("/", "a/S3CR3T"),
        ("/", "a?b@S3CR3T"),
        ("http://localhost?token=S3CR3T", "localhost"),
        ("user:S3CR3T@localhost", "localhost"),
        ("user:S3CR3T@localhost:443", "localhost:443"),
    ];
    let all = cases.iter().flat_map(|case| ["GET", "CONNECT"].map(|method| (method, case)));
    let mut logged = 0;
    for (method, (target, host)) in all {
        for to in [proxy.inbound(), proxy.outbound()] {
            let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let answer = raw(to, head.as_bytes()).expect("an answer");
            assert!(!format!("{answer:?}").contains("S3CR3T"), "{head:?}: {answer:?}");
            if answer.header("x-countersign-reason").is_none() {
                // It was never a request.
                continue;
            }
            let id = answer.json()["decision_id"].as_str().expect("an id").to_owned();
            for accept in ["application/json", "text/plain"] {
                let page = get(proxy.admin(), &format!("/explain?decision={id}"), &[("Accept", accept)]);
                assert!(page.status == 200 && !page.text().contains("S3CR3T"), "{head:?}: {}", page.text());
            }
            logged += 1;
        }
    }
    wait_until("all lines", Duration::from_secs(5), || lines(&proxy).len() >= logged);
    assert!(logged > 20, "{logged}");
    assert_eq!(get(proxy.inbound(), "/orders/1", &[("Host", "Orders.Shop.:8080")]).status, 200);
    assert_eq!(line_of(&proxy, "/orders/1")["host"], "orders.shop:8080");
    for text in [proxy.process.stdout(), proxy.process.stderr(), get(proxy.admin(), "/metrics", &[]).text()] {
        assert!(!text.contains("S3CR3T"), "{text}");
    }
}

#[test]
fn a_flood_of_refusals_is_told_in_few_lines_and_counted_in_full() {
    let upstream = Upstream::start();
    let (proxy, _folder) = orders(upstream.address(), "denied");
    let mut connection = Connection::open(proxy.inbound()).expect("a connection");
    for _ in 0..2000 {
        assert_eq!(connection.request("GET", "/flood", &[], b"").expect("an answer").status, 403);
    }
    // Another reason has room of its own meanwhile.
    assert_eq!(get(proxy.inbound(), "/orders//two", &[]).reason(), "ambiguous_path");
    line_of(&proxy, "/orders//two");
    // More than the tenth of a second in which there is room for another line.
    std::thread::sleep(Duration::from_millis(250));
    assert_eq!(get(proxy.inbound(), "/after", &[]).status, 403);
    let after = line_of(&proxy, "/after");
    let suppressed = |line: &Value| line["suppressed"].as_u64().unwrap_or(0);
    assert!(suppressed(&after) > 0, "{after}");
    let all = lines(&proxy);
    let floods = all.iter().filter(|line| line["path"] == "/flood").count();
    assert!((100..1000).contains(&floods), "{floods}");
    // Nothing is lost of what was left out: it is on the lines, and in the metric.
    let told: u64 = all.iter().map(suppressed).sum();
    assert_eq!(told + u64::try_from(floods).expect("a number"), 2000);
    let counted = |cause| proxy.scrape().sum("countersign_access_log_dropped_total", &[("cause", cause)]);
    assert!((counted("rate_limited") - told as f64).abs() < f64::EPSILON, "{told}");
    assert!(counted("full") < f64::EPSILON);
}

#[test]
fn a_trace_that_its_caller_samples_is_logged_where_few_are() {
    let upstream = Upstream::start();
    let (proxy, _folder) = orders(upstream.address(), "1%");
    let not_sampled = TRACE.replace("-01", "-00");
    for (path, trace) in [("/orders/silent", &*not_sampled), ("/orders/told", TRACE)] {
        assert_eq!(get(proxy.inbound(), path, &[("traceparent", trace)]).status, 200);
    }
    line_of(&proxy, "/orders/told");
    assert_eq!(lines(&proxy).len(), 1);
}

#[test]
fn what_audit_mode_would_refuse_is_logged_with_the_refused() {
    let upstream = Upstream::start();
    let rules = json!([{"name": "all", "public": true, "to": {"paths": ["/orders/*"]}}]);
    let audit = inbound_with(&rules, &json!({"tokens": [], "mode": "audit"}));
    let folder = Folder::with(&[("policy.yaml", &audit)]);
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    assert_eq!(get(proxy.inbound(), "/orders/fine", &[]).status, 200);
    assert_eq!(get(proxy.inbound(), "/other", &[]).status, 200);
    let line = line_of(&proxy, "/other");
    assert_eq!((&line["decision"], &line["reason"]), (&json!("audit"), &json!("no_rule")), "{line}");
    assert_eq!(lines(&proxy).len(), 1, "what would pass is not of interest");
}

/// Beside what is enforced: a shadow rule that would deny, and a policy in audit mode that would not allow.
#[test]
fn differences_are_told_in_few_lines_too() {
    let upstream = Upstream::start();
    let rules = json!([
        {"name": "all", "public": true, "to": {"paths": ["/orders/*"]}},
        {"name": "soon", "shadow": true, "effect": "deny", "to": {"paths": ["/orders/old/*"]}},
    ]);
    let audit = json!({
        "workloads": {"labels": {"app": "orders"}}, "mode": "audit",
        "rules": [{"name": "new", "public": true, "to": {"paths": ["/orders/new/*"]}}],
    });
    let text = inbound_with(&rules, &json!({"tokens": []})) + &document("InboundPolicy", "next", &audit);
    let folder = Folder::with(&[("policy.yaml", &text)]);
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    let mut connection = Connection::open(proxy.inbound()).expect("a connection");
    let mut ask = |path: &str| connection.request("GET", path, &[], b"").expect("an answer").status;
    for _ in 0..1000 {
        assert_eq!(ask("/orders/old/1"), 200);
    }
    assert_eq!(ask("/orders/new/1"), 200);
    std::thread::sleep(Duration::from_millis(250));
    assert_eq!(ask("/orders/old/last"), 200);
    let words = ["a shadow rule would decide otherwise", "an audit policy would decide otherwise"];
    let told = |words: &str| -> Vec<String> {
        proxy.process.stderr().lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    };
    for words in words {
        let last = || told(words).into_iter().find(|line| line.contains("/orders/old/last"));
        wait_until(words, Duration::from_secs(5), || last().is_some());
        let count = told(words).len();
        assert!((101..500).contains(&count), "{words}: {count}");
        assert!(!last().expect("as above").contains(r#""suppressed":0"#), "{:?}", last());
        assert!(!told(words).iter().any(|line| line.contains("/orders/new")), "both agree there");
    }
    let labels = [("rule", "soon"), ("would", "deny")];
    let counted = proxy.scrape().sum("countersign_shadow_decisions_total", &labels);
    assert!((counted - 1001.0).abs() < f64::EPSILON, "every one counts: {counted}");
}

/// Who does not wait for the answer has been let through all the same, and does not get past the log.
#[test]
fn a_request_whose_caller_does_not_wait_is_logged_and_counted() {
    let upstream = Upstream::start();
    let (proxy, _folder) = orders(upstream.address(), "all");
    let host = format!("Host: localhost:{}", upstream.port());
    let ways = [(proxy.inbound(), "inbound", "allow"), (proxy.outbound(), "outbound", "bypass")];
    let versions = [("--http1.1", "http1"), ("--http2-prior-knowledge", "http2")];
    let all = ways.iter().flat_map(|way| versions.map(|version| (way, version)));
    for ((to, ..), (version, _)) in all.clone() {
        let url = format!("http://{to}/orders/slow/600000");
        let gone = curl_to_the_end(&[version, "--max-time", "0.3", "-H", &host, &url]);
        assert_eq!(gone.code, Some(28), "{}", gone.stderr);
    }
    // Over HTTP/1.1 it may have ended its side alone, and is waited for.
    wait_until("the lines", Duration::from_secs(20), || lines(&proxy).len() == 4);
    for ((_, direction, decision), (_, protocol)) in all {
        let found = lines(&proxy)
            .into_iter()
            .find(|line| (&line["direction"], &line["protocol"]) == (&json!(direction), &json!(protocol)));
        let line = found.expect("its line");
        assert_eq!(line["decision"], *decision, "{line}");
        assert!(line.get("status").is_none() && line.get("reason").is_none(), "{line}");
        let labels = [("direction", *direction), ("protocol", protocol), ("decision", decision)];
        assert_eq!(proxy.scrape().sum("countersign_requests_total", &labels), 1.0, "{line}");
    }
    assert_eq!(upstream.count(), 4);
}
