//! What does hostile YAML do? A clear error with its place and exit code 1, in bounded time and memory.

use std::fs;
use std::time::Duration;

use crate::support::control::{check, check_within};
use crate::support::policy::{Folder, inbound, issuer_with_file, usual_rules};

/// The head of an inbound policy, whose spec follows.
const HEAD: &str =
    "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: { name: p }\nspec:\n";
const ISSUER: &str = "apiVersion: countersign.dev/v1alpha1\nkind: Issuer\nmetadata: { name: corp }\nspec: { issuer: https://i.test }\n---\n";
const RULE: &str = "  tokens: [{ issuer: corp, audiences: [a] }]\n  rules:\n  - { name: r, to: { paths: [/a] }, from: {} }\n";

/// A name, the file, and words that the error must have.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static [&'static str])> {
    let spec = |text: &str| format!("{ISSUER}{HEAD}{text}").into_bytes();
    let rule = |text: &str| {
        spec(&format!(
            "  tokens: [{{ issuer: corp, audiences: [a] }}]\n  rules:\n  - {{ name: r, {text} }}\n"
        ))
    };
    let laughs: String =
        (1..9).map(|i| format!("l{i}: &l{i} [{}]\n", vec![format!("*l{}", i - 1); 9].join(", "))).collect();
    vec![
        ("a billion laughs", format!("l0: &l0 [x]\n{laughs}").into_bytes(), &[]),
        (
            "quadratic aliases",
            format!("a: &a [{}]\nb: [{}]\n", "x, ".repeat(20_000), "*a, ".repeat(20_000)).into_bytes(),
            &[],
        ),
        ("an alias of itself", b"a: &a [*a]\n".to_vec(), &[]),
        ("an unknown alias", b"a: *nothing\n".to_vec(), &[":1"]),
        ("deep sequences", "[".repeat(100_000).into_bytes(), &[]),
        ("deep mappings", "{a: ".repeat(100_000).into_bytes(), &[]),
        ("deep and closed", format!("{}{}", "[".repeat(5_000), "]".repeat(5_000)).into_bytes(), &[]),
        (
            "deep blocks",
            (0..2_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>().into_bytes(),
            &[],
        ),
        ("a merge key", spec(&format!("  <<: {{ default: none }}\n{RULE}")), &["<<"]),
        ("a duplicate key", spec(&format!("{RULE}  rules: []\n")), &[":13", "rules", "twice"]),
        (
            "a duplicate claim",
            rule("to: { paths: [/a] }, from: { claims: { t: [a], t: [b] } }"),
            &["claims.t", "twice"],
        ),
        ("a duplicate document", format!("{ISSUER}{ISSUER}").into_bytes(), &["corp"]),
        (
            "a duplicate rule",
            spec(&format!("{RULE}  - {{ name: r, to: {{ paths: [/b] }}, from: {{}} }}\n")),
            &["r"],
        ),
        ("an unknown field", spec(&format!("{RULE}  rulez: []\n")), &["rulez"]),
        ("an unknown field in a rule", rule("pahts: [/a], from: {}"), &["pahts"]),
        ("an unknown kind", ISSUER.replace("Issuer", "Isuer").into_bytes(), &["Isuer"]),
        ("an unknown version", ISSUER.replace("v1alpha1", "v9").into_bytes(), &["v9"]),
        ("no kind", b"apiVersion: countersign.dev/v1alpha1\nmetadata: { name: a }\n".to_vec(), &["kind"]),
        ("no name", ISSUER.replace("{ name: corp }", "{}").into_bytes(), &["name"]),
        ("a scalar", b"hello\n".to_vec(), &[":1"]),
        ("a list", b"- a\n- b\n".to_vec(), &[":1"]),
        ("a wrong type", rule("to: { paths: /a }, from: {}"), &["paths"]),
        ("a number for a name", spec(&RULE.replace("name: r", "name: [1]")), &["name"]),
        ("a port too large", spec(&format!("  ports: [65536]\n{RULE}")), &["ports", "65536"]),
        ("a negative port", spec(&format!("  ports: [-1]\n{RULE}")), &["ports"]),
        ("a dangling issuer", format!("{HEAD}{RULE}").into_bytes(), &["corp"]),
        ("neither from nor public", rule("to: { paths: [/a] }"), &["from", "public"]),
        ("both from and public", rule("to: { paths: [/a] }, from: {}, public: true"), &["from", "public"]),
        ("a wildcard in the middle", rule("to: { paths: ['/a/*/b'] }, from: {}"), &["paths[0]", "`*`"]),
        ("a path with dot segments", rule("to: { paths: ['/a/../b'] }, from: {}"), &["paths[0]", "`..`"]),
        (
            "a bare yes as a claim",
            rule("to: { paths: [/a] }, from: { claims: { t: [yes] } }"),
            &["yes", "quote"],
        ),
        (
            "a leading zero in a claim",
            rule("to: { paths: [/a] }, from: { claims: { t: [0123] } }"),
            &["0123", "quote"],
        ),
        ("no audience", spec("  tokens: [{ issuer: corp, audiences: [] }]\n  rules: []\n"), &["audiences"]),
        (
            "HMAC",
            ISSUER
                .replace("issuer: https://i.test", "issuer: https://i.test, algorithms: [HS256]")
                .into_bytes(),
            &["HS256"],
        ),
        ("plain http", ISSUER.replace("https://i.test", "http://i.test").into_bytes(), &["http"]),
        (
            "a condition on what there is not",
            rule("to: { paths: [/a] }, from: {}, when: 'tier == 1'"),
            &["spec.rules[0].when", "`tier` is not known", "claims, request, path, peer and source are"],
        ),
        (
            "a condition of 10,000 brackets",
            rule(&format!("to: {{ paths: [/a] }}, from: {{}}, when: '{}'", "(".repeat(10_000))),
            &["when", "bytes long"],
        ),
        (
            "a later feature",
            spec("  mtls: strict\n  rules: []\n"),
            &["mtls", "not supported by this version"],
        ),
        ("a tag", b"!!python/object/apply:os.system ['true']\n".to_vec(), &[":1"]),
        ("binary", (0..=255_u8).cycle().take(4096).collect(), &[]),
        ("not UTF-8", [b"kind: \xff\xfe\n".as_slice(), b"a: b\n"].concat(), &["UTF-8"]),
        ("UTF-16", "kind: Issuer\n".encode_utf16().flat_map(u16::to_le_bytes).collect(), &[]),
        ("a huge scalar", format!("kind: {}\n", "x".repeat(20 * 1024 * 1024)).into_bytes(), &[]),
        ("a million documents", "--- {}\n".repeat(1_000_000).into_bytes(), &[]),
        ("an unclosed quote", b"kind: \"Issuer\nmetadata: x\n".to_vec(), &[]),
        ("a tab for indentation", b"kind: Issuer\nmetadata:\n\tname: x\n".to_vec(), &[":3"]),
    ]
}

#[test]
fn every_hostile_file_gets_a_clear_error_in_bounded_time_and_memory() {
    let mut wrong = Vec::new();
    let files = hostile();
    assert!(files.len() >= 30);
    for (name, bytes, words) in files {
        let folder = Folder::with(&[]);
        fs::write(folder.file("hostile.yaml"), bytes).unwrap();
        // Address space in KiB; far more than any policy needs, far less than a bomb wants.
        let done = check_within(folder.path(), 2_000_000);
        let said = format!("{}{}", done.stdout, done.stderr);
        let mut problems = Vec::new();
        if done.code != Some(1) {
            problems.push(format!("exit code {:?}", done.code));
        }
        if !said.contains("hostile.yaml") {
            problems.push("does not name the file".to_owned());
        }
        problems.extend(words.iter().filter(|w| !said.contains(*w)).map(|w| format!("does not say {w:?}")));
        if said.len() > 64 * 1024 || said.contains("panicked") {
            problems.push(format!("{} bytes of output", said.len()));
        }
        if done.took > Duration::from_secs(5) {
            problems.push(format!("took {:?}", done.took));
        }
        if !problems.is_empty() {
            let start: String = said.chars().take(300).collect();
            wrong.push(format!("{name}: {}: {start}", problems.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each problem has its line: the n-th thing that is wrong is found where it was written.
#[test]
fn problems_have_their_lines() {
    let text = format!(
        "{ISSUER}{HEAD}  tokens: [{{ issuer: corp, audiences: [a] }}]\n  rules:\n  - name: first\n    to: {{ paths: [/a] }}\n    from: {{}}\n  - name: second\n    to:\n      paths:\n      - /fine\n      - '/not/*/fine'\n    from: {{}}\n"
    );
    let line = text.lines().position(|line| line.contains("/not/")).unwrap() + 1;
    let folder = Folder::with(&[("a.yaml", &text)]);
    let done = check(&[folder.path()]);
    let said = done.stdout + &done.stderr;
    let place = format!("a.yaml:{line}: InboundPolicy/default/p: spec.rules[1].to.paths[1]");
    assert!(said.contains(&place), "{place} is not in {said}");
}

/// All that compiling finds, at once, and good policy is good.
#[test]
fn all_problems_are_told_at_once_and_good_policy_passes() {
    let bad = issuer_with_file("keys.jwks") + &inbound(&usual_rules()).replace("\"corp\"", "\"crop\"");
    let folder = Folder::with(&[("a.yaml", &bad), ("b.yaml", "kind: [\n")]);
    let done = check(&[folder.path()]);
    let said = done.stdout + &done.stderr;
    assert_eq!(done.code, Some(1), "{said}");
    assert!(said.contains("a.yaml") && said.contains("crop") && said.contains("b.yaml"), "{said}");

    let good = Folder::with(&[("a.yaml", &(issuer_with_file("keys.jwks") + &inbound(&usual_rules())))]);
    let done = check(&[good.path()]);
    assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
}
