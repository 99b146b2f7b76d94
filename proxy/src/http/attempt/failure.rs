//! Why was there no answer? What hyper and h2 say of it, in the words of RFC 9209.

use std::error::Error;

use crate::rejection::Cause;

/// Why a request got no answer on an open connection, of which maybe something has been `heard`.
pub(in crate::http) fn of(error: &hyper::Error, heard: bool) -> Cause {
    if error.is_parse_too_large() {
        return Cause::HttpResponseHeaderSectionSize;
    }
    if error.is_parse() {
        return Cause::HttpProtocolError;
    }
    if error.is_incomplete_message() && heard {
        return Cause::HttpResponseIncomplete;
    }
    // h2 keeps of an error of TLS no more than its kind. Before an answer there is nothing else among bytes that can be invalid.
    source(error, Cause::TlsProtocolError).unwrap_or(Cause::ConnectionTerminated)
}

/// Why the body of an answer, whose head has come, broke off.
pub(in crate::http) fn of_body(error: &dyn Error) -> Cause {
    // What hyper calls so is a chunk that is none.
    match source(error, Cause::HttpProtocolError) {
        Some(Cause::HttpProtocolError) => Cause::HttpProtocolError,
        Some(_) | None => Cause::HttpResponseIncomplete,
    }
}

/// What it comes from: the connection, or a frame; or that, where bytes are invalid and nobody says for whom.
fn source(error: &dyn Error, invalid: Cause) -> Option<Cause> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return Some(of_frames(error));
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return Some(of_bytes(error, invalid));
        }
        next = error.source();
    }
    None
}

fn of_frames(error: &h2::Error) -> Cause {
    match error.get_io() {
        Some(error) => Cause::of_stream(error),
        None if error.is_remote() && error.is_reset() => Cause::HttpResponseIncomplete,
        None if error.is_remote() => Cause::ConnectionTerminated,
        None => Cause::HttpProtocolError,
    }
}

fn of_bytes(error: &std::io::Error, invalid: Cause) -> Cause {
    let is_of_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    match error.kind() {
        std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData if !is_of_tls => invalid,
        _ => Cause::of_stream(error),
    }
}
