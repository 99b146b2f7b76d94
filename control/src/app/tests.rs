//! The whole control plane on real sockets, as a sidecar and an operator see it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use countersign_policy::Bundle;
use http::header::{AUTHORIZATION, ETAG, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::*;
use crate::state::hex;

const SOON: Duration = Duration::from_secs(5);

/// A control plane with two workloads of the namespace `shop`: `orders` and `checkout`.
struct Plane {
    root: TempDir,
    bound: Bound,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

fn policy(app: &str, path: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: InboundPolicy\nmetadata: {{ name: {app}, namespace: shop }}\n\
         spec:\n  workloads: {{ labels: {{ app: {app} }} }}\n  rules:\n  \
         - {{ name: open, public: true, to: {{ paths: [{path}] }} }}\n"
    )
}

fn member(app: &str) -> String {
    let hash = hex(digest(&SHA256, format!("token-of-{app}").as_bytes()).as_ref());
    format!("- {{tokenSha256: {hash}, namespace: shop, name: {app}, labels: {{app: {app}}}}}\n")
}

fn config(root: &Path) -> Config {
    Config {
        policies: root.join("policies"),
        listen: "127.0.0.1:0".parse().unwrap(),
        state_dir: root.join("state"),
        join_tokens: root.join("join.yaml"),
        server_names: vec!["control.shop.svc".to_owned()],
        token_issuer: None,
        admin: "127.0.0.1:0".parse().unwrap(),
    }
}

fn folder() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("policies")).unwrap();
    for app in ["orders", "checkout"] {
        fs::write(root.path().join(format!("policies/{app}.yaml")), policy(app, "/v1")).unwrap();
    }
    fs::write(
        root.path().join("join.yaml"),
        format!("workloads:\n{}{}", member("orders"), member("checkout")),
    )
    .unwrap();
    root
}

async fn plane() -> Plane {
    Plane::start(folder()).await.unwrap()
}

#[tokio::test]
async fn the_embedded_issuer_is_served_beside_it() {
    let root = folder();
    let clients = root.path().join("clients.yaml");
    fs::write(&clients, "clients: []").unwrap();
    let token_issuer = TokenIssuer { url: None, clients, options: issuer::Options::default() };
    let config = Config { token_issuer: Some(token_issuer), ..config(root.path()) };
    let plane = Plane::run(root, config).await.unwrap();
    let get = async |path: &str| {
        plane.send("localhost", request(Method::GET, path, "").body(Full::default()).unwrap()).await
    };
    let metadata: serde_json::Value =
        serde_json::from_slice(get("/.well-known/oauth-authorization-server").await.body()).unwrap();
    assert_eq!(metadata["issuer"], format!("https://localhost:{}", plane.bound.api.port()));
    assert_eq!(get("/oauth2/jwks").await.status(), StatusCode::OK);
    assert_eq!(plane.bundle("orders").await.1.documents.len(), 1);
}

// === impl Plane ===

impl Plane {
    async fn start(root: TempDir) -> Result<Self, StartError> {
        let config = config(root.path());
        Self::run(root, config).await
    }

    async fn run(root: TempDir, config: Config) -> Result<Self, StartError> {
        let app = App::bind(config).await?;
        let (bound, (stop, stopped)) = (app.bound().clone(), oneshot::channel());
        let task = tokio::spawn(app.run(async {
            let _ = stopped.await;
        }));
        Ok(Self { root, bound, stop, task })
    }

    async fn stop(self) -> TempDir {
        self.stop.send(()).unwrap();
        timeout(SOON, self.task).await.expect("it ends").unwrap();
        self.root
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.file(file), text).unwrap();
    }

    fn file(&self, file: &str) -> PathBuf {
        self.root.path().join(file)
    }

    /// One request to the API, on a connection of its own, by a client that trusts the CA alone.
    async fn send(&self, name: &str, request: Request<Full<Bytes>>) -> Response<Bytes> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.bound.ca_file).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = TlsConnector::from(Arc::new(tls.with_root_certificates(roots).with_no_client_auth()));
        let stream = TcpStream::connect(self.bound.api).await.unwrap();
        let stream = tls.connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await.unwrap();
        exchange(TokioIo::new(stream), request).await
    }

    async fn policy(&self, app: &str, known: &str, wait: u64) -> Response<Bytes> {
        let request = request(Method::GET, "/v1/policy", "")
            .header(AUTHORIZATION, format!("Bearer token-of-{app}"))
            .header("if-none-match", known)
            .header("prefer", format!("wait={wait}"))
            .header("countersign-instance", "0123");
        self.send("localhost", request.body(Full::default()).unwrap()).await
    }

    async fn bundle(&self, app: &str) -> (String, Bundle) {
        let answer = self.policy(app, "", 0).await;
        assert_eq!(answer.status(), StatusCode::OK);
        (tag(&answer), serde_json::from_slice(answer.body()).unwrap())
    }

    async fn acknowledge(&self, token: &str, body: String) -> StatusCode {
        let request = request(Method::POST, "/v1/acknowledgements", "")
            .header(AUTHORIZATION, format!("Bearer {token}"));
        self.send("localhost", request.body(Full::from(body)).unwrap()).await.status()
    }

    async fn admin(&self, path: &str) -> String {
        let stream = TcpStream::connect(self.bound.admin).await.unwrap();
        let request = request(Method::GET, path, "localhost").body(Full::default()).unwrap();
        let answer = exchange(TokioIo::new(stream), request).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        String::from_utf8(answer.into_body().to_vec()).unwrap()
    }

    /// Waits until the page holds the text.
    async fn admin_shows(&self, path: &str, text: &str) -> String {
        let until = Instant::now() + SOON;
        loop {
            let page = self.admin(path).await;
            if page.contains(text) {
                return page;
            }
            assert!(Instant::now() < until, "{path} never shows {text}: {page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn request(method: Method, path: &str, host: &str) -> http::request::Builder {
    let host = if host.is_empty() { "localhost" } else { host };
    Request::builder().method(method).uri(path).header(HOST, host)
}

async fn exchange(
    io: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Response<Bytes> {
    let (mut send, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    let connection = tokio::spawn(connection);
    let (head, body) = send.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    connection.abort();
    Response::from_parts(head, body)
}

fn tag(answer: &Response<Bytes>) -> String {
    answer.headers()[ETAG].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn cp_2_a_workload_sees_only_what_selects_it() {
    let plane = plane().await;
    let (_, orders) = plane.bundle("orders").await;
    assert_eq!(orders.workload.name, "orders");
    assert_eq!(orders.documents.len(), 1);
    assert!(orders.documents[0].text.contains("app: orders"));
    let (_, checkout) = plane.bundle("checkout").await;
    assert!(checkout.documents.iter().all(|document| !document.text.contains("orders")));
    assert_ne!(orders.version, checkout.version);
}

#[tokio::test]
async fn cp_1_only_a_known_join_token_is_answered() {
    let plane = plane().await;
    for authorization in [
        None,
        Some("Bearer wrong"),
        Some("Bearer "),
        Some("Basic token-of-orders"),
        Some("token-of-orders"),
        Some("Bearer token-of-orders,Bearer token-of-orders"),
    ] {
        for path in ["/v1/policy", "/v1/acknowledgements"] {
            let method = if path == "/v1/policy" { Method::GET } else { Method::POST };
            let mut request = request(method, path, "");
            if let Some(authorization) = authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let answer = plane.send("localhost", request.body(Full::default()).unwrap()).await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{path} {authorization:?}");
            assert!(!String::from_utf8_lossy(answer.body()).contains("token-of"));
        }
    }
    let twice = request(Method::GET, "/v1/policy", "")
        .header(AUTHORIZATION, "Bearer token-of-orders")
        .header(AUTHORIZATION, "Bearer token-of-orders");
    let answer = plane.send("localhost", twice.body(Full::default()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);

    // Who else is connected is for operators alone, with whatever token.
    let others = request(Method::GET, "/v1/workloads", "").header(AUTHORIZATION, "Bearer token-of-orders");
    let answer = plane.send("localhost", others.body(Full::default()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn cp_1_there_is_no_plain_text_and_the_certificate_names_what_was_asked_for() {
    let plane = plane().await;
    let stream = TcpStream::connect(plane.bound.api).await.unwrap();
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let plain = request(Method::GET, "/v1/policy", "").body(Full::<Bytes>::default()).unwrap();
    assert!(send.send_request(plain).await.is_err());

    for name in ["localhost", "127.0.0.1", "::1", "control.shop.svc"] {
        let request = request(Method::GET, "/v1/policy", "").body(Full::default()).unwrap();
        assert_eq!(plane.send(name, request).await.status(), StatusCode::UNAUTHORIZED, "{name}");
    }
}

#[tokio::test]
async fn a_poll_waits_for_the_workloads_own_change() {
    let plane = plane().await;
    let (orders, _) = plane.bundle("orders").await;
    let (checkout, _) = plane.bundle("checkout").await;
    let began = Instant::now();
    let change = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        plane.write("policies/orders.yaml", &policy("orders", "/v2"));
        Instant::now()
    };
    let (changed, (same, waited), at) = tokio::join!(
        async { (plane.policy("orders", &orders, 30).await, Instant::now()) },
        async { (plane.policy("checkout", &checkout, 2).await, began.elapsed()) },
        change
    );
    assert_eq!(changed.0.status(), StatusCode::OK);
    assert_ne!(tag(&changed.0), orders);
    assert!(changed.1 - at < Duration::from_secs(1), "woken after {:?}", changed.1 - at);
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(tag(&same), checkout);
    assert!(waited >= Duration::from_secs(2), "answered after {waited:?}");
    assert_eq!(
        plane.policy("checkout", &format!("\"old\", W/{checkout}"), 0).await.status(),
        StatusCode::NOT_MODIFIED
    );
}

#[tokio::test]
async fn cp_4_a_bad_update_is_kept_out_and_told() {
    let plane = plane().await;
    let (orders, _) = plane.bundle("orders").await;
    plane.write("policies/orders.yaml", &policy("orders", "/v2").replace("rules:", "rulez:"));
    let page = plane.admin_shows("/problems", "rulez").await;
    assert!(page.contains("policies/orders.yaml"), "{page}");
    assert_eq!(plane.policy("orders", &orders, 0).await.status(), StatusCode::NOT_MODIFIED);
    let metrics = plane.admin("/metrics").await;
    assert!(metrics.contains("countersign_policy_reloads_total{result=\"rejected\"} 1"), "{metrics}");
    assert!(metrics.contains("countersign_policy_reloads_total{result=\"applied\"} 1"), "{metrics}");

    // All of it or nothing: a good change elsewhere does not get through beside a bad one.
    let (checkout, _) = plane.bundle("checkout").await;
    plane.write("policies/checkout.yaml", &policy("checkout", "/v2"));
    plane.admin_shows("/metrics", "countersign_policy_reloads_total{result=\"rejected\"} 2").await;
    assert_eq!(plane.policy("checkout", &checkout, 0).await.status(), StatusCode::NOT_MODIFIED);

    plane.write("policies/orders.yaml", &policy("orders", "/v3"));
    plane.admin_shows("/metrics", "countersign_policy_reloads_total{result=\"applied\"} 2").await;
    assert_eq!(plane.admin("/problems").await, "");
    assert_eq!(plane.policy("checkout", &checkout, 0).await.status(), StatusCode::OK);
    assert!(plane.admin("/v1/versions").await.matches("publishedAt").count() == 2);
}

#[tokio::test]
async fn an_emptied_folder_is_a_bad_update() {
    let plane = plane().await;
    let (orders, _) = plane.bundle("orders").await;
    fs::rename(plane.file("policies"), plane.file("gone")).unwrap();
    fs::create_dir(plane.file("policies")).unwrap();
    plane.admin_shows("/problems", "holds no policy any more").await;
    assert_eq!(plane.policy("orders", &orders, 0).await.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_config_map_swap_is_seen_within_a_second() {
    let root = folder();
    let policies = root.path().join("policies");
    for (version, path) in [("..1", "/v1"), ("..2", "/v2")] {
        fs::create_dir(policies.join(version)).unwrap();
        fs::write(policies.join(version).join("orders.yaml"), policy("orders", path)).unwrap();
    }
    symlink("..1", policies.join("..data")).unwrap();
    fs::remove_file(policies.join("orders.yaml")).unwrap();
    symlink("..data/orders.yaml", policies.join("orders.yaml")).unwrap();
    let plane = Plane::start(root).await.unwrap();
    let (orders, _) = plane.bundle("orders").await;

    symlink("..2", policies.join("..tmp")).unwrap();
    fs::rename(policies.join("..tmp"), policies.join("..data")).unwrap();
    let answer =
        timeout(Duration::from_secs(1), plane.policy("orders", &orders, 30)).await.expect("within a second");
    assert!(String::from_utf8_lossy(answer.body()).contains("/v2"));
}

#[tokio::test]
async fn a_withdrawn_token_ends_its_poll() {
    let plane = plane().await;
    let (orders, _) = plane.bundle("orders").await;
    let withdraw = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        plane.write("join.yaml", &format!("workloads:\n{}", member("checkout")));
    };
    let (answer, ()) = tokio::join!(timeout(SOON, plane.policy("orders", &orders, 30)), withdraw);
    assert_eq!(answer.unwrap().status(), StatusCode::UNAUTHORIZED);

    // A broken file changes nothing.
    plane.write("join.yaml", "workloads: 1");
    plane.admin_shows("/problems", "join.yaml").await;
    assert_eq!(plane.policy("checkout", "", 0).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn restarts_with_the_last_good_policy() {
    let plane = plane().await;
    let (orders, _) = plane.bundle("orders").await;
    let ca = fs::read(&plane.bound.ca_file).unwrap();
    let root = plane.stop().await;
    fs::write(root.path().join("policies/orders.yaml"), "kind: [").unwrap();

    let plane = Plane::start(root).await.unwrap();
    assert_eq!(fs::read(&plane.bound.ca_file).unwrap(), ca, "sidecars still trust it");
    assert_eq!(plane.bundle("orders").await.0, orders);
    assert!(plane.admin("/problems").await.contains("orders.yaml"));
    let root = plane.stop().await;

    // Without one it does not start.
    fs::write(root.path().join("state/policy"), "damaged").unwrap();
    let error = Plane::start(root).await.err().expect("nothing to serve").to_string();
    assert!(error.contains("no usable policy") && !error.contains('\n'), "{error}");
}

#[tokio::test]
async fn a_first_start_with_an_empty_folder_denies_everything() {
    let root = folder();
    fs::remove_dir_all(root.path().join("policies")).unwrap();
    fs::create_dir(root.path().join("policies")).unwrap();
    let plane = Plane::start(root).await.unwrap();
    let (_, bundle) = plane.bundle("orders").await;
    assert!(bundle.documents.is_empty());
}

#[tokio::test]
async fn cp_3_bounds_what_it_reads() {
    let plane = plane().await;
    let body = |padding: usize| {
        let problem = serde_json::json!({"file": "x".repeat(padding), "line": 1, "document": "", "field": "", "message": "m"});
        let what = serde_json::json!({"instance": "0123", "version": "ab", "outcome": "rejected", "problems": [problem]});
        what.to_string()
    };
    assert_eq!(plane.acknowledge("token-of-orders", body(10)).await, StatusCode::NO_CONTENT);
    assert_eq!(plane.acknowledge("token-of-orders", body(300_000)).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(plane.acknowledge("token-of-orders", "{}".to_owned()).await, StatusCode::BAD_REQUEST);
    assert_eq!(plane.acknowledge("wrong", body(10)).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn operators_see_who_runs_what() {
    let plane = plane().await;
    let (orders, _) = plane.bundle("orders").await;
    let version = orders.trim_matches('"');
    let what =
        format!(r#"{{"instance":"0123","version":"{version}","outcome":"applied","running":"{version}"}}"#);
    assert_eq!(plane.acknowledge("token-of-orders", what).await, StatusCode::NO_CONTENT);
    let page = plane.admin("/v1/workloads").await;
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    let line = &page["workloads"][0];
    assert_eq!((&line["name"], &line["instance"]), (&"orders".into(), &"0123".into()));
    assert_eq!((&line["running"], &line["connected"]), (&version.into(), &true.into()));
    assert!(plane.admin("/readyz").await.contains("ready"));
}

#[tokio::test]
async fn ends_at_once_though_polls_are_waiting() {
    let plane = plane().await;
    let (orders, _) = plane.bundle("orders").await;
    let bound = plane.bound.clone();
    let Plane { root, stop, task, .. } = plane;
    let client = Plane { root, bound, stop: oneshot::channel().0, task: tokio::spawn(async {}) };
    let end = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.send(()).unwrap();
        timeout(SOON, task).await.expect("it ends").unwrap();
    };
    let (answer, ()) = tokio::join!(client.policy("orders", &orders, 60), end);
    assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_port_in_use_is_told_with_its_flag() {
    let plane = plane().await;
    let other = folder();
    let config = Config { listen: plane.bound.api, ..config(other.path()) };
    let error = App::bind(config).await.expect_err("in use").to_string();
    assert!(error.contains("--listen") && error.contains("in use"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_written_without_end_does_not_hold_up_the_others() {
    let plane = plane().await;
    let (busy, stop) = (plane.file("policies/busy.yaml"), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let writer = std::thread::spawn(move || {
        for count in 0.. {
            if stopped.load(Ordering::Relaxed) {
                return;
            }
            fs::write(&busy, format!("# {count}\n")).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    plane.write("policies/orders.yaml", &policy("orders", "/v2"));
    let start = Instant::now();
    while !plane.bundle("orders").await.1.documents[0].text.contains("/v2") {
        assert!(start.elapsed() < SOON, "it is never read");
        sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
}
