//! What does this machine say about names? Its nameservers, search path and hosts file, read again when they change.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::runtime::Runtime;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};

/// Where the system's configuration lies.
#[derive(Clone, Debug)]
pub struct Files {
    /// resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// hosts(5).
    pub hosts: PathBuf,
    /// The port of the nameservers. resolv.conf cannot name another one; tests can.
    pub port: u16,
}

/// Puts questions to the nameservers.
pub(super) type Resolver = hickory_resolver::Resolver<Runtime>;

/// The configuration, as it was read.
pub(super) struct System {
    pub(super) resolver: Resolver,
    /// Lower case, without trailing dots.
    search: Vec<String>,
    ndots: usize,
    hosts: HashMap<String, Vec<IpAddr>>,
    read: [Stamp; 2],
}

/// Tells one state of a file from another without reading it.
type Stamp = Option<(u64, u64, i64, i64)>;

/// The names that one name may stand for, as written first.
#[derive(Clone, Debug)]
pub struct FullNames<'a> {
    pub(super) written: Option<&'a str>,
    pub(super) name: &'a str,
    /// Without one the name stands for itself alone.
    pub(super) system: Option<Arc<System>>,
    pub(super) next: usize,
}

// === impl Files ===

impl Default for Files {
    fn default() -> Self {
        let [resolv_conf, hosts] = ["/etc/resolv.conf", "/etc/hosts"].map(PathBuf::from);
        Self { resolv_conf, hosts, port: 53 }
    }
}

impl Files {
    fn stamps(&self) -> [Stamp; 2] {
        [&self.resolv_conf, &self.hosts].map(|path| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
        })
    }

    /// Reads both files. A resolv.conf that names no server, as one that is just being written, changes nothing; without
    /// one from the start the servers are those of this machine, as resolv.conf(5) says.
    pub(super) fn read(&self, before: Option<&System>) -> io::Result<System> {
        let read = self.stamps();
        let text = read_bounded(&self.resolv_conf);
        let (mut config, problems) = resolv_conf::Config::parse_with_errors(text.as_deref().unwrap_or(&[]));
        for problem in problems {
            tracing::debug!(%problem, file = %self.resolv_conf.display(), "part of the resolver's configuration is left out");
        }
        config.nameservers.truncate(MAX_SERVERS);
        let hosts = match (read_bounded(&self.hosts), before) {
            (Ok(text), _) => hosts(&text),
            (Err(_), Some(before)) => before.hosts.clone(),
            (Err(_), None) => HashMap::new(),
        };
        if let (true, Some(before)) = (config.nameservers.is_empty(), before) {
            let (resolver, search) = (before.resolver.clone(), before.search.clone());
            return Ok(System { resolver, search, ndots: before.ndots, hosts, read });
        }
        let search =
            config.get_last_search_or_domain().map(|domain| domain.trim_matches('.').to_ascii_lowercase());
        let search = search.filter(|domain| is_name(domain)).take(MAX_SEARCH).collect();
        let ndots = usize::try_from(config.ndots).unwrap_or(usize::MAX).min(MAX_NDOTS);
        Ok(System { resolver: self.resolver(&config)?, search, ndots, hosts, read })
    }

    fn resolver(&self, config: &resolv_conf::Config) -> io::Result<Resolver> {
        let servers = config.get_nameservers_or_local().into_iter().map(|server| {
            let mut server = NameServerConfig::udp_and_tcp(server.into());
            server.connections.iter_mut().for_each(|connection| connection.port = self.port);
            server
        });
        let servers = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        let mut builder = Resolver::builder_with_config(servers, Runtime::default());
        let options = builder.options_mut();
        options.timeout = Duration::from_secs(config.timeout.clamp(1, MAX_TIMEOUT).into());
        // What counts there is what comes after the first.
        options.attempts = usize::try_from(config.attempts.clamp(1, MAX_ATTEMPTS)).unwrap_or(1) - 1;
        // Answers are kept by `Known`, which knows more of them: once is enough.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        builder.build().map_err(io::Error::other)
    }
}

// === impl System ===

impl System {
    pub(super) fn is_outdated(&self, files: &Files) -> bool {
        self.read != files.stamps()
    }

    /// What the hosts file says. Names that RFC 6761 §6.3 reserves for this machine are never asked of a server.
    pub(super) fn own(&self, name: &str) -> Option<Vec<IpAddr>> {
        if let Some(addresses) = self.hosts.get(name) {
            return Some(addresses.clone());
        }
        self.is_own(name).then(|| vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()])
    }

    pub(super) fn is_own(&self, name: &str) -> bool {
        name == "localhost" || name.ends_with(".localhost") || self.hosts.contains_key(name)
    }

    /// What is asked for a name, in this order, until one of them exists: resolv.conf(5), `search` and `ndots`. A name that
    /// ends in a domain of the search path is complete: with the `ndots:5` of Kubernetes every name of the cluster would
    /// otherwise be asked for four times.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        let searched =
            self.search.iter().map(|domain| format!("{name}.{domain}")).filter(|name| is_name(name));
        let written = || std::iter::once(name.to_owned());
        if dots(name) >= self.ndots || self.search.iter().any(|domain| is_below(name, domain)) {
            written().chain(searched).collect()
        } else {
            searched.chain(written()).collect()
        }
    }
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("System")
            .field("search", &self.search)
            .field("ndots", &self.ndots)
            .finish_non_exhaustive()
    }
}

// === impl FullNames ===

impl<'a> Iterator for FullNames<'a> {
    type Item = Cow<'a, str>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(written) = self.written.take() {
            return Some(Cow::Borrowed(written));
        }
        let system = self.system.as_ref()?;
        if dots(self.name) >= system.ndots {
            return None;
        }
        loop {
            let domain = system.search.get(self.next)?;
            self.next += 1;
            let full = format!("{}.{domain}", self.name);
            if is_name(&full) {
                return Some(Cow::Owned(full));
            }
        }
    }
}

/// May this be asked of a server? Letters, digits, `-` and `_` (RFC 1035 §2.3.4 says how long), and not an address in a form
/// that only some resolvers understand (`2130706433`, `0x7f.1`).
pub(super) fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let numeric = |label: &str| {
        label.as_bytes().first().is_some_and(u8::is_ascii_digit) && {
            let digits = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
            digits.map_or_else(
                || label.bytes().all(|byte| byte.is_ascii_digit()),
                |digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
            )
        }
    };
    name.len() <= 253 && name.split('.').all(label) && !name.rsplit('.').next().is_some_and(numeric)
}

fn is_below(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

fn dots(name: &str) -> usize {
    name.bytes().filter(|byte| *byte == b'.').count()
}

/// hosts(5): an address, then its names.
fn hosts(text: &[u8]) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in String::from_utf8_lossy(text).lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        for name in words {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let addresses = hosts.entry(name).or_default();
            if addresses.len() < super::answer::MAX_ADDRESSES && !addresses.contains(&address) {
                addresses.push(address.to_canonical());
            }
        }
    }
    hosts
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(text)
}

const MAX_FILE: u64 = 4 * 1024 * 1024;
const MAX_SERVERS: usize = 8;
/// As many as Kubernetes admits.
const MAX_SEARCH: usize = 32;
const MAX_NDOTS: usize = 15;
/// Seconds; as resolv.conf(5) caps it.
const MAX_TIMEOUT: u32 = 30;
const MAX_ATTEMPTS: u32 = 5;
