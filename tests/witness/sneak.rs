//! What does a host answer to a SYN behind a packet that it drops in silence? Raw packets (RFC 9293 §3.1), which need
//! NET_RAW.

use std::io::{self, Read};
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// An MD5 signature (RFC 2385), padded: a host that has not agreed on one drops the segment and says nothing.
const MD5: [u8; 20] = [19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];

/// Sends an ACK with a signature and then a SYN, from one port; `SYN-ACK` or `RST`, whichever answers first.
pub(crate) fn sneak(from: SocketAddrV4, to: SocketAddrV4) -> io::Result<&'static str> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))?;
    let limit = Duration::from_secs(2);
    socket.set_read_timeout(Some(limit))?;
    for (flags, options) in [(ACK, &MD5[..]), (SYN, &[])] {
        socket.send_to(&segment(from, to, flags, options), &SocketAddr::from(to).into())?;
        std::thread::sleep(Duration::from_millis(100));
    }
    let end = Instant::now() + limit;
    let mut packet = [0; 256];
    while Instant::now() < end {
        let length = (&socket).read(&mut packet)?;
        let packet = packet.get(..length).unwrap_or_default();
        let head = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
        let Some([p, o, q, r, ..]) = packet.get(head..) else { continue };
        let ports = (u16::from_be_bytes([*p, *o]), u16::from_be_bytes([*q, *r]));
        let flags = packet.get(head + 13).copied().unwrap_or_default();
        match flags & (SYN | ACK | RST) {
            _ if ports != (to.port(), from.port()) => {}
            flags if flags == SYN | ACK => return Ok("SYN-ACK"),
            flags if flags & RST != 0 => return Ok("RST"),
            _ => {}
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn segment(from: SocketAddrV4, to: SocketAddrV4, flags: u8, options: &[u8]) -> Vec<u8> {
    let length = u8::try_from(20 + options.len()).expect("a short head");
    let mut head: Vec<u8> = Vec::new();
    head.extend(from.port().to_be_bytes());
    head.extend(to.port().to_be_bytes());
    head.extend(1000_u32.to_be_bytes());
    head.extend(u32::from(flags == ACK).to_be_bytes());
    head.extend([(length / 4) << 4, flags, 4, 0]);
    let mut pseudo: Vec<u8> = Vec::new();
    pseudo.extend(from.ip().octets());
    pseudo.extend(to.ip().octets());
    pseudo.extend([0, 6, 0, length]);
    let sum = checksum(&[&pseudo, &head, options].concat());
    [&head[..], &sum.to_be_bytes(), &[0, 0], options].concat()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match word {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        odd => u32::from(odd.first().copied().unwrap_or_default()) << 8,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}
