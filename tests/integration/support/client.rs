//! What does a peer say on the wire? An HTTP/1.1 client over a socket, or TLS: it sends exactly what a test writes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};
use rustls_pki_types::CertificateDer;

/// An answer, as it was received.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// A connection that is kept open between requests.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<Stream>,
    host: String,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// One request on a connection of its own. `headers` are sent as they stand; Host and, with a body, Content-Length are
/// added unless given.
pub(crate) fn request(
    to: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut connection =
        Connection::open(to).unwrap_or_else(|error| panic!("cannot connect to {to}: {error}"));
    let answer = connection.request(method, target, headers, body);
    answer.unwrap_or_else(|error| panic!("{method} {target} at {to}: {error}"))
}

/// GET on a connection of its own.
pub(crate) fn get(to: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Answer {
    request(to, "GET", target, headers, b"")
}

/// GET with a bearer token.
pub(crate) fn get_with(to: SocketAddr, target: &str, token: &str) -> Answer {
    get(to, target, &[("Authorization", &format!("Bearer {token}"))])
}

/// Sends these bytes and reads one answer, if there is one.
pub(crate) fn raw(to: SocketAddr, bytes: &[u8]) -> io::Result<Answer> {
    let mut connection = Connection::open(to)?;
    connection.send(bytes)?;
    connection.answer("GET")
}

// === impl Connection ===

impl Connection {
    pub(crate) fn open(to: SocketAddr) -> io::Result<Self> {
        Ok(Self { stream: BufReader::new(Stream::Plain(tcp(to)?)), host: to.to_string() })
    }

    /// Over TLS. The handshake is done as far as the client is concerned: with TLS 1.3 the server's refusal of a client
    /// certificate is heard when something is read.
    pub(crate) fn open_tls(to: SocketAddr, mut tls: ClientConnection) -> io::Result<Self> {
        let mut tcp = tcp(to)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp)?;
        }
        let stream = Stream::Tls(Box::new(StreamOwned::new(tls, tcp)));
        Ok(Self { stream: BufReader::new(stream), host: to.to_string() })
    }

    /// The certificate that the server showed.
    pub(crate) fn shown(&self) -> CertificateDer<'static> {
        let Stream::Tls(stream) = self.stream.get_ref() else { panic!("a connection in plain text") };
        stream.conn.peer_certificates().expect("a certificate")[0].clone().into_owned()
    }

    /// Its socket, where it is in plain text.
    pub(crate) fn plain(&self) -> &TcpStream {
        let Stream::Plain(stream) = self.stream.get_ref() else { panic!("a connection over TLS") };
        stream
    }

    pub(crate) fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let has = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !has("host") {
            head += &format!("Host: {}\r\n", self.host);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() && !has("content-length") && !has("transfer-encoding") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        self.send(&[head.as_bytes(), body].concat())?;
        self.answer(method)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one answer.
    pub(crate) fn answer(&mut self, method: &str) -> io::Result<Answer> {
        let (status, headers) = self.head()?;
        let mut answer = Answer { status, headers, body: Vec::new() };
        if method == "HEAD" || status == 204 || status == 304 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            while let Some(chunk) = self.chunk()? {
                answer.body.extend(chunk);
            }
        } else if let Some(length) = answer.header("content-length") {
            answer.body = vec![0; length.parse().map_err(|_| bad("Content-Length"))?];
            self.stream.read_exact(&mut answer.body)?;
        } else {
            self.stream.read_to_end(&mut answer.body)?;
        }
        Ok(answer)
    }

    /// Reads the head of an answer; the body is the caller's to read.
    pub(crate) fn head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let line = self.line()?;
        let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 "));
        let status = rest.and_then(|rest| rest.get(..3)).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| bad(&format!("status line {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad("header line"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Reads the next chunk of a chunked body; `None` after the last.
    pub(crate) fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size = usize::from_str_radix(&self.line()?, 16).map_err(|_| bad("chunk size"))?;
        if size == 0 {
            while !self.line()?.is_empty() {}
            return Ok(None);
        }
        let mut data = vec![0; size];
        self.stream.read_exact(&mut data)?;
        if !self.line()?.is_empty() {
            return Err(bad("chunk end"));
        }
        Ok(Some(data))
    }

    /// Has the other side closed the connection, without another byte?
    pub(crate) fn is_closed(&mut self) -> bool {
        let _ = self.stream.get_ref().tcp().set_read_timeout(Some(Duration::from_secs(5)));
        match self.stream.fill_buf() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.strip_suffix(b"\r\n").ok_or_else(|| bad("line end"))?;
        String::from_utf8(line.to_vec()).map_err(|_| bad("UTF-8"))
    }
}

fn tcp(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("bad {what}"))
}

// === impl Stream ===

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

// === impl Answer ===

impl Answer {
    /// The only field of this name; panics on two, which no answer of ours may have.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found =
            self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let first = found.next();
        assert!(found.next().is_none(), "two {name} fields: {:?}", self.headers);
        first
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The reason of a refusal: the header, which must agree with the body, and the body with the status.
    pub(crate) fn reason(&self) -> String {
        let reason = self.header("x-countersign-reason").unwrap_or_else(|| panic!("no reason: {self:?}"));
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["reason"], reason);
        assert_eq!(problem["status"], self.status);
        assert!(problem["title"].is_string() && problem["decision_id"].is_string(), "{problem}");
        reason.to_owned()
    }
}
