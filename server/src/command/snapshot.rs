//! `trilith snapshot status` and `trilith snapshot restore`.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::status_text::Format;
use super::{BAD_ARGUMENTS, BAD_FORMAT, ERROR, Printed, failed, text};
use crate::cluster::bootstrap::{Bootstrap, NewMember};
use crate::config::{self, Config, Stop};
use crate::import::{Restore, SnapshotFile};

pub(super) const NAME: &str = "snapshot";

pub(super) fn command() -> Command {
    let file = || Arg::new(FILE).value_name("filename").required(true);
    let mut restore = Command::new("restore")
        .about("Makes a data directory of a snapshot")
        .arg(file());
    for (flag, default, help) in TEXT_FLAGS {
        let arg = Arg::new(*flag).long(*flag).help(*help);
        restore = restore.arg(match default {
            Some(default) => arg.default_value(*default),
            None => arg,
        });
    }
    for (flag, help) in SWITCHES {
        let arg = Arg::new(*flag).long(*flag).help(*help);
        restore = restore.arg(arg.action(ArgAction::SetTrue));
    }
    let bump = Arg::new(BUMP).long(BUMP).default_value("0");
    let mapped = Arg::new(MAP_SIZE).long(MAP_SIZE);
    restore = restore
        .arg(
            bump.value_parser(value_parser!(u64))
                .help("How much the revision rises"),
        )
        .arg(
            mapped
                .value_parser(value_parser!(u64))
                .help("Taken and not needed: nothing is mapped"),
        );
    let format = Arg::new(FORMAT).short('w').long(FORMAT).global(true);
    Command::new(NAME)
        .about("Looks into snapshot files, and makes members of them")
        .subcommand_required(true)
        .arg(
            format
                .default_value("simple")
                .help("fields, json, simple or table"),
        )
        .subcommand(
            Command::new("status")
                .about("Checks a snapshot file and tells what it holds")
                .arg(file()),
        )
        .subcommand(restore)
}

pub(super) fn run(matches: &ArgMatches) -> Printed {
    match matches.subcommand() {
        Some(("restore", matches)) => restore(matches),
        Some((_status, matches)) => status(matches),
        None => failed(BAD_ARGUMENTS, "snapshot needs a command"),
    }
}

fn status(matches: &ArgMatches) -> Printed {
    let format = match Format::parse(text(matches, FORMAT)) {
        Ok(format) => format,
        Err(error) => return failed(BAD_FORMAT, error),
    };
    let status = SnapshotFile::open(Path::new(text(matches, FILE))).and_then(|file| file.status());
    match status {
        Ok(status) => Printed {
            stdout: format.text(&status),
            ..Printed::default()
        },
        Err(error) => failed(ERROR, error),
    }
}

fn restore(matches: &ArgMatches) -> Printed {
    let bump_revision = matches.get_one::<u64>(BUMP).copied().unwrap_or_default();
    if (bump_revision > 0) != matches.get_flag(MARK) {
        return failed(
            BAD_ARGUMENTS,
            "--mark-compacted required if --revision-bump > 0",
        );
    }
    let config = match member_config(matches) {
        Ok(config) => config,
        Err(error) => return failed(ERROR, error),
    };
    match restore_member(matches, &config, bump_revision) {
        Ok(text) => Printed {
            stdout: text,
            ..Printed::default()
        },
        Err(error) => failed(ERROR, error),
    }
}

/// The flags that describe the member mean what they mean to the server, and are checked alike.
fn member_config(matches: &ArgMatches) -> Result<Config, String> {
    let flags = ["name", "data-dir", CLUSTER, TOKEN, PEERS];
    let given = |flag: &&str| {
        matches
            .get_one::<String>(flag)
            .is_some_and(|text| !text.is_empty())
    };
    let args: Vec<String> = flags
        .iter()
        .filter(|flag| given(flag))
        .map(|flag| format!("--{flag}={}", text(matches, flag)))
        .collect();
    match config::load(&args, &[]).outcome {
        Ok(mut config) => {
            // The server tells the cluster from the name where only that is given; etcdutl does
            // not.
            text(matches, CLUSTER).clone_into(&mut config.initial_cluster);
            Ok(*config)
        }
        Err(Stop::Refused(error)) => Err(error.to_string()),
        Err(Stop::Print { stderr, .. }) => Err(stderr),
    }
}

fn restore_member(
    matches: &ArgMatches,
    config: &Config,
    bump_revision: u64,
) -> Result<String, Box<dyn std::error::Error>> {
    let wanted = config.bootstrap()?;
    let members: Vec<NewMember> = wanted
        .members
        .iter()
        .map(|(name, urls)| NewMember {
            name: name.clone(),
            peer_urls: urls.iter().map(ToString::to_string).collect(),
        })
        .collect();
    let cluster = Bootstrap::new(&members, &wanted.token)?;
    let own: Vec<String> = wanted.members[&config.name]
        .iter()
        .map(ToString::to_string)
        .collect();
    let own = cluster
        .find(&own)
        .expect("the configuration was checked to name this member");
    let wal_dir = matches
        .get_one::<String>(WAL_DIR)
        .filter(|dir| !dir.is_empty());
    let identity = SnapshotFile::open(Path::new(text(matches, FILE)))?.restore(&Restore {
        data_dir: &config.data_dir,
        wal_dir: wal_dir.map(Path::new),
        cluster: &cluster,
        member: own.id,
        skip_hash_check: matches.get_flag(SKIP_HASH),
        bump_revision,
    })?;
    Ok(format!(
        "restored {} as member {} of cluster {} in {}\n",
        text(matches, FILE),
        identity.member_id,
        identity.cluster_id,
        config.data_dir.display()
    ))
}

const FILE: &str = "filename";
const FORMAT: &str = "write-out";
const BUMP: &str = "bump-revision";
const MAP_SIZE: &str = "initial-memory-map-size";
const MARK: &str = "mark-compacted";
const SKIP_HASH: &str = "skip-hash-check";
const WAL_DIR: &str = "wal-dir";
const CLUSTER: &str = "initial-cluster";
const TOKEN: &str = "initial-cluster-token";
const PEERS: &str = "initial-advertise-peer-urls";

/// Flag, default, help: etcdutl's.
const TEXT_FLAGS: &[(&str, Option<&str>, &str)] = &[
    (
        "data-dir",
        None,
        "Directory of the new member; NAME.etcd without it",
    ),
    (
        WAL_DIR,
        None,
        "Directory of its log; within the data directory without it",
    ),
    ("name", Some("default"), "Name of the new member"),
    (
        CLUSTER,
        Some("default=http://localhost:2380"),
        "Members of the new cluster",
    ),
    (
        TOKEN,
        Some("etcd-cluster"),
        "Keeps clusters with the same URLs apart",
    ),
    (
        PEERS,
        Some("http://localhost:2380"),
        "Peer URLs of the new member",
    ),
];

const SWITCHES: &[(&str, &str)] = &[
    (
        SKIP_HASH,
        "Take a file without checksum, such as a copy of a database file",
    ),
    (
        MARK,
        "Count all revisions below the new one as compacted; goes with --bump-revision",
    ),
];
