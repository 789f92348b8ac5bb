//! One member with its threads and a log in a temporary directory.

use std::fs;
use std::sync::mpsc;

use parking_lot::Mutex;

use super::*;

/// Collects the member's output, and applies at once.
struct Sink {
    out: Mutex<mpsc::Sender<Out>>,
}

enum Out {
    Committed(CommittedEntry),
    Read(u64, Index),
}

impl CommittedSink for Sink {
    fn committed(&self, work: ApplyWork) {
        let out = self.out.lock();
        for entry in work.entries {
            // The test may be gone.
            let _ = out.send(Out::Committed(entry));
        }
    }

    fn read_state(&self, context: u64, index: Index) {
        let _ = self.out.lock().send(Out::Read(context, index));
    }

    fn leader_changed(&self, _status: &MemberStatus) {}

    fn dropped(&self, ids: &[RequestId]) {
        panic!("nothing is dropped here: {ids:?}");
    }

    fn send(&self, messages: Vec<raftpb::Message>) {
        assert!(messages.is_empty(), "nobody to talk to");
    }
}

/// A running member, and what it gives out.
struct Running {
    handle: MemberHandle,
    out: mpsc::Receiver<Out>,
    /// What was applied, in order.
    applied: Vec<CommittedEntry>,
    conf_state: Option<ConfState>,
}

const ID: MemberId = MemberId::new(7);

fn options() -> MemberOptions {
    MemberOptions {
        id: ID,
        heartbeat: Duration::from_millis(20),
        election_ticks: 10,
        pre_vote: true,
        catch_up_entries: 0,
        seed: 1,
        force_new_cluster: false,
    }
}

fn bootstrap(directory: &Path) {
    MemberLog::bootstrap(directory, &[(ID, Bytes::from_static(b"{}"))], true).unwrap();
}

fn start(directory: &Path, applied: (Index, Term), state: Option<ConfState>) -> Running {
    let (sender, out) = mpsc::channel();
    let sink = Arc::new(Sink {
        out: Mutex::new(sender),
    });
    let log = MemberLog::open(directory, true).unwrap();
    let handle = log
        .start(options(), applied, state.clone(), sink.clone())
        .unwrap();
    Running {
        handle,
        out,
        applied: Vec::new(),
        conf_state: state,
    }
}

impl Running {
    /// Applies until an entry satisfies `wanted`.
    fn apply_until(&mut self, wanted: impl Fn(&CommittedEntry) -> bool) {
        loop {
            match self
                .out
                .recv_timeout(Duration::from_secs(20))
                .expect("an entry is committed")
            {
                Out::Committed(entry) => {
                    if let EntryKind::ConfChange(data) = &entry.kind {
                        let change = ConfChange::decode(data).unwrap();
                        self.conf_state = self.handle.apply_conf_change(Some(change)).unwrap();
                    }
                    self.handle.applied(entry.index);
                    let found = wanted(&entry);
                    self.applied.push(entry);
                    if found {
                        return;
                    }
                }
                Out::Read(..) => {}
            }
        }
    }

    fn put(&mut self, text: &str) {
        let data = Bytes::from(text.to_string());
        let decoded = Some(Arc::new(InternalRaftRequest::default()));
        let id = RequestId::new(self.applied.len() as u64);
        self.handle
            .propose(Proposal {
                id,
                data: data.clone(),
                decoded,
                only_in: None,
            })
            .unwrap();
        self.apply_until(|entry| entry.kind == EntryKind::Normal(data.clone()));
        assert!(
            self.applied.last().unwrap().decoded.is_some(),
            "the request was kept decoded"
        );
    }

    fn texts(&self) -> Vec<String> {
        let data = |entry: &CommittedEntry| match &entry.kind {
            EntryKind::Normal(data) if !data.is_empty() => {
                Some(String::from_utf8(data.to_vec()).unwrap())
            }
            _ => None,
        };
        self.applied.iter().filter_map(data).collect()
    }
}

/// As a kill would leave the directory: copied while the member runs.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_lone_member_leads_at_once_commits_and_finds_all_again_after_a_kill() {
    let root = tempfile::tempdir().unwrap();
    let log = root.path().join("log");
    fs::create_dir(&log).unwrap();
    bootstrap(&log);
    let mut member = start(&log, Default::default(), None);
    for text in ["one", "two", "three"] {
        member.put(text);
    }
    assert_eq!(member.texts(), ["one", "two", "three"]);
    assert_eq!(member.conf_state.as_ref().unwrap().voters, [ID]);
    let status = member.handle.status();
    assert!(status.is_leader() && status.leader == Some(ID));
    assert_eq!(
        member.handle.sole_voter_read_index(),
        Some(status.committed)
    );

    let killed = root.path().join("killed");
    copy(&log, &killed);
    member.handle.stop();
    assert_eq!(
        member.handle.propose(Proposal {
            id: RequestId::new(1),
            data: Bytes::new(),
            decoded: None,
            only_in: None,
        }),
        Err(ProposeRefused::Stopped)
    );

    for directory in [&killed, &log] {
        // The state was lost: all is applied again, and in the same order.
        let mut again = start(directory, Default::default(), None);
        again.put("four");
        assert_eq!(again.texts(), ["one", "two", "three", "four"]);
        let applied = again.applied[..4]
            .iter()
            .map(|entry| (entry.index, entry.term));
        let before = member.applied[..4]
            .iter()
            .map(|entry| (entry.index, entry.term));
        assert!(applied.eq(before));
        again.handle.stop();
    }
}

#[test]
fn a_read_index_is_answered_with_what_was_committed_before_it() {
    let root = tempfile::tempdir().unwrap();
    bootstrap(root.path());
    let mut member = start(root.path(), Default::default(), None);
    // Asked before there is a leader, and answered once there is one.
    member.handle.read_index(41).unwrap();
    member.put("one");
    let written = member.applied.last().unwrap().index;
    member.handle.read_index(42).unwrap();
    let answer = loop {
        match member.out.recv_timeout(Duration::from_secs(20)).unwrap() {
            Out::Read(42, index) => break index,
            _ => continue,
        }
    };
    assert!(answer >= written);
    member.handle.stop();
}

#[test]
fn a_compacted_log_starts_from_the_state_and_refuses_an_older_one() {
    let root = tempfile::tempdir().unwrap();
    bootstrap(root.path());
    let mut member = start(root.path(), Default::default(), None);
    for number in 0..20 {
        member.put(&number.to_string());
    }
    let durable = member.applied.last().unwrap().clone();
    member.handle.compact_log(durable.index);
    member.put("last");
    member.handle.stop();
    let state = member.conf_state.clone();

    let mut again = start(root.path(), (durable.index, durable.term), state.clone());
    again.put("more");
    assert_eq!(again.texts(), ["last", "more"]);
    again.handle.stop();

    let refused = |applied: (u64, u64), text: &str| {
        let applied = (Index::new(applied.0), Term::new(applied.1));
        let log = MemberLog::open(root.path(), true).unwrap();
        let (sender, _out) = mpsc::channel();
        let sink = Arc::new(Sink {
            out: Mutex::new(sender),
        });
        let error = log
            .start(options(), applied, state.clone(), sink)
            .err()
            .expect("refused");
        assert!(error.to_string().contains(text), "{error}");
    };
    let (index, term) = (durable.index.get(), durable.term.get());
    refused((index - 1, term), "are missing");
    refused((index + 1000, term), "it ends at entry");
    refused((index, term + 7), "the state has applied it with term");
}

/// Apply may stand before a change when the member stops; that is no reason to end the process.
#[test]
fn a_stopped_member_applies_no_configuration_change() {
    let root = tempfile::tempdir().unwrap();
    let log = root.path().join("log");
    fs::create_dir(&log).unwrap();
    bootstrap(&log);
    let mut member = start(&log, Default::default(), None);
    member.put("one");
    member.handle.stop();
    assert_eq!(member.handle.apply_conf_change(None), Ok(None));
}

/// Tells the child process of the next test where to write.
const CHILD_DIRECTORY: &str = "TRILITH_TEST_LOG_DIRECTORY";

#[test]
fn a_log_that_cannot_be_written_stops_the_process_and_loses_nothing_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    bootstrap(root.path());
    // No file may grow beyond 3 MiB (in blocks of 512 bytes): a write then fails, as on a full
    // disk.
    let limited = "trap '' XFSZ; ulimit -f 6144; exec \"$0\" --exact --nocapture \
                   member::driver::tests::child_puts_until_it_is_stopped";
    let child = std::process::Command::new("sh")
        .args(["-c", limited])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD_DIRECTORY, root.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(!child.status.success());
    assert!(
        said.contains("the member stops: cannot write the raft log"),
        "{said}"
    );
    let acknowledged: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("acknowledged "))
        .collect();
    assert!(acknowledged.len() > 2, "{said}");

    let mut again = start(root.path(), Default::default(), None);
    again.put("there is room again");
    let texts = again.texts();
    for number in acknowledged {
        let found = texts
            .iter()
            .filter(|text| text.starts_with(&format!("{number} ")));
        assert_eq!(found.count(), 1, "put {number}");
    }
    again.handle.stop();
}

/// Not a test of its own: the process that the test above starts and loses.
#[test]
fn child_puts_until_it_is_stopped() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let mut member = start(Path::new(&directory), Default::default(), None);
    for number in 0..1000 {
        member.put(&format!("{number} {}", "x".repeat(100_000)));
        eprintln!("acknowledged {number}");
    }
}
