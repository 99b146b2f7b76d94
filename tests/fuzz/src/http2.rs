//! Frames of HTTP/2. Whatever they are, an application gets whole requests that policy allows, and no more than were asked for; the
//! same where it speaks HTTP/1.1.

use crate::attacks::written::{DATA, HEADERS};
use crate::frames;
use crate::road::{How, Told, Way, needs_token, road};

/// The first byte says how the others behave ([`How`]). Behind it are steps, which [`frames::sent`] reads.
pub fn check(data: &[u8]) {
    let Some(Carried { how, has_token, sent, told }) = carry(data) else { return };
    asked_for(&sent, &told);
    answered(&told);
    let opens = |request| how.way == Way::Inbound && needs_token(request);
    assert!(has_token || !told.record.requests.iter().any(opens), "a way in without a token");
}

/// A connection, and what became of it.
pub(crate) struct Carried {
    how: How,
    has_token: bool,
    sent: Vec<u8>,
    pub(crate) told: Told,
}

pub(crate) fn carry(data: &[u8]) -> Option<Carried> {
    let (first, steps) = data.split_first()?;
    let (how, road) = (How::of(*first), road());
    let segments = frames::sent(*first, steps, &|value| road.with_tokens(value));
    let told = road.tell(how, &segments);
    let sent = segments.concat();
    Some(Carried { how, has_token: road.is_shown(&sent), sent, told })
}

/// Each request began with a HEADERS frame of the caller's.
fn asked_for(sent: &[u8], told: &Told) {
    let Some(frames) = frames::read_sent(sent) else { return };
    let begun = frames.iter().filter(|frame| frame.kind == HEADERS).count();
    let seen = told.record.requests.len();
    assert!(seen <= begun, "{seen} requests of {begun}: {:?}", told.record.requests);
}

/// What the caller hears are frames, and each answer in them is one that the upstream gave, on a stream of its own.
fn answered(told: &Told) {
    if told.heard.starts_with(b"HTTP/1.") {
        return;
    }
    let (frames, rest) = frames::read(&told.heard);
    // Of a connection that ended, the last frame may have been cut.
    assert!(rest.len() < 9 + (1 << 14), "no frames: {rest:?}");
    let mut numbers = Vec::new();
    for frame in frames.iter().filter(|frame| frame.kind == DATA) {
        let text = String::from_utf8_lossy(frame.payload);
        let number = text.strip_prefix("served ").and_then(|rest| rest.strip_suffix(';'));
        numbers.extend(number.and_then(|number| number.parse::<usize>().ok()));
    }
    let all = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(all, numbers.len(), "an answer twice: {numbers:?}");
    assert!(
        numbers.last().is_none_or(|last| *last <= told.record.numbered),
        "answers that nobody gave: {numbers:?}"
    );
}
