//! Is HTTP/1.1 answered as the public suite of raw requests expects (its 33 cases)? Before an application whose policy is open, byte
//! by byte.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::support::policy::open_policy;
use crate::support::proxy::Settings;
use crate::support::raw_client::talk;
use crate::support::raw_upstream::RawUpstream;

/// What has to come.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// Nothing, and the connection stays open.
    Silence,
    /// A status between these two.
    Status(u16, u16),
    /// An answer, and the end of the connection behind it.
    ServedAndClosed,
}

use Expected::{ServedAndClosed, Silence, Status};

/// What comes of a request whose end is missing: nothing, for as long as the rest may come.
const WHOLE: &str = "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n";
const UNFINISHED: &[&str] = &[
    "G",
    "GET ",
    "GET /hello",
    "GET /hello ",
    "GET /hello HTTP",
    "GET /hello HTTP/1.1",
    "GET /hello HTTP/1.1\r",
    "GET /hello HTTP/1.1\r\n",
    "GET /hello HTTP/1.1\r\nHos",
    "GET /hello HTTP/1.1\r\nHost:",
    "GET /hello HTTP/1.1\r\nHost: ",
    "GET /hello HTTP/1.1\r\nHost: localhost",
    "GET /hello HTTP/1.1\r\nHost: localhost\r",
    "GET /hello HTTP/1.1\r\nHost: localhost\r\n",
    "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r",
];

const FINISHED: &[(&str, &str, Expected)] = &[
    ("no version", "GET / \r\n\r\n", Status(400, 599)),
    (
        "an expectation",
        "GET / HTTP/1.1\r\nHost: example.com\r\nExpect: 100-continue\r\n\r\n",
        Status(100, 299),
    ),
    ("a plain request", "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", Status(200, 299)),
    (
        "a name in any case, a tab, an empty field",
        "GET / HTTP/1.1\r\nhoSt:\texample.com\r\nempty:\r\n\r\n",
        Status(200, 299),
    ),
    (
        "brackets in a name",
        "GET / HTTP/1.1\r\nHost: example.com\r\nX-Invalid[]: test\r\n\r\n",
        Status(400, 499),
    ),
    ("no host", "GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", Status(400, 499)),
    ("two hosts", "GET / HTTP/1.1\r\nHost: example.com\r\nHost: example.org\r\n\r\n", Status(400, 499)),
    (
        "a length below all numbers",
        "GET / HTTP/1.1\r\nHost: example.com\r\nContent-Length: -123456789123456789123456789\r\n\r\n",
        Status(400, 499),
    ),
    (
        "a negative length",
        "GET / HTTP/1.1\r\nHost: example.com\r\nContent-Length: -1234\r\n\r\n",
        Status(400, 499),
    ),
    (
        "a length in letters",
        "GET / HTTP/1.1\r\nHost: example.com\r\nContent-Length: abc\r\n\r\n",
        Status(400, 499),
    ),
    ("an empty value", "GET / HTTP/1.1\r\nHost: example.com\r\nX-Empty-Header: \r\n\r\n", Status(200, 299)),
    (
        "a bell in a value",
        "GET / HTTP/1.1\r\nHost: example.com\r\nX-Bad-Control-Char: test\x07\r\n\r\n",
        Status(400, 499),
    ),
    ("a version of the future", "GET / HTTP/9.9\r\nHost: example.com\r\n\r\n", Status(400, 599)),
    ("a word before the method", "Extra lineGET / HTTP/1.1\r\nHost: example.com\r\n\r\n", Status(400, 599)),
    (
        "a return without its line feed",
        "GET / HTTP/1.1\r\nHost: example.com\r\n\rSome-Header: Test\r\n\r\n",
        Status(400, 499),
    ),
    ("a body", "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello", Status(200, 404)),
    // The suite demands a refusal. RFC 9112 §6.1 and §6.3 let a server go by the chunks alone if it closes the connection after
    // its answer, and an intermediary that forwards the request must remove the length before: so hyper does, without a trace of
    // the length in what it hands over, and so the application gets one framing.
    (
        "chunks and a length",
        "GET / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        ServedAndClosed,
    ),
    // The 33rd: the unfinished ones are prefixes of a request that is answered.
    ("all of what was unfinished", WHOLE, Status(200, 299)),
];

/// What is wrong with a case.
fn flaw(to: SocketAddr, name: &str, bytes: &str, expected: Expected) -> Option<String> {
    let (enough, quiet) = match expected {
        Silence => (1, QUIET),
        Status(..) => (1, PATIENCE),
        // More than there will be: the end is waited for.
        ServedAndClosed => (2, PATIENCE),
    };
    let heard = talk(to, bytes.as_bytes(), enough, quiet).unwrap();
    let status = heard.answers.first().map(|(status, _)| *status);
    let is_as_expected = match (expected, status) {
        (Silence, None) => !heard.is_closed,
        (Status(least, most), Some(status)) => (least..=most).contains(&status),
        (ServedAndClosed, Some(status)) => (200..300).contains(&status) && heard.is_closed,
        _ => false,
    };
    (!is_as_expected).then(|| format!("{name}: {heard:?}, {expected:?} was expected"))
}

fn all_flaws(to: SocketAddr) -> Vec<String> {
    let unfinished = UNFINISHED.iter().map(|bytes| (*bytes, *bytes, Silence));
    let cases: Vec<_> = unfinished.chain(FINISHED.iter().copied()).collect();
    assert_eq!(cases.len(), 33);
    assert!(UNFINISHED.iter().all(|bytes| WHOLE.starts_with(bytes)));
    thread::scope(|scope| {
        let running: Vec<_> = cases
            .iter()
            .map(|&(name, bytes, expected)| scope.spawn(move || flaw(to, name, bytes, expected)))
            .collect();
        running.into_iter().filter_map(|case| case.join().unwrap()).collect()
    })
}

#[test]
fn in_15_the_33_cases_are_answered_as_expected() {
    let application = RawUpstream::start();
    let folder = open_policy();
    let proxy = Settings::policies(folder.path(), "orders").before(application.address()).start();
    let flaws = all_flaws(proxy.inbound());
    assert!(flaws.is_empty(), "{}", flaws.join("\n"));
    for message in application.messages() {
        let framings = ["transfer-encoding:", "content-length:"]
            .map(|name| message.to_ascii_lowercase().matches(name).count());
        assert!(framings.iter().sum::<usize>() <= 1, "two framings at the application: {message:?}");
    }
}

/// How long nothing may come.
const QUIET: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(2);
