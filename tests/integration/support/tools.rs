//! Where are the programs that we did not write? What `tests/run` installs, and how it is called.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::process::{Finished, Process, run};
use super::root;

/// The folder into which `tests/run` installs.
fn cache() -> PathBuf {
    root().join("tests/.cache")
}

/// A Node program of `tests/servers`.
pub(crate) fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(root().join("tests/servers").join(script)).env("NODE_NO_WARNINGS", "1");
    command
}

/// A Python program of `tests/servers`, in the virtual environment.
pub(crate) fn python(script: &str) -> Command {
    let mut command = Command::new(cache().join("venv/bin/python"));
    command.arg(root().join("tests/servers").join(script));
    command
}

/// `prometheus` or `promtool`: unpacked into the cache, or the machine's own.
pub(crate) fn prometheus(program: &str) -> Command {
    let unpacked = cache().join("prometheus/usr/bin").join(program);
    Command::new(if unpacked.exists() { unpacked } else { program.into() })
}

/// curl, silent and without the machine's configuration. The last line of stdout is the status and the HTTP version.
pub(crate) fn curl(arguments: &[&str]) -> Curl {
    curl_with(&arguments.iter().map(|&a| a.to_owned()).collect::<Vec<_>>())
}

/// The same.
pub(crate) fn curl_with(arguments: &[String]) -> Curl {
    let mut command = Command::new("curl");
    command.args(["-q", "--silent", "--show-error", "--max-time", "20", "--noproxy", "*"]);
    let done = run(
        command.args(["--include", "--write-out", "\n%{http_code} %{http_version}"]).args(arguments),
        LIMIT,
    );
    assert_eq!(done.code, Some(0), "curl {arguments:?}: {}", done.stderr);
    let (output, last) = done.stdout.rsplit_once('\n').expect("curl wrote a last line");
    let (status, version) = last.split_once(' ').expect("status and version");
    Curl { status: status.parse().expect("a status"), version: version.to_owned(), output: output.to_owned() }
}

/// curl on an answer that may be cut off: how it ended, and what came until then.
pub(crate) fn curl_to_the_end(arguments: &[&str]) -> Finished {
    let mut command = Command::new("curl");
    command.args(["-q", "--silent", "--show-error", "--no-buffer", "--max-time", "30", "--noproxy", "*"]);
    run(command.args(arguments), LIMIT)
}

/// What curl got: head and body as printed by `--include`.
#[derive(Debug)]
pub(crate) struct Curl {
    pub(crate) status: u16,
    /// `1.1` or `2`.
    pub(crate) version: String,
    pub(crate) output: String,
}

const LIMIT: Duration = Duration::from_secs(60);

/// The gRPC server of grpc-js, and its port.
pub(crate) fn grpc_server() -> (Process, u16) {
    let mut process = Process::spawn("grpc-server.mjs", &mut node("grpc-server.mjs"));
    let line: Value =
        serde_json::from_str(&process.first_line(Duration::from_secs(20))).expect("a line of JSON");
    let port = line["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port");
    (process, port)
}

/// The HTTP/2 server of Node, and its port.
pub(crate) fn http2_server(settings: &Value) -> (Process, u16) {
    let mut command = node("http2-server.mjs");
    let mut process = Process::spawn("http2-server.mjs", command.arg(settings.to_string()));
    let port = process.first_line(Duration::from_secs(20)).trim().parse().expect("a port");
    (process, port)
}

/// Runs cases of grpcio's client; one value per case.
pub(crate) fn grpc_client(arguments: &[&str]) -> Vec<Value> {
    let done: Finished = run(python("grpc_client.py").args(arguments), 2 * LIMIT);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// Runs the cases of grpc-js's client; one value per case.
pub(crate) fn grpc_js_client(target: &str, more: &Value) -> Vec<Value> {
    let done: Finished = run(node("grpc-client.mjs").args([target, &more.to_string()]), 2 * LIMIT);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}
