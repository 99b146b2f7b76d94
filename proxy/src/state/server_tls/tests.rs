use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// A CA with its certificate in PEM.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// A certificate and key, in PEM.
struct Pair {
    cert: String,
    key: String,
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Self { issuer: Issuer::new(params, key), pem, der }
    }

    fn issue(&self, usage: &[ExtendedKeyUsagePurpose]) -> Pair {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = usage.to_vec();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { cert: certificate.pem(), key: key.serialize_pem() }
    }
}

const SERVER: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ServerAuth];
const CLIENT: &[ExtendedKeyUsagePurpose] = &[ExtendedKeyUsagePurpose::ClientAuth];

fn write(folder: &Path, pair: &Pair) {
    fs::write(folder.join("tls.crt"), &pair.cert).unwrap();
    fs::write(folder.join("tls.key"), &pair.key).unwrap();
}

/// What policy beside these files says.
fn named(folder: &Path, client_auth: fn(FileRef) -> ClientAuth) -> InboundTls {
    let declared_in = folder.join("policy.yaml").display().to_string();
    let file = |path: &str| FileRef { path: path.to_owned(), declared_in: declared_in.clone() };
    let certificate = CertificateFiles { cert_file: file("tls.crt"), key_file: file("tls.key") };
    InboundTls { certificate, client_auth: client_auth(file("ca.crt")), fingerprint: [1; 32] }
}

fn open(_: FileRef) -> ClientAuth {
    ClientAuth::None
}

/// A folder with a good pair of the CA, which is also that of clients.
fn folder(ca: &Ca) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &ca.issue(SERVER));
    fs::write(folder.path().join("ca.crt"), &ca.pem).unwrap();
    folder
}

fn config_of(named: &InboundTls) -> Result<ServerConfig, TlsError> {
    config(named, &PolicyFiles::BesideDocument)
}

/// A client that trusts the CA and shows this pair.
fn client(ca: &Ca, shows: Option<&Pair>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match shows {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            use rustls_pki_types::pem::PemObject;
            let cert = CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    };
    config.resumption = Resumption::in_memory_sessions(8);
    config
}

/// What the server says of a handshake: its kind, and whether a certificate was shown.
async fn shake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> Result<(HandshakeKind, bool), String> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from("localhost").unwrap();
    let connect = async {
        let mut stream = TlsConnector::from(client.clone()).connect(name, far).await?;
        // Whatever the server has to say after the handshake: tickets, if it gave any.
        let _ = stream.read(&mut [0; 1]).await?;
        Ok::<_, std::io::Error>(stream.get_ref().1.handshake_kind().unwrap())
    };
    let accept = async {
        let mut stream = TlsAcceptor::from(server.clone()).accept(near).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok::<_, std::io::Error>(stream.get_ref().1.peer_certificates().is_some())
    };
    let (kind, shown) = tokio::join!(connect, accept);
    let shown = shown.map_err(|error| error.to_string())?;
    Ok((kind.map_err(|error| error.to_string())?, shown))
}

#[tokio::test]
async fn in_25_no_session_outlives_its_connection() {
    let ca = Ca::new();
    let folder = folder(&ca);
    let server = config_of(&named(folder.path(), open)).unwrap();
    assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
    assert!(!server.ticketer.enabled() && !server.session_storage.can_cache());
    let server = Arc::new(server);
    for version in [&version::TLS12, &version::TLS13] {
        let client = Arc::new(client(&ca, None, &[version]));
        for round in 0..2 {
            let kind = shake(&server, &client).await.unwrap().0;
            assert_eq!(kind, HandshakeKind::Full, "{version:?}, round {round}");
        }
    }
}

#[tokio::test]
async fn in_25_client_certificates_are_of_the_named_cas_and_for_clients() {
    let (ca, other) = (Ca::new(), Ca::new());
    let folder = folder(&ca);
    let required = Arc::new(config_of(&named(folder.path(), ClientAuth::Required)).unwrap());
    let optional = Arc::new(config_of(&named(folder.path(), ClientAuth::Optional)).unwrap());
    let none = Arc::new(config_of(&named(folder.path(), open)).unwrap());
    let shake = async |server: &Arc<ServerConfig>, shows: Option<&Pair>, version| {
        shake(server, &Arc::new(client(&ca, shows, &[version]))).await.map(|(_, shown)| shown)
    };
    let (good, server) = (ca.issue(CLIENT), ca.issue(SERVER));
    let strange = other.issue(CLIENT);
    for version in [&version::TLS12, &version::TLS13] {
        for config in [&required, &optional] {
            assert_eq!(shake(config, Some(&good), version).await, Ok(true));
            let refused = shake(config, Some(&strange), version).await.unwrap_err();
            assert!(refused.contains("BadSignature"), "{refused}");
            let refused = shake(config, Some(&server), version).await.unwrap_err();
            assert!(refused.to_lowercase().contains("extended") || refused.contains("purpose"), "{refused}");
        }
        let refused = shake(&required, None, version).await.unwrap_err();
        assert!(refused.contains("no certificates"), "{refused}");
        assert_eq!(shake(&optional, None, version).await, Ok(false));
        assert_eq!(shake(&none, Some(&strange), version).await, Ok(false), "none is asked for");
    }
}

#[test]
fn a_client_ca_that_is_none_is_an_error() {
    let ca = Ca::new();
    let folder = folder(&ca);
    let named = named(folder.path(), ClientAuth::Required);
    let path = folder.path().join("ca.crt");
    for text in ["", "hello", &ca.issue(CLIENT).key] {
        fs::write(&path, text).unwrap();
        assert!(matches!(config_of(&named), Err(TlsError::ClientCa { .. })), "{text}");
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(config_of(&named), Err(TlsError::File { .. })));
}

/// Looks as the background does, and says whether another configuration is in use since.
fn look(keeper: &mut Keeper, live: &Live<Option<Arc<ServerConfig>>>) -> bool {
    let before = live.load().as_ref().clone();
    keeper.look();
    match (before, live.load().as_ref()) {
        (Some(before), Some(now)) => !Arc::ptr_eq(&before, now),
        (None, now) => now.is_some(),
        (Some(_), None) => panic!("a good configuration is gone"),
    }
}

#[test]
fn in_25_the_last_good_files_stay_and_broken_ones_are_never_used() {
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let (live, writer) = live(None);
    let named = named(folder.path(), ClientAuth::Optional);
    let mut keeper = Keeper { named, files: PolicyFiles::BesideDocument, writer, serves: false, seen: None };
    assert!(!look(&mut keeper, &live), "nothing is there");
    write(folder.path(), &ca.issue(SERVER));
    assert!(!look(&mut keeper, &live), "no client CA is there");
    fs::write(folder.path().join("ca.crt"), &ca.pem).unwrap();
    assert!(look(&mut keeper, &live), "all is there");
    assert!(!look(&mut keeper, &live), "nothing has changed");

    let next = ca.issue(SERVER);
    fs::write(folder.path().join("tls.crt"), &next.cert).unwrap();
    assert!(!look(&mut keeper, &live), "half a rotation");
    fs::write(folder.path().join("tls.key"), &next.key).unwrap();
    assert!(look(&mut keeper, &live), "the other half");
    fs::write(folder.path().join("ca.crt"), "half a certif").unwrap();
    assert!(!look(&mut keeper, &live), "a broken CA");
    fs::remove_file(folder.path().join("tls.key")).unwrap();
    assert!(!look(&mut keeper, &live), "a key that is gone");
    write(folder.path(), &next);
    fs::write(folder.path().join("ca.crt"), &Ca::new().pem).unwrap();
    assert!(look(&mut keeper, &live), "all is well again");
}

#[tokio::test(start_paused = true)]
async fn what_policy_names_is_kept_up_to_date_and_survives_a_reload() {
    let ca = Ca::new();
    let folder = folder(&ca);
    let one = named(folder.path(), open);
    let two = InboundTls { fingerprint: [2; 32], ..named(folder.path(), ClientAuth::Required) };
    let servers = TlsServers::new(PolicyFiles::BesideDocument, Handle::current());
    let first = servers.arm_all([&one, &two, &one].into_iter());
    assert_eq!(first.len(), 2);
    let served = first[&[1; 32]].config().expect("read at once");
    let gone = Arc::downgrade(&first[&[2; 32]]);

    let second = servers.arm_all([&one].into_iter());
    assert!(Arc::ptr_eq(&first[&[1; 32]], &second[&[1; 32]]), "read anew");
    let keeper = first[&[2; 32]].keeper.clone();
    drop(first);
    assert!(gone.upgrade().is_none(), "nobody names it any more");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(keeper.is_finished(), "somebody still looks at its files");

    write(folder.path(), &ca.issue(SERVER));
    for _ in 0..1000 {
        tokio::time::sleep(POLL).await;
        if !Arc::ptr_eq(&served, &second[&[1; 32]].config().unwrap()) {
            return;
        }
    }
    panic!("the new pair is never served");
}
