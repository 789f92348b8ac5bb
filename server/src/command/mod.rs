//! The offline commands of the binary: what etcdutl does for etcd's files, for those without it.
//!
//! They take etcdutl's flags and print what it prints; what only Trilith does has a command of its
//! own. Nothing here prints: the text goes back to `main`.

mod check;
mod hashkv;
mod snapshot;
mod status_text;

use clap::{ArgMatches, Command};

/// What a command has to say, and how the process ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Printed {
    /// For standard output.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
    /// The exit code.
    pub code: u8,
}

/// Runs the command that `args` (without the program's name) begin with; `None` when they begin
/// with none, so that they are flags of the server.
pub fn run(args: &[String]) -> Option<Printed> {
    let first = args.first()?;
    COMMANDS.contains(&first.as_str()).then(|| {
        let name = std::iter::once("trilith".to_owned());
        match program().try_get_matches_from(name.chain(args.iter().cloned())) {
            Ok(matches) => chosen(&matches),
            Err(error) => refused(&error),
        }
    })
}

fn program() -> Command {
    Command::new("trilith")
        .about("Offline commands for Trilith's and etcd's files")
        .subcommand_required(true)
        .subcommand(check::command())
        .subcommand(hashkv::command())
        .subcommand(snapshot::command())
}

fn chosen(matches: &ArgMatches) -> Printed {
    match matches.subcommand() {
        Some((check::NAME, matches)) => check::run(matches),
        Some((hashkv::NAME, matches)) => hashkv::run(matches),
        Some((snapshot::NAME, matches)) => snapshot::run(matches),
        _ => unreachable_command(),
    }
}

/// clap has refused any other command already; should it not have, that is an error like any.
fn unreachable_command() -> Printed {
    failed(BAD_ARGUMENTS, "no such command")
}

/// Help goes to standard output, anything else that clap says is an error.
fn refused(error: &clap::Error) -> Printed {
    let text = error.render().to_string();
    if error.use_stderr() {
        Printed {
            stderr: text,
            code: BAD_ARGUMENTS,
            ..Printed::default()
        }
    } else {
        Printed {
            stdout: text,
            ..Printed::default()
        }
    }
}

/// An error in etcdutl's form.
fn failed(code: u8, error: impl std::fmt::Display) -> Printed {
    Printed {
        stderr: format!("Error: {error}\n"),
        code,
        ..Printed::default()
    }
}

/// What a flag or argument was given; empty without.
fn text<'a>(matches: &'a ArgMatches, flag: &str) -> &'a str {
    matches.get_one::<String>(flag).map_or("", String::as_str)
}

const COMMANDS: [&str; 3] = [check::NAME, hashkv::NAME, snapshot::NAME];

/// etcdutl's exit codes.
const ERROR: u8 = 1;
const BAD_FORMAT: u8 = 4;
const BAD_ARGUMENTS: u8 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(line: &str) -> Option<Printed> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        run(&args)
    }

    #[test]
    fn flags_of_the_server_are_no_command() {
        assert_eq!(printed(""), None);
        assert_eq!(printed("--name snapshot"), None);
        assert_eq!(printed("snapshots status x"), None);
    }

    #[test]
    fn help_is_for_standard_output_and_errors_are_not() {
        let help = printed("snapshot --help").expect("a command");
        assert!(help.stdout.contains("restore") && help.code == 0);
        for bad in [
            "snapshot",
            "snapshot status",
            "snapshot status a b",
            "snapshot restore",
        ] {
            let refused = printed(bad).expect("a command");
            assert_eq!(
                (refused.stdout.as_str(), refused.code),
                ("", BAD_ARGUMENTS),
                "{bad}"
            );
            assert!(!refused.stderr.is_empty());
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        let refused = printed("snapshot status /nowhere/backup.db").expect("a command");
        assert_eq!(refused.code, ERROR);
        assert!(
            refused.stderr.contains("/nowhere/backup.db"),
            "{}",
            refused.stderr
        );
        let refused = printed("snapshot status x -w xml").expect("a command");
        assert_eq!(refused.code, BAD_FORMAT);
    }
}
