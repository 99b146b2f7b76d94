//! Which word in `Proxy-Status` stands for what? The table of README.md, from the code.

use countersign_policy::Reason;
use countersign_proxy::rejection::{Cause, Refusal};

use super::{code, codes, table};

pub(super) fn render() -> String {
    let upstream = Cause::ALL.iter().map(|&cause| {
        let reason = cause.reason();
        vec![
            code(cause.as_str()),
            reason.status().to_string(),
            code(reason.as_str()),
            sentence(cause.title()),
        ]
    });
    let ours = OURS.iter().map(|(error, what)| {
        let reasons = reasons(error);
        let mut statuses: Vec<String> = reasons.iter().map(|reason| reason.status().to_string()).collect();
        statuses.sort();
        statuses.dedup();
        let words: Vec<&str> = reasons.iter().map(|reason| reason.as_str()).collect();
        // All the others, which are many.
        let words = if words.len() > 10 { "any other".to_owned() } else { codes(&words) };
        vec![code(error), statuses.join(" "), words, sentence(what)]
    });
    table(&["error", "HTTP", "reason", "what it means"], upstream.chain(ours))
}

fn sentence(text: &str) -> String {
    format!("{text}.")
}

/// The reasons that this error type is said for where no upstream is to blame.
fn reasons(error: &str) -> Vec<Reason> {
    let says = |reason: &Reason| Refusal::from(*reason).proxy_status().ends_with(&format!("={error}"));
    let is_upstream =
        |reason: &Reason| [Reason::UpstreamUnreachable, Reason::UpstreamTimeout].contains(reason);
    Reason::ALL.iter().copied().filter(|reason| says(reason) && !is_upstream(reason)).collect()
}

const OURS: &[(&str, &str)] = &[
    ("http_request_denied", "Refused for who the caller is, or for what policy says"),
    ("http_request_error", "Refused for its form"),
    ("connection_limit_reached", "Too much is under way"),
    ("proxy_configuration_error", "There is no policy to judge by"),
    ("proxy_internal_error", "We could not do our part"),
];

#[test]
fn every_reason_is_in_the_table() {
    let counted: usize = OURS.iter().map(|(error, _)| reasons(error).len()).sum();
    assert_eq!(counted, Reason::ALL.len() - 2);
    assert!(OURS.iter().all(|(error, _)| !reasons(error).is_empty()));
}
