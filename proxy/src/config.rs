//! What were we told to do? Flags as written, and the configuration once checked.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::Resettable;
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use countersign_policy::Workload;
use countersign_policy::headers::Underscores;

use crate::init::args::{Exempt, InitArgs};
use crate::state::control::ControlUrl;
use crate::state::files::PolicyFiles;
use crate::state::source::PolicySource;

/// The command line. Every flag is also an environment variable `COUNTERSIGN_<FLAG>`.
#[derive(Debug, Parser)]
#[command(
    name = "countersign-proxy",
    version,
    about = "The sidecar of Countersign: authenticates workload traffic."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// What the arguments and the variables say. What is wrong with them ends the process.
    pub fn read() -> Self {
        let read = without_service_links(Self::command()).get_matches();
        Self::from_arg_matches(&read).unwrap_or_else(|error| error.exit())
    }
}

/// Kubernetes tells each pod of each Service by variables, `NAME_PORT=tcp://10.0.0.1:80` among them. That of a Service which
/// somebody named `countersign-inbound` is none of ours, though it has the name of a flag's.
fn without_service_links(command: clap::Command) -> clap::Command {
    let is_link = |value: &OsString| {
        let value = value.to_string_lossy();
        ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme))
    };
    let without = move |flag: Arg| {
        let value = flag.get_env().and_then(std::env::var_os);
        if value.as_ref().is_some_and(is_link) { flag.env(Resettable::Reset) } else { flag }
    };
    command.mut_subcommands(|command| command.mut_args(without))
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the sidecar.
    Run(Box<RunArgs>),
    /// Wait until the sidecar is ready; exit 1 after the timeout.
    Wait(WaitArgs),
    /// Redirect the pod's connections to the sidecar, in the network namespace that this runs in.
    Init(Box<InitArgs>),
}

/// The flags of `run`, as written.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// Policy from a file or folder of YAML.
    #[arg(long, env = "COUNTERSIGN_POLICIES", value_name = "PATH", conflicts_with = "control")]
    pub policies: Option<PathBuf>,
    /// Policy from the control plane at this URL.
    #[arg(long, env = "COUNTERSIGN_CONTROL", value_name = "URL")]
    pub control: Option<ControlUrl>,
    /// Namespace of the workload, with --policies [default: default].
    #[arg(long, env = "COUNTERSIGN_NAMESPACE", value_name = "NS", conflicts_with = "control")]
    pub namespace: Option<String>,
    /// Name of the workload, with --policies [default: workload].
    #[arg(long, env = "COUNTERSIGN_WORKLOAD", value_name = "NAME", conflicts_with = "control")]
    pub workload: Option<String>,
    /// Label of the workload, with --policies (repeatable).
    #[arg(
        long,
        env = "COUNTERSIGN_LABEL",
        value_name = "K=V",
        value_delimiter = ',',
        conflicts_with = "control"
    )]
    pub label: Vec<String>,
    /// CA certificate of the control plane (PEM), with --control.
    #[arg(long, env = "COUNTERSIGN_CONTROL_CA", value_name = "FILE", requires = "control")]
    pub control_ca: Option<PathBuf>,
    /// Join token, with --control: the control plane knows from it who we are.
    #[arg(long, env = "COUNTERSIGN_JOIN_TOKEN", value_name = "FILE", requires = "control")]
    pub join_token: Option<PathBuf>,
    /// Take the connections that `countersign-proxy init` redirects, in both directions.
    #[arg(long, env = "COUNTERSIGN_TRANSPARENT")]
    pub transparent: bool,
    /// Listen on ADDR and forward what policy allows to the application at TARGET (repeatable). With --transparent, ADDR
    /// alone is where redirected connections arrive [default there: port 16006 of all addresses].
    #[arg(long, env = "COUNTERSIGN_INBOUND", value_name = "ADDR=TARGET", value_delimiter = ',')]
    pub inbound: Vec<String>,
    /// Forward proxy for what the application sends; loopback only. With --transparent, on both loopback addresses, for
    /// redirected connections too [default there: 127.0.0.1:16001].
    #[arg(long, env = "COUNTERSIGN_OUTBOUND", value_name = "ADDR")]
    pub outbound: Option<SocketAddr>,
    /// What holds for inbound ports that no policy selects: deny, audit or pass [default: deny].
    #[arg(long, env = "COUNTERSIGN_INBOUND_DEFAULT", value_name = "WHAT", value_enum)]
    pub inbound_default: Option<InboundDefault>,
    #[command(flatten)]
    pub exempt: Exempt,
    /// Inbound header fields with _ in their names, which many applications take for -: drop or pass [default: drop].
    #[arg(long, env = "COUNTERSIGN_HEADER_UNDERSCORES", value_name = "WHAT")]
    pub header_underscores: Option<Underscores>,
    /// Admin endpoints; loopback only [default: 127.0.0.1:16020].
    #[arg(long, env = "COUNTERSIGN_ADMIN", value_name = "ADDR")]
    pub admin: Option<SocketAddr>,
    /// Serve /livez, /readyz and /metrics, nothing else, on this address too.
    #[arg(long, env = "COUNTERSIGN_HEALTH", value_name = "ADDR")]
    pub health: Option<SocketAddr>,
    /// Where policy may name files, with --control [default: /var/run/secrets/countersign].
    #[arg(long, env = "COUNTERSIGN_SECRETS_DIR", value_name = "DIR", requires = "control")]
    pub secrets_dir: Option<PathBuf>,
    /// Keep the last good policy and key sets here.
    #[arg(long, env = "COUNTERSIGN_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Worker threads [default: CPUs of the cgroup, at most 2].
    #[arg(long, env = "COUNTERSIGN_WORKERS", value_name = "N")]
    pub workers: Option<NonZeroUsize>,
    /// Connections open at once, inbound and outbound each [default: what the limit of file descriptors carries, at most 20000].
    #[arg(long, env = "COUNTERSIGN_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<NonZeroUsize>,
    /// Of them inbound from one source, an IPv4 address or an IPv6 /64 [default: a third].
    #[arg(long, env = "COUNTERSIGN_MAX_CONNECTIONS_PER_SOURCE", value_name = "N")]
    pub max_connections_per_source: Option<NonZeroUsize>,
    /// Resident memory in MiB above which requests are shed [default: 80 % of the cgroup's limit, if it has one].
    #[arg(long, env = "COUNTERSIGN_MAX_MEMORY", value_name = "MIB")]
    pub max_memory: Option<NonZeroU64>,
    /// Requests to log on stdout: off, denied, all or N% [default: denied].
    #[arg(long, env = "COUNTERSIGN_ACCESS_LOG", value_name = "WHICH")]
    pub access_log: Option<AccessLog>,
}

/// The flags of `wait`.
#[derive(Clone, Debug, Args)]
pub struct WaitArgs {
    /// Admin address of the sidecar.
    #[arg(long, env = "COUNTERSIGN_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:16020")]
    pub admin: SocketAddr,
    /// Give up after so many seconds.
    #[arg(long, env = "COUNTERSIGN_TIMEOUT", value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
}

/// The configuration of a sidecar, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub source: PolicySource,
    pub files: PolicyFiles,
    pub inbound: Vec<Inbound>,
    pub outbound: Option<SocketAddr>,
    /// Where redirected connections to the workload arrive; those that it opens arrive at `outbound`.
    pub transparent: Option<SocketAddr>,
    /// What the redirect knows us by.
    pub exempt: Exempt,
    pub inbound_default: InboundDefault,
    pub header_underscores: Underscores,
    pub admin: SocketAddr,
    pub health: Option<SocketAddr>,
    pub state_dir: Option<PathBuf>,
    pub workers: NonZeroUsize,
    /// In each direction; by default what the limit of file descriptors carries.
    pub max_connections: Option<NonZeroUsize>,
    /// By default a third of that.
    pub max_connections_per_source: Option<NonZeroUsize>,
    /// In MiB; by default a part of what the cgroup has.
    pub max_memory: Option<NonZeroU64>,
    pub access_log: AccessLog,
}

/// One inbound listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound {
    pub listen: SocketAddr,
    /// The application. Its port is the one that policies select.
    pub target: SocketAddr,
}

/// What holds for inbound ports that no policy selects (semantics 7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum InboundDefault {
    #[default]
    Deny,
    Audit,
    Pass,
}

/// Which requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum AccessLog {
    Off,
    #[default]
    Denied,
    /// This share of the requests that are let through, 0 to 1, and all that are refused.
    Sampled(f64),
}

/// What is wrong with the flags, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

// === impl Config ===

impl TryFrom<RunArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: RunArgs) -> Result<Self, ConfigError> {
        let (inbound, transparent) = inbound(&args)?;
        let outbound = args.outbound.or(transparent.map(|_| DEFAULT_OUTBOUND));
        if inbound.is_empty() && outbound.is_none() {
            return Err(error(
                "nothing to do: give --transparent, or --inbound ADDR=TARGET, --outbound ADDR or both",
            ));
        }
        let admin = args.admin.unwrap_or(DEFAULT_ADMIN);
        for (flag, address) in [("--outbound", outbound), ("--admin", Some(admin))] {
            if let Some(address) = address.filter(|address| !address.ip().is_loopback()) {
                return Err(error(format!("{flag} {address}: must be a loopback address, e.g. 127.0.0.1")));
            }
        }
        let source = source(&args)?;
        Ok(Self {
            files: source.files(args.secrets_dir.as_deref().unwrap_or(Path::new(DEFAULT_SECRETS_DIR))),
            source,
            inbound,
            outbound,
            transparent,
            exempt: args.exempt,
            inbound_default: args.inbound_default.unwrap_or_default(),
            header_underscores: args.header_underscores.unwrap_or_default(),
            admin,
            health: args.health,
            state_dir: args.state_dir,
            workers: args.workers.unwrap_or_else(default_workers),
            max_connections: args.max_connections,
            max_connections_per_source: args.max_connections_per_source,
            max_memory: args.max_memory,
            access_log: args.access_log.unwrap_or_default(),
        })
    }
}

/// The listeners before applications that are named, and the one for redirected connections.
fn inbound(args: &RunArgs) -> Result<(Vec<Inbound>, Option<SocketAddr>), ConfigError> {
    let (named, bare): (Vec<_>, Vec<_>) = args.inbound.iter().partition(|text| text.contains('='));
    let named = named.into_iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let transparent =
        match (args.transparent, bare.as_slice()) {
            (false, []) => None,
            (false, [text, ..]) => return Err(not_a_target(text)),
            (true, []) => Some(DEFAULT_TRANSPARENT),
            (true, [text]) => Some(text.parse().map_err(|_| {
                error(format!("--inbound {text}: write ADDR, e.g. [::]:16006, or ADDR=TARGET"))
            })?),
            (true, [_, second, ..]) => {
                let message = "one ADDR without =TARGET takes all redirected connections: remove it";
                return Err(error(format!("--inbound {second}: {message}")));
            }
        };
    Ok((named, transparent))
}

/// Where policy comes from: one of the two, with all that it needs.
fn source(args: &RunArgs) -> Result<PolicySource, ConfigError> {
    match (&args.policies, &args.control) {
        (Some(path), None) => {
            // clap does not hold `requires` against what conflicts with it.
            let useless = [
                ("--control-ca", &args.control_ca),
                ("--join-token", &args.join_token),
                ("--secrets-dir", &args.secrets_dir),
            ];
            if let Some((flag, _)) = useless.into_iter().find(|(_, given)| given.is_some()) {
                return Err(error(format!("{flag} goes with --control, not with --policies: remove it")));
            }
            Ok(PolicySource::Folder { path: path.clone(), workload: workload(args)? })
        }
        (None, Some(url)) => match (&args.control_ca, &args.join_token) {
            (Some(ca), Some(token)) => Ok(PolicySource::Control {
                url: url.clone(),
                ca_file: ca.clone(),
                join_token_file: token.clone(),
            }),
            _ => Err(error("--control needs --control-ca FILE and --join-token FILE")),
        },
        _ => Err(error("no policy: give --policies PATH or --control URL")),
    }
}

fn workload(args: &RunArgs) -> Result<Workload, ConfigError> {
    let mut labels = BTreeMap::new();
    for label in &args.label {
        let (key, value) = label
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| error(format!("--label {label}: write key=value")))?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(error(format!("--label {key}: given twice")));
        }
    }
    Ok(Workload {
        namespace: args.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        name: args.workload.clone().unwrap_or_else(|| "workload".to_owned()),
        labels,
        service_account: None,
    })
}

/// The CPUs that the cgroup and affinity grant, at most two.
fn default_workers() -> NonZeroUsize {
    const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);
    std::thread::available_parallelism().map_or(NonZeroUsize::MIN, |cpus| cpus.min(TWO))
}

const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 16020);
const DEFAULT_OUTBOUND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 16001);
/// Both families.
const DEFAULT_TRANSPARENT: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 16006);
const DEFAULT_SECRETS_DIR: &str = "/var/run/secrets/countersign";

// === impl Inbound ===

impl FromStr for Inbound {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || not_a_target(text);
        let (listen, target) = text.split_once('=').ok_or_else(wrong)?;
        let inbound = Self {
            listen: listen.parse().map_err(|_| wrong())?,
            target: target.parse().map_err(|_| wrong())?,
        };
        if inbound.listen == inbound.target {
            return Err(error(format!(
                "--inbound {text}: the application and the sidecar cannot share an address"
            )));
        }
        Ok(inbound)
    }
}

fn not_a_target(text: &str) -> ConfigError {
    error(format!("--inbound {text}: write ADDR=TARGET, e.g. 0.0.0.0:8081=127.0.0.1:8080"))
}

// === impl AccessLog ===

impl FromStr for AccessLog {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "off" => Ok(Self::Off),
            "denied" => Ok(Self::Denied),
            "all" => Ok(Self::Sampled(1.0)),
            _ => text
                .strip_suffix('%')
                .and_then(|percent| percent.parse::<f64>().ok())
                .filter(|percent| (0.0..=100.0).contains(percent))
                .map(|percent| Self::Sampled(percent / 100.0))
                .ok_or_else(|| error(format!("{text}: write off, denied, all or N%, e.g. 1%"))),
        }
    }
}

// === impl ConfigError ===

fn error(message: impl fmt::Display) -> ConfigError {
    ConfigError(message.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str]) -> Result<Config, String> {
        let cli = Cli::try_parse_from(["countersign-proxy", "run"].iter().chain(args))
            .map_err(|e| e.to_string())?;
        match cli.command {
            Command::Run(args) => Config::try_from(*args).map_err(|e| e.to_string()),
            Command::Wait(_) | Command::Init(_) => unreachable!(),
        }
    }

    #[test]
    fn policies_need_no_more_than_a_listener() {
        let config =
            check(&["--policies", "p", "--inbound", "127.0.0.1:1=127.0.0.1:2", "--label", "app=a"]).unwrap();
        let PolicySource::Folder { workload, .. } = config.source else { panic!() };
        assert_eq!(workload.namespace, "default");
        assert_eq!(workload.labels["app"], "a");
        assert_eq!(config.inbound_default, InboundDefault::Deny);
        assert_eq!(config.header_underscores, Underscores::Drop);
    }

    #[test]
    fn transparent_takes_an_address_of_its_own_beside_named_targets() {
        let config = check(&["--policies", "p", "--transparent"]).unwrap();
        assert_eq!(config.transparent, Some("[::]:16006".parse().unwrap()));
        assert_eq!(config.outbound, Some("127.0.0.1:16001".parse().unwrap()));
        let flags = [
            "--policies",
            "p",
            "--transparent",
            "--inbound",
            "0.0.0.0:7,127.0.0.1:1=127.0.0.1:2",
            "--outbound",
        ];
        let config = check(&[&flags[..], &["[::1]:8"]].concat()).unwrap();
        assert_eq!(config.transparent, Some("0.0.0.0:7".parse().unwrap()));
        assert_eq!(config.inbound.len(), 1);
        assert_eq!(config.outbound, Some("[::1]:8".parse().unwrap()));
        let config = check(&["--policies", "p", "--inbound", "127.0.0.1:1=127.0.0.1:2"]).unwrap();
        assert_eq!((config.transparent, config.outbound), (None, None));
    }

    #[test]
    fn out_12_what_is_missing_or_wrong_is_named() {
        let inbound = ["--inbound", "127.0.0.1:1=127.0.0.1:2"];
        for (args, expected) in [
            (&["--policies", "p"][..], "nothing to do"),
            (&inbound[..], "no policy"),
            (&["--policies", "p", "--outbound", "0.0.0.0:1"], "loopback"),
            (&["--policies", "p", "--outbound", "127.0.0.1:1", "--admin", "0.0.0.0:1"], "loopback"),
            (&["--policies", "p", "--inbound", "1=2"], "ADDR=TARGET"),
            (&["--policies", "p", "--inbound", "127.0.0.1:1"], "ADDR=TARGET"),
            (&["--policies", "p", "--transparent", "--inbound", "16006"], "[::]:16006"),
            (&["--policies", "p", "--transparent", "--inbound", "[::]:1,0.0.0.0:1"], "one ADDR"),
            (&["--policies", "p", "--transparent", "--outbound", "0.0.0.0:1"], "loopback"),
            (
                &["--policies", "p", "--control", "https://c:1", "--outbound", "127.0.0.1:1"],
                "cannot be used with",
            ),
            (&["--control", "https://c:1", "--outbound", "127.0.0.1:1"], "--control-ca"),
            (&["--policies", "p", "--outbound", "127.0.0.1:1", "--secrets-dir", "s"], "not with --policies"),
            (&["--policies", "p", "--outbound", "127.0.0.1:1", "--join-token", "t"], "not with --policies"),
            (&["--policies", "p", "--outbound", "127.0.0.1:1", "--label", "a"], "key=value"),
            (&["--policies", "p", "--outbound", "127.0.0.1:1", "--access-log", "101%"], "off, denied, all"),
        ] {
            let message = check(args).unwrap_err();
            assert!(message.contains(expected), "{args:?}: {message}");
        }
    }
}
