//! Does a condition (`when`) judge what really comes in? Claims, captures, header fields and hosts, over HTTP/1.1 and HTTP/2.

use serde_json::{Value, json};

use crate::support::jose::{Key, claims, key_set};
use crate::support::policy::{Folder, LOCAL_ISSUER, inbound, issuer_with_file};
use crate::support::proxy::Settings;
use crate::support::tools::curl;
use crate::support::upstream::Upstream;

fn rules() -> Value {
    json!([
        {
            "name": "own", "to": {"paths": ["/tenants/{tenant}/*"]}, "from": {},
            "when": "path.tenant == claims.tenant && request.headers[\"x-region\"] in [\"eu\", claims.region]",
        },
        {"name": "old", "effect": "deny", "to": {"paths": ["/tenants/*"]}, "from": {}, "when": "claims.version < 2"},
        {
            "name": "status", "public": true, "to": {"paths": ["/status"]},
            "when": "request.host == \"localhost\" && source.ip == \"127.0.0.1\" && !(\"x-debug\" in request.headers)",
        },
    ])
}

#[test]
fn a_condition_is_judged_on_the_request_as_it_came() {
    let (key, upstream) = (Key::new("k1"), Upstream::start());
    let folder = Folder::with(&[
        ("policy.yaml", &(issuer_with_file("keys.jwks") + &inbound(&rules()))),
        ("keys.jwks", &key_set(&[&key]).to_string()),
    ]);
    let settings = Settings::policies(folder.path(), "orders").before(upstream.address());
    let proxy = settings.with(&["--header-underscores", "pass"]).start();
    let bearer = |more: Value| format!("Authorization: Bearer {}", key.token(&claims(LOCAL_ISSUER, &more)));
    let acme = bearer(json!({"tenant": "acme", "region": "us", "version": 2}));
    let others = [
        bearer(json!({"tenant": "other", "region": "us", "version": 2})),
        bearer(json!({"tenant": ["acme"], "region": "us", "version": 2})),
        bearer(json!({"region": "us", "version": 2})),
    ];
    let (old, unknown) = (
        bearer(json!({"tenant": "acme", "region": "us", "version": 1})),
        bearer(json!({"tenant": "acme", "region": "us", "version": "2"})),
    );
    let url = |host: &str, path: &str| format!("http://{host}:{}{path}", proxy.inbound().port());
    let own = url("localhost", "/tenants/acme/x");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let ask = |headers: &[&str], url: &str| {
            let mut arguments = vec![version, "-4", url];
            headers.iter().for_each(|header| arguments.extend(["-H", header]));
            curl(&arguments)
        };
        assert_eq!(ask(&[&acme, "X-Region: eu"], &own).status, 200);
        assert_eq!(ask(&[&acme, "x-region: us"], &own).status, 200);
        assert_eq!(upstream.last().all("x-region"), ["us"]);
        for headers in [
            &[&*acme, "X-Region: asia"][..],
            &[&acme],
            &[&acme, "X-Region: eu", "X-Region: eu"],
            &[&acme, "X-Region: eu", "X_Region: us"],
            &[&others[0], "X-Region: eu"],
            &[&others[1], "X-Region: eu"],
            &[&others[2], "X-Region: eu"],
        ] {
            let refused = ask(headers, &own);
            assert!(refused.status == 403 && refused.output.contains("no_rule"), "{headers:?}: {refused:?}");
        }
        for bearer in [&old, &unknown] {
            let denied = ask(&[bearer, "X-Region: eu"], &own);
            assert!(denied.status == 403 && denied.output.contains("denied_by_rule"), "{denied:?}");
        }
        assert_eq!(ask(&[], &url("localhost", "/status")).status, 200);
        assert_eq!(ask(&["X-Debug: 1"], &url("localhost", "/status")).status, 401);
        assert_eq!(ask(&[], &url("127.0.0.1", "/status")).status, 401);
    }
}
