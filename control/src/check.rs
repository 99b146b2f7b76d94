//! Is this policy sound? All problems of the files at once, with the same code as the planes, and what is sound but odd.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use countersign_policy::headers::Underscores;
use countersign_policy::trial::Outcome;
use countersign_policy::{Documents, Problem, Trials, lint};

use crate::folder;

/// Policy that is sound, and its tests.
#[derive(Debug)]
pub struct Checked {
    pub documents: Documents,
    /// What came of the tests.
    pub outcome: Outcome,
}

/// Prints problems and warnings to stderr, or a summary to stdout. The answer is 0 or 1; a path that is not there is an
/// error of usage.
pub fn run(paths: &[PathBuf], deny_warnings: bool) -> Result<ExitCode, String> {
    exist(paths)?;
    let checked = match check(paths, Underscores::default()) {
        Ok(checked) => checked,
        Err(problems) => {
            tell(&problems);
            return Ok(ExitCode::from(1));
        }
    };
    let warnings = checked.warnings();
    let Checked { documents, outcome } = checked;
    tell(warnings.iter().map(|warning| format!("warning: {warning}")));
    let tests = match outcome.tests.len() {
        0 => String::new(),
        tests => format!(", {}", counted(tests, "test")),
    };
    let found =
        if warnings.is_empty() { "no problems".to_owned() } else { counted(warnings.len(), "warning") };
    let (documents, version) = (counted(documents.len(), "document"), documents.version());
    print(&mut io::stdout(), &format!("{documents}{tests}, {found}, version {version}"));
    Ok(if deny_warnings && !warnings.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// All paths are one version, as `serve` would read them from one folder.
pub fn check(paths: &[PathBuf], underscores: Underscores) -> Result<Checked, Vec<Problem>> {
    let (mut sources, mut problems) = (Vec::new(), Vec::new());
    for path in paths {
        match folder::read(path) {
            Ok(found) => sources.extend(found),
            Err(found) => problems.extend(found),
        }
    }
    // What could not be read at all hides what is wrong with the rest: references to it would all dangle.
    if !problems.is_empty() {
        return Err(problems);
    }
    let trials = Trials::read(&sources);
    match (Documents::parse(sources), trials) {
        (Ok(documents), Ok(trials)) => {
            let outcome = trials.run(&documents, underscores)?;
            Ok(Checked { documents, outcome })
        }
        (documents, trials) => Err(documents.err().into_iter().chain(trials.err()).flatten().collect()),
    }
}

// === impl Checked ===

impl Checked {
    /// What is probably not meant.
    pub fn warnings(&self) -> Vec<Problem> {
        lint::warnings(&self.documents, &self.outcome)
    }
}

/// Paths that are not there are misspelt.
pub(crate) fn exist(paths: &[PathBuf]) -> Result<(), String> {
    match paths.iter().find(|path| !path.exists()) {
        Some(missing) => Err(format!("{}: no such file or folder", missing.display())),
        None => Ok(()),
    }
}

/// A line each, on stderr.
pub(crate) fn tell(lines: impl IntoIterator<Item = impl Display>) {
    for line in lines {
        print(&mut io::stderr(), &line.to_string());
    }
}

/// A reader that has gone away is no reason to panic, as `println!` would.
pub(crate) fn print(to: &mut impl Write, line: &str) {
    let _ = writeln!(to, "{line}");
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
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
        assert_eq!(check(std::slice::from_ref(&one), Underscores::Drop).unwrap().documents.len(), 1);
        assert_eq!(run(std::slice::from_ref(&one), true), Ok(ExitCode::SUCCESS));

        fs::write(&one, format!("---\n{}", GOOD.replace("rules", "rulez"))).unwrap();
        fs::write(&two, GOOD.replace("public: true, ", "")).unwrap();
        let problems = check(&[root.path().to_owned()], Underscores::Drop).unwrap_err();
        let lines: Vec<_> = problems.iter().map(Problem::to_string).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with(&format!("{}:6: ", one.display())), "{lines:?}");
        assert!(lines[1].starts_with(&format!("{}:", two.display())), "{lines:?}");
        assert_eq!(run(&[root.path().to_owned()], false), Ok(ExitCode::from(1)));
    }

    #[test]
    fn the_same_name_in_two_paths_is_a_problem() {
        let root = tempfile::tempdir().unwrap();
        let paths = ["one.yaml", "two.yaml"].map(|name| root.path().join(name));
        for path in &paths {
            fs::write(path, GOOD).unwrap();
        }
        assert_eq!(check(&paths, Underscores::Drop).unwrap_err().len(), 1);
    }

    #[test]
    fn a_path_that_is_not_there_is_an_error_of_usage() {
        assert!(run(&["/nowhere/at/all".into()], false).unwrap_err().contains("no such file"));
    }
}
