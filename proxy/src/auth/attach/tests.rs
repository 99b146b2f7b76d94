//! The whole outbound door: policy as it is written, and a token endpoint on a real socket.

use countersign_policy::outbound::Outbound;
use countersign_policy::{Documents, Workload, source};
use http::header::{ACCEPT, HeaderValue};

use super::*;
use crate::auth::active::Armory;
use crate::auth::testing::services;
use crate::auth::tokens::server::{Answer, TokenServer};

struct Door {
    server: TokenServer,
    active: Active,
    _armory: Armory,
    _files: tempfile::TempDir,
}

// === impl Door ===

impl Door {
    /// One rule for `orders.shop` with these fields more, and an issuer that answers so.
    async fn new(rule: &str, answer: fn() -> Answer) -> Self {
        let server = TokenServer::start(move |_, _| answer()).await;
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("secret"), "s3cret").unwrap();
        let text = format!(
            r#"
apiVersion: countersign.dev/v1alpha1
kind: Issuer
metadata: {{ name: corp }}
spec: {{ issuer: "http://localhost:{port}", insecure: true, tokenEndpoint: "http://localhost:{port}/token" }}
---
apiVersion: countersign.dev/v1alpha1
kind: Credential
metadata: {{ name: checkout, namespace: shop }}
spec: {{ issuer: corp, clientId: checkout, authentication: {{ clientSecretBasic: {{ secretFile: secret }} }} }}
---
apiVersion: countersign.dev/v1alpha1
kind: OutboundPolicy
metadata: {{ name: checkout, namespace: shop }}
spec:
  rules:
  - {{ name: orders, to: {{ hosts: [orders.shop] }}, token: {{ credential: checkout }}, tls: none {rule} }}
"#,
            port = server.port,
        );
        let file = files.path().join("policy.yaml").display().to_string();
        let workload = Workload { namespace: "shop".to_owned(), ..Workload::default() };
        let documents = Documents::parse(source::split(&file, text.as_bytes()).unwrap()).unwrap();
        let armory = Armory::new(services());
        let active = armory.arm(documents.compile(&workload).unwrap());
        Self { server, active, _armory: armory, _files: files }
    }

    /// What goes along with a request that shows this itself.
    async fn attach(&self, own: Option<&'static str>) -> (Result<&'static str, Reason>, Vec<String>) {
        let Outbound::Rule(rule) = self.active.snapshot.outbound("orders.shop", 80) else { panic!() };
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("*/*"))]);
        if let Some(own) = own {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(own));
        }
        let attached = attach(&mut headers, None, rule, &self.active).await.map(word).map_err(|refusal| {
            assert_eq!(refusal.retry_after.is_some(), refusal.reason == Reason::TokenUnavailable);
            refusal.reason
        });
        assert_eq!(headers.get_all(ACCEPT).iter().count(), 1);
        assert!(headers.keys().all(|name| [ACCEPT, AUTHORIZATION].contains(name)), "{headers:?}");
        let shown = headers.get_all(AUTHORIZATION).iter();
        (attached, shown.map(|value| value.to_str().unwrap().to_owned()).collect())
    }
}

fn word(attached: Attached<'_>) -> &'static str {
    match attached {
        Attached::Token(_) => "token",
        Attached::Existing => "existing",
        Attached::Nothing => "nothing",
        Attached::Failed => "failed",
    }
}

fn token() -> Answer {
    Answer::token("t0k3n", 300)
}

fn refusal() -> Answer {
    Answer::error("401 Unauthorized", "invalid_client")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c28_out_5_the_token_goes_in_one_authorization_field_alone() {
    let door = Door::new("", token).await;
    for _ in 0..3 {
        assert_eq!(door.attach(None).await, (Ok("token"), vec!["Bearer t0k3n".to_owned()]));
    }
    // And nobody asks for keys, since no inbound policy accepts the issuer's tokens.
    let asked = (0..door.server.count()).map(|index| door.server.asked(index).line);
    assert_eq!(asked.collect::<Vec<_>>(), ["POST /token HTTP/1.1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_5_what_the_application_shows_itself_is_kept_replaced_or_refused() {
    let basic = vec!["Basic dTpw".to_owned()];
    for (rule, expected) in [
        ("", (Ok("existing"), basic.clone())),
        (", existingAuthorization: keep", (Ok("existing"), basic.clone())),
        (", existingAuthorization: replace", (Ok("token"), vec!["Bearer t0k3n".to_owned()])),
        (", existingAuthorization: reject", (Err(Reason::MultipleTokens), basic)),
    ] {
        assert_eq!(Door::new(rule, token).await.attach(Some("Basic dTpw")).await, expected, "{rule}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_it_stays_unless_the_rule_says_pass() {
    let door = Door::new("", refusal).await;
    assert_eq!(door.attach(None).await, (Err(Reason::TokenUnavailable), vec![]));
    let door = Door::new(", onFailure: pass", refusal).await;
    assert_eq!(door.attach(None).await, (Ok("failed"), vec![]));
}
