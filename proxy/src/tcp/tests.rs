use std::io;
use std::sync::Arc;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::drain::Signal;

/// A client and a server with a relay between them.
struct Between {
    client: TcpStream,
    server: TcpStream,
    relayed: JoinHandle<Relayed>,
    signal: Signal,
    metrics: Arc<Metrics>,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (one.unwrap(), other.unwrap().0)
}

async fn between(said: &'static [u8], idle: Duration) -> Between {
    let ((client, near), (far, server)) = (pair().await, pair().await);
    let (signal, drain) = drain::channel();
    let metrics = Metrics::new().unwrap();
    let meters = Meters::new(&metrics, Direction::Outbound);
    let relayed =
        tokio::spawn(
            async move { relay_after(Bytes::from_static(said), near, far, drain, idle, &meters).await },
        );
    Between { client, server, relayed, signal, metrics }
}

impl Between {
    async fn end(self) -> Relayed {
        timeout(SOON, self.relayed).await.expect("the relay ends").unwrap()
    }

    fn counted(&self) -> (u64, u64) {
        let of = |flow| self.metrics.tcp_bytes.with_label_values(&["outbound", flow]).get();
        (of("sent"), of("received"))
    }
}

/// Fails with `ConnectionReset`, soon.
async fn assert_reset(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("it hears of the reset");
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// Sends until nothing more is taken.
async fn fill(stream: &mut TcpStream) -> usize {
    let (mut sent, piece) = (0, vec![7; 64 * 1024]);
    while let Ok(written) = timeout(Duration::from_millis(300), stream.write(&piece)).await {
        sent += written.unwrap();
    }
    sent
}

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn much_and_little_arrive_as_they_were_sent_both_ways_at_once() {
    let mut between = between(b"before ", NEVER).await;
    let sent = |seed: u32| -> Vec<u8> {
        (0..5_000_000_u32).map(|n| u8::try_from(((n * seed) >> 7) & 0xff).unwrap()).collect()
    };
    let (up, down) = (sent(31), sent(77));
    let side = |mut stream: TcpStream, said: Vec<u8>| async move {
        let (mut reader, mut writer) = stream.split();
        let writes = async {
            let (little, much) = said.split_at(1000);
            for piece in little.chunks(7) {
                writer.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            writer.write_all(much).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let ((), read) = tokio::join!(writes, reader.read_to_end(&mut heard));
        read.unwrap();
        heard
    };
    let (client, server) = (between.client, between.server);
    let (to_client, to_server) = tokio::join!(side(client, up.clone()), side(server, down.clone()));
    assert!(to_client == down && to_server == [b"before ".as_slice(), &up].concat());
    (between.client, between.server) = pair().await;
    assert_eq!(between.counted(), (5_000_007, 5_000_000));
    assert_eq!(between.end().await, Relayed { up: 5_000_007, down: 5_000_000, end: End::Finished });
}

#[tokio::test]
async fn one_side_may_end_and_go_on_listening() {
    for client_first in [true, false] {
        let mut between = between(b"", NEVER).await;
        let (first, last) = match client_first {
            true => (&mut between.client, &mut between.server),
            false => (&mut between.server, &mut between.client),
        };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        let mut heard = String::new();
        timeout(SOON, last.read_to_string(&mut heard)).await.expect("the end arrives").unwrap();
        assert_eq!(heard, "question");
        last.write_all(b"a late answer").await.unwrap();
        let mut answer = [0; 13];
        first.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"a late answer");
        assert!(timeout(Duration::from_millis(50), first.read(&mut answer)).await.is_err(), "it goes on");
        last.shutdown().await.unwrap();
        assert_eq!(first.read(&mut answer).await.unwrap(), 0);
        assert_eq!(between.end().await.end, End::Finished);
    }
}

#[tokio::test]
async fn a_reset_of_one_side_resets_the_other() {
    for of_client in [true, false] {
        let mut between = between(b"", NEVER).await;
        between.client.write_all(b"hello").await.unwrap();
        between.server.read_exact(&mut [0; 5]).await.unwrap();
        let (spare, _other) = pair().await;
        let (broken, left) = match of_client {
            true => (&mut between.client, &mut between.server),
            false => (&mut between.server, &mut between.client),
        };
        let broken = std::mem::replace(broken, spare);
        reset(&broken);
        drop(broken);
        assert_reset(left).await;
        assert_eq!(between.end().await.end, End::Broken);
    }
}

/// Nothing is read of the side that breaks off, and nothing written to it.
#[tokio::test]
async fn a_reset_is_heard_while_the_other_side_takes_nothing_and_after_an_end() {
    for is_full in [true, false] {
        let Between { mut client, mut server, relayed, .. } = between(b"", NEVER).await;
        if is_full {
            fill(&mut client).await;
        } else {
            client.shutdown().await.unwrap();
            assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
        }
        reset(&client);
        drop(client);
        let relayed = timeout(SOON, relayed).await.expect("the relay ends").unwrap();
        assert_eq!(relayed.end, End::Broken, "{is_full}");
        if is_full {
            assert_reset(&mut server).await;
        } else {
            // After an end there is no more to read; what is written finds nobody.
            timeout(SOON, async { while server.write_all(b"x").await.is_ok() {} }).await.unwrap();
        }
    }
}

#[tokio::test]
async fn who_does_not_read_holds_up_who_sends_and_nothing_is_lost() {
    let Between { mut client, mut server, relayed, .. } = between(b"", NEVER).await;
    let sent = fill(&mut client).await;
    assert!(sent < 32 * 1024 * 1024, "{sent} bytes went nowhere");
    // The other direction is free.
    server.write_all(b"wait").await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    timeout(SOON, server.read_to_end(&mut heard)).await.unwrap().unwrap();
    assert!(heard.len() == sent && heard.iter().all(|byte| *byte == 7));
    drop(server);
    assert_eq!(relayed.await.unwrap().end, End::Finished);
}

#[tokio::test]
async fn silence_ends_it_where_there_is_a_limit_and_a_reset_says_so() {
    let idle = Duration::from_millis(400);
    let mut between = between(b"", idle).await;
    let started = Instant::now();
    for _ in 0..6 {
        between.client.write_all(b".").await.unwrap();
        between.server.read_exact(&mut [0; 1]).await.unwrap();
        tokio::time::sleep(idle / 2).await;
    }
    assert!(!between.relayed.is_finished(), "{:?}", started.elapsed());
    assert_reset(&mut between.client).await;
    assert_reset(&mut between.server).await;
    assert_eq!(between.end().await.end, End::Idle);
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_it_go_on_for_as_long_as_there_is_time() {
    let mut between = between(b"", NEVER).await;
    let started = Instant::now();
    between.signal.start();
    between.client.write_all(b"still").await.unwrap();
    between.server.read_exact(&mut [0; 5]).await.unwrap();
    assert!(between.signal.wait(drain::LIMIT).await, "it ends by itself, in time");
    assert!(started.elapsed() >= drain::LIMIT / 2, "{:?}", started.elapsed());
    assert_reset(&mut between.client).await;
    assert_eq!(between.end().await.end, End::Draining);
}

#[tokio::test]
async fn what_is_given_up_does_not_look_complete() {
    let mut between = between(b"", NEVER).await;
    between.client.write_all(b"half").await.unwrap();
    between.server.read_exact(&mut [0; 4]).await.unwrap();
    between.relayed.abort();
    assert_reset(&mut between.server).await;
    assert_reset(&mut between.client).await;
}

/// TLS that ends here; an end of TCP without an end of TLS is a cut (RFC 8446 §6.1).
#[tokio::test]
async fn tls_ends_where_its_sender_says_so_and_is_cut_where_not() {
    let made = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let served = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let trusted = crate::connect::Connector::for_tests()
        .tls_config(Some(made.cert.pem().as_bytes()), None, &[])
        .unwrap();
    for is_whole in [true, false] {
        let ((client, near), (far, mut server)) = (pair().await, pair().await);
        let (_signal, drain) = drain::channel();
        let meters = Meters::new(&Metrics::new().unwrap(), Direction::Inbound);
        let acceptor = TlsAcceptor::from(Arc::new(served.clone()));
        let relayed = tokio::spawn(async move {
            relay(Box::new(acceptor.accept(near).await.unwrap()), far, drain, NEVER, &meters).await
        });
        let name = ServerName::try_from("a").unwrap();
        let mut client = TlsConnector::from(trusted.clone()).connect(name, client).await.unwrap();
        let said = vec![3; 1_000_000];
        let mut heard = vec![0; said.len()];
        let (written, read) = tokio::join!(client.write_all(&said), server.read_exact(&mut heard));
        written.unwrap();
        read.unwrap();
        assert!(heard == said);
        if is_whole {
            client.shutdown().await.unwrap();
            assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
            server.write_all(b"answer").await.unwrap();
            server.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "answer");
            assert_eq!(relayed.await.unwrap().end, End::Finished);
        } else {
            client.get_mut().0.shutdown().await.unwrap();
            assert_reset(&mut server).await;
            assert_eq!(relayed.await.unwrap().end, End::Broken);
        }
    }
}
