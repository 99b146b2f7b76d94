//! Is there a way around a rule by spelling? A protected path in every way that servers read differently: none reaches the
//! application past a deny rule, nor past the default, and what does reach it is the one form that was judged.

use std::net::SocketAddr;

use countersign_policy::path::CanonicalPath;
use serde_json::{Value, json};

use crate::support::client;
use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{Folder, LOCAL_ISSUER, inbound, issuer_with_file};
use crate::support::proxy::{Proxy, Settings};
use crate::support::raw_upstream::RawUpstream;

/// What becomes of a request where `/orders/admin/*` is denied and all else allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// It names the protected path: the rule says no.
    Denied,
    /// It could be read in two ways: refused, whatever the rules say.
    Refused,
    /// It names another path, and the application sees exactly this.
    Passes(&'static str),
}
use Fate::{Denied, Passes, Refused};

/// What stands in the request line, as bytes; `HOST` is the host of the request.
const SPELLINGS: &[(&str, Fate)] = &[
    // As it is.
    ("/orders/admin/users", Denied),
    ("/orders/admin", Denied),
    ("/orders/admin/", Denied),
    ("/orders/admin/users?x=/orders/public", Denied),
    ("/orders/admin/users#/orders/public", Denied),
    // Encoded, once and more.
    ("/%6frders/admin/users", Denied),
    ("/orders/%61dmin/users", Denied),
    ("/orders/%61%64%6D%69%6e/users", Denied),
    ("/orders/adm%69n", Denied),
    ("/orders/%2561dmin/users", Refused),
    ("/orders/%252561dmin/users", Refused),
    ("/orders/%zzadmin/users", Refused),
    ("/orders/admi%6", Refused),
    ("/orders/%u0061dmin/users", Refused),
    ("/orders/%+61dmin/users", Refused),
    // Slashes.
    ("//orders/admin/users", Refused),
    ("/orders//admin/users", Refused),
    ("/orders///admin", Refused),
    ("/orders/admin//users", Refused),
    ("/orders%2fadmin/users", Refused),
    ("/orders%2Fadmin%2Fusers", Refused),
    ("/orders/admin%2f..", Refused),
    ("\\orders\\admin\\users", Refused),
    ("/orders\\admin\\users", Refused),
    ("/orders%5cadmin%5Cusers", Refused),
    // Dots.
    ("/orders/./admin/users", Refused),
    ("/orders/x/../admin/users", Refused),
    ("/../orders/admin/users", Refused),
    ("/orders/public/..", Refused),
    ("/orders/%2e/admin/users", Refused),
    ("/orders/x/%2e%2E/admin/users", Refused),
    ("/orders/x/.%2e/admin/users", Refused),
    ("/orders/x/..;/admin/users", Refused),
    // Too many bytes for a dot or a slash (RFC 3629 §10).
    ("/orders/x/%c0%ae%c0%ae/admin/users", Refused),
    ("/orders%c0%afadmin/users", Refused),
    ("/orders%e0%80%afadmin/users", Refused),
    ("/orders\u{ff0f}admin/users", Refused),
    // Parameters and other ends of a path.
    ("/orders;x/admin/users", Refused),
    ("/orders/admin;jsessionid=1/users", Refused),
    ("/orders/;/admin/users", Refused),
    ("/orders/admin%3bx/users", Refused),
    ("/orders/admin%23/users", Refused),
    ("/orders/admin%00/users", Refused),
    ("/orders/admin\0/users", Refused),
    ("/orders/admin%0d%0a/users", Refused),
    ("/orders/admin\t/users", Refused),
    ("/orders/admin /users", Refused),
    // Other forms of the target (RFC 9112 §3.2).
    ("http://HOST/orders/admin/users", Denied),
    ("HTTP://HOST/orders/%61dmin/users", Denied),
    ("http://HOST/orders/x/../admin/users", Refused),
    ("http://HOST//orders/admin/users", Refused),
    ("http://other.test/orders/admin/users", Refused),
    ("http://HOST@other.test/orders/admin/users", Refused),
    ("http://user@HOST/orders/admin/users", Refused),
    ("http://HOST\\@other.test/orders/admin/users", Refused),
    ("http://HOST#/orders/admin/users", Refused),
    ("https://HOST/orders/admin/users", Refused),
    ("http:///orders/admin/users", Refused),
    ("http:/orders/admin/users", Refused),
    ("//HOST/orders/admin/users", Refused),
    ("orders/admin/users", Refused),
    ("*", Refused),
    // Other paths: case counts, and so does every character of a segment.
    ("/orders/ADMIN/users", Passes("/orders/ADMIN/users")),
    ("/orders/admin./users", Passes("/orders/admin./users")),
    ("/orders/admin%20/users", Passes("/orders/admin%20/users")),
    ("/orders/admin%3fx/users", Passes("/orders/admin%3Fx/users")),
    ("/orders/adm\u{131}n/users", Refused),
    ("/orders/adm%c4%b1n/users", Passes("/orders/adm%C4%B1n/users")),
    ("/orders/administrators", Passes("/orders/administrators")),
    ("/orders/public/%61dmin", Passes("/orders/public/admin")),
    ("/orders/public?/../admin/users", Passes("/orders/public?/../admin/users")),
    ("/orders/public#/../admin/users", Passes("/orders/public")),
    ("http://HOST/orders/public/a", Passes("/orders/public/a")),
];

struct Protected {
    upstream: RawUpstream,
    proxy: Proxy,
    token: String,
    _folder: Folder,
}

impl Protected {
    fn by(rules: &Value) -> Self {
        let (key, upstream) = (Key::new("k1"), RawUpstream::start());
        let folder = Folder::with(&[
            ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(rules))),
            ("keys.jwks", &key_set(&[&key]).to_string()),
        ]);
        let proxy = Settings::policies(folder.path(), "orders").before(upstream.address()).start();
        let token = key.token(&claims(LOCAL_ISSUER, &json!({})));
        Self { upstream, proxy, token, _folder: folder }
    }

    fn inbound(&self) -> SocketAddr {
        self.proxy.inbound()
    }

    /// The status, and the request line that the application saw, if any.
    fn ask(&self, target: &str) -> (Option<u16>, Option<String>) {
        let host = self.inbound().to_string();
        let target = target.replace("HOST", &host);
        let before = self.upstream.messages().len();
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\
             X-Original-URL: /orders/public\r\nX-Forwarded-Prefix: /orders/public\r\nConnection: close\r\n\r\n",
            self.token
        );
        let status = client::raw(self.inbound(), request.as_bytes()).ok().map(|answer| answer.status);
        let messages = self.upstream.messages();
        assert!(messages.len() <= before + 1, "{target:?}: {messages:?}");
        (status, messages.get(before).map(|message| message.lines().next().unwrap_or_default().to_owned()))
    }
}

/// What is wrong with what became of this request, if anything.
fn wrong(target: &str, expected: Fate, (status, seen): (Option<u16>, Option<String>)) -> Option<String> {
    let fine = match expected {
        Denied => status == Some(403) && seen.is_none(),
        // A connection that is closed without a word is hyper's refusal.
        Refused => status.is_none_or(|status| matches!(status, 400 | 403)) && seen.is_none(),
        Passes(form) => {
            let path = form.split('?').next().unwrap_or_default();
            let is_canonical = CanonicalPath::parse(path).is_some_and(|canonical| canonical.as_str() == path);
            status == Some(200) && is_canonical && seen == Some(format!("GET {form} HTTP/1.1"))
        }
    };
    (!fine).then(|| format!("{target:?} is {expected:?} and became {status:?}, at the application {seen:?}"))
}

#[test]
fn in_19_in_20_no_spelling_of_a_denied_path_gets_past_the_deny() {
    let protected = Protected::by(&json!([
        {"name": "all", "to": {"paths": ["/*"]}, "from": {}},
        {"name": "closed", "effect": "deny", "to": {"paths": ["/orders/admin/*"]}},
    ]));
    assert!(SPELLINGS.len() >= 40);
    let wrong: Vec<_> =
        SPELLINGS.iter().filter_map(|(target, fate)| wrong(target, *fate, protected.ask(target))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same where nothing but `/orders/public` is allowed: what is not below it, in the form that was judged, is denied.
#[test]
fn in_1_in_19_no_spelling_of_a_path_gets_past_the_default() {
    let protected = Protected::by(&json!([
        {"name": "some", "to": {"paths": ["/orders/public/*"]}, "from": {}},
    ]));
    let wrong: Vec<_> = SPELLINGS
        .iter()
        .filter_map(|(target, fate)| {
            let fate = match fate {
                Passes(form) if !form.starts_with("/orders/public") => Denied,
                other => *other,
            };
            wrong(target, fate, protected.ask(target))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
