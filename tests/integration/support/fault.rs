//! What if the issuer is ill? A proxy before its token endpoint that can refuse, keep silent, lie or be slow; a test
//! switches it while the sidecar runs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::policy::document;
use super::ports::Port;
use super::wait_until;

/// What happens to a request. A mode holds for the requests that arrive under it; those that are held, until they are let go.
#[derive(Clone, Debug)]
pub(crate) enum Mode {
    /// It goes to the issuer, and its answer back.
    Pass,
    /// The connection is closed at once.
    Refuse,
    /// Nothing, until there is another mode, which then holds for it too.
    Hold,
    /// After a while, it passes.
    Delay(Duration),
    /// It passes, and the connection ends after so many bytes of the answer.
    Truncate(usize),
    /// These bytes, and the end of the connection.
    Answer(Vec<u8>),
    /// These bytes, one after each pause, over and over: an answer that never ends.
    Drip(Vec<u8>, Duration),
}

/// Stands before an issuer, or in its place. Ends on drop, with every connection.
#[derive(Debug)]
pub(crate) struct Fault {
    port: Port,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// The issuer; none where every answer is canned.
    to: Option<SocketAddr>,
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Debug)]
struct Now {
    mode: Mode,
    connections: usize,
    posts: Vec<Instant>,
    ended: bool,
}

// === impl Fault ===

impl Fault {
    /// In this mode, before this issuer.
    pub(crate) fn before(issuer: SocketAddr, mode: Mode) -> Self {
        Self::start(Some(issuer), mode)
    }

    /// In the place of an issuer.
    pub(crate) fn alone(mode: Mode) -> Self {
        Self::start(None, mode)
    }

    fn start(to: Option<SocketAddr>, mode: Mode) -> Self {
        let port = Port::lease();
        let listener = TcpListener::bind(port.address()).expect("a leased port");
        let now = Now { mode, connections: 0, posts: Vec::new(), ended: false };
        let state = Arc::new(State { to, now: Mutex::new(now), changed: Condvar::new() });
        let served = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if served.lock().ended {
                    return;
                }
                let state = Arc::clone(&served);
                thread::spawn(move || state.serve(stream));
            }
        });
        Self { port, state }
    }

    /// The document of an issuer whose tokens come through here.
    pub(crate) fn issuer(&self, url: &str) -> String {
        let endpoint = format!("http://{}/token", self.port.address());
        document("Issuer", "corp", &json!({"issuer": url, "tokenEndpoint": endpoint, "insecure": true}))
    }

    /// Where it stands.
    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(crate) fn switch(&self, mode: Mode) {
        self.state.lock().mode = mode;
        self.state.changed.notify_all();
    }

    /// How many connections there were, those that were refused too.
    pub(crate) fn connections(&self) -> usize {
        self.state.lock().connections
    }

    /// When each POST arrived, as a whole; those that were refused did not.
    pub(crate) fn posts(&self) -> Vec<Instant> {
        self.state.lock().posts.clone()
    }

    /// Waits until so many have arrived.
    pub(crate) fn wait_for_posts(&self, count: usize) {
        wait_until("a token request", Duration::from_secs(20), || self.posts().len() >= count);
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.state.lock().ended = true;
        self.state.changed.notify_all();
        // So that the listener sees it.
        let _ = TcpStream::connect(self.port.address());
    }
}

// === impl State ===

impl State {
    fn serve(&self, stream: TcpStream) {
        let mode = {
            let mut now = self.lock();
            now.connections += 1;
            now.mode.clone()
        };
        if matches!(mode, Mode::Refuse) {
            return;
        }
        let Ok(request) = request(&stream) else { return };
        if request.starts_with(b"POST ") {
            self.lock().posts.push(Instant::now());
        }
        // What fails is the sidecar's hanging up.
        let _ = self.treat(stream, &request, mode);
    }

    fn treat(&self, mut stream: TcpStream, request: &[u8], mode: Mode) -> io::Result<()> {
        match mode {
            Mode::Refuse => Ok(()),
            Mode::Pass => self.pass(stream, request, usize::MAX),
            Mode::Truncate(length) => self.pass(stream, request, length),
            Mode::Delay(pause) => {
                self.rest(pause);
                self.pass(stream, request, usize::MAX)
            }
            Mode::Answer(bytes) => stream.write_all(&bytes),
            Mode::Drip(bytes, pause) => {
                for byte in bytes.iter().cycle() {
                    if self.rest(pause) {
                        break;
                    }
                    stream.write_all(&[*byte])?;
                }
                Ok(())
            }
            Mode::Hold => {
                let held = |now: &mut Now| matches!(now.mode, Mode::Hold) && !now.ended;
                let now = self.changed.wait_while(self.lock(), held).expect("no test panics with it");
                let (mode, ended) = (now.mode.clone(), now.ended);
                drop(now);
                if ended { Ok(()) } else { self.treat(stream, request, mode) }
            }
        }
    }

    fn pass(&self, mut stream: TcpStream, request: &[u8], length: usize) -> io::Result<()> {
        let mut issuer = TcpStream::connect(self.to.expect("an issuer to pass to"))?;
        issuer.write_all(request)?;
        // The sidecar asks for the end of the connection after its answer.
        io::copy(&mut issuer.take(length.try_into().unwrap_or(u64::MAX)), &mut stream)?;
        Ok(())
    }

    /// Waits, unless it is the end, and says whether it is.
    fn rest(&self, pause: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), pause, |now| !now.ended);
        waited.expect("no test panics with it").0.ended
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().expect("no test panics with it")
    }
}

/// Head and body of one request, by its Content-Length.
fn request(stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut reader = BufReader::new(stream);
    let (mut text, mut length) = (Vec::new(), 0);
    loop {
        let start = text.len();
        if reader.read_until(b'\n', &mut text)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = String::from_utf8_lossy(&text[start..]).to_ascii_lowercase();
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        }
    }
    let start = text.len();
    text.resize(start + length, 0);
    reader.read_exact(&mut text[start..])?;
    Ok(text)
}

// === answers ===

/// An answer with its length.
pub(crate) fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// 200 and JSON.
pub(crate) fn granted(body: &str) -> Vec<u8> {
    answer("200 OK", "Content-Type: application/json\r\n", body.as_bytes())
}

/// A token as RFC 6749 §5.1 has it, with these members on top; `null` takes a member away.
pub(crate) fn token_with(over: &Value) -> Vec<u8> {
    let mut body = json!({"access_token": CANARY_TOKEN, "token_type": "Bearer", "expires_in": 300});
    let members = body.as_object_mut().expect("an object");
    for (name, value) in over.as_object().expect("an object") {
        match value {
            Value::Null => members.remove(name),
            _ => members.insert(name.clone(), value.clone()),
        };
    }
    granted(&body.to_string())
}

/// The token of canned answers.
pub(crate) const CANARY_TOKEN: &str = "canary-access-token-5d41402abc4b2a76b9719d911017c592";
