//! Real listeners on loopback, speaking raw bytes.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const LIMITS: Limits = Limits { timeout: Duration::from_secs(5), body: 1024 };

/// Answers every connection with these bytes and closes it. Returns its URL and what was received.
async fn raw_server(answer: impl Into<Vec<u8>>) -> (String, Arc<Mutex<String>>) {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys?x=1", listener.local_addr().unwrap());
    let received = Arc::new(Mutex::new(String::new()));
    let log = received.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer).await.unwrap();
            log.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..n]));
            let _ = stream.write_all(&answer).await;
        }
    });
    (url, received)
}

async fn fetch(url: &str, insecure: bool) -> Result<Response<Bytes>, FetchError> {
    let request = Request::get(url).body(Bytes::new()).unwrap();
    Fetcher::new(Connector::for_tests()).send(request, &Trust { insecure, ..Trust::default() }, LIMITS).await
}

#[tokio::test]
async fn an_answer_with_a_length_is_read() {
    let (url, received) = raw_server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let answer = fetch(&url, true).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"{}"[..]));
    let received = received.lock().unwrap().clone();
    assert!(received.starts_with("GET /keys?x=1 HTTP/1.1\r\n"), "{received}");
    assert!(received.contains("accept: application/json\r\n"), "{received}");
    assert!(received.contains("accept-encoding: identity\r\n"), "{received}");
    assert!(received.contains("host: 127.0.0.1:"), "{received}");
}

#[tokio::test]
async fn an_http_1_0_answer_ends_with_the_connection() {
    let (url, _) = raw_server("HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"a\":1}").await;
    assert_eq!(&fetch(&url, true).await.unwrap().body()[..], b"{\"a\":1}");
}

#[tokio::test]
async fn a_chunked_answer_is_read() {
    let (url, _) =
        raw_server("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n").await;
    assert_eq!(&fetch(&url, true).await.unwrap().body()[..], b"{}");
}

#[tokio::test]
async fn in_12_the_body_is_bounded_with_and_without_a_length() {
    let body = "x".repeat(1025);
    for head in [
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()),
        "HTTP/1.0 200 OK\r\n\r\n".into(),
    ] {
        let (url, _) = raw_server(format!("{head}{body}")).await;
        assert!(matches!(fetch(&url, true).await, Err(FetchError::TooLarge(1024))));
    }
}

#[tokio::test]
async fn in_12_a_compressed_answer_is_refused() {
    let (url, _) =
        raw_server("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}").await;
    assert!(matches!(fetch(&url, true).await, Err(FetchError::Encoding)));
    let (url, _) =
        raw_server("HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-length: 2\r\n\r\n{}").await;
    assert!(fetch(&url, true).await.is_ok());
}

#[tokio::test]
async fn out_4_a_redirect_is_an_answer_and_not_followed() {
    let (elsewhere, reached) = raw_server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let answer = format!("HTTP/1.1 302 Found\r\nlocation: {elsewhere}\r\ncontent-length: 0\r\n\r\n");
    let (url, _) = raw_server(answer).await;
    assert_eq!(fetch(&url, true).await.unwrap().status().as_u16(), 302);
    assert_eq!(*reached.lock().unwrap(), "");
}

#[tokio::test]
async fn in_12_the_whole_exchange_has_one_timeout() {
    // Sends a byte now and then, for ever.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _request = stream.read(&mut [0; 1024]).await.unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let limits = Limits { timeout: Duration::from_millis(200), body: 1024 };
    let request = Request::get(url).body(Bytes::new()).unwrap();
    let result = Fetcher::new(Connector::for_tests())
        .send(request, &Trust { insecure: true, ..Trust::default() }, limits)
        .await;
    assert!(matches!(result, Err(FetchError::Timeout(_))), "{result:?}");
}

#[tokio::test]
async fn what_is_no_http_is_an_error() {
    let (url, _) = raw_server("").await;
    assert!(matches!(fetch(&url, true).await, Err(FetchError::Closed)));
    for answer in ["HELLO\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}"] {
        let (url, _) = raw_server(answer).await;
        assert!(matches!(fetch(&url, true).await, Err(FetchError::Protocol)), "{answer:?}");
    }
}

#[tokio::test]
async fn a_body_is_sent_with_its_length() {
    let (url, received) = raw_server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let request = Request::post(&url).body(Bytes::from_static(b"a=b")).unwrap();
    Fetcher::new(Connector::for_tests())
        .send(request, &Trust { insecure: true, ..Trust::default() }, LIMITS)
        .await
        .unwrap();
    let received = received.lock().unwrap().clone();
    assert!(received.contains("content-length: 3\r\n") && received.ends_with("\r\n\r\na=b"), "{received}");
}

#[tokio::test]
async fn http_needs_consent_and_odd_urls_are_refused() {
    for (url, insecure) in [
        ("http://127.0.0.1:1/", false),
        ("ftp://127.0.0.1/", true),
        ("/relative", true),
        ("https://user:secret@127.0.0.1/", true),
        ("https://127.0.0.1:/", true),
    ] {
        assert!(matches!(fetch(url, insecure).await, Err(FetchError::Url(_))), "{url}");
    }
}

#[tokio::test]
async fn cp_8_a_metadata_address_is_refused() {
    let refused = fetch("http://169.254.169.254/latest/meta-data/", true).await;
    assert!(
        matches!(refused, Err(FetchError::Connect(ConnectError::ForbiddenAddress { .. }))),
        "{refused:?}"
    );
}

/// A TLS server on loopback with a fresh certificate for these names, offering these protocols. Returns its port and CA.
async fn tls_server(names: &[&str], alpn: &[&[u8]]) -> (u16, Bytes) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not trust us goes away here.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            // Without close_notify at the end, as some servers do.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        }
    });
    (port, Bytes::from(cert.pem()))
}

async fn fetch_tls(url: String, ca_pem: Option<Bytes>) -> Result<Response<Bytes>, FetchError> {
    let request = Request::get(url).body(Bytes::new()).unwrap();
    Fetcher::new(Connector::for_tests()).send(request, &Trust { ca_pem, ..Trust::default() }, LIMITS).await
}

#[tokio::test]
async fn c1_tls_is_verified_with_the_ca_file_and_for_the_name() {
    let (port, ca) = tls_server(&["localhost", "127.0.0.1"], &[]).await;
    for host in ["localhost", "127.0.0.1"] {
        let answer = fetch_tls(format!("https://{host}:{port}/"), Some(ca.clone())).await;
        assert_eq!(&answer.unwrap().body()[..], b"{}");
    }
    // Neither another CA nor another name, and the platform knows nothing of it.
    let (other_port, other_ca) = tls_server(&["issuer.example"], &[]).await;
    for (port, ca) in [(port, other_ca.clone()), (other_port, other_ca)] {
        let refused = fetch_tls(format!("https://localhost:{port}/"), Some(ca)).await;
        assert!(matches!(refused, Err(FetchError::Connect(ConnectError::Tls { .. }))), "{refused:?}");
    }
    let refused = fetch_tls(format!("https://localhost:{port}/"), None).await;
    assert!(
        matches!(refused, Err(FetchError::Connect(ConnectError::Tls { .. } | ConnectError::NoRoots))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn alpn_is_as_asked_for() {
    let (port, ca) = tls_server(&["localhost"], &[b"h2", b"http/1.1"]).await;
    let connector = Connector::for_tests();
    for (offer, agreed) in [(&[&b"h2"[..], b"http/1.1"][..], &b"h2"[..]), (&[b"http/1.1"], b"http/1.1")] {
        let config = connector.tls_config(Some(&ca), None, offer).unwrap();
        let tcp = connector.tcp("localhost", port, Guard::Open, Duration::from_secs(5)).await.unwrap();
        let tls = connector.tls(tcp, config, "localhost").await.unwrap();
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(agreed));
    }
}
