//! The start-up rules and every kind of update, with real files, and with a control plane that says what a test wants.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::names::{Files, Names};

const SOON: Duration = Duration::from_secs(5);

fn policy(path: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: {{ name: orders, namespace: shop }}\n\
         spec:\n  rules:\n  - {{ name: open, public: true, to: {{ paths: [{path}] }} }}\n"
    )
}

fn workload() -> Workload {
    Workload { namespace: "shop".into(), name: "orders".into(), ..Workload::default() }
}

fn documents(file: &str, path: &str) -> Vec<Source> {
    vec![Source { file: file.into(), line: 1, text: policy(path) }]
}

fn version(file: &str, path: &str) -> String {
    Documents::parse(documents(file, path)).unwrap().compile(&workload()).unwrap().version
}

/// A sidecar's home: policies, state, and what it counted.
struct Home {
    root: TempDir,
    metrics: Arc<Metrics>,
}

// === impl Home ===

impl Home {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("policies")).unwrap();
        Self { root, metrics: Metrics::new().unwrap() }
    }

    fn write(&self, text: &str) {
        fs::write(self.root.path().join("policies/orders.yaml"), text).unwrap();
    }

    fn version(&self, path: &str) -> String {
        version(&self.root.path().join("policies/orders.yaml").display().to_string(), path)
    }

    fn folder(&self) -> PolicySource {
        PolicySource::Folder { path: self.root.path().join("policies"), workload: workload() }
    }

    async fn start(&self, source: PolicySource) -> Result<Start, StartError> {
        let (namespace, workload) = source.owner()?;
        let state = StateDir::open(&self.root.path().join("state"), &namespace, &workload).unwrap();
        source.start(Some(state), self.metrics.clone(), self.connector()).await
    }

    /// Knows `control.test` by its hosts file alone: what the machine knows is of no use.
    fn connector(&self) -> Connector {
        let [resolv_conf, hosts] = ["resolv.conf", "hosts"].map(|name| self.root.path().join(name));
        fs::write(&resolv_conf, "nameserver 127.0.0.1\n").unwrap();
        fs::write(&hosts, "127.0.0.1 control.test\n").unwrap();
        let files = Files { resolv_conf, hosts, port: 9 };
        Connector::new(Names::of(files, Handle::current(), self.metrics.clone()).unwrap())
    }

    fn reloads(&self, result: &str) -> u64 {
        self.metrics.policy_reloads.with_label_values(&[result]).get()
    }

    async fn rejected(&self, count: u64) {
        let counted = async {
            while self.reloads("rejected") < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, counted).await.expect("the rejection is counted");
        assert_eq!(self.reloads("rejected"), count);
    }
}

/// Runs the updates; what is applied comes out of the channel.
fn run(updates: Updates) -> mpsc::UnboundedReceiver<Snapshot> {
    let (send, receive) = mpsc::unbounded_channel();
    tokio::spawn(updates.run(move |snapshot| {
        let _ = send.send(snapshot);
    }));
    receive
}

async fn next(applied: &mut mpsc::UnboundedReceiver<Snapshot>) -> String {
    timeout(SOON, applied.recv()).await.expect("an update is applied").unwrap().version
}

#[tokio::test]
async fn follows_a_folder_and_keeps_bad_updates_out() {
    let home = Home::new();
    home.write(&policy("/v1"));
    let start = home.start(home.folder()).await.unwrap();
    assert_eq!(start.snapshot.unwrap().version, home.version("/v1"));
    let mut applied = run(start.updates);

    home.write(&policy("/v2").replace("rules:", "rulez:"));
    home.rejected(1).await;
    home.write(&policy("/v2"));
    assert_eq!(next(&mut applied).await, home.version("/v2"));
    // A rollback is an update like any other.
    home.write(&policy("/v1"));
    assert_eq!(next(&mut applied).await, home.version("/v1"));
    assert_eq!(home.reloads("applied"), 3);
    let metrics = String::from_utf8(home.metrics.encode().unwrap()).unwrap();
    assert_eq!(metrics.matches("countersign_policy_info{").count(), 1, "{metrics}");

    fs::remove_file(home.root.path().join("policies/orders.yaml")).unwrap();
    home.rejected(2).await;
    assert!(applied.try_recv().is_err());
}

#[tokio::test]
async fn a_config_map_swap_is_enforced_within_a_second() {
    let home = Home::new();
    let policies = home.root.path().join("policies");
    for (version, path) in [("..1", "/v1"), ("..2", "/v2")] {
        fs::create_dir(policies.join(version)).unwrap();
        fs::write(policies.join(version).join("orders.yaml"), policy(path)).unwrap();
    }
    symlink("..1", policies.join("..data")).unwrap();
    symlink("..data/orders.yaml", policies.join("orders.yaml")).unwrap();
    let start = home.start(home.folder()).await.unwrap();
    let mut applied = run(start.updates);

    symlink("..2", policies.join("..tmp")).unwrap();
    fs::rename(policies.join("..tmp"), policies.join("..data")).unwrap();
    let version = timeout(Duration::from_secs(1), next(&mut applied)).await.expect("within a second");
    assert_eq!(version, home.version("/v2"));
}

#[tokio::test]
async fn a_bad_start_takes_the_last_good_policy_or_none() {
    let home = Home::new();
    home.write("kind: [");
    let error = home.start(home.folder()).await.unwrap_err().to_string();
    assert!(error.contains("no usable policy") && !error.contains('\n'), "{error}");

    home.write(&policy("/v1"));
    home.start(home.folder()).await.unwrap();
    home.write("kind: [");
    let start = home.start(home.folder()).await.unwrap();
    assert_eq!(start.snapshot.unwrap().version, home.version("/v1"));
    let mut applied = run(start.updates);
    home.write(&policy("/v2"));
    assert_eq!(next(&mut applied).await, home.version("/v2"));

    // Another workload's is not ours.
    home.write("kind: [");
    let other = Workload { name: "checkout".into(), ..workload() };
    let path = home.root.path().join("policies");
    assert!(home.start(PolicySource::Folder { path, workload: other }).await.is_err());
}

#[tokio::test]
async fn an_empty_folder_denies_at_the_first_start_alone() {
    let home = Home::new();
    let start = home.start(home.folder()).await.unwrap();
    let empty = start.snapshot.unwrap();
    assert!(empty.rules.is_empty());
    let mut applied = run(start.updates);
    home.write(&policy("/v1"));
    assert_eq!(next(&mut applied).await, home.version("/v1"));

    fs::remove_file(home.root.path().join("policies/orders.yaml")).unwrap();
    home.rejected(1).await;
    let start = home.start(home.folder()).await.unwrap();
    assert_eq!(start.snapshot.unwrap().version, home.version("/v1"), "a mount that failed");
}

#[tokio::test]
async fn a_panic_in_apply_does_not_end_the_updates() {
    let home = Home::new();
    home.write(&policy("/v1"));
    let start = home.start(home.folder()).await.unwrap();
    let (send, mut applied) = mpsc::unbounded_channel();
    let mut first = true;
    tokio::spawn(start.updates.run(move |snapshot| {
        assert!(!std::mem::take(&mut first), "a bug");
        let _ = send.send(snapshot);
    }));
    home.write(&policy("/v2"));
    home.rejected(1).await;
    home.write(&policy("/v3"));
    assert_eq!(next(&mut applied).await, home.version("/v3"));
}

/// A control plane that plays a script: one answer per poll, then 304 after a while. It tells what it was sent.
struct Script {
    url: ControlUrl,
    ca: String,
    sent: mpsc::UnboundedReceiver<(http::request::Parts, Bytes)>,
    answers: Arc<Mutex<VecDeque<(StatusCode, String)>>>,
}

// === impl Script ===

impl Script {
    async fn start(answers: impl IntoIterator<Item = (StatusCode, String)>) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["control.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let ca = certificate.pem();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let tls = tls.with_no_client_auth().with_single_cert(vec![certificate.into()], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://Control.test:{}", listener.local_addr().unwrap().port()).parse().unwrap();
        let (send, sent) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(answers.into_iter().collect()));
        tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), answers.clone(), send));
        Self { url, ca, sent, answers }
    }

    fn source(&self, home: &Home) -> PolicySource {
        let file = |name: &str, text: &str| {
            let path = home.root.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        PolicySource::Control {
            url: self.url.clone(),
            ca_file: file("ca.pem", &self.ca),
            join_token_file: file("join-token", "the-token\n"),
        }
    }

    fn will_answer(&self, status: StatusCode, body: String) {
        self.answers.lock().unwrap().push_back((status, body));
    }

    /// The next request to this path.
    async fn request(&mut self, path: &str) -> (http::request::Parts, Bytes) {
        loop {
            let (head, body) = timeout(SOON, self.sent.recv()).await.expect("a request").unwrap();
            if head.uri.path() == path {
                return (head, body);
            }
        }
    }

    async fn acknowledgement(&mut self) -> Acknowledgement {
        let (_, body) = self.request("/v1/acknowledgements").await;
        serde_json::from_slice(&body).unwrap()
    }
}

type Sent = mpsc::UnboundedSender<(http::request::Parts, Bytes)>;
type Answers = Arc<Mutex<VecDeque<(StatusCode, String)>>>;

async fn accept(listener: TcpListener, tls: TlsAcceptor, answers: Answers, sent: Sent) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, answers, sent) = (tls.clone(), answers.clone(), sent.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(|request| reply(request, answers.clone(), sent.clone()));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn reply(
    request: Request<Incoming>,
    answers: Answers,
    sent: Sent,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let poll = head.uri.path() == "/v1/policy";
    let _ = sent.send((head, body.collect().await.unwrap().to_bytes()));
    if !poll {
        return Ok(Response::builder().status(204).body(Full::default()).unwrap());
    }
    for _ in 0..600 {
        let answer = answers.lock().unwrap().pop_front();
        if let Some((status, body)) = answer {
            let version =
                serde_json::from_str::<Bundle>(&body).map_or("newer".to_owned(), |bundle| bundle.version);
            let answer = Response::builder().status(status).header("etag", format!("\"{version}\""));
            return Ok(answer.body(Full::from(body)).unwrap());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(Response::builder().status(304).body(Full::default()).unwrap())
}

fn bundle(path: &str) -> (StatusCode, String) {
    let bundle = Bundle {
        version: version("orders.yaml", path),
        workload: workload(),
        documents: documents("orders.yaml", path),
    };
    (StatusCode::OK, serde_json::to_string(&bundle).unwrap())
}

#[tokio::test]
async fn follows_the_control_plane_and_acknowledges() {
    let home = Home::new();
    let mut script = Script::start([bundle("/v1")]).await;
    let start = home.start(script.source(&home)).await.unwrap();
    assert!(start.snapshot.is_none(), "unready until the first bundle");
    let mut applied = run(start.updates);
    let (poll, _) = script.request("/v1/policy").await;
    assert_eq!(poll.headers["authorization"], "Bearer the-token");
    assert_eq!(poll.headers["prefer"], "wait=30");
    assert!(!poll.headers.contains_key("if-none-match"));
    let v1 = next(&mut applied).await;
    assert_eq!(v1, version("orders.yaml", "/v1"));
    let told = script.acknowledgement().await;
    assert_eq!((told.outcome, told.running.as_deref()), (Outcome::Applied, Some(v1.as_str())));
    let (poll, _) = script.request("/v1/policy").await;
    assert_eq!(poll.headers["if-none-match"], format!("\"{v1}\""));

    // What a newer control plane says, and we do not understand, is rejected with the reason.
    script.will_answer(StatusCode::OK, r#"{"version":"newer","workload":{},"surprise":1}"#.to_owned());
    let told = script.acknowledgement().await;
    assert_eq!((told.outcome, told.running.as_deref()), (Outcome::Rejected, Some(v1.as_str())));
    assert_eq!(told.problems.len(), 1);
    let mut bad: Bundle = serde_json::from_str(&bundle("/v2").1).unwrap();
    bad.documents[0].text = bad.documents[0].text.replace("rules:", "rulez:");
    script.will_answer(StatusCode::OK, serde_json::to_string(&bad).unwrap());
    let told = script.acknowledgement().await;
    assert_eq!(told.outcome, Outcome::Rejected);
    assert_eq!(told.problems[0].file, "orders.yaml");
    assert!(applied.try_recv().is_err());
    assert_eq!(home.reloads("rejected"), 2);

    let (status, body) = bundle("/v3");
    script.will_answer(status, body);
    assert_eq!(next(&mut applied).await, version("orders.yaml", "/v3"));
}

#[tokio::test]
async fn cp_5_starts_from_disk_without_the_control_plane() {
    let home = Home::new();
    let mut script = Script::start([bundle("/v1")]).await;
    let source = script.source(&home);
    let start = home.start(source.clone()).await.unwrap();
    let mut applied = run(start.updates);
    let v1 = next(&mut applied).await;
    script.acknowledgement().await;

    let again = home.start(source.clone()).await.unwrap();
    assert_eq!(again.snapshot.expect("from disk").version, v1);
    let _applied = run(again.updates);
    let told = script.acknowledgement().await;
    assert_eq!((told.version, told.outcome), (v1, Outcome::Applied), "it is told what runs");

    // Another join token may be another workload's.
    fs::write(home.root.path().join("join-token"), "another").unwrap();
    assert!(home.start(source).await.unwrap().snapshot.is_none());
}

#[tokio::test]
async fn cp_5_an_impostor_is_not_believed() {
    let home = Home::new();
    let (real, mut impostor) = (Script::start([]).await, Script::start([bundle("/v1")]).await);
    let PolicySource::Control { ca_file, join_token_file, .. } = real.source(&home) else { unreachable!() };
    let source = PolicySource::Control { url: impostor.url.clone(), ca_file, join_token_file };
    let start = home.start(source).await.unwrap();
    let mut applied = run(start.updates);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(applied.try_recv().is_err());
    assert!(impostor.sent.try_recv().is_err(), "it is not even shown the join token");
}

#[tokio::test]
async fn comes_back_after_refusals_with_the_token_read_anew() {
    let home = Home::new();
    let refused = |status| (status, String::new());
    let answers =
        [refused(StatusCode::UNAUTHORIZED), refused(StatusCode::FOUND), refused(StatusCode::BAD_GATEWAY)];
    let mut script = Script::start(answers).await;
    let start = home.start(script.source(&home)).await.unwrap();
    let mut applied = run(start.updates);
    script.request("/v1/policy").await;
    fs::write(home.root.path().join("join-token"), "rotated").unwrap();
    let (status, body) = bundle("/v1");
    script.will_answer(status, body);
    assert_eq!(next(&mut applied).await, version("orders.yaml", "/v1"));
    let mut last = None;
    while let Ok((head, _)) = script.sent.try_recv() {
        last = Some(head);
    }
    assert_eq!(last.unwrap().headers["authorization"], "Bearer rotated");
    let polled = |result| home.metrics.policy_polls.with_label_values(&[result]).get();
    assert_eq!((polled("failure"), polled("bundle")), (3, 1));
}
