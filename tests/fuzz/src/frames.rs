//! Which frames does an input make, and which are in these bytes? Inputs are steps, so that what a fuzzer changes in them is still
//! a connection of HTTP/2, most of the time.

use crate::attacks::written::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, frame, integer,
};

/// A frame as it is on the wire (RFC 9113 §4.1).
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: &'a [u8],
}

/// Bytes that are taken from the front; where there are none, there are fewer.
struct Steps<'a> {
    rest: &'a [u8],
    /// Puts tokens into their places.
    fill: &'a dyn Fn(&[u8]) -> Vec<u8>,
}

/// What is sent, a segment after the other. Of the first byte the highest bit says that neither the preface nor SETTINGS come first.
///
/// The lowest three bits of a step say what it is; numbers are a byte, and lengths of two bytes big-endian:
///
/// | step | behind it | what it makes |
/// |---|---|---|
/// | 0, 1 | flags, stream, number of fields, fields | HEADERS, CONTINUATION |
/// | 2 | flags, stream, length, bytes | DATA |
/// | 3 | type, flags, stream (4), length (2), bytes | any frame |
/// | 4 | | a pause |
/// | 5 | length, bytes | no frame |
/// | 6 | stream, path, `1` for a token, `2` for a body to come | a request |
/// | 7 | type, flags, stream, length, bytes | any frame |
///
/// A field is a number of [`FIELDS`], or [`LITERAL`] or [`INDEXED`] with the lengths of name and value before the two, or [`RAW`] with a
/// length and bytes of HPACK. In values `{token}` is a good token: `fill` puts it there.
pub(crate) fn sent(first: u8, steps: &[u8], fill: &dyn Fn(&[u8]) -> Vec<u8>) -> Vec<Vec<u8>> {
    let (mut segments, mut bytes, mut steps) = (Vec::new(), Vec::new(), Steps { rest: steps, fill });
    if first & BARE == 0 {
        bytes.extend(PREFACE);
        bytes.extend(frame(SETTINGS, 0, 0, b""));
    }
    while let Some(step) = steps.byte() {
        match step & 7 {
            kind @ (0 | 1) => {
                let (flags, stream, count) = (steps.number(), steps.number(), steps.number() % 64);
                let block: Vec<u8> = (0..count).flat_map(|_| steps.field()).collect();
                let kind = if kind == 0 { HEADERS } else { CONTINUATION };
                bytes.extend(frame(kind, flags, stream.into(), &block));
            }
            2 => {
                let (flags, stream, length) = (steps.number(), steps.number(), steps.number());
                bytes.extend(frame(DATA, flags, stream.into(), steps.take(length.into())));
            }
            3 => {
                let (kind, flags) = (steps.number(), steps.number());
                let stream = u32::from(steps.two()) << 16 | u32::from(steps.two());
                let length = steps.two();
                bytes.extend(frame(kind, flags, stream, steps.take(length.into())));
            }
            4 => segments.push(std::mem::take(&mut bytes)),
            5 => {
                let length = steps.number();
                bytes.extend(steps.take(length.into()));
            }
            6 => bytes.extend(request(&mut steps)),
            _ => {
                let (kind, flags, stream) = (steps.number(), steps.number(), steps.number());
                let length = steps.number();
                bytes.extend(frame(kind, flags, stream.into(), steps.take(length.into())));
            }
        }
    }
    segments.push(bytes);
    segments
}

fn request(steps: &mut Steps<'_>) -> Vec<u8> {
    let (stream, path, more) = (steps.number(), steps.number(), steps.number());
    let path = PATHS.get(usize::from(path) % PATHS.len()).copied().unwrap_or("/");
    let (method, end) = if more & 2 == 0 { ("GET", END_STREAM) } else { ("POST", 0) };
    let mut fields =
        vec![(":method", method), (":scheme", "http"), (":authority", crate::road::HOST), (":path", path)];
    if more & 1 != 0 {
        fields.push(("authorization", "Bearer {token}"));
    }
    let block: Vec<u8> = fields.into_iter().flat_map(|(name, value)| steps.pair_of(name, value)).collect();
    frame(HEADERS, end | END_HEADERS, stream.into(), &block)
}

/// The steps that make these bytes.
pub(crate) fn input(how: u8, bytes: &[u8]) -> Vec<u8> {
    let settings = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    let Some(rest) = bytes.strip_prefix(settings.as_slice()) else {
        let mut input = vec![how | BARE];
        raw(bytes, &mut input);
        return input;
    };
    let (mut input, (frames, rest)) = (vec![how], read(rest));
    for Frame { kind, flags, stream, payload } in frames {
        let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        input.extend([3, kind, flags]);
        input.extend(stream.to_be_bytes());
        input.extend(length.to_be_bytes());
        input.extend(payload);
    }
    raw(rest, &mut input);
    input
}

fn raw(bytes: &[u8], input: &mut Vec<u8>) {
    for part in bytes.chunks(255) {
        input.extend([5, u8::try_from(part.len()).unwrap_or(u8::MAX)]);
        input.extend(part);
    }
}

/// The whole frames at the start, and what is left.
pub(crate) fn read(bytes: &[u8]) -> (Vec<Frame<'_>>, &[u8]) {
    let (mut frames, mut rest) = (Vec::new(), bytes);
    while let Some((&[a, b, c, kind, flags, d, e, f, g], after)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes([0, a, b, c]);
        let Some((payload, after)) =
            usize::try_from(length).ok().and_then(|length| after.split_at_checked(length))
        else {
            break;
        };
        frames.push(Frame { kind, flags, stream: u32::from_be_bytes([d, e, f, g]), payload });
        rest = after;
    }
    (frames, rest)
}

/// The frames of a client; `None`: it does not begin as one.
pub(crate) fn read_sent(bytes: &[u8]) -> Option<Vec<Frame<'_>>> {
    Some(read(bytes.strip_prefix(PREFACE)?).0)
}

/// Without Huffman code (RFC 7541 §6.2).
fn literal(form: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![form];
    for text in [name, value] {
        integer(text.len(), &mut bytes);
        bytes.extend(text);
    }
    bytes
}

// === impl Steps ===

impl<'a> Steps<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn number(&mut self) -> u8 {
        self.byte().unwrap_or_default()
    }

    fn two(&mut self) -> u16 {
        u16::from_be_bytes([self.number(), self.number()])
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// One field, as HPACK.
    fn field(&mut self) -> Vec<u8> {
        match self.number() {
            RAW => {
                let length = self.number();
                self.take(length.into()).to_vec()
            }
            form @ (LITERAL | INDEXED) => {
                let (name, value) = (self.number(), self.number());
                let (name, value) = (self.take(name.into()), self.take(value.into()));
                literal(if form == INDEXED { 0x40 } else { 0 }, name, &(self.fill)(value))
            }
            number => {
                let (name, value) =
                    FIELDS.get(usize::from(number) % FIELDS.len()).copied().unwrap_or_default();
                self.pair_of(name, value)
            }
        }
    }

    fn pair_of(&self, name: &str, value: &str) -> Vec<u8> {
        literal(0, name.as_bytes(), &(self.fill)(value.as_bytes()))
    }
}

/// What a field begins with that is none of [`FIELDS`].
const RAW: u8 = 0xff;
const LITERAL: u8 = 0xfe;
const INDEXED: u8 = 0xfd;
const BARE: u8 = 0x80;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATHS: [&str; 12] = [
    "/",
    "/public/x?y=z",
    "/orders",
    "/orders/1",
    "/orders/secret/1",
    "/kept/1",
    "/admin/1",
    "/hidden",
    "//orders",
    "/public/../orders",
    "/public/%2e%2e/orders",
    "*",
];
/// What matters to a proxy.
const FIELDS: [(&str, &str); 48] = [
    (":method", "GET"),
    (":method", "POST"),
    (":method", "HEAD"),
    (":method", "CONNECT"),
    (":method", "TRACE"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":authority", crate::road::HOST),
    (":authority", "b.test"),
    (":authority", "a.test:80"),
    (":path", "/"),
    (":path", "/public/x"),
    (":path", "/orders"),
    (":path", "/orders/secret/1"),
    (":path", "/kept/1"),
    (":path", ""),
    (":protocol", "websocket"),
    (":status", "200"),
    ("authorization", "Bearer {token}"),
    ("authorization", "bearer x"),
    ("authorization", "Basic eDp5"),
    ("dpop", "a.b.c"),
    ("host", crate::road::HOST),
    ("host", "b.test"),
    ("content-length", "0"),
    ("content-length", "3"),
    ("content-length", "+3"),
    ("transfer-encoding", "chunked"),
    ("connection", "close"),
    ("connection", "x-a"),
    ("keep-alive", "timeout=5"),
    ("proxy-connection", "close"),
    ("proxy-authorization", "Basic eDp5"),
    ("upgrade", "websocket"),
    ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
    ("te", "trailers"),
    ("te", "gzip, trailers"),
    ("trailer", "x-sum"),
    ("x-sum", "1"),
    ("x-client-id", "admin"),
    ("x_client_id", "admin"),
    ("x-tenant", "other"),
    ("cookie", "a=b"),
    ("cookie", "c=d"),
    ("content-type", "application/grpc"),
    ("grpc-timeout", "1S"),
    ("expect", "100-continue"),
    ("x-a", "b\r\ntransfer-encoding: chunked"),
];
