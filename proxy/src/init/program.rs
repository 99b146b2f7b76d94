//! How is a program of the system asked? By its name in `PATH`, with arguments and text on stdin; never by a shell.

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

/// What came of it, if not success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProgramError {
    #[error("{0} is not installed")]
    Missing(&'static str),
    #[error("{program}: {message}")]
    Failed { program: &'static str, message: String },
}

/// Runs it to its end; what it printed.
pub(super) fn run(program: &'static str, arguments: &[&str], stdin: &str) -> Result<String, ProgramError> {
    let failed = |message: String| ProgramError::Failed { program, message };
    let child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| match error.kind() {
        ErrorKind::NotFound => ProgramError::Missing(program),
        _ => failed(error.to_string()),
    })?;
    if let Some(mut pipe) = child.stdin.take()
        && let Err(error) = pipe.write_all(stdin.as_bytes())
        // One that has ended already says why below.
        && error.kind() != ErrorKind::BrokenPipe
    {
        return Err(failed(error.to_string()));
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    // Some say first who they are.
    let says = |line: &&str| !line.is_empty() && !line.starts_with('#') && !line.ends_with(':');
    let mut lines = stderr.lines().map(str::trim).filter(says);
    Err(failed(lines.next().map_or_else(|| output.status.to_string(), str::to_owned)))
}

/// Whether there is a program of this name.
pub(super) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
