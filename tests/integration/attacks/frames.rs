//! How does a client speak HTTP/2 that breaks its rules? Frames as tables write them, and what a server says to them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::table::{latin, repeated, unescaped};

/// What a server said.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Error codes.
    pub(super) goaway: Vec<u32>,
    /// Streams and error codes.
    pub(super) resets: Vec<(u32, u32)>,
    /// Streams that it has ended, and all that it had sent there as data.
    pub(super) ended: Vec<(u32, String)>,
    /// It closed the connection.
    pub(super) is_closed: bool,
}

/// The stream of the request behind an attack.
pub(super) const BEHIND: u32 = 99;

/// The steps of an attack, and the request behind it, as bytes.
///
/// `HEADERS`, `CONTINUATION` and `DATA` have flags (`ES`, `EH`), a stream, and fields between `¶`, or data. `GET` and `POST` among
/// fields are the four pseudo fields of such a request, `%` and digits bytes of HPACK. `RAW` has type, flags, stream and payload, all
/// in hexadecimal. `BYTES` is no frame at all. The preface comes first, unless `BARE` does.
pub(super) fn bytes(sent: &str, host: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    if !sent.starts_with("BARE ; ") {
        bytes.extend(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        bytes.extend(frame(SETTINGS, 0, 0, b""));
    }
    for step in sent.split(" ; ").filter(|step| *step != "BARE") {
        bytes.extend(written(&repeated(step), host));
    }
    let behind = ":method: GET¶:scheme: http¶:authority: HOST¶:path: /behind";
    bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, BEHIND, &block(behind, host)));
    bytes
}

fn written(step: &str, host: &str) -> Vec<u8> {
    let (kind, mut rest) = step.split_once(' ').expect("a kind, and more");
    if kind == "BYTES" {
        return latin(&unescaped(rest, host));
    }
    if kind == "RAW" {
        let parts: Vec<&str> = rest.splitn(4, ' ').collect();
        let number = |text: &str| u32::from_str_radix(text, 16).expect("hexadecimal");
        let byte = |text: &str| u8::from_str_radix(text, 16).expect("hexadecimal");
        return frame(byte(parts[0]), byte(parts[1]), number(parts[2]), &hexadecimal(parts[3]));
    }
    let mut flags = 0;
    while let Some((flag, after)) = rest.split_once(' ').filter(|(word, _)| matches!(*word, "ES" | "EH")) {
        flags |= if flag == "ES" { END_STREAM } else { END_HEADERS };
        rest = after;
    }
    let (stream, what) = rest.split_once(' ').expect("a stream, and more");
    let stream = stream.parse().expect("a stream");
    match kind {
        "HEADERS" => frame(HEADERS, flags, stream, &block(what, host)),
        "CONTINUATION" => frame(CONTINUATION, flags, stream, &block(what, host)),
        "DATA" => frame(DATA, flags, stream, &latin(&unescaped(what, host))),
        kind => panic!("the step {kind}"),
    }
}

/// Literals without indexing and without Huffman code (RFC 7541 §6.2.2).
fn block(fields: &str, host: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for field in fields.split('¶') {
        if matches!(field, "GET" | "POST") {
            let method = [":method: ", field].concat();
            for field in [&method, ":scheme: http", ":authority: HOST", ":path: /"] {
                literal(field, host, &mut block);
            }
        } else if let Some(digits) = field.strip_prefix('%') {
            block.extend(hexadecimal(digits));
        } else {
            literal(field, host, &mut block);
        }
    }
    block
}

fn literal(field: &str, host: &str, block: &mut Vec<u8>) {
    let end = field[1..].find(": ").expect("a name and a value") + 1;
    block.push(0);
    for text in [&field[..end], &field[end + 2..]] {
        let text = latin(&unescaped(text, host));
        integer(text.len(), block);
        block.extend(text);
    }
}

/// With a prefix of seven bits (RFC 7541 §5.1).
fn integer(number: usize, block: &mut Vec<u8>) {
    let byte = |number: usize| u8::try_from(number).expect("a byte");
    if number < 127 {
        return block.push(byte(number));
    }
    block.push(127);
    let mut left = number - 127;
    while left >= 128 {
        block.push(byte(left % 128 + 128));
        left /= 128;
    }
    block.push(byte(left));
}

fn hexadecimal(digits: &str) -> Vec<u8> {
    let digits = digits.trim_start_matches("\\e");
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
    pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends all of it, and listens until it is `enough` or the end.
pub(super) fn talk(to: SocketAddr, bytes: &[u8], enough: impl Fn(&Said) -> bool) -> io::Result<Said> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    // A server may well close before it has read all.
    let _ = stream.write_all(bytes);
    let (mut said, mut read, mut data) = (Said::default(), Vec::new(), Vec::<(u32, Vec<u8>)>::new());
    let (mut some, start) = ([0; 16 * 1024], Instant::now());
    while start.elapsed() < LIMIT && !enough(&said) {
        match stream.read(&mut some) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                break;
            }
            Ok(0) | Err(_) => {
                said.is_closed = true;
                break;
            }
            Ok(count) => read.extend(&some[..count]),
        }
        while let Some(length) = length(&read) {
            said.hear(&read[..length], &mut data);
            read.drain(..length);
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
    Ok(said)
}

/// Of the first frame, if all of it is there.
fn length(read: &[u8]) -> Option<usize> {
    let payload = read.get(..3)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
    (read.len() >= 9 + payload).then_some(9 + payload)
}

// === impl Said ===

impl Said {
    fn hear(&mut self, frame: &[u8], data: &mut Vec<(u32, Vec<u8>)>) {
        let number =
            |at: usize| frame[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        let (kind, flags, stream, payload) = (frame[3], frame[4], number(5), &frame[9..]);
        match kind {
            GOAWAY => self.goaway.push(number(13)),
            RST_STREAM => self.resets.push((stream, number(9))),
            DATA => data.push((stream, payload.to_vec())),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            let of_stream = data.iter().filter(|(of, _)| *of == stream).flat_map(|(_, data)| data.clone());
            let text = String::from_utf8_lossy(&of_stream.collect::<Vec<_>>()).into_owned();
            self.ended.push((stream, text));
        }
    }

    pub(super) fn has_ended(&self, stream: u32) -> Option<&str> {
        self.ended.iter().find(|(of, _)| *of == stream).map(|(_, text)| text.as_str())
    }

    /// Has it said its last word on this stream?
    pub(super) fn is_over(&self, stream: u32) -> bool {
        self.has_ended(stream).is_some() || self.resets.iter().any(|(of, _)| *of == stream)
    }
}

const LIMIT: Duration = Duration::from_secs(5);
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
