//! How does HTTP travel? One connection is served here; [`inbound`] and [`outbound`] are the two stories, `forward` the
//! road that they share.

pub(crate) mod answer;
mod arriving;
mod attempt;
pub(crate) mod body;
mod challenge;
pub(crate) mod dial;
mod exchange;
mod forward;
pub mod grant;
mod half_open;
mod headers;
pub mod inbound;
mod line;
mod metadata;
pub mod outbound;
mod passthrough;
mod pool;
mod preface;
mod seen;
pub mod sidecar;
mod target;
pub(crate) mod tls;
mod trace;
mod watch;
mod websocket;

use std::convert::Infallible;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use countersign_policy::Reason;
use futures_util::FutureExt;
use http::header::CONNECTION;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::drain::Drain;
use crate::record::Protocol;
use crate::rejection::Refusal;
use arriving::Arriving;
use body::Body;
use half_open::HalfOpen;
use preface::Begins;

/// Serves one connection in plain text, HTTP/1.1 or HTTP/2 with prior knowledge (RFC 9113 §3.3), until it or the drain ends it.
pub(crate) async fn serve<F>(
    stream: TcpStream,
    drain: Drain,
    handle: impl Fn(Request<Arriving>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let is_h2 = match speaks_h2(&stream, drain.clone()).await {
        Ok(is_h2) => is_h2,
        Err(error) => return tracing::debug!(%error, "a connection ended before its first request"),
    };
    drive(stream, is_h2, drain, handle).await;
}

/// Serves one connection of any kind. An answer with `Connection: close` is the last one, of HTTP/2 too: what is in flight
/// there is still answered.
async fn drive<S, F>(
    stream: S,
    is_h2: bool,
    mut drain: Drain,
    handle: impl Fn(Request<Arriving>) -> F + Clone + Send + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let result = if is_h2 {
        let (stream, begun) = Begins::watch(stream);
        let last = Arc::new(Notify::new());
        let answered = last.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (response, last) = (handle(Arriving::request(request)), last.clone());
            async move {
                let mut response = response.await;
                // No field of HTTP/2 (RFC 9113 §8.2.2).
                if response.headers_mut().remove(CONNECTION).is_some() {
                    last.notify_one();
                }
                Ok::<_, Infallible>(response)
            }
        });
        let mut connection = pin!(http2_server().serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            biased;
            // It has failed.
            _ = connection.as_mut() => return,
            () = begun.notified() => {}
            () = tokio::time::sleep(IDLE) => return,
            () = last_word(drain.clone()) => return,
        }
        let end = async {
            tokio::select! {
                () = drain.signaled() => {}
                () = answered.notified() => {}
            }
        };
        tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = end => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    } else {
        let (stream, owed) = HalfOpen::over(stream);
        let service = service_fn(move |request: Request<Incoming>| {
            let response = handle(Arriving::owed(request, &owed));
            let owed = owed.clone();
            async move { Ok::<_, Infallible>(response.await.map(|body| owed.with(body))) }
        });
        let mut connection =
            pin!(http1_server().serve_connection(TokioIo::new(stream), service).with_upgrades());
        tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = drain.signaled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// Runs a story. A panic in it is a fault of ours in this one request: it is refused as `internal`, and counted so
/// (security IN-1, OS-1).
async fn guarded<T>(story: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    AssertUnwindSafe(story).catch_unwind().await.unwrap_or_else(|_| Err(Reason::Internal.into()))
}

/// Does the client begin with the preface of HTTP/2? Looks without reading, so that HTTP/1 pays nothing for it: no method
/// of HTTP/1 begins with `PRI`.
async fn speaks_h2(stream: &TcpStream, drain: Drain) -> io::Result<bool> {
    let mut first = [0; 3];
    let mut pause = PEEK_AGAIN;
    let look = async {
        loop {
            match stream.peek(&mut first).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read if read >= first.len() || !b"PRI".starts_with(first.get(..read).unwrap_or_default()) => {
                    return Ok(&first == b"PRI");
                }
                // Rarely: a preface comes in one piece. Who dribbles must not make us look again and again.
                _ => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(PEEK_SELDOM);
        }
    };
    tokio::select! {
        biased;
        is_h2 = tokio::time::timeout(IDLE, look) => is_h2?,
        () = last_word(drain) => Err(io::ErrorKind::TimedOut.into()),
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
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(MAX_BUFFER)
        .max_headers(MAX_PARSED_FIELDS)
        .writev(false);
    server
}

fn http2_server() -> http2::Builder<TokioExecutor> {
    let mut server = http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_stream_window_size(H2_WINDOW)
        .initial_connection_window_size(H2_WINDOW * 4)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    server
}

/// What a request is spoken in, and whether it is gRPC.
fn protocol(request: &http::request::Parts) -> Protocol {
    match request.version {
        Version::HTTP_2 if headers::is_grpc(&request.headers) => Protocol::Grpc,
        Version::HTTP_2 => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

/// A connection without a request is closed after this long, and so is one whose request head takes longer.
const IDLE: Duration = Duration::from_secs(60);
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
const KEEP_ALIVE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

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
        for said in ["", "PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            let (near, mut far) = tokio::io::duplex(1024);
            far.write_all(said.as_bytes()).await.unwrap();
            let (_signal, drain) = crate::drain::channel();
            let start = began();
            let served = tokio::time::timeout(IDLE * 2, drive(near, true, drain, closing)).await;
            assert!(served.is_ok() && start.elapsed() >= IDLE, "{said:?}: {:?}", start.elapsed());

            let (near, _far) = tokio::io::duplex(1024);
            let (signal, drain) = crate::drain::channel();
            signal.start();
            let start = began();
            drive(near, true, drain, closing).await;
            assert!(start.elapsed() <= LAST_WORD * 2, "{:?}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_last_answer_ends_a_connection_of_http2_after_what_is_in_flight() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (_signal, drain) = crate::drain::channel();
        let served = tokio::spawn(drive(near, true, drain, closing));
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
