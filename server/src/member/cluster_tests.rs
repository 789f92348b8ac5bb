//! Three members with their threads and logs in one process, joined by calls instead of sockets.

use std::collections::BTreeMap;
use std::sync::{Weak, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::Mutex;

use super::*;

/// The members that run, by id.
type Network = Arc<Mutex<BTreeMap<MemberId, MemberHandle>>>;

/// Hands out what its member says.
struct Sink {
    network: Weak<Mutex<BTreeMap<MemberId, MemberHandle>>>,
    work: Mutex<mpsc::Sender<ApplyWork>>,
    reads: Mutex<mpsc::Sender<(u64, Index)>>,
}

impl CommittedSink for Sink {
    fn committed(&self, work: ApplyWork) {
        // The test may be gone.
        let _ = self.work.lock().send(work);
    }

    fn read_state(&self, context: u64, index: Index) {
        let _ = self.reads.lock().send((context, index));
    }

    fn leader_changed(&self, _status: &MemberStatus) {}

    fn dropped(&self, _ids: &[RequestId]) {}

    fn send(&self, messages: Vec<raftpb::Message>) {
        let Some(network) = Weak::upgrade(&self.network) else {
            return;
        };
        for message in messages {
            let peer = network.lock().get(&MemberId::new(message.to)).cloned();
            if let Some(peer) = peer {
                peer.step(message).expect("a message of ours");
            }
        }
    }
}

struct Cluster {
    network: Network,
    members: BTreeMap<MemberId, Running>,
    _root: tempfile::TempDir,
}

struct Running {
    handle: MemberHandle,
    reads: mpsc::Receiver<(u64, Index)>,
    /// What its apply thread has seen.
    texts: Arc<Mutex<Vec<String>>>,
    apply: JoinHandle<()>,
}

impl Cluster {
    fn start(count: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let ids: Vec<_> = (1..=count).map(MemberId::new).collect();
        let context = Bytes::from_static(b"{}");
        let contexts: Vec<_> = ids.iter().map(|id| (*id, context.clone())).collect();
        let network = Network::default();
        let mut members = BTreeMap::new();
        for id in ids {
            let directory = root.path().join(id.to_string());
            std::fs::create_dir(&directory).unwrap();
            MemberLog::bootstrap(&directory, &contexts, true).unwrap();
            members.insert(id, run(id, &directory, &network));
        }
        Self {
            network,
            members,
            _root: root,
        }
    }

    /// The member that leads, as soon as one does and knows it.
    fn leader(&self) -> &Running {
        wait_for(|| {
            let leads = |member: &&Running| member.handle.status().is_leader();
            self.members.values().find(leads)
        })
    }

    /// Puts until it is applied everywhere: a leader may be lost with what it was given.
    fn put(&self, text: &str) {
        wait_for(|| {
            let data = Bytes::from(text.to_string());
            let proposal = Proposal {
                id: RequestId::new(1),
                data,
                decoded: None,
                only_in: None,
            };
            self.leader().handle.propose(proposal).unwrap();
            let deadline = Instant::now() + Duration::from_secs(1);
            while Instant::now() < deadline {
                if self
                    .members
                    .values()
                    .all(|member| member.texts.lock().iter().any(|t| t == text))
                {
                    return Some(());
                }
                thread::yield_now();
            }
            None
        });
    }

    fn stop(&mut self, id: MemberId) {
        self.network.lock().remove(&id);
        let member = self.members.remove(&id).unwrap();
        member.handle.stop();
        drop(member.handle);
        member.apply.join().unwrap();
    }
}

fn run(id: MemberId, directory: &Path, network: &Network) -> Running {
    let (work, works) = mpsc::channel::<ApplyWork>();
    let (reads_in, reads) = mpsc::channel();
    let sink = Sink {
        network: Arc::downgrade(network),
        work: Mutex::new(work),
        reads: Mutex::new(reads_in),
    };
    let options = MemberOptions {
        id,
        heartbeat: Duration::from_millis(20),
        election_ticks: 10,
        pre_vote: true,
        catch_up_entries: 100,
        seed: id.get(),
        force_new_cluster: false,
    };
    let log = MemberLog::open(directory, true).unwrap();
    let handle = log
        .start(options, Default::default(), None, Arc::new(sink))
        .unwrap();
    network.lock().insert(id, handle.clone());
    let texts = Arc::new(Mutex::new(Vec::new()));
    let (applier, seen) = (handle.clone(), texts.clone());
    let apply = thread::spawn(move || {
        for entry in works.into_iter().flat_map(|work| work.entries) {
            match &entry.kind {
                EntryKind::ConfChange(data) => {
                    let change = ConfChange::decode(data).unwrap();
                    let _at_a_stop = applier.apply_conf_change(Some(change));
                }
                EntryKind::Normal(data) => {
                    seen.lock().push(String::from_utf8(data.to_vec()).unwrap());
                }
            }
            applier.applied(entry.index);
        }
    });
    Running {
        handle,
        reads,
        texts,
        apply,
    }
}

fn wait_for<T>(mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "it does not come");
        thread::yield_now();
    }
}

#[test]
fn three_members_elect_a_leader_agree_and_go_on_without_it() {
    let mut cluster = Cluster::start(3);
    for number in 0..20 {
        cluster.put(&format!("first {number}"));
    }
    let first = cluster.leader().handle.status();
    assert_eq!(
        cluster.leader().handle.sole_voter_read_index(),
        None,
        "others must be asked"
    );

    cluster.stop(first.leader.unwrap());
    for number in 0..20 {
        cluster.put(&format!("second {number}"));
    }
    let second = cluster.leader().handle.status();
    assert!(second.term > first.term && second.leader != first.leader);

    let logs: Vec<_> = cluster
        .members
        .values()
        .map(|member| member.texts.lock().clone())
        .collect();
    assert_eq!(
        logs[0][..40],
        logs[1][..40],
        "the same entries in the same order"
    );
    for id in [1, 2, 3].map(MemberId::new) {
        if cluster.members.contains_key(&id) {
            cluster.stop(id);
        }
    }
}

#[test]
fn every_member_learns_from_the_leader_what_a_read_must_see() {
    let mut cluster = Cluster::start(3);
    cluster.put("written");
    let written = cluster.leader().handle.status().committed;
    for member in cluster.members.values() {
        let mut context = 0;
        let index = wait_for(|| {
            context += 1;
            member.handle.read_index(context).unwrap();
            let answer = member.reads.recv_timeout(Duration::from_secs(1)).ok()?;
            Some(answer.1)
        });
        assert!(index >= written, "{index} was read after {written}");
    }
    for id in [1, 2, 3].map(MemberId::new) {
        cluster.stop(id);
    }
}
