//! What was sent? The head of a request that may have to go out once more, since hyper consumes its own.

use http::{HeaderName, HeaderValue, Method, Request};

use super::body::Body;

/// Room for a head. It is used again, so that keeping one takes no allocation.
#[derive(Default)]
pub(super) struct Sent {
    method: Option<Method>,
    fields: Vec<(HeaderName, HeaderValue)>,
}

// === impl Sent ===

impl Sent {
    pub(super) fn note(&mut self, request: &Request<Body>) {
        self.method = Some(request.method().clone());
        let fields = request.headers().iter();
        self.fields.extend(fields.map(|(name, value)| (name.clone(), value.clone())));
    }

    /// Nothing of it is needed any more.
    pub(super) fn clear(&mut self) {
        self.method = None;
        self.fields.clear();
    }

    /// What was noted, if anything was. Its target is that of the road, its body the caller's to add.
    pub(super) fn request(self) -> Option<Request<Body>> {
        let mut request = Request::new(Body::Empty);
        *request.method_mut() = self.method?;
        for (name, value) in self.fields {
            request.headers_mut().append(name, value);
        }
        Some(request)
    }
}
