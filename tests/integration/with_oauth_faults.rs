//! What becomes of the application's requests while its issuer is slow, ill, gone, or changes its mind? A certified
//! authorization server behind a proxy that a test switches, and an upstream that remembers every token.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Answer, Connection, get};
use crate::support::fault::{Fault, Mode};
use crate::support::issuer::{Issuer, SECRET};
use crate::support::policy::{self, Folder};
use crate::support::proxy::{Proxy, Settings};
use crate::support::upstream::{Seen, Upstream};
use crate::support::wait_until;

struct World {
    issuer: Issuer,
    fault: Fault,
    upstream: Upstream,
    proxy: Proxy,
    folder: Folder,
}

impl World {
    /// Tokens live so many seconds, and come through a proxy in this mode.
    fn new(ttl: u32, mode: Mode) -> Self {
        Self::with_secret(SECRET, ttl, mode)
    }

    fn with_secret(secret: &str, ttl: u32, mode: Mode) -> Self {
        let client = json!({"id": "checkout", "secret": secret, "scope": "orders:read"});
        let issuer = Issuer::start(&json!({"ttl": ttl, "clients": [client]}));
        let (fault, upstream) = (Fault::before(issuer.address(), mode), Upstream::start());
        let text = fault.issuer(&issuer.url)
            + &policy::credential()
            + &policy::outbound(upstream.port(), &json!({}));
        let folder = Folder::with(&[("policy.yaml", &text), ("client-secret", secret)]);
        let proxy = Settings::policies(folder.path(), "checkout").start();
        Self { issuer, fault, upstream, proxy, folder }
    }

    fn host(&self) -> String {
        format!("localhost:{}", self.upstream.port())
    }

    fn get(&self) -> Answer {
        get(self.proxy.outbound(), "/a", &[("Host", &self.host())])
    }

    /// So many requests at once, each on a connection of its own, which is open before the first is sent.
    fn burst(&self, count: usize) -> Vec<Answer> {
        let host = self.host();
        let open = |_| Connection::open(self.proxy.outbound()).unwrap();
        let connections: Vec<_> = (0..count).map(open).collect();
        thread::scope(|scope| {
            let send = |mut one: Connection| one.request("GET", "/a", &[("Host", &host)], b"").unwrap();
            let burst: Vec<_> = connections.into_iter().map(|one| scope.spawn(move || send(one))).collect();
            burst.into_iter().map(|one| one.join().unwrap()).collect()
        })
    }

    /// Requests one after the other, on one connection, until it is enough: when each was sent, and its answer.
    fn load(&self, enough: impl Fn() -> bool) -> Vec<(Instant, Answer)> {
        let host = self.host();
        let mut connection = Connection::open(self.proxy.outbound()).unwrap();
        let mut answers = Vec::new();
        while !enough() {
            let at = Instant::now();
            answers.push((at, connection.request("GET", "/a", &[("Host", &host)], b"").unwrap()));
            thread::sleep(Duration::from_millis(5));
        }
        answers
    }

    /// What `/tokens` says of the only slot.
    fn report(&self) -> Value {
        get(self.proxy.admin(), "/tokens", &[]).json()["tokens"][0].clone()
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.proxy.scrape().sum(name, labels)
    }

    /// The tokens that the upstream saw, in their order, each with when it was first and last seen there.
    fn tokens(&self) -> Vec<(String, Instant, Instant)> {
        let mut seen: Vec<Seen> = self.upstream.seen();
        seen.sort_by_key(|seen| seen.at);
        let mut tokens: Vec<(String, Instant, Instant)> = Vec::new();
        let mut places = BTreeMap::new();
        for request in seen {
            let shown = request.all("authorization");
            assert_eq!(shown.len(), 1, "a request without its token: {request:?}");
            let place = *places.entry(shown[0].clone()).or_insert(tokens.len());
            match tokens.get_mut(place) {
                Some((_, _, last)) => *last = request.at,
                None => tokens.push((shown[0].clone(), request.at, request.at)),
            }
        }
        tokens
    }

    /// No token arrived at the upstream when its life was over, counted from before it was issued.
    fn assert_none_expired(&self, ttl: u32, posts: &[Instant]) {
        let tokens = self.tokens();
        assert!(tokens.len() <= posts.len(), "{} tokens from {} requests", tokens.len(), posts.len());
        for ((_, first, last), asked) in tokens.iter().zip(posts) {
            assert!(first >= asked, "tokens and requests are not in one order");
            let age = last.duration_since(*asked);
            assert!(age < Duration::from_secs(ttl.into()), "a token of {ttl} s was sent after {age:?}");
        }
    }
}

fn all_are(answers: &[Answer], status: u16) -> bool {
    answers.iter().all(|answer| answer.status == status)
}

/// None of them is answered before all of them wait.
#[test]
fn out_6_two_hundred_on_a_cold_cache_are_one_token_request() {
    let world = World::new(300, Mode::Hold);
    thread::scope(|scope| {
        let burst = scope.spawn(|| world.burst(200));
        wait_until("all of them to wait", Duration::from_secs(10), || world.report()["coalesced"] == 200);
        assert_eq!((world.fault.posts().len(), world.upstream.count()), (1, 0));
        world.fault.switch(Mode::Pass);
        assert!(all_are(&burst.join().unwrap(), 200), "{}", world.proxy.log());
    });
    assert_eq!(world.fault.connections(), 1, "one token request, whoever asks");
    assert_eq!((world.upstream.count(), world.tokens().len()), (200, 1));
}

/// The token is refreshed behind them: the issuer has not answered when all of them have been.
#[test]
fn out_6_five_hundred_at_the_soft_limit_wait_for_nothing() {
    let world = World::new(16, Mode::Pass);
    assert_eq!(world.get().status, 200);
    world.fault.switch(Mode::Hold);
    world.fault.wait_for_posts(2);
    let answers = world.burst(500);
    assert_eq!(world.fault.posts().len(), 2, "one refresh for all");
    assert!(all_are(&answers, 200), "{}", world.proxy.log());
    assert_eq!(world.tokens().len(), 1, "the issuer was waited for");
    assert!(world.sum("countersign_token_requests_total", &[("result", "refresh")]) >= 500.0);
    world.fault.switch(Mode::Pass);
    wait_until("the other token", Duration::from_secs(5), || {
        world.get().status == 200 && world.tokens().len() == 2
    });
    assert_eq!(world.fault.connections(), 2);
    world.assert_none_expired(16, &world.fault.posts());
}

/// It is used to its hard limit, then nothing goes without it, and the issuer is found again.
#[test]
fn out_9_an_issuer_that_is_down_for_two_lifetimes() {
    const TTL: u32 = 5;
    let world = World::new(TTL, Mode::Pass);
    assert_eq!(world.get().status, 200);
    let (before, down) = (world.fault.posts(), Instant::now());
    world.fault.switch(Mode::Refuse);
    let answers = world.load(|| down.elapsed() > Duration::from_secs((2 * TTL).into()));
    assert_eq!(world.fault.posts(), before, "nobody was to answer");
    let good = answers.iter().take_while(|(_, answer)| answer.status == 200).count();
    let until = answers[good].0.duration_since(*before.last().unwrap());
    let life = f64::from(TTL);
    // 90 % of a life; the first that is refused may have waited for a while to be sent.
    assert!((life * 0.88..life).contains(&until.as_secs_f64()), "used for {until:?} of {TTL} s");
    assert!(good > 100 && answers.len() - good > 100, "{good} of {}", answers.len());
    for (_, answer) in &answers[good..] {
        assert_eq!((answer.status, answer.reason().as_str()), (503, "token_unavailable"), "{answer:?}");
        let retry_after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&retry_after), "{retry_after}");
        assert!(answer.header("www-authenticate").is_none());
    }
    assert_eq!(world.upstream.count(), good + 1, "a request went without a token");
    let tried = world.fault.connections() - before.len();
    assert!((2..=12).contains(&tried), "{tried} attempts in two lifetimes");

    // Full jitter below a bound that doubles: after so few failures it is within half a minute.
    world.fault.switch(Mode::Pass);
    wait_until("tokens again", Duration::from_secs(32), || world.get().status == 200);
    assert_eq!(world.report()["state"], "fresh");
    world.assert_none_expired(TTL, &world.fault.posts());
}

/// Many lifetimes under a steady load: refreshed ahead each time, once, and nobody notices.
#[test]
fn short_tokens_for_many_lifetimes() {
    const TTL: u32 = 3;
    const DURATION: Duration = Duration::from_secs(30);
    let world = World::new(TTL, Mode::Pass);
    let start = Instant::now();
    let answers = thread::scope(|scope| {
        let loads = [(); 2].map(|()| scope.spawn(|| world.load(|| start.elapsed() > DURATION)));
        loads.map(|load| load.join().unwrap()).concat()
    });
    let failed: Vec<_> = answers.iter().filter(|(_, answer)| answer.status != 200).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), answers.len(), failed[0]);
    let slowest = world.upstream.seen().len();
    let (posts, tokens) = (world.fault.posts(), world.tokens());
    println!("{slowest} requests, {} token requests, {} tokens", posts.len(), tokens.len());
    // One each 65 to 75 % of a life.
    let lives = DURATION.as_secs_f64() / f64::from(TTL);
    let asked = f64::from(u32::try_from(posts.len()).unwrap());
    assert!((lives / 0.9..=lives / 0.6 + 1.0).contains(&asked), "{asked} token requests in {lives} lives");
    assert!(tokens.len() + 1 >= posts.len(), "{} tokens of {} were used", tokens.len(), posts.len());
    world.assert_none_expired(TTL, &posts);
}

/// The one whose request began the flight has gone before it lands.
#[test]
fn out_6_the_leader_of_a_flight_goes_away() {
    let world = World::new(2, Mode::Pass);
    assert_eq!(world.get().status, 200);
    // Nobody asks, so nobody fetches: the next one has to.
    wait_until("the slot to fall asleep", Duration::from_secs(15), || world.report()["state"] == "idle");
    let before = world.fault.posts().len();
    world.fault.switch(Mode::Hold);
    let mut leader = Connection::open(world.proxy.outbound()).unwrap();
    leader.send(format!("GET /leader HTTP/1.1\r\nHost: {}\r\n\r\n", world.host()).as_bytes()).unwrap();
    world.fault.wait_for_posts(before + 1);
    drop(leader);
    thread::scope(|scope| {
        let followers = scope.spawn(|| world.burst(20));
        wait_until("all of them to wait", Duration::from_secs(10), || {
            world.report()["coalesced"].as_u64().is_some_and(|count| count >= 20)
        });
        world.fault.switch(Mode::Pass);
        assert!(all_are(&followers.join().unwrap(), 200), "{}", world.proxy.log());
    });
    assert_eq!(world.fault.connections(), before + 1);
}

/// The issuer changes the secret, and its file follows a while later, when the old one has been refused already.
#[test]
fn out_7_a_secret_that_is_rotated_under_load() {
    const TTL: u32 = 12;
    let world = World::new(TTL, Mode::Pass);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| world.load(|| done.load(Ordering::Relaxed)));
        wait_until("the first token", Duration::from_secs(5), || world.upstream.count() > 0);
        let next = "canary-next-secret: +/%&=";
        world.issuer.set_secret("checkout", next);
        let refused = [("credential", "shop/checkout"), ("cause", "invalid_client")];
        wait_until("the old secret's refusal", Duration::from_secs(15), || {
            world.sum("countersign_token_fetch_failures_total", &refused) >= 1.0
        });
        world.folder.write("client-secret", next);
        wait_until("the other token", Duration::from_secs(5), || world.tokens().len() == 2);
        thread::sleep(Duration::from_millis(200));
        done.store(true, Ordering::Relaxed);
        let answers = load.join().unwrap();
        let failed: Vec<_> = answers.iter().filter(|(_, answer)| answer.status != 200).collect();
        assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), answers.len(), failed[0]);
    });
    assert_eq!(world.fault.posts().len(), 3, "the old secret once, the next one once");
    assert!(!world.proxy.log().contains("canary"));
}

/// Slow is not ill: the first request waits for it. Half an answer is none, and the next one is asked for.
#[test]
fn an_answer_that_is_late_or_cut_off() {
    let world = World::new(300, Mode::Delay(Duration::from_millis(500)));
    assert_eq!(world.get().status, 200);
    assert_eq!(world.fault.posts().len(), 1);

    let world = World::new(300, Mode::Truncate(400));
    assert_eq!((world.get().status, world.upstream.count()), (503, 0));
    let cut = [("credential", "shop/checkout"), ("cause", "malformed")];
    assert!(world.sum("countersign_token_fetch_failures_total", &cut) >= 1.0, "{}", world.report());
    world.fault.switch(Mode::Pass);
    wait_until("a whole one", Duration::from_secs(20), || world.get().status == 200);
}

/// Whatever RFC 6749 App. B encodes. This issuer takes VSCHAR alone, as the RFC has it, and says so of anything else.
#[test]
fn c5_a_secret_of_odd_characters() {
    let world = World::with_secret("a+b%c&d:e f=g\"h\\i", 300, Mode::Pass);
    assert_eq!(world.get().status, 200, "{}", world.proxy.log());

    let world = World::with_secret("canary-\u{e9}\u{20ac}", 300, Mode::Pass);
    let answer = world.get();
    assert_eq!((answer.status, answer.reason().as_str()), (503, "token_unavailable"), "{answer:?}");
    let told = world.report()["last_error"].as_str().unwrap().to_owned();
    assert!(told.contains("invalid_request") && !world.proxy.log().contains("canary"), "{told}");
}
