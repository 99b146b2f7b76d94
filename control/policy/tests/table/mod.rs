//! One table of decisions, read and tried: policies and `PolicyTest` documents in one file.

use countersign_policy::headers::Underscores;
use countersign_policy::trial::Outcome;
use countersign_policy::{Documents, Problem, Trials, source};

/// Every case of the file, tried.
pub(crate) fn outcome(file: &str, bytes: &[u8]) -> Outcome {
    let sources = source::split(file, bytes).unwrap_or_else(|problem| panic!("{problem}"));
    let trials = Trials::read(&sources).unwrap_or_else(|problems| panic!("{}", lines(&problems)));
    let documents = Documents::parse(sources).unwrap_or_else(|problems| panic!("{}", lines(&problems)));
    // Nothing in a table says how the sidecars run, so the name of its file does.
    let underscores = if file == "underscores-pass.yaml" { Underscores::Pass } else { Underscores::Drop };
    trials.run(&documents, underscores).unwrap_or_else(|problems| panic!("{}", lines(&problems)))
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}
