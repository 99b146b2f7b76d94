//! How is a sidecar put together? From a checked configuration to threads that serve, and to an orderly end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use countersign_policy::Snapshot;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, watch};

use crate::admin::{self, Admin};
use crate::auth::active::Armory;
use crate::auth::explain::Explainer;
use crate::auth::issuers::Services;
use crate::auth::verify::Verifier;
use crate::clock::Clock;
use crate::config::Config;
use crate::connect::Connector;
use crate::descriptors::{self, TooFew};
use crate::drain::{self, Drain, Signal};
use crate::fetch::Fetcher;
use crate::http::grant::Watched;
use crate::http::last_good::LastGood;
use crate::http::outbound;
use crate::http::sidecar::{Sidecar, Worker};
use crate::listen::{self, ListenError, Listeners, Seating};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::own::Own;
use crate::record::Recorder;
use crate::redirected::{self, Redirect};
use crate::state::dir::StateDir;
use crate::state::live::live;
use crate::state::source;

/// A sidecar that listens, and serves once it is [run](App::run).
#[derive(Debug)]
pub struct App {
    addresses: Addresses,
    inbound: Vec<(Listeners, SocketAddr)>,
    outbound: Vec<Listeners>,
    transparent: Option<(Listeners, Arc<Redirect>)>,
    workers: usize,
    seats: Seating,
    sidecar: Arc<Sidecar>,
    clock: Clock,
    drain: Drain,
    signal: Signal,
    end: Arc<Notify>,
    background: Background,
}

/// Where a sidecar listens: what was asked for, with free ports filled in.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// In the order of the configuration.
    pub inbound: Vec<SocketAddr>,
    pub outbound: Option<SocketAddr>,
    /// Where redirected connections to the workload arrive.
    pub transparent: Option<SocketAddr>,
    pub admin: SocketAddr,
    pub health: Option<SocketAddr>,
}

/// A sidecar that serves. Dropped, it ends at once; [`Running::shutdown`] lets requests finish.
#[derive(Debug)]
pub struct Running {
    pub addresses: Addresses,
    pub metrics: Arc<Metrics>,
    /// For tests that turn the time forward.
    pub clock: Clock,
    signal: Signal,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    end: Arc<Notify>,
    _background: Background,
}

/// Why a sidecar does not start. Exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    TooFew(#[from] TooFew),
    #[error(transparent)]
    Redirect(#[from] redirected::CannotTell),
    #[error("--state-dir: {0}")]
    State(io::Error),
    #[error(transparent)]
    Policy(#[from] source::StartError),
    #[error("cannot start: {0}")]
    System(String),
}

/// The runtime of the background thread: admin, watching and fetching, so that none of it delays a request.
#[derive(Debug)]
struct Background(Option<Runtime>);

// === impl App ===

impl App {
    /// Binds every listener and loads policy. Nothing is accepted yet.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let limit = descriptors::raise();
        descriptors::widen(limit);
        let background = Background::start()?;
        let workers = config.workers.get();
        let inbound = config
            .inbound
            .iter()
            .map(|inbound| Ok((listen::bind(inbound.listen, workers)?, inbound.target)))
            .collect::<Result<Vec<_>, ListenError>>()?;
        let transparent =
            config.transparent.map(|address| listen::bind_both(address, workers)).transpose()?;
        let outbound = match config.outbound {
            None => Vec::new(),
            Some(address) if transparent.is_some() => listen::bind_loopbacks(address, workers)?,
            Some(address) => vec![listen::bind(address, workers)?],
        };
        let admin = listen::bind(config.admin, 1)?;
        let health = config.health.map(|address| listen::bind(address, 1)).transpose()?;
        let addresses = Addresses {
            inbound: inbound.iter().map(|(listeners, _)| listeners.address).collect(),
            outbound: outbound.first().map(|listeners| listeners.address),
            transparent: transparent.as_ref().map(|listeners| listeners.address),
            admin: admin.address,
            health: health.as_ref().map(|listeners| listeners.address),
        };

        let metrics = Metrics::new().map_err(system)?;
        let transparent = match transparent {
            Some(listeners) => {
                let ways_in =
                    inbound.iter().map(|(listeners, target)| (listeners.address, *target)).collect();
                let redirect = Redirect::new(addresses.ports(), ways_in, config.exempt).await?;
                Some((listeners, Arc::new(redirect)))
            }
            None => None,
        };
        let clock = Clock::default();
        let seats = Seating::plan(&config, limit, addresses.ports().len(), &metrics, &clock)?;
        let state_dir = match &config.state_dir {
            Some(path) => {
                let (namespace, workload) = config.source.owner()?;
                Some(StateDir::open(path, &namespace, &workload).map_err(StartError::State)?)
            }
            None => None,
        };
        let (recorder, lines) =
            Recorder::new(config.access_log, clock.clone(), metrics.clone()).map_err(system)?;
        let counting = metrics.clone();
        background.spawn_blocking(move || admin::write_lines(lines, &counting));
        let names = Names::system(background.handle(), metrics.clone()).map_err(system)?;
        let connector = Connector::new(names.clone());
        let services = Services {
            fetcher: Fetcher::new(connector.clone()),
            clock: clock.clone(),
            metrics: metrics.clone(),
            files: config.files.clone(),
            state_dir: state_dir.clone(),
            background: background.handle(),
        };
        let armory = Arc::new(Armory::new(services));

        // The first policy, then all later ones.
        let starting = config.source.start(state_dir, metrics.clone(), connector.clone());
        let start = background.spawn(starting).await.map_err(system)??;
        let arming = armory.clone();
        let arm = move |snapshot: Snapshot| {
            names.keep(snapshot.exact_hosts().cloned());
            arming.arm(snapshot)
        };
        let (policy, mut writer) = live(start.snapshot.map(&arm));
        background.spawn(start.updates.run(move |snapshot| writer.store(Some(arm(snapshot)))));

        let local = transparent.as_ref().map(|(_, redirect)| redirect.local());
        let own = Own { listener: addresses.outbound, local };
        let sidecar = Arc::new(Sidecar {
            policy,
            verifier: Verifier::new(clock.clone(), metrics.clone()),
            recorder,
            explainer: Explainer::new(clock.clone()),
            metrics: metrics.clone(),
            last_good: LastGood::new(config.files.clone(), connector.clone()),
            connector,
            files: config.files,
            inbound_default: config.inbound_default,
            header_underscores: config.header_underscores,
            own,
            memory: Memory::new(config.max_memory, metrics.clone()),
            watched: Watched::default(),
        });
        let looking = sidecar.clone();
        background.spawn(async move { looking.memory.watch().await });
        let (signal, drain) = drain::channel();
        let end = Arc::new(Notify::new());
        let redirect = transparent.as_ref().map(|(_, redirect)| redirect.clone());
        if let Some(redirect) = redirect.clone() {
            background.spawn(async move { redirect.watch().await });
        }
        let pages = Admin::new(sidecar.clone(), armory, redirect, signal.watch(), end.clone());
        background.spawn(admin::serve(admin, seats.admin.clone(), pages.clone(), admin::Pages::All));
        if let Some(health) = health {
            background.spawn(admin::serve(health, seats.health.clone(), pages, admin::Pages::Health));
        }
        Ok(Self {
            addresses,
            inbound,
            outbound,
            transparent,
            workers,
            seats,
            sidecar,
            clock,
            drain,
            signal,
            end,
            background,
        })
    }

    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Starts the workers.
    pub fn run(mut self) -> Result<Running, StartError> {
        let (stop, stopped) = watch::channel(false);
        let mut threads = Vec::with_capacity(self.workers);
        for index in 0..self.workers {
            let listeners = WorkerListeners {
                inbound: self
                    .inbound
                    .iter_mut()
                    .filter_map(|(l, target)| Some((l.sockets.pop()?, *target)))
                    .collect(),
                outbound: self.outbound.iter_mut().filter_map(|l| l.sockets.pop()).collect(),
                transparent: self
                    .transparent
                    .as_mut()
                    .and_then(|(l, redirect)| Some((l.sockets.pop()?, redirect.clone()))),
            };
            let runtime = Builder::new_current_thread().enable_all().build().map_err(system)?;
            let (sidecar, seats) = (self.sidecar.clone(), self.seats.clone());
            let work = work(sidecar, seats, listeners, self.drain.clone(), stopped.clone());
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || runtime.block_on(work))
                .map_err(system)?;
            threads.push(thread);
        }
        Ok(Running {
            addresses: self.addresses,
            metrics: self.sidecar.metrics.clone(),
            clock: self.clock,
            signal: self.signal,
            stop,
            threads,
            end: self.end,
            _background: self.background,
        })
    }
}

/// The listeners of one worker.
struct WorkerListeners {
    inbound: Vec<(std::net::TcpListener, SocketAddr)>,
    outbound: Vec<std::net::TcpListener>,
    transparent: Option<(std::net::TcpListener, Arc<Redirect>)>,
}

/// One worker, from its first connection until it is told to stop.
async fn work(
    sidecar: Arc<Sidecar>,
    seats: Seating,
    listeners: WorkerListeners,
    drain: Drain,
    mut stopped: watch::Receiver<bool>,
) {
    let worker = Worker::new(sidecar.clone());
    for (listener, target) in listeners.inbound {
        let (worker, application) = (worker.clone(), worker.application(target));
        let seats = seats.inbound.clone();
        tokio::spawn(listen::accept(listener, seats, drain.clone(), move |stream, peer, drain| {
            redirected::inbound::serve_for(application.clone(), worker.clone(), stream, peer, drain)
        }));
    }
    let redirect = listeners.transparent.as_ref().map(|(_, redirect)| redirect.clone());
    for listener in listeners.outbound {
        let (worker, seats) = (worker.clone(), seats.outbound.clone());
        match redirect.clone() {
            Some(redirect) => {
                tokio::spawn(listen::accept(listener, seats, drain.clone(), move |stream, peer, drain| {
                    redirected::outbound::serve(redirect.clone(), worker.clone(), stream, peer, drain)
                }))
            }
            None => {
                tokio::spawn(listen::accept(listener, seats, drain.clone(), move |stream, peer, drain| {
                    outbound::serve(worker.clone(), stream, peer, drain)
                }))
            }
        };
    }
    if let Some((listener, redirect)) = listeners.transparent {
        let (worker, seats) = (worker.clone(), seats.inbound);
        tokio::spawn(listen::accept(listener, seats, drain.clone(), move |stream, peer, drain| {
            redirected::inbound::serve(redirect.clone(), worker.clone(), stream, peer, drain)
        }));
    }
    drop(drain);
    tokio::spawn(worker.clone().watch());
    tokio::spawn(worker.sweep());
    // The sender is gone when the sidecar is dropped, which stops us too.
    let _ = stopped.wait_for(|stop| *stop).await;
}

// === impl Addresses ===

impl Addresses {
    fn ports(&self) -> Vec<u16> {
        let one_each = [self.outbound, self.transparent, Some(self.admin), self.health];
        self.inbound
            .iter()
            .copied()
            .chain(one_each.into_iter().flatten())
            .map(|address| address.port())
            .collect()
    }
}

// === impl Running ===

impl Running {
    /// Resolves when somebody asked us to end by `POST /drain`.
    pub async fn asked_to_end(&self) {
        self.end.notified().await;
    }

    /// Stops accepting, lets what is in flight finish, and ends. `false`: some of it had to be cut off.
    pub async fn shutdown(mut self) -> bool {
        self.signal.start();
        let clean = self.signal.wait(drain::LIMIT).await;
        self.stop.send_replace(true);
        let threads = std::mem::take(&mut self.threads);
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()))
                .await;
        clean && joined.unwrap_or(false)
    }
}

// === impl Background ===

impl Background {
    fn start() -> Result<Self, StartError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("background")
            .enable_all()
            .build()
            .map_err(system)?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> tokio::runtime::Handle {
        // It is there until we are dropped; what would run on another runtime would be no harm.
        self.0.as_ref().map_or_else(tokio::runtime::Handle::current, |runtime| runtime.handle().clone())
    }

    fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle().spawn(future)
    }

    fn spawn_blocking(&self, work: impl FnOnce() + Send + 'static) {
        self.handle().spawn_blocking(work);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // We may be dropped inside another runtime, where waiting is not allowed.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn system(error: impl std::fmt::Display) -> StartError {
    StartError::System(error.to_string())
}
