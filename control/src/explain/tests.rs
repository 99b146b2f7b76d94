use clap::Parser;

use super::*;
use crate::config::{Cli, Command};

const POLICY: &str = r#"
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: { name: corp }
spec: { issuer: "https://login.example.com", profile: generic }
---
apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: { name: orders, namespace: shop }
spec:
  workloads: { labels: { app: orders } }
  tokens: [{ issuer: corp, audiences: ["https://orders.shop"] }]
  rules:
  - { name: write, to: { paths: [/orders], headers: { X-Env: [prod] } }, from: { scopes: [orders:write] } }
"#;

/// Exit code and what is said, or the error of usage.
fn explained(flags: &str) -> Result<(bool, String), String> {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    fs::write(at("orders.yaml"), POLICY).unwrap();
    let claims =
        r#"{"iss":"https://login.example.com","aud":"https://orders.shop","exp":1,"scope":"orders:write"}"#;
    fs::write(at("claims.json"), claims).unwrap();
    fs::write(at("broken.json"), r#"{"canary"#).unwrap();
    fs::write(at("twice.json"), r#"{"canary":1,"canary":2}"#).unwrap();
    fs::write(at("number.json"), r#"{"exp":1e300}"#).unwrap();
    fs::write(at("large.json"), " ".repeat(64 * 1024 + 1)).unwrap();
    let flags = flags.replace("FOLDER", &folder.path().display().to_string());
    let cli = Cli::try_parse_from("countersign-control explain".split(' ').chain(flags.split_whitespace()));
    let Command::Explain(flags) = cli.map_err(|error| error.to_string())?.command else { unreachable!() };
    let json = flags.json;
    let (policies, question) = flags.question()?;
    let explanation = explain(&policies, &question)?.expect("policy is in order");
    let mut text = Vec::new();
    say(&explanation, json, &mut text)?;
    Ok((explanation.passes(), String::from_utf8(text).unwrap()))
}

#[test]
fn every_flag_counts() {
    let base = "--policies FOLDER/orders.yaml --to shop/8080 --label app=orders --method POST --path /orders?q=canary";
    let with = |flags: &str| explained(&format!("{base} {flags}")).unwrap();
    let (passes, text) = with("--claims FOLDER/claims.json --header X-Env=prod");
    assert!(passes && text.starts_with("allow (rule shop/orders/write)\n"), "{text}");
    assert!(!text.contains("canary"), "{text}");
    let (passes, text) = with("--claims FOLDER/claims.json --header X-Env=canary");
    assert!(!passes && text.contains("to.headers.x-env: expected prod, found another value"), "{text}");
    assert!(!text.contains("canary"), "{text}");
    let (passes, text) = with("--grpc --host Orders.Shop:80 --source 10.1.2.3 --peer spiffe://td/a");
    assert!(
        !passes && text.contains("request: POST /orders (gRPC), host orders.shop, from 10.1.2.3\n"),
        "{text}"
    );
    assert!(text.contains("peer:    spiffe://td/a\n") && text.starts_with("deny missing_token: "), "{text}");
    let (_, text) = with("--header content-type=application/grpc");
    assert!(text.contains("request: POST /orders (gRPC), "), "{text}");
    let both = "--claims FOLDER/claims.json --header X-Env=prod --header x_env=other";
    assert!(with(both).0 && !with(&format!("{both} --header-underscores pass")).0);
    let (_, text) = with("--json");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["decision"], &json["reason"]), (&"deny".into(), &"missing_token".into()));
    let (_, text) = explained("--policies FOLDER/orders.yaml --to shop/8080 --path /").unwrap();
    assert!(text.contains("spec.workloads.labels.app: expected orders, found absent"), "{text}");
}

#[test]
fn what_cannot_be_asked_is_an_error_that_says_what_to_write() {
    let base = "--policies FOLDER --to shop/8080 --path /";
    for (flags, expected) in [
        ("", "--policies"),
        ("--policies FOLDER --to shop --path /", "namespace/port"),
        ("--policies FOLDER --to shop/0 --path /", "namespace/port"),
        ("--policies FOLDER --to shop/1 --path x", "begins with /"),
        ("--policies /nowhere/at/all --to shop/1 --path /", "no such file"),
        (&*format!("{base} --label app"), "key=value"),
        (&format!("{base} --header a"), "name=value"),
        (&format!("{base} --peer td/a"), "spiffe://"),
        (&format!("{base} --source here"), "--source"),
        (&format!("{base} --claims FOLDER/nothing"), "--claims"),
        (
            &format!("{base} --claims FOLDER/broken.json"),
            "no JSON object of claims: EOF while parsing a string at line 1",
        ),
        (&format!("{base} --claims FOLDER/twice.json"), "duplicate name at line 1"),
        (&format!("{base} --claims FOLDER/number.json"), "number out of range"),
        (&format!("{base} --claims FOLDER/large.json"), "is larger than 64 KiB"),
        (&format!("{base} --claims /dev/zero"), "is no regular file"),
        (&format!("{base} --claims FOLDER"), "is no regular file"),
        (
            &format!("{base} --header Authorization=canary"),
            "--header authorization: is not judged as a header",
        ),
        (&format!("{base} --header dpop=canary"), "--header dpop: is not judged as a header"),
        (&format!("{base} --header Host=canary"), "--header host: "),
        (&format!("{base} --header transfer-encoding=canary"), "is of one connection"),
        (&format!("{base} --grpc --header content-type=text/canary"), "--grpc: contradicts the content type"),
        (&format!("{base} --header-underscores maybe"), "write drop or pass"),
        ("--decision a&b", "decision_id"),
        ("--decision a-1 --admin 10.0.0.1:1", "loopback"),
    ] {
        let error = explained(flags).unwrap_err();
        assert!(error.contains(expected) && !error.contains("canary"), "{flags}: {error}");
    }
}
