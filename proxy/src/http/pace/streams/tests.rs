use std::convert::Infallible;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{iter, pending};
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::{Busy, Counts, IDLE, Kept};
use super::*;
use crate::http::arriving::Arriving;
use crate::http::body::Body;
use crate::http::meter::Meter;
use crate::http::wire::Wire;
use crate::metrics::Metrics;

/// A served connection, seen from the other side. `/N` is answered at once with N parts of 1 KiB, `/N/open` is not ended after them,
/// and `/N/whole` is one part; it is told how the request's body ended.
struct Served {
    sender: SendRequest<Bytes>,
    serving: JoinHandle<hyper::Result<()>>,
    bodies: mpsc::UnboundedReceiver<bool>,
    metrics: Arc<Metrics>,
}

async fn served(far: impl FnOnce(DuplexStream) -> DuplexStream, window: u32) -> Served {
    served_with(far, window, 1 << 30).await
}

async fn served_with(far: impl FnOnce(DuplexStream) -> DuplexStream, window: u32, shared: u32) -> Served {
    let (near, other) = duplex(16 * 1024);
    let counts = Counts::for_tests();
    let (metrics, pace) = (counts.metrics.clone(), Pace::new(true, None, counts));
    let (tell, bodies) = mpsc::unbounded_channel();
    let io = TokioIo::new(Wire::new(near, Meter::new(pace.clone())));
    let service = service_fn({
        let pace = pace.clone();
        move |request: Request<Incoming>| {
            let (tell, busy) = (tell.clone(), Busy::on(&pace));
            let path = request.uri().path()[1..].to_owned();
            async move {
                let stream = Stream::current();
                let body = Arriving::request(request, &busy, stream.as_ref()).into_body();
                tokio::spawn(async move { tell.send(body.collect().await.is_ok()) });
                let (parts, kind) = path.split_once('/').unwrap_or((&path, ""));
                let parts = parts.parse::<usize>().unwrap();
                let part = |bytes| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; bytes])));
                let answer = iter((0..parts).map(move |_| part(1024)));
                let answer = match kind {
                    "open" => answer.chain(pending()).boxed(),
                    "whole" => iter([part(parts * 1024)]).boxed(),
                    _ => answer.boxed(),
                };
                Ok::<_, Infallible>(Response::new(Kept::new(StreamBody::new(answer), busy, stream)))
            }
        }
    });
    let serving = tokio::spawn(crate::http::http2_server(&pace).serve_connection(io, service));
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window).initial_connection_window_size(shared);
    let (sender, connection) = builder.handshake::<_, Bytes>(far(other)).await.unwrap();
    tokio::spawn(connection);
    Served { sender, serving, bodies, metrics }
}

impl Served {
    fn get(&mut self, path: &str) -> ResponseFuture {
        let request = Request::get(format!("http://a{path}")).body(()).unwrap();
        self.sender.send_request(request, true).unwrap().0
    }

    fn cut(&self) -> u64 {
        self.metrics.connections_timed_out.with_label_values(&["inbound", "stream"]).get()
    }
}

/// Reads an answer, so many seconds after each part, and says how many bytes came before its end or what ended it.
async fn read(body: &mut RecvStream, pause: u64) -> Result<usize, Option<h2::Reason>> {
    let mut read = 0;
    while let Some(part) = body.data().await {
        let part = part.map_err(|error| error.reason())?;
        read += part.len();
        tokio::time::sleep(Duration::from_secs(pause)).await;
        body.flow_control().release_capacity(part.len()).unwrap();
    }
    Ok(read)
}

const WINDOW: u32 = 64 * 1024;

#[tokio::test(start_paused = true)]
async fn in_24_a_stream_of_which_nothing_is_taken_is_reset_and_the_others_go_on() {
    let mut served = served(|far| far, WINDOW).await;
    let mut unread = served.get("/1000").await.unwrap().into_body();
    let begun = Instant::now();
    // Others move all the while.
    while served.cut() == 0 {
        let mut other = served.get("/200").await.unwrap().into_body();
        assert_eq!(read(&mut other, 0).await, Ok(200 * 1024));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let took = begun.elapsed();
    assert!(took >= STALL && took < STALL + Duration::from_secs(3), "{took:?}");
    assert_eq!(read(&mut unread, 0).await, Err(Some(h2::Reason::CANCEL)));
    assert_eq!(served.get("/1").await.unwrap().status(), 200);
    assert!(!served.serving.is_finished());
}

#[tokio::test(start_paused = true)]
async fn in_24_a_stream_of_which_little_is_taken_and_one_that_waits_for_the_application_go_on() {
    let mut served = served(|far| far, 1024).await;
    let mut slow = served.get("/300").await.unwrap().into_body();
    let mut open = served.get("/1/open").await.unwrap().into_body();
    open.data().await.unwrap().unwrap();
    assert_eq!(read(&mut slow, 29).await, Ok(300 * 1024));
    assert!(futures_util::FutureExt::now_or_never(open.data()).is_none(), "it was ended");
    assert_eq!(served.cut(), 0);
}

/// A request that does not end would otherwise keep the stream, and its upstream, for as long.
#[tokio::test(start_paused = true)]
async fn in_24_the_request_of_a_stream_that_is_reset_breaks_off() {
    let mut served = served(|far| far, WINDOW).await;
    let post = Request::post("http://a/1000").body(()).unwrap();
    let (answer, mut body) = served.sender.send_request(post, false).unwrap();
    let mut unread = answer.await.unwrap().into_body();
    while served.cut() == 0 {
        body.send_data(Bytes::from_static(b"more"), false).unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(served.bodies.recv().await, Some(false), "it looks whole");
    assert_eq!(read(&mut unread, 0).await, Err(Some(h2::Reason::CANCEL)));
}

/// A road that carries 2 KiB each second, and holds no more than that.
fn slow(server: DuplexStream) -> DuplexStream {
    let (near, far) = duplex(1024);
    tokio::spawn(async move {
        let (mut from, mut to) = tokio::io::split(near);
        let (mut answers, mut requests) = tokio::io::split(server);
        let up = tokio::io::copy(&mut from, &mut requests);
        let down = async {
            let mut some = [0; 2048];
            loop {
                let read = answers.read(&mut some).await.unwrap();
                to.write_all(&some[..read]).await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::join!(up, down)
    });
    far
}

/// Who waits for his turn on a slow road is not one who takes nothing.
#[tokio::test(start_paused = true)]
async fn in_24_streams_that_share_a_slow_road_go_on() {
    let mut served = served(slow, 1 << 20).await;
    let begun = Instant::now();
    let mut bodies = Vec::new();
    for _ in 0..4 {
        bodies.push(served.get("/150").await.unwrap().into_body());
    }
    for body in &mut bodies {
        assert_eq!(read(body, 0).await, Ok(150 * 1024));
    }
    assert!(begun.elapsed() > STALL * 9);
    assert_eq!(served.cut(), 0);
}

/// The last of an answer lies in h2, whose task is over once it has been given the end.
#[tokio::test(start_paused = true)]
async fn in_24_an_answer_in_one_part_is_reset_too_and_taken_slowly_it_is_not() {
    for (path, window) in [("/16/whole", 1), ("/2/whole", 0), ("/64/whole", 4096)] {
        let mut served = served(|far| far, window).await;
        let mut unread = served.get(path).await.unwrap().into_body();
        let begun = Instant::now();
        while served.cut() == 0 {
            assert!(begun.elapsed() < STALL * 2, "{path}");
            assert_eq!(served.get("/0").await.unwrap().status(), 200);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(read(&mut unread, 0).await, Err(Some(h2::Reason::CANCEL)), "{path}");
    }
    // 200 to 400 bytes a second: the window is opened by what has been read.
    let mut served = served(|far| far, 400).await;
    let mut slow = served.get("/16/whole").await.unwrap().into_body();
    assert_eq!(read(&mut slow, 1).await, Ok(16 * 1024));
    assert_eq!(served.cut(), 0);
}

/// The window of the connection is a road as well.
#[tokio::test(start_paused = true)]
async fn in_24_streams_that_wait_for_the_window_of_the_connection_go_on() {
    let mut served = served_with(|far| far, 1 << 20, 64 * 1024).await;
    let begun = Instant::now();
    let mut bodies = Vec::new();
    for _ in 0..40 {
        bodies.push(served.get("/60").await.unwrap().into_body());
    }
    let mut left = 40 * 60 * 1024;
    while left > 0 {
        // h2 tells the peer once half of the window is free.
        for body in &mut bodies {
            while let Some(Some(part)) = futures_util::FutureExt::now_or_never(body.data()) {
                let part = part.unwrap();
                left -= part.len();
                body.flow_control().release_capacity(part.len()).unwrap();
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert!(begun.elapsed() > STALL * 2, "{:?}", begun.elapsed());
    assert_eq!(served.cut(), 0);
}

/// While somebody goes on with it its connection is not idle either.
#[tokio::test(start_paused = true)]
async fn in_21_24_a_stream_that_goes_on_may_rest_and_is_reset_once_it_is_left() {
    let ((near, far), counts) = (duplex(16 * 1024), Counts::for_tests());
    let cut = counts.metrics.connections_timed_out.with_label_values(&["inbound", "stream"]);
    let (tell, mut told) = mpsc::unbounded_channel();
    let handle = move |mut request: Request<Arriving>| {
        let onward = request.extensions_mut().remove::<Arc<Onward>>().expect("a CONNECT");
        tell.send((onward, hyper::upgrade::on(&mut request))).unwrap();
        async { Response::new(Body::Empty) }
    };
    let (_signal, drain) = crate::drain::channel();
    let pace = Pace::new(true, None, counts);
    let serving = tokio::spawn(crate::http::drive(near, pace, true, drain, handle));
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1024);
    let (mut sender, connection) = builder.handshake::<_, Bytes>(far).await.unwrap();
    tokio::spawn(connection);
    while !sender.is_extended_connect_protocol_enabled() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let protocol = h2::ext::Protocol::from_static("websocket");
    let connect = Request::builder().method("CONNECT").uri("http://a/").extension(protocol).body(()).unwrap();
    let (answer, _sent) = sender.send_request(connect, false).unwrap();
    let mut heard = answer.await.unwrap().into_body();
    let (onward, upgrade) = told.recv().await.unwrap();
    let mut goes_on = TokioIo::new(upgrade.await.unwrap());

    tokio::time::sleep(IDLE * 10).await;
    goes_on.write_all(b"still here").await.unwrap();
    assert_eq!(heard.data().await.unwrap().unwrap(), "still here");
    // Nothing more is taken, which is for the tunnel to judge.
    let fill = async { while goes_on.write_all(&[0; 1024]).await.is_ok() {} };
    assert!(tokio::time::timeout(STALL * 3, fill).await.is_err(), "it was cut");
    assert_eq!(cut.get(), 0);

    let left = Instant::now();
    drop((goes_on, onward));
    while cut.get() == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(left.elapsed() >= STALL && left.elapsed() <= STALL * 2 + Duration::from_secs(1));
    assert_eq!(read(&mut heard, 0).await, Err(Some(h2::Reason::CANCEL)));
    assert!(!serving.is_finished());
}
