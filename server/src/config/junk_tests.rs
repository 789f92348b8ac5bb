//! Nothing that comes from outside may make the configuration panic.

use proptest::prelude::*;

use super::cluster::{parse_members, written};
use super::duration::{go_duration, parse_go_duration};
use super::load;
use super::table::FLAGS;
use super::url::{MemberUrl, join};
use crate::mutate;

/// Texts near the edges of what flags take.
const EDGES: &[&str] = &[
    "",
    "0",
    "-1",
    "1",
    "true",
    "5s",
    "-5s",
    "0x",
    "18446744073709551615",
    "9223372036854775807ns",
    "http://0.0.0.0:1",
    "http://[::]:1",
    "http://:1",
    "unix://",
    ",",
    "a=b,c",
    "http://a:1,http://a:1",
    "default",
    "/dev/null",
    "AllAlpha=true",
];

/// Values near the edges of what flags take, and anything else.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => proptest::sample::select(EDGES).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

/// Files are another test's business.
fn names() -> Vec<&'static str> {
    let names = FLAGS.iter().map(|flag| flag.name);
    names.filter(|name| *name != "config-file").collect()
}

fn argument() -> impl Strategy<Value = String> {
    let flag = (proptest::sample::select(names()), value());
    prop_oneof![
        9 => flag.prop_map(|(name, value)| format!("--{name}={value}")),
        1 => any::<String>(),
    ]
}

/// A file with something of every kind.
const FILE: &str = "name: m1\ndata-dir: /d\nsnapshot-count: 10\nheartbeat-interval: 100\n\
    listen-client-urls: http://a:1,http://b:2\nforce-new-cluster: false\n\
    client-transport-security:\n  cert-file: x\nself-signed-cert-validity: 1\n\
    grpc-keepalive-min-time: 5000000000\nfeature-gates: AllAlpha=true\nlog-outputs: [a, b]\n";

/// The same as JSON, in which etcd's files may be, too.
const JSON: &str = r#"{"name":"m1","log-outputs":["a"],"initial-cluster":"m1=http://a:1"}"#;

#[test]
fn what_gets_damaged_is_sound_before() {
    for text in [FILE, JSON] {
        let mut notes = Vec::new();
        assert!(super::file::parse(text, &mut notes).is_ok(), "{text}");
        assert!(notes.is_empty(), "{notes:?}");
    }
}

fn texts_read_back(text: &str) {
    if let Ok(nanos) = parse_go_duration(text) {
        assert_eq!(parse_go_duration(&go_duration(nanos)), Ok(nanos));
    }
    if let Ok(urls) = MemberUrl::parse_list(text) {
        assert_eq!(MemberUrl::parse_list(&join(&urls)), Ok(urls.clone()));
        for url in &urls {
            let _bound = (url.host(), url.port(), url.bind_address());
        }
    }
    if let Ok(members) = parse_members(text) {
        assert_eq!(parse_members(&written(&members)), Ok(members));
    }
}

proptest! {
    #[test]
    fn no_arguments_or_variables_panic(
        args in proptest::collection::vec(argument(), 0..4),
        flag in proptest::sample::select(names()),
        value in value(),
    ) {
        let env = [(super::env::variable_of(flag), value)];
        if let Ok(config) = load(&args, &env).outcome {
            prop_assert!(config.election_ticks() >= 5);
        }
    }

    #[test]
    fn no_config_file_panics(
        key in proptest::sample::select(FLAGS),
        value in prop_oneof![value(), Just("[a, b]".to_owned()), Just("{a: {b: c}}".to_owned())],
        junk in any::<String>(),
    ) {
        for text in [format!("{}: {value}", key.name), junk] {
            let _whatever = super::file::parse(&text, &mut Vec::new());
        }
    }

    #[test]
    fn no_damaged_config_file_panics(file in mutate::near_any(&[FILE, JSON])) {
        let _whatever = super::file::parse(&String::from_utf8_lossy(&file), &mut Vec::new());
    }

    #[test]
    fn no_junk_for_a_duration_or_url_panics(text in mutate::near_any(&[
        "1h30m1.5s",
        "-2562047h47m16.854775808s",
        "+.5us3ms",
        "http://127.0.0.1:80,https://[::1]:2380",
        "m1=http://a:1,m2=unix://b:2,m1=https://ä:3",
    ])) {
        texts_read_back(&String::from_utf8_lossy(&text));
    }
}
