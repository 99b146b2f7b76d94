//! Which client is asking? Exactly one proof: a secret by HTTP Basic, or a signed assertion (RFC 6749 §2.3).

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use zeroize::Zeroizing;

use super::State;
use super::answer::Refusal;
use super::assertion::{self, JWT_BEARER};
use super::client::{self, Client, MIN_SECRET};
use super::clients::Clients;
use super::form::{self, Form};
use super::throttle::Guesser;

/// The authenticated client. `source` is the address that the request came from.
pub(super) fn authenticate<'a>(
    state: &State,
    clients: &'a Clients,
    headers: &HeaderMap,
    form: &Form,
    source: Option<IpAddr>,
    now: Duration,
) -> Result<&'a Client, Refusal> {
    let mut authorization = headers.get_all(AUTHORIZATION).iter();
    let basic = authorization.next();
    let has_assertion = form.client_assertion.is_some() || form.client_assertion_type.is_some();
    let methods = [basic.is_some(), authorization.next().is_some(), has_assertion, form.client_secret];
    if methods.into_iter().filter(|used| *used).count() > 1 {
        return Err(Refusal::InvalidRequest("the client must authenticate in one way alone"));
    }
    let client = match (basic, has_assertion) {
        (Some(value), _) => by_secret(state, clients, value.as_bytes(), source, now)?,
        (None, true) => by_assertion(state, clients, form, now)?,
        (None, false) if form.client_secret => {
            return Err(Refusal::InvalidClient("a secret in the body is not accepted; use HTTP Basic"));
        }
        (None, false) => return Err(Refusal::InvalidClient("the client has not authenticated")),
    };
    if form.client_id.as_deref().is_some_and(|claimed| claimed != client.id()) {
        return Err(Refusal::InvalidRequest("client_id is not that of the client that authenticated"));
    }
    Ok(client)
}

/// `client_secret_basic` (RFC 6749 §2.3.1).
fn by_secret<'a>(
    state: &State,
    clients: &'a Clients,
    header: &[u8],
    source: Option<IpAddr>,
    now: Duration,
) -> Result<&'a Client, Refusal> {
    let (id, secret) = basic_credentials(header)?;
    if id.is_empty() || id.len() > 256 {
        return Err(Refusal::InvalidClient("unknown client or wrong secret"));
    }
    // Before the secret is looked at, so that a guess made while waiting tells nothing, right or wrong.
    let guesser = Guesser::new(&id, source);
    if let Some(retry_after) = state.throttle.wait(&guesser, now) {
        return Err(Refusal::Locked { retry_after });
    }
    let client = clients.find(&id);
    let fits = client::secret_fits(client, &secret);
    let Some(client) = client.filter(|_| fits) else {
        state.throttle.failed(&guesser, client.is_none(), now);
        return Err(Refusal::InvalidClient("unknown client or wrong secret"));
    };
    state.throttle.succeeded(&guesser);
    if secret.len() < MIN_SECRET {
        return Err(Refusal::InvalidClient(
            "the secret is right but can be guessed: make one with `openssl rand -hex 32`",
        ));
    }
    Ok(client)
}

/// Id and secret, each form-encoded before base64 (RFC 6749 appendix B).
fn basic_credentials(header: &[u8]) -> Result<(String, Zeroizing<String>), Refusal> {
    let malformed = || Refusal::InvalidRequest("the Authorization header is malformed");
    let header = std::str::from_utf8(header).map_err(|_| malformed())?;
    let (scheme, credentials) = header.split_once(' ').unwrap_or((header, ""));
    if !scheme.eq_ignore_ascii_case("Basic") {
        return Err(Refusal::InvalidClient(
            "clients authenticate by HTTP Basic, or by a client assertion in the body",
        ));
    }
    let decoded =
        Zeroizing::new(STANDARD.decode(credentials.trim_start_matches(' ')).map_err(|_| malformed())?);
    let pair = std::str::from_utf8(&decoded).map_err(|_| malformed())?;
    let (id, secret) = pair.split_once(':').ok_or_else(malformed)?;
    let id = form::decode(id).map_err(|_| malformed())?.to_string();
    let secret = form::decode(secret).map_err(|_| malformed())?;
    Ok((id, secret))
}

/// `private_key_jwt` (RFC 7523 §2.2).
fn by_assertion<'a>(
    state: &State,
    clients: &'a Clients,
    form: &Form,
    now: Duration,
) -> Result<&'a Client, Refusal> {
    if form.client_assertion_type.as_deref() != Some(JWT_BEARER) {
        return Err(Refusal::InvalidRequest("client_assertion_type must be that of a JWT (RFC 7523)"));
    }
    let Some(assertion) = &form.client_assertion else {
        return Err(Refusal::InvalidRequest("client_assertion is missing"));
    };
    assertion::verify(assertion, clients, &state.url, &state.replays, now)
}
