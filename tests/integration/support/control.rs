//! How is the control plane started? The built `countersign-control`, as an operator would run it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;
use tempfile::TempDir;

use super::client::Connection;
use super::ports::Port;
use super::process::{Finished, Process, run};
use super::proxy::Settings;
use super::{binary, wait_until};

/// The join token of every workload in these tests; a canary, too.
pub(crate) const JOIN_TOKEN: &str = "canary-join-token-0123456789abcdef0123456789abcdef";

/// `countersign-control check` of these paths.
pub(crate) fn check(paths: &[&Path]) -> Finished {
    run(Command::new(binary("countersign-control")).arg("check").args(paths), Duration::from_secs(20))
}

/// The same, in so much address space (KiB).
pub(crate) fn check_within(path: &Path, memory: u32) -> Finished {
    let script = format!("ulimit -v {memory}; exec \"$0\" check \"$1\"");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).arg(binary("countersign-control")).arg(path);
    run(&mut command, Duration::from_secs(20))
}

/// A running control plane.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) process: Process,
    policies: PathBuf,
    more: Vec<String>,
    api: Port,
    admin: Port,
    folder: TempDir,
}

impl Control {
    /// Serves this policy folder to the workloads `shop/orders` and `shop/checkout`. `{url}` in a flag becomes its URL.
    pub(crate) fn start(policies: &Path, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let members: Vec<_> = ["orders", "checkout"]
            .into_iter()
            .map(|app| {
                let token = format!("{JOIN_TOKEN}-{app}");
                fs::write(folder.path().join(app), &token).expect("the folder can be written");
                let hash: String =
                    digest(&SHA256, token.as_bytes()).as_ref().iter().map(|b| format!("{b:02x}")).collect();
                json!({"tokenSha256": hash, "namespace": "shop", "name": app, "labels": {"app": app}})
            })
            .collect();
        let members = json!({ "workloads": members }).to_string();
        fs::write(folder.path().join("members.yaml"), members).expect("the folder can be written");
        let (api, admin) = (Port::lease(), Port::lease());
        let url = format!("https://localhost:{}", api.number());
        let more: Vec<_> = more.iter().map(|a| a.replace("{url}", &url)).collect();
        let process = spawn(policies, folder.path(), &api, &admin, &more);
        let mut control = Self { process, policies: policies.to_owned(), more, api, admin, folder };
        control.wait_up();
        control
    }

    /// A sidecar that gets its policy from here.
    pub(crate) fn sidecar(&self, app: &str) -> Settings {
        self.sidecar_by(app, self.api.address())
    }

    /// The same by a road that leads here.
    pub(crate) fn sidecar_by(&self, app: &str, road: SocketAddr) -> Settings {
        let file = |name: &str| self.folder.path().join(name).to_string_lossy().into_owned();
        Settings::bare().with(&[
            "--control",
            &format!("https://localhost:{}", road.port()),
            "--control-ca",
            &self.ca_file().to_string_lossy(),
            "--join-token",
            &file(app),
        ])
    }

    /// Where sidecars ask.
    pub(crate) fn api(&self) -> SocketAddr {
        self.api.address()
    }

    /// The CA that signs its certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.folder.path().join("state/ca.pem")
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.api.number())
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.address()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// The same again, after [`Control::kill`].
    pub(crate) fn restart(&mut self) {
        self.process = spawn(&self.policies, self.folder.path(), &self.api, &self.admin, &self.more);
        self.wait_up();
    }

    fn wait_up(&mut self) {
        let admin = self.admin.address();
        wait_until("the control plane", Duration::from_secs(20), || {
            if let Some(status) = self.process.exited() {
                panic!("the control plane ended with {status}: {}", self.process.stderr());
            }
            let ask = Connection::open(admin).and_then(|mut admin| admin.request("GET", "/readyz", &[], b""));
            ask.is_ok_and(|answer| answer.status == 200)
        });
    }
}

fn spawn(policies: &Path, folder: &Path, api: &Port, admin: &Port, more: &[String]) -> Process {
    let mut command = Command::new(binary("countersign-control"));
    command.arg("serve").arg("--policies").arg(policies).args(more);
    command.args(["--listen", &api.address().to_string(), "--admin", &admin.address().to_string()]);
    command
        .arg("--state-dir")
        .arg(folder.join("state"))
        .arg("--join-tokens")
        .arg(folder.join("members.yaml"));
    command.env("COUNTERSIGN_LOG", "trace");
    Process::spawn("countersign-control", &mut command)
}
