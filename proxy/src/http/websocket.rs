//! May a connection go on as WebSocket? The opening handshake (RFC 6455 §4), of which both sides have to be sure before a byte
//! passes between them; what follows it is in `tunnel`.

mod extended;
mod flow;
mod frames;
mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use countersign_policy::Reason;
use futures_util::future::try_join;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::arriving::Arriving;
use super::body::Body;
use super::headers::is_websocket;
use super::pace::Onward;
use super::sidecar::Connected;
use crate::drain::Drain;
use crate::rejection::Cause;
use tunnel::{DRAINING, Tunnel};

pub(super) use extended::{as_get, is_connect};
pub(super) use tunnel::Farewell;

/// What a client asked for: to go on as WebSocket, in order.
#[derive(Debug)]
pub(super) struct Handshake {
    /// The one answer to the key (§4.2.2).
    accept: String,
    /// Its connection or stream, once it has the answer.
    client: OnUpgrade,
    /// By HTTP/2.
    extended: Option<Extended>,
}

/// What there is to know of an extended CONNECT.
#[derive(Debug)]
struct Extended {
    /// Of our own: its caller has none (RFC 8441 §5).
    key: HeaderValue,
    /// Held until the tunnel ends.
    onward: Arc<Onward>,
}

/// What a tunnel keeps until it ends.
pub(super) struct Open {
    /// Counts it as open.
    pub(super) connected: Connected,
    /// Tells it to end, and waits for it.
    pub(super) drain: Drain,
    /// It ends when nothing has moved for so long.
    pub(super) idle: Duration,
}

/// Does the request ask to go on as WebSocket, in order (§4.2.1)? Asked before the fields of the hop are removed. An upgrade
/// to anything else is nothing that we forward, and neither is one that `Connection` does not name or that comes by HTTP/1.0
/// (RFC 9110 §7.8): such a request goes on without it. Never h2c (security IN-21).
pub(super) fn asked(head: &mut Parts, body: &Arriving) -> Result<Option<Handshake>, Reason> {
    if head.version == Version::HTTP_2 {
        return extended::asked(head);
    }
    let headers = &head.headers;
    if !headers.contains_key(UPGRADE)
        || head.version != Version::HTTP_11
        || !is_websocket(headers)
        || !names_upgrade(headers)
    {
        return Ok(None);
    }
    let is_in_order = head.method == Method::GET
        && body.is_end_stream()
        && only(headers, &SEC_WEBSOCKET_VERSION).is_some_and(|version| version.as_bytes() == b"13");
    let key = only(headers, &SEC_WEBSOCKET_KEY).filter(|key| is_in_order && is_key(key));
    let (Some(key), Some(client)) = (key, head.extensions.remove::<OnUpgrade>()) else {
        return Err(Reason::BadRequest);
    };
    Ok(Some(Handshake { accept: accept(key.as_bytes()), client, extended: None }))
}

// === impl Handshake ===

impl Handshake {
    /// Did it come by HTTP/2?
    pub(super) fn is_extended(&self) -> bool {
        self.extended.is_some()
    }

    /// Writes what is asked for into the fields that go on.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        Self::agree(headers);
        if let Some(Extended { key, .. }) = &self.extended {
            headers.insert(SEC_WEBSOCKET_KEY, key.clone());
        }
    }

    fn agree(headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        // What follows such a head is no body.
        headers.remove(CONTENT_LENGTH);
    }

    /// A 101 as the client sees it, if it is the answer to what was asked (§4.1); over HTTP/2 that is a 200 (RFC 8441 §5). Any other
    /// 101 is no answer at all.
    pub(super) fn answered(&self, response: Response<Incoming>) -> Result<Response<Body>, Cause> {
        let (mut head, _) = response.into_parts();
        let headers = &head.headers;
        let is_answer = is_websocket(headers)
            && names_upgrade(headers)
            && only(headers, &SEC_WEBSOCKET_ACCEPT).is_some_and(|shown| *shown == *self.accept);
        let server = head.extensions.remove::<OnUpgrade>();
        let (true, Some(server)) = (is_answer, server) else { return Err(Cause::HttpUpgradeFailed) };
        super::headers::strip_hop_by_hop(&mut head.headers).map_err(|_| Cause::HttpUpgradeFailed)?;
        match self.extended {
            None => {
                Self::agree(&mut head.headers);
                head.version = Version::HTTP_11;
            }
            Some(_) => {
                head.headers.remove(SEC_WEBSOCKET_ACCEPT);
                head.headers.remove(CONTENT_LENGTH);
                (head.status, head.version) = (StatusCode::OK, Version::HTTP_2);
            }
        }
        head.extensions.clear();
        head.extensions.insert(server);
        Ok(Response::from_parts(head, Body::Empty))
    }

    /// Does this answer say that both sides have agreed?
    pub(super) fn is_done(&self, response: &Response<Body>) -> bool {
        let agreed = if self.is_extended() { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS };
        response.status() == agreed
    }

    /// Both sides have agreed, by this answer: once the client has it, frames flow, until one of the two ends or it is `over`.
    pub(super) fn begin(
        self,
        response: &mut Response<Body>,
        open: Open,
        over: impl Future<Output = Farewell> + Send + 'static,
    ) {
        let extended = response.headers().contains_key(SEC_WEBSOCKET_EXTENSIONS);
        let server = hyper::upgrade::on(response);
        tokio::spawn(async move {
            let Open { connected: _connected, mut drain, idle } = open;
            let (client, server) = match tokio::time::timeout(idle, try_join(self.client, server)).await {
                Ok(Ok((client, server))) => (TokioIo::new(client), TokioIo::new(server)),
                Ok(Err(error)) => return tracing::debug!(%error, "a WebSocket ended before it began"),
                Err(_) => return tracing::debug!("a WebSocket did not begin"),
            };
            let over = async {
                tokio::select! {
                    biased;
                    farewell = over => farewell,
                    () = drain.signaled() => DRAINING,
                }
            };
            let gone = async {
                match &self.extended {
                    Some(Extended { onward, .. }) => onward.gone().await,
                    // Whoever reads and writes finds out.
                    None => std::future::pending().await,
                }
            };
            let end = Tunnel::new(client, server, extended, idle).run(over, gone).await;
            tracing::debug!(?end, "a WebSocket ended");
        });
    }
}

/// The answer to a key (§4.2.2). SHA-1 proves here that the server has read the key, and nothing else.
fn accept(key: &[u8]) -> String {
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()))
}

/// 16 bytes in base64.
fn is_key(value: &HeaderValue) -> bool {
    BASE64_STANDARD.decode(value).is_ok_and(|key| key.len() == 16)
}

/// The one field of this name.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut fields = headers.get_all(name).iter();
    fields.next().filter(|_| fields.next().is_none())
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    let is_upgrade = |option: &[u8]| option.trim_ascii().eq_ignore_ascii_case(b"upgrade");
    headers
        .get_all(CONNECTION)
        .iter()
        .any(|value| value.as_bytes().split(|&byte| byte == b',').any(is_upgrade))
}

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

#[cfg(test)]
mod tests;
