//! Is this policy sound? All problems of the files at once, with the same code as the planes.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use countersign_policy::{Documents, Problem};

use crate::folder;

/// Prints the problems to stderr, or a summary to stdout. The answer is 0 or 1; a path that is not there is an error of
/// usage.
pub fn run(paths: &[PathBuf]) -> Result<ExitCode, String> {
    if let Some(missing) = paths.iter().find(|path| !path.exists()) {
        return Err(format!("{}: no such file or folder", missing.display()));
    }
    match check(paths) {
        Ok(documents) => {
            let (count, version) = (documents.len(), documents.version());
            let noun = if count == 1 { "document" } else { "documents" };
            print(&mut std::io::stdout(), &format!("{count} {noun}, no problems, version {version}"));
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            for problem in problems {
                print(&mut std::io::stderr(), &problem.to_string());
            }
            Ok(ExitCode::from(1))
        }
    }
}

/// All paths are one version, as `serve` would read them from one folder.
pub fn check(paths: &[PathBuf]) -> Result<Documents, Vec<Problem>> {
    let (mut sources, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        match folder::read(path) {
            Ok(found) => sources.extend(found),
            Err(found) => problems.extend(found),
        }
    }
    // What could not be read at all hides what is wrong with the rest: references to it would all dangle.
    if problems.is_empty() { Documents::parse(sources) } else { Err(problems) }
}

/// A reader that has gone away is no reason to panic, as `println!` would.
fn print(to: &mut impl Write, line: &str) {
    let _ = writeln!(to, "{line}");
}
