//! What happens, and did it come out as told? The eight steps; each one checks its outcome by what came over the wire.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::client::{self, Answer};
use crate::policies::NO_V1;
use crate::stage::{PATIENCE, PUBLISH_AHEAD, Stage, until};
use crate::story::Story;

const YOU: &str = "you > checkout";
const BACK: &str = "you < checkout";
const ORDERS_GOT: &str = "orders got";
/// What the rule on trial would have denied.
const SHADOW: &str =
    "countersign_shadow_decisions_total{policy=\"shop/orders\",rule=\"no-v1\",would=\"deny\"}";

/// All steps, in their order. An error is one of the demo itself.
pub(crate) async fn all(stage: &mut Stage, story: &mut Story) -> io::Result<()> {
    no_token(stage, story).await?;
    token_attached(stage, story).await?;
    wrong_scope(stage, story).await?;
    policy_edited(stage, story).await?;
    key_rotated(stage, story).await?;
    typo(stage, story).await?;
    shadow(stage, story).await?;
    issuer_stopped(stage, story).await
}

/// 1
async fn no_token(stage: &Stage, story: &mut Story) -> io::Result<()> {
    story.step("A call without a token is refused");
    story.yaml("orders.yaml", &stage.policies.excerpt("orders.yaml", "tokens:", 7));
    stage.tap.take();
    let answer = client::send(Method::GET, &format!("http://{}/orders", stage.ports.orders_inbound)).await?;
    story.wire("you > sidecar", "GET /orders");
    story.wire("you < sidecar", &answer.line());
    story.wire("", &format!("WWW-Authenticate: {}", answer.header("www-authenticate")));
    story.wire("", &format!("X-Countersign-Reason: {}", answer.reason()));
    let challenged = answer.header("www-authenticate").starts_with("Bearer");
    let outcome = match (&stage.tap.take(), answer.reason()) {
        (Some(_), _) => Err("orders got the request".to_owned()),
        (None, "missing_token") if answer.status == StatusCode::UNAUTHORIZED && challenged => {
            Ok("refused before orders saw anything of it".to_owned())
        }
        _ => Err(unexpected(&answer)),
    };
    story.outcome(&outcome);
    Ok(())
}

/// 2
async fn token_attached(stage: &Stage, story: &mut Story) -> io::Result<()> {
    story.step("The sidecar of checkout attaches one, and the call is let through");
    story.yaml("checkout.yaml", &stage.policies.excerpt("checkout.yaml", "- name: orders", 4));
    stage.tap.take();
    let answer = stage.shop("/buy").await?;
    story.wire(YOU, "GET /buy");
    story.wire("checkout > sidecar", "POST /orders, without a token");
    let seen = stage.tap.take();
    let claims = seen.as_ref().and_then(|seen| claims(&seen.headers));
    if let Some(seen) = &seen {
        story.wire(ORDERS_GOT, &format!("{} {}", seen.method, seen.path));
        story.wire("", &token_line(&seen.headers));
        story.wire("", &format!("X-Client-Id: {}", header(&seen.headers, "x-client-id")));
    }
    story.wire(BACK, &format!("{} {}", answer.line(), answer.body.trim()));
    let client = seen.as_ref().map(|seen| header(&seen.headers, "x-client-id").to_owned());
    let is_right = answer.status == StatusCode::CREATED
        && client.as_deref() == Some("checkout")
        && claims.is_some_and(|claims| claims.get("aud").is_some_and(|aud| aud == "https://orders.shop"));
    story.outcome(&match is_right {
        true => Ok("verified by orders' sidecar, which says who called".to_owned()),
        false => Err(unexpected(&answer)),
    });
    Ok(())
}

/// 3
async fn wrong_scope(stage: &Stage, story: &mut Story) -> io::Result<()> {
    story.step("A token whose scope does not suffice is refused, with the reason");
    story.yaml("orders.yaml", &stage.policies.excerpt("orders.yaml", "name: cancel", 3));
    stage.tap.take();
    let answer = stage.shop("/cancel").await?;
    story.wire(YOU, "GET /cancel, that is DELETE /orders/7");
    story.wire(BACK, &answer.line());
    story.wire("", &format!("WWW-Authenticate: {}", answer.header("www-authenticate")));
    story.wire("", &format!("X-Countersign-Reason: {}", answer.reason()));
    let is_right = answer.status == StatusCode::FORBIDDEN
        && answer.reason() == "insufficient_scope"
        && answer.header("www-authenticate").contains("scope=\"orders:admin\"")
        && stage.tap.take().is_none();
    story.outcome(&match is_right {
        true => Ok("403, not 401: we know who it is, and it may not".to_owned()),
        false => Err(unexpected(&answer)),
    });
    Ok(())
}

/// 4
async fn policy_edited(stage: &Stage, story: &mut Story) -> io::Result<()> {
    story.step("A policy file is edited");
    stage.policies.edit("orders.yaml", "orders:admin", "orders:write")?;
    let waited = until(PATIENCE, async || answers(stage, "/cancel", StatusCode::OK).await).await;
    story.yaml("orders.yaml", &stage.policies.excerpt("orders.yaml", "name: cancel", 3));
    let answer = stage.shop("/cancel").await?;
    story.wire(YOU, "GET /cancel");
    story.wire(BACK, &format!("{} {}", answer.line(), answer.body.trim()));
    story.outcome(&match waited {
        Some(waited) if answer.status == StatusCode::OK => {
            Ok(format!("enforced {} ms after the file was written", waited.as_millis()))
        }
        _ => Err(unexpected(&answer)),
    });
    Ok(())
}

/// 5
async fn key_rotated(stage: &Stage, story: &mut Story) -> io::Result<()> {
    story.step("The signing key is rotated under load");
    stage.shop("/list").await?;
    let before = stage.tap.take().and_then(|seen| kid(&seen.headers)).unwrap_or_default();
    let load = Load::start(stage);
    let next = stage.issuer()?.rotate().map_err(io::Error::other)?;
    story.wire("checkout > orders", &format!("tokens signed by {}", brief(&before)));
    story.wire("issuer", &format!("publishes {}, which signs in {PUBLISH_AHEAD:?}", brief(&next)));
    let is_new = async || stage.tap.take().and_then(|seen| kid(&seen.headers)).as_ref() == Some(&next);
    let waited = until(PATIENCE, is_new).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (sent, failed, first) = load.stop().await;
    if let Some(waited) = waited {
        story.wire("checkout > orders", &format!("tokens signed by {} after {waited:.1?}", brief(&next)));
    }
    story.outcome(&match (waited, failed) {
        (Some(_), 0) if sent >= 100 && next != before => {
            Ok(format!("{sent} requests meanwhile, none failed"))
        }
        (None, 0) => Err(format!("no token was signed by the new key within {PATIENCE:?}")),
        _ => Err(format!("{failed} of {sent} requests failed: {first}")),
    });
    Ok(())
}

/// 6
async fn typo(stage: &Stage, story: &mut Story) -> io::Result<()> {
    story.step("A typo in the policy changes nothing, and is told with its place");
    let (right, wrong) = ("methods: [DELETE]", "method: [DELETE]");
    stage.policies.edit("orders.yaml", right, wrong)?;
    let page = format!("http://{}/problems", stage.ports.control_admin);
    let problems = async || client::send(Method::GET, &page).await.map(|page| page.body).unwrap_or_default();
    until(PATIENCE, async || !problems().await.is_empty()).await;
    let told = problems().await;
    let answer = stage.shop("/cancel").await?;
    story.yaml("orders.yaml", &stage.policies.excerpt("orders.yaml", "name: cancel", 3));
    let folder = format!("{}/", stage.policies.folder().display());
    for line in told.lines().take(3) {
        story.wire("control plane", &line.replace(&folder, ""));
    }
    story.wire(YOU, "GET /cancel");
    story.wire(BACK, &format!("{} {}", answer.line(), answer.body.trim()));
    let line = line_of(stage, wrong);
    let is_told = told.contains(&format!("orders.yaml:{line}:")) && told.contains("method");
    story.outcome(&match is_told && answer.status == StatusCode::OK {
        true => Ok(format!("refused for line {line}; the last good policy stays")),
        false => Err(format!("{}; the control plane says: {told}", unexpected(&answer))),
    });
    stage.policies.edit("orders.yaml", wrong, right)?;
    until(PATIENCE, async || problems().await.is_empty()).await;
    Ok(())
}

/// 7
async fn shadow(stage: &Stage, story: &mut Story) -> io::Result<()> {
    story.step("A rule is tried in the shadow before it is enforced");
    let before = version(stage).await?;
    stage.policies.append("orders.yaml", NO_V1)?;
    until(PATIENCE, async || version(stage).await.is_ok_and(|version| version != before)).await;
    story.yaml("orders.yaml", &stage.policies.excerpt("orders.yaml", "name: no-v1", 4));
    let mut allowed = 0;
    for _ in 0..5 {
        allowed += u32::from(answers(stage, "/old-list", StatusCode::OK).await);
    }
    let counted = metric(stage, SHADOW).await?;
    story.wire(YOU, &format!("GET /old-list, five times: {allowed} let through"));
    story.wire("/metrics", &counted);
    stage.policies.edit("orders.yaml", "    shadow: true\n", "")?;
    let waited = until(PATIENCE, async || answers(stage, "/old-list", StatusCode::FORBIDDEN).await).await;
    let answer = stage.shop("/old-list").await?;
    story.wire("orders.yaml", "shadow: true is taken out");
    story.wire(BACK, &format!("{}, {}", answer.line(), answer.reason()));
    let is_counted = counted.rsplit(' ').next() == Some("5");
    story.outcome(&match waited {
        Some(waited) if allowed == 5 && is_counted && answer.reason() == "denied_by_rule" => {
            Ok(format!("5 would have been denied, and now are: {} ms after the edit", waited.as_millis()))
        }
        _ => Err(unexpected(&answer)),
    });
    Ok(())
}

/// 8
async fn issuer_stopped(stage: &mut Stage, story: &mut Story) -> io::Result<()> {
    story.step("The issuer is stopped, the control plane with it; requests go on with the cached token");
    // Not while the token happens to be at its last: three seconds are to be shown.
    until(PATIENCE, async || expires_in(stage).await.is_some_and(|seconds| seconds >= 8)).await;
    stage.stop_control().await;
    let is_gone = TcpStream::connect(stage.ports.control).await.is_err();
    story.wire("checkout > issuer", if is_gone { "connection refused" } else { "still connects" });
    let mut rows = Vec::new();
    for _ in 0..4 {
        let (answer, seconds) = (stage.shop("/buy").await?, expires_in(stage).await);
        let left = seconds.map_or("?".to_owned(), |seconds| seconds.to_string());
        story.wire(BACK, &format!("{}   /tokens: expires in {left} s", answer.line()));
        rows.push((answer.status, seconds));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let all_served = rows.iter().all(|(status, _)| *status == StatusCode::CREATED);
    let (first, last) = (rows.first().and_then(|row| row.1), rows.last().and_then(|row| row.1));
    let counts_down = first.zip(last).is_some_and(|(first, last)| last < first);
    story.outcome(&match is_gone && all_served && counts_down {
        true => Ok("every request served, as long as the token lives".to_owned()),
        false => Err(format!("gone: {is_gone}, served: {all_served}, expiry counts down: {counts_down}")),
    });
    Ok(())
}

// === what is seen ===

async fn answers(stage: &Stage, path: &str, status: StatusCode) -> bool {
    stage.shop(path).await.is_ok_and(|answer| answer.status == status)
}

fn unexpected(answer: &Answer) -> String {
    format!("{} {} {}", answer.line(), answer.reason(), answer.body.trim())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// A part of the token that `orders` got.
fn token_part(headers: &HeaderMap, index: usize) -> Option<Value> {
    let token = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(index)?).ok()?).ok()
}

fn claims(headers: &HeaderMap) -> Option<Value> {
    token_part(headers, 1)
}

fn kid(headers: &HeaderMap) -> Option<String> {
    Some(token_part(headers, 0)?.get("kid")?.as_str()?.to_owned())
}

/// What the token says; of itself no more than how it begins.
fn token_line(headers: &HeaderMap) -> String {
    let start: String = header(headers, "authorization").chars().take(16).collect();
    let claims = claims(headers).unwrap_or_default();
    let said = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    format!("Authorization: {start}…  (aud {}, scope {})", said("aud"), said("scope"))
}

/// A key's name, shortened.
fn brief(kid: &str) -> String {
    kid.chars().take(8).collect::<String>() + "…"
}

fn line_of(stage: &Stage, text: &str) -> usize {
    let path = stage.policies.folder().join("orders.yaml");
    let file = std::fs::read_to_string(path).unwrap_or_default();
    file.lines().position(|line| line.contains(text)).map_or(0, |index| index + 1)
}

/// The first line of the metrics of orders' sidecar that begins so.
async fn metric(stage: &Stage, begin: &str) -> io::Result<String> {
    let page = client::send(Method::GET, &format!("http://{}/metrics", stage.ports.orders_admin)).await?;
    Ok(page.body.lines().find(|line| line.starts_with(begin)).unwrap_or_default().to_owned())
}

/// The version of policy that orders' sidecar enforces.
async fn version(stage: &Stage) -> io::Result<String> {
    metric(stage, "countersign_policy_info{").await
}

/// Seconds that the token of checkout's sidecar has still to live, as `/tokens` says.
async fn expires_in(stage: &Stage) -> Option<i64> {
    let page =
        client::send(Method::GET, &format!("http://{}/tokens", stage.ports.checkout_admin)).await.ok()?;
    let page: Value = serde_json::from_str(&page.body).ok()?;
    page.pointer("/tokens/0/expires_in_seconds")?.as_i64()
}

// === load ===

/// Customers who go on and on.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(stage: &Stage) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let url = format!("http://{}/list", stage.ports.checkout);
        let tasks = (0..4).map(|_| {
            let (stop, sent, url) = (stop.clone(), sent.clone(), url.clone());
            tokio::spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match client::send(Method::GET, &url).await {
                        Ok(answer) if answer.status == StatusCode::OK => {}
                        Ok(answer) => failures.push(unexpected(&answer)),
                        Err(error) => failures.push(error.to_string()),
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                failures
            })
        });
        Self { tasks: tasks.collect(), stop, sent }
    }

    /// Requests sent, how many failed, and the first failure.
    async fn stop(self) -> (u64, usize, String) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for task in self.tasks {
            failures.extend(task.await.unwrap_or_else(|error| vec![error.to_string()]));
        }
        let first = failures.first().cloned().unwrap_or_default();
        (self.sent.load(Ordering::Relaxed), failures.len(), first)
    }
}
