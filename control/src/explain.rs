//! What would be decided, or was, and why? The command `explain`: offline from policy files, with the same code as the
//! proxy; or of a refusal, by its id, from the sidecar that refused.

mod sidecar;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use countersign_policy::explain::{Question, plain_json};
use countersign_policy::headers::Underscores;
use countersign_policy::{Documents, Explanation, Workload, asked, host, json, spiffe};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Map, Value};

use crate::check::{exist, print, tell};
use crate::folder;

/// The flags of `explain`; each is an environment variable `COUNTERSIGN_<FLAG>` too.
#[derive(Debug, Args)]
pub struct Flags {
    /// A file or folder of policy
    #[arg(long, value_name = "PATH", env = "COUNTERSIGN_POLICIES", required_unless_present = "decision")]
    policies: Option<PathBuf>,
    /// Namespace of the workload that is asked, and the application's port
    #[arg(long, value_name = "NS/PORT", env = "COUNTERSIGN_TO", value_parser = destination, required_unless_present = "decision")]
    to: Option<(String, u16)>,
    /// Label of the workload that is asked (repeatable)
    #[arg(long, value_name = "K=V", env = "COUNTERSIGN_LABEL", value_delimiter = ',', value_parser = label)]
    label: Vec<(String, String)>,
    /// Method of the request
    #[arg(long, value_name = "METHOD", env = "COUNTERSIGN_METHOD", default_value = "GET")]
    method: Method,
    /// Path of the request; a query is cut off. Of a port that is not HTTP nothing is asked but who may connect
    #[arg(long, value_name = "PATH", env = "COUNTERSIGN_PATH", default_value = "/")]
    path: String,
    /// Host of the request
    #[arg(long, value_name = "HOST", env = "COUNTERSIGN_HOST", default_value = "localhost", value_parser = host_name)]
    host: String,
    /// Header field of the request (repeatable)
    #[arg(long, value_name = "NAME=VALUE", env = "COUNTERSIGN_HEADER", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// What the sidecar does with header fields with _ in their names, as its flag of this name says: drop or pass
    #[arg(long, value_name = "WHAT", env = "COUNTERSIGN_HEADER_UNDERSCORES", default_value = "drop")]
    header_underscores: Underscores,
    /// The request is a gRPC call, as its content type says too
    #[arg(long, env = "COUNTERSIGN_GRPC")]
    grpc: bool,
    /// Address of the caller
    #[arg(long, value_name = "IP", env = "COUNTERSIGN_SOURCE", default_value_t = Ipv4Addr::LOCALHOST.into())]
    source: IpAddr,
    /// What the caller's token says: a JSON object of claims as its issuer signs them, `iss` among them; times are not judged. Without, there is no token
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_CLAIMS")]
    claims: Option<PathBuf>,
    /// SPIFFE ID in the caller's certificate; without, there is none
    #[arg(long, value_name = "ID", env = "COUNTERSIGN_PEER", value_parser = peer)]
    peer: Option<String>,
    /// Explain this refusal instead, by its decision_id, from the sidecar that refused
    #[arg(long, value_name = "ID", env = "COUNTERSIGN_DECISION", value_parser = decision)]
    decision: Option<String>,
    /// With --decision: the admin address of the sidecar, loopback only
    #[arg(long, value_name = "ADDR", env = "COUNTERSIGN_ADMIN", default_value = "127.0.0.1:16020", value_parser = loopback)]
    admin: SocketAddr,
    /// Print JSON
    #[arg(long, env = "COUNTERSIGN_JSON")]
    json: bool,
}

/// Prints the explanation. The answer is 0 where the request passes and 1 where it is denied; of a refusal by its id, 0
/// where it is explained and 1 where it is not known. What cannot be asked is an error of usage.
pub fn run(flags: Flags) -> Result<ExitCode, String> {
    if let Some(decision) = &flags.decision {
        return match sidecar::ask(flags.admin, decision, flags.json)? {
            Some(text) => {
                let text = if flags.json { plain_json(&text) } else { text };
                print(&mut io::stdout(), text.trim_end());
                Ok(ExitCode::SUCCESS)
            }
            None => {
                let admin = flags.admin;
                let message =
                    format!("the sidecar at {admin} does not know {decision}: another's, or too long ago");
                print(&mut io::stderr(), &message);
                Ok(ExitCode::from(1))
            }
        };
    }
    let json = flags.json;
    let (policies, question) = flags.question()?;
    let Some(explanation) = explain(&policies, &question)? else { return Ok(ExitCode::from(2)) };
    warn_of_times(question.claims.as_ref());
    say(&explanation, json, &mut io::stdout())?;
    Ok(if explanation.passes() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// `None`: policy is not in order, and what is wrong was told.
fn explain(policies: &Path, question: &Question) -> Result<Option<Explanation>, String> {
    exist(&[policies.to_owned()])?;
    let explained = folder::read(policies).and_then(Documents::parse).and_then(|all| all.explain(question));
    Ok(explained.map_err(|problems| tell(&problems)).ok())
}

fn say(explanation: &Explanation, json: bool, to: &mut impl Write) -> Result<(), String> {
    let text = match json {
        true => plain_json(&serde_json::to_string_pretty(explanation).map_err(|error| error.to_string())?),
        false => explanation.to_string(),
    };
    print(to, text.trim_end());
    Ok(())
}

/// The contract knows no clock, and why policy denied is worth asking later too.
fn warn_of_times(claims: Option<&Map<String, Value>>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let time = |name: &str| claims.and_then(|claims| claims.get(name)?.as_f64());
    if time("exp").is_some_and(|exp| exp <= now) {
        tell([
            "warning: by its `exp` the token has expired: a sidecar refuses it as expired, before policy is asked",
        ]);
    }
    if ["nbf", "iat"].into_iter().filter_map(time).any(|start| start > now) {
        tell([
            "warning: by its `nbf` or `iat` the token is not valid yet: a sidecar refuses it, before policy is asked",
        ]);
    }
}

// === impl Flags ===

impl Flags {
    fn question(self) -> Result<(PathBuf, Question), String> {
        // clap has looked after these.
        let missing = |flag: &str| format!("--{flag} is missing");
        let policies = self.policies.ok_or_else(|| missing("policies"))?;
        let (namespace, port) = self.to.ok_or_else(|| missing("to"))?;
        let path = self.path.split('?').next().unwrap_or_default().to_owned();
        if !path.starts_with('/') {
            return Err(format!("--path {path:?} is no path: it begins with /"));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in self.header {
            let field = name.clone();
            asked::add_field(&mut headers, name, value)
                .map_err(|message| format!("--header {field}: {message}"))?;
        }
        let grpc = asked::is_grpc(&mut headers, self.grpc).map_err(|message| format!("--grpc: {message}"))?;
        let workload = Workload {
            name: "explain".to_owned(),
            namespace,
            labels: self.label.into_iter().collect(),
            service_account: Some("default".to_owned()),
        };
        let question = Question {
            workload,
            port,
            method: self.method,
            path,
            host: self.host,
            grpc,
            headers,
            underscores: self.header_underscores,
            source: self.source,
            claims: self.claims.as_deref().map(read_claims).transpose()?,
            peer: self.peer,
        };
        Ok((policies, question))
    }
}

fn read_claims(file: &Path) -> Result<Map<String, Value>, String> {
    let wrong = |error: String| format!("--claims {}: {error}", file.display());
    let bytes = read_bounded(file).map_err(|error| wrong(error.to_string()))?;
    // As strictly as a sidecar reads a token.
    json::read(&bytes).map_err(|error| wrong(format!("is no JSON object of claims: {error}")))
}

/// A regular file: others may never end, or never begin.
fn read_bounded(file: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(MAX_CLAIMS + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_CLAIMS {
        return Err(io::Error::other(format!("is larger than {} KiB", MAX_CLAIMS >> 10)));
    }
    Ok(bytes)
}

/// The largest file of claims, in bytes; a token has fewer.
const MAX_CLAIMS: u64 = 64 * 1024;

// Values of flags.

fn destination(text: &str) -> Result<(String, u16), String> {
    let parsed = text.split_once('/').filter(|(namespace, _)| !namespace.is_empty());
    let parsed = parsed.and_then(|(namespace, port)| Some((namespace.to_owned(), port.parse().ok()?)));
    parsed.filter(|(_, port)| *port > 0).ok_or_else(|| "write namespace/port, e.g. shop/8080".to_owned())
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once('=').ok_or("write name=value")?;
    let name = HeaderName::try_from(name).map_err(|_| "this is no header name")?;
    Ok((name, HeaderValue::try_from(value).map_err(|_| "this is no header value")?))
}

fn host_name(text: &str) -> Result<String, String> {
    let (host, _) = host::normalize(text).ok_or("this is no host")?;
    Ok(host.into_owned())
}

fn peer(text: &str) -> Result<String, String> {
    if spiffe::is_id(text) { Ok(text.to_owned()) } else { Err("write spiffe://TRUST-DOMAIN/PATH".to_owned()) }
}

fn decision(text: &str) -> Result<String, String> {
    let is_id = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    match !text.is_empty() && text.len() <= 64 && text.bytes().all(is_id) {
        true => Ok(text.to_owned()),
        false => Err("write the decision_id of a refusal, e.g. 1f129bbb-4".to_owned()),
    }
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "write ADDRESS:PORT")?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err("it is not a loopback address: admin pages are served on no other".to_owned()),
    }
}

#[cfg(test)]
mod tests;
