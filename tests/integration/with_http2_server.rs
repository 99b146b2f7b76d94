//! What do many requests at once cost an HTTP/2 server of Node's, and do all of them come through? Few connections, none of which carries more
//! than the server allows (RFC 9113 §5.1.2).

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::support::authority::Authority;
use crate::support::policy::{Folder, document, open_policy};
use crate::support::process::Process;
use crate::support::proxy::{Proxy, Settings};
use crate::support::tools;

struct World {
    proxy: Proxy,
    server: SocketAddr,
    _process: Process,
    _folder: Folder,
}

// === impl World ===

impl World {
    fn new(server: &Value, more: &[&str], folder: impl FnOnce(u16) -> Folder) -> Self {
        let (process, port) = tools::http2_server(server);
        let (server, folder) = (SocketAddr::from(([127, 0, 0, 1], port)), folder(port));
        let settings = Settings::policies(folder.path(), "orders").before(server);
        // One worker, whose connections they are.
        let proxy = settings.with(&["--workers", "1"]).with(more).start();
        Self { proxy, server, _process: process, _folder: folder }
    }

    fn outbound_over_tls(rule: &Value) -> Self {
        let authority = Authority::new();
        let pair = authority.server();
        let tls = json!({"cert": pair.certificate, "key": pair.key});
        Self::new(&json!({"tls": tls}), &[], |port| {
            let mut out = json!({
                "name": "out", "to": {"hosts": ["localhost"], "ports": [port]}, "tls": "originate",
                "originate": {"caFile": "ca.crt", "port": port},
            });
            out.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
            let spec = json!({"workloads": {"labels": {"app": "orders"}}, "rules": [out]});
            let policy = document("OutboundPolicy", "orders", &spec);
            Folder::with(&[("policy.yaml", &policy), ("ca.crt", &authority.pem())])
        })
    }
}

/// Status and body of answers to requests that go out together, a hundred on a connection.
fn ask(to: SocketAddr, authority: &str, path: &str, number: usize) -> Vec<(u16, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut senders = Vec::new();
        for _ in 0..number.div_ceil(100) {
            let stream = tokio::net::TcpStream::connect(to).await.unwrap();
            let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            senders.push(sender);
        }
        let url = format!("http://{authority}{path}");
        join_all((0..number).map(|n| answered(senders[n / 100].clone(), &url))).await
    })
}

/// With a body, of which inbound nothing is kept.
async fn answered(mut sender: SendRequest<Full<Bytes>>, url: &str) -> (u16, String) {
    let request = Request::post(url).body(Full::from("order")).unwrap();
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
    let world = World::new(&json!({"streams": FEW}), &[], |_| open_policy());
    for round in ["cold", "warm"] {
        let answers = ask(world.proxy.inbound(), "orders.shop", "/slow/50", 40);
        assert!(connections(&answers) <= 5, "{round}: {answers:?}");
    }
}

#[test]
fn none_of_many_is_lost_outbound_where_the_destination_allows_few_at_once() {
    let world = World::new(&json!({"streams": FEW}), &[], |_| Folder::with(&[("policy.yaml", "")]));
    for round in ["cold", "warm"] {
        let answers = ask(world.proxy.outbound(), &world.server.to_string(), "/slow/50", 40);
        assert!(connections(&answers) <= 5, "{round}: {answers:?}");
    }
}

#[test]
fn many_at_once_over_tls_share_connections_as_soon_as_alpn_says_http2() {
    let world = World::outbound_over_tls(&json!({}));
    let to = format!("localhost:{}", world.server.port());
    let answers = ask(world.proxy.outbound(), &to, "/slow/300", 300);
    assert_eq!(connections(&answers), 4, "16 on the first, a hundred on others");
}
