//! Is a service followed where connections are redirected? dnsmasq in the application's pod, a service that moves, and a
//! nameserver that is gone, all of it under load.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::meshed::{Meshed, Recorder, curl, issuer};
use crate::support::nameserver::Nameserver;
use crate::support::pair::rule;
use crate::support::pods::{As, Net, Pod};
use crate::support::policy::{Folder, credential, document};
use crate::support::process::Process;
use crate::support::tls::Ca;
use crate::support::wait_until;

const RESOLV_CONF: &str = "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n";
/// Seconds.
const TTL: u32 = 2;
const OLD: &str = "203.0.113.71";
const NEW: &str = "203.0.113.72";

/// A sidecar whose nameserver is dnsmasq, and a world around it.
struct Shop {
    checkout: Meshed,
    dns: Nameserver,
    _issuer: Process,
    _folder: Folder,
    net: Net,
}

impl Shop {
    /// With these rules, and these lines of what the nameserver says.
    fn open(rules: &serde_json::Value, files: &[(&str, &str)], hosts: &str) -> Self {
        let net = Net::with_pods(1);
        let pod = &net.pods[0];
        let (issuer, url) = issuer(&net.world, "203.0.113.1");
        pod.resolve_by(RESOLV_CONF);
        let dns = Nameserver::start_in(pod, TTL, hosts);
        let folder = policies(&url, rules, "pass");
        for (name, text) in files {
            folder.write(name, text);
        }
        let checkout = Meshed::start(pod, folder.path(), "checkout", &[]);
        Self { checkout, dns, _issuer: issuer, _folder: folder, net }
    }

    fn pod(&self) -> &Pod {
        &self.net.pods[0]
    }
}

/// These rules, for who is run as `checkout`.
fn policies(issuer: &str, rules: &serde_json::Value, egress: &str) -> Folder {
    let spec = json!({"workloads": {"labels": {"app": "checkout"}}, "rules": rules, "egress": egress});
    let policy = document("Issuer", "corp", &json!({"issuer": issuer, "insecure": true}))
        + &credential()
        + &document("OutboundPolicy", "checkout", &spec);
    Folder::with(&[("policy.yaml", &policy), ("client-secret", "checkout-secret")])
}

/// An application that knows an address and goes on asking there, each time by another connection. A line for each answer.
struct Load(Process);

impl Load {
    fn start(pod: &Pod, at: &str) -> Self {
        let mut command = pod.own(As::Application, "countersign-witness");
        command.args(["load", &format!("{at}:8080"), "orders.shop.test:8080"]);
        Self(Process::spawn("countersign-witness", &mut command))
    }

    fn answers(&self) -> Vec<String> {
        let out = self.0.stdout();
        let whole = out.rfind('\n').map_or("", |end| &out[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// So many more answers have come.
    fn goes_on(&self, count: usize) {
        let before = self.answers().len();
        wait_until("answers", Duration::from_secs(10), || self.answers().len() >= before + count);
    }
}

#[test]
fn a_moved_service_is_followed_within_its_ttl_and_an_outage_fails_no_connection() {
    let line = |at: &str| format!("{at} orders.shop.test\n");
    let rules = json!([rule("orders", &["orders.shop.test"], &[8080])]);
    let mut shop = Shop::open(&rules, &[], &line(OLD));
    let places = [OLD, NEW].map(|at| format!("{at}:8080").parse().unwrap());
    let recorder = Recorder::start(&shop.net.world, &places);
    let [old, new] = [OLD, NEW].map(|at| Load::start(shop.pod(), at));
    old.goes_on(50);
    new.goes_on(50);
    // Where the service is not (yet), its name is worth nothing.
    assert!(new.answers().iter().all(|answer| answer == "200 bare"), "{:?}", new.answers());

    let moved = Instant::now();
    shop.dns.say(&line(NEW));
    wait_until("a token for the new place", Duration::from_secs(10), || {
        new.answers().last().is_some_and(|answer| answer == "200 token")
    });
    let followed = moved.elapsed();
    assert!(followed < Duration::from_secs(TTL.into()) + Duration::from_millis(700), "after {followed:?}");

    // Nobody answers: everything goes on as before.
    let unanswered = |shop: &Shop| shop.checkout.scrape().sum("countersign_names_unanswered", &[]);
    shop.dns.stop();
    wait_until("trouble that is told", Duration::from_secs(15), || unanswered(&shop) > 0.0);
    std::thread::sleep(Duration::from_secs(u64::from(TTL) + 1));
    old.goes_on(50);
    new.goes_on(50);
    shop.dns.restart(&line(NEW));
    wait_until("the end of trouble", Duration::from_secs(15), || unanswered(&shop) == 0.0);
    old.goes_on(50);
    new.goes_on(50);

    // For ten minutes the old place counts as well, as one of a name that goes round; the new one since it was followed.
    let (at_old, at_new) = (old.answers(), new.answers());
    let failed: Vec<_> = at_old.iter().filter(|answer| *answer != "200 token").collect();
    assert!(failed.is_empty(), "{failed:?}");
    let since = at_new.iter().position(|answer| answer == "200 token").expect("it was followed");
    // Four clients: what was asked before may be answered after.
    let (before, after) = at_new.split_at(since + 8);
    assert!(before.iter().all(|answer| answer.starts_with("200 ")), "{before:?}");
    assert!(after.iter().all(|answer| answer == "200 token"), "{after:?}");
    let rejected = [("direction", "outbound"), ("decision", "reject")];
    assert_eq!(shop.checkout.scrape().sum("countersign_requests_total", &rejected), 0.0);
    assert!(recorder.seen().len() >= at_old.len() + at_new.len());
    eprintln!("followed after {followed:?}, {} and {} requests", at_old.len(), at_new.len());
}

/// By TLS of the sidecar the token goes to where the name is now, whatever address the application still has.
#[test]
fn where_the_sidecar_speaks_tls_the_old_place_gets_no_token_once_the_service_moved() {
    let ca = Ca::new("world");
    let pair = ca.server();
    let mut secure = rule("orders", &["orders.shop.test"], &[8080]);
    secure["tls"] = json!("originate");
    secure["originate"] = json!({"caFile": "ca.crt", "serverName": "localhost"});
    let line = |at: &str| format!("{at} orders.shop.test\n");
    let shop = Shop::open(&json!([secure]), &[("ca.crt", &ca.pem)], &line(OLD));
    let Shop { checkout, mut dns, _issuer, _folder, net } = shop;
    let places = [OLD, NEW].map(|at| format!("{at}:8080").parse().unwrap());
    let recorder = Recorder::start_tls(&net.world, &places, &pair.cert, &pair.key);
    let to_old = ["--connect-to", &format!("::{OLD}:8080"), "http://orders.shop.test:8080/x"];
    // Who got it, and with a token?
    let ask = || {
        let (status, output) = curl(&net.pods[0], &to_old);
        assert_eq!(status, 200, "{output}\n{}", checkout.log());
        let last = recorder.seen().pop().expect("a request");
        let token =
            last["headers"]["authorization"].as_str().is_some_and(|token| token.starts_with("Bearer "));
        assert!(token, "{last}");
        last["at"].as_str().expect("a place").to_owned()
    };
    assert_eq!(ask(), format!("{OLD}:8080"));
    dns.say(&line(NEW));
    // A connection that is open stays in use; Node ends one that has been idle for 5 s. The next goes where the name is now.
    std::thread::sleep(Duration::from_millis(6500));
    for _ in 0..20 {
        assert_eq!(ask(), format!("{NEW}:8080"), "never back to the old place");
    }
}

/// An answer that is too long for a datagram is asked for by TCP. Run as root the sidecar is known by its mark alone; a
/// question that came back to it would be refused, since no rule names the nameserver.
#[test]
fn out_12_questions_by_tcp_are_not_redirected_to_the_sidecar_that_puts_them() {
    let net = Net::with_pods(1);
    let [pod] = &net.pods[..] else { panic!() };
    let (_issuer, url) = issuer(&net.world, "203.0.113.1");
    pod.resolve_by(&format!("nameserver {}\noptions timeout:1 attempts:2\n", net.world.v4));
    let hosts: String = (100..160).map(|last| format!("203.0.113.{last} orders.shop.test\n")).collect();
    let _dns = Nameserver::start_terse(&net.world, TTL, &hosts);
    let folder = policies(&url, &json!([rule("orders", &["orders.shop.test"], &[8080])]), "deny");
    let checkout = Meshed::start_as(As::Root, pod, folder.path(), "checkout", &[]);
    let places = ["203.0.113.100:8080", "203.0.113.159:8080", "203.0.113.99:8080"];
    let recorder = Recorder::start(&net.world, &places.map(|at| at.parse().unwrap()));
    for (at, expected) in places.into_iter().zip([200, 200, 0]) {
        let (status, output) =
            curl(pod, &["--connect-to", &format!("::{at}"), "http://orders.shop.test:8080/x"]);
        assert_eq!(status, expected, "{at}: {output}\n{}", checkout.log());
    }
    let seen = recorder.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.iter().all(|request| request["headers"].get("authorization").is_some()), "{seen:?}");
    let refused = checkout.access_log();
    let to_nameserver = format!("{}:53", net.world.v4);
    assert!(refused.iter().all(|line| line["host"] != to_nameserver.as_str()), "{refused:?}");
}
