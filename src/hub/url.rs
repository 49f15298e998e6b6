//! Addresses: compared, resolved, shown.

use ureq::http::Uri;

/// An address for messages: without its query, which may hold a signature that grants access.
pub(super) fn show(url: &Uri) -> String {
    let port = url.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    let (scheme, host) = (url.scheme_str().unwrap_or_default(), url.host().unwrap_or_default());
    format!("{scheme}://{host}{port}{}", url.path())
}

fn host_and_port(url: &Uri) -> (String, u16) {
    let default = if url.scheme_str() == Some("https") { 443 } else { 80 };
    (url.host().unwrap_or_default().to_ascii_lowercase(), url.port_u16().unwrap_or(default))
}

/// Whether both have the scheme, the host and the port in common.
pub(super) fn same_origin(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && host_and_port(a) == host_and_port(b)
}

/// `location` as seen from `base` (RFC 3986, 5.2, without dot segments, which no server sends).
pub(super) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let (scheme, authority) = (base.scheme_str()?, base.authority()?.as_str());
    let location = location.split('#').next().filter(|text| !text.is_empty())?;
    let has_scheme =
        location.split_once("://").is_some_and(|(s, _)| s.bytes().all(|b| b.is_ascii_alphanumeric()));
    let absolute = if has_scheme {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{directory}/{location}")
    };
    let url = absolute.parse::<Uri>().ok()?;
    (matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn redirects_resolve_as_a_browser_would() {
        let base = uri("https://hub.example:8443/a/b?c=d");
        for (location, expected) in [
            ("https://cdn.example/x?y=1#z", Some("https://cdn.example/x?y=1")),
            ("//cdn.example/x", Some("https://cdn.example/x")),
            ("/x", Some("https://hub.example:8443/x")),
            ("x?next=http://y", Some("https://hub.example:8443/a/x?next=http://y")),
            ("", None),
            ("ftp://cdn.example/x", None),
            ("file:///etc/passwd", None),
        ] {
            assert_eq!(resolve(&base, location).map(|u| u.to_string()).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let hub = uri("https://Hub.example");
        assert!(same_origin(&hub, &uri("https://hub.example:443/x")));
        for other in ["http://hub.example", "https://hub.example:444", "https://cdn.hub.example"] {
            assert!(!same_origin(&hub, &uri(other)), "{other}");
        }
    }
}
