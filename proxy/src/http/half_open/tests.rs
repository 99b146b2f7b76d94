use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::super::pace::{Busy, Counts};
use super::super::wire::Wire;
use super::*;

fn over(stream: DuplexStream) -> (Wire<DuplexStream, HalfOpen>, Arc<Pace>) {
    let pace = Pace::new(false, None, Counts::for_tests());
    (Wire::new(stream, HalfOpen::new(pace.clone())), pace)
}

/// How long it takes until the end is heard.
async fn heard(stream: &mut Wire<DuplexStream, HalfOpen>) -> Duration {
    let began = Instant::now();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_client_is_heard_at_once_but_where_it_is_owed_an_answer() {
    let (near, mut far) = duplex(64);
    let (mut stream, pace) = over(near);
    far.write_all(b"ab").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 2);
    assert_eq!(heard(&mut stream).await, Duration::ZERO, "idle");
    let request = Busy::exchange(&pace, false);
    request.starves(true);
    assert_eq!(heard(&mut stream).await, MOMENT, "the request lacks its end");
    request.starves(false);
    assert_eq!(heard(&mut stream).await, IN_LINE - MOMENT, "it has not been passed on");
    pace.goes_out();
    assert_eq!(heard(&mut stream).await, PATIENCE - IN_LINE, "what has come of it has not been taken");
    request.is_whole();
    assert_eq!(heard(&mut stream).await, Duration::ZERO, "and nobody has taken anything since");
    let body = request.body();
    drop(request);
    assert_eq!(heard(&mut stream).await, Duration::ZERO, "answered");
    body.is_whole();
    assert_eq!(heard(&mut stream).await, Duration::ZERO, "a body that is heard out after its answer");
}

#[tokio::test(start_paused = true)]
async fn who_takes_something_is_there() {
    let (near, mut far) = duplex(4);
    let (stream, pace) = over(near);
    far.shutdown().await.unwrap();
    let answer = Busy::exchange(&pace, true);
    pace.goes_out();
    let (mut read, mut write) = tokio::io::split(stream);
    let began = Instant::now();
    let end = tokio::spawn(async move {
        assert_eq!(read.read(&mut [0; 8]).await.unwrap(), 0);
        began.elapsed()
    });
    tokio::time::sleep(PATIENCE / 2).await;
    write.write_all(b"abcd").await.unwrap();
    // The last of it does not fit: owed until it has been taken, whatever hyper has done with the body.
    let last = tokio::spawn(async move {
        write.write_all(b"efgh").await.unwrap();
        write
    });
    tokio::task::yield_now().await;
    drop(answer);
    tokio::time::sleep(PATIENCE * 3 / 4).await;
    assert!(!end.is_finished(), "it has taken something since");
    far.read_exact(&mut [0; 8]).await.unwrap();
    let _write = last.await.unwrap();
    assert_eq!(end.await.unwrap(), PATIENCE / 2 + PATIENCE * 3 / 4);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_answer_wakes_who_waits() {
    let (near, mut far) = duplex(4);
    let (mut stream, pace) = over(near);
    far.shutdown().await.unwrap();
    let answer = Busy::exchange(&pace, true);
    pace.goes_out();
    let end = tokio::spawn(async move { heard(&mut stream).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(answer);
    assert_eq!(end.await.unwrap(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn who_has_ended_its_side_waits_in_no_line_for_long_and_the_next_request_is_not_passed_on_yet() {
    let (near, mut far) = duplex(64);
    let (mut stream, pace) = over(near);
    far.shutdown().await.unwrap();
    drop(Busy::exchange(&pace, true));
    pace.goes_out();
    let _request = Busy::exchange(&pace, true);
    assert_eq!(heard(&mut stream).await, IN_LINE);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_passed_on_meanwhile_gives_its_client_more_time() {
    let (near, mut far) = duplex(64);
    let (mut stream, pace) = over(near);
    far.shutdown().await.unwrap();
    let _request = Busy::exchange(&pace, true);
    let end = tokio::spawn(async move { heard(&mut stream).await });
    tokio::time::sleep(IN_LINE / 2).await;
    pace.goes_out();
    assert_eq!(end.await.unwrap(), PATIENCE);
}
