//! Which CA and which certificate does TLS to a destination use? What their files hold, or held when they were last good: whoever
//! replaces a certificate and its key does so one after the other.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use countersign_policy::Snapshot;
use countersign_policy::outbound::OutboundTls;
use countersign_policy::snapshot::{CertificateFiles, FileRef};
use zeroize::Zeroizing;

use crate::connect::{ConnectError, Connector};
use crate::state::certificate::{Certificate, CertificateError};
use crate::state::files::{FileError, PolicyFiles};

/// A `caFile` in PEM.
pub(crate) type Pem = Arc<Zeroizing<Vec<u8>>>;

/// The files of `originate`, shared by all workers: it outlives the connections that were made with it.
#[derive(Debug)]
pub struct LastGood {
    files: PolicyFiles,
    connector: Connector,
    cas: Kept<FileRef, Pem>,
    pairs: Kept<CertificateFiles, Certificate>,
}

type Kept<K, T> = Mutex<HashMap<K, Good<T>>>;

/// What could be used when it was read.
#[derive(Debug)]
struct Good<T> {
    value: T,
    /// The files hold something else by now that cannot be used, and it has been said.
    is_past: bool,
}

/// Why a `caFile` cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Pem(#[from] ConnectError),
}

// === impl LastGood ===

impl LastGood {
    pub fn new(files: PolicyFiles, connector: Connector) -> Self {
        Self { files, connector, cas: Kept::default(), pairs: Kept::default() }
    }

    /// What a `caFile` holds, read anew. Fails only where it has never been good.
    pub(crate) fn ca(&self, file: &FileRef) -> Result<Pem, CaError> {
        read(&mut lock(&self.cas), file, "caFile", || {
            let pem = self.files.read(file, MAX_CA_FILE)?;
            self.connector.tls_config(Some(&pem), None, &[])?;
            Ok(Arc::new(pem))
        })
    }

    /// The same for a certificate and its key.
    pub(crate) fn pair(&self, named: &CertificateFiles) -> Result<Certificate, CertificateError> {
        read(&mut lock(&self.pairs), named, "certificate", || Certificate::read(named, &self.files))
    }

    /// Reads what policy names anew, and forgets the rest.
    pub(crate) fn look(&self, snapshot: Option<&Snapshot>) {
        let (cas, pairs): (Vec<_>, Vec<_>) = snapshot
            .into_iter()
            .flat_map(Snapshot::outbound_rules)
            .filter_map(|rule| match &rule.tls {
                OutboundTls::Originate { ca_file, client, .. } => Some((ca_file.as_ref(), client.as_ref())),
                OutboundTls::None | OutboundTls::Passthrough => None,
            })
            .unzip();
        for file in kept(&self.cas, &cas) {
            let _ = self.ca(&file);
        }
        for named in kept(&self.pairs, &pairs) {
            let _ = self.pair(&named);
        }
    }

    /// Is it another CA than this one by now, as far as the last look tells?
    pub(crate) fn has_other_ca(&self, file: &FileRef, than: &Pem) -> bool {
        lock(&self.cas).get(file).is_some_and(|now| now.value != *than)
    }

    /// The same for a pair.
    pub(crate) fn has_other_pair(&self, named: &CertificateFiles, than: &Certificate) -> bool {
        lock(&self.pairs).get(named).is_some_and(|now| now.value.key.cert != than.key.cert)
    }
}

/// What the files hold now, if that is good, else what they last held.
fn read<K, T, E>(
    kept: &mut HashMap<K, Good<T>>,
    named: &K,
    what: &str,
    now: impl FnOnce() -> Result<T, E>,
) -> Result<T, E>
where
    K: Clone + Eq + Hash,
    T: Clone,
    E: Display,
{
    match (now(), kept.get_mut(named)) {
        (Ok(value), _) => {
            kept.insert(named.clone(), Good { value: value.clone(), is_past: false });
            Ok(value)
        }
        (Err(error), Some(good)) => {
            if !std::mem::replace(&mut good.is_past, true) {
                tracing::warn!("the last good {what} of `originate` stays in use: {error}");
            }
            Ok(good.value.clone())
        }
        (Err(error), None) => Err(error),
    }
}

/// What is kept and still named, which alone is kept from now on.
fn kept<K: Clone + Eq + Hash, T>(kept: &Kept<K, T>, named: &[Option<&K>]) -> Vec<K> {
    let mut kept = lock(kept);
    kept.retain(|key, _| named.contains(&Some(key)));
    kept.keys().cloned().collect()
}

/// Held while files are read, so that what is older never replaces what is newer.
fn lock<T>(kept: &Mutex<T>) -> MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

const MAX_CA_FILE: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use countersign_policy::{Documents, Workload, source};
    use rcgen::{CertifiedKey, KeyPair};
    use tempfile::TempDir;

    use super::*;

    /// Files of one rule.
    struct World {
        dir: TempDir,
        last_good: LastGood,
    }

    impl World {
        fn new() -> Self {
            let last_good = LastGood::new(PolicyFiles::BesideDocument, Connector::for_tests());
            Self { dir: tempfile::tempdir().unwrap(), last_good }
        }

        fn file(&self, path: &str) -> FileRef {
            let declared_in = self.dir.path().join("policy.yaml").display().to_string();
            FileRef { path: path.to_owned(), declared_in }
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.dir.path().join(name), text).unwrap();
        }

        fn named(&self) -> CertificateFiles {
            CertificateFiles { cert_file: self.file("tls.crt"), key_file: self.file("tls.key") }
        }

        fn write_pair(&self, pair: &CertifiedKey<KeyPair>) {
            self.write("tls.crt", &pair.cert.pem());
            self.write("tls.key", &pair.signing_key.serialize_pem());
        }

        /// What a rule names that originates TLS.
        fn snapshot(&self) -> Snapshot {
            let text = r#"
apiVersion: countersign.dev/v1alpha1
kind: OutboundPolicy
metadata: { name: a }
spec:
  rules:
  - name: a
    to: { hosts: [a.test] }
    tls: originate
    originate: { caFile: ca.pem, certFile: tls.crt, keyFile: tls.key }
"#;
            let path = self.dir.path().join("policy.yaml").display().to_string();
            let sources = source::split(&path, text.as_bytes()).unwrap();
            let workload = Workload { namespace: "default".into(), ..Workload::default() };
            Documents::parse(sources).and_then(|documents| documents.compile(&workload)).unwrap()
        }
    }

    fn made() -> CertifiedKey<KeyPair> {
        rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap()
    }

    #[test]
    fn half_a_pair_leaves_the_last_good_one_and_none_is_none() {
        let world = World::new();
        let (old, new) = (made(), made());
        let pair = || world.last_good.pair(&world.named());
        world.write("tls.key", &old.signing_key.serialize_pem());
        assert!(pair().is_err(), "there has been no good one");
        world.write("tls.crt", &old.cert.pem());
        let first = pair().unwrap();
        world.write("tls.key", &new.signing_key.serialize_pem());
        assert_eq!(pair().unwrap(), first);
        assert!(!world.last_good.has_other_pair(&world.named(), &first));
        world.write("tls.crt", &new.cert.pem());
        assert_ne!(pair().unwrap(), first);
        assert!(world.last_good.has_other_pair(&world.named(), &first));
        std::fs::remove_file(world.dir.path().join("tls.crt")).unwrap();
        assert_eq!(pair().unwrap().key.cert[0], *new.cert.der());
    }

    #[test]
    fn a_ca_that_cannot_be_used_leaves_the_last_good_one() {
        let world = World::new();
        let file = world.file("ca.pem");
        let ca = || world.last_good.ca(&file);
        assert!(matches!(ca(), Err(CaError::File(_))));
        world.write("ca.pem", "half a certif");
        assert!(matches!(ca(), Err(CaError::Pem(_))));
        world.write("ca.pem", &made().cert.pem());
        let first = ca().unwrap();
        world.write("ca.pem", "half a certif");
        assert_eq!(ca().unwrap(), first);
        assert!(!world.last_good.has_other_ca(&file, &first));
        world.write("ca.pem", &made().cert.pem());
        assert_ne!(ca().unwrap(), first);
        assert!(world.last_good.has_other_ca(&file, &first));
    }

    /// Whether any connection is open or not: the good pair may be there for a moment only.
    #[test]
    fn a_look_finds_what_is_new_and_forgets_what_policy_does_not_name() {
        let world = World::new();
        let (old, new) = (made(), made());
        let (named, snapshot) = (world.named(), world.snapshot());
        world.write_pair(&old);
        let first = world.last_good.pair(&named).unwrap();
        world.last_good.look(Some(&snapshot));
        assert!(!world.last_good.has_other_pair(&named, &first));
        world.write_pair(&new);
        world.last_good.look(Some(&snapshot));
        assert!(world.last_good.has_other_pair(&named, &first));
        world.write("tls.key", "");
        world.last_good.look(Some(&snapshot));
        assert_eq!(world.last_good.pair(&named).unwrap().key.cert[0], *new.cert.der());
        world.last_good.look(None);
        assert!(world.last_good.pair(&named).is_err(), "it is read for the first time again");
    }
}
