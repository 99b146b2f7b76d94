//! Which workload, which address is it? SPIFFE IDs and networks of a rule, matched without allocation.

use std::fmt;
use std::net::IpAddr;

use crate::spiffe;

/// A SPIFFE ID, or with a trailing `/*` all that are below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerPattern {
    /// Without the `/*`.
    id: String,
    /// Not the ID itself.
    below: bool,
}

/// A network by its prefix (RFC 4632 §3.1, RFC 4291 §2.3). IPv4 in IPv6 counts as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    length: u8,
}

// === impl PeerPattern ===

impl PeerPattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (id, below) = text.strip_suffix("/*").map_or((text, false), |id| (id, true));
        if id.contains('*') {
            return Err(format!(
                "`{text}`: `*` stands only for the whole end, as in spiffe://cluster.local/ns/shop/*"
            ));
        }
        if !spiffe::is_id(id) {
            return Err(format!(
                "`{text}` is no SPIFFE ID: write e.g. spiffe://cluster.local/ns/shop/sa/checkout"
            ));
        }
        if !below && !spiffe::has_path(id) {
            return Err(format!("`{text}` names no workload but a trust domain: write {id}/* for all of it"));
        }
        Ok(Self { id: id.to_owned(), below })
    }

    pub(crate) fn matches(&self, id: &str) -> bool {
        match id.strip_prefix(&*self.id) {
            Some("") => !self.below,
            Some(rest) => self.below && rest.starts_with('/'),
            None => false,
        }
    }
}

impl fmt::Display for PeerPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.id, if self.below { "/*" } else { "" })
    }
}

// === impl Network ===

impl Network {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let written = || format!("`{text}` is no network: write e.g. 10.1.0.0/16, 10.1.2.3/32 or fd00::/8");
        let (address, length) = text.split_once('/').ok_or_else(written)?;
        let address: IpAddr = address.parse().map_err(|_| written())?;
        let is_plain =
            length.bytes().all(|byte| byte.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
        let length: u8 = length.parse().ok().filter(|_| is_plain).ok_or_else(written)?;
        if address.to_canonical() != address {
            return Err(format!("`{text}` is IPv4 in IPv6, which counts as IPv4: write it as IPv4"));
        }
        if length > bits(address) {
            return Err(format!("`{text}`: at most /{} here", bits(address)));
        }
        let network = Self { address, length };
        let masked = network.masked(address);
        if masked != address {
            return Err(format!("`{text}` has bits beyond its prefix: write {masked}/{length}"));
        }
        Ok(network)
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address) == self.address
    }

    /// The address without the bits beyond the prefix; of the family of the network.
    fn masked(&self, address: IpAddr) -> IpAddr {
        let beyond = u32::from(bits(address).saturating_sub(self.length));
        match address {
            IpAddr::V4(address) => {
                IpAddr::V4((address.to_bits() & u32::MAX.checked_shl(beyond).unwrap_or(0)).into())
            }
            IpAddr::V6(address) => {
                IpAddr::V6((address.to_bits() & u128::MAX.checked_shl(beyond).unwrap_or(0)).into())
            }
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_25_peers_match_whole_segments() {
        let matches = |pattern: &str, id: &str| PeerPattern::parse(pattern).unwrap().matches(id);
        let one = "spiffe://td/ns/shop/sa/a";
        assert!(matches(one, one));
        for other in [
            "spiffe://td/ns/shop/sa/A",
            "spiffe://td/ns/shop/sa/ab",
            "spiffe://td/ns/shop/sa/a/b",
            "spiffe://td/ns/shop/sa",
            "",
        ] {
            assert!(!matches(one, other), "{other}");
        }
        let all = "spiffe://td/ns/shop/*";
        assert!(matches(all, one) && matches(all, "spiffe://td/ns/shop/x"));
        for other in [
            "spiffe://td/ns/shop",
            "spiffe://td/ns/shopping/sa/a",
            "spiffe://td/ns/SHOP/a",
            "spiffe://td.evil/ns/shop/a",
        ] {
            assert!(!matches(all, other), "{other}");
        }
        assert!(matches("spiffe://td/*", one) && !matches("spiffe://td/*", "spiffe://td.evil/a"));
    }

    #[test]
    fn what_names_no_peer_is_an_error_that_says_what_to_write() {
        for (text, message) in [
            ("spiffe://td", "write spiffe://td/*"),
            ("spiffe://td/a*", "whole end"),
            ("spiffe://td/*/a", "whole end"),
            ("spiffe://*/a", "whole end"),
            ("spiffe://TD/a", "no SPIFFE ID"),
            ("spiffe://td/a/", "no SPIFFE ID"),
            ("spiffe://td//*", "no SPIFFE ID"),
            ("td/ns/a", "no SPIFFE ID"),
            ("*", "whole end"),
            ("/*", "no SPIFFE ID"),
            ("", "no SPIFFE ID"),
        ] {
            let error = PeerPattern::parse(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn networks_hold_their_addresses_alone() {
        let contains = |network: &str, address: &str| {
            Network::parse(network).unwrap().contains(address.parse().unwrap())
        };
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.2"),
            ("10.1.2.2/31", "10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "ffff::", "10.0.0.1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8::1/128", "2001:db8::1", "2001:db8::2"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.1.2.3"),
            ("::/0", "::1", "::ffff:10.0.0.1"),
        ] {
            assert!(contains(network, inside) && !contains(network, outside), "{network}");
        }
    }

    #[test]
    fn what_is_no_network_is_an_error_that_says_what_to_write() {
        for (text, message) in [
            ("10.0.0.1", "10.1.2.3/32"),
            ("10.0.0.0/33", "at most /32"),
            ("::/129", "at most /128"),
            ("10.1.0.0/8", "write 10.0.0.0/8"),
            ("fd00::1/8", "write fd00::/8"),
            ("10.0.0.0/08", "no network"),
            ("10.0.0.0/+8", "no network"),
            ("10.0.0.0/", "no network"),
            ("10.0.0/8", "no network"),
            ("010.0.0.0/8", "no network"),
            ("fe80::1%eth0/64", "no network"),
            ("10.0.0.0/255.0.0.0", "no network"),
            ("::ffff:10.0.0.0/104", "write it as IPv4"),
            ("localhost/8", "no network"),
            ("", "no network"),
        ] {
            let error = Network::parse(text).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
