//! Does the repository keep its own rules? Layers, size and opening of files, what documents promise, what must be absent.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{binary, root};

/// Layers of the sidecar, outermost first; imports only point downwards. What is not named here is a leaf.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["app"],
    &["listen", "admin", "redirected"],
    &["http", "mqtt", "coap", "tcp"],
    &["auth", "record"],
    &["state", "config"],
];
/// Each knows its own protocol alone; bytes that are not looked into (`tcp`) are nobody's.
const PROTOCOLS: &[&str] = &["http", "mqtt", "coap"];
const MAX_LINES: usize = 400;

#[test]
fn imports_point_downwards() {
    let mut wrong = Vec::new();
    for file in sources("proxy/src") {
        let from = module(&file, "proxy/src");
        for to in imports(&without_tests(&file.text)) {
            if !may_import(&from, &to) {
                wrong.push(format!("{}: {from} imports {to}", file.name));
            }
        }
    }
    assert_none(
        "imports against the order main -> app -> {listen, admin, redirected} -> protocols -> auth -> state",
        &wrong,
    );
}

fn may_import(from: &str, to: &str) -> bool {
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    if from == "lib" || from == to {
        return true;
    }
    if PROTOCOLS.contains(&from) && PROTOCOLS.contains(&to) {
        return false;
    }
    match (layer(from), layer(to)) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(from), Some(to)) => from <= to,
    }
}

#[test]
fn the_planes_do_not_depend_on_each_other() {
    let manifest = |path: &str| read(&root().join(path));
    assert!(
        !manifest("proxy/Cargo.toml").contains("countersign-control"),
        "the data plane needs no control plane"
    );
    assert!(
        !manifest("control/Cargo.toml").contains("countersign-proxy"),
        "the control plane sees no traffic"
    );
    let policy = manifest("control/policy/Cargo.toml");
    for absent in ["countersign-control", "countersign-proxy", "tokio", "hyper"] {
        assert!(!policy.contains(absent), "the contract depends on {absent}");
    }
}

#[test]
fn the_contract_is_pure() {
    let mut wrong = Vec::new();
    for file in sources("control/policy/src") {
        let code = without_tests(&file.text);
        for impure in
            ["std::fs", "std::process", "std::env", "SystemTime", "Instant::now", "TcpStream", "async fn"]
        {
            if code.lines().any(|line| !is_comment(line) && line.contains(impure)) {
                wrong.push(format!("{}: {impure}", file.name));
            }
        }
    }
    assert_none("I/O, async or a clock in countersign-policy", &wrong);
}

#[test]
fn files_are_short_and_say_what_they_answer() {
    let mut wrong = Vec::new();
    for file in sources("") {
        if file.name.ends_with("/tests.rs") {
            continue;
        }
        if !file.text.starts_with("//! ") {
            wrong.push(format!("{}: does not open with //!", file.name));
        }
        let lines = without_tests(&file.text).lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{}: {lines} lines, more than {MAX_LINES}", file.name));
        }
    }
    assert_none("files against the style", &wrong);
}

#[test]
fn serde_yaml_is_called_in_one_place() {
    let callers: BTreeSet<_> = ["control", "proxy", "deploy"]
        .into_iter()
        .flat_map(sources)
        .filter(|file| !file.name.ends_with("/tests.rs"))
        .filter(|file| {
            without_tests(&file.text).lines().any(|l| !is_comment(l) && l.contains("serde_yaml::"))
        })
        .map(|file| file.name)
        .collect();
    assert!(callers.len() <= 1, "it is archived, so one file calls it: {callers:?}");
}

#[test]
fn there_is_no_unsafe_code() {
    let word = concat!("un", "safe");
    let mut wrong = Vec::new();
    for file in sources("") {
        let mut lines = file.text.lines().filter(|line| !is_comment(line));
        if lines.any(|line| ["{", "fn", "impl"].iter().any(|next| line.contains(&format!("{word} {next}")))) {
            wrong.push(file.name);
        }
    }
    assert_none("unsafe code", &wrong);
}

#[test]
fn every_package_keeps_the_workspace_lints() {
    let manifests: Vec<_> = files("").into_iter().filter(|f| f.name.ends_with("Cargo.toml")).collect();
    assert!(manifests.len() >= 7, "{manifests:?}");
    let wrong: Vec<_> = manifests
        .into_iter()
        .filter(|file| file.name != "Cargo.toml" && !file.text.contains("[lints]\nworkspace = true"))
        .map(|file| file.name)
        .collect();
    assert_none("packages without `[lints] workspace = true`", &wrong);
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let traces = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];
    let mut wrong = Vec::new();
    for file in files("") {
        for (number, line) in file.text.lines().enumerate() {
            if traces.iter().any(|trace| line.contains(trace)) {
                wrong.push(format!("{}:{}: {}", file.name, number + 1, line.trim()));
            }
        }
        if file.name.ends_with("package-lock.json") && file.text.contains("\"resolved\"") {
            wrong.push(format!("{}: names the registry it was made with", file.name));
        }
    }
    assert_none("traces of a machine", &wrong);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut wrong = Vec::new();
    for file in files("").into_iter().filter(|f| f.name.ends_with(".md")) {
        let folder = root().join(&file.name).parent().expect("a file has a folder").to_owned();
        for link in
            file.text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link)
        {
            let target = link.split(['#', ' ']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                wrong.push(format!("{}: {link}", file.name));
            }
        }
    }
    assert_none("links to nothing", &wrong);
}

// === the README and the code ===

#[test]
fn the_readme_lists_every_metric_and_no_other() {
    let readme = read(&root().join("README.md"));
    let listed: BTreeSet<_> = words(&readme, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        .filter(|word| word.starts_with("countersign_"))
        .map(|word| ["_bucket", "_sum", "_count"].iter().find_map(|s| word.strip_suffix(s)).unwrap_or(word))
        .collect();
    let known: BTreeSet<_> = countersign_proxy::metrics::METRICS.iter().map(|metric| metric.name).collect();
    let missing: Vec<_> = known.difference(&listed).collect();
    assert!(missing.is_empty(), "missing in README.md: {missing:?}");
    let packages = ["countersign_proxy", "countersign_control", "countersign_policy"];
    let unknown: Vec<_> = listed.difference(&known).filter(|name| !packages.contains(name)).collect();
    assert!(unknown.is_empty(), "in README.md and not in the code: {unknown:?}");
}

#[test]
fn the_readme_lists_every_reason() {
    let readme = read(&root().join("README.md"));
    let listed: BTreeSet<_> = words(&readme, |c| c.is_ascii_lowercase() || c == '_').collect();
    let missing: Vec<_> =
        countersign_policy::Reason::ALL.iter().map(|r| r.as_str()).filter(|r| !listed.contains(r)).collect();
    assert_none("reasons that README.md does not list", &missing);
}

// === reading ===

#[derive(Debug)]
pub(crate) struct SourceFile {
    /// Path from the root.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// The Rust files under a folder of the repository.
pub(crate) fn sources(under: &str) -> Vec<SourceFile> {
    files(under).into_iter().filter(|file| file.name.ends_with(".rs")).collect()
}

/// The text files under a folder of the repository that are ours.
fn files(under: &str) -> Vec<SourceFile> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(under)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if path.is_dir() && !["target", "node_modules", ".git", ".cache"].contains(&&*name) {
                folders.push(path);
            } else if path.is_file()
                && name != ".git"
                && let Ok(text) = fs::read_to_string(&path)
            {
                found.push(SourceFile { name: relative(&path), text });
            }
        }
    }
    assert!(!found.is_empty(), "no file under {under}");
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("in the repository").to_string_lossy().into_owned()
}

fn read(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text up to the module of its unit tests.
fn without_tests(text: &str) -> String {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned()
}

/// The module at the top of the crate to which a file belongs.
fn module(file: &SourceFile, under: &str) -> String {
    let inside = file.name.strip_prefix(under).expect("it is under it").trim_start_matches('/');
    inside.split('/').next().expect("a name").trim_end_matches(".rs").to_owned()
}

/// No key of ours is in a program: neither PEM nor JWK, not even for an example or a last resort.
#[test]
fn in_14_no_key_is_built_in() {
    for name in ["countersign-proxy", "countersign-control"] {
        let program = fs::read(binary(name)).expect("a program");
        let text = String::from_utf8_lossy(&program);
        // The labels and names themselves are there, to read and write keys. What would follow is base64.
        let starts = [("-----BEGIN ", "-----\n"), (r#""d":""#, ""), (r#""k":""#, "")];
        for (label, end) in starts {
            for (at, _) in text.match_indices(label) {
                let after: String = text[at + label.len()..].chars().take(120).collect();
                let body = after.split_once(end).map_or("", |(_, body)| body);
                let base64 = |c: &char| c.is_ascii_alphanumeric() || "+/-_".contains(*c);
                assert!(body.chars().take_while(base64).count() < 40, "{name}: {label}{after}");
            }
        }
    }
}

/// The modules at the top of the crate that a text names: `crate::a::…` and `crate::{a::…, b}`.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !is_comment(line)).collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group)),
            None => found.extend(words(rest, is_identifier).next().map(str::to_owned)),
        }
    }
    found.retain(|name| name.chars().next().is_some_and(char::is_lowercase));
    found
}

/// The first names of a group, at its own depth.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut part) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(std::mem::take(&mut part)),
            _ => part.push(c),
        }
    }
    heads.push(part);
    heads.iter().filter_map(|part| words(part, is_identifier).next().map(str::to_owned)).collect()
}

fn words<'a>(text: &'a str, belongs: impl Fn(char) -> bool + 'a) -> impl Iterator<Item = &'a str> {
    text.split(move |c| !belongs(c)).filter(|word| !word.is_empty())
}

fn is_identifier(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

fn assert_none(what: &str, wrong: &[impl AsRef<str>]) {
    let list: Vec<_> = wrong.iter().map(AsRef::as_ref).collect();
    assert!(list.is_empty(), "{what}:\n{}", list.join("\n"));
}

// === the rules themselves ===

#[test]
fn the_rule_of_imports_can_fail() {
    let text =
        "use crate::{auth::{a, b}, state::Live};\nfn f() -> crate::http::X {}\n// crate::app\nuse crate::Y;";
    let found: Vec<_> = imports(text).into_iter().collect();
    assert_eq!(found, ["auth", "http", "state"]);
    assert!(may_import("http", "auth") && may_import("auth", "clock") && may_import("app", "http"));
    assert!(!may_import("auth", "http") && !may_import("http", "mqtt") && !may_import("clock", "auth"));
}
