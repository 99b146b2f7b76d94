//! What if an application over HTTP/2 says that it has not begun with a request? It goes out once more, whatever its method, and
//! nothing else does (RFC 9113 §6.8, §8.7).

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use crate::support::frames::{
    CANCEL, Frames, INTERNAL_ERROR, REFUSED_STREAM, allowed, answer, go_away, reset,
};
use crate::support::issuer::{Issuer, SECRET};
use crate::support::policy::{self, Folder, issuer_discovered, open_policy};
use crate::support::ports::Port;
use crate::support::proxy::{Proxy, Settings};
use crate::support::wait_until;

const TOGETHER: usize = 3;

/// A request that was answered.
#[derive(Clone, Debug)]
struct Heard {
    line: String,
    headers: HeaderMap,
    body: Bytes,
}

/// An application whose first connections are in a mood; on all others it answers.
struct Application {
    port: Port,
    connections: Arc<AtomicUsize>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

type Mood = fn(Frames) -> io::Result<()>;

// === impl Application ===

impl Application {
    fn start(moody: usize, mood: Mood) -> Self {
        let port = Port::lease();
        let listener = TcpListener::bind(port.address()).unwrap();
        let (connections, heard) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<Heard>>>::default());
        let (count, record) = (connections.clone(), heard.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who only looks whether somebody listens says nothing.
                if !matches!(stream.peek(&mut [0]), Ok(1)) {
                    continue;
                }
                let is_moody = count.fetch_add(1, Ordering::Relaxed) < moody;
                let record = record.clone();
                thread::spawn(move || match is_moody {
                    true => Frames::accept(stream).and_then(mood),
                    false => serve(stream, record),
                });
            }
        });
        Self { port, connections, heard }
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

fn serve(stream: TcpStream, record: Arc<Mutex<Vec<Heard>>>) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let service = service_fn(move |request: Request<Incoming>| {
        let record = record.clone();
        async move {
            let (head, body) = request.into_parts();
            let line = format!("{} {}", head.method, head.uri.path());
            let body = body.collect().await.unwrap().to_bytes();
            record.lock().unwrap().push(Heard { line, headers: head.headers, body });
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
        }
    });
    runtime.block_on(async {
        let io = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
        Ok(())
    })
}

struct World {
    application: Application,
    proxy: Proxy,
    _folder: Folder,
}

impl World {
    fn new(moody: usize, mood: Mood) -> Self {
        let (application, folder) = (Application::start(moody, mood), open_policy());
        let settings = Settings::policies(folder.path(), "orders").before(application.address());
        // One worker, whose connections they are.
        let proxy = settings.with(&["--workers", "1"]).start();
        Self { application, proxy, _folder: folder }
    }

    /// Status and reason of answers to requests that go out together, in their order.
    fn ask(&self, method: &str, targets: &[&str], body: &'static str) -> Vec<(u16, String)> {
        let requests = targets.iter().map(|target| {
            Request::builder()
                .method(method)
                .uri(format!("http://orders.shop{target}"))
                .header("x-two", "a")
                .header("x-two", "b")
                .body(Full::new(Bytes::from_static(body.as_bytes())))
                .unwrap()
        });
        ask(self.proxy.inbound(), requests.collect())
    }
}

fn ask(to: SocketAddr, requests: Vec<Request<Full<Bytes>>>) -> Vec<(u16, String)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        join_all(requests.into_iter().map(|request| answered(sender.clone(), request))).await
    })
}

async fn answered(mut sender: SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> (u16, String) {
    let answer = sender.send_request(request).await.expect("an answer");
    let reason =
        answer.headers().get("x-countersign-reason").map(|reason| reason.to_str().unwrap().to_owned());
    (answer.status().as_u16(), reason.unwrap_or_default())
}

fn refused() -> (u16, String) {
    (502, "upstream_unreachable".to_owned())
}

/// Looks at the first request alone.
fn leave(mut frames: Frames) -> io::Result<()> {
    let streams = (0..TOGETHER).map(|_| frames.request()).collect::<io::Result<Vec<_>>>()?;
    frames.say(&[answer(streams[0]), go_away(streams[0])].concat())?;
    frames.hear_out();
    Ok(())
}

/// Does this to each request.
fn reset_all(mut frames: Frames, code: u8) -> io::Result<()> {
    loop {
        let stream = frames.request()?;
        frames.say(&reset(stream, code))?;
    }
}

fn refuse(frames: Frames) -> io::Result<()> {
    reset_all(frames, REFUSED_STREAM)
}

#[test]
fn whom_an_application_leaves_out_as_it_goes_away_is_sent_to_another_connection() {
    for method in ["GET", "POST", "PATCH", "DELETE"] {
        let world = World::new(1, leave);
        let answers = world.ask(method, &["/1", "/2", "/3"], "");
        assert_eq!(answers, vec![(200, String::new()); TOGETHER], "{method}");
        let heard = world.application.heard();
        // The other one was answered before.
        assert_eq!(heard.len(), TOGETHER - 1, "{heard:?}");
        for Heard { line, headers, .. } in &heard {
            assert!(line.starts_with(&format!("{method} /")), "{line}");
            let twice: Vec<_> = headers.get_all("x-two").iter().collect();
            assert_eq!(twice, ["a", "b"], "not the same request");
        }
        assert_eq!(world.application.connections(), 2, "one for all of them");
    }
}

#[test]
fn a_stream_that_is_refused_is_sent_once_more_and_no_oftener() {
    let once: Mood = |mut frames| {
        let first = frames.request()?;
        frames.say(&reset(first, REFUSED_STREAM))?;
        let second = frames.request()?;
        frames.say(&answer(second))?;
        frames.hear_out();
        Ok(())
    };
    let world = World::new(1, once);
    assert_eq!(world.ask("POST", &["/1"], ""), [(200, String::new())]);
    assert_eq!(world.application.connections(), 1, "which has room for it");

    let world = World::new(usize::MAX, refuse);
    assert_eq!(world.ask("POST", &["/1"], ""), [refused()]);
    assert_eq!(world.application.connections(), 1);
}

#[test]
fn what_an_application_may_have_begun_with_is_not_done_again() {
    // It looks at it, and goes away without an answer.
    let gone: Mood = |mut frames| {
        let stream = frames.request()?;
        frames.say(&go_away(stream))
    };
    let moods: [Mood; 4] = [
        gone,
        |mut frames| frames.request().map(drop),
        |frames| reset_all(frames, CANCEL),
        |frames| reset_all(frames, INTERNAL_ERROR),
    ];
    for mood in moods {
        for method in ["GET", "POST"] {
            let world = World::new(1, mood);
            assert_eq!(world.ask(method, &["/1"], ""), [refused()], "{method}");
            assert_eq!((world.application.connections(), world.application.heard().len()), (1, 0));
        }
    }
}

/// It answers on its first connection, and ends that under the next request (RFC 9110 §9.2.2).
#[test]
fn a_kept_connection_that_ends_under_what_may_be_sent_twice_has_another_in_its_place() {
    let ends: Mood = |mut frames| {
        let first = frames.request()?;
        frames.say(&answer(first))?;
        (0..TOGETHER).try_for_each(|_| frames.request().map(drop))
    };
    for (method, body, then) in [
        ("GET", "", (200, String::new())),
        ("PUT", "", (200, String::new())),
        ("PUT", "order", refused()),
        ("POST", "", refused()),
    ] {
        let world = World::new(1, ends);
        assert_eq!(world.ask("GET", &["/1"], ""), [(200, String::new())]);
        let answers = world.ask(method, &["/2", "/3", "/4"], body);
        assert_eq!(answers, vec![then.clone(); TOGETHER], "{method} {body:?}");
        let (connections, heard) =
            if then.0 == 200 { (2, vec![format!("{method} /"); TOGETHER]) } else { (1, Vec::new()) };
        let lines: Vec<_> = world.application.heard().iter().map(|heard| heard.line.clone()).collect();
        assert!(
            lines.len() == heard.len() && lines.iter().zip(&heard).all(|(a, b)| a.starts_with(b)),
            "{lines:?}"
        );
        assert_eq!(world.application.connections(), connections, "one for all of them");
    }
}

/// Its first connection takes one stream, and does not answer it.
#[test]
fn who_comes_when_an_application_allows_no_more_streams_gets_another_connection() {
    let alone: Mood = |mut frames| {
        frames.say(&allowed(1))?;
        frames.request()?;
        thread::sleep(Duration::from_secs(5));
        Ok(())
    };
    let world = World::new(1, alone);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| world.ask("GET", &["/waits"], ""));
        wait_until("the first connection", Duration::from_secs(5), || world.application.connections() == 1);
        // A round trip, and more.
        thread::sleep(Duration::from_millis(100));
        assert_eq!(world.ask("GET", &["/1"], ""), [(200, String::new())]);
        assert_eq!((world.application.connections(), waiting.is_finished()), (2, false));
        assert_eq!(waiting.join().unwrap(), [refused()]);
    });
}

/// Nothing of it is kept, inbound.
#[test]
fn a_request_whose_body_is_gone_is_refused() {
    let world = World::new(1, refuse);
    assert_eq!(world.ask("POST", &["/1"], "order"), [refused()]);
    assert!(world.application.heard().is_empty());
}

/// Outbound, the token goes along both times, and so does a body that may have to be sent again anyway.
#[test]
fn out_5_a_request_that_was_refused_has_its_token_and_its_body() {
    let (issuer, destination) = (Issuer::start(&json!({})), Application::start(1, refuse_with_body));
    let port = destination.address().port();
    let rule = policy::outbound(port, &json!({"protocol": "http2"}));
    let text = issuer_discovered(&issuer.url) + &policy::credential() + &rule;
    let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", SECRET)]);
    let proxy = Settings::policies(folder.path(), "checkout").with(&["--workers", "1"]).start();
    let request = Request::post(format!("http://localhost:{port}/1")).body(Full::from("order")).unwrap();
    assert_eq!(ask(proxy.outbound(), vec![request]), [(200, String::new())]);
    let heard = destination.heard();
    let [Heard { line, headers, body }] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((line.as_str(), &body[..]), ("POST /1", &b"order"[..]));
    let tokens: Vec<_> = headers.get_all("authorization").iter().collect();
    assert!(tokens.len() == 1 && tokens[0].as_bytes().starts_with(b"Bearer "), "{tokens:?}");
}

/// Once it has come, and then it goes away.
fn refuse_with_body(mut frames: Frames) -> io::Result<()> {
    frames.body()?;
    frames.say(&go_away(0))?;
    frames.hear_out();
    Ok(())
}
