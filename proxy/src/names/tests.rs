use std::borrow::Cow;
use std::path::Path;

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;

use super::zone::{Says, Trouble, Zone};
use super::*;

fn names(folder: &Path, resolv_conf: &str, hosts: &str, port: u16) -> Names {
    let files = Files { resolv_conf: folder.join("resolv.conf"), hosts: folder.join("hosts"), port };
    std::fs::write(&files.resolv_conf, resolv_conf).unwrap();
    std::fs::write(&files.hosts, hosts).unwrap();
    Names::of(files, Handle::current(), Metrics::new().unwrap()).unwrap()
}

const KUBERNETES: &str = "nameserver 127.0.0.1\n\
    search shop.svc.cluster.local svc.cluster.local. Cluster.Local\noptions ndots:5\n";

#[tokio::test]
async fn a_name_stands_for_itself_and_for_what_the_search_path_makes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let kubernetes = names(folder.path(), KUBERNETES, "", 9);
    let full = |name: &'static str| kubernetes.full_names(name).map(Cow::into_owned).collect::<Vec<_>>();
    let orders =
        ["orders", "orders.shop.svc.cluster.local", "orders.svc.cluster.local", "orders.cluster.local"];
    assert_eq!(full("orders"), orders);
    assert_eq!(full("orders.shop")[2], "orders.shop.svc.cluster.local");
    assert_eq!(full("orders.shop.svc")[3], "orders.shop.svc.cluster.local");
    assert_eq!(full("orders."), ["orders"], "a trailing dot: it is complete");
    assert_eq!(full("a.b.c.d.e.f"), ["a.b.c.d.e.f"], "as many dots as ndots");
    for alone in ["127.0.0.1", "[::1]", "localhost", "web.localhost"] {
        assert_eq!(full(alone), [alone]);
    }
    let long = format!("{0}.{0}.{0}.{0}", "a".repeat(58));
    assert_eq!(kubernetes.full_names(&long).count(), 3, "253 bytes are the most");
    assert!(matches!(kubernetes.full_names("orders").next(), Some(Cow::Borrowed(_))));

    let plain = names(folder.path(), "nameserver 127.0.0.1\n", "", 9);
    assert_eq!(plain.full_names("orders").count(), 1);
}

// === what servers say ===

const RESOLV_CONF: &str = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
const LIMIT: Duration = Duration::from_secs(10);

struct World {
    zone: Zone,
    names: Names,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self::with(RESOLV_CONF, "")
    }

    fn with(resolv_conf: &str, hosts: &str) -> Self {
        let (zone, folder) = (Zone::start(), tempfile::tempdir().unwrap());
        let names = names(folder.path(), resolv_conf, hosts, zone.port);
        Self { zone, names, folder }
    }

    async fn addresses(&self, host: &str) -> Vec<String> {
        let found = self.names.addresses(host, LIMIT).await.unwrap();
        let mut found: Vec<_> = found.iter().map(IpAddr::to_string).collect();
        found.sort();
        found
    }

    fn keep(&self, hosts: &[&str]) -> Vec<Arc<str>> {
        let hosts: Vec<Arc<str>> = hosts.iter().map(|host| (*host).into()).collect();
        self.names.keep(hosts.iter().cloned());
        hosts
    }

    /// Waits until the name has been asked for so often.
    async fn asked(&self, host: &str, times: usize) {
        let start = Instant::now();
        while self.zone.asked(host) < times {
            assert!(start.elapsed() < LIMIT, "{host} was asked for {} times", self.zone.asked(host));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

#[tokio::test]
async fn both_families_are_asked_for_and_odd_addresses_are_left_out() {
    let world = World::new();
    let odd = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
        "fe80::1",
    ];
    let good = ["10.0.0.1", "2001:db8::1", "::ffff:10.0.0.2"];
    world.zone.say("orders.example", Says::these(&[&odd[..], &good[..]].concat(), 30));
    assert_eq!(world.addresses("orders.example").await, ["10.0.0.1", "10.0.0.2", "2001:db8::1"]);
    world.zone.say("odd.example", Says::these(&odd, 30));
    assert_eq!(world.names.addresses("odd.example", LIMIT).await, Err(NameError::Absent));
    assert!(!world.names.agrees("odd.example", ip("127.0.0.1")).await, "rebinding");
}

#[tokio::test]
async fn answers_are_bounded_in_number() {
    let world = World::new();
    // As many as fit into one datagram of 1232 bytes.
    let many: Vec<String> = (0..72).map(|number| format!("10.0.1.{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    world.zone.say("many.example", Says::these(&many, 30));
    assert_eq!(world.addresses("many.example").await.len(), answer::MAX_ADDRESSES);
}

#[tokio::test]
async fn one_family_that_fails_does_not_fail_the_name() {
    let world = World::with("nameserver 127.0.0.1\noptions timeout:5 attempts:1\n", "");
    for (host, silent) in [("a.example", RecordType::AAAA), ("b.example", RecordType::A)] {
        let says = Says { silent: Some(silent), ..Says::these(&["10.0.0.1", "2001:db8::1"], 30) };
        world.zone.say(host, says);
        let start = Instant::now();
        assert_eq!(world.addresses(host).await.len(), 1, "{host}");
        assert!(start.elapsed() < Duration::from_secs(3), "the other family has but a moment");
    }
}

#[tokio::test]
async fn an_answer_is_kept_for_its_ttl_and_that_of_the_way_to_it() {
    let world = World::new();
    world.zone.say("long.example", Says::these(&["10.0.0.1"], 30));
    let alias = Some(("target.example.", 1));
    world.zone.say("short.example", Says { alias, ..Says::these(&["10.0.0.2"], 30) });
    for _ in 0..20 {
        world.addresses("long.example").await;
        world.addresses("short.example").await;
    }
    assert_eq!((world.zone.asked("long.example"), world.zone.asked("short.example")), (2, 2));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.addresses("long.example").await;
    world.addresses("short.example").await;
    assert_eq!((world.zone.asked("long.example"), world.zone.asked("short.example")), (2, 4));
}

#[tokio::test]
async fn a_hundred_callers_are_one_question() {
    let world = World::new();
    world.zone.say("orders.example", Says::these(&["10.0.0.1"], 30));
    let calls = (0..100).map(|_| world.addresses("orders.example"));
    let found = futures_util::future::join_all(calls).await;
    assert!(found.iter().all(|found| *found == ["10.0.0.1"]));
    assert_eq!(world.zone.asked("orders.example"), 2, "one for each family");
}

#[tokio::test]
async fn the_search_path_is_followed_as_resolv_conf_says() {
    let world = World::with(&format!("{KUBERNETES}options timeout:1 attempts:1\n"), "");
    world.zone.say("orders.shop.svc.cluster.local", Says::these(&["10.0.0.1"], 30));
    world.zone.say("orders.shop", Says::these(&["203.0.113.1"], 30));
    world.zone.say("api.example.com", Says::these(&["203.0.113.2"], 30));
    for host in ["orders", "orders.shop", "orders.shop.svc", "orders.shop.svc.cluster.local"] {
        assert_eq!(world.addresses(host).await, ["10.0.0.1"], "{host}");
    }
    assert_eq!(world.zone.asked("orders.shop"), 0, "the cluster comes first");
    assert_eq!(
        world.zone.asked("orders.shop.svc.cluster.local.shop.svc.cluster.local"),
        0,
        "what is complete is not completed"
    );
    assert_eq!(world.addresses("orders.shop.").await, ["203.0.113.1"], "complete, as it is written");
    assert_eq!(world.addresses("api.example.com").await, ["203.0.113.2"]);
    assert_eq!(world.zone.asked("api.example.com.cluster.local"), 2);
}

/// What is later on the path may be somebody else: it is not taken for the name when an earlier one is unknown.
#[tokio::test]
async fn a_search_ends_where_nobody_answers() {
    let world = World::with(&format!("{KUBERNETES}options timeout:1 attempts:1\n"), "");
    let silent = Says { silent: Some(RecordType::A), ..Says::these(&[], 30) };
    world.zone.say("orders.shop.shop.svc.cluster.local", silent);
    world.zone.say("orders.shop", Says::these(&["203.0.113.1"], 30));
    assert_eq!(world.names.addresses("orders.shop", LIMIT).await, Err(NameError::Unanswered));
    assert_eq!(world.zone.asked("orders.shop"), 0);
}

#[tokio::test]
async fn the_hosts_file_comes_first_and_is_read_again_when_it_changes() {
    let world = World::with(RESOLV_CONF, "127.0.0.1 localhost\n127.0.0.9 Dev.Example dev # ours\n");
    assert_eq!(world.addresses("dev.example").await, ["127.0.0.9"]);
    assert_eq!(world.addresses("localhost").await, ["127.0.0.1"]);
    assert_eq!(world.addresses("web.localhost").await, ["127.0.0.1", "::1"]);
    assert!(world.names.agrees("dev", ip("127.0.0.9")).await);
    assert_eq!(world.zone.asked("dev"), 0);
    world.zone.say("late.example", Says::these(&["10.0.0.1"], 3600));
    assert_eq!(world.addresses("late.example").await, ["10.0.0.1"]);
    std::fs::write(world.folder.path().join("hosts"), "10.0.0.9 fresh.example late.example\n").unwrap();
    assert_eq!(world.addresses("fresh.example").await, ["10.0.0.9"]);
    assert_eq!(world.addresses("late.example").await, ["10.0.0.9"], "whatever its TTL was");
}

#[tokio::test]
async fn a_resolv_conf_that_changes_is_followed_and_a_broken_one_is_not() {
    let world = World::new();
    world.zone.say("orders.shop.example", Says::these(&["10.0.0.1"], 1));
    let write = |text: &str| std::fs::write(world.folder.path().join("resolv.conf"), text).unwrap();
    write("");
    assert_eq!(world.addresses("orders.shop.example").await, ["10.0.0.1"], "the server of before");
    write(&format!("{RESOLV_CONF}search shop.example\n"));
    assert_eq!(world.addresses("orders").await, ["10.0.0.1"]);
    assert_eq!(world.names.full_names("orders").nth(1).unwrap(), "orders.shop.example");
}

#[tokio::test]
async fn what_is_no_name_is_never_asked_for() {
    let world = World::new();
    for host in ["2130706433", "127.1", "0x7f.0.0.1", "a b", "", "a..b", "-\n", &"a".repeat(64)] {
        assert_eq!(world.names.addresses(host, LIMIT).await, Err(NameError::Absent), "{host}");
        assert_eq!(world.zone.asked(host), 0, "{host}");
    }
}

// === outages and changes ===

#[tokio::test]
async fn through_an_outage_the_last_answer_stays() {
    for trouble in
        [Trouble::Silence, Trouble::Code(ResponseCode::ServFail), Trouble::Code(ResponseCode::Refused)]
    {
        let world = World::new();
        world.zone.say("orders.example", Says::these(&["10.0.0.1"], 1));
        let hosts = world.keep(&["orders.example"]);
        world.addresses("orders.example").await;
        world.zone.trouble(Some(trouble));
        let asked = world.zone.asked("orders.example");
        // Past the TTL, and past the first failures.
        world.asked("orders.example", asked + 4).await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let start = Instant::now();
        assert_eq!(world.addresses("orders.example").await, ["10.0.0.1"], "{trouble:?}");
        assert_eq!(world.names.at(ip("10.0.0.1"), &hosts).await, hosts, "{trouble:?}");
        assert!(world.names.agrees("orders.example", ip("10.0.0.1")).await, "{trouble:?}");
        assert!(start.elapsed() < Duration::from_millis(100), "nobody waits: {:?}", start.elapsed());
        // A name that nobody knows yet cannot be had.
        let unknown = world.names.addresses("other.example", Duration::from_millis(200)).await;
        assert!(matches!(unknown, Err(NameError::Unanswered | NameError::Timeout)), "{unknown:?}");
        // It is over, and things have changed.
        world.zone.say("orders.example", Says::these(&["10.0.0.2"], 1));
        world.zone.trouble(None);
        let start = Instant::now();
        while world.addresses("orders.example").await != ["10.0.0.2"] {
            assert!(start.elapsed() < LIMIT, "{trouble:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// An authoritative "there is none" is the truth: it is not dialled any more, but connections of those who asked before
/// are recognised.
#[tokio::test]
async fn a_name_that_is_gone_is_gone() {
    let world = World::new();
    world.zone.say("orders.example", Says::these(&["10.0.0.1"], 1));
    let hosts = world.keep(&["orders.example"]);
    world.addresses("orders.example").await;
    world.zone.drop_name("orders.example");
    let start = Instant::now();
    while world.names.addresses("orders.example", LIMIT).await != Err(NameError::Absent) {
        assert!(start.elapsed() < Duration::from_millis(1500), "within its TTL");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.names.at(ip("10.0.0.1"), &hosts).await, hosts);
}

#[tokio::test]
async fn kept_names_are_asked_for_before_anybody_needs_them_and_followed_within_their_ttl() {
    let world = World::new();
    world.zone.say("orders.example", Says::these(&["10.0.0.1"], 2));
    world.keep(&["orders.example"]);
    world.asked("orders.example", 2).await;
    assert_eq!(world.addresses("orders.example").await, ["10.0.0.1"]);
    world.zone.say("orders.example", Says::these(&["10.0.0.2"], 2));
    let moved = Instant::now();
    while world.addresses("orders.example").await != ["10.0.0.2"] {
        assert!(moved.elapsed() < Duration::from_millis(2600), "not followed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.names.keep([]);
    let asked = world.zone.asked("orders.example");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(world.zone.asked("orders.example"), asked, "nobody names it any more");
}

// === whose is an address? ===

#[tokio::test]
async fn an_address_is_found_by_what_its_names_had_until_now() {
    let world = World::new();
    let (a, b) = (Says::these(&["10.0.0.1", "2001:db8::1"], 30), Says::these(&["10.0.0.2", "10.0.0.3"], 30));
    world.zone.say("a.example", a);
    world.zone.say("b.example", b);
    let hosts = world.keep(&["a.example", "b.example"]);
    assert_eq!(world.names.at(ip("10.0.0.1"), &hosts).await, ["a.example".into()]);
    assert_eq!(world.names.at(ip("::ffff:10.0.0.1"), &hosts).await, ["a.example".into()]);
    assert_eq!(world.names.at(ip("2001:db8::1"), &hosts).await, ["a.example".into()]);
    assert_eq!(world.names.at(ip("10.0.0.3"), &hosts).await, ["b.example".into()]);
    assert!(world.names.at(ip("10.0.0.3"), &hosts[..1]).await.is_empty(), "it was not asked about");
    // Two names on one address.
    world.zone.say("c.example", Says::these(&["10.0.0.1"], 30));
    assert!(
        world.names.agrees("c.example", ip("10.0.0.1")).await,
        "a wildcard's host, asked for when needed"
    );
    let all: Vec<Arc<str>> = ["a.example", "c.example"].map(Into::into).to_vec();
    assert_eq!(world.names.at(ip("10.0.0.1"), &all).await.len(), 2);
    assert!(!world.names.agrees("b.example", ip("10.0.0.1")).await);
    assert!(
        world.names.agrees("10.0.0.1", ip("10.0.0.1")).await
            && !world.names.agrees("10.0.0.1", ip("10.0.0.2")).await
    );
}

/// The application has asked just now, and its answer is newer than ours.
#[tokio::test]
async fn an_unknown_address_has_old_answers_asked_for_again() {
    let world = World::new();
    world.zone.say("orders.example", Says::these(&["10.0.0.1"], 3600));
    let hosts = world.keep(&["orders.example"]);
    world.addresses("orders.example").await;
    world.zone.say("orders.example", Says::these(&["10.0.0.2"], 3600));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(world.names.at(ip("10.0.0.2"), &hosts).await, hosts);
    assert_eq!(world.names.at(ip("10.0.0.1"), &hosts).await, hosts, "until now it was there");
}

#[tokio::test]
async fn strangers_pay_once_in_a_while() {
    let world = World::new();
    world.zone.say("orders.example", Says::these(&["10.0.0.1"], 3600));
    let hosts = world.keep(&["orders.example"]);
    world.addresses("orders.example").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(world.names.at(ip("192.0.2.1"), &hosts).await.is_empty());
    assert_eq!(world.zone.asked("orders.example"), 4, "asked again");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(world.names.at(ip("192.0.2.1"), &hosts).await.is_empty());
    assert_eq!(world.zone.asked("orders.example"), 4, "it is known as a stranger");
    for number in 0..100 {
        assert!(world.names.at(ip(&format!("192.0.2.{number}")), &hosts).await.is_empty());
    }
    let asked = world.zone.asked("orders.example");
    assert!((6..=10).contains(&asked), "once a second, whoever comes: {asked}");
}

/// While nobody answers, unrelated traffic waits once and then goes on.
#[tokio::test]
async fn in_an_outage_strangers_do_not_wait_each_time() {
    let world = World::new();
    world.zone.say("orders.example", Says::these(&["10.0.0.1"], 1));
    let hosts = world.keep(&["orders.example"]);
    world.addresses("orders.example").await;
    world.zone.trouble(Some(Trouble::Silence));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let start = Instant::now();
    world.names.at(ip("192.0.2.1"), &hosts).await;
    assert!(start.elapsed() < WAIT + Duration::from_millis(500), "{:?}", start.elapsed());
    let start = Instant::now();
    for _ in 0..1000 {
        world.names.at(ip("192.0.2.1"), &hosts).await;
    }
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}

/// A name that shows another part of its addresses each time is known whole after a while.
#[tokio::test]
async fn round_robin_names_are_recognised_by_all_that_they_showed() {
    let world = World::new();
    let all: Vec<String> = (1..=8).map(|number| format!("10.0.2.{number}")).collect();
    let listed: Vec<&str> = all.iter().map(String::as_str).collect();
    world.zone.say("pool.example", Says { part: 2, ..Says::these(&listed, 0) });
    let hosts = world.keep(&["pool.example"]);
    // A TTL of 0 is asked for each second.
    world.asked("pool.example", 10).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    for address in &all {
        assert_eq!(world.names.at(ip(address), &hosts).await, hosts, "{address}");
    }
    assert_eq!(world.addresses("pool.example").await.len(), 2, "what is dialled is the last answer");
}

#[tokio::test]
async fn names_are_bounded_in_number_and_kept_ones_stay() {
    let world = World::with(RESOLV_CONF, "10.0.0.1 kept.example\n");
    let hosts = world.keep(&["kept.example"]);
    world.addresses("kept.example").await;
    for number in 0..4000 {
        world.names.0.table.entry(&format!("{number}.example"));
    }
    assert!(world.names.0.table.len() <= 3072);
    assert!(world.names.keeps("kept.example") && !world.names.keeps("1.example"));
    assert_eq!(world.names.at(ip("10.0.0.1"), &hosts).await, hosts);
}

/// A name of which nobody says anything.
fn nothing() -> Says {
    Says { silent: Some(RecordType::A), ..Says::these(&[], 1) }
}

/// One host of a rule has no answer, and others go by on its port.
#[tokio::test]
async fn nobody_waits_for_a_name_that_has_no_answer() {
    let world = World::new();
    world.zone.say("dead.example", nothing());
    let hosts = world.keep(&["dead.example"]);
    while !world.names.0.table.entry("dead.example").known.load().is_failing() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for number in 0..30 {
        let start = Instant::now();
        assert!(world.names.at(ip(&format!("192.0.2.{number}")), &hosts).await.is_empty());
        assert!(start.elapsed() < Duration::from_millis(500), "{number}: {:?}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Anybody may have us ask for names that have no answer, and that takes its time.
#[tokio::test]
async fn what_strangers_have_us_ask_for_holds_up_no_kept_name() {
    let world = World::new();
    world.zone.say("orders.example", Says::these(&["10.0.0.1"], 1));
    world.keep(&["orders.example"]);
    world.asked("orders.example", 2).await;
    let slow: Vec<_> = (0..2000).map(|number| format!("{number}.slow.example")).collect();
    slow.iter().for_each(|name| world.zone.say(name, nothing()));
    let asking = slow.iter().map(|name| world.names.addresses(name, Duration::from_millis(20)));
    let answers = futures_util::future::join_all(asking).await;
    assert!(
        answers.contains(&Err(NameError::Unanswered)),
        "beyond so many at once they are not even asked for"
    );
    let before = world.zone.asked("orders.example");
    world.asked("orders.example", before + 4).await;
    assert!(slow.iter().filter(|name| world.zone.asked(name) > 0).count() < 1000);
}
