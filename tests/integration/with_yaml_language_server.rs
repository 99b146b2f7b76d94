//! Does an editor help? yaml-language-server, which editors run, opens a policy with our schema, completes fields and marks
//! what is wrong.

use std::fs;
use std::path::Path;
use std::time::Duration;

use countersign_policy::schema;
use serde_json::Value;

use crate::support::process::run;
use crate::support::tools::node;

const POLICY: &str = "apiVersion: countersign.dev/v1alpha1
kind: InboundPolicy
metadata: { name: orders }
spec:
  tokens:
  - issuer: corp
    audiences: [https://orders.shop]
  rules:
  - name: read
    from: { scopes: [orders:read] }
    to: { paths: [/orders] }
";
const ISSUER: &str = "---
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: { name: corp }
spec:
  issuer: https://login.example.com
  leeway: 5s
";
/// The first line of a file, as the README says it.
const MODELINE: &str = "# yaml-language-server: $schema=countersign.json\n";

/// What the server says of a file, with completions and descriptions at these places (line and character from 0).
fn open(text: &str, places: &[(usize, usize)]) -> Value {
    // Its patterns pass over folders that begin with a dot, as temporary ones do.
    let folder = tempfile::Builder::new().prefix("policy").tempdir().unwrap();
    let (file, schema) = (folder.path().join("policy.yaml"), folder.path().join("countersign.json"));
    fs::write(&file, text).unwrap();
    fs::write(&schema, schema::schema().to_string()).unwrap();
    let mut command = node("yaml-language-client.mjs");
    command.arg(&file).arg(if text.starts_with(MODELINE) { Path::new("-") } else { &schema });
    command.args(places.iter().map(|(line, character)| format!("{line}:{character}")));
    let done = run(&mut command, Duration::from_secs(60));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    serde_json::from_str(&done.stdout).unwrap()
}

fn labels(found: &Value, place: usize) -> Vec<&str> {
    let labels = found["completions"][place].as_array().unwrap();
    labels.iter().filter_map(Value::as_str).collect()
}

#[test]
fn it_completes_fields_and_words_of_each_kind() {
    let more = "    \n  - name: more\n    public: true\n";
    let text = format!("{POLICY}{more}{ISSUER}  profile: \n");
    let line = |text: &str, of: &str| text.lines().position(|line| line.starts_with(of)).unwrap();
    let places = [
        (line(&text, "    to:") + 1, 4),
        (line(&text, "    from:"), 14),
        (line(&text, "  profile:"), 11),
        (line(&text, "  leeway:"), 2),
    ];
    let found = open(&text, &places);
    let rule = labels(&found, 0);
    for field in ["unless", "public", "shadow", "effect"] {
        assert!(rule.contains(&field), "{field}: {found:#}");
    }
    // What is there already, what this version does not know, and what stands elsewhere.
    assert!(!["to", "mtls", "forwardClaims"].iter().any(|field| rule.contains(field)), "{found:#}");
    assert!(labels(&found, 1).contains(&"clients"), "{found:#}");
    let profiles = labels(&found, 2);
    assert!(profiles.contains(&"keycloak") && profiles.contains(&"jwt-svid"), "{found:#}");
    let issuer = labels(&found, 3);
    assert!(issuer.contains(&"algorithms") && !issuer.contains(&"rules"), "{found:#}");
}

#[test]
fn it_marks_what_is_wrong_and_nothing_else() {
    let good = format!("{POLICY}{ISSUER}");
    assert_eq!(open(&good, &[])["diagnostics"].as_array().map(Vec::len), Some(0));
    for (from, to, line, words) in [
        ("rules:", "rulez:", 7, "rulez"),
        ("scopes:", "scope:", 9, "scope"),
        ("name: read", "public: true", 8, "name"),
        ("[/orders]", "/orders", 10, "array"),
        ("kind: InboundPolicy", "kind: InboundPolicies", 1, "InboundPolicy"),
        ("leeway: 5s", "leeway: 5", 17, "string"),
    ] {
        let found = open(&good.replace(from, to), &[]);
        let marked = found["diagnostics"].as_array().unwrap();
        let is_it = |mark: &Value| {
            mark["line"] == line && mark["message"].as_str().is_some_and(|text| text.contains(words))
        };
        assert!(marked.iter().any(is_it), "{to}: {found:#}");
    }
}

#[test]
fn a_first_line_names_the_schema_too_and_fields_are_explained() {
    let found = open(&format!("{MODELINE}{POLICY}    public: maybe\n"), &[(12, 6)]);
    assert!(found["hover"].as_str().is_some_and(|text| text.contains("without a token")), "{found:#}");
    assert_eq!(found["diagnostics"][0]["line"], 12, "{found:#}");
}
