//! Does this rule mean this path? Patterns of whole segments, matched against canonical paths without allocation.

use serde_json::{Map, Value};

use super::head::Beginning;
use super::{CanonicalPath, decoded, is_unreserved};

/// A path pattern of a rule (semantics 8): segments, each a literal, `{name}` or `{claims.NAME}`, and `*` as the last.
///
/// An escape and the character it stands for match each other, in literals and in claims: `/a@b` is also `/a%40b`.
/// Servers read the two alike, so a deny of one must not be dodged by writing the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    beginning: Beginning,
    written: String,
    segments: Vec<Segment>,
    /// Ends in `*`: also whatever is below.
    below: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// The decoded bytes. Empty for a trailing slash.
    Literal(Vec<u8>),
    /// One segment, not empty. The name is the capture's.
    Any(String),
    /// One segment, equal to this string claim.
    Claim(String),
}

// === impl PathPattern ===

impl PathPattern {
    /// Reads a pattern. Fails, with what to write instead, where it could never match a canonical path.
    pub fn parse(written: &str) -> Result<Self, String> {
        let Some(path) = written.strip_prefix('/') else {
            return Err("a path pattern starts with `/`".into());
        };
        let (path, below) = match path.strip_suffix('*') {
            // The slash before the `*` belongs to what is below: `/a/*` is also `/a`.
            Some("") => (None, true),
            Some(front) if front.ends_with('/') => (front.strip_suffix('/'), true),
            _ => (Some(path), false),
        };
        let mut segments = Vec::new();
        if let Some(path) = path {
            let mut parts = path.split('/').peekable();
            while let Some(part) = parts.next() {
                let last = parts.peek().is_none() && !below;
                if part.is_empty() && !last {
                    return Err("an empty segment (`//`) never matches, such requests are refused".into());
                }
                let segment = Segment::parse(part)?;
                if let Segment::Any(name) = &segment
                    && segments.contains(&segment)
                {
                    return Err(format!("`{{{name}}}` stands twice in one pattern, give each its own name"));
                }
                segments.push(segment);
            }
        }
        Ok(Self { beginning: Beginning::of(&plain(&segments)), written: written.into(), segments, below })
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// Does it hold a `{claims.NAME}`? What it matches then depends on the token.
    pub fn needs_claims(&self) -> bool {
        self.segments.iter().any(|segment| matches!(segment, Segment::Claim(_)))
    }

    /// Does it hold a `{claims.NAME}` of this name?
    pub(crate) fn reads_claim(&self, name: &str) -> bool {
        self.segments.iter().any(|segment| matches!(segment, Segment::Claim(own) if own == name))
    }

    /// Does it end in `*`?
    pub(crate) fn is_below(&self) -> bool {
        self.below
    }

    /// Is there no word in it that a path must hold, as in `/*` and `/{a}/*`? The one path `/` is one.
    pub(crate) fn names_nothing(&self) -> bool {
        let is_open = |segment: &Segment| match segment {
            Segment::Literal(bytes) => bytes.is_empty(),
            Segment::Any(_) => true,
            Segment::Claim(_) => false,
        };
        self.written != "/" && self.segments.iter().all(is_open)
    }

    /// The literal segments that every path that it matches begins with.
    pub(crate) fn literals(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().map_while(|segment| match segment {
            Segment::Literal(bytes) => Some(bytes.as_slice()),
            Segment::Any(_) | Segment::Claim(_) => None,
        })
    }

    /// Has it a segment `{name}`?
    pub(crate) fn captures(&self, name: &str) -> bool {
        self.place_of(name).is_some()
    }

    /// The segment of a path that it matches, still escaped, that its `{name}` stands for.
    pub(crate) fn capture<'p>(&self, name: &str, path: &'p CanonicalPath<'_>) -> Option<&'p str> {
        path.segments().nth(self.place_of(name)?)
    }

    fn place_of(&self, name: &str) -> Option<usize> {
        self.segments.iter().position(|segment| matches!(segment, Segment::Any(own) if own == name))
    }

    /// Does it match every path that the other does, whatever the caller's claims?
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let mut theirs = other.segments.iter();
        let prefix =
            self.segments.iter().all(|segment| theirs.next().is_some_and(|other| segment.covers(other)));
        prefix && (self.below || (!other.below && theirs.next().is_none()))
    }

    /// Does it match this path for a caller with these verified claims?
    pub fn matches(&self, path: &CanonicalPath<'_>, claims: Option<&Map<String, Value>>) -> bool {
        self.judge(path, claims) == Some(true)
    }

    /// The same, but `None` where it cannot be told: a claim that it compares with is not there or is no segment, or it goes on
    /// where the path is raw, so that others may split the path elsewhere.
    pub(crate) fn judge(
        &self,
        path: &CanonicalPath<'_>,
        claims: Option<&Map<String, Value>>,
    ) -> Option<bool> {
        // Of a raw path only whole segments tell.
        if !path.is_raw() && !self.beginning.may_begin(path.head) {
            return Some(false);
        }
        let mut parts = path.segments();
        let mut judged = Some(true);
        for (place, segment) in self.segments.iter().enumerate() {
            if place >= path.plain_segments() {
                return None;
            }
            match parts.next().map(|part| segment.judge(part, claims)) {
                None | Some(Some(false)) => return Some(false),
                Some(None) => judged = None,
                Some(Some(true)) => {}
            }
        }
        if self.below || parts.next().is_none() { judged } else { Some(false) }
    }

    /// Is the raw part of the path all below it, whoever asks?
    pub(crate) fn covers_raw(&self, path: &CanonicalPath<'_>) -> bool {
        self.below && self.segments.len() <= path.plain_segments() && self.judge(path, None) != Some(false)
    }
}

// === impl Segment ===

impl Segment {
    fn parse(part: &str) -> Result<Self, String> {
        if part.contains('*') {
            return Err(
                "`*` stands only for the whole last segment, as in `/orders/*`; for one segment write \
                        `{name}`, for the character itself `%2A`"
                    .into(),
            );
        }
        if let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            return Self::variable(name);
        }
        if part.contains(['{', '}']) {
            return Err(
                "braces stand only around a whole segment, as in `/orders/{id}`; for the characters themselves \
                 write `%7B` and `%7D`"
                    .into(),
            );
        }
        literal(part).map(Segment::Literal)
    }

    fn variable(name: &str) -> Result<Self, String> {
        if let Some(claim) = name.strip_prefix("claims.") {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':');
            return if !claim.is_empty() && claim.bytes().all(plain) {
                Ok(Segment::Claim(claim.into()))
            } else {
                Err(format!(
                    "`{{{name}}}` does not name a claim: the name of a claim at the top level of the token is \
                     expected, of letters, digits, `_`, `-` and `:`"
                ))
            };
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let starts = |byte: &u8| !byte.is_ascii_digit();
        if name == "claims" || !name.bytes().all(plain) || !name.as_bytes().first().is_some_and(starts) {
            return Err(format!(
                "`{{{name}}}` is not a name: letters, digits and `_` are expected, or `claims.` and the name of a \
                 claim"
            ));
        }
        Ok(Segment::Any(name.into()))
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Segment::Any(_), Segment::Literal(bytes)) => !bytes.is_empty(),
            (Segment::Any(_), _) => true,
            _ => self == other,
        }
    }

    /// `None`: there is no such claim to compare with, or it cannot be one segment.
    fn judge(&self, part: &str, claims: Option<&Map<String, Value>>) -> Option<bool> {
        match self {
            Segment::Literal(bytes) => Some(decoded(part).eq(bytes.iter().copied())),
            Segment::Any(_) => Some(!part.is_empty()),
            Segment::Claim(name) => match claims.and_then(|claims| claims.get(name)) {
                Some(Value::String(claim)) if !claim.is_empty() && !claim.contains('/') => {
                    Some(decoded(part).eq(claim.bytes()))
                }
                _ => None,
            },
        }
    }
}

/// What every path that these segments match begins with: their first bytes, up to the first that need not be the same. A
/// character that is not escaped in canonical paths is, and so is the slash before a segment.
fn plain(segments: &[Segment]) -> String {
    let mut plain = String::new();
    for segment in segments {
        plain.push('/');
        let Segment::Literal(bytes) = segment else { break };
        let has_one_form = |byte: &&u8| is_unreserved(**byte) || **byte == b'.';
        let same = bytes.iter().take_while(has_one_form);
        let before = plain.len();
        plain.extend(same.map(|byte| char::from(*byte)));
        if plain.len() - before < bytes.len() {
            break;
        }
    }
    plain
}

/// The bytes of a literal segment that is canonical.
fn literal(part: &str) -> Result<Vec<u8>, String> {
    if part.contains('?') {
        return Err(
            "the query is never matched, leave it out of the pattern; for the character itself write `%3F`"
                .into(),
        );
    }
    let target = format!("/{part}");
    match CanonicalPath::parse(&target) {
        Some(path) if path.as_str() == target => Ok(decoded(part).collect()),
        Some(path) => {
            let canonical = path.as_str().trim_start_matches('/');
            Err(format!(
                "`{part}` never matches, requests are brought to canonical form: write `{canonical}`"
            ))
        }
        None if part.is_ascii() => Err(format!(
            "`{}` never matches, such requests are refused: no dot segments, `;`, `\\`, `#`, spaces, controls, \
             invalid escapes, nor any of these escaped",
            part.escape_debug()
        )),
        None => Err(format!(
            "`{}` never matches: write non-ASCII characters as escapes of their UTF-8",
            part.escape_debug()
        )),
    }
}
