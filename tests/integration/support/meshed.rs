//! How does a pod run whose traffic is redirected to a sidecar? The rules of `countersign-proxy init`, then the sidecar as
//! Kubernetes would run it, and servers that record what comes to them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::metrics::Scrape;
use super::pods::{As, Pod, open_to_all};
use super::process::{Process, run};
use super::root;
use super::tools::node;

/// A sidecar in a pod.
#[derive(Debug)]
pub(crate) struct Meshed {
    pub(crate) pod: Pod,
    process: Process,
}

impl Meshed {
    /// Redirects the pod's traffic, starts a sidecar for the workload of this app, and waits until it is ready.
    pub(crate) fn start(pod: &Pod, policies: &Path, app: &str, more: &[&str]) -> Self {
        Self::start_as(As::Sidecar, pod, policies, app, more)
    }

    /// The same for a sidecar that is run by somebody else.
    pub(crate) fn start_as(who: As, pod: &Pod, policies: &Path, app: &str, more: &[&str]) -> Self {
        let done = run(pod.own(As::Root, "countersign-proxy").arg("init"), LIMIT);
        assert_eq!(done.code, Some(0), "init: {}", done.stderr);
        let meshed = Self::alone(who, pod, policies, app, more);
        let mut wait = pod.own(As::Sidecar, "countersign-proxy");
        let done = run(wait.args(["wait", "--timeout", "15"]), LIMIT);
        assert_eq!(done.code, Some(0), "wait: {} {}", done.stderr, meshed.log());
        meshed
    }

    /// Starts a sidecar and waits for nothing.
    fn alone(who: As, pod: &Pod, policies: &Path, app: &str, more: &[&str]) -> Self {
        open_to_all(policies);
        let mut command = pod.own(who, "countersign-proxy");
        command.args(["run", "--transparent", "--policies"]).arg(policies).env("COUNTERSIGN_LOG", "debug");
        command.args(["--namespace", "shop", "--workload", app, "--label", &format!("app={app}")]);
        Self { pod: pod.clone(), process: Process::spawn("countersign-proxy", command.args(more)) }
    }

    /// Its metrics, asked for in the pod.
    pub(crate) fn scrape(&self) -> Scrape {
        let done = self.pod.run(As::Sidecar, "curl", &["-sS", "http://127.0.0.1:16020/metrics"]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        Scrape::parse(&done.stdout)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn log(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }

    /// The lines of the access log.
    pub(crate) fn access_log(&self) -> Vec<Value> {
        self.process.stdout().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// A server in a pod that records every request.
#[derive(Debug)]
pub(crate) struct Recorder(Process);

impl Recorder {
    pub(crate) fn start(pod: &Pod, addresses: &[SocketAddr]) -> Self {
        Self::spawn(pod.command(As::Root, "node"), addresses, &Value::Null, false)
    }

    /// One that speaks HTTP/2 in plain text, with prior knowledge.
    pub(crate) fn start_http2(pod: &Pod, addresses: &[SocketAddr]) -> Self {
        Self::spawn(pod.command(As::Root, "node"), addresses, &Value::Null, true)
    }

    /// One where the test itself is.
    pub(crate) fn here(addresses: &[SocketAddr], http2: bool) -> Self {
        Self::spawn(Command::new("node"), addresses, &Value::Null, http2)
    }

    /// One that speaks TLS with this certificate and key.
    pub(crate) fn start_tls(pod: &Pod, addresses: &[SocketAddr], cert: &str, key: &str) -> Self {
        Self::spawn(pod.command(As::Root, "node"), addresses, &json!({"cert": cert, "key": key}), false)
    }

    fn spawn(mut node: Command, addresses: &[SocketAddr], tls: &Value, http2: bool) -> Self {
        let listen: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let settings = json!({"listen": listen, "tls": tls, "http2": http2}).to_string();
        let script = root().join("tests/servers/recorder.mjs");
        let mut process = Process::spawn("recorder", node.arg(script).arg(settings));
        assert!(process.first_line(LIMIT).contains("ready"), "{}", process.stderr());
        Self(process)
    }

    /// Every request so far.
    pub(crate) fn seen(&self) -> Vec<Value> {
        let lines = self.0.stdout();
        lines.lines().skip(1).map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

/// The issuer of `tests/servers/oidc-provider.mjs` at this address of a pod, and its URL.
pub(crate) fn issuer(pod: &Pod, host: &str) -> (Process, String) {
    let settings = json!({
        "host": host, "port": 3000,
        "clients": [{"id": "checkout", "secret": "checkout-secret", "scope": "orders:read orders:write"}],
        "resources": {super::policy::AUDIENCE: "orders:read orders:write"},
    });
    let script = node("oidc-provider.mjs");
    let mut command = pod.command(As::Root, script.get_program());
    command.args(script.get_args()).arg(settings.to_string()).env("NODE_NO_WARNINGS", "1");
    let mut process = Process::spawn("oidc-provider", &mut command);
    let line: Value = serde_json::from_str(&process.first_line(LIMIT)).expect("a line of JSON");
    (process, line["issuer"].as_str().expect("an issuer").to_owned())
}

/// curl as an application of the pod runs it: what it wrote, then the status.
pub(crate) fn curl(pod: &Pod, arguments: &[&str]) -> (u16, String) {
    curl_as(pod, As::Application, arguments)
}

/// The same as somebody else. 0: no answer.
pub(crate) fn curl_as(pod: &Pod, who: As, arguments: &[&str]) -> (u16, String) {
    let mut flags = vec!["-q", "--silent", "--show-error", "--max-time", "10", "-i", "-w", "\n%{http_code}"];
    if !arguments.contains(&"--proxy") {
        flags.extend(["--noproxy", "*"]);
    }
    let done = pod.run(who, "curl", &[&flags, arguments].concat());
    let (output, status) = done.stdout.rsplit_once('\n').expect("curl writes a last line");
    (status.parse().expect("a status"), format!("{output}{}", done.stderr))
}

const LIMIT: Duration = Duration::from_secs(20);
