//! What may a body end with? Trailer fields, without those that would say of the caller what a head of it may not say.

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use crate::http::headers::{self, Stripped, Underscores};

/// Which trailer fields are removed.
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
        let Self::Caller { identity, underscores } = self else { return frame };
        match frame.into_trailers() {
            Ok(mut trailers) => {
                strip_trailers(&mut trailers, Stripped { identity, underscores: *underscores });
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    }
}

/// Trailers never carry credentials or identity (security IN-2, IN-18, IN-22).
fn strip_trailers(trailers: &mut HeaderMap, Stripped { identity, underscores }: Stripped<'_>) {
    if underscores == Underscores::Drop {
        headers::strip_underscored(trailers);
    }
    headers::strip_identity(trailers, identity);
    for name in CREDENTIALS_AND_FRAMING {
        trailers.remove(name);
    }
}

const CREDENTIALS_AND_FRAMING: [&str; 7] =
    ["authorization", "proxy-authorization", "dpop", "cookie", "host", "content-length", "transfer-encoding"];
