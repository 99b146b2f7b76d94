//! What was asked for on the command line or in the environment, and is it usable?

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use countersign_policy::headers::Underscores;
use rustls_pki_types::ServerName;

use crate::{explain, issuer};

/// As written.
#[derive(Debug, Parser)]
#[command(name = "countersign-control", version, about = "The control plane of Countersign")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve policy to sidecars
    Serve(Box<Serve>),
    /// Say what is wrong with policy files; exit code 1 if anything is
    Check {
        /// Files and folders of policy
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// What is sound but odd is exit code 1 too
        #[arg(long, env = "COUNTERSIGN_DENY_WARNINGS")]
        deny_warnings: bool,
    },
    /// Try every PolicyTest among policy files; exit code 1 if one fails
    Test {
        /// Files and folders of policy and its tests
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Write the results as JUnit XML too
        #[arg(long, value_name = "FILE", env = "COUNTERSIGN_JUNIT")]
        junit: Option<PathBuf>,
        /// What the sidecars do with header fields with _ in their names, as their flag of this name says: drop or pass
        #[arg(long, value_name = "WHAT", env = "COUNTERSIGN_HEADER_UNDERSCORES", default_value = "drop")]
        header_underscores: Underscores,
    },
    /// Say what is decided about a request, and why; exit code 1 if it is denied
    Explain(Box<explain::Flags>),
    /// Print the JSON Schema of policy files, for editors
    Schema,
}

/// The flags of `serve`; each is an environment variable `COUNTERSIGN_<FLAG>` too.
#[derive(Debug, Args)]
pub struct Serve {
    /// A file or folder of policy
    #[arg(long, value_name = "PATH", env = "COUNTERSIGN_POLICIES")]
    policies: Option<PathBuf>,
    /// Take policy from custom resources (not supported by this version)
    #[arg(long, env = "COUNTERSIGN_KUBERNETES", conflicts_with = "policies")]
    kubernetes: bool,
    /// Where the API listens, HTTPS only
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:16443", env = "COUNTERSIGN_LISTEN")]
    listen: SocketAddr,
    /// For the CA, keys and the last good policy; mode 0700
    #[arg(long, value_name = "DIR", env = "COUNTERSIGN_STATE_DIR")]
    state_dir: PathBuf,
    /// Which token belongs to which workload
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_JOIN_TOKENS")]
    join_tokens: PathBuf,
    /// A further name in the API's certificate, beside localhost, 127.0.0.1 and ::1; repeatable
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "COUNTERSIGN_SERVER_NAME")]
    server_name: Vec<String>,
    /// Issue tokens too, under this issuer identifier
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_TOKEN_ISSUER", requires = "token_clients")]
    token_issuer: Option<String>,
    /// The clients of the embedded issuer
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_TOKEN_CLIENTS", requires = "token_issuer")]
    token_clients: Option<PathBuf>,
    /// Where metrics and status are served, loopback only
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:16444", env = "COUNTERSIGN_ADMIN")]
    admin: SocketAddr,
}

/// Checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub policies: PathBuf,
    /// Port 0 is any free one.
    pub listen: SocketAddr,
    pub state_dir: PathBuf,
    pub join_tokens: PathBuf,
    /// Names in the API's certificate beside those of this machine.
    pub server_names: Vec<String>,
    pub token_issuer: Option<TokenIssuer>,
    /// A loopback address; port 0 is any free one.
    pub admin: SocketAddr,
}

/// The embedded issuer.
#[derive(Clone, Debug)]
pub struct TokenIssuer {
    /// The exact `iss`. None: `https://localhost` with the port that the API got.
    pub url: Option<String>,
    pub clients: PathBuf,
    /// Times and algorithm; the defaults are those of production.
    pub options: issuer::Options,
}

/// What cannot be used, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--kubernetes is not supported by this version: use --policies PATH")]
    Kubernetes,
    #[error("no policy: say where it is with --policies PATH")]
    NoPolicies,
    #[error("--admin {0} is not a loopback address: use 127.0.0.1 or [::1]")]
    Admin(SocketAddr),
    #[error("--server-name {0:?} is neither a host name nor an IP address")]
    ServerName(String),
}

// === impl Serve ===

impl Serve {
    pub fn check(self) -> Result<Config, ConfigError> {
        if self.kubernetes {
            return Err(ConfigError::Kubernetes);
        }
        if !self.admin.ip().is_loopback() {
            return Err(ConfigError::Admin(self.admin));
        }
        if let Some(name) = self.server_name.iter().find(|name| ServerName::try_from(name.as_str()).is_err())
        {
            return Err(ConfigError::ServerName(name.clone()));
        }
        // clap holds the two flags together.
        let token_issuer = self.token_clients.map(|clients| TokenIssuer {
            url: self.token_issuer,
            clients,
            options: issuer::Options::default(),
        });
        Ok(Config {
            policies: self.policies.ok_or(ConfigError::NoPolicies)?,
            listen: self.listen,
            state_dir: self.state_dir,
            join_tokens: self.join_tokens,
            server_names: self.server_name,
            token_issuer,
            admin: self.admin,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flags: &str) -> Result<Config, String> {
        let base = "countersign-control serve --state-dir s --join-tokens j";
        let cli = Cli::try_parse_from(base.split(' ').chain(flags.split_whitespace()));
        match cli.map_err(|error| error.to_string())?.command {
            Command::Serve(serve) => serve.check().map_err(|error| error.to_string()),
            _ => unreachable!(),
        }
    }

    #[test]
    fn has_the_documented_defaults() {
        let config = check("--policies p").unwrap();
        assert_eq!(config.listen.port(), 16443);
        assert_eq!(config.admin.to_string(), "127.0.0.1:16444");
        assert!(config.token_issuer.is_none());
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        for (flags, expected) in [
            ("--kubernetes", "not supported by this version"),
            ("", "--policies PATH"),
            ("--policies p --admin 0.0.0.0:1", "loopback"),
            ("--policies p --server-name a_b/c", "host name"),
            ("--policies p --token-issuer https://x", "--token-clients"),
            ("--policies p --token-clients f", "--token-issuer"),
            ("--policies p --kubernetes", "cannot be used with"),
        ] {
            let error = check(flags).unwrap_err();
            assert!(error.contains(expected), "{flags}: {error}");
        }
    }
}
