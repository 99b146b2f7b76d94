//! Does the schema say of policy what the product says? A validator that we did not write, over every document here.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use countersign_policy::{Documents, Problem, Source, Trials, schema, source, yaml};
use serde_json::{Value, json};

use crate::support::root;
use crate::support::tools::python;

/// Of each document what is wrong with it by the schema, if anything.
fn validate(documents: &[Value]) -> Vec<Option<String>> {
    let mut command = python("json_schema.py");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python starts");
    let given = json!({ "schema": schema::schema(), "documents": documents });
    child.stdin.take().expect("a pipe").write_all(given.to_string().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "json_schema.py failed");
    let found: Vec<Option<String>> = serde_json::from_slice(&output.stdout).expect("a list");
    assert_eq!(found.len(), documents.len());
    found
}

#[test]
fn every_document_of_examples_and_tests_is_valid() {
    let files = [files("deploy/examples"), files("control/policy/tests/decisions")].concat();
    let sources: Vec<Source> = files.iter().flat_map(|file| sources(file)).collect();
    let documents: Vec<Value> = sources.iter().map(|source| yaml::read(&source.text).unwrap()).collect();
    assert!(documents.len() > 60, "{}", documents.len());
    for (source, found) in sources.iter().zip(validate(&documents)) {
        assert_eq!(found, None, "{}:{}", source.file, source.line);
    }
}

#[test]
fn every_error_of_shape_is_marked() {
    let mut wrong = Vec::new();
    for file in files("control/policy/tests/hostile") {
        let Ok(found) = source::split(&file.display().to_string(), &fs::read(&file).unwrap()) else {
            continue;
        };
        for source in found {
            // What is no YAML at all has no schema.
            if let (Ok(document), Some(problem)) = (yaml::read::<Value>(&source.text), shape_error(source)) {
                wrong.push((document, problem));
            }
        }
    }
    assert!(wrong.len() >= 20, "{wrong:?}");
    let documents: Vec<Value> = wrong.iter().map(|(document, _)| document.clone()).collect();
    for ((_, problem), found) in wrong.iter().zip(validate(&documents)) {
        assert!(found.is_some(), "the schema has nothing against {problem}");
    }
}

/// What is wrong with the shape of a document that stands alone.
fn shape_error(source: Source) -> Option<Problem> {
    const WORDS: [&str; 7] = [
        "unknown field",
        "missing field",
        "invalid type",
        "invalid value",
        "unknown variant",
        "unknown kind",
        "is not known here: write `countersign.dev",
    ];
    let tests = Trials::read(std::slice::from_ref(&source)).err();
    let policy = Documents::parse(vec![source]).err();
    let mut problems = policy.into_iter().chain(tests).flatten();
    problems.find(|problem| WORDS.iter().any(|words| problem.message.contains(words)))
}

fn sources(file: &Path) -> Vec<Source> {
    source::split(&file.display().to_string(), &fs::read(file).unwrap()).unwrap()
}

/// The policy files under a folder of the repository.
fn files(folder: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "yaml") {
                found.push(entry);
            }
        }
    }
    found
}
