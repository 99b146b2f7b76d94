use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::super::pace::Counts;
use super::super::wire::Wire;
use super::*;

const PING: u8 = 0x6;
const RST_STREAM: u8 = 0x3;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

fn ping() -> Vec<u8> {
    frame(PING, 0, b"01234567")
}

/// A metered server's end, after the preface, and the peer's.
async fn pair() -> (Wire<DuplexStream, Meter>, DuplexStream) {
    let (near, mut far) = duplex(1024 * 1024);
    far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut near = Wire::new(near, Meter::new(Pace::new(true, None, Counts::for_tests())));
    near.read_exact(&mut [0; PREFACE]).await.unwrap();
    (near, far)
}

/// How many of these frames arrive before the end, if that comes.
async fn arrive(
    near: &mut Wire<DuplexStream, Meter>,
    far: &mut DuplexStream,
    one: &[u8],
    count: usize,
) -> (usize, bool) {
    far.write_all(&one.repeat(count)).await.unwrap();
    let mut read = Vec::new();
    while read.len() < one.len() * count && near.tap().end.is_none() {
        near.read_buf(&mut read).await.unwrap();
    }
    let ended = near.tap().end.is_some();
    while near.tap().end.is_some_and(|end| !end.is_empty()) {
        near.read_buf(&mut read).await.unwrap();
    }
    let frames = read.len() - if ended { CALM.len() } else { 0 };
    assert!(!ended || read.ends_with(CALM));
    assert_eq!(read[..frames], one.repeat(count)[..frames], "what passes is not changed");
    (frames / one.len(), ended)
}

#[tokio::test(start_paused = true)]
async fn in_24_frames_that_ask_for_nothing_are_bounded() {
    for (kind, flags, payload, cost) in [
        (PING, 0, &b"01234567"[..], 1),
        (PING, ACK, &b"01234567"[..], 1),
        (SETTINGS, 0, &b""[..], FOR_SETTINGS),
        (SETTINGS, ACK, &b""[..], 1),
        (WINDOW_UPDATE, 0, &[0, 0, 0, 1][..], 1),
        (0x2, 0, &[0, 0, 0, 3, 15][..], 1),
        (0x42, 0, &b""[..], 1),
        (DATA, 0, &b""[..], 1),
    ] {
        let (mut near, mut far) = pair().await;
        let (passed, ended) = arrive(&mut near, &mut far, &frame(kind, flags, payload), 2000).await;
        // The one that is over passes; what follows does not.
        assert_eq!((passed, ended), ((BURST / cost) as usize + 1, true), "{kind:#x} {flags:#x}");
        let error = near.read(&mut [0; 9]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}

#[tokio::test(start_paused = true)]
async fn in_24_frames_that_carry_something_are_not_counted() {
    for (kind, flags, payload) in
        [(HEADERS, 0x5, &b"\x82"[..]), (DATA, 0, &b"x"[..]), (DATA, END_STREAM, &b""[..])]
    {
        let (mut near, mut far) = pair().await;
        let one = frame(kind, flags, payload);
        assert_eq!(arrive(&mut near, &mut far, &one, 20_000).await, (20_000, false), "{kind:#x} {flags:#x}");
    }
}

#[tokio::test(start_paused = true)]
async fn time_brings_more_and_never_more_than_at_first() {
    let (mut near, mut far) = pair().await;
    assert_eq!(arrive(&mut near, &mut far, &ping(), 1000).await, (1000, false));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(arrive(&mut near, &mut far, &ping(), 100).await, (100, false));
    tokio::time::advance(Duration::from_secs(86_400)).await;
    assert_eq!(arrive(&mut near, &mut far, &ping(), 3000).await, (1001, true));
}

/// As the least frugal of honest clients do: two WINDOW_UPDATE and a PING for each DATA, and a reset of every stream.
#[tokio::test(start_paused = true)]
async fn answers_to_our_work_are_free() {
    let (mut near, mut far) = pair().await;
    let mut answer = frame(WINDOW_UPDATE, 0, &[0, 0, 0, 5]).repeat(2);
    answer.extend(ping());
    for _ in 0..10 {
        for size in [0, 1, 300, 16_384] {
            near.write_all(&frame(DATA, 0, &vec![7; size]).repeat(20)).await.unwrap();
            far.read_exact(&mut vec![0; (HEAD + size) * 20]).await.unwrap();
            assert_eq!(arrive(&mut near, &mut far, &answer, 20).await, (20, false));
        }
    }
    let mut given_up = frame(HEADERS, 0x5, b"\x82");
    given_up.extend(frame(RST_STREAM, 0, &[0, 0, 0, 8]));
    assert_eq!(arrive(&mut near, &mut far, &given_up, 5000).await, (5000, false));
}

/// Answers to so many DATA of this size with so many WINDOW_UPDATE for each, of which none may be lost.
async fn assert_goes_on(count: usize, size: usize, updates: usize) {
    let (mut near, mut far) = pair().await;
    let batch = 100;
    let (data, update) = (frame(DATA, 0, &vec![7; size]), frame(WINDOW_UPDATE, 0, &[0, 0, 0, 5]));
    let mut sent = vec![0; data.len()];
    for _ in 0..count / batch {
        for _ in 0..batch {
            near.write_all(&data).await.unwrap();
            far.read_exact(&mut sent).await.unwrap();
        }
        let passed = arrive(&mut near, &mut far, &update, updates * batch).await;
        assert_eq!(passed, (updates * batch, false), "{size} bytes, {updates} updates");
    }
}

/// Time stands still: what they may send they have from our DATA alone.
#[tokio::test(start_paused = true)]
async fn an_honest_reader_is_never_cut_off_however_much_it_reads() {
    assert_goes_on(100_000, 1, 2).await;
    assert_goes_on(100_000, 300, 2).await;
    // Go's client, of which a program reads 4 KiB at a time, and one that reads a KiB.
    assert_goes_on(5_000, 16_384, 8).await;
    assert_goes_on(5_000, 16_384, 32).await;
}

/// Heads and payloads come in pieces of any size; the end comes between two frames, wherever reads end.
#[tokio::test(start_paused = true)]
async fn pieces_of_any_size_are_the_same_frames() {
    for piece in [1, 2, 8, 9, 10, 16, 17, 18, 4096] {
        let mut frames = Frames::after(PREFACE);
        let bytes = [vec![b'P'; PREFACE], ping().repeat(5), frame(DATA, 0, &[0; 300]), ping()].concat();
        let (mut kinds, mut cut, mut at) = (Vec::new(), None, 0);
        for part in bytes.chunks(piece) {
            cut = frames.pass(part, |head| {
                kinds.push(head.kind);
                head.kind == PING
            });
            if let Some(cut) = cut {
                at += cut;
                break;
            }
            at += part.len();
        }
        assert_eq!(kinds, [PING, PING, PING, PING, PING, DATA], "{piece}");
        assert_eq!((cut.is_some(), at), (true, bytes.len() - ping().len()), "{piece}");
    }
}

/// That h2 says so is what the constant is for: the versions of h2 are many.
#[tokio::test]
async fn in_24_who_sends_too_many_is_told_to_be_calm() {
    let (near, mut far) = duplex(1024 * 1024);
    let pace = Pace::new(true, None, Counts::for_tests());
    let server = super::super::http2_server(&pace).serve_connection(
        hyper_util::rt::TokioIo::new(Wire::new(near, Meter::new(pace.clone()))),
        hyper::service::service_fn(|_: http::Request<hyper::body::Incoming>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(super::super::body::Body::Empty))
        }),
    );
    let served = tokio::spawn(server);
    let settings = [&[0, 0, 0, SETTINGS, 0][..], &[0; 4]].concat();
    far.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    far.write_all(&settings).await.unwrap();
    let ping = [&[0, 0, 8, PING, 0][..], &[0; 4], b"01234567"].concat();
    far.write_all(&ping.repeat(2000)).await.unwrap();
    let mut said = Vec::new();
    far.read_to_end(&mut said).await.unwrap();
    let end = b"too_many_continuations";
    assert!(said.ends_with(end));
    let code = said.len() - end.len() - 4;
    assert_eq!(said[code..code + 4], 11_u32.to_be_bytes(), "ENHANCE_YOUR_CALM");
    assert!(served.await.unwrap().is_err());
    assert_eq!(pace.flooded(), Some(super::super::Overdue::Frames));
}
