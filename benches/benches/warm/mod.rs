//! What is in force once everything is warm? One outbound rule whose token a small endpoint of our own has granted.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use countersign_policy::outbound::{Outbound, OutboundRule};
use countersign_policy::{Documents, Workload, source};
use countersign_proxy::auth::active::{Active, Armory};
use countersign_proxy::auth::issuers::Services;
use countersign_proxy::auth::tokens::TokenSlot;
use countersign_proxy::clock::Clock;
use countersign_proxy::connect::Connector;
use countersign_proxy::fetch::Fetcher;
use countersign_proxy::metrics::Metrics;
use countersign_proxy::names::Names;
use countersign_proxy::state::files::PolicyFiles;
use tokio::runtime::{Builder, Runtime};

pub(crate) struct Warm {
    active: Active,
    _armory: Armory,
    _background: Runtime,
    _files: tempfile::TempDir,
}

// === impl Warm ===

impl Warm {
    /// Waits for the token, which lives for an hour.
    pub(crate) fn new() -> Self {
        let port = serve();
        let files = tempfile::tempdir().expect("a folder");
        std::fs::write(files.path().join("secret"), "s3cret").expect("a file");
        let file = files.path().join("policy.yaml").display().to_string();
        let text = POLICY.replace("PORT", &port.to_string());
        let sources = source::split(&file, text.as_bytes()).expect("documents in order");
        let workload = Workload { namespace: "shop".into(), name: "checkout".into(), ..Workload::default() };
        let snapshot = Documents::parse(sources).and_then(|documents| documents.compile(&workload));
        let background =
            Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let metrics = Metrics::new().expect("a registry");
        let names = Names::system(background.handle().clone(), metrics.clone()).expect("a resolver");
        let armory = Armory::new(Services {
            fetcher: Fetcher::new(Connector::new(names)),
            clock: Clock::default(),
            metrics,
            files: PolicyFiles::BesideDocument,
            state_dir: None,
            background: background.handle().clone(),
        });
        let active = armory.arm(snapshot.expect("a policy in order"));
        let warm = Self { active, _armory: armory, _background: background, _files: files };
        let begun = Instant::now();
        while warm.slot().ready().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(10), "no token came");
            std::thread::sleep(Duration::from_millis(5));
        }
        warm
    }

    pub(crate) fn active(&self) -> &Active {
        &self.active
    }

    pub(crate) fn slot(&self) -> &TokenSlot {
        self.active.tokens.first().expect("the rule asks for a token")
    }

    pub(crate) fn rule(&self) -> &OutboundRule {
        match self.active.snapshot.outbound("orders.shop", 80) {
            Outbound::Rule(rule) => rule,
            Outbound::Pass | Outbound::Denied => panic!("the rule names the destination"),
        }
    }
}

const POLICY: &str = r#"
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: { name: corp }
spec: { issuer: "http://localhost:PORT", insecure: true, tokenEndpoint: "http://localhost:PORT/token" }
---
apiVersion: countersign.dev/v1alpha1
kind: Credential
metadata: { name: checkout, namespace: shop }
spec: { issuer: corp, clientId: checkout, authentication: { clientSecretBasic: { secretFile: secret } } }
---
apiVersion: countersign.dev/v1alpha1
kind: OutboundPolicy
metadata: { name: checkout, namespace: shop }
spec:
  rules: [{ name: orders, to: { hosts: [orders.shop] }, token: { credential: checkout }, tls: none }]
"#;

/// A token endpoint; its metadata is a token too, which the sidecar says is none.
fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| drop(answer(stream))));
    port
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    reader.take(length).read_to_end(&mut Vec::new())?;
    // Of the size of a usual JWT.
    let body = format!(r#"{{"access_token":"{}","token_type":"Bearer","expires_in":3600}}"#, "t".repeat(900));
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
