//! How do a pod's connections come to the sidecar, without the application's knowing? `countersign-proxy init` installs the
//! rules of the network namespace that it runs in, says whether they are there, or takes them away.

use std::fs;
use std::path::Path;

use self::args::{Backend, InitArgs};
use self::around::Around;
use self::difference::Difference;
use self::plan::{Family, Plan, Redirect};
use self::program::{ProgramError, is_installed};

pub mod args;
mod around;
mod difference;
mod iptables;
mod nft;
pub mod plan;
mod program;
pub mod values;

/// What `init` has to say once it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is as asked. What to print, if anything.
    Yes(String),
    /// What is installed is not what is asked for; one difference each, then what else may be in the way.
    No(Vec<String>),
}

/// Why it was not done, in one line, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InitError(String);

/// Does what the flags say.
pub fn run(args: &InitArgs) -> Result<Answer, InitError> {
    let plan = Plan::new(&Redirect::try_from(args)?);
    let with_nft = match args.backend {
        Backend::Nft => true,
        Backend::Iptables => false,
        Backend::Auto => is_installed("nft") || !is_installed("iptables-restore"),
    };
    if args.dry_run {
        return Ok(Answer::Yes(printed(&plan, with_nft, args.remove)));
    }
    demand_net_admin()?;
    let done = |result: Result<(), ProgramError>| result.map(|()| Answer::Yes(String::new()));
    let answer = match (with_nft, args.check, args.remove) {
        (true, true, _) => nft::check(&plan).map(|differences| compared(differences, with_nft)),
        (false, true, _) => {
            iptables::check(&plan, families()).map(|differences| compared(differences, with_nft))
        }
        (true, _, true) => done(nft::apply(&nft::removal())),
        (false, _, true) => done(iptables::remove(families())),
        (true, ..) => done(nft::apply(&nft::script(&plan))),
        (false, ..) => done(iptables::install(&plan, families())),
    };
    answer.map_err(|error| explained(&error, args.backend))
}

fn printed(plan: &Plan, with_nft: bool, remove: bool) -> String {
    match (with_nft, remove) {
        (true, false) => nft::script(plan),
        (true, true) => nft::removal(),
        (false, false) => iptables::printed(plan, families()),
        (false, true) => iptables::printed_removal(families()),
    }
}

/// What differs, and what else is there.
fn compared(mut differences: Vec<Difference>, with_nft: bool) -> Answer {
    let Around { remains, warnings } = around::look(with_nft, families());
    differences.extend(remains);
    let warnings = warnings.iter().map(|warning| format!("warning: {warning}"));
    if differences.is_empty() {
        let lines = ["the rules are installed as asked".to_owned()].into_iter().chain(warnings);
        return Answer::Yes(lines.map(|line| line + "\n").collect());
    }
    Answer::No(differences.iter().map(ToString::to_string).chain(warnings).collect())
}

/// The families that iptables needs rules for. A kernel without IPv6 sends none; where IPv6 is only switched off it can be
/// switched on again.
fn families() -> &'static [Family] {
    if Path::new("/proc/sys/net/ipv6").exists() { &[Family::V6, Family::V4] } else { &[Family::V4] }
}

// === what went wrong ===

/// The kernel's word for the capability in `/proc/PID/status`: its bit (capabilities(7)).
const NET_ADMIN: u64 = 1 << 12;

/// The programs would say "Operation not permitted", each in its own words.
fn demand_net_admin() -> Result<(), InitError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    if effective.is_some_and(|capabilities| capabilities & NET_ADMIN == 0) {
        return Err(InitError::new(format!("the capability NET_ADMIN is missing: {GRANT}")));
    }
    Ok(())
}

const GRANT: &str = "run init as root in an init container with capabilities.add [NET_ADMIN, NET_RAW]; where pods may \
                     not have these, leave init out and use the forward proxy (http_proxy)";

fn explained(error: &ProgramError, backend: Backend) -> InitError {
    InitError::new(match error {
        ProgramError::Missing("nft") if backend == Backend::Auto => {
            "neither nft nor iptables is installed: install nftables in the image that runs init".to_owned()
        }
        ProgramError::Missing("nft") => {
            "nft is not installed: install nftables in the image that runs init, or use --backend iptables".to_owned()
        }
        ProgramError::Missing("ip6tables" | "ip6tables-restore") => {
            "ip6tables is not installed, and this kernel has IPv6, which would go around the sidecar: install it \
             (package iptables), or nftables"
                .to_owned()
        }
        ProgramError::Missing(program) => {
            format!("{program} is not installed: install iptables, or better nftables, in the image that runs init")
        }
        ProgramError::Failed { message, .. } if message.contains("not permitted") => format!("{error}: {GRANT}"),
        ProgramError::Failed { program: "nft", .. } => {
            format!("{error}; nothing was changed. If the kernel has no nf_tables, try --backend iptables")
        }
        ProgramError::Failed { .. } => error.to_string(),
    })
}

// === impl InitError ===

impl InitError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}
