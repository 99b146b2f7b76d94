//! What does a connection in a pod arrive at? A listener that says where a connection was going to, and clients that ask
//! it; run by the tests inside network namespaces.
//!
//! ```text
//! countersign-witness listen ADDR...        answers each connection `LISTENER ORIGINAL PEER`, one line; UDP likewise
//! countersign-witness ask ADDR...           connects to each and prints `ADDR ANSWER`, or `ADDR error: WHY`
//! countersign-witness ask-udp ADDR...       the same by a datagram
//! countersign-witness ask-marked ADDR...    the same from a socket with the sidecar's mark, which needs NET_ADMIN
//! countersign-witness hold ADDR             connects, prints the answer, then for each line of stdin asks again
//! countersign-witness probe ADDR RATE SECS  opens RATE connections a second; prints each answer's listener with its count
//! countersign-witness churn SECS FROM,... TO...  opens and closes connections as fast as it can (load.rs); TO: ADDR or http://ADDR
//! countersign-witness load ADDR HOST        asks without an end; prints `STATUS token` or `STATUS bare` for each answer
//! countersign-witness sneak FROM TO         sends a packet that is dropped in silence, then a SYN; prints what answers
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "it is a part of the tests")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

mod load;
mod sneak;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = arguments.split_first().expect("a command");
    let addresses = || rest.iter().map(|text| text.parse().expect("an address"));
    match command.as_str() {
        "listen" => listen(addresses().collect()),
        "ask" => addresses().for_each(|to| say(to, ask(to))),
        "ask-marked" => addresses().for_each(|to| say(to, ask_marked(to))),
        "ask-udp" => addresses().for_each(|to| say(to, ask_udp(to))),
        "hold" => hold(addresses().next().expect("an address")),
        "probe" => {
            let [to, rate, seconds] = rest else { panic!("probe ADDR RATE SECS") };
            let (rate, seconds): (u32, u64) =
                (rate.parse().expect("a rate"), seconds.parse().expect("seconds"));
            probe(to.parse().expect("an address"), rate, Duration::from_secs(seconds));
        }
        "churn" => {
            let [seconds, sources, targets @ ..] = rest else { panic!("churn SECS FROM,... TO...") };
            let sources: Vec<_> = sources.split(',').map(|text| text.parse().expect("an address")).collect();
            let targets: Vec<_> = targets.iter().map(|text| load::Target::parse(text)).collect();
            load::churn(Duration::from_secs(seconds.parse().expect("seconds")), &sources, &targets);
        }
        "load" => {
            let [to, host] = rest else { panic!("load ADDR HOST") };
            load::load(to.parse().expect("an address"), host);
        }
        "sneak" => {
            let [from, to] = rest else { panic!("sneak FROM TO") };
            let answer = sneak::sneak(from.parse().expect("an address"), to.parse().expect("an address"));
            print(answer.expect("an answer"));
        }
        other => panic!("{other}: unknown"),
    }
}

/// One line, even beside other threads.
fn print(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

// === the listener ===

fn listen(addresses: Vec<SocketAddr>) {
    let tcp: Vec<_> = addresses
        .iter()
        .map(|&at| TcpListener::bind(at).unwrap_or_else(|error| panic!("{at}: {error}")))
        .collect();
    let udp: Vec<_> = addresses.iter().map(|&at| UdpSocket::bind(at).expect("a UDP socket")).collect();
    print("ready");
    thread::scope(|scope| {
        for (at, listener) in addresses.iter().zip(tcp) {
            scope.spawn(move || {
                for stream in listener.incoming().flatten() {
                    // The prober's connections are short; one that stays has a thread.
                    thread::spawn({
                        let at = *at;
                        move || answer(at, stream)
                    });
                }
            });
        }
        for (at, socket) in addresses.iter().zip(udp) {
            scope.spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(format!("{at} - {peer}\n").as_bytes(), peer);
                }
            });
        }
    });
}

/// The answer, once on connecting and again for each byte.
fn answer(listener: SocketAddr, mut stream: TcpStream) {
    let original = original(&stream).map_or("-".to_owned(), |address| address.to_string());
    let Ok(peer) = stream.peer_addr() else { return };
    let line = format!("{listener} {original} {}\n", plain(peer));
    let mut byte = [0];
    while stream.write_all(line.as_bytes()).is_ok() {
        match io::Read::read(&mut stream, &mut byte) {
            Ok(1) => {}
            _ => return,
        }
    }
}

/// Where it was going to before a rule led it here. Peers of IPv4 on a dual-stack socket need the call of IPv4.
fn original(stream: &TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let address = match plain(stream.peer_addr().ok()?).ip() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    };
    address.ok()?.as_socket()
}

fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

// === the clients ===

const LIMIT: Duration = Duration::from_secs(3);

fn say(to: SocketAddr, answer: io::Result<String>) {
    match answer {
        Ok(answer) => print(&format!("{to} {answer}")),
        Err(error) => print(&format!("{to} error: {:?}", error.kind())),
    }
}

fn ask(to: SocketAddr) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    read_line(&mut BufReader::new(stream))
}

fn ask_marked(to: SocketAddr) -> io::Result<String> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_mark(0x3e90)?;
    socket.connect_timeout(&to.into(), LIMIT)?;
    socket.set_read_timeout(Some(LIMIT))?;
    read_line(&mut BufReader::new(socket))
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

fn ask_udp(to: SocketAddr) -> io::Result<String> {
    let local: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((local, 0))?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.send_to(b"?", to)?;
    let mut buffer = [0; 256];
    let (length, _) = socket.recv_from(&mut buffer)?;
    Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).trim_end().to_owned())
}

fn hold(to: SocketAddr) {
    let stream = TcpStream::connect_timeout(&to, LIMIT).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let mut reader = BufReader::new(&stream);
    say(to, read_line(&mut reader));
    for _ in io::stdin().lines() {
        let again = (&stream).write_all(b"?").and_then(|()| read_line(&mut reader));
        say(to, again);
    }
}

/// Eight threads, each at its share of the rate.
fn probe(to: SocketAddr, rate: u32, time: Duration) {
    const THREADS: u32 = 8;
    let end = Instant::now() + time;
    let workers: Vec<_> = (0..THREADS)
        .map(|_| {
            thread::spawn(move || {
                let mut seen: BTreeMap<String, u64> = BTreeMap::new();
                let mut next = Instant::now();
                while Instant::now() < end {
                    let answer = ask(to);
                    let what = match answer {
                        Ok(answer) => answer.split(' ').next().unwrap_or_default().to_owned(),
                        Err(error) => format!("error: {:?}", error.kind()),
                    };
                    *seen.entry(what).or_default() += 1;
                    next += Duration::from_secs(1) * THREADS / rate;
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                seen
            })
        })
        .collect();
    let mut total: BTreeMap<String, u64> = BTreeMap::new();
    for worker in workers {
        for (what, count) in worker.join().expect("a prober") {
            *total.entry(what).or_default() += count;
        }
    }
    for (what, count) in total {
        print(&format!("{what} {count}"));
    }
}
