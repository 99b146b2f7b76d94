//! What does a server make of these bytes? All answers to them, and whether the connection lives on.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::strict::latin;

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Status and `x-countersign-reason` of each answer.
    pub(crate) answers: Vec<(u16, String)>,
    /// What came and is no answer.
    pub(crate) rest: Vec<u8>,
    /// The server closed the connection, before we said that we had ended.
    pub(crate) is_closed: bool,
    /// It closed it then or thereafter.
    pub(crate) is_over: bool,
}

/// Sends all of these bytes, and listens until there are `enough` answers, or the end. A server that falls silent is told that
/// nothing more will come.
pub(crate) fn talk(to: SocketAddr, bytes: &[u8], enough: usize, quiet: Duration) -> io::Result<Heard> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(quiet))?;
    // A server may well close before it has read all.
    let _ = stream.write_all(bytes);
    let (mut heard, mut read, mut some) = (Heard::default(), Vec::new(), [0; 16 * 1024]);
    let mut has_ended = false;
    loop {
        match stream.read(&mut some) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if has_ended {
                    return Ok(heard);
                }
                has_ended = true;
                let _ = stream.shutdown(Shutdown::Write);
            }
            Ok(0) | Err(_) => {
                (heard.is_closed, heard.is_over) = (!has_ended, true);
                return Ok(heard);
            }
            Ok(count) => read.extend(&some[..count]),
        }
        (heard.answers, heard.rest) = answers(&read, bytes.starts_with(b"HEAD "));
        if heard.answers.len() >= enough {
            return Ok(heard);
        }
    }
}

/// The whole answers at the start, and what is left.
fn answers(read: &[u8], is_head: bool) -> (Vec<(u16, String)>, Vec<u8>) {
    let (mut answers, mut at) = (Vec::new(), 0);
    while let Some((status, reason, length)) = answer(&read[at..], is_head && answers.is_empty()) {
        at += length;
        // Interim answers are none.
        if status >= 200 {
            answers.push((status, reason));
        }
    }
    (answers, read[at..].to_vec())
}

fn answer(bytes: &[u8], is_head: bool) -> Option<(u16, String, usize)> {
    let text = latin(bytes);
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5))?.parse().ok()?;
    let field = |wanted: &str| {
        let mut fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim().to_owned())
    };
    let body = if is_head || matches!(status, 100..200 | 204 | 304) {
        0
    } else if field("transfer-encoding").is_some() {
        rest.find("0\r\n\r\n")? + 5
    } else if let Some(length) = field("content-length") {
        length.parse().ok()?
    } else {
        rest.len()
    };
    let reason = field("x-countersign-reason").unwrap_or_default();
    (rest.len() >= body).then_some((status, reason, head.len() + 4 + body))
}
