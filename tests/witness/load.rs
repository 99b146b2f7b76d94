//! How does a sidecar bear many clients? Some that open and close connections as fast as they can, from many addresses, and
//! some that ask the same again and again.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::{LIMIT, print, read_line};

/// What is asked: a line from who speaks first, or a request by HTTP.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    Line(SocketAddr),
    Http(SocketAddr),
}

impl Target {
    /// `ADDR` or `http://ADDR`.
    pub(crate) fn parse(text: &str) -> Self {
        match text.strip_prefix("http://") {
            Some(address) => Self::Http(address.parse().expect("an address")),
            None => Self::Line(text.parse().expect("an address")),
        }
    }
}

/// A thread for each source; it goes from one target to the next. Prints how each connection ended, with their number.
pub(crate) fn churn(time: Duration, sources: &[IpAddr], targets: &[Target]) {
    let end = Instant::now() + time;
    let mut total: BTreeMap<String, u64> = BTreeMap::new();
    thread::scope(|scope| {
        let one = |source: IpAddr| {
            let mut seen: BTreeMap<String, u64> = BTreeMap::new();
            for (number, target) in targets.iter().cycle().enumerate() {
                if Instant::now() > end {
                    break;
                }
                let how = once(source, *target, number.is_multiple_of(4));
                *seen.entry(how.unwrap_or_else(|error| format!("error: {:?}", error.kind()))).or_default() +=
                    1;
            }
            seen
        };
        let workers: Vec<_> = sources.iter().map(|source| scope.spawn(move || one(*source))).collect();
        for worker in workers {
            for (how, count) in worker.join().expect("a client") {
                *total.entry(how).or_default() += count;
            }
        }
    });
    for (how, count) in total {
        print(&format!("{how} {count}"));
    }
}

fn once(source: IpAddr, target: Target, abruptly: bool) -> io::Result<String> {
    let (Target::Line(to) | Target::Http(to)) = target;
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&to.into(), LIMIT)?;
    socket.set_read_timeout(Some(LIMIT))?;
    match target {
        Target::Line(_) => {
            read_line(&mut BufReader::new(&socket))?;
            if abruptly {
                // A reset instead of a goodbye.
                socket.set_linger(Some(Duration::ZERO))?;
            }
            Ok("line".to_owned())
        }
        Target::Http(_) => Ok(request(&mut &socket, &to.to_string())?.0),
    }
}

/// The status of the answer, and its body.
fn request(stream: &mut (impl Read + Write), host: &str) -> io::Result<(String, String)> {
    write!(stream, "GET /load HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok((head.split(' ').nth(1).unwrap_or_default().to_owned(), body.to_owned()))
}

/// Asks for this host at the address, each time by a connection of its own, without an end. Prints a line for each answer:
/// its status, and whether the server (one that says what it was asked) was shown a token.
pub(crate) fn load(to: SocketAddr, host: &str) {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let answer = (|| {
                        let mut stream = std::net::TcpStream::connect_timeout(&to, LIMIT)?;
                        stream.set_read_timeout(Some(LIMIT))?;
                        request(&mut stream, host)
                    })();
                    match answer {
                        Ok((status, body)) if body.contains(r#""authorization":"Bearer "#) => {
                            print(&format!("{status} token"));
                        }
                        Ok((status, _)) => print(&format!("{status} bare")),
                        Err(error) => print(&format!("error: {:?}", error.kind())),
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
}
