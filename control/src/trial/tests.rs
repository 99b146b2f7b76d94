use super::*;

const POLICY: &str = "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: { name: orders }\n\
    spec:\n  rules:\n  - { name: open, public: true, to: { paths: [/v1] } }\n  - { name: closed, effect: deny, to: { paths: [/v1/x] } }\n";
const TEST: &str = "---\napiVersion: countersign.dev/v1alpha1\nkind: PolicyTest\nmetadata: { name: orders }\nspec:\n  \
    to: { port: 80 }\n  cases:\n  - { name: \"open <&> all\", request: GET /v1, expect: allow, rule: orders/open }\n";

struct Folder(tempfile::TempDir);

impl Folder {
    fn with(text: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("p.yaml"), text).unwrap();
        Self(root)
    }

    fn run(&self) -> ExitCode {
        run(&[self.0.path().to_owned()], Underscores::Drop, Some(&self.report())).unwrap()
    }

    fn report(&self) -> PathBuf {
        self.0.path().join("report.xml")
    }
}

#[test]
fn passes_fails_and_reports() {
    let folder = Folder::with(&format!("{POLICY}{TEST}"));
    assert_eq!(folder.run(), ExitCode::SUCCESS);
    let xml = fs::read_to_string(folder.report()).unwrap();
    assert!(xml.contains("<testsuites name=\"countersign\" tests=\"1\" failures=\"0\">"), "{xml}");
    assert!(xml.contains("name=\"open &lt;&amp;&gt; all\"/>"), "{xml}");

    let folder = Folder::with(&format!("{POLICY}{TEST}").replace("expect: allow", "expect: deny"));
    assert_eq!(folder.run(), ExitCode::from(1));
    let xml = fs::read_to_string(folder.report()).unwrap();
    assert!(
        xml.contains("failures=\"1\"") && xml.contains("expected deny orders/open, found allow orders/open"),
        "{xml}"
    );
}

#[test]
fn nothing_tested_and_what_cannot_be_is_no() {
    for text in [
        POLICY.to_owned(),
        format!("{POLICY}{TEST}").replace("rules:", "rulez:"),
        format!("{POLICY}{TEST}").replace("expect:", "expects:"),
    ] {
        let folder = Folder::with(&text);
        assert_eq!(folder.run(), ExitCode::from(1), "{text}");
        assert!(!folder.report().exists());
    }
    // Labels that select nothing are a failure like any other.
    let folder = Folder::with(
        &format!("{POLICY}{TEST}")
            .replace("name: orders }\nspec:\n  to:", "name: orders, namespace: x }\nspec:\n  to:"),
    );
    assert_eq!(folder.run(), ExitCode::from(1));
    assert!(fs::read_to_string(folder.report()).unwrap().contains("no policy selects"));
    assert!(run(&["/nowhere/at/all".into()], Underscores::Drop, None).unwrap_err().contains("no such file"));
}

#[test]
fn tells_what_no_case_has_hit() {
    let folder = Folder::with(&format!("{POLICY}{TEST}"));
    let outcome = check::check(&[folder.0.path().to_owned()], Underscores::Drop).unwrap().outcome;
    let mut told = Vec::new();
    say(&outcome, &mut told);
    let told = String::from_utf8(told).unwrap();
    assert!(
        told.contains(
            "p.yaml:7: InboundPolicy/default/orders: spec.rules[1]: rule `closed` is hit by no case\n"
        ),
        "{told}"
    );
    assert!(told.ends_with("coverage: 1 of 2 rules hit\n1 passed, 0 failed\n"), "{told}");
}
