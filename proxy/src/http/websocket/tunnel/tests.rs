use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

use super::*;
use crate::rejection::Refusal;

const MINUTE: Duration = Duration::from_secs(60);
/// A text message as a client sends it, with a key of zeros, and as a server does.
const MASKED: &[u8] = &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
const PLAIN: &[u8] = &[0x81, 0x02, b'h', b'i'];
const EXPIRED: Farewell = Farewell { code: 1008, word: "expired", patience: Duration::ZERO };

/// A tunnel, both of its ends, and what ends it.
struct Ends {
    client: DuplexStream,
    server: DuplexStream,
    over: tokio::sync::oneshot::Sender<Farewell>,
    gone: tokio::sync::oneshot::Sender<()>,
    end: JoinHandle<End>,
}

fn tunnel(room: usize) -> Ends {
    let ((client, ours), (server, theirs)) = (tokio::io::duplex(room), tokio::io::duplex(room));
    let (over, told) = tokio::sync::oneshot::channel();
    let told = async { told.await.unwrap_or(DRAINING) };
    let (gone, left) = tokio::sync::oneshot::channel();
    let left = async {
        if left.await.is_err() {
            std::future::pending().await
        }
    };
    let end = tokio::spawn(Tunnel::new(ours, theirs, false, MINUTE).run(told, left));
    Ends { client, server, over, gone, end }
}

async fn hears(side: &mut DuplexStream, bytes: &[u8]) {
    let mut heard = vec![0; bytes.len()];
    side.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, bytes);
}

async fn all(side: &mut DuplexStream) -> Vec<u8> {
    let mut heard = Vec::new();
    side.read_to_end(&mut heard).await.unwrap();
    heard
}

/// A Close frame that a server gets, without its mask.
fn unmasked(frame: &[u8]) -> Vec<u8> {
    assert_eq!(frame[1] & 0x80, 0x80, "{frame:?}");
    let payload = frame[6..].iter().zip(frame[2..6].iter().cycle()).map(|(byte, key)| byte ^ key);
    [frame[0], frame[1] & 0x7f].into_iter().chain(payload).collect()
}

#[tokio::test(start_paused = true)]
async fn in_21_both_sides_are_told_where_a_frame_ends() {
    let Ends { mut client, mut server, over, end, .. } = tunnel(64);
    client.write_all(MASKED).await.unwrap();
    hears(&mut server, MASKED).await;
    server.write_all(PLAIN).await.unwrap();
    hears(&mut client, PLAIN).await;
    over.send(EXPIRED).unwrap();
    let close = frames::close(1008, "expired", None);
    hears(&mut client, &close).await;
    client.write_all(&frames::close(1008, "", Some([1; 4]))).await.unwrap();
    assert_eq!(all(&mut client).await, b"", "its answer is all that was waited for");
    assert_eq!(unmasked(&all(&mut server).await), close);
    assert!(matches!(end.await.unwrap(), End::Ours(EXPIRED)));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_is_not_waited_for() {
    let Ends { client: _client, server: _server, over, end, .. } = tunnel(4);
    over.send(EXPIRED).unwrap();
    let start = Instant::now();
    end.await.unwrap();
    assert!(start.elapsed() <= GOODBYE, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn in_21_within_a_frame_nothing_is_inserted() {
    let Ends { mut client, mut server, over, end, .. } = tunnel(64);
    client.write_all(&MASKED[..7]).await.unwrap();
    hears(&mut server, &MASKED[..7]).await;
    over.send(EXPIRED).unwrap();
    tokio::task::yield_now().await;
    let _ = client.write_all(&MASKED[7..]).await;
    assert_eq!(all(&mut server).await, b"", "neither the rest of the frame nor another one");
    assert_eq!(all(&mut client).await, frames::close(1008, "expired", None));
    end.await.unwrap();
}

/// A frame that is on its way is finished, if it does not take too long.
#[tokio::test(start_paused = true)]
async fn draining_waits_for_the_end_of_a_frame() {
    for is_finished in [true, false] {
        let Ends { mut client, mut server, over, end, .. } = tunnel(64);
        client.write_all(&MASKED[..7]).await.unwrap();
        hears(&mut server, &MASKED[..7]).await;
        over.send(DRAINING).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        if is_finished {
            client.write_all(&MASKED[7..]).await.unwrap();
            hears(&mut server, &MASKED[7..]).await;
            assert_eq!(unmasked(&all(&mut server).await), frames::close(1001, "draining", None));
        } else {
            assert_eq!(all(&mut server).await, b"");
        }
        assert_eq!(all(&mut client).await, frames::close(1001, "draining", None));
        end.await.unwrap();
    }
}

/// What has been read in whole frames still goes on, before the Close; what has only begun does not.
#[tokio::test(start_paused = true)]
async fn what_waits_for_a_slow_reader_ends_with_a_whole_frame() {
    let Ends { mut client, mut server, over, end, .. } = tunnel(4);
    let sent = tokio::spawn(async move {
        let _ = client.write_all(&[MASKED, MASKED, &MASKED[..3]].concat()).await;
        client
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    over.send(EXPIRED).unwrap();
    let heard = all(&mut server).await;
    let mut frames = Frames::of(Sender::Client, false);
    let stretch = frames.follow(&heard);
    assert_eq!(
        (stretch.good, stretch.malformed, frames.is_closed()),
        (heard.len(), false, true),
        "{heard:?}"
    );
    end.await.unwrap();
    drop(sent.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn in_21_what_is_no_frame_ends_it_and_does_not_pass() {
    let Ends { mut client, mut server, over: _over, end, .. } = tunnel(64);
    // The second one is not masked.
    client.write_all(&[MASKED, PLAIN, MASKED].concat()).await.unwrap();
    hears(&mut server, MASKED).await;
    let close = frames::close(1002, "malformed_frame", None);
    assert_eq!(unmasked(&all(&mut server).await), close);
    assert_eq!(all(&mut client).await, close);
    assert!(matches!(end.await.unwrap(), End::Ours(MALFORMED)));
}

#[tokio::test(start_paused = true)]
async fn it_is_idle_when_nothing_moves_in_either_direction() {
    let Ends { mut client, mut server, over: _over, end, .. } = tunnel(64);
    for _ in 0..5 {
        tokio::time::sleep(MINUTE * 9 / 10).await;
        server.write_all(PLAIN).await.unwrap();
        hears(&mut client, PLAIN).await;
    }
    let start = Instant::now();
    assert_eq!(all(&mut client).await, frames::close(1001, "idle", None));
    assert!(start.elapsed() >= MINUTE && start.elapsed() <= MINUTE * 2 + GOODBYE, "{:?}", start.elapsed());
    assert!(matches!(end.await.unwrap(), End::Ours(IDLE)));
}

/// The Close frames of both sides pass, and then the end of each.
#[tokio::test(start_paused = true)]
async fn what_the_sides_agree_on_is_theirs() {
    let Ends { mut client, mut server, over: _over, end, .. } = tunnel(64);
    let (asks, answers) = (frames::close(1000, "bye", Some([7; 4])), frames::close(1000, "bye", None));
    client.write_all(&asks).await.unwrap();
    client.write_all(MASKED).await.unwrap();
    hears(&mut server, &asks).await;
    server.write_all(&answers).await.unwrap();
    hears(&mut client, &answers).await;
    server.shutdown().await.unwrap();
    assert_eq!(all(&mut client).await, b"");
    client.shutdown().await.unwrap();
    assert_eq!(all(&mut server).await, b"", "nothing passes after a Close");
    assert!(matches!(end.await.unwrap(), End::Theirs));
}

/// One side may end while the other goes on.
#[tokio::test(start_paused = true)]
async fn an_end_is_passed_on_and_the_other_direction_stays_open() {
    let Ends { mut client, mut server, over: _over, end, .. } = tunnel(64);
    client.shutdown().await.unwrap();
    assert_eq!(all(&mut server).await, b"");
    server.write_all(PLAIN).await.unwrap();
    hears(&mut client, PLAIN).await;
    drop(server);
    assert_eq!(all(&mut client).await, b"");
    assert!(matches!(end.await.unwrap(), End::Theirs));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_stops_the_sender() {
    let Ends { mut client, server: _server, over: _over, end: _end, .. } = tunnel(1024);
    let frame = [&[0x82, 0xfe, 0xff, 0xff, 0, 0, 0, 0], &[0; 65535][..]].concat();
    let mut taken = 0;
    let _ = tokio::time::timeout(Duration::from_secs(5), async {
        while let Ok(written) = client.write(&frame[taken..]).await {
            taken += written;
        }
    })
    .await;
    assert!(taken <= 1024 * 2 + 8 * 1024, "{taken}");
}

#[test]
fn the_code_says_whose_fault_it_is() {
    use countersign_policy::Reason;
    let of = |reason| Farewell::from(Ending { refusal: Refusal::from(reason).into(), is_grpc: false });
    for &reason in Reason::ALL {
        let farewell = of(reason);
        let expected = match reason.status() {
            500 => 1011,
            501..=504 => 1013,
            400..=499 => 1008,
            other => panic!("{other}"),
        };
        assert_eq!((farewell.code, farewell.word), (expected, reason.as_str()));
    }
}

/// hyper says of a stream that was reset with CANCEL that it has ended.
#[tokio::test(start_paused = true)]
async fn in_21_os_5_a_client_that_is_gone_is_not_waited_for_though_the_server_goes_on() {
    let Ends { mut client, mut server, gone, end, over: _over } = tunnel(64);
    client.shutdown().await.unwrap();
    assert_eq!(all(&mut server).await, b"");
    let began = Instant::now();
    gone.send(()).unwrap();
    assert!(matches!(end.await.unwrap(), End::Theirs));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// And neither is one whose bytes the server does not take.
#[tokio::test(start_paused = true)]
async fn in_21_os_5_a_client_that_is_gone_is_not_waited_for_though_the_server_takes_nothing() {
    let Ends { mut client, server: _server, gone, end, over: _over } = tunnel(16);
    for _ in 0..2 {
        client.write_all(MASKED).await.unwrap();
    }
    client.write_all(MASKED).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    gone.send(()).unwrap();
    assert!(matches!(end.await.unwrap(), End::Theirs));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// Where we have said the end, nothing more can be sent, and what the client says goes on.
#[tokio::test(start_paused = true)]
async fn a_client_that_has_heard_the_end_may_go_on() {
    let Ends { mut client, mut server, gone, end, over: _over } = tunnel(64);
    server.shutdown().await.unwrap();
    assert_eq!(all(&mut client).await, b"");
    gone.send(()).unwrap();
    client.write_all(MASKED).await.unwrap();
    hears(&mut server, MASKED).await;
    client.shutdown().await.unwrap();
    assert!(matches!(end.await.unwrap(), End::Theirs));
}
