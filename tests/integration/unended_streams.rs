//! Is a body of HTTP/2 whole that ends without END_STREAM? Never, whatever the reset says; and one that has it is, whatever comes
//! behind it (RFC 9113 §8.1).

use std::io::Read;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use crate::support::frames::{Frames, NO_ERROR, data, end, head, post, reset, trailer};
use crate::support::policy::{open_policy, out_by_http1};
use crate::support::ports::Port;
use crate::support::proxy::Settings;
use crate::support::scripted::Scripted;

/// An application of HTTP/2 that says this of the first stream on each connection, and is heard about what it then gets.
fn application<T: Send + 'static>(
    serve: impl Fn(&mut Frames) -> std::io::Result<T> + Send + 'static,
) -> (Port, std::sync::mpsc::Receiver<T>) {
    let port = Port::lease();
    let listener = TcpListener::bind(port.address()).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who only looks whether somebody listens says nothing.
            let Ok(mut frames) = Frames::accept(stream) else { continue };
            if let Ok(said) = serve(&mut frames) {
                let _ = tell.send(said);
            }
            frames.hear_out();
        }
    });
    (port, told)
}

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn an_answer_with_its_end_is_whole_though_its_request_is_not_wanted_any_more() {
    for end in [end as fn(u8) -> Vec<u8>, |stream| trailer(stream, "grpc-status", "0")] {
        let (application, _told) = application(move |frames| {
            let stream = frames.request()?;
            let whole = [head(stream), data(stream, b"all"), end(stream), reset(stream, NO_ERROR)];
            frames.say(&whole.concat())
        });
        let folder = open_policy();
        let proxy = Settings::policies(folder.path(), "orders").before(application.address()).start();
        let mut caller = Frames::open(proxy.inbound()).unwrap();
        caller.say(&[post(1, "orders.shop", &[]), data(1, b"half")].concat()).unwrap();
        assert!(caller.is_end_flagged().unwrap());
    }
}

#[test]
fn a_request_that_its_caller_resets_has_no_end_at_the_application_over_http2() {
    let (application, told) = application(|frames| {
        let stream = frames.request()?;
        frames.say(&[head(stream), data(stream, b"tick")].concat())?;
        frames.is_end_flagged()
    });
    let folder = open_policy();
    let proxy = Settings::policies(folder.path(), "orders").before(application.address()).start();
    let mut caller = Frames::open(proxy.inbound()).unwrap();
    caller.say(&[post(1, "orders.shop", &[]), data(1, b"half")].concat()).unwrap();
    caller.part().unwrap();
    caller.say(&reset(1, NO_ERROR)).unwrap();
    assert!(!told.recv_timeout(LIMIT).unwrap());
}

#[test]
fn a_request_that_its_caller_resets_has_no_last_chunk_at_the_application_over_http1() {
    let (tell, told) = std::sync::mpsc::channel();
    let application = Scripted::start(move |mut served| {
        let Some(_) = served.head() else { return };
        served.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntick\r\n");
        let mut body = Vec::new();
        // A reset is an end as well.
        let _ = served.stream().read_to_end(&mut body);
        let _ = tell.send(String::from_utf8_lossy(&body).into_owned());
    });
    let port = application.address().port();
    let folder = out_by_http1(port);
    let proxy = Settings::policies(folder.path(), "checkout").start();
    let mut caller = Frames::open(proxy.outbound()).unwrap();
    caller.say(&[post(1, &format!("localhost:{port}"), &[]), data(1, b"half")].concat()).unwrap();
    caller.part().unwrap();
    caller.say(&reset(1, NO_ERROR)).unwrap();
    let body = told.recv_timeout(LIMIT).unwrap();
    assert_eq!(body, "4\r\nhalf\r\n");
}
