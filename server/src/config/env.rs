//! `ETCD_*` variables: each flag can also be set by one, but not by both at once.

use super::error::ConfigError;
use super::flags::Values;
use super::note::Note;
use super::shown;
use super::table::FLAGS;

const PREFIX: &str = "ETCD";

/// The variable that stands for a flag: `--data-dir` is `ETCD_DATA_DIR`.
pub(super) fn variable_of(flag: &str) -> String {
    format!("{PREFIX}_{}", flag.to_uppercase().replace('-', "_"))
}

/// Value of a variable; one that is empty counts as not set, as in etcd.
pub(super) fn lookup<'a>(env: &'a [(String, String)], variable: &str) -> Option<&'a str> {
    let found = env.iter().find(|(name, _)| name == variable);
    found
        .map(|(_, value)| value.as_str())
        .filter(|value| !value.is_empty())
}

/// Sets the flags that have a variable and were not given as an argument.
///
/// A variable that belongs to no flag, or is empty, is only noted. One whose flag was given as an
/// argument too is an error, be it empty or equal, since etcd refuses to guess which one was meant.
pub(super) fn apply(
    values: &mut Values,
    env: &[(String, String)],
    notes: &mut Vec<Note>,
) -> Result<(), ConfigError> {
    let by_argument: Vec<String> = values
        .given()
        .map(|(flag, _)| variable_of(flag.name))
        .collect();
    // ETCD_VERSION is common in unit files and scripts; it must not stop the server.
    let mut flags: Vec<&str> = FLAGS
        .iter()
        .map(|flag| flag.name)
        .filter(|name| *name != "version")
        .collect();
    flags.sort_unstable();

    let mut used = Vec::new();
    let mut result = Ok(());
    for flag in flags {
        let variable = variable_of(flag);
        if by_argument.contains(&variable) {
            continue;
        }
        let Some(value) = lookup(env, &variable) else {
            continue;
        };
        match values.set(flag, value) {
            Ok(()) => {
                notes.push(Note::VariableUsed {
                    name: variable.clone(),
                    value: shown(flag, value),
                });
            }
            Err(reason) => {
                let value = value.to_owned();
                result = Err(ConfigError::Variable {
                    variable: variable.clone(),
                    value,
                    reason,
                });
            }
        }
        used.push(variable);
    }
    for (name, value) in env {
        if name == "ETCD_VERSION" && !value.is_empty() {
            notes.push(Note::VersionVariable {
                value: value.clone(),
            });
        } else if by_argument.contains(name) {
            return Err(ConfigError::Shadowed {
                variable: name.clone(),
            });
        } else if name.starts_with("ETCD_") && !used.contains(name) {
            notes.push(Note::VariableUnknown {
                text: format!("{name}={value}"),
            });
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HIDDEN;

    fn run(args: &[&str], env: &[(&str, &str)]) -> (Values, Vec<Note>, Result<(), ConfigError>) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let env: Vec<_> = env
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect();
        let mut values = Values::defaults();
        assert_eq!(values.parse(&args), Ok(&[][..]));
        let mut notes = Vec::new();
        let result = apply(&mut values, &env, &mut notes);
        (values, notes, result)
    }

    #[test]
    fn a_variable_sets_its_flag() {
        let (values, notes, result) = run(&["--name=a"], &[("ETCD_DATA_DIR", "d"), ("HOME", "/")]);
        assert_eq!(result, Ok(()));
        assert_eq!(values.text("data-dir"), "d");
        assert!(values.is_set("data-dir"));
        let used = Note::VariableUsed {
            name: "ETCD_DATA_DIR".into(),
            value: "d".into(),
        };
        assert_eq!(notes, [used]);
    }

    #[test]
    fn a_secret_is_used_and_not_logged() {
        let (values, notes, _) = run(&[], &[("ETCD_DISCOVERY_PASSWORD", "s")]);
        assert_eq!(values.text("discovery-password"), "s");
        let name = "ETCD_DISCOVERY_PASSWORD".to_owned();
        assert_eq!(
            notes,
            [Note::VariableUsed {
                name,
                value: HIDDEN.to_owned()
            }]
        );
        let args = [
            "--discovery-password=s",
            "-discovery-password",
            "s",
            "--name",
            "a",
            "--discovery-user=u:s",
            "-discovery-user",
            "u:s",
        ];
        let shown = crate::config::loggable(&args.map(str::to_owned));
        let expected = [
            "--discovery-password=***",
            "-discovery-password",
            "***",
            "--name",
            "a",
            "--discovery-user=u:***",
            "-discovery-user",
            "u:***",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn argument_and_variable_together_are_refused_even_if_empty() {
        for value in ["a", "b", ""] {
            let (.., result) = run(&["--name=a"], &[("ETCD_NAME", value)]);
            assert_eq!(
                result,
                Err(ConfigError::Shadowed {
                    variable: "ETCD_NAME".into()
                })
            );
        }
    }

    #[test]
    fn a_variable_that_means_nothing_is_noted_only() {
        let (_, notes, result) = run(
            &[],
            &[
                ("ETCD_FOO", "1"),
                ("ETCD_NAME", ""),
                ("ETCD_VERSION", "3"),
                ("ETCDX", ""),
            ],
        );
        assert_eq!(result, Ok(()));
        let expected = [
            Note::VariableUnknown {
                text: "ETCD_FOO=1".into(),
            },
            Note::VariableUnknown {
                text: "ETCD_NAME=".into(),
            },
            Note::VersionVariable { value: "3".into() },
        ];
        assert_eq!(notes, expected);
    }

    #[test]
    fn a_bad_value_gets_etcds_text() {
        let (.., result) = run(&[], &[("ETCD_HEARTBEAT_INTERVAL", "abc")]);
        let text = "invalid value \"abc\" for ETCD_HEARTBEAT_INTERVAL: parse error";
        assert_eq!(result.unwrap_err().to_string(), text);
    }
}
