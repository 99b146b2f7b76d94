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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const GOOD: &str = "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: { name: orders }\n\
        spec:\n  rules:\n  - { name: open, public: true, to: { paths: [/v1] } }\n";

    #[test]
    fn finds_every_problem_with_its_place() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("one.yaml"), root.path().join("two.yaml"));
        fs::write(&one, GOOD).unwrap();
        assert_eq!(check(std::slice::from_ref(&one)).unwrap().len(), 1);
        assert_eq!(run(std::slice::from_ref(&one)), Ok(ExitCode::SUCCESS));

        fs::write(&one, format!("---\n{}", GOOD.replace("rules", "rulez"))).unwrap();
        fs::write(&two, GOOD.replace("public: true, ", "")).unwrap();
        let problems = check(&[root.path().to_owned()]).unwrap_err();
        let lines: Vec<_> = problems.iter().map(Problem::to_string).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with(&format!("{}:6: ", one.display())), "{lines:?}");
        assert!(lines[1].starts_with(&format!("{}:", two.display())), "{lines:?}");
        assert_eq!(run(&[root.path().to_owned()]), Ok(ExitCode::from(1)));
    }

    #[test]
    fn the_same_name_in_two_paths_is_a_problem() {
        let root = tempfile::tempdir().unwrap();
        let paths = ["one.yaml", "two.yaml"].map(|name| root.path().join(name));
        for path in &paths {
            fs::write(path, GOOD).unwrap();
        }
        assert_eq!(check(&paths).unwrap_err().len(), 1);
    }

    #[test]
    fn a_path_that_is_not_there_is_an_error_of_usage() {
        assert!(run(&["/nowhere/at/all".into()]).unwrap_err().contains("no such file"));
    }
}
