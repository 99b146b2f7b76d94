//! How does the control plane start, run and end? Everything is bound and read first, so that whatever is wrong is said
//! before anybody is served.

use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing_subscriber::EnvFilter;

use crate::admin::{self, Admin};
use crate::api::{self, Api};
use crate::ca::{Authority, CaError, RENEWAL};
use crate::config::{Config, TokenIssuer};
use crate::fleet::Fleet;
use crate::issuer::{self, Issuer};
use crate::metrics::Metrics;
use crate::server::{Server, Tls};
use crate::state::StateDir;
use crate::versions::{NothingToServe, Publisher};

/// A control plane that has its ports, its CA and its policy, and serves nobody yet.
#[derive(Debug)]
pub struct App {
    bound: Bound,
    api: Server,
    admin: Server,
    publisher: Publisher,
    issuer: Option<Issuer>,
    authority: Authority,
    server_names: Vec<String>,
    tls: Tls,
    draining: watch::Sender<bool>,
}

/// What it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The API, HTTPS.
    pub api: SocketAddr,
    /// The admin listener, HTTP.
    pub admin: SocketAddr,
    /// The CA's certificate, for `--control-ca`.
    pub ca_file: PathBuf,
}

/// Why it cannot start: exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {error}: choose another with {flag}")]
    Listen { address: SocketAddr, flag: &'static str, error: io::Error },
    #[error("--state-dir {path}: {error}: it must be a directory of ours, mode 0700", path = path.display())]
    State { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    NothingToServe(#[from] NothingToServe),
    #[error(transparent)]
    Issuer(#[from] issuer::Error),
    #[error("the metrics contradict each other: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

// === impl App ===

impl App {
    /// Binds both ports, opens the state directory and reads policy and join tokens.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let metrics = Metrics::new()?;
        let (api_listener, api_address) = listen(config.listen, "--listen").await?;
        let (admin_listener, admin_address) = listen(config.admin, "--admin").await?;
        let state = StateDir::open(&config.state_dir)
            .map_err(|error| StartError::State { path: config.state_dir.clone(), error })?;
        let authority = Authority::open(&state)?;
        let tls = Arc::new(ArcSwap::from_pointee(authority.server_config(&config.server_names)?));
        let bound = Bound { api: api_address, admin: admin_address, ca_file: authority.file() };
        let issuer = config
            .token_issuer
            .map(|written| open_issuer(written, api_address, &config.state_dir))
            .transpose()?;
        let publisher = Publisher::start(config.policies, config.join_tokens, state, metrics.clone()).await?;

        let (draining, fleet) = (watch::Sender::new(false), Fleet::default());
        let api = Api {
            published: publisher.subscribe(),
            fleet: fleet.clone(),
            metrics: metrics.clone(),
            draining: draining.subscribe(),
        };
        let admin = Admin {
            metrics: metrics.clone(),
            fleet,
            status: publisher.status(),
            draining: draining.subscribe(),
        };
        let server = |listener, tls, router| Server {
            listener,
            tls,
            router,
            metrics: metrics.clone(),
            draining: draining.subscribe(),
        };
        Ok(Self {
            api: server(
                api_listener,
                Some(tls.clone()),
                api::router(api, issuer.as_ref().map(Issuer::router)),
            ),
            admin: server(admin_listener, None, admin::router(admin)),
            bound,
            publisher,
            issuer,
            authority,
            server_names: config.server_names,
            tls,
            draining,
        })
    }

    /// Where it listens, and what callers trust.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// The embedded issuer, where there is one.
    pub fn issuer(&self) -> Option<&Issuer> {
        self.issuer.as_ref()
    }

    /// Serves until `shutdown` is done; then polls are answered, requests in flight end, and so does this.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { bound, api, admin, publisher, issuer, authority, server_names, tls, draining } = self;
        let issuing = async {
            match issuer {
                Some(issuer) => issuer.run(pending()).await,
                None => pending().await,
            }
        };
        tracing::info!(api = %bound.api, admin = %bound.admin, "the control plane serves");
        let end = async {
            shutdown.await;
            tracing::info!("the control plane ends");
            draining.send_replace(true);
        };
        let serve = async { tokio::join!(api.run(), admin.run(), end) };
        tokio::select! {
            _ = serve => {}
            () = publisher.run() => {}
            () = issuing => {}
            () = renew(authority, server_names, tls) => {}
        }
    }
}

fn open_issuer(written: TokenIssuer, api: SocketAddr, state_dir: &Path) -> Result<Issuer, issuer::Error> {
    let url = written.url.unwrap_or_else(|| format!("https://localhost:{}", api.port()));
    Issuer::open(&url, written.clients, Some(state_dir.to_owned()), written.options)
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen { address, flag, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// A new certificate every month; should that fail, the old one is good for two months more.
async fn renew(authority: Authority, names: Vec<String>, tls: Tls) {
    loop {
        sleep(RENEWAL).await;
        match authority.server_config(&names) {
            Ok(config) => tls.store(Arc::new(config)),
            Err(error) => tracing::error!(%error, "the API's certificate could not be renewed"),
        }
    }
}

/// The command `serve`: until SIGTERM or ctrl-c.
pub fn serve(config: Config) -> Result<ExitCode, StartError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(StartError::Runtime)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Runtime)?;
        let app = App::bind(config).await?;
        app.run(async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        })
        .await;
        Ok(ExitCode::SUCCESS)
    })
}

/// One JSON line per event on stderr; `COUNTERSIGN_LOG` says which.
pub fn log() {
    let filter = EnvFilter::try_from_env("COUNTERSIGN_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    tracing_subscriber::fmt().json().with_writer(io::stderr).with_env_filter(filter).init();
}

/// Our own words, and of what we are built on only errors: h2 warns of frames that any stranger may send.
const LOG: &str = "error,countersign=info";

#[cfg(test)]
mod tests;
