//! Is this a URL that a sidecar may call? http and https with a host, in the plain form that every parser reads alike.

use crate::host;

/// What else a URL may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UrlRules {
    /// http too.
    pub(crate) insecure: bool,
    pub(crate) query: bool,
}

/// Says what is wrong with the URL, if anything. Neither user info nor a fragment is ever allowed.
pub(crate) fn check(url: &str, rules: UrlRules) -> Result<(), String> {
    if let Some(c) = url.chars().find(|c| !c.is_ascii_graphic() || r#""<>\^`{|}"#.contains(*c)) {
        return Err(format!("holds {c:?}, which a URL cannot: percent-encode it"));
    }
    let rest = match url.split_once("://") {
        Some(("https", rest)) => rest,
        Some(("http", rest)) if rules.insecure => rest,
        Some(("http", _)) => return Err("is plain http: use https, or write `insecure: true`".to_owned()),
        _ => return Err("is no URL: write e.g. https://login.example.com".to_owned()),
    };
    if rest.contains('#') {
        return Err("has a fragment: remove `#` and what follows".to_owned());
    }
    let (before_query, query) =
        rest.split_once('?').map_or((rest, None), |(before, query)| (before, Some(query)));
    if query.is_some() && !rules.query {
        return Err("has a query: remove `?` and what follows".to_owned());
    }
    let authority = before_query.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err("holds user information: remove it".to_owned());
    }
    match host::normalize(authority) {
        Some(_) => Ok(()),
        None => Err(format!("`{authority}` is no host: write e.g. https://login.example.com")),
    }
}

/// An absolute URI without fragment (RFC 8707 §2), of any scheme.
pub(crate) fn check_resource(uri: &str) -> Result<(), String> {
    let scheme = uri.split_once(':').map(|(scheme, _)| scheme).unwrap_or_default();
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    if !is_scheme(scheme) || uri.contains('#') || !uri.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("`{uri}` is no absolute URI without fragment (RFC 8707 §2)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: UrlRules = UrlRules { insecure: false, query: false };

    #[test]
    fn plain_urls_pass() {
        for url in
            ["https://a.example", "https://a.example:8443/x/y%20z", "https://[::1]:1/", "https://10.0.0.1"]
        {
            assert_eq!(check(url, STRICT), Ok(()), "{url}");
        }
        assert_eq!(check("http://a:1", UrlRules { insecure: true, query: false }), Ok(()));
        assert_eq!(check("https://a/?b=c", UrlRules { insecure: false, query: true }), Ok(()));
    }

    #[test]
    fn others_do_not() {
        for url in [
            "",
            "a.example",
            "ftp://a",
            "https://",
            "https:///x",
            "http://a",
            "https://u@a",
            "https://u:p@a/",
            "https://a/#",
            "https://a?",
            "https://a b",
            "https://a\\b",
            "https://\u{e9}",
            "https://a:99999",
            "HTTPS://a",
            "https://a/\n",
        ] {
            assert!(check(url, STRICT).is_err(), "{url}");
        }
    }

    #[test]
    fn resources() {
        assert_eq!(check_resource("urn:orders"), Ok(()));
        assert_eq!(check_resource("https://orders.shop/"), Ok(()));
        for uri in ["orders", "", "https://a#b", "https://a b", "1a:b"] {
            assert!(check_resource(uri).is_err(), "{uri}");
        }
    }
}
