//! What does a server say to a client that breaks the rules of HTTP/2? Frames that are sent as they are, and those that come back.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

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
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
