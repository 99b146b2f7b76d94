//! What is `init` told to do? Its flags as written, and the redirect that they ask for.

use clap::{Args, ValueEnum};

use super::InitError;
use super::plan::Redirect;
use super::values::{Id, Mark, Networks, Port, Ports};

/// The flags of `init`.
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// Port of the sidecar's inbound listener (`run --inbound`).
    #[arg(long, env = "COUNTERSIGN_INBOUND_PORT", value_name = "PORT", default_value = "16006")]
    pub inbound_port: Port,
    /// Port of the sidecar's outbound listener (`run --outbound`).
    #[arg(long, env = "COUNTERSIGN_OUTBOUND_PORT", value_name = "PORT", default_value = "16001")]
    pub outbound_port: Port,
    /// Port of the sidecar's health listener (`run --health`): not redirected.
    #[arg(long, env = "COUNTERSIGN_HEALTH_PORT", value_name = "PORT", default_value = "16021")]
    pub health_port: Port,
    #[command(flatten)]
    pub exempt: Exempt,
    /// Redirect inbound connections to these ports alone, e.g. 80,8000-8100 [default: all].
    #[arg(
        long,
        env = "COUNTERSIGN_INCLUDE_INBOUND_PORTS",
        value_name = "PORTS",
        default_value = "",
        hide_default_value = true
    )]
    pub include_inbound_ports: Ports,
    /// Do not redirect inbound connections to these ports.
    #[arg(
        long,
        env = "COUNTERSIGN_EXCLUDE_INBOUND_PORTS",
        value_name = "PORTS",
        default_value = "",
        hide_default_value = true
    )]
    pub exclude_inbound_ports: Ports,
    /// Do not redirect outbound connections to these ports.
    #[arg(
        long,
        env = "COUNTERSIGN_EXCLUDE_OUTBOUND_PORTS",
        value_name = "PORTS",
        default_value = "",
        hide_default_value = true
    )]
    pub exclude_outbound_ports: Ports,
    /// Redirect outbound connections to these networks alone, of either family, e.g. 10.0.0.0/8,fd00::/8 [default: all].
    #[arg(
        long,
        env = "COUNTERSIGN_INCLUDE_OUTBOUND_CIDRS",
        value_name = "CIDRS",
        default_value = "",
        hide_default_value = true
    )]
    pub include_outbound_cidrs: Networks,
    /// Do not redirect outbound connections to these networks.
    #[arg(
        long,
        env = "COUNTERSIGN_EXCLUDE_OUTBOUND_CIDRS",
        value_name = "CIDRS",
        default_value = "",
        hide_default_value = true
    )]
    pub exclude_outbound_cidrs: Networks,
    /// With which program: nft, iptables, or auto for nft where it is installed.
    #[arg(long, env = "COUNTERSIGN_BACKEND", value_name = "WHICH", value_enum, default_value_t = Backend::Auto)]
    pub backend: Backend,
    /// Print what would be installed, and change nothing.
    #[arg(long, env = "COUNTERSIGN_DRY_RUN")]
    pub dry_run: bool,
    /// Change nothing; exit 0 if what is installed is what is asked for, else 1 with each difference on stdout.
    #[arg(long, env = "COUNTERSIGN_CHECK", conflicts_with_all = ["dry_run", "remove"])]
    pub check: bool,
    /// Take the rules away.
    #[arg(long, env = "COUNTERSIGN_REMOVE")]
    pub remove: bool,
}

/// Whose connections are not redirected: the flags that `init`, which writes the rules, and `run`, whom they are about, share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct Exempt {
    /// The sidecar's user: what it sends is not redirected. The same for `init` and `run`.
    #[arg(long, env = "COUNTERSIGN_UID", value_name = "ID", default_value_t = Self::default().uid)]
    pub uid: Id,
    /// The sidecar's group, likewise.
    #[arg(long, env = "COUNTERSIGN_GID", value_name = "ID", default_value_t = Self::default().gid)]
    pub gid: Id,
    /// The sidecar's packet mark (SO_MARK), likewise.
    #[arg(long, env = "COUNTERSIGN_MARK", value_name = "MARK", default_value_t = Self::default().mark)]
    pub mark: Mark,
}

/// Which program installs the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    Auto,
    Nft,
    Iptables,
}

// === impl Exempt ===

impl Default for Exempt {
    fn default() -> Self {
        Self { uid: Id(16016), gid: Id(16016), mark: Mark(16016) }
    }
}

// === impl Redirect ===

impl TryFrom<&InitArgs> for Redirect {
    type Error = InitError;

    fn try_from(args: &InitArgs) -> Result<Self, InitError> {
        let ports = [
            ("--inbound-port", args.inbound_port),
            ("--outbound-port", args.outbound_port),
            ("--health-port", args.health_port),
        ];
        for (index, (flag, port)) in ports.iter().enumerate() {
            if let Some((other, _)) = ports.iter().skip(index + 1).find(|(_, other)| other == port) {
                return Err(InitError::new(format!(
                    "{flag} and {other} are both {port}: each listener has its own"
                )));
            }
        }
        Ok(Self {
            inbound_port: args.inbound_port,
            outbound_port: args.outbound_port,
            health_port: args.health_port,
            exempt: args.exempt,
            include_inbound_ports: args.include_inbound_ports.clone(),
            exclude_inbound_ports: args.exclude_inbound_ports.clone(),
            exclude_outbound_ports: args.exclude_outbound_ports.clone(),
            include_outbound_cidrs: args.include_outbound_cidrs.clone(),
            exclude_outbound_cidrs: args.exclude_outbound_cidrs.clone(),
        })
    }
}
