//! Can an answer mean two things? What an application says in two ways, or says of its own connection, by both versions to its caller.

use std::io::BufRead;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use http::Version;
use serde_json::json;

use crate::support::client::Connection;
use crate::support::frames::{Frames, NO_CONTENT, NOT_MODIFIED, OK, data, end, head_of};
use crate::support::policy::{Folder, document, open_policy, out_by_http1};
use crate::support::proxy::{Proxy, Settings};
use crate::support::scripted::{Scripted, Served};
use crate::support::versions::{VERSIONS, ask};

/// What its caller hears of an answer.
enum Outcome {
    /// 502 `upstream_unreachable`, and `http_protocol_error`.
    Refused,
    /// With these fields, once each, and without those.
    Passes { with: &'static [(&'static str, &'static str)], without: &'static [&'static str] },
}

use Outcome::{Passes, Refused};

/// A name, a method, what the application says behind `HTTP/1.1 `, and what becomes of it.
const ANSWERS: &[(&str, &str, &str, Outcome)] = &[
    (
        "equal lengths in a line",
        "GET",
        "200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        Passes { with: &[("content-length", "2")], without: &[] },
    ),
    (
        "equal lengths in two lines",
        "GET",
        "200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        Passes { with: &[("content-length", "2")], without: &[] },
    ),
    (
        "equal lengths of a HEAD",
        "HEAD",
        "200 OK\r\nContent-Length: 7,7\r\nContent-Length: 7\r\n\r\n",
        Passes { with: &[("content-length", "7")], without: &[] },
    ),
    ("two lengths", "GET", "200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", Refused),
    ("two lengths of a HEAD", "HEAD", "200 OK\r\nContent-Length: 2, 3\r\n\r\n", Refused),
    ("a length that is none", "HEAD", "200 OK\r\nContent-Length: +2\r\n\r\n", Refused),
    (
        "a coding before chunked",
        "GET",
        "200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "a coding behind chunked",
        "GET",
        "200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    ("an unknown coding", "GET", "200 OK\r\nTransfer-Encoding: xchunked\r\n\r\nok", Refused),
    ("identity", "GET", "200 OK\r\nTransfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", Refused),
    (
        "chunked twice",
        "GET",
        "200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "chunked twice in a line",
        "GET",
        "200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "empty elements before chunked",
        "GET",
        "200 OK\r\nTransfer-Encoding:\r\nTransfer-Encoding: , \t,chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Passes { with: &[], without: &["content-length"] },
    ),
    (
        "an empty element behind chunked",
        "GET",
        "200 OK\r\nTransfer-Encoding: chunked,\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Refused,
    ),
    (
        "an empty line behind chunked",
        "GET",
        "200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding:\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Refused,
    ),
    ("no coding at all", "GET", "200 OK\r\nTransfer-Encoding: ,\r\nContent-Length: 2\r\n\r\nok", Refused),
    (
        "the coding of what is no HEAD",
        "HEAD",
        "200 OK\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 7\r\nX-A: b\r\n\r\n",
        Passes { with: &[("x-a", "b")], without: &["content-length", "transfer-encoding"] },
    ),
    (
        "the coding of what is no 304",
        "GET",
        "304 Not Modified\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 7\r\nX-A: b\r\n\r\n",
        Passes { with: &[("x-a", "b")], without: &["content-length", "transfer-encoding"] },
    ),
    (
        "a coding of a 204",
        "GET",
        "204 No Content\r\nTransfer-Encoding: gzip\r\nX-A: b\r\n\r\n",
        Passes { with: &[("x-a", "b")], without: &["content-length", "transfer-encoding"] },
    ),
    (
        "a length beside chunked",
        "GET",
        "200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 7\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Passes { with: &[], without: &["content-length"] },
    ),
    (
        "a length of a 204",
        "GET",
        "204 No Content\r\nContent-Length: 7\r\nX-A: b\r\n\r\n",
        Passes { with: &[("x-a", "b")], without: &["content-length"] },
    ),
    (
        "a field of the connection",
        "GET",
        "200 OK\r\nConnection: X-Foo, keep-alive\r\nX-Foo: 1\r\nX-A: b\r\nContent-Length: 2\r\n\r\nok",
        Passes { with: &[("x-a", "b")], without: &["x-foo"] },
    ),
    (
        "fields for all in Connection",
        "GET",
        "200 OK\r\nConnection: content-type, Content-Length, cache-control\r\nContent-Type: a/b\r\n\
         Cache-Control: private\r\nContent-Length: 2\r\n\r\nok",
        Passes {
            with: &[("content-type", "a/b"), ("cache-control", "private"), ("content-length", "2")],
            without: &[],
        },
    ),
    (
        "a session, and what a browser must not do, in Connection",
        "GET",
        "200 OK\r\nConnection: close, Set-Cookie, location,access-control-allow-origin, X-Frame-Options, \
         strict-transport-security, content-security-policy, cross-origin-opener-policy, x-foo\r\n\
         Set-Cookie: a=b\r\nLocation: /a\r\nAccess-Control-Allow-Origin: https://a.test\r\n\
         X-Frame-Options: DENY\r\nStrict-Transport-Security: max-age=9\r\n\
         Content-Security-Policy: default-src 'none'\r\nCross-Origin-Opener-Policy: same-origin\r\n\
         X-Foo: 1\r\nContent-Length: 2\r\n\r\nok",
        Passes {
            with: &[
                ("set-cookie", "a=b"),
                ("location", "/a"),
                ("access-control-allow-origin", "https://a.test"),
                ("x-frame-options", "DENY"),
                ("strict-transport-security", "max-age=9"),
                ("content-security-policy", "default-src 'none'"),
                ("cross-origin-opener-policy", "same-origin"),
            ],
            without: &["x-foo"],
        },
    ),
    (
        "no name in Connection",
        "GET",
        "200 OK\r\nConnection: a b, ,\u{e4}\r\nX-A: b\r\nContent-Length: 2\r\n\r\nok",
        Passes { with: &[("x-a", "b")], without: &["a"] },
    ),
];

/// A sidecar whose rule for the application says HTTP/1.1, whatever its callers speak.
fn out_to(application: &Scripted) -> (Proxy, Folder) {
    let folder = out_by_http1(application.address().port());
    (Settings::policies(folder.path(), "checkout").start(), folder)
}

#[test]
fn an_answer_that_can_be_read_in_two_ways_is_read_in_one_or_refused() {
    let application = Scripted::start(|mut served| {
        while let Some(head) = served.head() {
            let index = head.split(' ').nth(1).and_then(|path| path.strip_prefix('/')?.parse::<usize>().ok());
            served.say(&format!("HTTP/1.1 {}", ANSWERS[index.unwrap()].2));
            if head.starts_with("GET") {
                return;
            }
        }
    });
    let (proxy, _folder) = out_to(&application);
    let host = format!("localhost:{}", application.address().port());
    let mut wrong = Vec::new();
    for version in VERSIONS {
        for (index, (name, method, _, outcome)) in ANSWERS.iter().enumerate() {
            let Some(heard) = ask(version, proxy.outbound(), &host, method, &format!("/{index}")) else {
                wrong.push(format!("{name} {version:?}: cut"));
                continue;
            };
            let all = |name: &str| {
                heard.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>()
            };
            let is_fine = match outcome {
                Refused => {
                    heard.status == 502 && all("proxy-status") == ["countersign; error=http_protocol_error"]
                }
                Passes { with, without } => {
                    [200, 204, 304].contains(&heard.status)
                        && with.iter().all(|(name, value)| all(name) == [*value])
                        && without.iter().all(|name| all(name).is_empty())
                        && (*method == "HEAD" || heard.status != 200 || heard.body == "ok")
                }
            };
            if !is_fine {
                wrong.push(format!(
                    "{name} {version:?}: {} {:?} {:?}",
                    heard.status, heard.headers, heard.body
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Over HTTP/1.1 those that were announced, over HTTP/2 all; never one of the connection.
#[test]
fn trailers_of_an_answer_arrive_without_those_of_the_connection() {
    const TRAILERS: &str =
        "2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Other: 2\r\nConnection: close\r\nKeep-Alive: timeout=5\r\n\r\n";
    let application = Scripted::start(|mut served| {
        while served.head().is_some() {
            served.say(&format!(
                "HTTP/1.1 200 OK\r\nTrailer: X-Sum, Connection, Keep-Alive\r\nTransfer-Encoding: chunked\r\n\r\n{TRAILERS}"
            ));
        }
    });
    let (proxy, _folder) = out_to(&application);
    let host = format!("localhost:{}", application.address().port());
    for (version, names) in [(Version::HTTP_11, &["x-sum"][..]), (Version::HTTP_2, &["x-other", "x-sum"])] {
        let heard = ask(version, proxy.outbound(), &host, "GET", "/").expect("an answer with its end");
        let trailers = heard.trailers.unwrap();
        let mut heard: Vec<_> = trailers.keys().map(http::HeaderName::as_str).collect();
        heard.sort_unstable();
        assert_eq!(heard, names, "{version:?}");
    }
}

/// The bytes of the next request, with its trailers.
fn with_trailers(served: &mut Served) -> Option<String> {
    let mut said = served.head()?;
    while !said.ends_with("\r\n0\r\n") {
        served.stream().read_line(&mut said).ok()?;
    }
    while !said.ends_with("\r\n\r\n") {
        served.stream().read_line(&mut said).ok()?;
    }
    Some(said.to_ascii_lowercase())
}

#[test]
fn in_16_trailers_of_a_request_arrive_without_those_of_the_connection() {
    let (tell, told) = mpsc::channel();
    let application = Scripted::start(move |mut served| {
        while let Some(said) = with_trailers(&mut served) {
            tell.send(said).unwrap();
            served.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let (out, _folder) = out_to(&application);
    let folder = open_policy();
    let before = Settings::policies(folder.path(), "orders").before(application.address()).start();
    let host = format!("localhost:{}", application.address().port());
    for to in [before.inbound(), out.outbound()] {
        let mut caller = Connection::open(to).unwrap();
        let bytes = format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nTrailer: X-Sum, Connection, Keep-Alive\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nok\r\n0\r\nX-Sum: 1\r\nConnection: close\r\nKeep-Alive: timeout=5\r\n\r\n"
        );
        caller.send(bytes.as_bytes()).unwrap();
        assert_eq!(caller.answer("POST").unwrap().status, 200);
        let said = told.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(said.ends_with("\r\n0\r\nx-sum: 1\r\n\r\n"), "{said:?}");
    }
}

/// A body behind an answer that has none would answer the next caller.
#[test]
fn what_says_that_something_is_behind_it_is_the_last_answer_on_its_connection() {
    const WITHOUT_BODY: [(&str, bool); 9] = [
        ("204 No Content\r\n", true),
        ("204 No Content\r\nContent-Length: 0\r\n", true),
        ("204 No Content\r\nContent-Length: 3\r\n", false),
        ("204 No Content\r\nTransfer-Encoding: chunked\r\n", false),
        ("204 No Content\r\nTransfer-Encoding: gzip\r\n", false),
        ("304 Not Modified\r\n", true),
        ("304 Not Modified\r\nContent-Length: 3\r\n", true),
        ("304 Not Modified\r\nTransfer-Encoding: chunked\r\n", false),
        ("304 Not Modified\r\nTransfer-Encoding: gzip, chunked\r\n", false),
    ];
    let application = Scripted::start(|mut served| {
        while let Some(head) = served.head() {
            let index = head.split(' ').nth(1).and_then(|path| path.strip_prefix('/')?.parse::<usize>().ok());
            let connection = served.index;
            served.say(&match index {
                Some(index) => {
                    format!("HTTP/1.1 {}X-Connection: {connection}\r\n\r\n", WITHOUT_BODY[index].0)
                }
                None => format!("HTTP/1.1 200 OK\r\nX-Connection: {connection}\r\nContent-Length: 0\r\n\r\n"),
            });
        }
    });
    let folder = open_policy();
    let settings = Settings::policies(folder.path(), "orders").before(application.address());
    // One worker, whose connections they are.
    let proxy = settings.with(&["--workers", "1"]).start();
    for (index, (said, stays)) in WITHOUT_BODY.iter().enumerate() {
        let mut caller = Connection::open(proxy.inbound()).unwrap();
        let [first, next] = [format!("/{index}"), "/next".to_owned()]
            .map(|path| caller.request("GET", &path, &[], b"").unwrap());
        let [first, next] = [first, next].map(|answer| answer.header("x-connection").unwrap().to_owned());
        assert_eq!(first == next, *stays, "{said:?}");
    }
}

/// What comes behind its head is for nobody; but an end that comes a moment later is waited for, since servers count resets.
#[test]
fn an_answer_without_a_body_has_none_over_http2_whatever_comes() {
    const ASKED: [(&str, u8, u16); 5] = [
        ("GET", NO_CONTENT, 204),
        ("GET", NOT_MODIFIED, 304),
        ("HEAD", OK, 200),
        ("GET", NO_CONTENT, 204),
        ("GET", NO_CONTENT, 204),
    ];
    const ENDS: usize = 3;
    let (tell, reset) = mpsc::channel();
    let application = Scripted::start(move |mut served| {
        let stream = served.stream().get_ref().try_clone().unwrap();
        let Ok(mut frames) = Frames::accept(stream) else { return };
        while let Ok((stream, is_reset)) = frames.request_or_reset() {
            let index = usize::from(stream / 2);
            if is_reset {
                tell.send(index).unwrap();
                continue;
            }
            frames.say(&head_of(stream, ASKED[index].1)).unwrap();
            if index < ENDS {
                frames.say(&data(stream, b"late")).unwrap();
            } else {
                thread::sleep(Duration::from_millis(100));
                frames.say(&end(stream)).unwrap();
            }
        }
    });
    let port = application.address().port();
    let rule = json!({"name": "all", "to": {"hosts": ["localhost"], "ports": [port]}, "tls": "none", "protocol": "http2"});
    let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "rules": [rule]});
    let folder = Folder::with(&[("policy.yaml", &document("OutboundPolicy", "checkout", &spec))]);
    for version in VERSIONS {
        // One worker, whose connection it is.
        let proxy = Settings::policies(folder.path(), "checkout").with(&["--workers", "1"]).start();
        let ask = |index: usize| {
            let (method, _, status) = ASKED[index];
            let heard = ask(version, proxy.outbound(), &format!("localhost:{port}"), method, "/").unwrap();
            assert_eq!((heard.status, &heard.body[..]), (status, &b""[..]), "{index} {version:?}");
        };
        (0..ASKED.len() - 1).for_each(ask);
        let mut resets: Vec<_> =
            (0..ENDS).map(|_| reset.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
        resets.sort_unstable();
        assert_eq!(resets, [0, 1, 2], "{version:?}");
        // Whatever the sidecar had said of the one that ended has been heard then.
        ask(ASKED.len() - 1);
        assert!(reset.try_recv().is_err(), "{version:?}");
    }
}
