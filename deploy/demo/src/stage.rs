//! What is running? A control plane with its issuer, two services, and a sidecar beside each, all on loopback.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use countersign_control::config::{Config as ControlConfig, TokenIssuer};
use countersign_control::issuer::{Issuer, Options};
use countersign_proxy::app::Running;
use countersign_proxy::config::{AccessLog, RunArgs};
use http::{Method, StatusCode};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::client::{self, Answer};
use crate::policies::{Places, Policies};
use crate::services::{self, Tap};

/// How long a new key waits: as short as can be seen. Ten minutes in production.
pub(crate) const PUBLISH_AHEAD: Duration = Duration::from_secs(2);

/// Short enough that a token is renewed before one's eyes. Five minutes in production.
const TOKEN_LIFETIME: Duration = Duration::from_secs(20);

/// For anything to come up or to be seen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// All of it. Dropped, the folder is removed.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) policies: Policies,
    pub(crate) tap: Tap,
    pub(crate) ports: Ports,
    control_config: ControlConfig,
    control: Option<Control>,
    sidecars: Vec<Running>,
    _folder: TempDir,
}

/// Who listens where, always on 127.0.0.1.
#[derive(Clone, Debug)]
pub(crate) struct Ports {
    pub(crate) checkout: SocketAddr,
    pub(crate) checkout_outbound: SocketAddr,
    pub(crate) checkout_admin: SocketAddr,
    pub(crate) orders: SocketAddr,
    pub(crate) orders_inbound: SocketAddr,
    pub(crate) orders_admin: SocketAddr,
    pub(crate) control: SocketAddr,
    pub(crate) control_admin: SocketAddr,
}

/// A control plane that serves.
#[derive(Debug)]
struct Control {
    issuer: Issuer,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

// === impl Stage ===

impl Stage {
    /// Starts everything, and returns when the first request could be served.
    pub(crate) async fn set() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("countersign-demo-").tempdir()?;
        let root = folder.path();
        let (checkout_app, orders_app) = (listen(18090).await?, listen(18080).await?);
        let ports = Ports::choose(checkout_app.local_addr()?, orders_app.local_addr()?).await?;

        let policies = Policies::write(&root.join("policies"), &ports.places())?;
        write_secrets(root)?;
        let control_config = control_config(root, &ports);
        let (control, ca) = Control::start(control_config.clone()).await?;
        std::fs::copy(ca, root.join("secrets/control-ca.pem"))?;

        let tap = Tap::default();
        tokio::spawn(services::orders(orders_app, tap.clone()));
        let orders_url = format!("http://localhost:{}", ports.orders_inbound.port());
        tokio::spawn(services::checkout(checkout_app, ports.checkout_outbound, orders_url));
        let sidecars = vec![sidecar(root, "checkout", &ports).await?, sidecar(root, "orders", &ports).await?];
        let stage =
            Self { policies, tap, ports, control_config, control: Some(control), sidecars, _folder: folder };
        stage.ready().await?;
        Ok(stage)
    }

    /// The issuer, while the control plane runs.
    pub(crate) fn issuer(&self) -> io::Result<&Issuer> {
        let control =
            self.control.as_ref().ok_or_else(|| io::Error::other("the control plane is stopped"))?;
        Ok(&control.issuer)
    }

    /// Stops the control plane, and the issuer with it.
    pub(crate) async fn stop_control(&mut self) {
        if let Some(control) = self.control.take() {
            // Whether it listens to us or is gone already, its end is what we wait for.
            let _ = control.stop.send(());
            let _ = control.task.await;
        }
    }

    /// Starts it again where it was, with what it kept.
    pub(crate) async fn start_control(&mut self) -> io::Result<()> {
        if self.control.is_none() {
            self.control = Some(Control::start(self.control_config.clone()).await?.0);
        }
        Ok(())
    }

    /// What a customer does.
    pub(crate) async fn shop(&self, path: &str) -> io::Result<Answer> {
        client::send(Method::GET, &format!("http://{}{path}", self.ports.checkout)).await
    }

    pub(crate) async fn end(mut self) {
        self.stop_control().await;
        for sidecar in self.sidecars.drain(..) {
            sidecar.shutdown().await;
        }
    }

    async fn ready(&self) -> io::Result<()> {
        let waited = until(PATIENCE, async || {
            for admin in [self.ports.checkout_admin, self.ports.orders_admin] {
                let page = client::send(Method::GET, &format!("http://{admin}/readyz")).await;
                if !page.is_ok_and(|page| page.status == StatusCode::OK) {
                    return false;
                }
            }
            self.shop("/list").await.is_ok_and(|answer| answer.status == StatusCode::OK)
        });
        if waited.await.is_some() {
            return Ok(());
        }
        let last = self.shop("/list").await?;
        Err(io::Error::other(format!("not ready after {PATIENCE:?}: {} {}", last.line(), last.reason())))
    }
}

// === impl Ports ===

impl Ports {
    async fn choose(checkout: SocketAddr, orders: SocketAddr) -> io::Result<Self> {
        // Held together until all are chosen, so that no two are the same.
        let mut held = Vec::new();
        for preferred in [16001, 16020, 18081, 16022, 16443, 16444] {
            held.push(listen(preferred).await?);
        }
        let mut held = held.iter().map(TcpListener::local_addr);
        let mut next = || held.next().unwrap_or_else(|| Err(io::Error::other("too few ports")));
        Ok(Self {
            checkout,
            checkout_outbound: next()?,
            checkout_admin: next()?,
            orders,
            orders_inbound: next()?,
            orders_admin: next()?,
            control: next()?,
            control_admin: next()?,
        })
    }

    fn places(&self) -> Places {
        Places {
            issuer: format!("https://localhost:{}", self.control.port()),
            orders_sidecar: self.orders_inbound.port(),
            orders: self.orders.port(),
        }
    }
}

/// The preferred port, or any free one where it is taken.
async fn listen(preferred: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, preferred)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await,
    }
}

// === impl Control ===

impl Control {
    /// Answers where its CA is, too.
    async fn start(config: ControlConfig) -> io::Result<(Self, std::path::PathBuf)> {
        let app = countersign_control::app::App::bind(config).await.map_err(io::Error::other)?;
        let issuer = app.issuer().cloned().ok_or_else(|| io::Error::other("there is no issuer"))?;
        let ca = app.bound().ca_file.clone();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(app.run(async {
            // Dropped or sent, it is the end.
            let _ = stopped.await;
        }));
        Ok((Self { issuer, stop, task }, ca))
    }
}

fn control_config(root: &Path, ports: &Ports) -> ControlConfig {
    let options =
        Options { publish_ahead: PUBLISH_AHEAD, token_lifetime: TOKEN_LIFETIME, ..Options::default() };
    ControlConfig {
        policies: root.join("policies"),
        listen: ports.control,
        state_dir: root.join("control-state"),
        join_tokens: root.join("join-tokens.yaml"),
        server_names: Vec::new(),
        token_issuer: Some(TokenIssuer {
            url: Some(ports.places().issuer),
            clients: root.join("clients.yaml"),
            options,
        }),
        admin: ports.control_admin,
    }
}

// === sidecars and secrets ===

async fn sidecar(root: &Path, name: &str, ports: &Ports) -> io::Result<Running> {
    let is_checkout = name == "checkout";
    let control = format!("https://localhost:{}", ports.control.port());
    let args = RunArgs {
        control: Some(control.parse().map_err(io::Error::other)?),
        control_ca: Some(root.join("secrets/control-ca.pem")),
        join_token: Some(root.join(format!("{name}-join-token"))),
        secrets_dir: Some(root.join("secrets")),
        inbound: if is_checkout {
            Vec::new()
        } else {
            vec![format!("{}={}", ports.orders_inbound, ports.orders)]
        },
        outbound: is_checkout.then_some(ports.checkout_outbound),
        admin: Some(if is_checkout { ports.checkout_admin } else { ports.orders_admin }),
        workers: Some(NonZeroUsize::MIN),
        access_log: Some(AccessLog::Off),
        ..RunArgs::default()
    };
    let config = countersign_proxy::Config::try_from(args).map_err(io::Error::other)?;
    let app = countersign_proxy::App::bind(config).await.map_err(io::Error::other)?;
    app.run().map_err(io::Error::other)
}

/// A client secret and a join token for each sidecar, made for this run; their hashes for the control plane.
fn write_secrets(root: &Path) -> io::Result<()> {
    std::fs::create_dir(root.join("secrets"))?;
    let secret = random()?;
    private(&root.join("secrets/checkout-secret"), &secret)?;
    let clients = format!(
        "clients:\n- clientId: checkout\n  secretSha256: {}\n  scopes: [orders:read, orders:write]\n  \
         audiences: [https://orders.shop]\n",
        hash(&secret)
    );
    private(&root.join("clients.yaml"), &clients)?;
    let mut members = "workloads:\n".to_owned();
    for name in ["checkout", "orders"] {
        let token = random()?;
        private(&root.join(format!("{name}-join-token")), &token)?;
        let member = format!(
            "- {{ tokenSha256: {}, namespace: shop, name: {name}, labels: {{ app: {name} }} }}\n",
            hash(&token)
        );
        members.push_str(&member);
    }
    private(&root.join("join-tokens.yaml"), &members)
}

fn private(path: &Path, content: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content.as_bytes())
}

fn random() -> io::Result<String> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(hex(&bytes))
}

fn hash(text: &str) -> String {
    hex(digest(&SHA256, text.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How long it took until it was so; none if it was not within the limit.
pub(crate) async fn until(limit: Duration, mut is_so: impl AsyncFnMut() -> bool) -> Option<Duration> {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < limit {
        if is_so().await {
            return Some(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    None
}
