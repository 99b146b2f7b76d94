//! What does a scrape say? A parser of the Prometheus text format, strict enough to notice a malformed line.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::client;

/// Every sample of one scrape.
#[derive(Clone, Debug)]
pub(crate) struct Scrape(Vec<Sample>);

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Scrape {
    /// GET `/metrics`.
    pub(crate) fn of(admin: SocketAddr) -> Self {
        let answer = client::get(admin, "/metrics", &[]);
        assert_eq!(answer.status, 200, "{answer:?}");
        Self::parse(&answer.text())
    }

    pub(crate) fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(sample);
        Self(samples.collect())
    }

    /// The sum of the samples of this name that carry all of these labels; 0 if there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            let has =
                |(name, value): &(&str, &str)| sample.labels.get(*name).is_some_and(|found| found == value);
            sample.name == name && labels.iter().all(has)
        };
        self.0.iter().filter(fits).map(|sample| sample.value).sum()
    }

    /// The samples of this name.
    pub(crate) fn all(&self, name: &str) -> Vec<&Sample> {
        self.0.iter().filter(|sample| sample.name == name).collect()
    }
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
    let Some((name, rest)) = series.split_once('{') else {
        return Sample { name: series.to_owned(), labels: BTreeMap::new(), value };
    };
    let mut rest = rest.strip_suffix('}').unwrap_or_else(|| panic!("unclosed labels: {line}"));
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (label, quoted) = rest.split_once("=\"").unwrap_or_else(|| panic!("bad label: {line}"));
        let end = closing_quote(quoted).unwrap_or_else(|| panic!("unclosed value: {line}"));
        labels.insert(label.trim_start_matches(',').to_owned(), unescape(&quoted[..end]));
        rest = &quoted[end + 1..];
    }
    Sample { name: name.to_owned(), labels, value }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| match c {
        '"' if !escaped => Some(at),
        _ => {
            escaped = c == '\\' && !escaped;
            None
        }
    })
}

fn unescape(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\\"", "\"").replace("\\\\", "\\")
}

#[test]
fn a_line_with_escapes_is_read() {
    let scrape = Scrape::parse("# HELP a b\na{x=\"1\",y=\"q\\\"}{,\"} 2\na{x=\"2\"} 3\nb 4\n");
    assert!((scrape.sum("a", &[("y", "q\"}{,")]) - 2.0).abs() < f64::EPSILON);
    assert!((scrape.sum("a", &[]) - 5.0).abs() < f64::EPSILON);
    assert_eq!(scrape.all("b").len(), 1);
}
