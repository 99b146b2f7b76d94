//! What does a build server read? The outcome of policy tests as JUnit XML: a suite for each document, a case for each case.

use std::fmt::Write as _;

use countersign_policy::Problem;
use countersign_policy::trial::{Outcome, TestOutcome};

/// The whole report.
pub(crate) fn render(outcome: &Outcome) -> String {
    let (failed, total) = (outcome.failed(), outcome.passed() + outcome.failed());
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    xml += &format!("<testsuites name=\"countersign\" tests=\"{total}\" failures=\"{failed}\">\n");
    for test in &outcome.tests {
        suite(test, &mut xml);
    }
    xml + "</testsuites>\n"
}

fn suite(test: &TestOutcome, xml: &mut String) {
    // A test that tries nothing is a failure of its own, and has no case that could show it.
    let idle = test.idle.iter().map(|problem| ("selects a policy", Some(problem)));
    let cases = test.cases.iter().map(|case| (case.name.as_str(), case.failure.as_ref()));
    let cases: Vec<_> = idle.chain(cases).collect();
    let failed = cases.iter().filter(|(_, failure)| failure.is_some()).count();
    let (name, file) = (escape(&test.name), escape(&test.file));
    let counts = format!("tests=\"{}\" failures=\"{failed}\"", cases.len());
    *xml += &format!("  <testsuite name=\"{name}\" file=\"{file}\" {counts}>\n");
    for (case, failure) in cases {
        let start = format!("    <testcase classname=\"{name}\" name=\"{}\"", escape(case));
        *xml += &match failure {
            None => format!("{start}/>\n"),
            Some(problem) => format!("{start}>\n{}    </testcase>\n", self::failure(problem)),
        };
    }
    *xml += "  </testsuite>\n";
}

fn failure(problem: &Problem) -> String {
    let (message, place) = (escape(&problem.message), escape(&problem.to_string()));
    format!("      <failure message=\"{message}\">{place}</failure>\n")
}

/// Text for an attribute or an element. What XML 1.0 cannot hold at all is replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' => {
                let _ = write!(escaped, "&#{};", u32::from(c));
            }
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_means_something_in_xml() {
        assert_eq!(escape("<a b=\"c\">&\n\u{1}é"), "&lt;a b=&quot;c&quot;&gt;&amp;&#10;\u{fffd}é");
    }
}
