//! Who speaks WebSocket? The server and the client of npm `ws`, and what they say of themselves.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::process::Process;
use super::{tools, wait_until};

/// Prints a line of JSON for everything that happens to it.
#[derive(Debug)]
pub(crate) struct Peer(Process);

/// `ws-server.mjs`.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) peer: Peer,
    port: u16,
}

// === impl Peer ===

impl Peer {
    /// `ws-client.mjs`, with these members on top of what it is told to do.
    pub(crate) fn client(url: &str, what: &str, more: &Value) -> Self {
        let mut given = json!({"url": url, "do": what});
        for (name, value) in more.as_object().expect("an object") {
            given[name] = value.clone();
        }
        let mut command = tools::node("ws-client.mjs");
        Self(Process::spawn("ws-client.mjs", command.arg(given.to_string())))
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
        Self::spawn(None)
    }

    /// One that speaks TLS with this certificate and key, in PEM.
    pub(crate) fn start_tls(cert: &str, key: &str) -> Self {
        Self::spawn(Some(json!({"cert": cert, "key": key})))
    }

    fn spawn(tls: Option<Value>) -> Self {
        let mut command = tools::node("ws-server.mjs");
        let peer = Peer(Process::spawn("ws-server.mjs", command.args(tls.as_ref().map(ToString::to_string))));
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
