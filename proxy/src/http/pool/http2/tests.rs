use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::AtomicBool;

use futures_util::FutureExt;
use hyper::client::conn::http2::{Connection as Driver, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::oneshot;

use super::super::stream::{PATIENCE, Stream};
use super::super::waiting::News;
use super::super::{Address, Connector, Dial, Own, Upstream, Version};
use super::*;
use crate::rejection::Cause;

/// A connection that nobody drives, and the far end of it.
type Undriven = (Driver<TokioIo<DuplexStream>, Body, TokioExecutor>, DuplexStream);

/// They end with this.
#[derive(Default)]
struct World {
    shared: Arc<Shared>,
    drivers: Vec<Undriven>,
}

impl World {
    async fn open(&mut self, allowed: usize) -> Stream {
        let width = self.shared.next();
        self.open_as(width, allowed).await
    }

    async fn open_as(&mut self, width: Width, allowed: usize) -> Stream {
        let (near, far) = duplex(64 * 1024);
        let (sender, driver) = handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
        self.drivers.push((driver, far));
        let place = Place { address: IpAddr::V4(Ipv4Addr::LOCALHOST), is_left: AtomicBool::new(false) };
        stream(self.shared.begin(
            sender,
            width,
            Arc::new(AtomicUsize::new(allowed)),
            Arc::new(place),
            Scope::All,
        ))
    }

    /// As a request does.
    async fn stream(&mut self, allowed: usize) -> Stream {
        match self.shared.stream() {
            Some(carrier) => stream(carrier),
            None => self.open(allowed).await,
        }
    }

    fn loads(&self) -> Vec<usize> {
        self.shared.open().iter().map(|connection| connection.load.under_way()).collect()
    }
}

fn stream(carrier: Carrier) -> Stream {
    match carrier {
        Carrier::Http2(_, stream) => stream,
        Carrier::Http1(_) => panic!("not asked for"),
    }
}

#[tokio::test]
async fn another_connection_is_opened_where_there_is_no_room_and_never_without_number() {
    let mut world = World::default();
    let mut streams = Vec::new();
    for _ in 0..250 {
        streams.push(world.stream(1000).await);
    }
    assert_eq!(world.loads(), [16, 100, 100, 34], "as many as one carries");
    streams.drain(..30);
    streams.push(world.stream(1000).await);
    assert_eq!(world.loads(), [1, 86, 100, 34], "the first that has room");
    for _ in 0..2000 {
        streams.push(world.stream(1000).await);
    }
    // A crowd is where there is most room.
    let loads = world.loads();
    let (wide, narrow) = loads.split_first().unwrap();
    assert!(loads.len() == MAX_CONNECTIONS && (22..=26).contains(wide), "{loads:?}");
    assert!(narrow.iter().all(|load| (144..=149).contains(load)), "{loads:?}");
    drop(streams);
    assert_eq!(world.loads(), [0; MAX_CONNECTIONS]);
}

#[tokio::test]
async fn a_server_that_allows_few_streams_gets_no_more_on_one_connection() {
    let mut world = World::default();
    let mut streams = Vec::new();
    for _ in 0..7 {
        streams.push(world.stream(3).await);
    }
    assert_eq!(world.loads(), [3, 3, 1]);
    // It says so later.
    world.shared.open()[0].allowed.store(5, Ordering::Relaxed);
    streams.push(world.stream(3).await);
    assert_eq!(world.loads(), [4, 3, 1]);
}

#[tokio::test]
async fn those_beyond_the_first_are_let_go_once_they_are_idle() {
    let mut world = World::default();
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(world.stream(1).await);
    }
    assert!(world.shared.sweep() && world.loads() == [1, 1, 1]);
    streams.remove(1);
    assert!(world.shared.sweep() && world.loads() == [1, 1]);
    streams.clear();
    assert!(world.shared.sweep() && world.loads() == [0], "one is kept");
    world.shared.open()[0].place.is_left.store(true, Ordering::Relaxed);
    assert!(!world.shared.sweep() && world.loads().is_empty(), "not where the name is not any more");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_idle_for_long_ends_and_one_that_carries_a_stream_does_not() {
    let mut world = World::default();
    let stream = world.open(100).await;
    tokio::time::advance(MAX_IDLE * 3).await;
    assert!(world.shared.sweep() && world.loads() == [1], "it carries one");
    drop(stream);
    tokio::time::advance(MAX_IDLE).await;
    assert!(world.shared.sweep() && world.loads() == [0], "it counts from the end of the last");
    drop(world.shared.stream().unwrap());
    tokio::time::advance(MAX_IDLE).await;
    assert!(world.shared.sweep());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(world.shared.stream().is_none(), "before the sweep sees it");
    assert!(!world.shared.sweep(), "nothing is left of it");
}

#[tokio::test]
async fn of_wide_ones_too_one_is_kept_while_none_is_under_way() {
    let mut world = World::default();
    let first = world.open(100).await;
    first.load.is_silent.store(true, Ordering::Relaxed);
    let second = world.open_as(Width::Wide, 100).await;
    first.load.is_silent.store(false, Ordering::Relaxed);
    assert!(world.shared.sweep() && world.loads() == [1, 1]);
    drop((first, second));
    assert!(world.shared.sweep() && world.loads() == [0]);
}

/// As it is where ALPN has not said yet that one is for many, and where a request has to have one of its own.
#[tokio::test]
async fn who_opens_a_wide_one_beside_another_keeps_it_to_itself() {
    let mut world = World::default();
    let widths = [world.shared.next(), world.shared.next(), world.shared.next()];
    let mut streams = Vec::new();
    for width in widths {
        streams.push(world.open_as(width, 100).await);
    }
    assert_eq!((widths, world.loads()), ([Width::Wide; 3], vec![1]));
}

#[tokio::test]
async fn what_has_ended_carries_nothing_and_a_crowd_is_better_than_none() {
    let mut world = World::default();
    let first = world.open(1).await;
    assert!(world.shared.stream().is_none(), "there may be another");
    let crowd = stream(world.shared.crowded().unwrap());
    assert_eq!(world.loads(), [2]);
    drop((first, crowd));
    world.drivers.clear();
    assert!(world.shared.crowded().is_none() && world.shared.stream().is_none());
    assert!(world.loads().is_empty());
}

#[tokio::test]
async fn where_the_wide_one_has_ended_another_takes_its_place() {
    let mut world = World::default();
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(world.stream(100).await);
    }
    assert_eq!(world.loads(), [16, 4]);
    streams[0].leave();
    streams.drain(..16);
    streams.push(world.stream(100).await);
    streams.push(world.stream(100).await);
    assert_eq!(world.loads(), [6], "a narrow one is better than to wait for another");
    assert!(world.shared.lacks_wide() && !world.shared.lacks_wide(), "which the sweep sees, once");
    drop(world.open(100).await);
    streams.push(world.stream(100).await);
    assert_eq!((world.loads(), world.shared.lacks_wide()), (vec![6, 1], false), "nobody does any more");
    assert!(world.shared.open()[1].is_wide(), "whoever comes next is on the wide one");
}

#[tokio::test(start_paused = true)]
async fn where_no_other_is_to_be_had_the_rest_goes_where_the_server_allows_it_for_a_while() {
    let mut world = World::default();
    let mut streams = Vec::new();
    for _ in 0..19 {
        streams.push(world.stream(20).await);
    }
    assert_eq!(world.loads(), [16, 3]);
    for _ in 0..17 {
        streams.push(world.stream(20).await);
    }
    assert_eq!(world.loads(), [16, 20]);
    assert!(world.shared.stream().is_none(), "there may be another");
    world.shared.make_do();
    streams.push(stream(world.shared.stream().unwrap()));
    assert_eq!(world.loads(), [17, 20], "more than ours, and not more than the server's");
    for _ in 0..3 {
        streams.push(stream(world.shared.stream().unwrap()));
    }
    assert_eq!(world.loads(), [20, 20], "nobody else waits in vain");
    assert!(world.shared.stream().is_none(), "which then waits for another, since there is no room");
    streams.truncate(39);
    tokio::time::advance(SHUT).await;
    assert!(world.shared.stream().is_none(), "it is tried for again");
    streams.push(world.open(20).await);
    assert_eq!(world.loads(), [19, 20, 1]);
}

/// As long as somebody waits in vain.
async fn wait(late: &Stream, time: Duration) {
    let _silence = late.silence();
    tokio::time::advance(time).await;
}

#[tokio::test(start_paused = true)]
async fn where_nobody_is_answered_nothing_new_begins_and_what_is_there_goes_on() {
    let mut world = World::default();
    let (late, mut other) = (world.stream(100).await, world.stream(100).await);
    wait(&late, PATIENCE / 2).await;
    let silence = late.silence();
    other.answered();
    tokio::time::advance(PATIENCE).await;
    drop(silence);
    drop(world.stream(100).await);
    assert_eq!(world.loads(), [2], "it is not the connection");

    wait(&late, PATIENCE).await;
    assert!(world.shared.stream().is_none(), "it may be dead");
    let next = world.stream(100).await;
    assert_eq!(world.loads(), [2, 1]);
    let widths = world.shared.open().iter().map(|connection| connection.width).collect::<Vec<_>>();
    assert_eq!(widths, [Width::Wide, Width::Wide], "it is of no use to anybody");
    // Of a late answer at last.
    other.answered();
    drop(world.stream(100).await);
    assert_eq!(world.loads(), [2, 1]);
    let again = world.stream(100).await;
    assert_eq!(world.loads(), [3, 1], "it lives");

    wait(&late, PATIENCE).await;
    drop((late, other, again));
    drop(world.stream(100).await);
    assert_eq!(world.loads(), [1], "it is let go of with what it carried, and another has its place");
    drop(next);
}

#[tokio::test(start_paused = true)]
async fn of_silent_connections_there_are_no_more_than_of_others() {
    let mut world = World::default();
    let mut streams = Vec::new();
    for _ in 0..MAX_CONNECTIONS * 2 {
        let stream = world.stream(100).await;
        wait(&stream, PATIENCE).await;
        streams.push(stream);
    }
    let loads = world.loads();
    assert_eq!((loads.len(), loads.iter().sum()), (MAX_CONNECTIONS, MAX_CONNECTIONS * 2));
    let wide = world.shared.open().iter().filter(|connection| connection.is_wide()).count();
    assert_eq!(wide, MAX_WIDE, "what lies unread stays bounded");
}

/// What whoever waits has heard by now.
fn heard(news: &mut oneshot::Receiver<News>) -> Option<Result<bool, Cause>> {
    news.try_recv().ok().map(|news| news.map(|carrier| carrier.is_some()))
}

#[tokio::test]
async fn room_goes_to_those_who_wait_for_it_in_the_order_in_which_they_came() {
    let mut world = World::default();
    let mut streams = vec![world.open(2).await, world.stream(2).await];
    let mut gone = world.shared.waiting.wait();
    let (mut first, mut second) = (world.shared.waiting.wait(), world.shared.waiting.wait());
    gone.close();
    assert_eq!((heard(&mut first), world.shared.lacking(1)), (None, 1));
    streams.pop();
    let Ok(Ok(Some(carrier))) = first.try_recv() else { panic!("it was first of those who are there") };
    assert_eq!((heard(&mut second), world.loads()), (None, vec![2]), "nobody comes between");
    // It did not take it.
    drop(carrier);
    assert_eq!(heard(&mut second), Some(Ok(true)));
    assert_eq!((world.loads(), world.shared.lacking(1)), (vec![1], 0));
}

#[tokio::test]
async fn nobody_who_comes_later_takes_the_room_of_those_who_wait() {
    let mut world = World::default();
    let _stream = world.open(1).await;
    let (mut first, mut second) = (world.shared.waiting.wait(), world.shared.waiting.wait());
    // Of which nobody has told them.
    world.shared.open()[0].allowed.store(2, Ordering::Relaxed);
    assert!(world.shared.stream().is_none());
    assert_eq!((heard(&mut second), heard(&mut first)), (None, Some(Ok(true))));
}

#[tokio::test]
async fn one_of_those_who_wait_looks_for_all_where_the_last_connection_ends() {
    let mut world = World::default();
    let stream = world.open(1).await;
    let mut news = world.shared.waiting.wait();
    stream.leave();
    drop(stream);
    assert!(world.shared.waiting.called().now_or_never().is_some());
    assert!(world.shared.waiting.called().now_or_never().is_none(), "one");
    assert_eq!((heard(&mut news), world.shared.lacking(1)), (None, 1));
}

#[tokio::test]
async fn where_no_other_is_to_be_had_those_who_wait_go_where_the_server_allows_it() {
    let mut world = World::default();
    assert!(world.shared.make_do(), "there is nothing to make do with");
    assert!(!world.shared.is_shut());
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(world.stream(17).await);
    }
    let (mut allowed, mut patient) = (world.shared.waiting.wait(), world.shared.waiting.wait());
    assert!(!world.shared.make_do());
    let Ok(Ok(Some(carrier))) = allowed.try_recv() else { panic!("beyond our own bound") };
    assert_eq!((heard(&mut patient), world.shared.is_shut(), world.loads()), (None, true, vec![17]));
    assert_eq!(world.shared.lacking(8), 1, "another is tried for all the same");
    streams.pop();
    assert_eq!(heard(&mut patient), Some(Ok(true)));
    drop(carrier);
}

#[tokio::test]
async fn that_no_connection_is_to_be_had_is_told_to_those_who_came_before() {
    let world = World::default();
    let waiting = &world.shared.waiting;
    let (mut before, mark) = (waiting.wait(), waiting.next());
    let mut after = waiting.wait();
    waiting.fail(Cause::ConnectionTimeout, mark);
    assert_eq!(heard(&mut before), Some(Err(Cause::ConnectionTimeout)));
    assert_eq!(heard(&mut after), None);
    waiting.fail(Cause::ConnectionRefused, u64::MAX);
    assert_eq!(heard(&mut after), Some(Err(Cause::ConnectionRefused)));
}

#[tokio::test]
async fn so_many_connections_are_lacking_as_those_who_wait_fill() {
    let mut world = World::default();
    let mut waiting: Vec<_> = (0..95).map(|_| world.shared.waiting.wait()).collect();
    assert_eq!(world.shared.lacking(1), 1, "nobody knows yet how much one carries");
    assert_eq!(world.shared.lacking(8), 8);
    let _stream = world.open(10).await;
    assert_eq!(world.shared.lacking(1), 10);
    waiting.extend((0..400).map(|_| world.shared.waiting.wait()));
    assert_eq!(world.shared.lacking(1), MAX_CONNECTIONS - 1);
    drop(waiting);
    assert_eq!(world.shared.lacking(8), 0);
}

#[tokio::test]
async fn an_attempt_that_pauses_beside_a_connection_is_made_when_that_has_ended() {
    let refuses = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dial = Dial { address: Address::Socket(refuses), tls: None, version: Version::Http2 };
    let upstream = Upstream::new(Direction::Outbound, dial, Connector::for_tests(), Own::default());
    let mut world = World { shared: upstream.http2.clone(), drivers: Vec::new() };
    let stream = world.open(1).await;
    let mut news = upstream.http2.waiting.wait();
    upstream.attempt(Duration::from_secs(5), Duration::from_secs(3600));
    tokio::task::yield_now().await;
    assert!((&mut news).now_or_never().is_none(), "it pauses");
    stream.leave();
    drop(stream);
    let heard = tokio::time::timeout(Duration::from_secs(20), news).await.expect("news").unwrap();
    assert!(matches!(heard, Err(Cause::ConnectionRefused)), "it was made");
}
