//! `trilith hashkv`: the hash by which members compare their data, of a member that does not run.

use std::path::Path;

use clap::{Arg, ArgMatches, Command, value_parser};
use serde::Serialize;

use super::check::{DIRECTORY, member_in};
use super::status_text::{self, Format};
use super::{BAD_FORMAT, ERROR, Printed, failed, text};
use crate::ids::Revision;
use crate::mvcc::{self, KvHash};
use crate::storage::Backend;

pub(super) const NAME: &str = "hashkv";

pub(super) fn command() -> Command {
    let directory = Arg::new(DIRECTORY).value_name("data-dir").required(true);
    let revision = Arg::new(REVISION).long(REVISION).default_value("0");
    let format = Arg::new(FORMAT).short('w').long(FORMAT);
    Command::new(NAME)
        .about("Prints the hash of the history in a data directory, as members compare it")
        .arg(directory)
        .arg(
            revision
                .value_parser(value_parser!(i64))
                .help("The last revision in it (0: the latest)"),
        )
        .arg(
            format
                .default_value("simple")
                .help("fields, json, simple or table"),
        )
}

pub(super) fn run(matches: &ArgMatches) -> Printed {
    let format = match Format::parse(text(matches, FORMAT)) {
        Ok(format) => format,
        Err(error) => return failed(BAD_FORMAT, error),
    };
    let revision = matches.get_one::<i64>(REVISION).copied();
    let revision = Revision::new(revision.unwrap_or_default());
    match hash(Path::new(text(matches, DIRECTORY)), revision) {
        Ok(hash) => Printed {
            stdout: written(format, &hash),
            ..Printed::default()
        },
        Err(error) => failed(ERROR, error),
    }
}

fn hash(directory: &Path, revision: Revision) -> Result<KvHash, Box<dyn std::error::Error>> {
    let (data_dir, _identity) = member_in(directory)?;
    if !data_dir.state().exists() {
        return Err("the state is still empty: the member was never started".into());
    }
    let backend = Backend::open_to_read(&data_dir.state())?;
    Ok(mvcc::hash_view(&backend.view(), revision)?)
}

fn written(format: Format, hash: &KvHash) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Hash {
        hash: u32,
        hash_revision: i64,
        compact_revision: i64,
    }
    let cells = [
        hash.hash.to_string(),
        hash.revision.to_string(),
        hash.compact_revision.to_string(),
    ];
    match format {
        Format::Fields => {
            let [hash, revision, compact_revision] = cells;
            format!(
                "\"Hash\" : {hash}\n\"Hash revision\" : {revision}\n\"Compact revision\" : \
                 {compact_revision}\n"
            )
        }
        Format::Json => {
            let hash = Hash {
                hash: hash.hash,
                hash_revision: hash.revision.get(),
                compact_revision: hash.compact_revision.get(),
            };
            let json = serde_json::to_string(&hash).expect("numbers make JSON");
            format!("{json}\n")
        }
        Format::Simple => format!("{}\n", cells.join(", ")),
        Format::Table => status_text::table(&HEADS, &cells),
    }
}

const HEADS: [&str; 3] = ["HASH", "HASH REVISION", "COMPACT REVISION"];

const REVISION: &str = "rev";
const FORMAT: &str = "write-out";
