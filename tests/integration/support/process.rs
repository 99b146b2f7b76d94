//! Who runs beside the test? Child processes with their output in files, ended when the test ends.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::wait_until;

/// A running program. Killed on drop; if the test is failing, the end of its output is printed.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    output: TempDir,
}

impl Process {
    /// Starts the command with its output in files.
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Self {
        let output = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str| File::create(output.path().join(name)).expect("an output file");
        command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        let child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        Self { name: name.to_owned(), child, output }
    }

    /// What it has written to stdout so far.
    pub(crate) fn stdout(&self) -> String {
        read_lossy(&self.output.path().join("stdout"))
    }

    /// What it has written to stderr so far.
    pub(crate) fn stderr(&self) -> String {
        read_lossy(&self.output.path().join("stderr"))
    }

    /// The first whole line of stdout, once there is one.
    pub(crate) fn first_line(&mut self, limit: Duration) -> String {
        let start = Instant::now();
        loop {
            if let Some((line, _)) = self.stdout().split_once('\n') {
                return line.to_owned();
            }
            if let Some(status) = self.exited() {
                panic!("{} ended at once with {status}: {}", self.name, self.stderr());
            }
            assert!(start.elapsed() < limit, "{}: no line within {limit:?}: {}", self.name, self.stderr());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The exit status, if it has ended.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let name = self.name.clone();
        wait_until(&format!("the end of {name}"), limit, || self.exited().is_some());
        self.exited().expect("it has ended")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let status = Command::new("kill").arg(self.child.id().to_string()).status().expect("kill runs");
        assert!(status.success(), "{} was gone already", self.name);
    }

    /// SIGKILL, as a machine that fails would: no chance to say goodbye.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            return;
        }
        for (stream, text) in [("stdout", self.stdout()), ("stderr", self.stderr())] {
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            let _ = writeln!(std::io::stderr(), "--- {} of {}:\n{}", stream, self.name, tail.join("\n"));
        }
    }
}

/// Runs a command to its end, within a limit.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Finished {
    let mut process = Process::spawn("a command", command);
    let start = Instant::now();
    let status = process.wait(limit);
    Finished {
        code: status.code(),
        took: start.elapsed(),
        stdout: process.stdout(),
        stderr: process.stderr(),
    }
}

/// A command that has ended. `code` is `None` if a signal ended it.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) took: Duration,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// A folder of this test's own, e.g. for a state directory.
pub(crate) fn temporary() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_owned();
    (folder, path)
}
