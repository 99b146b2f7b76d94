//! What does the caller hear when we refuse? The one place where a refusal becomes an HTTP or gRPC answer (RFC 9457).

use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::{Response, StatusCode, Version};

use super::body::Body;
use crate::rejection::Refusal;
use countersign_policy::Reason;

/// The answer to a refused request. Says the reason and nothing more: `challenge` only inbound, since outbound the caller
/// has no credential to mend.
pub(crate) fn answer(
    refusal: &Refusal,
    decision_id: &str,
    version: Version,
    grpc: bool,
    challenge: bool,
) -> Response<Body> {
    let reason = refusal.reason;
    let mut response = if grpc { trailers_only(refusal) } else { problem(reason, decision_id) };
    let headers = response.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(reason.as_str()));
    headers.insert(PROXY_STATUS, HeaderValue::from_static(refusal.proxy_status()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(Ok(value)) = refusal.challenge().filter(|_| challenge).map(HeaderValue::try_from) {
        headers.insert(WWW_AUTHENTICATE, value);
    }
    if let Some(seconds) = refusal.retry_after_seconds() {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if reason == Reason::MethodNotAllowed {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    // What follows on this connection may be part of what was refused (security IN-15).
    if version < Version::HTTP_2 && closes(reason) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn problem(reason: Reason, decision_id: &str) -> Response<Body> {
    let (status, title) = (reason.status(), reason.title());
    // Every part is a word of ours that needs no escaping.
    let body = format!(
        "{{\"status\":{status},\"title\":\"{title}\",\"reason\":\"{reason}\",\"decision_id\":\"{decision_id}\"}}\n"
    );
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

/// A gRPC answer without a message: status and text in the one header block.
fn trailers_only(refusal: &Refusal) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(refusal.grpc_status())));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(refusal.reason.title()));
    response
}

/// What ends a gRPC answer that may not go on.
pub(crate) fn trailers(refusal: &Refusal) -> HeaderMap {
    let reason = refusal.reason;
    let mut trailers = HeaderMap::with_capacity(3);
    trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(refusal.grpc_status())));
    trailers.insert(GRPC_MESSAGE, HeaderValue::from_static(reason.title()));
    trailers.insert(REASON, HeaderValue::from_static(reason.as_str()));
    trailers
}

fn closes(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BadRequest
            | Reason::AmbiguousDestination
            | Reason::HeadTooLarge
            | Reason::UriTooLong
            | Reason::MethodNotAllowed
            | Reason::MultipleTokens
    )
}

const REASON: HeaderName = HeaderName::from_static("x-countersign-reason");
/// RFC 9209.
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rejection::Cause;

    #[test]
    fn every_reason_has_its_status_and_says_no_more() {
        for &reason in Reason::ALL {
            let response = answer(&reason.into(), "id-1", Version::HTTP_11, false, true);
            assert_eq!(response.status().as_u16(), reason.status());
            assert_eq!(response.headers()[REASON], reason.as_str());
            assert_eq!(response.headers()[PROXY_STATUS], Refusal::from(reason).proxy_status());
            let Body::Text(text) = response.body() else { panic!() };
            let body: serde_json::Value = serde_json::from_slice(text).unwrap();
            assert_eq!(body["reason"], reason.as_str());
            assert_eq!(body.as_object().unwrap().len(), 4);
        }
    }

    #[test]
    fn what_went_wrong_with_the_upstream_is_said_in_both_protocols() {
        for &cause in Cause::ALL {
            for grpc in [false, true] {
                let response = answer(&cause.into(), "id-1", Version::HTTP_2, grpc, true);
                let status = if grpc { 200 } else { cause.reason().status() };
                assert_eq!(response.status(), status);
                assert_eq!(response.headers()[REASON], cause.reason().as_str());
                assert_eq!(response.headers()[PROXY_STATUS], cause.proxy_status());
            }
        }
    }

    #[test]
    fn grpc_gets_trailers_only() {
        let response = answer(&Reason::Expired.into(), "id-1", Version::HTTP_2, true, true);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[GRPC_STATUS], "16");
        assert_eq!(response.headers()[PROXY_STATUS], "countersign; error=http_request_denied");
        assert!(http_body::Body::is_end_stream(response.body()));
    }

    #[test]
    fn a_grpc_caller_whose_time_is_over_hears_deadline_exceeded() {
        let refusal = Cause::HttpResponseTimeout.into();
        let status = HeaderValue::from_static("4");
        assert_eq!(answer(&refusal, "id-1", Version::HTTP_2, true, true).headers()[GRPC_STATUS], status);
        assert_eq!(trailers(&refusal)[GRPC_STATUS], status);
        assert_eq!(trailers(&Cause::ConnectionReadTimeout.into())[GRPC_STATUS], "14");
    }

    #[test]
    fn what_ends_a_grpc_stream_says_whose_fault_it_is() {
        for (reason, status) in [(Reason::Expired, "16"), (Reason::NoRule, "7"), (Reason::Internal, "13")] {
            let trailers = trailers(&reason.into());
            assert_eq!(trailers[GRPC_STATUS], status);
            assert_eq!(
                (&trailers[REASON], &trailers[GRPC_MESSAGE]),
                (&HeaderValue::from_static(reason.as_str()), &HeaderValue::from_static(reason.title()))
            );
        }
    }
}
