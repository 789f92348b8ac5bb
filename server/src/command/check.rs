//! `trilith check`: reads a whole data directory of a member that does not run.

use std::path::Path;

use clap::{Arg, ArgMatches, Command};

use super::{ERROR, Printed, failed};
use crate::alarm::Alarms;
use crate::auth::AuthStore;
use crate::cluster::Membership;
use crate::cluster::datadir::{Content, DataDir};
use crate::cluster::identity::Identity;
use crate::cluster::incoming::Arrived;
use crate::lease::Lessor;
use crate::member::MemberLog;
use crate::mvcc::{self, Published, Verified};
use crate::progress::{Audience, Progress};
use crate::storage::Backend;

pub(super) const NAME: &str = "check";

pub(super) fn command() -> Command {
    let directory = Arg::new(DIRECTORY).value_name("data-dir").required(true);
    let log = Arg::new(WAL_DIR).long(WAL_DIR);
    Command::new(NAME)
        .about("Reads all of a data directory and tells whether it is sound")
        .arg(directory)
        .arg(log.help("Directory of the log, if the member was started with one"))
}

pub(super) fn run(matches: &ArgMatches) -> Printed {
    let text = |name| matches.get_one::<String>(name).map(Path::new);
    let directory = text(DIRECTORY).unwrap_or(Path::new(""));
    match check(directory, text(WAL_DIR)) {
        Ok(stdout) => Printed {
            stdout,
            ..Printed::default()
        },
        Err(error) => failed(ERROR, error),
    }
}

fn check(directory: &Path, wal_dir: Option<&Path>) -> Result<String, Box<dyn std::error::Error>> {
    let (data_dir, identity) = member_in(directory)?;
    let mut text = format!(
        "member {} of cluster {}\n",
        identity.member_id, identity.cluster_id
    );
    let log = data_dir.log();
    let log = MemberLog::open(wal_dir.unwrap_or(&log), true)?;
    if !data_dir.state().exists() {
        text.push_str("the state is still empty: the member was never started\n");
        return Ok(text);
    }
    let backend = Backend::open_to_read(&data_dir.state())?;
    let view = backend.view();
    let published = Published::load(view.clone())?;
    let last = log.check((published.applied, published.applied_term))?;
    text.push_str(&format!(
        "log: sound, up to entry {last}; the state has applied {}\n",
        published.applied
    ));
    let mut progress = Progress::new(
        Audience::Terminal,
        "reading the state",
        backend.total_bytes(),
    );
    let Verified {
        keys,
        revisions,
        lease_keys,
    } = mvcc::verify(&view, &mut progress)?;
    progress.finish();
    let members = Membership::load(&view, usize::MAX)?
        .table()
        .members()
        .count();
    let alarms = Alarms::load(&view)?.texts();
    Lessor::load(&view, 0)?;
    AuthStore::load(&view)?;
    text.push_str(&format!(
        "state: sound at revision {}; {keys} keys, {revisions} revisions, {lease_keys} keys on \
         leases, {members} members, alarms: {alarms:?}\n",
        published.revision
    ));
    Ok(text)
}

/// The member whose data directory this is, locked.
pub(super) fn member_in(
    directory: &Path,
) -> Result<(DataDir, Identity), Box<dyn std::error::Error>> {
    if !directory.is_dir() {
        return Err(format!("there is no directory {}", directory.display()).into());
    }
    let data_dir = DataDir::lock(directory)?;
    match data_dir.content()? {
        Content::Nothing if data_dir.is_between_names() => {
            let text = "a crash has cut off the last step of taking over etcd's data; the next \
                        start does it";
            Err(text.into())
        }
        Content::Member(identity) => {
            if let Arrived::Install(_) = data_dir.incoming().arrived()? {
                let text = "a crash has cut off the taking over of a snapshot; the next start goes \
                            on with it";
                return Err(text.into());
            }
            Ok((data_dir, identity))
        }
        Content::Etcd(member) => {
            let text = format!(
                "{} was made by etcd; etcdutl looks into it",
                member.display()
            );
            Err(text.into())
        }
        Content::Nothing => Err(format!("{} holds no member", directory.display()).into()),
    }
}

pub(super) const DIRECTORY: &str = "data-dir";
const WAL_DIR: &str = "wal-dir";
