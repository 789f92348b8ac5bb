//! Nothing that comes from outside may make the configuration panic.

use proptest::prelude::*;

use super::load;
use super::table::FLAGS;

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

fn argument() -> impl Strategy<Value = String> {
    let names: Vec<&str> = FLAGS.iter().map(|flag| flag.name).collect();
    let flag = (proptest::sample::select(names), value());
    prop_oneof![
        9 => flag.prop_map(|(name, value)| format!("--{name}={value}")),
        1 => any::<String>(),
    ]
}

proptest! {
    #[test]
    fn no_arguments_or_variables_panic(
        args in proptest::collection::vec(argument(), 0..4),
        flag in proptest::sample::select(FLAGS),
        value in value(),
    ) {
        // Files are another test's business.
        prop_assume!(!args.iter().any(|arg| arg.contains("config-file")));
        prop_assume!(flag.name != "config-file");
        let env = [(super::env::variable_of(flag.name), value)];
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
}
