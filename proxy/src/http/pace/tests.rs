use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::super::*;
use super::{Overdue, PARTING, REST, STALL};

/// How it ended, and after how long.
type Ended = (Option<Overdue>, Duration);

/// A connection that is served, seen from the other side. Its answers are as long as the path says.
fn served(
    is_h2: bool,
    buffer: usize,
) -> (DuplexStream, tokio::task::JoinHandle<Ended>, crate::drain::Signal) {
    let (near, far) = duplex(buffer);
    let (signal, drain) = crate::drain::channel();
    let serving = tokio::spawn(async move {
        let start = Instant::now();
        let overdue = drive(near, Pace::new(is_h2, None, Counts::for_tests()), is_h2, drain, sized).await;
        (overdue, start.elapsed())
    });
    (far, serving, signal)
}

/// `/N` is answered with N bytes, `/wait/N` after N seconds, once the body has been read.
async fn sized(request: Request<Arriving>) -> Response<Body> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let _ = request.into_body().collect().await;
    if let Some(seconds) = path.strip_prefix("wait/") {
        tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap())).await;
    }
    Response::new(Body::from("x".repeat(path.parse().unwrap_or(1))))
}

async fn h2_client(far: DuplexStream) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(far)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn assert_about(took: Duration, expected: Duration) {
    assert!(took >= expected && took < expected + Duration::from_secs(1), "{took:?}, not {expected:?}");
}

const GET: &[u8] = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";

async fn answer(far: &mut DuplexStream) {
    answers(far, 1).await;
}

async fn answers(far: &mut DuplexStream, count: usize) {
    let mut heard = Vec::new();
    while heard.windows(5).filter(|end| end == b"\r\n\r\nx").count() < count {
        assert_ne!(far.read_buf(&mut heard).await.unwrap(), 0, "it was closed");
    }
    assert!(heard.ends_with(b"x"));
}

#[tokio::test(start_paused = true)]
async fn in_24_a_head_has_ten_seconds_from_its_first_byte() {
    for quiet in [Duration::ZERO, Duration::from_secs(45)] {
        let (mut far, serving, _signal) = served(false, 1024);
        tokio::time::sleep(quiet).await;
        let dribble = async {
            for byte in GET.iter().cycle() {
                if far.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let (ended, ()) = tokio::join!(serving, dribble);
        let (overdue, took) = ended.unwrap();
        assert_eq!(overdue, Some(Overdue::Head));
        assert_about(took, quiet + HEAD);
    }
}

#[tokio::test(start_paused = true)]
async fn in_24_each_head_has_its_own_ten_seconds_and_silence_sixty() {
    let (mut far, serving, _signal) = served(false, 1024);
    for _ in 0..20 {
        let (first, rest) = GET.split_at(7);
        far.write_all(first).await.unwrap();
        tokio::time::sleep(Duration::from_secs(9)).await;
        far.write_all(rest).await.unwrap();
        answer(&mut far).await;
        tokio::time::sleep(Duration::from_secs(50)).await;
    }
    let (overdue, took) = serving.await.unwrap();
    assert_eq!(overdue, Some(Overdue::Idle));
    assert_about(took, Duration::from_secs(20 * 59 + 10));
}

/// However the next head comes: in pieces, with the one before, or after a connection has begun to rest.
#[tokio::test(start_paused = true)]
async fn a_connection_that_rests_is_served_as_before() {
    let before = REST - Duration::from_millis(1);
    for pause in [Duration::ZERO, before, REST, REST * 2, Duration::from_secs(9)] {
        for cut in [0, 1, 5, GET.len() - 1] {
            let (mut far, serving, _signal) = served(false, 1024);
            let (begun, rest) = GET.split_at(cut);
            for _ in 0..3 {
                // Two at once, and the beginning of the next one.
                far.write_all(&[GET, GET, begun].concat()).await.unwrap();
                answers(&mut far, 2).await;
                tokio::time::sleep(pause).await;
                far.write_all(rest).await.unwrap();
                answer(&mut far).await;
                tokio::time::sleep(pause).await;
            }
            far.shutdown().await.unwrap();
            assert_eq!(tokio::time::timeout(REST * 2, serving).await.expect("its end").unwrap().0, None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_24_what_is_under_way_is_not_idle() {
    let (mut far, serving, _signal) = served(false, 1024);
    far.write_all(b"POST /wait/200 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n").await.unwrap();
    for byte in b"abc" {
        tokio::time::sleep(Duration::from_secs(100)).await;
        far.write_all(&[*byte]).await.unwrap();
    }
    answer(&mut far).await;
    let (overdue, took) = serving.await.unwrap();
    assert_eq!(overdue, Some(Overdue::Idle));
    assert_about(took, Duration::from_secs(500) + IDLE);
}

#[tokio::test(start_paused = true)]
async fn in_24_the_beginning_of_a_next_head_is_bounded_too() {
    let (mut far, serving, _signal) = served(false, 1024);
    far.write_all(b"GET /wait/100 HTTP/1.1\r\nHost: a\r\n\r\nGET / HT").await.unwrap();
    answer(&mut far).await;
    let (overdue, took) = serving.await.unwrap();
    assert_eq!(overdue, Some(Overdue::Head));
    assert_about(took, Duration::from_secs(100) + HEAD);
}

#[tokio::test(start_paused = true)]
async fn in_24_who_takes_nothing_is_cut_off_and_who_takes_little_is_not() {
    let (mut far, serving, _signal) = served(false, 1024);
    far.write_all(b"GET /5000 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut taken = [0; 1000];
    for _ in 0..3 {
        tokio::time::sleep(STALL - Duration::from_secs(1)).await;
        far.read_exact(&mut taken).await.unwrap();
    }
    let (overdue, took) = serving.await.unwrap();
    assert_eq!(overdue, Some(Overdue::Write));
    assert_about(took, (STALL - Duration::from_secs(1)) * 3 + STALL);
}

#[tokio::test(start_paused = true)]
async fn in_24_a_connection_of_http2_without_streams_is_told_to_go() {
    let (far, serving, _signal) = served(true, 64 * 1024);
    let mut sender = h2_client(far).await;
    let get = |path: &str| Request::get(format!("http://a{path}")).body(Full::default()).unwrap();
    for seconds in [0, 100, 30] {
        tokio::time::sleep(Duration::from_secs(50)).await;
        let answer = sender.send_request(get(&format!("/wait/{seconds}"))).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let (overdue, took) = serving.await.unwrap();
    assert_eq!(overdue, Some(Overdue::Idle));
    assert_about(took, Duration::from_secs(280) + IDLE);
    assert!(sender.send_request(get("/")).await.is_err());
}

/// The preface, and settings without any.
const BEGUN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0, length[0], length[1], kind, flags, 0, 0, 0, stream], payload].concat()
}

/// `:method: GET`, `:scheme: http`, `:path` and `:authority: a`, and a field of so many bytes.
fn fields(path: &str, length: u8) -> Vec<u8> {
    let path = [&[0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()], path.as_bytes()].concat();
    [&path[..], b"\x01\x01a\0\x01x", &[length.min(126)], &vec![b'b'; usize::from(length.min(126))]].concat()
}

/// Whatever part of it is slow to come; beside a stream that is open, too, and on a connection that was quiet before.
#[tokio::test(start_paused = true)]
async fn in_24_a_head_of_http2_has_ten_seconds_from_its_first_byte() {
    let (all, end) = (0x5, 0x1);
    let halves = fields("/1", 100);
    let (one, other) = halves.split_at(50);
    let open = frame(HEADERS, all, 1, &fields("/wait/200", 0));
    for (name, first, rest) in [
        ("a frame", vec![], frame(HEADERS, all, 3, &fields("/1", 100))),
        ("no CONTINUATION", frame(HEADERS, end, 3, one), vec![]),
        ("CONTINUATION", frame(HEADERS, end, 3, one), frame(CONTINUATION, 4, 3, other)),
        ("small ones", frame(HEADERS, end, 3, one), frame(CONTINUATION, 0, 3, b"\0\x01x\x01y").repeat(10)),
        ("a frame's own head", frame(HEADERS, all, 3, one)[..4].to_vec(), vec![]),
        ("trailers", frame(HEADERS, 4, 3, &fields("/1", 9)), frame(HEADERS, all, 3, b"\0\x01x\x01y")),
    ] {
        for (before, quiet) in [(&b""[..], 0), (&open, 0), (b"", 45)] {
            let (mut far, serving, _signal) = served(true, 64 * 1024);
            far.write_all(&[BEGUN, before].concat()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(quiet)).await;
            let dribble = async {
                far.write_all(&first).await.unwrap();
                for byte in &rest {
                    if far.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                far
            };
            let (ended, _far) = tokio::join!(serving, dribble);
            let (overdue, took) = ended.unwrap();
            assert_eq!(overdue, Some(Overdue::Head), "{name}");
            assert_about(took, Duration::from_secs(quiet) + HEAD);
        }
    }
}

/// Until so many streams have been answered with one byte. Less than a minute after the beginning, since nobody answers pings here.
async fn answers_of_http2(far: &mut DuplexStream, count: usize) {
    let mut heard = Vec::new();
    let is_answer = |bytes: &[u8]| matches!(bytes, [0, 0, 1, 0, _, 0, 0, 0, _, b'x']);
    while heard.windows(10).filter(|bytes| is_answer(bytes)).count() < count {
        assert_ne!(far.read_buf(&mut heard).await.unwrap(), 0, "it was closed");
    }
}

/// Each read ends within a head, which is not the same one for long.
#[tokio::test(start_paused = true)]
async fn in_24_each_head_of_http2_has_its_own_time() {
    let (mut far, _serving, _signal) = served(true, 64 * 1024);
    far.write_all(BEGUN).await.unwrap();
    let heads = [1, 3, 5, 7, 9, 11].map(|stream| frame(HEADERS, 0x5, stream, &fields("/1", 100)));
    for piece in heads.concat().chunks(70) {
        far.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    answers_of_http2(&mut far, heads.len()).await;
}

#[tokio::test(start_paused = true)]
async fn in_24_a_body_of_http2_has_the_time_of_a_body_to_the_byte() {
    let (mut far, _serving, _signal) = served(true, 64 * 1024);
    far.write_all(&[BEGUN, &frame(HEADERS, 0x4, 1, &fields("/1", 0))].concat()).await.unwrap();
    for (n, byte) in frame(0, 0x1, 1, b"slow").into_iter().enumerate() {
        far.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(if n < 4 { HEAD + Duration::from_secs(1) } else { Duration::from_secs(1) }).await;
    }
    answers_of_http2(&mut far, 1).await;
}

/// Frames that are no request keep nothing alive.
#[tokio::test(start_paused = true)]
async fn in_24_pings_are_no_activity() {
    let (far, serving, _signal) = served(true, 64 * 1024);
    // It answers ours, too.
    let (_sender, connection) =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(3))
            .keep_alive_while_idle(true)
            .handshake::<_, Body>(TokioIo::new(far))
            .await
            .unwrap();
    tokio::spawn(connection);
    let (overdue, took) = serving.await.unwrap();
    assert_eq!(overdue, Some(Overdue::Idle));
    assert!(took <= IDLE + PARTING + Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn on_a_drain_idle_connections_close_at_once_and_a_head_has_a_moment() {
    let (mut far, serving, signal) = served(false, 1024);
    far.write_all(GET).await.unwrap();
    answer(&mut far).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    signal.start();
    assert_about(serving.await.unwrap().1, Duration::from_secs(3));

    let (mut far, serving, signal) = served(false, 1024);
    far.write_all(b"GET / HT").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    signal.start();
    let (_, took) = serving.await.unwrap();
    assert!(took <= Duration::from_secs(1) + PARTING + Duration::from_secs(1), "{took:?}");
}

/// An answer is under way until its caller has been able to take it.
#[tokio::test(start_paused = true)]
async fn what_is_taken_slowly_of_http2_is_neither_idle_nor_cut_off_by_a_drain() {
    for is_drained in [false, true] {
        let (far, serving, signal) = served(true, 64 * 1024);
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(400);
        let (mut sender, connection) = builder.handshake::<_, Bytes>(far).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://a/16000").body(()).unwrap();
        let mut body = sender.send_request(request, true).unwrap().0.await.unwrap().into_body();
        if is_drained {
            signal.start();
        }
        let mut taken = 0;
        while let Some(part) = body.data().await {
            let part = part.unwrap();
            taken += part.len();
            tokio::time::sleep(Duration::from_secs(1)).await;
            body.flow_control().release_capacity(part.len()).unwrap();
        }
        assert_eq!(taken, 16_000);
        drop((sender, body));
        serving.await.unwrap();
    }
}
