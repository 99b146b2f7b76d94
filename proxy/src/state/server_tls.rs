//! With what do we serve TLS? A port's certificate and the CAs of its clients, read from files, and again when those change.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use countersign_policy::Snapshot;
use countersign_policy::snapshot::{CertificateFiles, ClientAuth, FileRef, InboundTls};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{ServerConfig, version};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::connect::{self, ConnectError};
use crate::state::certificate::{Certificate, CertificateError};
use crate::state::files::{FileError, PolicyFiles};
use crate::state::live::{Live, Writer, live};

/// What ports serve TLS with, across reloads: what policy still names is not read anew, and so keeps its last good files.
#[derive(Debug)]
pub(crate) struct TlsServers {
    files: PolicyFiles,
    background: Handle,
    armed: Mutex<HashMap<[u8; 32], Weak<TlsServer>>>,
}

/// One of them, kept up to date in the background for as long as a snapshot holds it.
pub(crate) struct TlsServer {
    config: Live<Option<Arc<ServerConfig>>>,
    keeper: AbortHandle,
}

/// Who looks at the files.
struct Keeper {
    named: InboundTls,
    files: PolicyFiles,
    writer: Writer<Option<Arc<ServerConfig>>>,
    /// Is there a pair that was good once?
    serves: bool,
    /// Hash of what the files held at the last look.
    seen: Option<[u8; 32]>,
}

/// Why the files cannot be served with. Never holds any of their content.
#[derive(Debug, thiserror::Error)]
enum TlsError {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("{file} cannot be read: {error}")]
    File { file: String, error: FileError },
    #[error("{file}: {error}")]
    ClientCa { file: String, error: ConnectError },
    #[error("{file}: {error}")]
    Verifier { file: String, error: VerifierBuilderError },
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

// === impl TlsServers ===

impl TlsServers {
    pub(crate) fn new(files: PolicyFiles, background: Handle) -> Self {
        Self { files, background, armed: Mutex::default() }
    }

    /// What the snapshot's ports serve TLS with, by fingerprint.
    pub(crate) fn arm(&self, snapshot: &Snapshot) -> HashMap<[u8; 32], Arc<TlsServer>> {
        self.arm_all(snapshot.inbound_tls())
    }

    fn arm_all<'a>(&self, named: impl Iterator<Item = &'a InboundTls>) -> HashMap<[u8; 32], Arc<TlsServer>> {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut servers = HashMap::new();
        for tls in named {
            servers.entry(tls.fingerprint).or_insert_with(|| {
                let known = armed.get(&tls.fingerprint).and_then(Weak::upgrade);
                known.unwrap_or_else(|| self.start(tls))
            });
        }
        *armed = servers.iter().map(|(key, server)| (*key, Arc::downgrade(server))).collect();
        servers
    }

    /// Reads the files at once, so that the first connection finds what is there.
    fn start(&self, named: &InboundTls) -> Arc<TlsServer> {
        let (config, writer) = live(None);
        let (named, files) = (named.clone(), self.files.clone());
        let mut keeper = Keeper { named, files, writer, serves: false, seen: None };
        keeper.look();
        let keeper = self.background.spawn(keeper.run()).abort_handle();
        Arc::new(TlsServer { config, keeper })
    }
}

// === impl TlsServer ===

impl TlsServer {
    /// What new connections are served with. `None`: the files were never good, so there is no connection.
    pub(crate) fn config(&self) -> Option<Arc<ServerConfig>> {
        self.config.load().as_ref().clone()
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer").field("serves", &self.config().is_some()).finish_non_exhaustive()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

// === impl Keeper ===

impl Keeper {
    /// Looks from time to time, until the task is aborted.
    async fn run(mut self) {
        loop {
            tokio::time::sleep(POLL).await;
            let look = move || {
                self.look();
                self
            };
            match tokio::task::spawn_blocking(look).await {
                Ok(keeper) => self = keeper,
                Err(error) => {
                    return tracing::error!(%error, "files of `tls` are no longer looked at; restart the sidecar");
                }
            }
        }
    }

    /// Takes over what the files hold, if that is something new and good. While somebody replaces them, one after the other,
    /// they do not fit together: what was good stays.
    fn look(&mut self) {
        let (now, readable) = self.digest();
        if self.seen == Some(now) {
            return;
        }
        let is_first = self.seen.replace(now).is_none();
        let certificate = self.named.certificate.cert_file.path.as_str();
        match config(&self.named, &self.files) {
            Ok(config) => {
                self.writer.store(Some(Arc::new(config)));
                self.serves = true;
                if !is_first {
                    tracing::info!(certificate, "new connections are served with the new files of `tls`");
                }
            }
            // They could be read a moment ago: the next look may go better.
            Err(TlsError::Certificate(CertificateError::File { .. }) | TlsError::File { .. }) if readable => {
                self.seen = None;
            }
            Err(error) if self.serves => {
                tracing::warn!(certificate, "the last good files of `tls` stay in use: {error}");
            }
            Err(error) => {
                tracing::warn!(
                    certificate,
                    "connections to the ports of this `tls` are closed until its files are right: {error}"
                );
            }
        }
    }

    /// Hash of what the files hold, where one that cannot be read counts as what is wrong with it; and can all be read?
    fn digest(&self) -> ([u8; 32], bool) {
        let CertificateFiles { cert_file, key_file } = &self.named.certificate;
        let (mut all, mut readable) = (Context::new(&SHA256), true);
        for file in [Some(cert_file), Some(key_file), client_ca(&self.named)].into_iter().flatten() {
            match self.files.read(file, MAX_CA_FILE) {
                Ok(bytes) => {
                    all.update(b"read");
                    all.update(&bytes.len().to_be_bytes());
                    all.update(&bytes);
                }
                Err(error) => {
                    readable = false;
                    all.update(error.to_string().as_bytes());
                }
            }
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(all.finish().as_ref());
        (hash, readable)
    }
}

fn client_ca(named: &InboundTls) -> Option<&FileRef> {
    match &named.client_auth {
        ClientAuth::None => None,
        ClientAuth::Optional(file) | ClientAuth::Required(file) => Some(file),
    }
}

/// TLS 1.2 or 1.3, without 0-RTT, sessions or tickets: a session that is resumed would bring along a client certificate that
/// was verified against other CAs (security IN-25).
fn config(named: &InboundTls, files: &PolicyFiles) -> Result<ServerConfig, TlsError> {
    let certificate = Certificate::read(&named.certificate, files)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .with_client_cert_verifier(verifier(&named.client_auth, files)?)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.key)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// Trusts the CAs in the file and no others, for certificates that clients may have (RFC 5280 §4.2.1.12).
fn verifier(client_auth: &ClientAuth, files: &PolicyFiles) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let (ClientAuth::Optional(ca) | ClientAuth::Required(ca)) = client_auth else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let file = || ca.path.clone();
    let pem = files.read(ca, MAX_CA_FILE).map_err(|error| TlsError::File { file: file(), error })?;
    let roots = connect::roots_from_pem(&pem).map_err(|error| TlsError::ClientCa { file: file(), error })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match client_auth {
        ClientAuth::Optional(_) => builder.allow_unauthenticated(),
        ClientAuth::Required(_) | ClientAuth::None => builder,
    };
    builder.build().map_err(|error| TlsError::Verifier { file: file(), error })
}

/// Between two looks at the files.
const POLL: Duration = Duration::from_secs(2);
const MAX_CA_FILE: usize = 1024 * 1024;

#[cfg(test)]
mod tests;
