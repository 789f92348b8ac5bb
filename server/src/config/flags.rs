//! The command line, read as Go's `flag` package reads it.
//!
//! This is our own parser because clap cannot follow these rules: long names with one dash or two
//! mean the same, a boolean takes a value only after `=`, the first argument that is no flag ends
//! the flags, and the error texts are Go's. Tools and unit files written for etcd rely on them.

use super::gates::FeatureGates;
use super::table::{FLAGS, Flag, position};
use super::url::MemberUrl;
use super::value::{Kind, Value};

/// The value of each flag, and whether somebody set it.
///
/// Invariant: `values[i]` belongs to `FLAGS[i]` and has the shape of its kind.
#[derive(Clone, Debug)]
pub(super) struct Values {
    values: Vec<Value>,
    set: Vec<bool>,
}

/// Why a command line does not parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ParseError {
    /// `-h` or `--help` was given.
    Help,
    /// In Go's words.
    Bad(String),
}

impl Values {
    /// All flags at their defaults.
    pub(super) fn defaults() -> Self {
        let values = FLAGS.iter().map(default_value).collect();
        Self {
            values,
            set: vec![false; FLAGS.len()],
        }
    }

    /// Takes the flags from `args` (without the program's name); returns what is left over.
    pub(super) fn parse<'a>(&mut self, args: &'a [String]) -> Result<&'a [String], ParseError> {
        let mut rest = args;
        while let [arg, after @ ..] = rest {
            let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else {
                break;
            };
            rest = after;
            let body = match body.strip_prefix('-') {
                Some("") => break,
                Some(body) => body,
                None => body,
            };
            if body.starts_with(['-', '=']) {
                return Err(ParseError::Bad(format!("bad flag syntax: {arg}")));
            }
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (body, None),
            };
            let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) else {
                return Err(match name {
                    "help" | "h" => ParseError::Help,
                    _ => ParseError::Bad(format!("flag provided but not defined: -{name}")),
                });
            };
            let value = match value {
                Some(value) => value,
                None if flag.kind.stands_alone() => "true",
                None => match rest {
                    [value, after @ ..] => {
                        rest = after;
                        value
                    }
                    [] => {
                        let text = format!("flag needs an argument: -{name}");
                        return Err(ParseError::Bad(text));
                    }
                },
            };
            self.set(name, value).map_err(|why| {
                ParseError::Bad(if flag.kind.stands_alone() {
                    format!("invalid boolean value {value:?} for -{name}: {why}")
                } else {
                    format!("invalid value {value:?} for flag -{name}: {why}")
                })
            })?;
        }
        Ok(rest)
    }

    /// Reads `text` into the flag; the error is Go's text.
    pub(super) fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let at = at(name);
        self.values[at] = if name == "discovery-endpoints" && text.is_empty() {
            // etcd takes it for one endpoint, which is then refused for being empty.
            Value::Words(vec![String::new()])
        } else {
            Value::read(FLAGS[at].kind, text, Some(&self.values[at]))?
        };
        self.set[at] = true;
        Ok(())
    }

    /// Puts a value that was read already, as the config file does.
    pub(super) fn put(&mut self, name: &str, value: Value) {
        let at = at(name);
        self.values[at] = value;
        self.set[at] = true;
    }

    /// Whether the flag was given at all, be it with its default.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.set[at(name)]
    }

    /// The flags that were given, with whether each has another value than its default.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static Flag, bool)> {
        let all = FLAGS.iter().zip(&self.values).zip(&self.set);
        all.filter(|(_, set)| **set)
            .map(|((flag, value), _)| (flag, *value != default_value(flag)))
    }

    pub(super) fn bool(&self, name: &str) -> bool {
        match self.values[at(name)] {
            Value::Bool(value) => value,
            _ => wrong_kind(name),
        }
    }

    pub(super) fn uint(&self, name: &str) -> u64 {
        match self.values[at(name)] {
            Value::Uint(value) => value,
            _ => wrong_kind(name),
        }
    }

    pub(super) fn int(&self, name: &str) -> i64 {
        match self.values[at(name)] {
            Value::Int(value) => value,
            _ => wrong_kind(name),
        }
    }

    /// Nanoseconds; may be negative.
    pub(super) fn duration(&self, name: &str) -> i64 {
        match self.values[at(name)] {
            Value::Duration(value) => value,
            _ => wrong_kind(name),
        }
    }

    pub(super) fn text(&self, name: &str) -> &str {
        match &self.values[at(name)] {
            Value::Text(value) => value,
            _ => wrong_kind(name),
        }
    }

    pub(super) fn urls(&self, name: &str) -> &[MemberUrl] {
        match &self.values[at(name)] {
            Value::Urls(value) => value,
            _ => wrong_kind(name),
        }
    }

    pub(super) fn words(&self, name: &str) -> &[String] {
        match &self.values[at(name)] {
            Value::Words(value) => value,
            _ => wrong_kind(name),
        }
    }

    pub(super) fn gates(&self, name: &str) -> &FeatureGates {
        match &self.values[at(name)] {
            Value::Gates(value) => value,
            _ => wrong_kind(name),
        }
    }
}

/// Callers name flags by literals, and a test builds a configuration from all of them.
fn at(name: &str) -> usize {
    position(name).expect("the name stands in the table of flags")
}

fn wrong_kind(name: &str) -> ! {
    panic!("--{name} is asked for as another kind than the table says")
}

/// The default as a value. No stage of `--v2-deprecation` can be typed that would mean none.
fn default_value(flag: &Flag) -> Value {
    match flag.kind {
        Kind::Choices(_) => Value::Text(String::new()),
        kind => Value::read(kind, flag.default, None).expect("a test reads every default"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> (Values, Result<Vec<String>, ParseError>) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut values = Values::defaults();
        let left = values.parse(&args).map(<[String]>::to_vec);
        (values, left)
    }

    #[test]
    fn names_take_one_dash_or_two_and_values_a_blank_or_an_equals_sign() {
        for args in [
            &["--name=a", "--heartbeat-interval=7"][..],
            &["-name", "a", "-heartbeat-interval", "7"],
            &[
                "-name=b",
                "--name",
                "a",
                "--heartbeat-interval",
                "0x7",
                "--",
            ],
        ] {
            let (values, left) = parse(args);
            assert_eq!(left, Ok(vec![]));
            assert_eq!(
                (values.text("name"), values.uint("heartbeat-interval")),
                ("a", 7)
            );
            assert!(values.is_set("name") && !values.is_set("data-dir"));
        }
    }

    #[test]
    fn a_boolean_takes_its_value_only_after_an_equals_sign() {
        let (values, left) = parse(&["--pre-vote=false", "--unsafe-no-fsync", "false"]);
        assert_eq!(left, Ok(vec!["false".to_owned()]));
        assert!(!values.bool("pre-vote") && values.bool("unsafe-no-fsync"));
        let (_, left) = parse(&["--snapshot=whatever", "-v"]);
        assert_eq!(left, Ok(vec![]), "legacy flags take anything");
    }

    #[test]
    fn what_is_no_flag_ends_the_flags() {
        for args in [&["foo", "--name=a"][..], &["-", "--name=a"]] {
            let (values, left) = parse(args);
            assert_eq!(left.unwrap().len(), 2);
            assert_eq!(values.text("name"), "default");
        }
        assert_eq!(
            parse(&["--", "--name=a"]).1,
            Ok(vec!["--name=a".to_owned()])
        );
    }

    #[test]
    fn a_bad_command_line_gets_gos_text() {
        let cases: &[(&[&str], &str)] = &[
            (&["--foo"], "flag provided but not defined: -foo"),
            (&["-foo=1"], "flag provided but not defined: -foo"),
            (&["---x"], "bad flag syntax: ---x"),
            (&["--=3"], "bad flag syntax: --=3"),
            (&["--data-dir"], "flag needs an argument: -data-dir"),
            (
                &["--pre-vote=maybe"],
                "invalid boolean value \"maybe\" for -pre-vote: parse error",
            ),
            (
                &["--heartbeat-interval", "abc"],
                "invalid value \"abc\" for flag -heartbeat-interval: parse error",
            ),
        ];
        for (args, text) in cases {
            assert_eq!(parse(args).1, Err(ParseError::Bad((*text).to_owned())));
        }
        assert_eq!(parse(&["-h"]).1, Err(ParseError::Help));
        assert_eq!(parse(&["--help=1"]).1, Err(ParseError::Help));
    }

    #[test]
    fn every_default_of_the_table_reads_and_names_are_unique() {
        let values = Values::defaults();
        assert_eq!(values.given().count(), 0);
        for (at, flag) in FLAGS.iter().enumerate() {
            assert_eq!(position(flag.name), Some(at), "{}", flag.name);
        }
    }
}
