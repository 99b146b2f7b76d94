//! Does an exchange end though nobody moves in it, and does its watch end with it?

use std::time::Duration;

use bytes::Bytes;
use countersign_policy::Reason;
use futures_util::FutureExt;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::http::arriving::Arriving;
use crate::http::body::Body;
use crate::http::deadline::Deadline;
use crate::http::exchange::Exchange;
use crate::http::grant::tests::{CLOSED, OPEN, World};

const IDLE: Duration = Duration::from_secs(3600);

/// The body of an answer that has begun, and the application's end of its connection.
async fn begun() -> (Arriving, DuplexStream) {
    let (near, mut far) = tokio::io::duplex(1024);
    let (mut sender, connection) = http1::handshake(TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    let asked = tokio::spawn(sender.send_request(Request::new(Empty::<Bytes>::new())));
    let _ = far.read(&mut [0; 1024]).await.unwrap();
    far.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntick\r\n").await.unwrap();
    (Arriving::answer(asked.await.unwrap().unwrap().into_body(), Version::HTTP_11), far)
}

async fn answer(world: &World, exchange: Option<Arc<Exchange>>) -> (Body, DuplexStream) {
    let (incoming, far) = begun().await;
    let body = world.admitted(None, false, |admitted| {
        let watch = Watch::over(exchange.is_none().then_some(admitted), true);
        Body::response(incoming, IDLE, Deadline::NEVER, None, exchange, watch, Some(admitted))
    });
    (body, far)
}

/// As the worker does, after a while.
async fn settle(world: &World) {
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.caller.worker.nursery.settle();
    tokio::time::sleep(Duration::from_millis(10)).await;
}

fn young(world: &World) -> usize {
    world.caller.worker.nursery.lock().relays.iter().flatten().count()
}

#[tokio::test]
async fn what_nobody_reads_ends_all_the_same_and_the_application_sees_it() {
    let world = World::new(CLOSED);
    let (mut body, mut far) = answer(&world, None).await;
    assert_eq!(far.read(&mut [0; 8]).now_or_never().map(Result::ok), None, "it is open");
    settle(&world).await;
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0, "its body was never asked for");
    assert_eq!(world.recorded("deny", "denied_by_rule"), 1);
    // Who asks late is told, and gets nothing of what had arrived.
    assert!(body.frame().await.unwrap().is_err());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_reads_ends_in_time_too_and_so_does_its_request() {
    let ((incoming, mut far), (asking, mut caller)) = (begun().await, begun().await);
    let deadline = Deadline::of(Some(Duration::from_secs(3)), false);
    let (request, exchange) = Body::request(asking, IDLE, None, false, None, deadline);
    let mut answer = Body::response(incoming, IDLE, deadline, None, exchange, Watch::Nothing, None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for side in [&mut far, &mut caller] {
        assert_eq!(side.read(&mut [0; 8]).now_or_never().map(Result::ok), None, "it is open");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for side in [&mut far, &mut caller] {
        assert_eq!(side.read(&mut [0; 8]).await.unwrap(), 0);
    }
    assert!(answer.frame().await.unwrap().is_err());
    drop(request);
}

#[tokio::test]
async fn who_waits_for_a_frame_is_woken_when_it_ends() {
    let mut world = World::new(OPEN);
    let (mut body, _far) = answer(&world, None).await;
    assert!(body.frame().await.unwrap().is_ok());
    let reader = tokio::spawn(async move { body.frame().await.unwrap().is_err() });
    settle(&world).await;
    assert!(!reader.is_finished());
    world.change(CLOSED, "");
    assert!(reader.await.unwrap());
}

#[tokio::test]
async fn a_short_exchange_is_not_watched_and_leaves_nothing_behind() {
    let world = World::new(OPEN);
    let (body, far) = answer(&world, None).await;
    let (other, _far) = answer(&world, None).await;
    world.caller.worker.nursery.settle();
    tokio::task::yield_now().await;
    assert_eq!((young(&world), world.watched()), (2, 0));
    drop((body, far));
    assert_eq!(young(&world), 1);
    settle(&world).await;
    assert_eq!((young(&world), world.watched()), (0, 1));
    let (_third, _far) = answer(&world, None).await;
    assert_eq!(world.caller.worker.nursery.lock().relays.len(), 2, "places are used again");
    // Its task ends with it.
    drop(other);
    tokio::task::yield_now().await;
    assert_eq!(world.watched(), 0);
}

#[tokio::test(start_paused = true)]
async fn it_is_watched_once_for_both_directions_and_recorded_once() {
    let mut world = World::new(OPEN);
    let watch = world.admitted(None, false, |admitted| Watch::over(Some(admitted), false));
    let exchange = Exchange::new(false, 0, watch);
    exchange.answered().unwrap();
    let (mut body, mut far) = answer(&world, Some(exchange.clone())).await;
    let open = exchange.open().unwrap();
    // Requests begin by the clock of the machine, which has not stopped.
    tokio::time::sleep(Duration::from_secs(60)).await;
    settle(&world).await;
    assert!(world.watched() == 1 && Arc::ptr_eq(&open, &exchange.open().unwrap()));
    for _ in 0..3 {
        // Policy that says the same, in other words.
        world.change(OPEN, ", timeouts: { idle: 50s }");
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert_eq!(exchange.ending(), None, "it ended, and nothing is wrong");
    }
    world.change(CLOSED, "");
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(exchange.ending().unwrap().reason(), Reason::DeniedByRule);
    assert_eq!(world.recorded("deny", "denied_by_rule"), 1);
    assert!(body.frame().await.unwrap().is_err());
    // What comes later is not carried on.
    let (late, mut far) = answer(&world, Some(exchange)).await;
    settle(&world).await;
    assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
    drop(late);
}

/// The request is refused then, and recorded as such; a late answer does not stand.
#[tokio::test]
async fn without_an_answer_it_is_no_stream_that_ends() {
    let world = World::new(CLOSED);
    let mut watch = world.admitted(None, false, |admitted| Watch::over(Some(admitted), false));
    let open = watch.open().unwrap();
    let ending = std::future::poll_fn(|context| open.poll_ended(context)).await;
    assert_eq!(ending.reason(), Reason::DeniedByRule);
    assert_eq!(world.recorded("deny", "denied_by_rule"), 0);
    assert_eq!(watch.stand(), Err(ending));
    for answered_before in [true, false] {
        let mut watch = world.admitted(None, false, |admitted| Watch::over(Some(admitted), false));
        let before = world.recorded("deny", "denied_by_rule");
        if answered_before {
            watch.stand().unwrap();
        }
        let open = watch.open().unwrap();
        if !answered_before {
            watch.stand().unwrap();
        }
        std::future::poll_fn(|context| open.poll_ended(context)).await;
        tokio::task::yield_now().await;
        assert_eq!(world.recorded("deny", "denied_by_rule"), before + 1, "from the answer on it is a stream");
    }
}
