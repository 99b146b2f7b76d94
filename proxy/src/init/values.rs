//! Which values may a redirect be asked for? Each has a type of its own, so that nothing else reaches a rule: ports,
//! networks, ids and marks, in one spelling and one normal form.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Numbers from the first to the second of each pair, both included: sorted, none touching another. Ports, or the
/// addresses of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u128, u128)>);

/// A TCP port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(pub u16);

/// Ports and ranges of ports, e.g. `22,8000-8100`. Empty is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(pub Ranges);

/// Networks in CIDR notation of both families, e.g. `10.0.0.0/8,fd00::/8`; an address alone is a network of one.
/// Empty is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    pub v4: Ranges,
    pub v6: Ranges,
}

/// A user or group id. Never that of root: its rule would let everything pass that runs as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(pub u32);

/// A packet mark (`SO_MARK`), decimal or `0x` and hexadecimal. Never 0, which every packet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u32);

/// What is wrong with a value, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

/// Entries of one list.
const MAX_ENTRIES: usize = 256;

// === impl Ranges ===

impl Ranges {
    pub fn new(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub fn one(number: impl Into<u128>) -> Self {
        let number = number.into();
        Self(vec![(number, number)])
    }

    pub fn and(&self, other: &Self) -> Self {
        Self::new(self.0.iter().chain(&other.0).copied().collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.0.iter().copied()
    }
}

// === impl Port ===

impl FromStr for Port {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let port = number(text).and_then(|number| u16::try_from(number).ok()).filter(|&port| port != 0);
        port.map(Self).ok_or_else(|| error(format!("{text:?}: write a port, 1 to 65535")))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Ports ===

impl FromStr for Ports {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let ranges = entries(text)?.into_iter().map(|entry| {
            let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
            let (first, last) = (first.parse::<Port>()?.0, last.parse::<Port>()?.0);
            if first > last {
                return Err(error(format!("{entry:?}: a range goes from the lower port to the higher")));
            }
            Ok((first.into(), last.into()))
        });
        Ok(Self(Ranges::new(ranges.collect::<Result<_, _>>()?)))
    }
}

// === impl Networks ===

impl FromStr for Networks {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for entry in entries(text)? {
            let (address, range) = network(entry)?;
            if address.is_ipv4() { &mut v4 } else { &mut v6 }.push(range);
        }
        let networks = Self { v4: Ranges::new(v4), v6: Ranges::new(v6) };
        for (family, ranges, last) in
            [("IPv4", &networks.v4, u128::from(u32::MAX)), ("IPv6", &networks.v6, u128::MAX)]
        {
            if ranges.iter().any(|range| range == (0, last)) {
                return Err(error(format!(
                    "that is every {family} address: to exclude all that is sent, exclude the ports 1-65535"
                )));
            }
        }
        Ok(networks)
    }
}

fn network(entry: &str) -> Result<(IpAddr, (u128, u128)), ValueError> {
    let wrong = || error(format!("{entry:?}: write a network, e.g. 10.0.0.0/8 or fd00::/8"));
    let (address, length) = match entry.split_once('/') {
        Some((address, length)) => (address, Some(number(length).ok_or_else(wrong)?)),
        None => (entry, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    if address.to_canonical() != address {
        return Err(error(format!("{entry:?}: write IPv4 as IPv4, without ::ffff:")));
    }
    let bits: u32 = if address.is_ipv4() { 32 } else { 128 };
    let length = Some(length.unwrap_or(bits)).filter(|&length| length <= bits).ok_or_else(wrong)?;
    // The part of the address that the prefix leaves to hosts.
    let hosts = 1_u128.checked_shl(bits - length).map_or(u128::MAX, |size| size - 1);
    let first = to_number(address);
    if first & hosts != 0 {
        let meant = from_number(first & !hosts, address.is_ipv4());
        return Err(error(format!("{entry:?}: has bits beyond its prefix; write {meant}/{length}")));
    }
    Ok((address, (first, first | hosts)))
}

/// An address as a number within its family.
pub fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The address of a number; IPv4 if it is meant and fits.
pub fn from_number(number: u128, is_ipv4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if is_ipv4 => IpAddr::V4(number.into()),
        _ => IpAddr::V6(number.into()),
    }
}

// === impl Id ===

impl FromStr for Id {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match number(text) {
            Some(0) => Err(error(
                "0: what root sends would all go around the sidecar; run the sidecar as a user of its own"
                    .to_owned(),
            )),
            // The last one means "no id" to the kernel.
            Some(id) if id < u32::MAX => Ok(Self(id)),
            _ => Err(error(format!("{text:?}: write the number of a user or group, e.g. 16016"))),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Mark ===

impl FromStr for Mark {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mark = match text.strip_prefix("0x") {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                u32::from_str_radix(digits, 16).ok()
            }
            Some(_) => None,
            None => number(text),
        };
        match mark {
            Some(0) => {
                Err(error("0: every packet has it, so everything would go around the sidecar".to_owned()))
            }
            Some(mark) => Ok(Self(mark)),
            None => Err(error(format!("{text:?}: write a mark, e.g. 0x3e90"))),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

// === reading ===

/// Digits alone, in the one way to write the number: no sign, no leading zero.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    (digits && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok())?
}

/// Between commas. A variable that is set to nothing is an empty list.
fn entries(text: &str) -> Result<Vec<&str>, ValueError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let entries: Vec<_> = text.split(',').collect();
    if entries.len() > MAX_ENTRIES {
        return Err(error(format!("{} entries: at most {MAX_ENTRIES}; put them together", entries.len())));
    }
    Ok(entries)
}

fn error(message: String) -> ValueError {
    ValueError(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Vec<(u128, u128)> {
        text.parse::<Ports>().unwrap().0.iter().collect()
    }

    #[test]
    fn lists_have_one_normal_form() {
        assert_eq!(ports(""), []);
        assert_eq!(ports("443,80,8000-8100,8050-8200,8201,81"), [(80, 81), (443, 443), (8000, 8201)]);
        let networks: Networks = "10.0.0.0/9,10.128.0.0/9,10.1.0.0/16,fd00::/8,192.0.2.1".parse().unwrap();
        let v4: Vec<_> = networks.v4.iter().collect();
        assert_eq!(v4, [(0x0a00_0000, 0x0aff_ffff), (0xc000_0201, 0xc000_0201)]);
        assert_eq!(networks.v6.iter().next().unwrap().1 >> 120, 0xfd);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, words) in [
            ("10.0.0.1/8", "write 10.0.0.0/8"),
            ("fd00::1/8", "write fd00::/8"),
            ("0.0.0.0/0", "every IPv4 address"),
            ("::/1,8000::/1", "every IPv6 address"),
            ("::ffff:10.0.0.0/104", "without ::ffff:"),
            ("10.0.0.0/33", "write a network"),
            ("fe80::1%eth0", "write a network"),
        ] {
            let message = text.parse::<Networks>().unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
        }
        assert!("90-80".parse::<Ports>().unwrap_err().to_string().contains("lower"));
        assert!("0".parse::<Id>().unwrap_err().to_string().contains("root"));
        assert!("0x0".parse::<Mark>().unwrap_err().to_string().contains("every packet"));
        assert_eq!("0x3e90".parse::<Mark>().unwrap(), "16016".parse().unwrap());
        let many = vec!["1"; MAX_ENTRIES + 1].join(",");
        assert!(many.parse::<Ports>().unwrap_err().to_string().contains("at most"));
    }
}
