//! What do operators see? Metrics, health, versions and sidecars, on loopback, reading only.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::get;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{HeaderMap, StatusCode};
use serde::Serialize;
use tokio::sync::watch;

use crate::fleet::Fleet;
use crate::metrics::Metrics;
use crate::versions::{Status, lock};

/// What the handlers need.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) metrics: Metrics,
    pub(crate) fleet: Fleet,
    pub(crate) status: Arc<Mutex<Status>>,
    pub(crate) draining: watch::Receiver<bool>,
}

pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || text(StatusCode::OK, "live\n".to_owned())))
        .route("/readyz", get(readyz))
        .route("/v1/workloads", get(workloads))
        .route("/v1/versions", get(versions))
        .route("/problems", get(problems))
        .with_state(admin)
        .layer(from_fn(local_host))
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.metrics.encode() {
        Ok(bytes) => answer(StatusCode::OK, "text/plain; version=0.0.4", Body::from(bytes)),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// There is policy, or this would not run: what may be missing is the will to go on.
async fn readyz(State(admin): State<Admin>) -> Response {
    match *admin.draining.borrow() {
        true => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()),
        false => text(StatusCode::OK, "ready\n".to_owned()),
    }
}

/// Who is connected, and on which version.
async fn workloads(State(admin): State<Admin>) -> Response {
    json(&serde_json::json!({ "workloads": admin.fleet.lines() }))
}

/// What was published when, and what was refused last.
async fn versions(State(admin): State<Admin>) -> Response {
    let status = lock(&admin.status).clone();
    json(&status)
}

/// The problems of the last refused update, a line each; nothing when all is well.
async fn problems(State(admin): State<Admin>) -> Response {
    let status = lock(&admin.status).clone();
    let refused = [status.rejected, status.join_tokens_rejected].into_iter().flatten();
    let lines = refused.flat_map(|refused| refused.problems).map(|problem| problem + "\n");
    text(StatusCode::OK, lines.collect())
}

/// A page in a browser must not reach this by a name of its own (DNS rebinding).
async fn local_host(request: Request, next: Next) -> Response {
    if is_local(request.headers()) {
        return next.run(request).await;
    }
    text(StatusCode::FORBIDDEN, "the Host must be localhost or an IP address\n".to_owned())
}

fn is_local(headers: &HeaderMap) -> bool {
    // HTTP/2 has no Host, and no browser speaks it in plain text.
    let Some(host) = headers.get(HOST) else { return true };
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<http::uri::Authority>().ok())
    else {
        return false;
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec_pretty(value) {
        Ok(bytes) => answer(StatusCode::OK, "application/json", Body::from(bytes)),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, text: String) -> Response {
    answer(status, "text/plain; charset=utf-8", Body::from(text))
}

fn answer(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_local_names_alone() {
        for (host, expected) in [
            ("localhost:16444", true),
            ("127.0.0.1:16444", true),
            ("[::1]:16444", true),
            ("evil.example:16444", false),
            ("localhost.evil.example", false),
            ("not a host", false),
        ] {
            let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))]);
            assert_eq!(is_local(&headers), expected, "{host}");
        }
    }
}
