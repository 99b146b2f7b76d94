//! How is a sidecar started? The built `countersign-proxy`, as a pod would run it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::metrics::Scrape;
use super::ports::Port;
use super::process::Process;
use super::{binary, client, wait_until};

/// A running sidecar.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) process: Process,
    inbound: Port,
    outbound: Port,
    admin: Port,
    settings: Settings,
}

/// How to start one.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    arguments: Vec<String>,
    target: Option<SocketAddr>,
    /// `None`: what it logs when it is not told.
    log: Option<&'static str>,
}

impl Settings {
    /// Policy from a folder, for the workload of this app in the namespace shop.
    pub(crate) fn policies(folder: &Path, app: &str) -> Self {
        let mut settings = Self::bare();
        settings.arguments =
            ["--policies", &folder.to_string_lossy(), "--namespace", "shop", "--workload", app]
                .map(str::to_owned)
                .to_vec();
        settings.with(&["--label", &format!("app={app}")])
    }

    /// Nothing said of where policy comes from.
    pub(crate) fn bare() -> Self {
        Self { arguments: Vec::new(), target: None, log: None }
    }

    /// More flags.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&a| a.to_owned()));
        self
    }

    /// Stands before this server.
    pub(crate) fn before(mut self, target: SocketAddr) -> Self {
        self.target = Some(target);
        self
    }

    /// Logs all there is to log.
    pub(crate) fn tracing(mut self) -> Self {
        self.log = Some("trace");
        self
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(self) -> Proxy {
        let mut proxy = self.launch();
        proxy.wait_ready();
        proxy
    }

    /// Starts it and waits until the admin listener answers.
    pub(crate) fn launch(self) -> Proxy {
        let (inbound, outbound, admin) = (Port::lease(), Port::lease(), Port::lease());
        let process = spawn(&self, &inbound, &outbound, &admin);
        let mut proxy = Proxy { process, inbound, outbound, admin, settings: self };
        proxy.wait_alive();
        proxy
    }
}

fn spawn(settings: &Settings, inbound: &Port, outbound: &Port, admin: &Port) -> Process {
    let mut command = Command::new(binary("countersign-proxy"));
    command.arg("run").args(&settings.arguments);
    match settings.log {
        Some(log) => command.env("COUNTERSIGN_LOG", log),
        None => command.env_remove("COUNTERSIGN_LOG"),
    };
    if let Some(target) = settings.target {
        command.args(["--inbound", &format!("{}={target}", inbound.address())]);
    }
    command.args(["--outbound", &outbound.address().to_string(), "--admin", &admin.address().to_string()]);
    Process::spawn("countersign-proxy", &mut command)
}

impl Proxy {
    pub(crate) fn inbound(&self) -> SocketAddr {
        self.inbound.address()
    }

    pub(crate) fn outbound(&self) -> SocketAddr {
        self.outbound.address()
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.address()
    }

    pub(crate) fn scrape(&self) -> Scrape {
        Scrape::of(self.admin())
    }

    pub(crate) fn is_ready(&self) -> bool {
        client::Connection::open(self.admin())
            .and_then(|mut admin| admin.request("GET", "/readyz", &[], b""))
            .is_ok_and(|answer| answer.status == 200)
    }

    /// The most resident memory that it has had, in KiB.
    pub(crate) fn peak(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// The version of policy that runs.
    pub(crate) fn version(&self) -> Option<String> {
        let scrape = self.scrape();
        let info = scrape.all("countersign_policy_info");
        assert!(info.len() <= 1, "one version runs: {info:?}");
        info.first().map(|sample| sample.labels["version"].clone())
    }

    /// What the access log says of the request that was answered so.
    pub(crate) fn logged(&self, answer: &client::Answer) -> Value {
        let id = answer.json()["decision_id"].clone();
        let line = || {
            let text = self.process.stdout();
            let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.find(|line| line["decision_id"] == id)
        };
        wait_until("the line of the log", Duration::from_secs(10), || line().is_some());
        line().expect("it is there")
    }

    /// Everything it has logged, both streams.
    pub(crate) fn log(&self) -> String {
        self.process.stdout() + &self.process.stderr()
    }

    /// kill -9 and the same again, on the same ports.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(&self.settings, &self.inbound, &self.outbound, &self.admin);
        self.wait_alive();
    }

    pub(crate) fn wait_ready(&mut self) {
        wait_until("readiness of the sidecar", Duration::from_secs(20), || {
            self.assert_running();
            self.is_ready()
        });
    }

    fn wait_alive(&mut self) {
        let admin = self.admin();
        wait_until("the sidecar's admin listener", Duration::from_secs(20), || {
            self.assert_running();
            std::net::TcpStream::connect(admin).is_ok()
        });
    }

    fn assert_running(&mut self) {
        if let Some(status) = self.process.exited() {
            panic!("the sidecar ended with {status}: {}", self.log());
        }
    }
}
