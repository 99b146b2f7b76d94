//! What if a server of HTTP/2 says what no library would? Frames by hand (RFC 9113 §4.1).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A connection, on which both prefaces are on their way.
#[derive(Debug)]
pub(crate) struct Frames(TcpStream);

// === impl Frames ===

impl Frames {
    /// `Err`: whoever only looks whether somebody listens says nothing.
    pub(crate) fn accept(stream: TcpStream) -> io::Result<Self> {
        let mut frames = Self(stream);
        frames.0.read_exact(&mut [0; PREFACE])?;
        frames.say(SETTINGS)?;
        Ok(frames)
    }

    /// As a client.
    pub(crate) fn open(to: SocketAddr) -> io::Result<Self> {
        let mut frames = Self(TcpStream::connect(to)?);
        frames.0.set_read_timeout(Some(Duration::from_secs(10)))?;
        frames.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        frames.say(SETTINGS)?;
        Ok(frames)
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// The stream of the next request's head.
    pub(crate) fn request(&mut self) -> io::Result<u8> {
        loop {
            if let (HEADERS, _, stream) = self.next()? {
                return Ok(stream);
            }
        }
    }

    /// The stream of the next head or reset. Is it a reset?
    pub(crate) fn request_or_reset(&mut self) -> io::Result<(u8, bool)> {
        loop {
            if let (kind @ (HEADERS | RST_STREAM), _, stream) = self.next()? {
                return Ok((stream, kind == RST_STREAM));
            }
        }
    }

    /// The end of the next request's body.
    pub(crate) fn body(&mut self) -> io::Result<()> {
        loop {
            if let (DATA, flags, _) = self.next()?
                && flags & END_STREAM != 0
            {
                return Ok(());
            }
        }
    }

    /// The end of a stream before its end.
    pub(crate) fn until_reset(&mut self) -> io::Result<()> {
        while self.next()?.0 != RST_STREAM {}
        Ok(())
    }

    /// The end of the next stream that ends: is END_STREAM on it?
    pub(crate) fn is_end_flagged(&mut self) -> io::Result<bool> {
        loop {
            match self.next()? {
                (DATA | HEADERS, flags, _) if flags & END_STREAM != 0 => return Ok(true),
                (RST_STREAM, ..) => return Ok(false),
                _ => {}
            }
        }
    }

    /// The next part of a body.
    pub(crate) fn part(&mut self) -> io::Result<()> {
        while self.next()?.0 != DATA {}
        Ok(())
    }

    /// Type, flags and stream of the next frame.
    fn next(&mut self) -> io::Result<(u8, u8, u8)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head)?;
        let [_, high, low, kind, flags, _, _, _, stream] = head;
        self.0.read_exact(&mut vec![0; usize::from(u16::from_be_bytes([high, low]))])?;
        Ok((kind, flags, stream))
    }

    /// Until the client ends the connection.
    pub(crate) fn hear_out(mut self) {
        let _ = io::copy(&mut self.0, &mut io::sink());
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.0
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short frame");
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// `:status: 200` (RFC 7541 Appendix A), and more to come.
pub(crate) fn head(stream: u8) -> Vec<u8> {
    head_of(stream, OK)
}

/// The same with one of the statuses below.
pub(crate) fn head_of(stream: u8, status: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &[status])
}

/// The same, and nothing behind it.
pub(crate) fn answer(stream: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &[OK])
}

/// A POST to this host, with these fields, in lower case; its body is to come.
pub(crate) fn post(stream: u8, host: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    // `:method`, `:scheme` and `:path` from the static table, and literals that are not kept.
    let mut block = [&[0x83, 0x86, 0x84, 0x01], &text(host)[..]].concat();
    block.extend(fields.iter().flat_map(|(name, value)| field(name, value)));
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// The end of a body.
pub(crate) fn end(stream: u8) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, b"")
}

/// The same, as a trailer.
pub(crate) fn trailer(stream: u8, name: &str, value: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &field(name, value))
}

/// A literal that is not kept, with its name (RFC 7541 §6.2.2).
fn field(name: &str, value: &str) -> Vec<u8> {
    [vec![0], text(name), text(value)].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat()
}

pub(crate) fn data(stream: u8, data: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, data)
}

pub(crate) fn reset(stream: u8, code: u8) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &[0, 0, 0, code])
}

/// With the last stream that is looked at, and NO_ERROR.
pub(crate) fn go_away(last: u8) -> Vec<u8> {
    frame(7, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0])
}

/// `SETTINGS_MAX_CONCURRENT_STREAMS`.
pub(crate) fn allowed(streams: u8) -> Vec<u8> {
    frame(4, 0, 0, &[0, 3, 0, 0, 0, streams])
}

/// None that differs from the defaults.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Statuses, as indices into the static table.
pub(crate) const OK: u8 = 0x88;
pub(crate) const NO_CONTENT: u8 = 0x89;
pub(crate) const NOT_MODIFIED: u8 = 0x8b;
/// Bytes of the client's preface (RFC 9113 §3.4).
const PREFACE: usize = 24;
pub(crate) const NO_ERROR: u8 = 0;
pub(crate) const INTERNAL_ERROR: u8 = 2;
pub(crate) const REFUSED_STREAM: u8 = 7;
pub(crate) const CANCEL: u8 = 8;
