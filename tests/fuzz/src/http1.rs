//! The bytes of a connection. Whatever they are, an application gets whole requests that policy allows, as many as were asked for,
//! each answered once.

use crate::road::{How, Request, TOKEN, Told, Way, decoded, needs_token, road, split};
use crate::strict;

/// The first byte says how the others behave ([`How`]). Behind it are the bytes that are sent: `{token}` is a good token, and at
/// `{then}` the caller waits until nothing moves.
pub fn check(data: &[u8]) {
    let Some(Carried { how, tokens, sent, told }) = carry(data) else { return };
    answered(how, &told);
    if how.way == Way::Inbound {
        let opened = told.record.requests.iter().filter(|request| needs_token(request)).count();
        // Bytes of HTTP/2 may say a field again by a number.
        let may_repeat = sent.starts_with(b"PRI ");
        assert!(opened <= tokens || may_repeat && tokens > 0, "{opened} requests with {tokens} tokens");
        as_framed(&sent, &told);
    }
}

/// A connection, and what became of it.
pub(crate) struct Carried {
    how: How,
    /// How many are in what was sent.
    tokens: usize,
    sent: Vec<u8>,
    pub(crate) told: Told,
}

pub(crate) fn carry(data: &[u8]) -> Option<Carried> {
    let (first, bytes) = data.split_first()?;
    let (how, road) = (How::of(*first), road());
    let segments: Vec<Vec<u8>> = split(bytes, THEN).into_iter().map(|part| road.with_tokens(part)).collect();
    let told = road.tell(how, &segments);
    Some(Carried { how, tokens: split(bytes, TOKEN.as_bytes()).len() - 1, sent: segments.concat(), told })
}

/// Every answer is one that the upstream gave, in its order, and where it answers each request, no request was hidden.
fn answered(how: How, told: &Told) {
    let heard: Vec<usize> = numbers(&told.heard);
    assert!(heard.is_sorted_by(|one, next| one < next), "answers out of order: {heard:?}");
    assert!(
        heard.last().is_none_or(|last| *last <= told.record.numbered),
        "an answer that nobody gave: {heard:?}"
    );
    let seen = told.record.requests.len();
    let is_http1 = told.heard.is_empty() || told.heard.starts_with(b"HTTP/1.");
    assert!(!how.answers() || !is_http1 || seen <= heard.len(), "{seen} requests, and the answers {heard:?}");
}

/// The numbers of the answers to a caller of HTTP/1.1.
fn numbers(heard: &[u8]) -> Vec<usize> {
    let text = strict::latin(heard);
    let parts = text.split("\r\nx-served: ").skip(1);
    parts
        .map(|part| part.split("\r\n").next().and_then(|digits| digits.parse().ok()).expect("a number"))
        .collect()
}

/// Where a parser that forgives nothing can read what the caller sent, the application got nothing else: of the requests there
/// some may be refused, and the others are the same.
fn as_framed(sent: &[u8], told: &Told) {
    let (mut framed, mut at) = (Vec::new(), 0);
    while let Some(rest) = sent.get(at..).filter(|rest| !rest.is_empty()) {
        match strict::read(rest) {
            Ok(strict::Read::Whole(message, used)) => {
                framed.push(*message);
                at += used;
            }
            Ok(strict::Read::Begun) => break,
            Err(_) => return,
        }
    }
    let mut left = framed.iter();
    for request in &told.record.requests {
        let is_it = left.any(|message| is_as_sent(message, request));
        assert!(is_it, "nobody sent {request:?}: {framed:?}");
    }
}

/// The path may have been written in another way, and nothing else.
fn is_as_sent(message: &strict::Message, request: &Request) -> bool {
    let mut words = message.line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let parts = |target: &str| {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        (decoded(path), query.map(str::to_owned))
    };
    method == request.method && message.body == request.body && parts(target) == parts(&request.target)
}

const THEN: &[u8] = b"{then}";
