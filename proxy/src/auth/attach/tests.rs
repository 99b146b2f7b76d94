//! The whole outbound door: policy as it is written, and a token endpoint on a real socket.

use countersign_policy::outbound::Outbound;
use countersign_policy::{Documents, Workload, source};
use http::header::{ACCEPT, HeaderValue};

use super::*;
use crate::auth::active::Armory;
use crate::auth::testing::services;
use crate::auth::tokens::server::{Answer, Asked, TokenServer};

struct Door {
    server: TokenServer,
    active: Active,
    armory: Armory,
    text: String,
    files: tempfile::TempDir,
}

// === impl Door ===

impl Door {
    /// One rule for `orders.shop` with these fields more, and an issuer that answers so.
    async fn new(rule: &str, answer: fn() -> Answer) -> Self {
        Self::with("", rule, move |_| answer()).await
    }

    /// The same, where the token is exchanged.
    async fn exchanging(
        otherwise: &str,
        rule: &str,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let exchange = format!(", exchange: {{ subject: request, otherwise: {otherwise} }}");
        Self::with(&exchange, rule, answer).await
    }

    async fn with(
        token: &str,
        rule: &str,
        answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let server = TokenServer::start(move |_, asked| answer(asked)).await;
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
  - {{ name: orders, to: {{ hosts: [orders.shop] }}, token: {{ credential: checkout {token} }}, tls: none {rule} }}
"#,
            port = server.port,
        );
        let file = files.path().join("policy.yaml").display().to_string();
        let workload = Workload { namespace: "shop".to_owned(), ..Workload::default() };
        let documents = Documents::parse(source::split(&file, text.as_bytes()).unwrap()).unwrap();
        let armory = Armory::new(services());
        let active = armory.arm(documents.compile(&workload).unwrap());
        Self { server, active, armory, text, files }
    }

    /// What goes along with a request that shows this itself.
    async fn attach(&self, own: Option<&'static str>) -> (Result<&'static str, Reason>, Vec<String>) {
        self.attach_to(own.as_slice(), None).await
    }

    async fn attach_to(
        &self,
        own: &[&'static str],
        query: Option<&str>,
    ) -> (Result<&'static str, Reason>, Vec<String>) {
        let Outbound::Rule(rule) = self.active.snapshot.outbound("orders.shop", 80) else { panic!() };
        let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("*/*"))]);
        for own in own {
            headers.append(AUTHORIZATION, HeaderValue::from_static(own));
        }
        if !own.is_empty() {
            headers.insert(DPOP, HeaderValue::from_static("its proof"));
        }
        let attached = attach(&mut headers, query, rule, &self.active).await.map(word).map_err(|refusal| {
            assert_eq!(refusal.retry_after.is_some(), refusal.reason == Reason::TokenUnavailable);
            refusal.reason
        });
        assert_eq!(headers.get_all(ACCEPT).iter().count(), 1);
        // The application's proof goes or stays with what it proves (RFC 9449 §7.1); what is refused goes nowhere.
        let is_there = headers.remove(DPOP).is_some();
        assert!(
            attached.is_err() || is_there == (!own.is_empty() && attached == Ok("existing")),
            "{attached:?}"
        );
        assert!(headers.keys().all(|name| [ACCEPT, AUTHORIZATION].contains(name)), "{headers:?}");
        let shown = headers.get_all(AUTHORIZATION).iter();
        (attached, shown.map(|value| value.to_str().unwrap().to_owned()).collect())
    }
}

fn word(attached: Attached<'_>) -> &'static str {
    match attached {
        Attached::Token { .. } => "token",
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

/// A token in the query cannot be taken away, and one more would be two (RFC 6750 §2).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c28_a_token_of_the_application_in_the_query_is_a_credential_too() {
    let query = Some("a=b&access_token=its-own");
    for (rule, expected) in [
        ("", Ok("existing")),
        (", existingAuthorization: replace", Err(Reason::MultipleTokens)),
        (", existingAuthorization: reject", Err(Reason::MultipleTokens)),
    ] {
        assert_eq!(Door::new(rule, token).await.attach_to(&[], query).await, (expected, vec![]), "{rule}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_it_stays_unless_the_rule_says_pass() {
    let door = Door::new("", refusal).await;
    assert_eq!(door.attach(None).await, (Err(Reason::TokenUnavailable), vec![]));
    let door = Door::new(", onFailure: pass", refusal).await;
    assert_eq!(door.attach(None).await, (Ok("failed"), vec![]));
}

/// Exchanges every token but `Bearer bad`, and grants one of the client's own.
fn exchanged(asked: &Asked) -> Answer {
    match asked.parameter("subject_token").as_deref() {
        None => Answer::token("cl1ent", 300),
        Some("bad") => Answer::error("400 Bad Request", "invalid_grant"),
        Some(subject) => Answer::json(format!(
            r#"{{"access_token":"for-{subject}","token_type":"Bearer","expires_in":300,
                "issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}}"#
        )),
    }
}

fn bearer(token: &str) -> Vec<String> {
    vec![format!("Bearer {token}")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_out_5_the_token_of_the_application_is_replaced_by_what_it_is_exchanged_for() {
    let door = Door::exchanging("reject", "", exchanged).await;
    for _ in 0..3 {
        assert_eq!(door.attach(Some("Bearer alice")).await, (Ok("token"), bearer("for-alice")));
    }
    assert_eq!(door.attach(Some("bearer  bob")).await, (Ok("token"), bearer("for-bob")));
    assert_eq!(door.server.count(), 2, "and the client asks for no token of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_without_a_token_to_exchange_it_is_refused_or_shows_the_workload_s_own() {
    let door = Door::exchanging("reject", "", exchanged).await;
    assert_eq!(door.attach(None).await, (Err(Reason::MissingToken), vec![]));
    let door = Door::exchanging("reject", ", onFailure: pass", exchanged).await;
    assert_eq!(door.attach(None).await, (Err(Reason::MissingToken), vec![]));
    let door = Door::exchanging("client", "", exchanged).await;
    assert_eq!(door.attach(None).await, (Ok("token"), bearer("cl1ent")));
    assert_eq!(door.attach(Some("Bearer alice")).await, (Ok("token"), bearer("for-alice")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_v2_what_is_not_one_bearer_token_is_never_taken_for_none() {
    let long: &'static str = format!("Bearer {}", "a".repeat(LONGEST_TOKEN + 1)).leak();
    for otherwise in ["reject", "client"] {
        let door = Door::exchanging(otherwise, ", onFailure: pass", exchanged).await;
        for (own, reason) in [
            (&["Bearer a", "Bearer b"][..], Reason::MultipleTokens),
            (&["Bearer a", "Basic dTpw"], Reason::MultipleTokens),
            (&["Bearer a, Bearer b"], Reason::MultipleTokens),
            (&["Bearer a,b"], Reason::MultipleTokens),
            (&["Bearer"], Reason::BadRequest),
            (&["Bearer a b"], Reason::BadRequest),
            (&["Bearer a=b"], Reason::BadRequest),
            (&[""], Reason::MalformedToken),
            (&["Basic dTpw"], Reason::MalformedToken),
            (&["DPoP a"], Reason::MalformedToken),
            (&[long], Reason::MalformedToken),
        ] {
            assert_eq!(door.attach_to(own, Some("x=1")).await.0, Err(reason), "{otherwise} {own:?}");
        }
        let twice = door.attach_to(&["Bearer a"], Some("x=1&access_token=b")).await;
        assert_eq!(twice.0, Err(Reason::MultipleTokens));
        assert!(
            (0..door.server.count()).all(|index| !door.server.asked(index).body.contains("subject_token"))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_a_token_that_the_issuer_refuses_is_the_application_s_fault_whatever_the_rule_says() {
    for rule in ["", ", onFailure: pass"] {
        let door = Door::exchanging("client", rule, exchanged).await;
        for _ in 0..5 {
            assert_eq!(door.attach(Some("Bearer bad")).await, (Err(Reason::Inactive), vec![]), "{rule}");
        }
        let bodies = (0..door.server.count()).map(|index| door.server.asked(index).body);
        assert_eq!(bodies.filter(|body| body.contains("subject_token=bad")).count(), 1, "{rule}");
        assert_eq!(door.attach(Some("Bearer good")).await, (Ok("token"), bearer("for-good")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_out_9_trouble_with_the_issuer_is_503_and_never_shows_the_application_s_own() {
    let down = |_: &Asked| Answer::new("500 Oh", "", "");
    let door = Door::exchanging("client", "", down).await;
    assert_eq!(door.attach(Some("Bearer alice")).await, (Err(Reason::TokenUnavailable), vec![]));
    let door = Door::exchanging("client", ", onFailure: pass", down).await;
    assert_eq!(door.attach(Some("Bearer alice")).await, (Ok("failed"), vec![]));
    assert_eq!(door.attach(None).await, (Ok("failed"), vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_the_client_s_own_trouble_is_not_the_subject_s() {
    let door = Door::exchanging("reject", "", |_| refusal()).await;
    assert_eq!(door.attach(Some("Bearer alice")).await, (Err(Reason::TokenUnavailable), vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c25_subjects_survive_a_reload_that_leaves_the_exchange_as_it_is() {
    let mut door = Door::exchanging("reject", "", exchanged).await;
    assert_eq!(door.attach(Some("Bearer alice")).await.0, Ok("token"));
    let file = door.files.path().join("policy.yaml").display().to_string();
    let compile = |text: &str| {
        let workload = Workload { namespace: "shop".to_owned(), ..Workload::default() };
        Documents::parse(source::split(&file, text.as_bytes()).unwrap()).unwrap().compile(&workload).unwrap()
    };
    door.active = door.armory.arm(compile(&door.text.replace("tls: none", "tls: none, protocol: http1")));
    assert_eq!(door.attach(Some("Bearer alice")).await, (Ok("token"), bearer("for-alice")));
    assert_eq!(door.server.count(), 1);
    assert_eq!(door.armory.tokens.exchange_report()[0].subjects, 1);
    // Other scopes are another exchange, and nothing of the old one is left.
    let scopes = door.text.replace("credential: checkout ,", "credential: checkout, scopes: [a],");
    door.active = door.armory.arm(compile(&scopes));
    assert_eq!(door.armory.tokens.exchange_report()[0].subjects, 0);
    assert_eq!(door.attach(Some("Bearer alice")).await, (Ok("token"), bearer("for-alice")));
    assert_eq!(door.server.count(), 2);
    assert_eq!(door.server.asked(1).parameter("scope").as_deref(), Some("a"));
}
