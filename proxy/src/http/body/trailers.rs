//! What may a body end with? Trailer fields, without those that would say of the caller what a head of it may not say.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, TRAILER};
use http_body::Frame;

use crate::http::headers::{self, Stripped, Underscores};

/// Which trailer fields are removed, beside those of the connection.
#[derive(Debug)]
pub(super) enum Forbidden {
    None,
    /// From a caller: credentials, identity headers of the port (the names are the running policy's), and where they are
    /// dropped from heads too, names with `_`.
    Caller {
        identity: Vec<String>,
        underscores: Underscores,
    },
}

// === impl Forbidden ===

impl Forbidden {
    pub(super) fn of(Stripped { identity, underscores }: Stripped<'_>) -> Self {
        Self::Caller { identity: identity.to_vec(), underscores }
    }

    pub(super) fn strip(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let mut trailers = match frame.into_trailers() {
            Ok(trailers) => trailers,
            Err(frame) => return frame,
        };
        strip_framing(&mut trailers);
        if let Self::Caller { identity, underscores } = self {
            strip_caller(&mut trailers, Stripped { identity, underscores: *underscores });
        }
        Frame::trailers(trailers)
    }
}

/// What belongs to one connection, or says where a message ends or goes, is in no trailer (RFC 9110 §6.5.1), and over HTTP/2 it would
/// cost the stream.
fn strip_framing(trailers: &mut HeaderMap) {
    let is_framing = |name: &&HeaderName| {
        headers::is_hop_by_hop(name) || matches!(**name, CONTENT_LENGTH | HOST | TRAILER)
    };
    let names: Vec<HeaderName> = trailers.keys().filter(is_framing).cloned().collect();
    for name in names {
        trailers.remove(name);
    }
}

/// Trailers never carry credentials or identity (security IN-2, IN-18, IN-22).
fn strip_caller(trailers: &mut HeaderMap, Stripped { identity, underscores }: Stripped<'_>) {
    if underscores == Underscores::Drop {
        headers::strip_underscored(trailers);
    }
    headers::strip_identity(trailers, identity);
    for name in CREDENTIALS {
        trailers.remove(name);
    }
}

const CREDENTIALS: [&str; 3] = ["authorization", "dpop", "cookie"];
