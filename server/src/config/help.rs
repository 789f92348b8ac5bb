//! What is printed instead of starting a server: help, version, and what is wrong with a flag.

use super::table::{FLAGS, Support};
use super::{ETCD_VERSION, Stop, gates};

const USAGE: &str = "\
Usage:

  trilith [flags]
    Start the server.

  trilith --version
    Show the versions of etcd and Trilith.

  trilith -h | --help
    Show all flags.

  trilith --config-file <path>
    Take all settings from a YAML or JSON file; other flags and ETCD_* variables are then ignored.
    In the file, durations are whole numbers of nanoseconds (600000000000 is 10m).
";

/// `--help`: the usage to standard error and the flags to standard output, as etcd does.
pub(super) fn help() -> Stop {
    Stop::Print {
        stdout: flags(),
        stderr: format!("{USAGE}\n"),
        code: 0,
    }
}

/// A command line that does not parse: Go's text and the usage.
pub(super) fn bad_command_line(text: &str) -> Stop {
    Stop::Print {
        stdout: String::new(),
        stderr: format!("{text}\n{USAGE}\n"),
        code: 2,
    }
}

/// `--version`: etcd's four lines, which tools parse, then our own.
pub(super) fn version() -> Stop {
    let own = env!("CARGO_PKG_VERSION");
    // Go's names of the platform, since scripts compare them.
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    };
    let stdout = format!(
        "etcd Version: {ETCD_VERSION}\n\
         Git SHA: trilith-{own}\n\
         Go Version: none (Rust)\n\
         Go OS/Arch: {}/{arch}\n\
         Trilith Version: {own}\n",
        std::env::consts::OS,
    );
    Stop::Print {
        stdout,
        stderr: String::new(),
        code: 0,
    }
}

/// etcd's two proxies are programs of their own.
pub(super) fn no_such_command(command: &str) -> Stop {
    let stderr = format!(
        "trilith {command} does not exist: Trilith is the server only; \
         run `etcd {command}`, which works in front of Trilith too\n"
    );
    Stop::Print {
        stdout: String::new(),
        stderr,
        code: 1,
    }
}

fn flags() -> String {
    let mut text = String::new();
    let mut section = "";
    for flag in FLAGS.iter().filter(|flag| !flag.section.is_empty()) {
        if flag.section != section {
            section = flag.section;
            text.push_str(&format!("\n{section}:\n"));
        }
        let remark = match flag.support {
            Support::Ready => "",
            Support::Legacy | Support::NoEffect => " (accepted, without effect)",
            Support::Later(_) => " (not supported yet)",
        };
        let (name, default, help) = (flag.name, flag.default, flag.help);
        text.push_str(&format!("  --{name} '{default}'\n    {help}{remark}\n"));
        if name == "feature-gates" {
            for gate in gates::known_gates() {
                text.push_str(&format!("    {gate}\n"));
            }
        }
    }
    text.push_str("\nUnsafe features can break every guarantee that raft gives.\n");
    text
}
