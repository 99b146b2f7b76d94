//! What does the sidecar that refused say? One question to its admin page, on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For all of it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Of an explanation, in bytes: more than one ever has.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// The explanation of this refusal, as text or JSON. `None`: the sidecar does not know it. Blocks.
pub(super) fn ask(admin: SocketAddr, decision: &str, json: bool) -> Result<Option<String>, String> {
    let wrong = |error: String| {
        format!("the admin page at {admin} does not answer ({error}): name the sidecar's with --admin")
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let asked = runtime.block_on(async { timeout(TIMEOUT, exchange(admin, decision, json)).await });
    let (status, body) = asked.map_err(|_| wrong("in time".to_owned()))?.map_err(wrong)?;
    match status {
        StatusCode::OK => Ok(Some(body)),
        StatusCode::NOT_FOUND => Ok(None),
        status => Err(wrong(format!("status {status}"))),
    }
}

async fn exchange(admin: SocketAddr, decision: &str, json: bool) -> Result<(StatusCode, String), String> {
    let stream = TcpStream::connect(admin).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let accepted = if json { "application/json" } else { "text/plain" };
    let request = Request::get(format!("/explain?decision={decision}"))
        .header(HOST, admin.to_string())
        .header(ACCEPT, accepted)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
