//! What does a caller hear by either version of HTTP? A client that takes trailers.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

/// Asks over a connection of its own. `None`: it was cut.
pub(crate) fn ask(version: Version, to: SocketAddr, host: &str, method: &str, path: &str) -> Option<Heard> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let io = TokioIo::new(tokio::net::TcpStream::connect(to).await.unwrap());
        let request = Request::builder().method(method).header("te", "trailers");
        let answer = if version == Version::HTTP_2 {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            let request = request.uri(format!("http://{host}{path}")).body(Empty::<Bytes>::new());
            sender.send_request(request.unwrap()).await
        } else {
            let (mut sender, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            let request = request.uri(path).header("host", host).body(Empty::<Bytes>::new());
            sender.send_request(request.unwrap()).await
        };
        let (head, body) = answer.ok()?.into_parts();
        let collected = body.collect().await.ok()?;
        let trailers = collected.trailers().cloned();
        let body = collected.to_bytes();
        Some(Heard { status: head.status.as_u16(), headers: head.headers, body, trailers })
    })
}

pub(crate) const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];
