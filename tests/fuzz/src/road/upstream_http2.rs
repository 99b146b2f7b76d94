//! What does an upstream see that speaks HTTP/2? Requests as its library reads them, and where that finds the other side at fault.

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Response};
use tokio::net::TcpStream;

use super::Manner;
use super::upstream::{Request, Shared, body};
use crate::strict;

/// Serves a connection to its end.
pub(super) async fn converse(stream: TcpStream, manner: Manner, record: Shared) {
    let mut connection = match server::handshake(stream).await {
        Ok(connection) => connection,
        Err(error) => return judge(&error, &record),
    };
    while let Some(accepted) = connection.accept().await {
        match accepted {
            Ok((request, respond)) => {
                tokio::spawn(one(request, respond, manner, record.clone()));
            }
            Err(error) => return judge(&error, &record),
        }
    }
}

async fn one(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    manner: Manner,
    record: Shared,
) {
    let (head, mut incoming) = request.into_parts();
    let target = head.uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
    let mut request = Request { method: head.method.to_string(), target, ..Request::default() };
    request.fields = fields(&head.headers);
    let host = head.uri.authority().map_or("", |authority| authority.as_str());
    request.fields.push(("host".to_owned(), host.to_owned()));
    let number = record.number();
    if manner == Manner::Early {
        answer(&mut respond, manner, number);
    }
    while let Some(data) = incoming.data().await {
        match data {
            Ok(data) => {
                let _ = incoming.flow_control().release_capacity(data.len());
                request.body.extend(&data);
            }
            Err(error) => return judge(&error, &record),
        }
    }
    match incoming.trailers().await {
        Ok(trailers) => request.trailers = trailers.as_ref().map(fields).unwrap_or_default(),
        Err(error) => return judge(&error, &record),
    }
    record.came(request);
    match manner {
        Manner::Early => {}
        // As long as the stream is open, it waits.
        Manner::Silent => {
            let _ = std::future::poll_fn(|context| respond.poll_reset(context)).await;
        }
        Manner::Broken => respond.send_reset(Reason::INTERNAL_ERROR),
        Manner::Plain | Manner::Chunked | Manner::Last | Manner::Interim | Manner::Switching => {
            answer(&mut respond, manner, number);
        }
    }
}

/// Whoever has gone meanwhile does not hear it.
fn answer(respond: &mut SendResponse<Bytes>, manner: Manner, number: usize) {
    let mut response = Response::new(());
    response.headers_mut().insert("x-served", HeaderValue::from(number));
    let Ok(mut stream) = respond.send_response(response, false) else { return };
    let is_chunked = manner == Manner::Chunked;
    let _ = stream.send_data(body(number).into(), !is_chunked);
    if is_chunked {
        let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), HeaderValue::from(1))]);
        let _ = stream.send_trailers(trailers);
    }
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let field = |(name, value): (&http::HeaderName, &HeaderValue)| {
        (name.as_str().to_owned(), strict::latin(value.as_bytes()))
    };
    headers.iter().map(field).collect()
}

/// What the library itself finds wrong with what came, the other side has sent.
fn judge(error: &h2::Error, record: &Shared) {
    let faults = [
        Reason::PROTOCOL_ERROR,
        Reason::FRAME_SIZE_ERROR,
        Reason::COMPRESSION_ERROR,
        Reason::FLOW_CONTROL_ERROR,
    ];
    if error.is_library() && error.reason().is_some_and(|reason| faults.contains(&reason)) {
        record.broke(error.to_string());
    }
}
