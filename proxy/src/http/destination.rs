//! Which rule names a destination, and by which name? As the application wrote it, else as the search path completes it.

use std::borrow::Cow;

use countersign_policy::outbound::Outbound;

use crate::auth::active::Active;
use crate::names::Names;

/// What policy says of a host (in normal form) and port, and the name to dial: the first one that a rule knows, since that is
/// whom the application means (security OUT-1). Written with a trailing dot the host is complete, and is not searched for.
pub(super) async fn named<'a, 't>(
    active: &'a Active,
    names: &Names,
    host: &'t str,
    is_complete: bool,
    port: u16,
) -> (Cow<'t, str>, Outbound<'a>) {
    let written = active.snapshot.outbound(host, port);
    // It is not completed, here or when it is resolved, whichever rule names it.
    if is_complete {
        return (Cow::Owned(format!("{host}.")), written);
    }
    if matches!(written, Outbound::Rule(_)) {
        return (Cow::Borrowed(host), written);
    }
    for full in names.full_names(host).skip(1) {
        let named = active.snapshot.outbound(&full, port);
        // A wildcard may fit a name that is nobody's: then it is not the one that is meant.
        if matches!(named, Outbound::Rule(_))
            && (names.keeps(&full) || !Box::pin(names.is_absent(&full)).await)
        {
            return (full, named);
        }
    }
    (Cow::Borrowed(host), written)
}
