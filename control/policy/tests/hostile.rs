//! Does bad input give a clear error, with its place, in bounded time? Each file of `hostile/` and the problems that are
//! expected of it, one a line, in the file of the same name that ends in `.expected`.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use countersign_policy::{Documents, Problem, Trials, source};

/// Far above what any of them takes, far below what a person would wait.
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn every_hostile_file_is_refused_with_its_place() {
    let files = hostile_files();
    assert!(files.len() >= 30, "only {} files", files.len());
    let mut failures = Vec::new();
    for path in &files {
        let name = path.file_name().unwrap().to_str().unwrap();
        let expected = fs::read_to_string(path.with_extension("expected")).unwrap_or_default();
        let began = Instant::now();
        let actual = lines(&problems(name, &fs::read(path).unwrap()));
        assert!(began.elapsed() < PATIENCE, "{name} took {:?}", began.elapsed());
        if expected.is_empty() || actual != expected {
            failures.push(format!("--- {name}, expected:\n{expected}--- actual:\n{actual}"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn the_problems_of_all_files_are_told_at_once() {
    let all = hostile_files().into_iter().flat_map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        source::split(&name, &fs::read(path).unwrap()).unwrap_or_default()
    });
    let problems = Documents::parse(all.collect()).unwrap_err();
    assert!(problems.len() > 30, "{}", lines(&problems));
    assert!(problems.iter().all(|problem| problem.line > 0), "{}", lines(&problems));
}

/// Documents as large as they may be, made of what is dear to read.
#[test]
fn the_worst_of_each_kind_is_refused_in_bounded_time() {
    let fill = |unit: &str| unit.repeat(source::MAX_DOCUMENT_BYTES / unit.len());
    let laughs = (1..60).fold("a0: &a0 [x, x]\n".to_owned(), |text, level| {
        let below = level - 1;
        format!("{text}a{level}: &a{level} [*a{below}, *a{below}, *a{below}, *a{below}]\n")
    });
    let long = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(100_000), fill("*a, ").get(..40_000).unwrap());
    for (what, text) in [
        ("open lists", fill("[")),
        ("open mappings", fill("{a: ")),
        ("nested items", fill("- ")),
        ("nested keys on lines", (0..700).map(|depth| " ".repeat(depth) + "a:\n").collect()),
        ("many items", fill("- a\n")),
        ("many keys", (0..25_000).map(|key| format!("k{key}: 1\n")).collect()),
        ("equal keys", fill("a: 1\n")),
        ("laughs", laughs),
        ("a long string, often", long),
        ("a ring of anchors", "a: &a [*a, *a]\n".to_owned()),
        ("anchors", fill("- &a b\n")),
        ("tags", fill("- !a b\n")),
        ("quotes", fill("\"")),
        ("question marks", fill("? ")),
        ("colons", fill(": ")),
        ("plain lines", fill("a\n")),
        ("deep brackets in lines", fill("[\n")),
        ("hosts times ports", many_destinations()),
        ("conditions", many_conditions()),
        ("escapes", format!("a: \"{}", fill("\\u0041"))),
    ] {
        let began = Instant::now();
        let problems = problems("f", text.as_bytes());
        let took = began.elapsed();
        assert!(!problems.is_empty(), "{what} passed");
        assert!(took < PATIENCE, "{what} took {took:?}");
        println!("{what}: {took:?}: {}", problems[0]);
    }
}

/// One rule that names 3,000 hosts and as many ports.
fn many_destinations() -> String {
    let hosts: Vec<String> = (0..3_000).map(|number| format!("h{number}.example")).collect();
    let ports: Vec<String> = (1..=3_000).map(|port| port.to_string()).collect();
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: OutboundPolicy\nmetadata: {{ name: many }}\nspec:\n  rules:\n  \
         - {{ name: many, to: {{ hosts: [{}], ports: [{}] }} }}\n",
        hosts.join(","),
        ports.join(",")
    )
}

/// Rules with conditions as long as they may be, of what takes longest to read.
fn many_conditions() -> String {
    let condition = format!("{}true{}", "!f(".repeat(30), ")&&a.map(x,x)".repeat(30));
    let rules = (0..source::MAX_DOCUMENT_BYTES / 600).map(|number| {
        format!("  - {{ name: r{number}, to: {{ paths: [/a] }}, from: {{}}, when: '{condition}' }}\n")
    });
    let head = "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: { name: many }\nspec:\n  rules:\n";
    rules.fold(head.to_owned(), |text, rule| text + &rule)
}

fn problems(name: &str, bytes: &[u8]) -> Vec<Problem> {
    match source::split(name, bytes) {
        Ok(sources) => {
            let tests = Trials::read(&sources).err().unwrap_or_default();
            Documents::parse(sources).err().into_iter().flatten().chain(tests).collect()
        }
        Err(problem) => vec![problem],
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn hostile_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    files.sort();
    files
}
