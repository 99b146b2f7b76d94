//! What becomes of a body that nobody takes? A short rest is read, so that its connection can carry another request and its stream ends by
//! itself: there are servers that count resets.

use std::time::Duration;

use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::Body;

impl Body {
    /// Reads what is left, for a moment and not far. What goes on after that is let go of.
    pub(in crate::http) fn hear_out(mut self) {
        if self.is_end_stream() {
            return;
        }
        tokio::spawn(timeout(MOMENT, async move {
            let mut left = MAX_HEARD_OUT;
            while let (1.., Some(Ok(frame))) = (left, self.frame().await) {
                let read = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(left));
                left = left.saturating_sub(read);
            }
        }));
    }
}

/// In bytes.
pub(in crate::http) const MAX_HEARD_OUT: u64 = 64 * 1024;
const MOMENT: Duration = Duration::from_secs(1);
