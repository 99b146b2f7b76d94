//! Is this a sound HTTP/1.1 request, and where does it end? A parser that forgives nothing, so that whatever an application's
//! own parser forgives, it reads the same. It has nothing in common with the one under test.

/// A whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    /// Without the framing of chunks.
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

/// How far the bytes have come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// A request, and its length in bytes.
    Whole(Box<Message>, usize),
    /// More has to come.
    Begun,
}

/// Reads the request at the start of `bytes`. An error says what is wrong with it: with a head as soon as that is complete.
pub(crate) fn read(bytes: &[u8]) -> Result<Read, String> {
    read_by(bytes, request_line)
}

/// The same, with another rule for the request line.
pub(crate) fn read_by(bytes: &[u8], request_line: fn(&str) -> Result<(), String>) -> Result<Read, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        // Lines end in CRLF alone, and what has come of the last one may stop between the two.
        return lines(bytes.strip_suffix(b"\r").unwrap_or(bytes)).map(|_| Read::Begun);
    };
    let mut lines = lines(&bytes[..end])?.into_iter();
    let line = lines.next().unwrap_or_default();
    let fields = lines.map(|line| field(&line)).collect::<Result<Vec<_>, _>>()?;
    request_line(&line)?;
    judge(&fields)?;
    let mut message = Message { line, fields, body: Vec::new(), trailers: Vec::new() };
    let rest = &bytes[end + 4..];
    let used = if message.all("transfer-encoding").is_empty() {
        let length = message.all("content-length").first().map_or(Ok(0), |length| length.parse::<usize>());
        let length = length.map_err(|_| "a length that nobody has room for")?;
        let Some(body) = rest.get(..length) else { return Ok(Read::Begun) };
        message.body = body.to_vec();
        length
    } else {
        match chunks(rest, &mut message)? {
            Some(used) => used,
            None => return Ok(Read::Begun),
        }
    };
    Ok(Read::Whole(Box::new(message), end + 4 + used))
}

/// `None`: more has to come.
fn chunks(bytes: &[u8], message: &mut Message) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let size = &bytes[at..at + end];
        if size.is_empty() || size.len() > 8 || !size.iter().all(u8::is_ascii_hexdigit) {
            return Err(format!("the chunk size {:?}", latin(size)));
        }
        let size = usize::from_str_radix(&latin(size), 16).map_err(|error| error.to_string())?;
        at += end + 2;
        if size == 0 {
            break;
        }
        let Some(data) = bytes.get(at..at + size + 2) else { return Ok(None) };
        let data = data.strip_suffix(b"\r\n").ok_or("a chunk that does not end where it says")?;
        message.body.extend(data);
        at += size + 2;
    }
    if bytes[at..].starts_with(b"\r\n") {
        return Ok(Some(at + 2));
    }
    let Some(end) = find(&bytes[at..], b"\r\n\r\n") else { return Ok(None) };
    for line in lines(&bytes[at..at + end])? {
        let (name, value) = field(&line)?;
        if NOT_IN_TRAILERS.contains(&name.as_str()) {
            return Err(format!("the trailer field {name}"));
        }
        message.trailers.push((name, value));
    }
    Ok(Some(at + end + 4))
}

/// Bytes between CRLFs, none of which is a CR, LF, NUL or other control character.
fn lines(bytes: &[u8]) -> Result<Vec<String>, String> {
    let text = latin(bytes);
    let lines: Vec<String> = text.split("\r\n").map(str::to_owned).collect();
    match lines.iter().find(|line| line.contains(|c: char| c.is_ascii_control() && c != '\t')) {
        Some(line) => Err(format!("a control character in {line:?}")),
        None => Ok(lines),
    }
}

/// Method, origin form, version, and one space between them (RFC 9112 §3).
fn request_line(line: &str) -> Result<(), String> {
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else { return Err(format!("the request line {line:?}")) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let is_path = path.starts_with('/')
        && !path.starts_with("//")
        && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\\".contains(&byte));
    let is_query = query.bytes().all(|byte| !byte.is_ascii_control() && !b" #".contains(&byte));
    let is_target = is_path && is_query;
    if is_token(method) && is_target { Ok(()) } else { Err(format!("the request line {line:?}")) }
}

fn field(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("the line {line:?}"))?;
    let value = value.strip_prefix(' ').unwrap_or(value);
    if !is_token(name) || value != value.trim_matches([' ', '\t']) {
        return Err(format!("the line {line:?}"));
    }
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}

/// One host, one framing, nothing of another hop.
fn judge(fields: &[(String, String)]) -> Result<(), String> {
    let all = |wanted: &str| -> Vec<&str> {
        fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect()
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || "-._~:[]".contains(c);
    match all("host")[..] {
        [host] if !host.is_empty() && host.chars().all(is_host) => {}
        ref hosts => return Err(format!("the hosts {hosts:?}")),
    }
    match (&all("transfer-encoding")[..], &all("content-length")[..]) {
        ([] | ["chunked"], []) => {}
        ([], [length]) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {}
        framing => return Err(format!("the framing {framing:?}")),
    }
    let is_upgrade = all("upgrade") == ["websocket"] && all("connection") == ["Upgrade"];
    for (name, value) in fields {
        let is_of_this_hop = match name.as_str() {
            "connection" | "upgrade" => is_upgrade,
            // That we take trailers, which is so.
            "te" => value == "trailers",
            name => !OF_A_HOP.contains(&name),
        };
        if !is_of_this_hop {
            return Err(format!("the field {name}: {value}"));
        }
    }
    Ok(())
}

fn is_token(text: &str) -> bool {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(is_token)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Each byte a character, whatever it is.
pub(crate) fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

const OF_A_HOP: [&str; 5] =
    ["keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "http2-settings"];
const NOT_IN_TRAILERS: [&str; 5] =
    ["host", "content-length", "transfer-encoding", "authorization", "proxy-authorization"];

// === impl Message ===

impl Message {
    /// Every value of this field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// As tables of attacks write it: `¶` is CRLF, a body is without the framing of its chunks, and trailers follow it.
impl std::fmt::Display for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}¶", self.line)?;
        self.fields.iter().try_for_each(|(name, value)| write!(f, "{name}: {value}¶"))?;
        write!(f, "¶{}", latin(&self.body))?;
        self.trailers.iter().try_for_each(|(name, value)| write!(f, "¶{name}: {value}"))
    }
}

#[test]
fn a_strict_parser_takes_one_reading_and_no_other() {
    let whole = |text: &str| match read(text.as_bytes()) {
        Ok(Read::Whole(message, used)) => Some((message.to_string(), used)),
        Ok(Read::Begun) => None,
        Err(error) => Some((error, 0)),
    };
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(whole(&get.repeat(2)), Some(("GET / HTTP/1.1¶host: a¶¶".to_owned(), get.len())));
    let chunked =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n";
    let text = "POST / HTTP/1.1¶host: a¶transfer-encoding: chunked¶¶abc¶x: y";
    assert_eq!(whole(chunked), Some((text.to_owned(), chunked.len())));
    for cut in 0..chunked.len() {
        assert_eq!(read(&chunked.as_bytes()[..cut]), Ok(Read::Begun), "{cut} bytes");
    }
    for wrong in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\r\nx\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n",
    ] {
        assert!(read(wrong.as_bytes()).is_err(), "{wrong:?}");
    }
}
