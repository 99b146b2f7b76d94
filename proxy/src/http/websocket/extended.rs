//! Does a stream of HTTP/2 ask to go on as WebSocket? Extended CONNECT (RFC 8441), which is judged as the GET that the same client
//! would send by HTTP/1.1, and goes on as that.

use std::sync::Arc;

use aws_lc_rs::rand;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use countersign_policy::Reason;
use http::Method;
use http::header::{CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::request::Parts;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use super::{Extended, Handshake, accept, only};
use crate::http::pace::Onward;

/// Makes a GET of a CONNECT for WebSocket, before anything is made of it. Its `:protocol` stays beside it until it is asked for; with any
/// other it stays a CONNECT, which is refused.
pub(in crate::http) fn as_get(head: &mut Parts) {
    let is_websocket = |protocol: &Protocol| protocol.as_str() == "websocket";
    if head.method == Method::CONNECT && head.extensions.get().is_some_and(is_websocket) {
        head.method = Method::GET;
    }
}

/// Does any 2xx mean to the caller that it has got what it asks for?
pub(in crate::http) fn is_connect(head: &Parts) -> bool {
    head.method == Method::CONNECT || head.extensions.get::<Protocol>().is_some()
}

/// Is it one, in order? What is of the hop HTTP/2 does not have, and a key of the caller's says nothing (§5).
pub(super) fn asked(head: &mut Parts) -> Result<Option<Handshake>, Reason> {
    if head.extensions.remove::<Protocol>().is_none() {
        return Ok(None);
    }
    let is_in_order = !head.headers.contains_key(CONTENT_LENGTH)
        && only(&head.headers, &SEC_WEBSOCKET_VERSION).is_some_and(|version| version.as_bytes() == b"13");
    let (client, onward) = (head.extensions.remove::<OnUpgrade>(), head.extensions.remove::<Arc<Onward>>());
    let (true, Some(client), Some(onward)) = (is_in_order, client, onward) else {
        return Err(Reason::BadRequest);
    };
    head.headers.remove(SEC_WEBSOCKET_KEY);
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| Reason::Internal)?;
    let key = BASE64_STANDARD.encode(bytes);
    let accept = accept(key.as_bytes());
    let key = HeaderValue::try_from(key).map_err(|_| Reason::Internal)?;
    Ok(Some(Handshake { accept, client, extended: Some(Extended { key, onward }) }))
}
