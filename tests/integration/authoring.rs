//! Can policy be written with confidence? The commands `check`, `test` and `schema`, and the examples, each with its test.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use countersign_policy::schema;
use serde_json::Value;

use crate::support::policy::Folder;
use crate::support::process::{Finished, run};
use crate::support::{binary, root};

/// Real situations; the other folders of examples are those of the README, and have no tests.
const SITUATIONS: &[&str] = &[
    "public-health-check",
    "service-to-service",
    "tenant-by-claim",
    "admin-by-role",
    "grpc-method",
    "partner-issuer",
    "audit-migration",
    "shadow-rule",
    "mtls-only",
    "mtls-bound-token",
];

/// The policy and the test that the design shows.
const POLICY: &str = r#"apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: { name: corp }
spec: { issuer: https://login.example.com/realms/shop }
---
apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: { name: orders, namespace: shop }
spec:
  workloads: { labels: { app: orders } }
  ports: [8080]
  tokens:
  - { issuer: corp, audiences: [https://orders.shop] }
  rules:
  - name: write
    to: { methods: [POST], paths: ["/orders", "/orders/{id}/*"] }
    from: { scopes: [orders:write], clients: [checkout], claims: { tenant: [acme] } }
"#;
const TEST: &str = r#"apiVersion: countersign.dev/v1alpha1
kind: PolicyTest
metadata: { name: orders, namespace: shop }
spec:
  to: { labels: { app: orders }, port: 8080 }
  token: { issuer: corp, audience: https://orders.shop, client: checkout, scopes: [orders:write], claims: { tenant: acme } }   # base of every case
  cases:
  - { name: writes, request: POST /orders, expect: allow, rule: orders/write }
  - { name: other scope, request: POST /orders, token: { scopes: [orders:read] }, expect: deny, reason: insufficient_scope }
  - { name: nobody, request: POST /orders, token: none, expect: deny, reason: missing_token }
"#;

fn control(arguments: &[&str]) -> Finished {
    run(Command::new(binary("countersign-control")).args(arguments), Duration::from_secs(20))
}

fn example(name: &str) -> String {
    root().join("deploy/examples").join(name).display().to_string()
}

#[test]
fn examples_are_sound_and_do_what_their_tests_say() {
    for name in SITUATIONS {
        let folder = example(name);
        let checked = control(&["check", "--deny-warnings", &folder]);
        assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{name}: {checked:?}");
        let tested = control(&["test", &folder]);
        assert_eq!((tested.code, tested.stderr.as_str()), (Some(0), ""), "{name}: {tested:?}");
        let (covered, rules) = coverage(&tested.stdout);
        assert!(covered == rules && rules > 1, "{name}: {}", tested.stdout);
    }
}

/// The numbers of the line `coverage: 3 of 4 rules hit`.
fn coverage(output: &str) -> (usize, usize) {
    let line = output.lines().find_map(|line| line.strip_prefix("coverage: ")).expect("the line");
    let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
    (numbers.next().expect("hit"), numbers.next().expect("all"))
}

#[test]
fn there_is_an_example_for_every_situation_and_none_is_odd() {
    let folders = fs::read_dir(root().join("deploy/examples")).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = folders
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_string_lossy().into())
        .collect();
    let mut expected: Vec<String> =
        SITUATIONS.iter().chain(&["standalone", "shop", "bound"]).map(ToString::to_string).collect();
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
    for name in names {
        let checked = control(&["check", "--deny-warnings", &example(&name)]);
        assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{name}: {checked:?}");
    }
}

#[test]
fn the_documented_test_passes_and_fails_when_policy_changes() {
    let folder = Folder::with(&[("policy.yaml", POLICY), ("test.yaml", TEST)]);
    let (path, report) =
        (folder.path().display().to_string(), folder.file("report.xml").display().to_string());
    let done = control(&["test", &path, "--junit", &report]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stdout.ends_with("coverage: 1 of 1 rules hit\n3 passed, 0 failed\n"), "{done:?}");

    folder.write("policy.yaml", &POLICY.replace("[orders:write]", "[orders:read]"));
    let done = control(&["test", &path, "--junit", &report]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let expected = "test.yaml:9: PolicyTest/shop/orders: spec.cases[1]: `other scope`: expected deny insufficient_scope, found allow orders/write\n";
    assert!(done.stderr.contains(expected), "{done:?}");
    assert!(done.stdout.ends_with("1 passed, 2 failed\n"), "{done:?}");
    let xml = fs::read_to_string(&report).unwrap();
    assert!(xml.contains("tests=\"3\" failures=\"2\"") && xml.contains("<failure message="), "{xml}");
}

#[test]
fn a_test_that_tests_nothing_is_no() {
    for (policy, test, words) in [
        (POLICY, "", "no document of kind PolicyTest"),
        (POLICY, &*TEST.replace("port: 8080", "port: 80"), "no policy selects this port"),
        (POLICY, &TEST.replace("expect:", "expects:"), "unknown field"),
        (POLICY, &TEST.replace("issuer: corp", "issuer: corps"), "there is no Issuer `corps`"),
        (&POLICY.replace("rules:", "rulez:"), TEST, "unknown field"),
    ] {
        let folder = Folder::with(&[("policy.yaml", policy), ("test.yaml", test)]);
        let done = control(&["test", &folder.path().display().to_string()]);
        assert_eq!(done.code, Some(1), "{words}: {done:?}");
        assert!(done.stderr.contains(words), "{words}: {done:?}");
    }
    assert_eq!(control(&["test"]).code, Some(2));
    assert_eq!(control(&["test", "/nowhere/at/all"]).code, Some(2));
}

#[test]
fn warnings_are_told_and_denied_when_asked() {
    let odd = POLICY.to_owned() + "  - { name: closed, effect: deny, to: { paths: [\"/*\"] } }\n";
    let folder = Folder::with(&[("policy.yaml", &odd)]);
    let path = folder.path().display().to_string();
    let told = control(&["check", &path]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let warning =
        "policy.yaml:15: InboundPolicy/shop/orders: spec.rules[0]: can never allow: deny rule `closed` hits";
    assert!(told.stderr.starts_with("warning: ") && told.stderr.contains(warning), "{told:?}");
    assert!(told.stdout.contains("2 documents, 1 warning, version "), "{told:?}");
    assert_eq!(control(&["check", "--deny-warnings", &path]).code, Some(1));
    // A test that is broken is a problem for its author, here and not elsewhere.
    let folder =
        Folder::with(&[("policy.yaml", POLICY), ("test.yaml", &TEST.replace("expect:", "expects:"))]);
    assert_eq!(control(&["check", &folder.path().display().to_string()]).code, Some(1));
}

#[test]
fn the_schema_in_the_repository_is_the_one_that_is_printed() {
    let printed = control(&["schema"]);
    assert_eq!(printed.code, Some(0), "{printed:?}");
    assert_eq!(serde_json::from_str::<Value>(&printed.stdout).unwrap(), schema::schema());
    let file: PathBuf = root().join("deploy/schema/countersign.json");
    if std::env::var_os("COUNTERSIGN_BLESS").is_some() {
        fs::write(&file, &printed.stdout).unwrap();
    }
    assert!(
        fs::read_to_string(&file).is_ok_and(|kept| kept == printed.stdout),
        "countersign-control schema > deploy/schema/countersign.json"
    );
}

/// What a request is denied for, expected against found; nothing of its query and headers.
#[test]
fn a_request_is_explained_on_the_command_line() {
    let claims = Folder::with(&[(
        "claims.json",
        r#"{ "iss": "https://login.example.com/realms/shop", "aud": "https://orders.shop", "sub": "c", "client_id": "checkout",
             "exp": 4102444800, "iat": 0, "jti": "1", "scope": "orders:write", "tenant": "CLAIM-CANARY-2" }"#,
    )]);
    let folder = Folder::with(&[("policy.yaml", POLICY)]);
    let (path, claims) =
        (folder.path().display().to_string(), claims.file("claims.json").display().to_string());
    let explain = |more: &[&str]| {
        let base = ["explain", "--policies", &path, "--to", "shop/8080", "--label", "app=orders"];
        control(&[&base, more].concat())
    };
    let post = ["--method", "POST", "--path", "/orders?q=QUERY-CANARY"];
    let denied = explain(&[&post[..], &["--claims", &claims, "--header", "X-A=HEADER-CANARY"]].concat());
    assert_eq!(denied.code, Some(1), "{denied:?}");
    assert!(denied.stdout.contains("from.claims.tenant: expected acme, found CLAIM-CANARY-2"), "{denied:?}");
    assert!(
        denied.stdout.contains("policy.yaml: accepts the token\n  allow write (line 15): does not match\n"),
        "{denied:?}"
    );
    assert!(
        !denied.stdout.contains("QUERY-CANARY") && !denied.stdout.contains("HEADER-CANARY"),
        "{denied:?}"
    );
    let nobody = explain(&[&post[..], &["--json"]].concat());
    let json: Value = serde_json::from_str(&nobody.stdout).unwrap();
    assert_eq!((nobody.code, &json["reason"]), (Some(1), &"missing_token".into()), "{nobody:?}");

    folder.write("policy.yaml", &POLICY.replace("tenant: [acme]", "tenant: [CLAIM-CANARY-2]"));
    let allowed = explain(&[&post[..], &["--claims", &claims]].concat());
    assert_eq!(allowed.code, Some(0), "{allowed:?}");
    assert!(allowed.stdout.starts_with("allow (rule shop/orders/write)\n"), "{allowed:?}");
    folder.write("policy.yaml", &POLICY.replace("rules:", "rulez:"));
    let broken = explain(&post);
    assert!(broken.code == Some(2) && broken.stderr.contains("policy.yaml:14: "), "{broken:?}");
    let nobody = control(&["explain", "--decision", "a-1", "--admin", "127.0.0.1:1"]);
    assert!(nobody.code == Some(2) && nobody.stderr.contains("--admin"), "{nobody:?}");
}
