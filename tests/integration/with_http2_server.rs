//! What do many requests at once cost an HTTP/2 server of Node's, and do all of them come through? Few connections, none of which carries more
//! than the server allows (RFC 9113 §5.1.2).

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::support::authority::Authority;
use crate::support::policy::{Folder, document, open_policy};
use crate::support::ports::Port;
use crate::support::process::Process;
use crate::support::proxy::{Proxy, Settings};
use crate::support::{tools, wait_until};

struct World {
    proxy: Proxy,
    server: SocketAddr,
    process: Process,
    _folder: Folder,
}

// === impl World ===

impl World {
    fn new(server: &Value, folder: impl FnOnce(u16) -> Folder) -> Self {
        let (process, port) = tools::http2_server(server);
        let (server, folder) = (SocketAddr::from(([127, 0, 0, 1], port)), folder(port));
        let settings = Settings::policies(folder.path(), "orders").before(server);
        // One worker, whose connections they are.
        let proxy = settings.with(&["--workers", "1"]).start();
        Self { proxy, server, process, _folder: folder }
    }

    fn outbound_over_tls() -> Self {
        let authority = Authority::new();
        let pair = authority.server();
        let tls = json!({"cert": pair.certificate, "key": pair.key});
        Self::new(&json!({"tls": tls}), |port| {
            let out = json!({
                "name": "out", "to": {"hosts": ["localhost"], "ports": [port]}, "tls": "originate",
                "originate": {"caFile": "ca.crt", "port": port},
            });
            let spec = json!({"workloads": {"labels": {"app": "orders"}}, "rules": [out]});
            let policy = document("OutboundPolicy", "orders", &spec);
            Folder::with(&[("policy.yaml", &policy), ("ca.crt", &authority.pem())])
        })
    }
}

/// A road on which some connections get to the server, and the others are left waiting.
struct Road {
    port: Port,
    taken: Arc<AtomicUsize>,
}

// === impl Road ===

impl Road {
    /// `passes` tells of each, by how many there were before.
    fn to(server: SocketAddr, passes: fn(usize) -> bool) -> Self {
        let (port, taken) = (Port::lease(), Arc::<AtomicUsize>::default());
        let listener = TcpListener::bind(port.address()).unwrap();
        let count = taken.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // Who only looks whether somebody listens says nothing.
                if !matches!(near.peek(&mut [0]), Ok(1)) {
                    continue;
                }
                if !passes(count.fetch_add(1, Ordering::Relaxed)) {
                    thread::spawn(move || io::copy(&mut &near, &mut io::sink()));
                    continue;
                }
                let far = TcpStream::connect(server).unwrap();
                let ways = [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)];
                for (mut from, mut to) in ways {
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        to.shutdown(std::net::Shutdown::Both)
                    });
                }
            }
        });
        Self { port, taken }
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// A sidecar that speaks HTTP/2 to `localhost` on this port, whatever the caller speaks, and waits so long for a connection.
fn in_plain(port: u16, connect: &str) -> (Proxy, Folder) {
    let rule = json!({
        "name": "out", "to": {"hosts": ["localhost"], "ports": [port]}, "tls": "none", "protocol": "http2",
        "timeouts": {"connect": connect, "firstByte": "8s"},
    });
    let spec = json!({"workloads": {"labels": {"app": "orders"}}, "rules": [rule]});
    let folder = Folder::with(&[("policy.yaml", &document("OutboundPolicy", "orders", &spec))]);
    (Settings::policies(folder.path(), "orders").with(&["--workers", "1"]).start(), folder)
}

/// Status and body of answers to requests that go out together, a hundred on a connection.
fn ask(to: SocketAddr, authority: &str, path: &str, number: usize) -> Vec<(u16, String)> {
    // With a body, of which inbound nothing is kept.
    let order = Request::post(format!("http://{authority}{path}")).body(Full::from("order"));
    ask_all(to, &order.unwrap(), number)
}

fn ask_all(to: SocketAddr, request: &Request<Full<Bytes>>, number: usize) -> Vec<(u16, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut senders = Vec::new();
        for _ in 0..number.div_ceil(100) {
            let stream = tokio::net::TcpStream::connect(to).await.unwrap();
            let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            senders.push(sender);
        }
        join_all((0..number).map(|n| answered(senders[n / 100].clone(), request.clone()))).await
    })
}

async fn answered(mut sender: SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> (u16, String) {
    let answer = sender.send_request(request).await.expect("an answer");
    let status = answer.status().as_u16();
    (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

/// How many connections there have been by the last answer, where all are 200.
fn connections(answers: &[(u16, String)]) -> u64 {
    let failed = answers.iter().filter(|(status, _)| *status != 200).collect::<Vec<_>>();
    assert!(failed.is_empty(), "{} of {}: {failed:?}", failed.len(), answers.len());
    let said = answers.iter().map(|(_, body)| serde_json::from_str::<Value>(body).unwrap());
    said.map(|said| said["connections"].as_u64().unwrap()).max().unwrap()
}

const FEW: usize = 10;

#[test]
fn none_of_many_is_lost_inbound_where_the_application_allows_few_at_once() {
    let world = World::new(&json!({"streams": FEW}), |_| open_policy());
    for round in ["cold", "warm"] {
        let answers = ask(world.proxy.inbound(), "orders.shop", "/slow/50", 40);
        assert!(connections(&answers) <= 5, "{round}: {answers:?}");
    }
}

#[test]
fn none_of_many_is_lost_outbound_where_the_destination_allows_few_at_once() {
    let world = World::new(&json!({"streams": FEW}), |_| Folder::with(&[("policy.yaml", "")]));
    for round in ["cold", "warm"] {
        let answers = ask(world.proxy.outbound(), &world.server.to_string(), "/slow/50", 40);
        assert!(connections(&answers) <= 5, "{round}: {answers:?}");
    }
}

#[test]
fn many_at_once_over_tls_share_connections_as_soon_as_alpn_says_http2() {
    let world = World::outbound_over_tls();
    let to = format!("localhost:{}", world.server.port());
    let answers = ask(world.proxy.outbound(), &to, "/slow/300", 300);
    assert_eq!(connections(&answers), 4, "16 on the first, a hundred on others");
}

/// Lines that a server has printed about this.
fn said(process: &Process, what: &str) -> usize {
    process.stdout().lines().filter(|line| line.starts_with(what)).count()
}

#[test]
fn where_the_server_takes_no_other_connection_the_one_that_is_there_carries_what_it_allows() {
    let (process, port) = tools::http2_server(&json!({}));
    let road = Road::to(SocketAddr::from(([127, 0, 0, 1], port)), |before| before < 1);
    let (proxy, _folder) = in_plain(road.port.address().port(), "1s");
    let to = format!("localhost:{}", road.port.address().port());
    thread::scope(|scope| {
        let slow = scope.spawn(|| ask(proxy.outbound(), &to, "/slow/6000", 16));
        wait_until("all that one carries", Duration::from_secs(5), || said(&process, "/slow/6000") == 16);
        for number in 2..5 {
            let answers = ask(proxy.outbound(), &to, "/x", 2);
            assert_eq!((connections(&answers), slow.is_finished()), (1, false), "{number}");
        }
        assert!(road.taken() <= 3, "others than the first two were spared the wait");
        assert_eq!(connections(&slow.join().unwrap()), 1);
    });
}

#[test]
fn where_the_wide_one_has_ended_and_no_other_is_to_be_had_a_narrow_one_carries_what_comes() {
    let (process, port) = tools::http2_server(&json!({}));
    let road = Road::to(SocketAddr::from(([127, 0, 0, 1], port)), |before| before < 2);
    let (proxy, _folder) = in_plain(road.port.address().port(), "1s");
    let to = format!("localhost:{}", road.port.address().port());
    thread::scope(|scope| {
        scope.spawn(|| ask(proxy.outbound(), &to, "/slow/7000", 15));
        wait_until("the wide one", Duration::from_secs(5), || said(&process, "/slow/7000") == 15);
        scope.spawn(|| ask(proxy.outbound(), &to, "/end/1000", 1));
        wait_until("its end", Duration::from_secs(5), || said(&process, "/end") == 1);
        let slow = scope.spawn(|| ask(proxy.outbound(), &to, "/slow/6000", 3));
        wait_until("the narrow one", Duration::from_secs(5), || said(&process, "/slow/6000") == 3);
        wait_until("the end of the wide one", Duration::from_secs(5), || said(&process, "closed") == 1);
        assert_eq!(connections(&ask(proxy.outbound(), &to, "/x", 1)), 2);
        assert_eq!((connections(&slow.join().unwrap()), road.taken()), (2, 2));
    });
}

#[test]
fn who_waits_for_another_connection_takes_the_room_that_a_stream_leaves_on_the_one_that_there_is() {
    let (process, port) = tools::http2_server(&json!({"streams": FEW}));
    let road = Road::to(SocketAddr::from(([127, 0, 0, 1], port)), |before| before < 1);
    let (proxy, _folder) = in_plain(road.port.address().port(), "8s");
    let to = format!("localhost:{}", road.port.address().port());
    thread::scope(|scope| {
        let slow = scope.spawn(|| ask(proxy.outbound(), &to, "/slow/6000", FEW - 1));
        wait_until("all but one", Duration::from_secs(5), || said(&process, "/slow/6000") == FEW - 1);
        assert_eq!(connections(&ask(proxy.outbound(), &to, "/slow/100", 12)), 1);
        assert!(!slow.is_finished(), "one after the other, and none for the whole limit");
        assert_eq!(connections(&slow.join().unwrap()), 1);
    });
}

#[test]
fn where_there_are_as_many_connections_as_there_may_be_nobody_waits_for_a_certain_stream() {
    let (process, port) = tools::http2_server(&json!({"streams": 1}));
    let (proxy, _folder) = in_plain(port, "8s");
    let to = format!("localhost:{port}");
    thread::scope(|scope| {
        let slow = scope.spawn(|| ask(proxy.outbound(), &to, "/slow/6000", 1));
        wait_until("the slow one", Duration::from_secs(5), || said(&process, "/slow/6000") == 1);
        assert!(connections(&ask(proxy.outbound(), &to, "/slow/100", 80)) <= 16);
        assert!(!slow.is_finished());
        assert_eq!(slow.join().unwrap()[0].0, 200);
    });
}

/// One server of sixteen connections behind a balancer, so to say, has just died.
#[test]
fn attempts_to_connect_that_hang_do_not_keep_others_from_being_made() {
    let (process, port) = tools::http2_server(&json!({"streams": FEW}));
    let road = Road::to(SocketAddr::from(([127, 0, 0, 1], port)), |before| !(1..=16).contains(&before));
    let (proxy, _folder) = in_plain(road.port.address().port(), "8s");
    let to = format!("localhost:{}", road.port.address().port());
    thread::scope(|scope| {
        let slow = scope.spawn(|| ask(proxy.outbound(), &to, "/slow/7000", FEW));
        wait_until("all that one carries", Duration::from_secs(5), || said(&process, "/slow/7000") == FEW);
        assert!(connections(&ask(proxy.outbound(), &to, "/x", 150)) > 1);
        assert!(!slow.is_finished(), "before the hanging ones have come to their end");
        assert!(slow.join().unwrap().iter().all(|(status, _)| *status == 200));
    });
}

#[test]
fn who_asks_a_destination_that_hung_and_is_gone_hears_so_though_others_wait() {
    let port = Port::lease();
    let listener = TcpListener::bind(port.address()).unwrap();
    let (proxy, _folder) = in_plain(port.address().port(), "5s");
    let to = format!("localhost:{}", port.address().port());
    thread::scope(|scope| {
        let mut listener = Some(listener);
        let asking: Vec<_> = (0..80)
            .map(|number| {
                // Those whom it has left waiting end with it.
                if number == 30 {
                    drop(listener.take());
                }
                thread::sleep(Duration::from_millis(50));
                scope.spawn(|| ask(proxy.outbound(), &to, "/x", 1))
            })
            .collect();
        let statuses: Vec<_> = asking.into_iter().map(|one| one.join().unwrap()[0].0).collect();
        assert_eq!(statuses[40..], [502; 40], "{statuses:?}");
    });
}

/// As many do (`keepalive_requests`, `max_requests_per_connection`): GOAWAY names the last stream that was looked at.
#[test]
fn none_of_many_is_lost_where_a_connection_is_for_few_requests() {
    let (_process, port) = tools::http2_server(&json!({"requests": 3}));
    let (proxy, _folder) = in_plain(port, "8s");
    let request = Request::get(format!("http://localhost:{port}/slow/50")).body(Full::default()).unwrap();
    assert!(connections(&ask_all(proxy.outbound(), &request, 60)) >= 20);
}

/// Whoever comes meanwhile does not wait for it, and whoever comes then finds the one that there is.
#[test]
fn an_attempt_to_connect_that_hangs_costs_nobody_else_an_answer() {
    let (_process, port) = tools::http2_server(&json!({}));
    let road = Road::to(SocketAddr::from(([127, 0, 0, 1], port)), |before| before > 0);
    let (proxy, _folder) = in_plain(road.port.address().port(), "1s");
    let to = format!("localhost:{}", road.port.address().port());
    thread::scope(|scope| {
        let asking: Vec<_> = (0..40)
            .map(|_| {
                thread::sleep(Duration::from_millis(50));
                scope.spawn(|| ask(proxy.outbound(), &to, "/x", 1))
            })
            .collect();
        let statuses: Vec<_> = asking.into_iter().map(|one| one.join().unwrap()[0].0).collect();
        // Nor whose it was: there is another connection by then.
        assert_eq!(statuses, [200; 40]);
    });
    // Five came while nothing was known, and one for each of them was opened at most.
    assert!(road.taken() <= 8, "{}", road.taken());
}

/// 50 s without a request.
#[test]
fn a_connection_that_nobody_uses_is_closed() {
    let world = World::new(&json!({}), |_| Folder::with(&[("policy.yaml", "")]));
    assert_eq!(connections(&ask(world.proxy.outbound(), &world.server.to_string(), "/x", 1)), 1);
    thread::sleep(Duration::from_secs(40));
    assert_eq!(said(&world.process, "closed"), 0);
    wait_until("its end", Duration::from_secs(30), || said(&world.process, "closed") == 1);
}

/// What a server may send of an answer in a round trip, by the SETTINGS that it got on the connection.
fn window(answers: &[(u16, String)]) -> u64 {
    let [(200, body)] = answers else { panic!("{answers:?}") };
    serde_json::from_str::<Value>(body).unwrap()["window"].as_u64().unwrap()
}

#[test]
fn beside_many_streams_a_destination_may_send_64_kib_in_a_round_trip_and_the_application_8() {
    let out = World::new(&json!({}), |_| Folder::with(&[("policy.yaml", "")]));
    let within = World::new(&json!({}), |_| open_policy());
    let (destination, application) = (out.server.to_string(), "orders.shop".to_owned());
    let both = [
        (&out, out.proxy.outbound(), destination, 64 * 1024),
        (&within, within.proxy.inbound(), application, 8 * 1024),
    ];
    for (world, to, authority, narrow) in both {
        thread::scope(|scope| {
            assert_eq!(window(&ask(to, &authority, "/x", 1)), 256 * 1024);
            scope.spawn(|| ask(to, &authority, "/slow/3000", 16));
            wait_until("16", Duration::from_secs(5), || said(&world.process, "/slow/3000") == 16);
            assert_eq!(window(&ask(to, &authority, "/x", 1)), narrow, "{authority}");
        });
    }
}

#[test]
fn beside_a_connection_that_says_nothing_the_next_one_is_wide() {
    let (process, port) = tools::http2_server(&json!({}));
    let (proxy, _folder) = in_plain(port, "1s");
    let to = format!("localhost:{port}");
    thread::scope(|scope| {
        scope.spawn(|| ask(proxy.outbound(), &to, "/slow/4000", 1));
        wait_until("a stream that stays", Duration::from_secs(5), || said(&process, "/slow/4000") == 1);
        gone_after(proxy.outbound(), &format!("http://{to}/slow/3000"), Duration::from_millis(800));
        let answers = ask(proxy.outbound(), &to, "/x", 1);
        assert_eq!((window(&answers), connections(&answers)), (256 * 1024, 2));
    });
}

/// A caller that waits so long and no longer.
fn gone_after(to: SocketAddr, url: &str, patience: Duration) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (mut sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(url).body(Full::new(Bytes::new())).unwrap();
        let answer = tokio::time::timeout(patience, sender.send_request(request)).await;
        assert!(answer.is_err(), "{answer:?}");
    });
    // The sidecar hears of it.
    thread::sleep(Duration::from_millis(100));
}
