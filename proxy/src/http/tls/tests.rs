use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::Instant;

use super::*;
use crate::drain;

fn demand() -> Demand {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    Demand { settings: [0; 32], config: Some(Arc::new(config)) }
}

/// Meets the demand with what the far end does; the result is the one that was counted.
async fn met<F>(demand: Demand, far_end: impl FnOnce(DuplexStream) -> F) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let metrics = Metrics::new().unwrap();
    let (near, far) = duplex(64 * 1024);
    let (_signal, drain) = drain::channel();
    tokio::spawn(far_end(far));
    let met = demand.meet(near, drain, &metrics).await;
    let results = ["success", "failure", "timeout", "no_certificate"];
    let counted: Vec<_> = results
        .into_iter()
        .filter(|result| metrics.tls_handshakes.with_label_values(&[result]).get() == 1)
        .collect();
    assert_eq!(met.is_some(), counted == ["success"]);
    counted.join(" ")
}

#[tokio::test(start_paused = true)]
async fn in_24_a_handshake_that_takes_its_time_is_cut_off() {
    let began = Instant::now();
    let silent = |far| async move {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        drop(far);
    };
    assert_eq!(met(demand(), silent).await, "timeout");
    assert_eq!(began.elapsed().as_secs(), 10);
    let dribbles = |mut far: DuplexStream| async move {
        // The head of a record of 512 bytes, and of it one byte a second.
        let _ = far.write_all(&[22, 3, 1, 2, 0]).await;
        while far.write_all(&[1]).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let began = Instant::now();
    assert_eq!(met(demand(), dribbles).await, "timeout");
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_end_does_not_wait_for_a_handshake() {
    let (near, _far) = duplex(1024);
    let (signal, drain) = drain::channel();
    signal.start();
    let began = Instant::now();
    assert!(demand().meet(near, drain, &Metrics::new().unwrap()).await.is_none());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn in_25_plain_text_is_a_failed_handshake_and_gets_no_answer() {
    let (said, heard) = tokio::sync::oneshot::channel();
    let plain = |mut far: DuplexStream| async move {
        far.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = far.read_to_end(&mut answer).await;
        let _ = said.send(answer);
    };
    assert_eq!(met(demand(), plain).await, "failure");
    let answer = heard.await.unwrap();
    assert!(!answer.starts_with(b"HTTP") && answer.len() < 16, "{answer:?}");
}

#[tokio::test]
async fn in_25_without_files_the_connection_is_closed() {
    let demand = Demand { config: None, ..demand() };
    assert_eq!(met(demand, |_far| async {}).await, "no_certificate");
}
