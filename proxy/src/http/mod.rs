//! How does HTTP travel? One connection is served here; [`inbound`] and [`outbound`] are the two stories, `forward` the
//! road that they share.

pub(crate) mod answer;
mod arriving;
mod attempt;
pub(crate) mod body;
mod challenge;
mod deadline;
mod destination;
pub(crate) mod dial;
mod exchange;
mod forward;
pub mod grant;
mod half_open;
mod headers;
pub mod inbound;
pub mod last_good;
mod line;
mod metadata;
mod meter;
pub mod outbound;
mod pace;
mod passthrough;
mod pool;
mod seen;
mod sent;
pub mod sidecar;
mod target;
pub(crate) mod tls;
mod trace;
mod watch;
mod websocket;
mod wire;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use countersign_policy::Reason;
use futures_util::FutureExt;
use http::header::CONNECTION;
use http::{Method, Request, Response, Version};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1::{self, UpgradeableConnection};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use crate::drain::Drain;
use crate::record::Protocol;
use crate::rejection::Refusal;
use arriving::Arriving;
use body::Body;
use half_open::HalfOpen;
use meter::Meter;
use pace::{Busy, Due, HEAD, IDLE, Kept, Onward, Pace, Stream, Streams};
use wire::Wire;

pub(crate) use pace::{Counts, Overdue};

/// What answers the requests of a connection.
pub(crate) trait Handle: Fn(Request<Arriving>) -> Self::Answer + Clone + Send + 'static {
    type Answer: Future<Output = Response<Body>> + Send + 'static;
}

impl<H, F> Handle for H
where
    H: Fn(Request<Arriving>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    type Answer = F;
}

/// Serves one connection in plain text, HTTP/1.1 or HTTP/2 with prior knowledge (RFC 9113 §3.3), until it or the drain ends it, or
/// it is overdue. Says why, if it ends since what came is no request.
pub(crate) async fn serve(
    stream: TcpStream,
    drain: Drain,
    counts: Counts,
    handle: impl Handle,
) -> Option<Reason> {
    match speaks_h2(&stream, drain.clone()).await {
        Ok((is_h2, first)) => {
            let pace = Pace::new(is_h2, first, counts.clone());
            counts.timed_out(drive(stream, pace.clone(), is_h2, drain, handle).await);
            pace.unread()
        }
        Err(overdue) => {
            counts.timed_out(overdue);
            None
        }
    }
}

/// The same over TLS, whose handshake says which of the two is spoken.
pub(crate) async fn serve_tls<S>(
    stream: Box<TlsStream<S>>,
    drain: Drain,
    counts: Counts,
    handle: impl Handle,
) -> Option<Reason>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let is_h2 = tls::speaks_h2(&stream);
    let pace = Pace::new(is_h2, None, counts.clone());
    counts.timed_out(drive(stream, pace.clone(), is_h2, drain, handle).await);
    pace.unread()
}

async fn drive<S>(
    stream: S,
    pace: Arc<Pace>,
    is_h2: bool,
    drain: Drain,
    handle: impl Handle,
) -> Option<Overdue>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match is_h2 {
        true => drive_h2(stream, pace, drain, handle).await,
        false => drive_h1(stream, pace, drain, handle).await,
    }
}

/// Serves one connection of HTTP/1. While it rests there is nothing but its stream: hyper holds 16 KiB for one, and the room for a
/// request's story.
async fn drive_h1<S>(stream: S, pace: Arc<Pace>, mut drain: Drain, handle: impl Handle) -> Option<Overdue>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let beginning = pace.clone();
    let mut service = service_fn(move |request: Request<Incoming>| {
        let busy = Busy::exchange(&beginning, request.body().is_end_stream());
        let response = handle(Arriving::request(request, &busy, None));
        async move { Ok::<_, Infallible>(response.await.map(|body| Kept::new(body, busy, None))) }
    });
    let mut wire = Wire::new(stream, HalfOpen::new(pace.clone()));
    let overdue = loop {
        let mut connection = http1_server().serve_connection(TokioIo::new(wire), service).with_upgrades();
        let part = |connection: Pin<&mut _>| UpgradeableConnection::graceful_shutdown(connection);
        match until_over(Pin::new(&mut connection), part, &pace, drain.signaled()).await {
            Over::Ended(overdue) => return overdue,
            Over::Rests => {}
        }
        let parts = connection.into_parts()?;
        if !parts.read_buf.is_empty() {
            // The beginning of a head that came together with the one before.
            pace.heard(parts.read_buf.len());
        }
        (wire, service) = (parts.io.into_inner().after(parts.read_buf), parts.service);
        tokio::select! {
            biased;
            stirs = wire.stirs() => if !stirs.unwrap_or(false) { break None },
            overdue = pace.overdue() => break Some(overdue),
            () = drain.signaled() => break None,
        }
    };
    // Over TLS it says goodbye.
    let _ = tokio::time::timeout(LAST_WORD, wire.shutdown()).await;
    overdue
}

/// Serves one connection of HTTP/2. An answer with `Connection: close` is the last one here too: what is in flight is still answered.
async fn drive_h2<S>(stream: S, pace: Arc<Pace>, mut drain: Drain, handle: impl Handle) -> Option<Overdue>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (beginning, last) = (pace.clone(), Arc::new(Notify::new()));
    let answered = last.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (busy, handle, last) = (Busy::on(&beginning), handle.clone(), last.clone());
        async move {
            let stream = Stream::current();
            if let (&Method::CONNECT, Some(stream)) = (request.method(), &stream) {
                request.extensions_mut().insert(Onward::of(stream, &busy));
            }
            let is_head = request.method() == Method::HEAD;
            let mut response = handle(Arriving::request(request, &busy, stream.as_ref())).await;
            if is_head {
                // hyper would send it, and clients that hold to RFC 9110 §9.3.2 end the stream.
                *response.body_mut() = Body::Empty;
            }
            // No field of HTTP/2 (RFC 9113 §8.2.2).
            if response.headers_mut().remove(CONNECTION).is_some() {
                last.notify_one();
            }
            Ok::<_, Infallible>(response.map(|body| Kept::new(body, busy, stream)))
        }
    });
    let io = TokioIo::new(Wire::new(stream, Meter::new(pace.clone())));
    let connection = pin!(http2_server(&pace).serve_connection(io, service));
    let end = async {
        tokio::select! {
            () = drain.signaled() => {}
            () = answered.notified() => {}
        }
    };
    match until_over(connection, |connection| connection.graceful_shutdown(), &pace, end).await {
        Over::Ended(overdue) => overdue.or_else(|| pace.flooded()),
        Over::Rests => None,
    }
}

/// What became of a connection.
enum Over {
    Ended(Option<Overdue>),
    /// It is there, and nothing has been under way for a while.
    Rests,
}

/// Drives a connection to its end, or until it rests. When it is idle or it is time to `end`, what is under way is finished, and
/// nothing else begins.
async fn until_over<C>(
    mut connection: Pin<&mut C>,
    part: impl FnOnce(Pin<&mut C>),
    pace: &Pace,
    end: impl Future<Output = ()>,
) -> Over
where
    C: Future<Output = hyper::Result<()>>,
{
    let parting = tokio::select! {
        biased;
        result = connection.as_mut() => return Over::Ended(ended(result, pace)),
        due = pace.due() => match due {
            Due::Rest => return Over::Rests,
            Due::End(overdue) => Some(overdue),
        },
        () = end => None,
    };
    if let Some(Overdue::Head | Overdue::Write) = parting {
        return Over::Ended(parting);
    }
    part(connection.as_mut());
    pace.part();
    Over::Ended(tokio::select! {
        biased;
        result = connection => ended(result, pace).or(parting),
        overdue = pace.overdue() => parting.or(Some(overdue)),
    })
}

fn ended(result: hyper::Result<()>, pace: &Pace) -> Option<Overdue> {
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended with an error");
        // hyper has answered in its own words: 400, or 431 or 414, which it does not tell apart here. A preface in the place of a
        // request it leaves without an answer.
        if error.is_parse_too_large() {
            pace.misread(Reason::HeadTooLarge);
        } else if error.is_parse() && !error.is_parse_version_h2() {
            pace.misread(Reason::BadRequest);
        }
    }
    None
}

/// Runs a story. A panic in it is a fault of ours in this one request: it is refused as `internal`, and counted so
/// (security IN-1, OS-1). No `async fn`: that would hold the story twice, once as what it was given.
fn guarded<T>(story: impl Future<Output = Result<T, Refusal>>) -> impl Future<Output = Result<T, Refusal>> {
    AssertUnwindSafe(story).catch_unwind().map(|told| told.unwrap_or_else(|_| Err(Reason::Internal.into())))
}

/// Does the client begin with the preface of HTTP/2? Looks without reading, so that HTTP/1 pays nothing for it: its
/// method is reserved (RFC 9113 §11.6). With it, when its first byte came, if not all of them came with that; `Err`: it ended before, maybe
/// since it took too long.
async fn speaks_h2(stream: &TcpStream, drain: Drain) -> Result<(bool, Option<Instant>), Option<Overdue>> {
    let mut first = None;
    let look = async {
        let (mut said, mut pause) = ([0; BEGINNING.len()], PEEK_AGAIN);
        loop {
            match stream.peek(&mut said).await {
                Ok(0) | Err(_) => return None,
                Ok(read)
                    if read >= said.len() || !BEGINNING.starts_with(said.get(..read).unwrap_or_default()) =>
                {
                    return Some(&said == BEGINNING);
                }
                // Rarely: a preface comes in one piece. Who dribbles must not make us look again and again.
                Ok(_) => {
                    let first = *first.get_or_insert_with(Instant::now);
                    if first.elapsed() >= HEAD {
                        return None;
                    }
                    tokio::time::sleep(pause).await;
                }
            }
            pause = (pause * 2).min(PEEK_SELDOM);
        }
    };
    let looked = tokio::select! {
        biased;
        looked = tokio::time::timeout(IDLE, look) => looked.map_err(|_| Overdue::Idle),
        () = last_word(drain) => return Err(None),
    };
    match (looked, first) {
        (Ok(Some(is_h2)), first) => Ok((is_h2, first)),
        (Err(_), Some(_)) => Err(Some(Overdue::Head)),
        (Ok(None), Some(first)) if first.elapsed() >= HEAD => Err(Some(Overdue::Head)),
        (Ok(None), _) => Err(None),
        (Err(overdue), None) => Err(Some(overdue)),
    }
}

/// A connection that says nothing must not hold up the end.
pub(crate) async fn last_word(mut drain: Drain) {
    drain.signaled().await;
    tokio::time::sleep(LAST_WORD).await;
}

fn http1_server() -> http1::Builder {
    let mut server = http1::Builder::new();
    server
        // It is also its idle timeout, and set anew for each request: `pace` has our own.
        .header_read_timeout(None)
        .max_buf_size(MAX_BUFFER)
        .max_headers(MAX_PARSED_FIELDS)
        .writev(false);
    server
}

fn http2_server(pace: &Arc<Pace>) -> http2::Builder<Streams> {
    let mut server = http2::Builder::new(Streams::of(pace));
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_stream_window_size(H2_WINDOW)
        .initial_connection_window_size(H2_WINDOW * 4)
        .max_send_buf_size(MAX_UNTAKEN)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        // For WebSocket (RFC 8441 §3).
        .enable_connect_protocol();
    server
}

/// What a request is spoken in, and whether it is gRPC.
fn protocol(request: &http::request::Parts) -> Protocol {
    match request.version {
        // Refused as gRPC is, with a status of 200, a CONNECT would have got what it asks for.
        Version::HTTP_2 if headers::is_grpc(&request.headers) && !websocket::is_connect(request) => {
            Protocol::Grpc
        }
        Version::HTTP_2 => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

/// Of the preface (RFC 9113 §3.4). With the space, since `PRINT` may be a method.
const BEGINNING: &[u8; 4] = b"PRI ";
const PEEK_AGAIN: Duration = Duration::from_millis(1);
const PEEK_SELDOM: Duration = Duration::from_millis(500);
/// How long a new connection may take to begin while we end.
const LAST_WORD: Duration = Duration::from_millis(500);
/// hyper's own bounds lie above ours, so that it is us who answer.
const MAX_BUFFER: usize = 2 * target::MAX_HEAD;
const MAX_PARSED_FIELDS: usize = 2 * target::MAX_FIELDS;
const MAX_STREAMS: u32 = 100;
const MAX_HEADER_LIST: u32 = 64 * 1024;
const H2_WINDOW: u32 = 1024 * 1024;
/// What is held of an answer that its caller does not take, in bytes for each stream.
const MAX_UNTAKEN: usize = 16 * 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioExecutor;

    use super::*;

    fn pace(is_h2: bool) -> Arc<Pace> {
        Pace::new(is_h2, None, Counts::for_tests())
    }

    #[tokio::test]
    async fn in_1_os_1_a_panic_refuses_one_request_and_is_counted() {
        let broken = async {
            tokio::task::yield_now().await;
            assert!(std::hint::black_box(false), "a defect");
            Ok(())
        };
        assert_eq!(guarded(broken).await.unwrap_err().reason, Reason::Internal);
        assert_eq!(
            guarded(async { Err::<(), _>(Reason::NoRule.into()) }).await.unwrap_err().reason,
            Reason::NoRule
        );
        assert_eq!(guarded(async { Ok(7) }).await, Ok(7));
    }

    /// Only the first answer is the last one.
    async fn closing(request: Request<Arriving>) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        if request.uri().path() == "/slow" {
            tokio::time::sleep(Duration::from_secs(5)).await;
        } else {
            response.headers_mut().insert(CONNECTION, http::HeaderValue::from_static("close"));
        }
        response
    }

    /// hyper bounds neither: not with a timer, not when it is told to shut down.
    #[tokio::test(start_paused = true)]
    async fn in_24_who_does_not_begin_with_http2_is_cut_off() {
        let began = tokio::time::Instant::now;
        for (said, limit) in [("", IDLE), ("PRI", HEAD), ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r", HEAD)] {
            let (near, mut far) = tokio::io::duplex(1024);
            far.write_all(said.as_bytes()).await.unwrap();
            let (_signal, drain) = crate::drain::channel();
            let start = began();
            let served = tokio::time::timeout(IDLE * 2, drive(near, pace(true), true, drain, closing)).await;
            let took = start.elapsed();
            assert!(served.is_ok() && took >= limit && took < limit + LAST_WORD * 2, "{said:?}: {took:?}");

            let (near, _far) = tokio::io::duplex(1024);
            let (signal, drain) = crate::drain::channel();
            signal.start();
            let start = began();
            drive(near, pace(true), true, drain, closing).await;
            assert!(start.elapsed() <= LAST_WORD * 2, "{:?}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_last_answer_ends_a_connection_of_http2_after_what_is_in_flight() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (_signal, drain) = crate::drain::channel();
        let served = tokio::spawn(drive(near, pace(true), true, drain, closing));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(far)).await.unwrap();
        tokio::spawn(connection);
        let get = |path: &str| Request::get(format!("http://a{path}")).body(Body::Empty).unwrap();
        let slow = tokio::spawn(sender.send_request(get("/slow")));
        let answer = sender.send_request(get("/")).await.unwrap();
        assert!(answer.status() == 200 && !answer.headers().contains_key(CONNECTION));
        assert_eq!(slow.await.unwrap().unwrap().status(), 200, "what was in flight is gone");
        tokio::time::timeout(Duration::from_secs(1), served).await.expect("it goes on").unwrap();
    }
}
