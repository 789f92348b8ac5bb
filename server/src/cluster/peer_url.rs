//! Which peer URLs a member may have: etcd's rules, which are narrower than the standard's.

/// Is `text` a URL that etcd takes for a peer's? Scheme http or https with "host:port" and no path,
/// or a unix socket. White space around it does not count.
pub fn is_peer_url(text: &str) -> bool {
    let text = text.trim();
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return false;
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => rest.strip_prefix("//").is_some_and(is_host_and_port_only),
        "unix" | "unixs" => true,
        _ => false,
    }
}

fn is_host_and_port_only(rest: &str) -> bool {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_user, host)| host);
    !after.starts_with('/') && is_host_and_port(host)
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_is_fine = match host.strip_prefix('[') {
        Some(address) => address
            .strip_suffix(']')
            .is_some_and(|address| !address.contains(']')),
        None => !host.contains([':', '[', ']', ' ', '%', '\\', '^', '`', '{', '|', '}']),
    };
    host_is_fine && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutate;

    #[test]
    fn peer_urls_are_judged_as_etcd_judges_them() {
        let good = [
            "http://127.0.0.1:2380",
            " https://node.example:2380 ",
            "HTTP://a:1",
            "http://[::1]:2380",
            "http://a:",
            "http://a:1?x=y",
            "http://u:p@a:1",
            "http://:1",
            "http://a_b:99999",
            "http://ä:1",
            "unix:socket",
            "unix://socket",
            "unixs://a:1",
        ];
        for good in good {
            assert!(is_peer_url(good), "{good}");
        }
        let bad = [
            "",
            "a:1",
            "ftp://a:1",
            "http://a",
            "http://a:1/",
            "http://a:1/path",
            "http:a:1",
            "http://::1:2380",
            "http://a:b",
            "http://[::1]",
            "http://a b:1",
            "http://a:1\n2",
            "http://a%zz:1",
            "http://[::1]x:1",
            "http:///a:1",
        ];
        for bad in bad {
            assert!(!is_peer_url(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_junk_for_a_url_panics(text in mutate::near_any(&[
            "http://127.0.0.1:2380",
            " https://[::1]:2380?x=y#z ",
            "HTTP://u:p@ä:1",
            "unixs://a:1",
        ])) {
            let text = String::from_utf8_lossy(&text);
            assert_eq!(is_peer_url(&text), is_peer_url(text.trim()));
        }
    }
}
