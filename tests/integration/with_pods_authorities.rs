//! For whom is each request of one redirected connection? HTTP/1.1 and HTTP/2 that name one host after another, and canaries
//! that record what comes to them.

use std::net::SocketAddr;

use serde_json::json;

use crate::support::meshed::{Meshed, Recorder, issuer};
use crate::support::pair::rule;
use crate::support::pods::{As, Net, Pod};
use crate::support::policy::{Folder, credential, document};

const HTTP1: u16 = 8080;
const HTTP2: u16 = 8081;

/// curl keeps its connection, whatever `Host` says, until a refusal ends it.
fn by_http1(pod: &Pod, authorities: &[String]) -> Vec<u16> {
    let mut arguments = vec!["-q".to_owned()];
    for (number, authority) in authorities.iter().enumerate() {
        if number > 0 {
            arguments.push("--next".to_owned());
        }
        let each = ["--silent", "--noproxy", "*", "--max-time", "10", "-o", "/dev/null"];
        arguments.extend(each.map(str::to_owned));
        arguments.extend(["-w", "%{http_code} %{num_connects}\n"].map(str::to_owned));
        arguments.extend(["-H".to_owned(), format!("Host: {authority}")]);
        arguments.push(format!("http://a.shop.test:{HTTP1}/{number}"));
    }
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = pod.run(As::Application, "curl", &arguments);
    let mut before = None;
    let answered = done.stdout.lines().map(|line| {
        let (status, connects) = line.split_once(' ').expect("a status");
        let is_new = before.is_none_or(|before| before == 403);
        assert_eq!(connects, if is_new { "1" } else { "0" }, "{done:?}");
        let status = status.parse().expect("a status");
        before = Some(status);
        status
    });
    answered.collect()
}

/// A session of Node is one connection.
fn by_http2(pod: &Pod, at: &SocketAddr, authorities: &[String]) -> Vec<u16> {
    let settings = json!({"at": at.to_string(), "authorities": authorities}).to_string();
    let client = include_str!("../servers/http2-client.mjs");
    let done = pod.run(As::Application, "node", &["--input-type=module", "--eval", client, &settings]);
    assert_eq!(done.code, Some(0), "{done:?}");
    done.stdout.lines().map(|status| status.parse().expect("a status")).collect()
}

#[test]
fn out_1_each_request_of_one_connection_is_judged_for_itself() {
    let net = Net::with_pods(1);
    let [pod] = &net.pods[..] else { panic!() };
    let (_issuer, url) = issuer(&net.world, "203.0.113.1");
    pod.hosts(
        "127.0.0.1 localhost\n203.0.113.10 a.shop.test twin.shop.test\n203.0.113.11 b.shop.test\n\
         203.0.113.10 x.wild.test\n203.0.113.11 y.wild.test\n",
    );
    let ports = [HTTP1, HTTP2];
    let mut wild = rule("wild", &["*.wild.test"], &ports);
    wild["sameAudience"] = json!(true);
    let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "rules": [
        rule("a", &["a.shop.test"], &ports), rule("b", &["b.shop.test"], &ports), wild,
    ]});
    let policy = document("Issuer", "corp", &json!({"issuer": url, "insecure": true}))
        + &credential()
        + &document("OutboundPolicy", "checkout", &spec);
    let folder = Folder::with(&[("policy.yaml", &policy), ("client-secret", "checkout-secret")]);
    let checkout = Meshed::start(pod, folder.path(), "checkout", &[]);
    let places = |port: u16| {
        ["203.0.113.10", "203.0.113.11"]
            .map(|at| format!("{at}:{port}").parse::<SocketAddr>().expect("an address"))
    };
    // All of it over one connection to the address of `a`, as far as that goes. What is named; what is answered; does a token go
    // along?
    let requests = [
        ("a.shop.test", 200, Some(true)),
        ("b.shop.test", 403, None),
        ("c.shop.test", 200, Some(false)),
        ("a.shop.test", 200, Some(true)),
        ("x.wild.test", 200, Some(true)),
        ("y.wild.test", 403, None),
        ("twin.shop.test", 200, Some(false)),
        ("203.0.113.10", 200, Some(false)),
        ("203.0.113.11", 200, Some(false)),
        ("b.shop.test", 403, None),
        ("A.Shop.Test.", 200, Some(true)),
    ];
    let expected: Vec<u16> = requests.iter().map(|(_, status, _)| *status).collect();
    for (port, canaries) in [
        (HTTP1, Recorder::start(&net.world, &places(HTTP1))),
        (HTTP2, Recorder::start_http2(&net.world, &places(HTTP2))),
    ] {
        let authorities: Vec<_> = requests.iter().map(|(host, ..)| format!("{host}:{port}")).collect();
        let answered = match port {
            HTTP1 => by_http1(pod, &authorities),
            _ => by_http2(pod, &places(port)[0], &authorities),
        };
        assert_eq!(answered, expected, "{port}: {}", checkout.log());

        let seen = canaries.seen();
        let expected: Vec<_> = requests
            .iter()
            .enumerate()
            .filter_map(|(number, (host, _, token))| {
                Some((format!("/{number}"), format!("{host}:{port}"), (*token)?))
            })
            .collect();
        let came: Vec<_> = seen
            .iter()
            .map(|request| {
                assert_eq!(
                    request["at"],
                    format!("203.0.113.10:{port}").as_str(),
                    "for somebody else: {request}"
                );
                let headers = &request["headers"];
                let host = headers.get("host").or(headers.get(":authority")).and_then(|host| host.as_str());
                let token = headers.get("authorization").is_some();
                let path = request["url"].as_str().expect("a path").to_owned();
                (path, host.expect("a host").to_owned(), token)
            })
            .collect();
        assert_eq!(came, expected, "{seen:#?}");
    }
}
