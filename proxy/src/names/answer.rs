//! Which addresses has a name, if we ask now? Both families at once, over the search path; what comes back is bounded and
//! sifted, since anybody may have written it.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::{Either, select};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::system::{Resolver, System, is_name};

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Found {
        /// As the server ordered them, each family for itself.
        addresses: Vec<IpAddr>,
        ttl: Duration,
        /// One family was not to be had; what is known of it stays.
        partial: bool,
    },
    /// A server says that there is no such name, or that it has no address.
    Absent { ttl: Duration },
    /// Nobody says anything.
    Failed(String),
}

/// Asks for a name in normal form: the hosts file, then the servers along the search path. With a trailing dot it is complete.
pub(super) async fn ask(system: &System, name: &str) -> Answer {
    let complete = name.ends_with('.');
    let name = name.strip_suffix('.').unwrap_or(name);
    if let Some(addresses) = system.own(name) {
        return Answer::Found { addresses, ttl: HOSTS_TTL, partial: false };
    }
    if !is_name(name) {
        return Answer::Absent { ttl: MAX_NEGATIVE_TTL };
    }
    let mut shortest = MAX_NEGATIVE_TTL;
    let candidates = if complete { vec![name.to_owned()] } else { system.candidates(name) };
    for candidate in candidates {
        match ask_both(&system.resolver, &candidate).await {
            Answer::Absent { ttl } => shortest = shortest.min(ttl),
            // Found; or unknown, and then what comes later on the path may be somebody else.
            answer => return answer,
        }
    }
    Answer::Absent { ttl: shortest }
}

/// Both families, of which one may fail.
async fn ask_both(resolver: &Resolver, name: &str) -> Answer {
    let Ok(name) = Name::from_ascii(format!("{name}.")) else {
        return Answer::Absent { ttl: MAX_NEGATIVE_TTL };
    };
    let v4 = std::pin::pin!(ask_one(resolver, name.clone(), RecordType::A));
    let v6 = std::pin::pin!(ask_one(resolver, name, RecordType::AAAA));
    let (first, second) = match select(v4, v6).await {
        Either::Left((first, rest)) => {
            let rest = the_other(&first, rest).await;
            (first, rest)
        }
        Either::Right((first, rest)) => {
            let rest = the_other(&first, rest).await;
            (first, rest)
        }
    };
    match (first, second) {
        (Answer::Found { mut addresses, ttl, .. }, Answer::Found { addresses: others, ttl: other, .. }) => {
            addresses.extend(others);
            Answer::Found { addresses, ttl: ttl.min(other), partial: false }
        }
        (Answer::Found { addresses, ttl, .. }, Answer::Failed(_))
        | (Answer::Failed(_), Answer::Found { addresses, ttl, .. }) => {
            Answer::Found { addresses, ttl, partial: true }
        }
        (found @ Answer::Found { .. }, _) | (_, found @ Answer::Found { .. }) => found,
        (failed @ Answer::Failed(_), _) | (_, failed @ Answer::Failed(_)) => failed,
        (Answer::Absent { ttl }, Answer::Absent { ttl: other }) => Answer::Absent { ttl: ttl.min(other) },
    }
}

/// Where one family is there, the other has but a moment: servers that drop what they do not understand are many.
async fn the_other(first: &Answer, rest: impl Future<Output = Answer>) -> Answer {
    if !matches!(first, Answer::Found { .. }) {
        return rest.await;
    }
    let late = || Answer::Failed("the other family of addresses is late".to_owned());
    tokio::time::timeout(OTHER_FAMILY, rest).await.unwrap_or_else(|_| late())
}

async fn ask_one(resolver: &Resolver, name: Name, kind: RecordType) -> Answer {
    let found = match resolver.lookup(name, kind).await {
        Ok(found) => found,
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            return absent(none.negative_ttl);
        }
        Err(error) => return Answer::Failed(error.to_string()),
    };
    let mut addresses = Vec::new();
    let mut ttl = MAX_TTL;
    for record in found.answers() {
        let address: IpAddr = match &record.data {
            RData::A(address) => address.0.into(),
            RData::AAAA(address) => address.0.into(),
            // On the way to the address (RFC 2181 §10.1.1): it holds as long as the shortest part of the way.
            RData::CNAME(_) => {
                ttl = ttl.min(seconds(record.ttl));
                continue;
            }
            _ => continue,
        };
        ttl = ttl.min(seconds(record.ttl));
        let address = address.to_canonical();
        if is_usable(address) && addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return absent(None);
    }
    Answer::Found { addresses, ttl: ttl.clamp(MIN_TTL, MAX_TTL), partial: false }
}

fn absent(ttl: Option<u32>) -> Answer {
    let ttl = ttl.map_or(NEGATIVE_TTL, seconds);
    Answer::Absent { ttl: ttl.clamp(MIN_TTL, MAX_NEGATIVE_TTL) }
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into())
}

/// May a server's answer hold this address? Nobody is reached at an unspecified, multicast or broadcast address, or at a
/// link-local one without its interface. Loopback is this machine's to name, in its hosts file: a server that names it for
/// somebody else's host wants our token shown to whoever listens here, or what listens here reached (DNS rebinding).
fn is_usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback() || v4.octets().starts_with(&[0]) || v4.is_multicast() || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local())
        }
    }
}

/// Of one family in one answer.
pub(super) const MAX_ADDRESSES: usize = 64;
/// Some names say 0 and mean "ask each time".
pub(super) const MIN_TTL: Duration = Duration::from_secs(1);
pub(super) const MAX_TTL: Duration = Duration::from_secs(3600);
/// RFC 2308 allows hours. A name that is missing may be there in a moment: a service that starts.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// Where the server does not say (RFC 2308 §5 wants such answers not to be kept at all).
const NEGATIVE_TTL: Duration = Duration::from_secs(5);
/// How soon an edit of the hosts file is seen.
const HOSTS_TTL: Duration = Duration::from_secs(5);
const OTHER_FAMILY: Duration = Duration::from_millis(500);
