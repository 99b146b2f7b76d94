//! Who gives a workload its token when there is no other authorization server? The embedded issuer: client credentials
//! alone (RFC 6749 §4.4), access tokens by RFC 9068, metadata by RFC 8414, and signing keys that rotate by themselves.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

mod answer;
mod assertion;
mod authenticate;
mod client;
mod clients;
mod endpoint;
mod form;
mod grant;
mod keyring;
mod options;
mod public_key;
mod replay;
mod signing_key;
mod store;
mod throttle;

#[cfg(test)]
mod tests;

pub use clients::ClientsError;
pub use options::{Algorithm, Options};
pub use signing_key::KeyError;
pub use store::StoreError;

use clients::{Clients, Watch};
use keyring::{Keyring, Schedule};
use options::IssuerUrl;
use replay::Replays;
use signing_key::SigningKey;
use store::Store;
use throttle::Throttle;

/// How often the clients file and the age of the keys are looked at.
const TICK: Duration = Duration::from_millis(250);

/// The embedded issuer. Cheap to clone; all clones are the same one.
#[derive(Clone, Debug)]
pub struct Issuer(Arc<State>);

/// What keeps the issuer from starting, or a key from being rotated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The issuer's URL cannot be an issuer identifier (RFC 8414 §2).
    #[error("token issuer {url:?}: {problem}")]
    Url { url: String, problem: &'static str },
    /// The options contradict each other.
    #[error("token issuer: {0}")]
    Options(&'static str),
    /// The clients file cannot be used.
    #[error(transparent)]
    Clients(#[from] ClientsError),
    /// The signing keys cannot be read or kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No signing key could be made.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Everything that a request may need. Keys and clients have one writer each: whoever holds `turning`, and `run`.
#[derive(Debug)]
struct State {
    url: IssuerUrl,
    options: Options,
    clients: ArcSwap<Clients>,
    watch: Mutex<Watch>,
    keys: ArcSwap<Keyring>,
    store: Option<Store>,
    /// Held while a key is added or dropped, so that two rotations do not lose each other's key.
    turning: Mutex<()>,
    throttle: Throttle,
    replays: Replays,
}

// === impl Issuer ===

impl Issuer {
    /// Reads the clients file and the kept keys, or makes the first key. `issuer_url` is the exact `iss` of every token
    /// and must be https. Without `state_dir` the keys live as long as the process.
    pub fn open(
        issuer_url: &str,
        clients: PathBuf,
        state_dir: Option<PathBuf>,
        options: Options,
    ) -> Result<Self, Error> {
        options.check()?;
        let url = IssuerUrl::parse(issuer_url)?;
        let mut watch = Watch::new(clients);
        let clients = watch.look(&url).transpose()?.unwrap_or_default();
        let store = state_dir.map(Store::open).transpose()?;
        let schedule = Schedule::from(&options);
        let now = now();
        let kept = store.as_ref().map(Store::load).transpose()?.unwrap_or_default();
        let keys = match Keyring::resume(kept, schedule, now) {
            Some(keys) => keys,
            None => Keyring::start(SigningKey::generate(options.algorithm)?, schedule, now),
        };
        if let Some(store) = &store {
            store.save(keys.entries())?;
        }
        let issuer = Self(Arc::new(State {
            url,
            options,
            clients: ArcSwap::from_pointee(clients),
            watch: Mutex::new(watch),
            keys: ArcSwap::from_pointee(keys),
            store,
            turning: Mutex::new(()),
            throttle: Throttle::default(),
            replays: Replays::since(now),
        }));
        issuer.turn(now)?;
        Ok(issuer)
    }

    /// `/oauth2/token`, `/oauth2/jwks` and the metadata. TLS is the listener's.
    pub fn router(&self) -> axum::Router {
        endpoint::router(self.clone())
    }

    /// Publishes a new key now, which signs once `publish_ahead` has passed, and answers its `kid`. While one is waiting
    /// for that already, nothing changes and it is that one's.
    pub fn rotate(&self) -> Result<String, Error> {
        let _turning = self.0.turning.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.0.keys.load_full();
        if let Some(waiting) = keys.waiting(now()) {
            return Ok(waiting.kid().to_owned());
        }
        let key = Arc::new(SigningKey::generate(self.0.options.algorithm)?);
        let kid = key.kid().to_owned();
        if let Some(store) = &self.0.store {
            store.save(keys.publish(key.clone(), now()).entries())?;
        }
        // Its wait begins when it can be seen, not when the disk was asked to keep it.
        self.0.keys.store(Arc::new(keys.publish(key, now())));
        tracing::info!(kid, "a new signing key is published; it signs in {:?}", self.0.options.publish_ahead);
        Ok(kid)
    }

    /// Follows the clients file and rotates the keys until `shutdown` resolves. Nothing of this stops on an error: what
    /// was good stays, and the log says why.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        tokio::select! {
            () = shutdown => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let issuer = self.clone();
            // Files are read and keys made off the runtime's threads: an RSA key takes a few hundred milliseconds.
            let work = move || {
                issuer.follow_clients();
                if let Err(error) = issuer.turn(now()) {
                    tracing::error!(%error, "the signing keys stay as they are");
                }
            };
            if tokio::task::spawn_blocking(work).await.is_err() {
                tracing::error!("following the clients file failed; it is tried again");
            }
        }
    }

    /// Takes the clients file over if it has changed; a broken one is said once and changes nothing.
    fn follow_clients(&self) {
        let mut watch = self.0.watch.lock().unwrap_or_else(PoisonError::into_inner);
        match watch.look(&self.0.url) {
            None => {}
            Some(Ok(clients)) => {
                tracing::info!(clients = clients.len(), "the clients file is taken over");
                self.0.throttle.forget();
                self.0.replays.retain(|client| clients.find(client).is_some());
                self.0.clients.store(Arc::new(clients));
            }
            Some(Err(error)) => {
                tracing::error!(%error, "the clients file is refused; the last good one stays")
            }
        }
    }

    /// Drops keys that nobody needs any more, notes which have begun to sign, and publishes the next one when it is time.
    fn turn(&self, now: Duration) -> Result<(), Error> {
        {
            let _turning = self.0.turning.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(keys) = self.0.keys.load().advance(now) {
                self.keep(keys)?;
            }
        }
        if self.0.keys.load().is_due(now, self.0.options.algorithm) {
            self.rotate()?;
        }
        Ok(())
    }

    /// On disk first: a key that a restart would lose must not be shown.
    fn keep(&self, keys: Keyring) -> Result<(), Error> {
        if let Some(store) = &self.0.store {
            store.save(keys.entries())?;
        }
        self.0.keys.store(Arc::new(keys));
        Ok(())
    }
}

/// Time since the epoch.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
