//! What is protected here? Two services that know nothing of OAuth: `checkout`, where one buys, and `orders`, which it
//! asks. Each keeps the last message that it sent or got, so that the story can show it.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::client;

/// The last request that `orders` got.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tap(Arc<Mutex<Option<Seen>>>);

/// A request as an application sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

// === impl Tap ===

impl Tap {
    /// Takes what was seen since the last call.
    pub(crate) fn take(&self) -> Option<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn see(&self, seen: Seen) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
    }
}

/// `orders`: everything that reaches it, it does.
pub(crate) async fn orders(listener: TcpListener, tap: Tap) {
    serve(listener, move |request| {
        tap.see(Seen {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            headers: request.headers().clone(),
        });
        let answer = match *request.method() {
            Method::GET => (StatusCode::OK, r#"{"orders":[7]}"#),
            Method::POST => (StatusCode::CREATED, r#"{"order":7}"#),
            Method::DELETE => (StatusCode::OK, r#"{"cancelled":7}"#),
            _ => (StatusCode::METHOD_NOT_ALLOWED, "{}"),
        };
        std::future::ready(json(answer.0, answer.1.to_owned()))
    })
    .await;
}

/// `checkout`: asks `orders` by its plain address, through the proxy that it was given in its environment, and hands the
/// answer on.
pub(crate) async fn checkout(listener: TcpListener, proxy: SocketAddr, orders: String) {
    serve(listener, move |request| {
        let asked = match request.uri().path() {
            "/buy" => Some((Method::POST, "/orders")),
            "/list" => Some((Method::GET, "/orders")),
            "/cancel" => Some((Method::DELETE, "/orders/7")),
            "/old-list" => Some((Method::GET, "/orders/v1/list")),
            _ => None,
        };
        let orders = orders.clone();
        async move {
            let Some((method, path)) = asked else {
                return json(
                    StatusCode::NOT_FOUND,
                    r#"{"try":["/buy","/list","/cancel","/old-list"]}"#.to_owned(),
                );
            };
            match client::send_through(proxy, method, &format!("{orders}{path}")).await {
                Ok(answer) => {
                    let mut response = json(answer.status, answer.body.clone());
                    for name in ["x-countersign-reason", "www-authenticate", "content-type"] {
                        if let Some(value) = answer.headers.get(name) {
                            response.headers_mut().insert(name, value.clone());
                        }
                    }
                    response
                }
                Err(error) => json(StatusCode::BAD_GATEWAY, format!("{{\"error\":\"{error}\"}}")),
            }
        }
    })
    .await;
}

fn json(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body + "\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A web server as small as can be.
async fn serve<F, A>(listener: TcpListener, handle: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let handle = handle.clone();
        let service = service_fn(move |request| {
            let answer = handle(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        tokio::spawn(async move {
            // A connection that breaks is the other side's affair.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
