//! Who may do what? The tables of `decisions/`: each file holds policies and, as documents of kind `PolicyTest`, the cases
//! with what is expected of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail so")]

mod table;

use std::fs;
use std::path::{Path, PathBuf};

use table::outcome;

/// No coercion, whole values, and what cannot be evaluated denies (security IN-26).
#[test]
fn every_case_is_decided_as_the_table_says() {
    let mut cases = 0;
    let mut failures = Vec::new();
    for path in tables() {
        let name = path.file_name().unwrap().to_str().unwrap();
        let outcome = outcome(name, &fs::read(&path).unwrap());
        cases += outcome.passed() + outcome.failed();
        failures.extend(outcome.failures().map(ToString::to_string));
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(cases > 100, "only {cases} cases");
}

/// The contract reads no files, so its own test names those whose decisions it explains.
#[test]
fn every_table_is_explained_too() {
    let test = include_str!("../src/explain/tests.rs");
    for path in tables() {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(test.contains(&format!("decisions/{name}")), "{name} is not among TABLES");
    }
}

#[test]
fn a_wrong_expectation_is_noticed() {
    let text = fs::read_to_string(tables().first().unwrap()).unwrap();
    let turned = text.replace("expect: allow", "expect: deny");
    assert_ne!(text, turned);
    assert!(outcome("turned", turned.as_bytes()).failed() > 0);
}

fn tables() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/decisions");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}
