//! Does an honest client of HTTP/1.1 get what the application would give it without a sidecar? Expectations, early answers,
//! half-closed connections, answers of every framing, clients of HTTP/1.0.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::client::Connection;
use crate::support::frames::{Frames, data, end, post};
use crate::support::policy::{Folder, inbound, issuer_with_file, open_policy, out_by_http1, usual_rules};
use crate::support::proxy::{Proxy, Settings};
use crate::support::scripted::{Scripted, Served};
use crate::support::wait_until;

fn before(application: &Scripted) -> (Proxy, Folder) {
    let folder = open_policy();
    (Settings::policies(folder.path(), "orders").before(application.address()).start(), folder)
}

/// Sends these bytes and its end, and takes all that comes until the other side ends too.
fn half_closed(to: SocketAddr, bytes: &str) -> String {
    let mut stream = open(to);
    stream.write_all(bytes.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    rest(&mut stream)
}

fn open(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn rest(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    String::from_utf8(said).unwrap()
}

fn line(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
    }
    String::from_utf8(said).unwrap()
}

/// Reads a body of five bytes and answers with it.
fn echo(mut served: Served) {
    while served.head().is_some() {
        let mut body = [0; 5];
        if served.stream().read_exact(&mut body).is_err() {
            return;
        }
        served
            .say(&format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}", String::from_utf8_lossy(&body)));
    }
}

#[test]
fn who_expects_100_hears_it_before_it_sends_its_body() {
    let application = Scripted::start(echo);
    let (proxy, _folder) = before(&application);
    for _ in 0..2 {
        let mut stream = open(proxy.inbound());
        stream
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            .unwrap();
        assert_eq!(line(&mut stream), "HTTP/1.1 100 Continue\r\n");
        assert_eq!(line(&mut stream), "\r\n");
        stream.write_all(b"hello").unwrap();
        let answer = rest(&mut stream);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    }
    // Who does not ask for it is not told.
    let mut stream = open(proxy.inbound());
    let whole = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    stream.write_all(whole).unwrap();
    let answer = rest(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[test]
fn who_expects_100_and_is_refused_hears_the_refusal_alone() {
    let application = Scripted::start(echo);
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&usual_rules()))),
        ("keys.jwks", r#"{"keys":[]}"#),
    ]);
    let proxy = Settings::policies(folder.path(), "orders").before(application.address()).start();
    let mut stream = open(proxy.inbound());
    stream
        .write_all(b"POST /orders HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        .unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let answer = rest(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("100 Continue"), "{answer}");
    assert!(application.heads().is_empty());
}

/// Nobody can tell it to go on, so the application does not wait to be asked.
#[test]
fn an_application_hears_of_no_expectation_by_http2() {
    let application = Scripted::start(|mut served| {
        while served.head().is_some() {
            let mut said = [0; 5];
            if served.stream().read_exact(&mut said).is_ok() {
                served.say("HTTP/1.1 204 No Content\r\n\r\n");
            }
        }
    });
    let port = application.address().port();
    let folder = out_by_http1(port);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let host = format!("localhost:{port}");
    let mut by_http2 = Frames::open(proxy.outbound()).unwrap();
    let asked = post(1, &host, &[("expect", "100-continue"), ("content-length", "5")]);
    by_http2.say(&[asked, data(1, b"hello"), end(1)].concat()).unwrap();
    assert!(by_http2.is_end_flagged().unwrap());
    let mut by_http1 = Connection::open(proxy.outbound()).unwrap();
    let asked =
        format!("POST / HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    by_http1.send(asked.as_bytes()).unwrap();
    assert_eq!(by_http1.head().unwrap().0, 100);
    by_http1.send(b"hello").unwrap();
    assert_eq!(by_http1.head().unwrap().0, 204);
    let expects: Vec<_> =
        application.heads().iter().map(|head| head.contains("expect: 100-continue")).collect();
    assert_eq!(expects, [false, true]);
}

/// 413 before the body has come: heard while the client still holds most of it back.
#[test]
fn an_early_answer_is_heard_before_the_body_has_been_sent() {
    for connection in ["close", "keep-alive"] {
        let application = Scripted::start(move |mut served| {
            if served.head().is_some() {
                served.say(&format!(
                    "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: {connection}\r\n\r\nno!"
                ));
                // What still comes must not reset the connection.
                let _ = std::io::copy(served.stream(), &mut std::io::sink());
            }
        });
        let (proxy, _folder) = before(&application);
        for framing in ["Content-Length: 10000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n400\r\n"] {
            let mut client = Connection::open(proxy.inbound()).unwrap();
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}").as_bytes()).unwrap();
            client.send(&[b'x'; 1000]).unwrap();
            let answer = client.answer("POST").unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (413, "no!"), "{connection}, {framing}");
        }
    }
}

/// Nothing at first, then an answer in pieces for more than a second.
fn slow(mut served: Served) {
    while served.head().is_some() {
        thread::sleep(Duration::from_millis(300));
        served.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..4 {
            thread::sleep(Duration::from_millis(300));
            served.say("4\r\ntick\r\n");
        }
        served.say("0\r\n\r\n");
    }
}

#[test]
fn a_client_that_has_ended_its_side_hears_its_answer() {
    let application = Scripted::start(slow);
    let (proxy, _folder) = before(&application);
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let began = Instant::now();
        let answers = half_closed(proxy.inbound(), request);
        let asked = request.matches("GET").count();
        assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), asked, "{answers}");
        assert_eq!(answers.matches("\r\n0\r\n\r\n").count(), asked, "{answers}");
        assert!(began.elapsed() < Duration::from_secs(8), "the end was not heard when all was said");
    }
    // With a body that has passed on before, or that comes along with the end.
    let application = Scripted::start(|mut served: Served| {
        served.head();
        let _ = served.stream().read_exact(&mut [0; 5]);
        thread::sleep(Duration::from_secs(1));
        served.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    });
    let (proxy, _folder) = before(&application);
    for pause in [500, 0, 0, 0] {
        let mut stream = open(proxy.inbound());
        stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").unwrap();
        thread::sleep(Duration::from_millis(pause));
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = rest(&mut stream);
        assert!(answer.ends_with("\r\n\r\nhello"), "after {pause} ms: {answer}");
    }
}

/// The application is told, though not at once: until then it might have been one that still listens.
#[test]
fn a_client_that_is_gone_is_given_up() {
    let application = Scripted::start(|mut served: Served| {
        served.head();
        // Until the sidecar hangs up.
        let _ = std::io::copy(served.stream(), &mut std::io::sink());
        served.say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let (proxy, _folder) = before(&application);
    let open_now = || {
        let labels = [("direction", "inbound"), ("protocol", "http")];
        proxy.scrape().sum("countersign_connections", &labels)
    };
    let mut stream = open(proxy.inbound());
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    wait_until("the request", Duration::from_secs(5), || application.heads().len() == 1);
    drop(stream);
    let waited = wait_until("the end", Duration::from_secs(15), || open_now() == 0.0);
    assert!(waited > Duration::from_secs(8), "{waited:?}");
    // One whose body lacks its end can have no answer, and is given up at once.
    let mut stream = open(proxy.inbound());
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe").unwrap();
    wait_until("the request", Duration::from_secs(5), || application.heads().len() == 2);
    drop(stream);
    let waited = wait_until("the end", Duration::from_secs(5), || open_now() == 0.0);
    assert!(waited < Duration::from_secs(4), "{waited:?}");
}

/// How answers may be framed (RFC 9112 §6.3), by target.
fn framings(mut served: Served) {
    while let Some(head) = served.head() {
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let body = if method == "HEAD" { "" } else { "hello" };
        match target {
            "/length" => {
                served.say(&format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"a\"\r\n\r\n{body}"));
            }
            "/chunks" if method == "HEAD" => {
                served.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            }
            "/chunks" => {
                served.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
            }
            "/end" => return served.say(&format!("HTTP/1.1 200 OK\r\n\r\n{body}")),
            "/end-1.0" => return served.say(&format!("HTTP/1.0 200 OK\r\n\r\n{body}")),
            "/short" => return served.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"),
            "/204" => served.say("HTTP/1.1 204 No Content\r\nETag: \"b\"\r\n\r\n"),
            "/304" => {
                served.say("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"c\"\r\n\r\n");
            }
            "/103" => served.say(
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            ),
            _ => return,
        }
    }
}

#[test]
fn answers_keep_their_meaning_whatever_frames_them() {
    let application = Scripted::start(framings);
    let (proxy, _folder) = before(&application);
    let mut connection = Connection::open(proxy.inbound()).unwrap();
    for target in ["/length", "/chunks", "/end", "/end-1.0", "/103"] {
        let answer = connection.request("GET", target, &[], b"").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{target}: {answer:?}");
        assert!(answer.header("link").is_none(), "{answer:?}");
        let framings = ["content-length", "transfer-encoding"].map(|name| answer.header(name).is_some());
        assert_eq!(framings.iter().filter(|is_there| **is_there).count(), 1, "{target}: {answer:?}");
    }
    for (method, target, status, field) in [
        ("HEAD", "/length", 200, ("etag", "\"a\"")),
        ("HEAD", "/length", 200, ("content-length", "5")),
        ("HEAD", "/chunks", 200, ("date", "")),
        ("GET", "/204", 204, ("etag", "\"b\"")),
        ("GET", "/304", 304, ("etag", "\"c\"")),
        ("HEAD", "/304", 304, ("etag", "\"c\"")),
    ] {
        let answer = connection.request(method, target, &[], b"").unwrap();
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        let (name, value) = field;
        assert!(answer.header(name).is_some_and(|is| is.contains(value)), "{method} {target}: {answer:?}");
        assert!(status != 204 || answer.header("content-length").is_none(), "{answer:?}");
    }
    // What lacks its end is not passed on as a whole.
    assert!(connection.request("GET", "/short", &[], b"").is_err(), "it was completed");
}

#[test]
fn clients_of_http_1_0_are_served_as_such() {
    let application = Scripted::start(framings);
    let (proxy, _folder) = before(&application);
    for target in ["/length", "/chunks", "/end", "/end-1.0", "/103"] {
        let mut stream = open(proxy.inbound());
        write!(stream, "GET {target} HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
        let answer = rest(&mut stream);
        assert!(answer.contains(" 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{target}: {answer}");
        assert!(!answer.to_ascii_lowercase().contains("chunked"), "{target}: {answer}");
    }
    // A proxy keeps no connection of theirs, whatever they ask for (RFC 9112 §9.3).
    let mut stream = open(proxy.inbound());
    write!(stream, "GET /length HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").unwrap();
    let answer = rest(&mut stream);
    assert!(answer.ends_with("\r\n\r\nhello") && !answer.contains("keep-alive"), "{answer}");
    assert!(application.heads().iter().all(|head| head.contains(" HTTP/1.1\r\n")), "our own version");
}
