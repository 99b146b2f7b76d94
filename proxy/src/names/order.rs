//! In which order are addresses tried? The families take turns (RFC 8305 §4), one that this machine has no route for comes
//! last, and each dial begins with another address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// The address that a host is, where it is none that has to be resolved. IPv6 with or without the brackets of URIs; a
/// trailing dot, as names have it, changes nothing.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.parse().ok()
}

/// The order of the dial number `turn`.
pub(super) fn to_dial(addresses: &[IpAddr], turn: usize) -> Vec<IpAddr> {
    let (mut v6, mut v4): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses.iter().partition(|address| address.is_ipv6());
    for family in [&mut v6, &mut v4] {
        let first = turn.checked_rem(family.len()).unwrap_or(0);
        family.rotate_left(first);
    }
    if let (Some(first), false) = (v6.first(), v4.is_empty())
        && !has_route(*first)
    {
        v4.append(&mut v6);
    }
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut order = Vec::with_capacity(addresses.len());
    loop {
        let next = [v6.next(), v4.next()];
        order.extend(next.iter().flatten());
        if next == [None, None] {
            return order;
        }
    }
}

/// Has this machine a way to there? Connecting a datagram socket asks the routing table and sends nothing.
fn has_route(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((address, DISCARD))).is_ok()
}

/// Any port does.
const DISCARD: u16 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    fn order(addresses: &[&str], turn: usize) -> Vec<String> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        to_dial(&addresses, turn).iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn each_dial_begins_with_the_next_address_and_tries_them_all() {
        assert!(order(&[], 7).is_empty());
        assert_eq!(order(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], 0), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(order(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], 4), ["10.0.0.2", "10.0.0.3", "10.0.0.1"]);
    }

    #[test]
    fn families_take_turns() {
        // Where there is loopback of both families there is a route for both.
        let both = ["127.0.0.1", "127.0.0.2", "::1", "127.0.0.3"];
        let expected = match has_route(Ipv6Addr::LOCALHOST.into()) {
            true => ["::1", "127.0.0.1", "127.0.0.2", "127.0.0.3"],
            false => ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1"],
        };
        assert_eq!(order(&both, 0), expected);
    }

    #[test]
    fn literals_are_addresses_however_they_are_written_in_uris() {
        assert_eq!(literal("[::1]"), literal("::1"));
        assert!(literal("127.0.0.1").is_some() && literal("127.0.0.1.").is_some());
        for name in ["orders", "2130706433", "127.1", "[orders]", ""] {
            assert_eq!(literal(name), None, "{name}");
        }
    }
}
