//! Who speaks WebSocket? The servers of npm `ws` and PyPI `websockets`, the client of `ws`, and what they say of themselves.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Answer;
use super::pods::{As, Pod};
use super::process::Process;
use super::{tools, wait_until};

/// Prints a line of JSON for everything that happens to it.
#[derive(Debug)]
pub(crate) struct Peer(Process);

/// `ws-server.mjs`, or the server of `ws_peer.py`.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) peer: Peer,
    port: u16,
}

/// What a client was `refused` with.
pub(crate) fn answer(refused: &Value) -> Answer {
    assert_eq!(refused["event"], "refused", "{refused}");
    let status = refused["status"].as_u64().and_then(|status| status.try_into().ok()).expect("a status");
    let field = |(name, value): (&String, &Value)| {
        (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    let headers = refused["headers"].as_object().expect("fields").iter().map(field).collect();
    Answer { status, headers, body: refused["body"].as_str().unwrap_or_default().into() }
}

// === impl Peer ===

impl Peer {
    /// `ws-client.mjs`, with these members on top of what it is told to do.
    pub(crate) fn client(url: &str, what: &str, more: &Value) -> Self {
        Self(Process::spawn("ws-client.mjs", &mut Self::command(url, what, more)))
    }

    /// The same in a pod.
    pub(crate) fn client_in(pod: &Pod, url: &str, what: &str, more: &Value) -> Self {
        let mut command = pod.here(As::Root, &Self::command(url, what, more));
        Self(Process::spawn("ws-client.mjs", &mut command))
    }

    fn command(url: &str, what: &str, more: &Value) -> Command {
        let mut given = json!({"url": url, "do": what});
        for (name, value) in more.as_object().expect("an object") {
            given[name] = value.clone();
        }
        let mut command = tools::node("ws-client.mjs");
        command.arg(given.to_string());
        command
    }

    /// Everything so far, in order.
    pub(crate) fn all(&self) -> Vec<Value> {
        let out = self.0.stdout();
        let whole = out.rfind('\n').map_or("", |end| &out[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// Every event of this name so far.
    pub(crate) fn seen(&self, event: &str) -> Vec<Value> {
        self.all().into_iter().filter(|seen| seen["event"] == event).collect()
    }

    /// The first event of this name, once there is one.
    pub(crate) fn first(&self, event: &str) -> Value {
        wait_until(event, Duration::from_secs(20), || !self.seen(event).is_empty());
        self.seen(event).remove(0)
    }

    /// The last event, once it has ended.
    pub(crate) fn end(&mut self) -> Value {
        let status = self.0.wait(Duration::from_secs(60));
        assert_eq!(status.code(), Some(0), "{}", self.0.stderr());
        self.all().pop().expect("it said something")
    }
}

// === impl Server ===

impl Server {
    pub(crate) fn start() -> Self {
        Self::spawn(&mut tools::node("ws-server.mjs"))
    }

    /// `ws_peer.py`.
    pub(crate) fn start_python() -> Self {
        Self::spawn(tools::python("ws_peer.py").arg("serve"))
    }

    /// One that speaks TLS with this certificate and key, in PEM.
    pub(crate) fn start_tls(cert: &str, key: &str) -> Self {
        let given = json!({"cert": cert, "key": key}).to_string();
        Self::spawn(tools::node("ws-server.mjs").arg(given))
    }

    /// One at all addresses of a pod.
    pub(crate) fn start_in(pod: &Pod, port: u16) -> Self {
        let mut command = tools::node("ws-server.mjs");
        command.arg(json!({"host": "::", "port": port}).to_string());
        Self::spawn(&mut pod.here(As::Root, &command))
    }

    fn spawn(command: &mut Command) -> Self {
        let peer = Peer(Process::spawn("a WebSocket server", command));
        let port =
            peer.first("ready")["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port");
        Self { peer, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
}
