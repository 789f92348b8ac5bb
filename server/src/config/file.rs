//! `--config-file`: YAML or JSON, with etcd's keys, which are not quite the flags' names.
//!
//! Durations are whole nanoseconds, some lists are YAML lists, TLS and discovery settings are
//! nested. Keys that mean nothing are ignored by etcd; here each of them is noted.

use std::fs::File;
use std::io::Read;

use serde_yaml_ng::{Mapping, Value as Yaml};

use super::Stop;
use super::error::ConfigError;
use super::flags::Values;
use super::note::Note;
use super::table::{FLAGS, position};
use super::url::MemberUrl;
use super::value::{Kind, Value};

/// A file of settings is small; a larger one is the wrong file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Flags that are no keys of the file, beside those of [`NESTED`] and the legacy ones.
const NO_KEYS: [&str; 7] = [
    "raft-read-timeout",
    "raft-write-timeout",
    "discovery-fallback",
    "config-file",
    "version",
    "client-crl-file",
    "peer-crl-file",
];

/// A key, the keys within it, and the flag that each of those means.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

/// The nested settings. Two of the client's have no flag; they stand under their peer's name, since
/// both are refused for the same reason.
const NESTED: [Section; 7] = [
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
            (
                "skip-client-san-verification",
                "peer-skip-client-san-verification",
            ),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            (
                "skip-client-san-verification",
                "peer-skip-client-san-verification",
            ),
        ],
    ),
    ("discovery-config", &[("token", "discovery-token")]),
    (
        "discovery-config.client",
        &[
            ("endpoints", "discovery-endpoints"),
            ("dial-timeout", "discovery-dial-timeout"),
            ("request-timeout", "discovery-request-timeout"),
            ("keepalive-time", "discovery-keepalive-time"),
            ("keepalive-timeout", "discovery-keepalive-timeout"),
        ],
    ),
    (
        "discovery-config.client.secure",
        &[
            ("cert", "discovery-cert"),
            ("key", "discovery-key"),
            ("cacert", "discovery-cacert"),
            ("insecure-transport", "discovery-insecure-transport"),
            (
                "insecure-skip-tls-verify",
                "discovery-insecure-skip-tls-verify",
            ),
        ],
    ),
    (
        "discovery-config.client.auth",
        &[
            ("username", "discovery-user"),
            ("password", "discovery-password"),
        ],
    ),
    (
        "socket-options",
        &[
            ("reuse-port", "socket-reuse-port"),
            ("reuse-address", "socket-reuse-address"),
        ],
    ),
];

/// Reads the file at `path`; what it does not mention keeps its default.
pub(super) fn read(path: &str, notes: &mut Vec<Note>) -> Result<Values, Stop> {
    let text = content(path).map_err(ConfigError::File)?;
    parse(&text, notes)
}

fn content(path: &str) -> Result<String, String> {
    let said = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("open {path}: no such file or directory"),
        std::io::ErrorKind::PermissionDenied => format!("open {path}: permission denied"),
        _ => format!("read {path}: {error}"),
    };
    let file = File::open(path).map_err(said)?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(said)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(format!(
            "read {path}: a config file has at most {MAX_FILE_BYTES} bytes"
        ));
    }
    Ok(text)
}

/// Reads the text of such a file.
pub(super) fn parse(text: &str, notes: &mut Vec<Note>) -> Result<Values, Stop> {
    let mut values = Values::defaults();
    let document: Yaml = serde_yaml_ng::from_str(text)
        .map_err(|error| ConfigError::File(format!("error converting YAML to JSON: {error}")))?;
    match document {
        Yaml::Null => {}
        Yaml::Mapping(mapping) => read_section("", &mapping, &mut values, notes)?,
        other => {
            let found = name_of(&other);
            let text = format!("the config file must hold settings by name, but holds {found}");
            return Err(ConfigError::File(text).into());
        }
    }
    Ok(values)
}

/// Reads the keys of one mapping; `section` is "" at the top, otherwise the path to it.
fn read_section(
    section: &str,
    mapping: &Mapping,
    values: &mut Values,
    notes: &mut Vec<Note>,
) -> Result<(), Stop> {
    for (key, value) in mapping {
        let key = key.as_str().unwrap_or_default();
        let path = if section.is_empty() {
            key.to_owned()
        } else {
            format!("{section}.{key}")
        };
        match value {
            Yaml::Null => {}
            Yaml::Mapping(inner) if NESTED.iter().any(|(name, _)| *name == path) => {
                read_section(&path, inner, values, notes)?;
            }
            _ if NESTED.iter().any(|(name, _)| *name == path) => {
                return Err(wrong_type(value, &path, "settings by name").into());
            }
            value => match flag_of(section, key) {
                Some(flag) => read_value(flag, &path, value, values)?,
                None => notes.push(Note::UnknownKey { key: path }),
            },
        }
    }
    Ok(())
}

/// The flag that a key stands for; like Go's JSON decoder it does not look at the case.
fn flag_of(section: &str, key: &str) -> Option<&'static str> {
    if section.is_empty() {
        let nested = |flag| {
            NESTED
                .iter()
                .any(|(_, keys)| keys.iter().any(|(_, of)| *of == flag))
        };
        let flag = FLAGS
            .iter()
            .find(|flag| flag.name.eq_ignore_ascii_case(key))?;
        let excluded =
            NO_KEYS.contains(&flag.name) || nested(flag.name) || flag.kind == Kind::Ignored;
        return (!excluded).then_some(flag.name);
    }
    let (_, keys) = NESTED.iter().find(|(name, _)| *name == section)?;
    keys.iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(key))
        .map(|(_, flag)| *flag)
}

fn read_value(flag: &str, path: &str, value: &Yaml, values: &mut Values) -> Result<(), Stop> {
    let kind = FLAGS[position(flag).expect("flag_of names flags of the table")].kind;
    if let (Kind::Urls, Yaml::String(text)) = (kind, value) {
        // etcd does not log this one, it prints it.
        let urls = MemberUrl::parse_list(text).map_err(|error| Stop::Print {
            stdout: String::new(),
            stderr: format!("unexpected error setting up {flag}: {error}\n"),
            code: 1,
        });
        if !text.is_empty() {
            values.put(flag, Value::Urls(urls?));
        }
        return Ok(());
    }
    if let (Kind::Gates, Yaml::String(text)) = (kind, value) {
        return values
            .set(flag, text)
            .map_err(|error| ConfigError::File(error).into());
    }
    let read = convert(flag, kind, value);
    let read = read.ok_or_else(|| wrong_type(value, path, wanted(flag, kind)))?;
    values.put(flag, read);
    Ok(())
}

fn wrong_type(value: &Yaml, path: &str, wanted: &str) -> ConfigError {
    let found = name_of(value);
    ConfigError::File(format!(
        "error unmarshaling JSON: cannot unmarshal {found} into {path}, which takes {wanted}"
    ))
}

/// Whether the file has one comma-separated string for these words, and not a list.
fn is_comma_list(flag: &str) -> bool {
    matches!(flag, "cors" | "host-whitelist")
}

/// None where the value has another type than the setting.
fn convert(flag: &str, kind: Kind, value: &Yaml) -> Option<Value> {
    Some(match (kind, value) {
        (Kind::Bool, Yaml::Bool(value)) => Value::Bool(*value),
        // YAML 1.1, which etcd reads, has more words for booleans.
        (Kind::Bool, Yaml::String(text)) => match text.to_ascii_lowercase().as_str() {
            "y" | "yes" | "on" => Value::Bool(true),
            "n" | "no" | "off" => Value::Bool(false),
            _ => return None,
        },
        (Kind::Uint, Yaml::Number(number)) => Value::Uint(number.as_u64()?),
        (Kind::Uint32, Yaml::Number(number)) => {
            Value::Uint(number.as_u64().filter(|value| *value <= u32::MAX.into())?)
        }
        (Kind::Int, Yaml::Number(number)) => Value::Int(number.as_i64()?),
        (Kind::Duration, Yaml::Number(number)) => Value::Duration(number.as_i64()?),
        (Kind::Text | Kind::Choice(_) | Kind::Choices(_), Yaml::String(text)) => {
            let unset = text.is_empty() && flag == "initial-cluster-state";
            Value::Text(if unset {
                "new".to_owned()
            } else {
                text.clone()
            })
        }
        (Kind::Words, Yaml::String(text)) if is_comma_list(flag) => {
            Value::read(Kind::Words, text, None).ok()?
        }
        (Kind::Words | Kind::List, Yaml::Sequence(items)) if !is_comma_list(flag) => {
            let words = items.iter().map(|item| item.as_str().map(str::to_owned));
            Value::Words(words.collect::<Option<Vec<_>>>()?)
        }
        _ => return None,
    })
}

/// What a setting takes, for the error text.
fn wanted(flag: &str, kind: Kind) -> &'static str {
    match kind {
        Kind::Bool | Kind::Ignored => "true or false",
        Kind::Uint | Kind::Uint32 => "a whole number of 0 or more",
        Kind::Int => "a whole number",
        Kind::Duration => "a whole number of nanoseconds",
        Kind::Words | Kind::List if !is_comma_list(flag) => "a list of strings",
        _ => "a string",
    }
}

fn name_of(value: &Yaml) -> &'static str {
    match value {
        Yaml::Null => "nothing",
        Yaml::Bool(_) => "bool",
        Yaml::Number(_) => "number",
        Yaml::String(_) => "string",
        Yaml::Sequence(_) => "array",
        Yaml::Mapping(_) => "object",
        Yaml::Tagged(_) => "a tagged value",
    }
}
