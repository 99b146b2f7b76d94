//! Which bytes does a client send that breaks the rules of HTTP/2? Frames as tables of attacks write them.

use super::notation::{latin, repeated, unescaped};

/// The stream of the request behind an attack.
pub(crate) const BEHIND: u32 = 99;

/// The steps of an attack, and the request behind it, as bytes.
///
/// `HEADERS`, `CONTINUATION` and `DATA` have flags (`ES`, `EH`), a stream, and fields between `¶`, or data. `GET` and `POST` among
/// fields are the four pseudo fields of such a request, `%` and digits bytes of HPACK. `RAW` has type, flags, stream and payload, all
/// in hexadecimal. `BYTES` is no frame at all. The preface comes first, unless `BARE` does.
pub(crate) fn bytes(sent: &str, host: &str) -> Vec<u8> {
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
pub(crate) fn integer(number: usize, block: &mut Vec<u8>) {
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

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
