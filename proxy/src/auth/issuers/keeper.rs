//! How does a key set stay fresh? One task per issuer: it fetches ahead of time, backs off when it fails, keeps the last
//! good set for a day, on disk too, and answers to a request that met an unknown key.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_policy::snapshot::{FileRef, Issuer, KeySource};
use http::header::{AGE, CACHE_CONTROL, ETAG};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use crate::auth::issuers::discovery::{self, IssuerError, Metadata};
use crate::auth::issuers::jwks::{JWKS_LIMIT, JwksError, KeySet};
use crate::auth::issuers::metrics::{Counters, IssuerMetrics};
use crate::auth::issuers::{Flights, Pace, Services, Shared};
use crate::fetch::Trust;
use crate::state::backoff::{self, random};
use crate::state::files::FileError;

/// How long the last good set may be used without a refresh, in seconds.
const STALENESS: i64 = 24 * 60 * 60;
/// Of the freshness that an issuer declares, and what counts where it declares none.
const SHORTEST_TTL: Duration = Duration::from_secs(5 * 60);
const LONGEST_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long metadata is taken for granted while its key set can be fetched.
const METADATA_TTL: Duration = Duration::from_secs(60 * 60);

/// The task of one issuer.
#[derive(Debug)]
pub(crate) struct Keeper {
    services: Services,
    issuer: Issuer,
    pace: Pace,
    counters: Counters,
    shared: Arc<Shared>,
    metadata: Option<(Metadata, Instant)>,
    fetched: Option<Fetched>,
}

/// What the issuer answered last.
#[derive(Debug)]
struct Fetched {
    url: String,
    etag: Option<HeaderValue>,
    document: Bytes,
}

/// What a refresh came to: were there other keys, and when to look again.
#[derive(Debug)]
struct Refreshed {
    changed: bool,
    next: Duration,
}

#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    #[error("its metadata names no jwks_uri; name the key set in policy (jwks)")]
    NoKeySet,
    #[error("{url}: {error}")]
    Document { url: String, error: JwksError },
    #[error(transparent)]
    File(#[from] FileError),
}

/// Keys that stand in policy: there is nothing to fetch, and nothing that a fetch could change.
pub(crate) fn hold_inline(shared: &Shared, document: &Value, issuer: &Issuer) {
    match KeySet::from_document(document, issuer) {
        Ok(set) => {
            shared.hold(set, i64::MAX);
        }
        Err(error) => tracing::warn!(issuer = issuer.name, "the keys in policy cannot be used: {error}"),
    }
    shared.flights.send_replace(Flights { running: false, finished: u64::MAX, succeeded: true });
}

/// Removes what was kept on disk for this issuer.
pub(crate) fn forget(services: &Services, fingerprint: &[u8; 32]) {
    if let Some(dir) = &services.state_dir {
        // It may never have been there.
        let _ = dir.remove(&entry(fingerprint));
    }
}

// === impl Keeper ===

impl Keeper {
    /// A keeper that holds what the disk still knows. It fetches when it runs.
    pub(crate) fn new(
        services: Services,
        issuer: Issuer,
        pace: Pace,
        metrics: &IssuerMetrics,
        shared: Arc<Shared>,
    ) -> Self {
        let counters = metrics.counters.clone();
        let keeper = Self { services, issuer, pace, counters, shared, metadata: None, fetched: None };
        keeper.restore();
        keeper
    }

    /// Keeps the set fresh until the task is aborted.
    pub(crate) async fn run(mut self) {
        let mut failures = 0_u32;
        loop {
            self.shared.flights.send_modify(|flights| flights.running = true);
            let result = self.refresh().await;
            self.count(&result);
            let pause = match &result {
                Ok(refreshed) => {
                    failures = 0;
                    refreshed.next
                }
                Err(error) => {
                    tracing::warn!(issuer = self.issuer.name, "cannot refresh the issuer's keys: {error}");
                    failures = failures.saturating_add(1);
                    self.pause_after(failures)
                }
            };
            self.shared.flights.send_modify(|flights| {
                *flights = Flights {
                    running: false,
                    finished: flights.finished.saturating_add(1),
                    succeeded: result.is_ok(),
                };
            });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.wake.notified() => {}
            }
        }
    }

    async fn refresh(&mut self) -> Result<Refreshed, RefreshError> {
        match self.issuer.jwks.clone() {
            KeySource::File(file) => self.read(&file),
            KeySource::Uri(url) => {
                let trust = discovery::trust(&self.services, &self.issuer)?;
                self.fetch(url, &trust).await
            }
            KeySource::Discovery => {
                let trust = discovery::trust(&self.services, &self.issuer)?;
                let url = self.jwks_uri(&trust).await?;
                let result = self.fetch(url, &trust).await;
                if result.is_err() {
                    // The key set may have moved.
                    self.metadata = self.metadata.take().map(|(metadata, _)| (metadata, Instant::now()));
                }
                result
            }
            KeySource::Inline(_) => Ok(Refreshed { changed: false, next: LONGEST_TTL }),
        }
    }

    /// Where the key set is, by metadata that is asked for now and then; older metadata is better than none.
    async fn jwks_uri(&mut self, trust: &Trust) -> Result<String, RefreshError> {
        if self.metadata.as_ref().is_none_or(|(_, until)| Instant::now() >= *until) {
            match discovery::discover(&self.services, &self.issuer, trust).await {
                Ok(metadata) => self.metadata = Some((metadata, Instant::now() + METADATA_TTL)),
                Err(error) if self.metadata.is_none() => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(issuer = self.issuer.name, "cannot refresh its metadata: {error}")
                }
            }
        }
        let known = self.metadata.as_ref().and_then(|(metadata, _)| metadata.jwks_uri.clone());
        known.ok_or(RefreshError::NoKeySet)
    }

    async fn fetch(&mut self, url: String, trust: &Trust) -> Result<Refreshed, RefreshError> {
        let known = self.fetched.as_ref().filter(|fetched| fetched.url == url);
        let etag = known.and_then(|fetched| fetched.etag.clone());
        let answer = discovery::get(&self.services, trust, &url, etag.as_ref()).await?;
        let next = refresh_after(answer.headers(), random());
        let good_until = self.services.clock.unix().saturating_add(STALENESS);
        let changed = match answer.status() {
            StatusCode::NOT_MODIFIED if etag.is_some() => {
                self.shared.prolong(good_until);
                false
            }
            StatusCode::OK => {
                let set = KeySet::parse(answer.body(), &self.issuer)
                    .map_err(|error| RefreshError::Document { url: url.clone(), error })?;
                let etag = answer.headers().get(ETAG).cloned();
                self.fetched = Some(Fetched { url, etag, document: answer.into_body() });
                self.shared.hold(set, good_until)
            }
            status => return Err(IssuerError::Status { url, status: status.as_u16() }.into()),
        };
        self.save().await;
        Ok(Refreshed { changed, next })
    }

    fn read(&self, file: &FileRef) -> Result<Refreshed, RefreshError> {
        let document = self.services.files.read(file, JWKS_LIMIT)?;
        let set = KeySet::parse(&document, &self.issuer)
            .map_err(|error| RefreshError::Document { url: file.path.clone(), error })?;
        let good_until = self.services.clock.unix().saturating_add(STALENESS);
        Ok(Refreshed { changed: self.shared.hold(set, good_until), next: self.pace.poll })
    }

    /// Files are looked at every second, so of them only changes and failures count.
    fn count(&self, result: &Result<Refreshed, RefreshError>) {
        match result {
            Ok(refreshed) => {
                // Seconds since the epoch fit an f64 exactly.
                self.counters.last_success.set(self.services.clock.now().as_secs_f64().floor());
                if refreshed.changed {
                    self.counters.success.inc();
                } else if !self.watches_file() {
                    self.counters.unchanged.inc();
                }
            }
            Err(_) => self.counters.failure.inc(),
        }
    }

    /// Full jitter below 1 s, 2 s, 4 s ... 60 s; a file is looked at every second in any case.
    fn pause_after(&self, failures: u32) -> Duration {
        if self.watches_file() {
            return self.pace.poll;
        }
        backoff::pause(failures, self.pace.backoff, self.pace.backoff * 60, random())
    }

    fn watches_file(&self) -> bool {
        matches!(self.issuer.jwks, KeySource::File(_))
    }

    /// Holds what the disk still knows, for what is left of its day.
    fn restore(&self) {
        let Some(dir) = self.services.state_dir.as_ref().filter(|_| !self.watches_file()) else { return };
        let Some((document, saved_at)) = dir.load(&entry(&self.issuer.fingerprint)) else { return };
        let now = self.services.clock.unix();
        // A clock that was set back must not make it younger.
        let good_until = saved_at.min(now).saturating_add(STALENESS);
        if let Ok(set) = KeySet::parse(&document, &self.issuer)
            && now < good_until
        {
            tracing::info!(
                issuer = self.issuer.name,
                keys = set.len(),
                "using the keys from the state directory"
            );
            self.shared.hold(set, good_until);
        }
    }

    /// Keeps the document on disk. Saved after every success, so that its age is that of the last refresh.
    async fn save(&self) {
        let (Some(dir), Some(fetched)) = (&self.services.state_dir, &self.fetched) else { return };
        let (dir, document) = (dir.clone(), fetched.document.clone());
        let entry = entry(&self.issuer.fingerprint);
        match tokio::task::spawn_blocking(move || dir.save(&entry, &document)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(issuer = self.issuer.name, "cannot keep its keys on disk: {error}")
            }
            Err(_) => tracing::warn!(issuer = self.issuer.name, "keeping its keys on disk failed"),
        }
    }
}

/// The name of an issuer's entry in the state directory.
fn entry(fingerprint: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    fingerprint.iter().fold("keys-".to_owned(), |mut name, byte| {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
        name
    })
}

/// At 80 % of the declared freshness (RFC 9111 §5.2.2.1) within its bounds, less up to a tenth by jitter.
fn refresh_after(headers: &HeaderMap, random: f64) -> Duration {
    let declared = declared_freshness(headers).unwrap_or(SHORTEST_TTL);
    declared.clamp(SHORTEST_TTL, LONGEST_TTL).mul_f64(0.8 * (1.0 - 0.1 * random))
}

fn declared_freshness(headers: &HeaderMap) -> Option<Duration> {
    let seconds = |text: &str| text.trim().trim_matches('"').parse::<u32>().ok();
    let mut freshness = None;
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().ok()?.split(',') {
            let (name, argument) = directive.split_once('=').unwrap_or((directive, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" | "no-cache" => return None,
                "max-age" => freshness = Some(seconds(argument)?),
                _ => {}
            }
        }
    }
    let age = headers.get(AGE).and_then(|age| age.to_str().ok()).and_then(seconds).unwrap_or(0);
    freshness.map(|freshness| Duration::from_secs(u64::from(freshness.saturating_sub(age))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(headers: &[(&'static str, &'static str)], random: f64) -> u64 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        refresh_after(&map, random).as_secs()
    }

    #[test]
    fn a_set_is_refreshed_at_80_percent_of_its_freshness_within_bounds() {
        assert_eq!(after(&[("cache-control", "public, max-age=3600")], 0.0), 2880);
        assert_eq!(after(&[("cache-control", "MAX-AGE=\"3600\"")], 0.0), 2880);
        assert_eq!(after(&[("cache-control", "max-age=3600")], 1.0), 2592);
        assert_eq!(after(&[("cache-control", "max-age=3600"), ("age", "600")], 0.0), 2400);
        assert_eq!(after(&[("cache-control", "max-age=1")], 0.0), 240);
        assert_eq!(after(&[("cache-control", "max-age=4000000000")], 0.0), 69_120);
        for none in ["max-age=99999999999999", "max-age=-1", "no-store, max-age=3600", "no-cache", ""] {
            assert_eq!(after(&[("cache-control", none)], 0.0), 240, "{none}");
        }
        assert_eq!(after(&[], 0.0), 240);
    }
}
