//! Do the invariants of ARCHITECTURE.md hold that can be read off the sources? The others are held by tests of what happens.

use std::fs;

use crate::support::root;
use crate::tidy::{SourceFile, sources};

/// The code of a file, without its tests and comments.
fn code(file: &SourceFile) -> String {
    let code = file.text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Files of the sidecar whose code has these words, with how often.
fn those_with(words: &str) -> Vec<(String, usize)> {
    let found = sources("proxy/src").into_iter().filter(|file| !file.name.ends_with("tests.rs"));
    let mut found: Vec<_> = found
        .map(|file| {
            (file.name.trim_start_matches("proxy/src/").to_owned(), code(&file).matches(words).count())
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    found.sort();
    found
}

#[test]
fn a_request_loads_the_snapshot_once() {
    let loads = those_with(".policy.load()");
    for story in ["http/inbound.rs", "http/outbound.rs"] {
        assert!(loads.contains(&(story.to_owned(), 1)), "{loads:?}");
    }
    // Once per connection, before its first request: does the port speak TLS?
    assert!(loads.contains(&("http/tls.rs".to_owned(), 1)), "{loads:?}");
    // What is open longer than a request takes is judged again, each time on one snapshot.
    assert!(loads.contains(&("http/grant.rs".to_owned(), 1)), "{loads:?}");
    let others: Vec<_> = loads.iter().filter(|(name, _)| !name.starts_with("http/")).collect();
    // Redirected connections are judged as a whole, or handed on.
    let whole = ["admin.rs", "redirected/inbound.rs", "redirected/outbound.rs"];
    assert!(others.iter().all(|(name, _)| whole.contains(&name.as_str())), "{others:?}");
    assert_eq!(loads.len(), 4 + others.len(), "something on the road loads policy anew: {loads:?}");
}

#[test]
fn a_cell_has_one_writer() {
    let live = sources("proxy/src/state").into_iter().find(|file| file.name.ends_with("live.rs")).unwrap();
    let code = code(&live);
    let (_, writer) = code.split_once("pub fn live").unwrap();
    assert!(!writer.contains("Clone for Writer") && !code.contains("derive(Clone"), "a writer can be cloned");
    assert!(writer.contains("pub fn store(&mut self"), "a shared writer is two");
}

#[test]
fn errors_become_answers_in_one_function() {
    assert_eq!(those_with("\"x-countersign-reason\""), [("http/answer.rs".to_owned(), 1)]);
    assert_eq!(those_with("\"application/problem+json\""), [("http/answer.rs".to_owned(), 1)]);
}

#[test]
fn there_is_one_crypto_provider() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    assert!(lock.contains("name = \"aws-lc-rs\""));
    // `ring` stands in the lock file as an option that nothing takes; deny.toml bans it from what is built.
    for other in ["openssl", "openssl-sys", "native-tls", "rsa", "serde_yml", "libyml", "reqwest"] {
        assert!(!lock.contains(&format!("name = \"{other}\"\n")), "{other} is in Cargo.lock");
    }
}

#[test]
fn the_sidecar_holds_no_ca() {
    let manifest = fs::read_to_string(root().join("proxy/Cargo.toml")).expect("proxy/Cargo.toml");
    let shipped = manifest.split("[dev-dependencies]").next().unwrap_or_default();
    assert!(shipped.contains("[dependencies]") && !shipped.contains("rcgen"), "it could sign certificates");
}
