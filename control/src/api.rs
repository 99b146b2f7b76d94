//! What do we answer to sidecars? `GET /v1/policy` and `POST /v1/acknowledgements`, each for the workload of the join
//! token and for nobody else. `GET /v1/workloads` is not here: it is for operators, on the admin listener.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use countersign_policy::{Acknowledgement, Workload};
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::fleet::Fleet;
use crate::join::TokenHash;
use crate::metrics::Metrics;
use crate::published::{Published, Served};

/// Longest wait that a sidecar may ask for.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// For a whole exchange: a poll, anything else.
const POLL_LIMIT: Duration = Duration::from_secs(75);
const LIMIT: Duration = Duration::from_secs(15);
/// Of a request's body, in bytes.
const MAX_BODY: usize = 256 * 1024;
/// Of a join token and an instance's name.
const MAX_TOKEN: usize = 4096;
const MAX_INSTANCE: usize = 64;

/// What the handlers need.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) published: watch::Receiver<Arc<Published>>,
    pub(crate) fleet: Fleet,
    pub(crate) metrics: Metrics,
    /// True once the process is to end: no poll is held back any longer.
    pub(crate) draining: watch::Receiver<bool>,
}

/// The API, with the embedded issuer's endpoints where there is one.
pub(crate) fn router(api: Api, issuer: Option<Router>) -> Router {
    let ours = Router::new()
        .route("/v1/policy", get(policy))
        .route("/v1/acknowledgements", post(acknowledge))
        .fallback(async || refuse(StatusCode::NOT_FOUND, "not_found"))
        .method_not_allowed_fallback(async || refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"))
        .with_state(api);
    let all = match issuer {
        Some(issuer) => ours.merge(issuer),
        None => ours,
    };
    all.layer(DefaultBodyLimit::max(MAX_BODY)).layer(from_fn(limit_time))
}

/// A new bundle at once, the same one not at all; in between, the wait.
async fn policy(State(mut api): State<Api>, headers: HeaderMap) -> Response {
    let Some(token) = join_token(&headers) else { return unauthorized(&api) };
    let known = known_versions(&headers);
    let deadline = Instant::now() + wait(&headers);
    let mut poll = None;
    loop {
        let now = api.published.borrow_and_update().clone();
        // Looked up again each time: a token that is withdrawn ends its poll.
        let Some(entry) = now.find(&token) else { return unauthorized(&api) };
        poll.get_or_insert_with(|| api.fleet.poll(&entry.workload, instance(&headers)));
        match &entry.bundle {
            Some(bundle) if !known.iter().any(|known| known == &bundle.version || known == "*") => {
                api.count("bundle");
                return bundle_answer(bundle);
            }
            Some(bundle) if *api.draining.borrow() => return unchanged(&api, bundle),
            Some(bundle) => {
                if !changed(&mut api, deadline).await {
                    return unchanged(&api, bundle);
                }
            }
            None => {
                api.count("unavailable");
                return refuse(StatusCode::SERVICE_UNAVAILABLE, "policy_unavailable");
            }
        }
    }
}

/// Waits for another version of anything. False: the time is over.
async fn changed(api: &mut Api, deadline: Instant) -> bool {
    let Api { published, draining, .. } = api;
    let change = async {
        tokio::select! {
            change = published.changed() => change.is_ok(),
            // The loop looks why.
            _ = draining.changed() => true,
        }
    };
    timeout_at(deadline, change).await.unwrap_or(false)
}

async fn acknowledge(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let workload = match join_token(&headers).and_then(|token| api.workload(&token)) {
        Some(workload) => workload,
        None => return unauthorized(&api),
    };
    let body = match body {
        Ok(body) => body,
        Err(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large");
        }
        Err(_) => return refuse(StatusCode::BAD_REQUEST, "bad_request"),
    };
    let Ok(what) = serde_json::from_slice::<Acknowledgement>(&body) else {
        return refuse(StatusCode::BAD_REQUEST, "bad_request");
    };
    if what.instance.len() > MAX_INSTANCE || what.version.len() > 128 {
        return refuse(StatusCode::BAD_REQUEST, "bad_request");
    }
    api.metrics.acknowledgements.with_label_values(&[what.outcome.name()]).inc();
    if let Some(problem) = what.problems.first() {
        let Workload { namespace, name, .. } = &workload;
        tracing::warn!(namespace, name, version = what.version, problems = what.problems.len(), %problem,
            "a sidecar rejected its policy");
    }
    api.fleet.told(&workload, what);
    answer(StatusCode::NO_CONTENT, Body::empty())
}

// === impl Api ===

impl Api {
    fn workload(&self, token: &TokenHash) -> Option<Workload> {
        self.published.borrow().find(token).map(|entry| entry.workload.clone())
    }

    fn count(&self, result: &str) {
        self.metrics.policy_requests.with_label_values(&[result]).inc();
    }
}

/// The hash of the one bearer token (RFC 6750 §2.1).
fn join_token(headers: &HeaderMap) -> Option<TokenHash> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else { return None };
    let (scheme, token) = field.to_str().ok()?.split_once(' ')?;
    let sound =
        !token.is_empty() && token.len() <= MAX_TOKEN && token.bytes().all(|byte| byte.is_ascii_graphic());
    (sound && scheme.eq_ignore_ascii_case("bearer")).then(|| TokenHash::of(token))
}

/// The entity tags that the caller has (RFC 9110 §13.1.2); weak comparison.
fn known_versions(headers: &HeaderMap) -> Vec<String> {
    let fields = headers.get_all(IF_NONE_MATCH).iter().filter_map(|field| field.to_str().ok());
    let tags = fields.flat_map(|field| field.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    tags.map(|tag| tag.trim_matches('"').to_owned()).collect()
}

/// `Prefer: wait=SECONDS` (RFC 7240 §4.3), up to a minute; nothing without it.
fn wait(headers: &HeaderMap) -> Duration {
    let fields = headers.get_all("prefer").iter().filter_map(|field| field.to_str().ok());
    let mut preferences = fields.flat_map(|field| field.split([',', ';']));
    let seconds = preferences.find_map(|preference| preference.trim().strip_prefix("wait=")?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(MAX_WAIT)
}

/// Which of the workload's sidecars is it? For the list of the admin page alone.
fn instance(headers: &HeaderMap) -> &str {
    let name = headers.get("countersign-instance").and_then(|name| name.to_str().ok()).unwrap_or_default();
    name.get(..MAX_INSTANCE).unwrap_or(name)
}

async fn limit_time(request: Request, next: Next) -> Response {
    let limit = if request.method() == Method::GET { POLL_LIMIT } else { LIMIT };
    let late = |_| refuse(StatusCode::REQUEST_TIMEOUT, "request_timeout");
    timeout(limit, next.run(request)).await.unwrap_or_else(late)
}

fn bundle_answer(bundle: &Served) -> Response {
    let mut answer = answer(StatusCode::OK, Body::from(bundle.json.clone()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    tag(&mut answer, bundle);
    answer
}

fn unchanged(api: &Api, bundle: &Served) -> Response {
    api.count("unchanged");
    let mut answer = answer(StatusCode::NOT_MODIFIED, Body::empty());
    tag(&mut answer, bundle);
    answer
}

fn tag(answer: &mut Response, bundle: &Served) {
    // A version is hex.
    if let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", bundle.version)) {
        answer.headers_mut().insert(ETAG, tag);
    }
}

fn unauthorized(api: &Api) -> Response {
    api.count("unauthorized");
    let mut answer = refuse(StatusCode::UNAUTHORIZED, "invalid_join_token");
    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"countersign\""));
    answer
}

/// Problem details (RFC 9457) that say no more than the reason.
fn refuse(status: StatusCode, reason: &'static str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let problem = serde_json::json!({ "status": status.as_u16(), "title": title, "reason": reason });
    let mut answer = answer(status, Body::from(problem.to_string()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    answer
}

fn answer(status: StatusCode, body: Body) -> Response {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
