//! What do clients hear of the resource itself (RFC 9728)? Its metadata, which we answer with in the application's place.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::json;

use super::body::Body;
use crate::rejection::PROOF_ALGORITHMS;
use countersign_policy::inbound::ProtectedResource;

/// The metadata as RFC 9728 §2 has it. What is not so, or of none, is left out.
pub(super) fn answer(resource: &ProtectedResource) -> Response<Body> {
    let mut metadata = json!({
        "resource": resource.resource,
        "authorization_servers": resource.authorization_servers,
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": PROOF_ALGORITHMS.split(' ').collect::<Vec<_>>(),
        "tls_client_certificate_bound_access_tokens": resource.certificates,
        "dpop_bound_access_tokens_required": resource.demands_dpop,
    });
    if let (false, Some(members)) = (resource.scopes.is_empty(), metadata.as_object_mut()) {
        members.insert("scopes_supported".to_owned(), json!(resource.scopes));
    }
    let mut response = Response::new(Body::from(metadata.to_string()));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Policy may change at any time, and does so rarely.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}
