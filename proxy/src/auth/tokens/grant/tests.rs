use super::*;
use crate::auth::tokens::server::request as asked;
use countersign_policy::snapshot::AssertionType;
use http::HeaderValue;
use http::header::AUTHORIZATION;

fn answer(status: u16, body: impl Into<Vec<u8>>) -> Response<Bytes> {
    Response::builder().status(status).body(Bytes::from(body.into())).unwrap()
}

fn read_ok(body: &str) -> Granted {
    read(answer(200, body), &asked(0, &["a", "b"]), &Grant::ClientCredentials, 0).unwrap()
}

fn cause(status: u16, body: &str) -> Cause {
    read(answer(status, body), &asked(0, &["a", "b"]), &Grant::ClientCredentials, 0).unwrap_err().cause
}

fn basic() -> Proof {
    Proof::Basic(HeaderValue::from_static("Basic eA=="))
}

fn body_of(asked: &TokenRequest, proof: Proof) -> String {
    let request = request("https://as.example/token", asked, &Grant::ClientCredentials, proof).unwrap();
    String::from_utf8(request.into_body().to_vec()).unwrap()
}

const ENDPOINT: &str = "https://as.example/token?tenant=acme&x=%20";

#[test]
fn c2_post_of_a_form_to_the_endpoint_with_its_query() {
    let request = request(ENDPOINT, &asked(0, &["a"]), &Grant::ClientCredentials, basic()).unwrap();
    assert_eq!((request.method(), request.uri().to_string()), (&Method::POST, ENDPOINT.to_owned()));
    assert_eq!(request.headers()[CONTENT_TYPE], "application/x-www-form-urlencoded");
    assert_eq!(request.headers()[ACCEPT], "application/json");
    assert_eq!(
        request.into_body(),
        "grant_type=client_credentials&scope=a&audience=https%3A%2F%2Forders.shop"
    );

    let with_fragment =
        super::request("https://as.example/token#x", &asked(0, &[]), &Grant::ClientCredentials, basic());
    assert_eq!(with_fragment.unwrap_err().cause, Cause::Address);
}

#[test]
fn c3_no_parameter_twice_and_none_that_is_empty() {
    let mut plain = asked(0, &[]);
    plain.audience = None;
    plain.parameters = vec![("empty".into(), String::new()), ("tenant".into(), "a b&c=ü".into())];
    assert_eq!(body_of(&plain, basic()), "grant_type=client_credentials&tenant=a+b%26c%3D%C3%BC");
}

#[test]
fn c4_c6_c21_one_method_of_authentication_and_never_in_the_url() {
    let by_secret = request(ENDPOINT, &asked(0, &["a"]), &Grant::ClientCredentials, basic()).unwrap();
    assert!(by_secret.headers().contains_key(AUTHORIZATION));
    let body = std::str::from_utf8(by_secret.body()).unwrap();
    assert!(!["client_id", "client_secret", "client_assertion"].iter().any(|name| body.contains(name)));

    let assertion = Proof::Assertion {
        client_id: "me".into(),
        kind: AssertionType::JwtBearer,
        assertion: Secret::from("a.b.c".to_owned()),
    };
    let by_key = request(ENDPOINT, &asked(0, &["a"]), &Grant::ClientCredentials, assertion).unwrap();
    assert!(!by_key.headers().contains_key(AUTHORIZATION));
    assert_eq!(by_key.uri().query(), Some("tenant=acme&x=%20"));
    let body = String::from_utf8(by_key.into_body().to_vec()).unwrap();
    assert!(body.ends_with(
        "client_id=me&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
         &client_assertion=a.b.c"
    ));
}

#[test]
fn c9_scopes_are_space_delimited_so_two_are_not_one() {
    let scopes = |scopes: &[&str]| {
        let body = body_of(&asked(0, scopes), basic());
        body.split('&').find(|pair| pair.starts_with("scope=")).unwrap().to_owned()
    };
    assert_eq!(scopes(&["a", "b"]), "scope=a+b");
    assert_eq!(scopes(&["ab"]), "scope=ab");
}

#[test]
fn c10_narrower_scopes_are_what_was_granted() {
    let narrowed = |scope: &str| {
        read_ok(&format!(r#"{{"access_token":"t","token_type":"Bearer","scope":{scope}}}"#)).narrowed
    };
    assert_eq!(narrowed(r#""b a""#), None);
    assert_eq!(narrowed(r#""a b c""#), None);
    assert_eq!(narrowed("null"), None);
    assert_eq!(narrowed(r#""a""#), Some(vec!["a".to_owned()]));
    assert_eq!(narrowed(r#""A elsewhere""#), Some(Vec::new()));
    assert_eq!(narrowed(r#""""#), Some(Vec::new()));
}

#[test]
fn c11_c15_members_that_are_not_ours_are_ignored() {
    let grant = read_ok(
        r#" {"access_token":"t-._~+/0=","token_type":"Bearer","expires_in":60,"refresh_token":"r","x":{"y":[1,{}]},"x":2}"#,
    );
    assert_eq!((grant.access_token.expose(), grant.life.as_secs()), ("t-._~+/0=", 60));
}

#[test]
fn c12_token_type_is_bearer_in_any_case_and_nothing_else() {
    for kind in ["Bearer", "bearer", "BEARER"] {
        read_ok(&format!(r#"{{"access_token":"t","token_type":"{kind}"}}"#));
    }
    for body in [
        r#"{"access_token":"t","token_type":"DPoP"}"#,
        r#"{"access_token":"t","token_type":"N_A"}"#,
        r#"{"access_token":"t","token_type":"Bearer "}"#,
        r#"{"access_token":"t"}"#,
    ] {
        assert_eq!(cause(200, body), Cause::TokenType, "{body}");
    }
}

#[test]
fn c13_expires_in() {
    let life = |expires_in: &str| {
        read_ok(&format!(r#"{{"access_token":"t","token_type":"bearer"{expires_in}}}"#)).life.as_secs()
    };
    // Missing: five minutes.
    assert_eq!(life(""), 300);
    assert_eq!(life(r#","expires_in":null"#), 300);
    assert_eq!(life(r#","expires_in":3600"#), 3600);
    assert_eq!(life(r#","expires_in":3599.5"#), 3599);
    // A string of digits is tolerated.
    assert_eq!(life(r#","expires_in":"3599""#), 3599);
    assert_eq!(life(r#","expires_in":1e300"#), u64::MAX);

    let failure = |expires_in: &str| {
        cause(200, &format!(r#"{{"access_token":"t","token_type":"bearer","expires_in":{expires_in}}}"#))
    };
    for no_number in
        [r#""soon""#, r#""""#, r#""-5""#, r#""+5""#, r#""5 ""#, r#""99999999999999999999""#, "true", "[5]"]
    {
        assert_eq!(failure(no_number), Cause::Malformed, "{no_number}");
    }
    for expired in ["0", "-1", "-1.5", r#""0""#] {
        assert_eq!(failure(expired), Cause::Expired, "{expired}");
    }
}

#[test]
fn out_10_what_an_access_token_may_look_like() {
    let token = |token: &str| {
        let body = serde_json::json!({ "access_token": token, "token_type": "Bearer" });
        read(answer(200, body.to_string()), &asked(0, &[]), &Grant::ClientCredentials, 0)
            .map(|grant| grant.access_token.expose().len())
    };
    for bad in ["", "=", "a b", "a\r\nX-Injected: 1", "a\0", "tökén", "a,b", "\"a\"", "a=b", "\u{7f}"] {
        let failure = token(bad).unwrap_err();
        assert_eq!(failure.cause, Cause::Malformed, "{bad:?}");
        assert!(bad.len() < 3 || !failure.text.contains(bad), "{failure}");
    }
    assert_eq!(token(&"a".repeat(16 * 1024)).unwrap(), 16 * 1024);
    assert_eq!(token(&"a".repeat(16 * 1024 + 1)).unwrap_err().cause, Cause::Malformed);
}

#[test]
fn an_answer_that_is_not_exactly_a_token_is_none() {
    for body in [
        "",
        "access_token=t&token_type=bearer",
        "<html>",
        "null",
        r#"["t","Bearer",300,null]"#,
        r#"{"token_type":"Bearer"}"#,
        r#"{"access_token":null,"token_type":"Bearer"}"#,
        r#"{"access_token":7,"token_type":"Bearer"}"#,
        r#"{"access_token":"t","token_type":"Bearer"} {}"#,
        r#"{"access_token":"t","token_type":"Bearer""#,
        r#"{"access_token":"t","access_token":"u","token_type":"Bearer"}"#,
        r#"{"access_token":"t","token_type":"Bearer","token_type":"Bearer"}"#,
        r#"{"access_token":"t","token_type":"Bearer","expires_in":1,"expires_in":99999}"#,
        r#"{"access_token":"t","token_type":"Bearer","scope":["a"]}"#,
    ] {
        assert_eq!(cause(200, body), Cause::Malformed, "{body}");
    }
    assert_eq!(cause(201, r#"{"access_token":"t","token_type":"Bearer"}"#), Cause::Malformed);
    assert_eq!(cause(204, ""), Cause::Malformed);
}

#[test]
fn c16_errors_by_what_is_tried_next() {
    for (error, cause_of_it) in [
        ("invalid_client", Cause::InvalidClient),
        ("invalid_scope", Cause::InvalidScope),
        ("unauthorized_client", Cause::UnauthorizedClient),
        ("unsupported_grant_type", Cause::UnsupportedGrantType),
        ("invalid_target", Cause::InvalidTarget),
        ("invalid_request", Cause::InvalidRequest),
        ("invalid_grant", Cause::InvalidGrant),
    ] {
        let found = cause(400, &format!(r#"{{"error":"{error}","error_description":"x"}}"#));
        assert_eq!((found, found.is_permanent(), found.as_str()), (cause_of_it, true, error));
    }
    for (status, body, expected) in [
        (401, "", Cause::InvalidClient),
        (401, r#"{"error":"odd"}"#, Cause::Rejected),
        (400, "", Cause::Rejected),
        (404, "<html>", Cause::Rejected),
        (400, r#"{"error":"temporarily_unavailable"}"#, Cause::TemporarilyUnavailable),
        (429, r#"{"error":"invalid_client"}"#, Cause::RateLimited),
        (500, r#"{"error":"invalid_client"}"#, Cause::ServerError),
        (503, "", Cause::ServerError),
        (302, "", Cause::Redirect),
        (307, r#"{"access_token":"t","token_type":"Bearer"}"#, Cause::Redirect),
    ] {
        let found = cause(status, body);
        assert_eq!(found, expected, "{status} {body}");
        assert_eq!(found.is_permanent(), found == Cause::InvalidClient);
    }
}

#[test]
fn out_13_no_text_repeats_what_the_server_said() {
    for (status, body) in [
        (400, r#"{"error":"invalid_client","error_description":"s3cret is wrong"}"#),
        (400, r#"{"error":"s3cret"}"#),
        (500, "s3cret"),
        (200, r#"{"access_token":"s3cret","token_type":"s3cret"}"#),
        (200, r#"{"access_token":["s3cret"],"token_type":"Bearer"}"#),
        (200, r#"{"access_token":"s3cret s3cret","token_type":"Bearer"}"#),
        (200, r#"{"access_token":"t","token_type":"Bearer","expires_in":"s3cret"}"#),
        (200, "s3cret"),
    ] {
        let failure = read(answer(status, body), &asked(0, &[]), &Grant::ClientCredentials, 0).unwrap_err();
        assert!(!format!("{failure} {failure:?}").contains("s3cret"), "{failure:?}");
    }
}

#[test]
fn c17_retry_after_in_seconds_or_as_a_date() {
    assert_eq!(retry_after("120", 0), Some(Duration::from_secs(120)));
    assert_eq!(retry_after("99999999999999999999", 0), Some(Duration::from_secs(u64::MAX)));
    let now = 784_111_777;
    assert_eq!(retry_after("Sun, 06 Nov 1994 08:51:07 GMT", now), Some(Duration::from_secs(90)));
    assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
    for text in ["", "-5", "soon", "1.5"] {
        assert_eq!(retry_after(text, now), None, "{text}");
    }
}

fn exchange() -> Grant {
    Grant::TokenExchange { subject: Arc::new(Subject::new("app.own~token/+=")) }
}

/// The answer of an exchange with these members beside the token.
fn exchanged(members: &str) -> Result<Granted, Failure> {
    let body = format!(r#"{{"access_token":"t","expires_in":60{members}}}"#);
    read(answer(200, body), &asked(0, &["a", "b"]), &exchange(), 0)
}

#[test]
fn c25_the_subject_goes_with_its_type_and_no_actor() {
    let request = request(ENDPOINT, &asked(0, &["a"]), &exchange(), basic()).unwrap();
    assert_eq!(request.uri().to_string(), ENDPOINT);
    let body = std::str::from_utf8(request.body()).unwrap();
    assert_eq!(
        body,
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange\
         &subject_token=app.own%7Etoken%2F%2B%3D\
         &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token\
         &requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token\
         &scope=a&audience=https%3A%2F%2Forders.shop"
    );
}

#[test]
fn c25_what_was_issued_is_read_and_has_to_be_an_access_token() {
    let issued = |kind: &str| {
        let members = format!(
            r#","token_type":"Bearer","issued_token_type":"urn:ietf:params:oauth:token-type:{kind}""#
        );
        exchanged(&members).map_err(|failure| failure.cause).map(|granted| granted.life.as_secs())
    };
    assert_eq!((issued("access_token"), issued("jwt")), (Ok(60), Ok(60)));
    for kind in ["refresh_token", "id_token", "saml1", "saml2", "ACCESS_TOKEN", ""] {
        assert_eq!(issued(kind), Err(Cause::TokenType), "{kind}");
    }
    for missing in ["", r#","issued_token_type":null"#] {
        let failure = exchanged(&format!(r#","token_type":"Bearer"{missing}"#)).unwrap_err();
        assert_eq!(failure.cause, Cause::TokenType, "{missing}");
    }
    assert_eq!(
        exchanged(r#","token_type":"Bearer","issued_token_type":7"#).unwrap_err().cause,
        Cause::Malformed
    );
    // Outside of an exchange it says nothing.
    read_ok(r#"{"access_token":"t","token_type":"Bearer","issued_token_type":"x"}"#);
}

#[test]
fn c25_n_a_is_no_bearer() {
    let issued = r#","issued_token_type":"urn:ietf:params:oauth:token-type:access_token""#;
    for kind in ["N_A", "n_a", "DPoP", "mac", ""] {
        let failure = exchanged(&format!(r#"{issued},"token_type":"{kind}""#)).unwrap_err();
        assert_eq!(failure.cause, Cause::TokenType, "{kind}");
    }
    assert!(exchanged(&format!(r#"{issued},"token_type":"bearer""#)).is_ok());
}

#[test]
fn c16_c25_whose_fault_a_refused_exchange_is() {
    let found =
        |status: u16, body: &str| read(answer(status, body), &asked(0, &[]), &exchange(), 0).unwrap_err();
    for error in ["invalid_grant", "invalid_request"] {
        let failure = found(400, &format!(r#"{{"error":"{error}"}}"#));
        assert_eq!((failure.cause, failure.cause.is_permanent()), (Cause::Subject, true));
        assert!(failure.text.contains(error), "{failure}");
    }
    for (status, error, cause) in [
        (401, "invalid_client", Cause::InvalidClient),
        (400, "invalid_target", Cause::InvalidTarget),
        (400, "invalid_scope", Cause::InvalidScope),
        (400, "unauthorized_client", Cause::UnauthorizedClient),
        (400, "unsupported_grant_type", Cause::UnsupportedGrantType),
        (400, "odd", Cause::Rejected),
        (429, "invalid_grant", Cause::RateLimited),
        (500, "invalid_grant", Cause::ServerError),
    ] {
        assert_eq!(found(status, &format!(r#"{{"error":"{error}"}}"#)).cause, cause, "{status} {error}");
    }
}
