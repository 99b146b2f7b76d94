//! Does Prometheus read us? A real scrape, and promtool's opinion of the page.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::support::client::{get, get_with};
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{Folder, LOCAL_ISSUER, inbound, issuer_with_file, usual_rules};
use crate::support::ports::Port;
use crate::support::process::{Process, temporary};
use crate::support::proxy::{Proxy, Settings};
use crate::support::tools::prometheus;
use crate::support::upstream::Upstream;
use crate::support::wait_until;

/// A sidecar that has let through one request and refused another.
fn used_proxy(upstream: &Upstream) -> (Proxy, Folder) {
    let key = Key::new("k1");
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&usual_rules()))),
        ("keys.jwks", &key_set(&[&key]).to_string()),
    ]);
    let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
    assert_eq!(
        get_with(proxy.inbound(), "/orders", &key.token(&claims(LOCAL_ISSUER, &json!({})))).status,
        200
    );
    assert_eq!(get(proxy.inbound(), "/orders", &[]).status, 401);
    (proxy, folder)
}

#[test]
fn promtool_finds_nothing_wrong() {
    let upstream = Upstream::start();
    let (proxy, _folder) = used_proxy(&upstream);
    let page = get(proxy.admin(), "/metrics", &[]);
    assert!(
        page.header("content-type").is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")),
        "{page:?}"
    );
    let mut child = prometheus("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    child.stdin.take().unwrap().write_all(&page.body).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn prometheus_scrapes_it() {
    let upstream = Upstream::start();
    let (proxy, _folder) = used_proxy(&upstream);
    let (_data, data) = temporary();
    let listen = Port::lease();
    let config = json!({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "countersign", "static_configs": [{"targets": [proxy.admin().to_string()]}]}],
    });
    fs::write(data.join("prometheus.yml"), config.to_string()).unwrap();
    let flag = |name: &str, value: String| format!("--{name}={value}");
    let _process = Process::spawn(
        "prometheus",
        prometheus("prometheus")
            .arg(flag("config.file", data.join("prometheus.yml").display().to_string()))
            .arg(flag("storage.tsdb.path", data.join("data").display().to_string()))
            .arg(flag("web.listen-address", listen.address().to_string())),
    );
    wait_until("a port", Duration::from_secs(30), || std::net::TcpStream::connect(listen.address()).is_ok());
    let query = |what: &str| {
        let answer = get(listen.address(), &format!("/api/v1/query?query={what}"), &[]);
        if answer.status == 200 { answer.json()["data"]["result"].clone() } else { json!([]) }
    };
    wait_until("the first scrape", Duration::from_secs(30), || {
        query("up{job=%22countersign%22}")[0]["value"][1] == "1"
    });
    let refused = query("countersign_requests_total{reason=%22missing_token%22}");
    assert_eq!(refused[0]["value"][1], "1", "{refused}");
    assert_eq!(refused[0]["metric"]["direction"], "inbound");
    assert_eq!(refused[0]["metric"]["decision"], "deny");
    let passed = query("sum(countersign_requests_total{decision=%22allow%22})");
    assert_eq!(passed[0]["value"][1], "1", "{passed}");
}
