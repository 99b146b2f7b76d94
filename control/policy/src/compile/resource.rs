//! What is this resource called (RFC 9728 §1.2)? `resourceMetadata`, checked: the one https URL among the audiences.

use crate::document::inbound::AcceptedSpec;
use crate::field::Field;
use crate::path::CanonicalPath;

use super::report::Report;
use super::url::{self, UrlRules};

/// The resource's identifier. `None` only where there is a problem.
pub(crate) fn compile(tokens: &[AcceptedSpec], at: &Field, report: &mut Report<'_>) -> Option<String> {
    let is_url = |text: &str| url::check(text, UrlRules { insecure: false, query: false }).is_ok();
    let audiences = tokens.iter().flat_map(|entry| &entry.audiences);
    let mut urls: Vec<&str> = audiences.map(|audience| &**audience).filter(|text| is_url(text)).collect();
    urls.sort_unstable();
    urls.dedup();
    match urls.as_slice() {
        [url] if CanonicalPath::parse(url_path(url)).is_some() => Some((*url).to_owned()),
        [url] => {
            report.add(
                at,
                format!("the path of `{url}` can be read in more than one way: name the resource otherwise"),
            );
            None
        }
        [] => {
            let message = "needs the resource's identifier: write an https URL without a query among `audiences`, \
                           by which clients ask for tokens (RFC 9728, section 1.2)";
            report.add(at, message);
            None
        }
        [one, other, ..] => {
            let message =
                format!("a resource has one identifier, but both `{one}` and `{other}` stand in `audiences`");
            report.add(at, message);
            None
        }
    }
}

/// The path of a URL that has been checked; `/` where it has none.
pub(crate) fn url_path(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
}
