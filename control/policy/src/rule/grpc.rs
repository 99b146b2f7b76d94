//! Which gRPC method is called? Services and methods, as a path names them.

use std::fmt;

use crate::path::CanonicalPath;

/// `pkg.Service/Method`, or `pkg.Service/*`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GrpcPattern {
    pub(crate) service: String,
    /// Absent: every method.
    pub(crate) method: Option<String>,
}

// === impl GrpcPattern ===

impl GrpcPattern {
    /// `None`: it cannot be told, since others may split a raw path elsewhere.
    pub(super) fn judge(&self, path: &CanonicalPath<'_>) -> Option<bool> {
        match path.plain_segments() {
            0 => None,
            1 if path.segments().next() == Some(&self.service) => None,
            _ => Some(self.matches(path.as_str())),
        }
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
            return false;
        };
        let is_method = match &self.method {
            Some(wanted) => method == wanted,
            None => !method.is_empty() && !method.contains('/'),
        };
        service == self.service && is_method
    }
}

impl fmt::Display for GrpcPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.method.as_deref().unwrap_or("*"))
    }
}
