//! The only writer of replicated state: committed entries in, rows and replies out.
//!
//! Same entries, same bytes: nothing here reads a clock, a random source, a local setting, or
//! whether somebody waits for the result. All entries of a round go into one RocksDB write together
//! with the applied index; only after it is published do watchers and waiting requests hear of it.

mod alarm;
mod auth;
mod cluster;
mod dispatch;
mod kv;
mod lease;
mod reply;
mod txn;

#[cfg(test)]
mod junk_tests;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use trilith_proto::etcdserverpb::InternalRaftRequest;

use crate::alarm::Alarms;
use crate::auth::AuthStore;
use crate::cluster::Membership;
use crate::error::RequestError;
use crate::ids::{Index, RequestId, Revision, Term};
use crate::lease::Lessor;
use crate::mvcc::watch::WatchHub;
use crate::mvcc::{Round, Store};
use crate::planted::{Bug, is_planted};
use crate::storage::StorageError;
use crate::wait::{AppliedWait, Wait};

pub use kv::range_query;
pub use reply::{Applied, AuthReply, Reply};
pub use txn::{is_read_only, is_serializable, read_only_txn};

/// A committed entry of the raft log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its position; entries come without gaps.
    pub index: Index,
    /// The term it was proposed in.
    pub term: Term,
    /// What it carries.
    pub payload: Payload,
}

/// What an entry carries.
#[derive(Clone, Debug)]
pub enum Payload {
    /// An encoded `InternalRaftRequest`, and the decoded one when it was proposed by this process.
    /// Without any bytes it is the empty entry of a new leader.
    Request(Bytes, Option<Arc<InternalRaftRequest>>),
    /// An encoded `raftpb.ConfChange`, in etcd's numbering.
    ConfChange(Bytes),
}

/// Why apply had to stop. Each of these stops the member: going on would let it diverge.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The state could not be written.
    #[error("cannot write the state: {0}")]
    Storage(#[from] StorageError),
    /// The state could not be read.
    #[error("cannot read the state: {0}")]
    Mvcc(#[from] crate::mvcc::MvccError),
    /// The member stops; what was not applied is applied after the next start.
    #[error("the member stops")]
    Stopped,
    /// A committed entry is not a request that this version knows.
    #[error(
        "entry {index} holds a request that this version does not know ({reason}): run the version \
         that wrote it, or a newer one"
    )]
    UnknownRequest {
        /// Where it stands in the log.
        index: Index,
        /// What was wrong with it.
        reason: String,
    },
}

/// The parts of replicated state that live in memory beside the store; each is rebuilt from rows.
#[derive(Clone)]
pub struct State {
    /// Keys, revisions, rows.
    pub store: Store,
    /// Leases and their deadlines.
    pub lessor: Lessor,
    /// Raised alarms.
    pub alarms: Alarms,
    /// Users, roles, permissions.
    pub auth: AuthStore,
    /// Members, cluster version, downgrade job.
    pub membership: Membership,
}

impl State {
    /// Reads what lives in memory beside its rows. `min_ttl` is the shortest time to live that is
    /// granted, in seconds, `max_learners` how many learners are let in.
    ///
    /// # Errors
    ///
    /// When rows cannot be read.
    pub fn load(store: Store, min_ttl: i64, max_learners: usize) -> Result<Self, StorageError> {
        let view = store.read().view().clone();
        Ok(Self {
            lessor: Lessor::load(&view, min_ttl)?,
            alarms: Alarms::load(&view)?,
            auth: AuthStore::load(&view)?,
            membership: Membership::load(&view, max_learners)?,
            store,
        })
    }
}

/// Carries a membership change to the raft core and brings back its encoded `ConfState`.
pub trait ConfChanger: Send {
    /// Applies the encoded `ConfChange`; `None` when membership rules refused it, so that raft only
    /// passes over the entry. Brings `None` when the member stops.
    fn change(&mut self, index: Index, accepted: Option<&Bytes>) -> Option<Bytes>;
}

/// Tells whether there is room for what a request adds. It depends on this member's disk and
/// settings, so it may change what a client is told and nothing else.
pub trait Room: Send {
    /// Whether `request` fits beside the `unwritten` bytes of the round so far.
    fn admits(&self, request: &InternalRaftRequest, unwritten: u64) -> bool;
}

/// Applies committed entries; owned by the apply thread.
pub struct Applier {
    state: State,
    hub: WatchHub,
    wait: Arc<Wait<Applied>>,
    applied_wait: Arc<AppliedWait>,
    conf_changer: Box<dyn ConfChanger>,
    room: Box<dyn Room>,
    /// Invariant: equals the applied index in the state, or in the round being built.
    applied: Index,
}

/// What a round brought about that others have to act upon.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The greatest revision that was compacted, for the background deletion.
    pub compacted: Option<Revision>,
    /// Requests that were applied although there was no room for them. Each waits for its answer,
    /// `NoSpace`, until the alarm is raised.
    pub without_room: Vec<RequestId>,
}

impl Applier {
    /// Continues from what `state` says is applied.
    pub fn new(
        state: State,
        hub: WatchHub,
        wait: Arc<Wait<Applied>>,
        applied_wait: Arc<AppliedWait>,
        conf_changer: Box<dyn ConfChanger>,
        room: Box<dyn Room>,
    ) -> Self {
        let (applied, _term) = state.store.applied();
        applied_wait.applied(applied);
        Self {
            state,
            hub,
            wait,
            applied_wait,
            conf_changer,
            room,
            applied,
        }
    }

    /// Applies `entries`, publishes what they changed, and wakes those who wait for it.
    ///
    /// # Errors
    ///
    /// See [`ApplyError`]; the member must stop, and nothing of the round was acknowledged.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<Outcome, ApplyError> {
        let mut outcome = Outcome::default();
        let mut replies = Vec::with_capacity(entries.len());
        let store = self.state.store.clone();
        let mut round = store.begin_round();
        let mut term = None;
        let done = self.applied;
        for entry in entries.iter().filter(|entry| entry.index > done) {
            assert_eq!(
                entry.index,
                self.applied.next(),
                "committed entries come without gaps"
            );
            match self.apply_entry(&mut round, entry, &mut outcome)? {
                // Withheld: the next request of this client shall meet the alarm.
                Some((id, Err(RequestError::NoSpace))) if !self.state.alarms.no_space() => {
                    outcome.without_room.push(id);
                }
                reply => replies.extend(reply),
            }
            self.applied = entry.index;
            term = Some(entry.term);
        }
        let Some(term) = term else { return Ok(outcome) };
        let events = round.commit(self.applied, term)?;
        self.hub.notify(events);
        self.applied_wait.applied(self.applied);
        for (id, reply) in replies {
            self.wait.trigger(id, reply);
        }
        Ok(outcome)
    }

    /// The index up to which everything is applied and published.
    pub fn applied(&self) -> Index {
        self.applied
    }

    fn apply_entry(
        &mut self,
        round: &mut Round,
        entry: &Entry,
        outcome: &mut Outcome,
    ) -> Result<Option<(RequestId, Applied)>, ApplyError> {
        match &entry.payload {
            Payload::Request(data, _) if data.is_empty() => Ok(None),
            Payload::Request(data, Some(decoded)) => {
                debug_assert_eq!(
                    decoded.encoded_len(),
                    data.len(),
                    "decoded is what is in the log"
                );
                self.apply_request(round, entry.index, decoded, outcome)
                    .map(Some)
            }
            Payload::Request(data, None) => {
                let decoded = InternalRaftRequest::decode(data.clone())
                    .map_err(|error| unknown(entry, error))?;
                self.apply_request(round, entry.index, &decoded, outcome)
                    .map(Some)
            }
            Payload::ConfChange(data) => {
                let (id, accepted) = cluster::conf_change(&self.state, round, data)
                    .map_err(|error| unknown(entry, error))?;
                let conf_state = self
                    .conf_changer
                    .change(entry.index, accepted.is_ok().then_some(data))
                    .ok_or(ApplyError::Stopped)?;
                cluster::put_conf_state(round, &conf_state);
                Ok(Some((id, accepted)))
            }
        }
    }

    fn apply_request(
        &mut self,
        round: &mut Round,
        index: Index,
        request: &InternalRaftRequest,
        outcome: &mut Outcome,
    ) -> Result<(RequestId, Applied), ApplyError> {
        let id = match (request.id, &request.header) {
            (0, Some(header)) => header.id,
            (id, _) => id,
        };
        if let Some(refused) = self.state.alarms.refuses(request) {
            return Ok((RequestId::new(id), Err(refused)));
        }
        let unwritten = round.batch().bytes() as u64;
        let skips = is_planted(Bug::SkipUnawaitedReads);
        let unread =
            (skips && !self.wait.is_registered(RequestId::new(id))).then(|| without_reads(request));
        let request = unread.as_ref().unwrap_or(request);
        let mut applied = dispatch::dispatch(&self.state, round, index, request, outcome)
            .map_err(|error| stop(index, error))?;
        // As in etcd the request has taken effect all the same: members must not differ.
        if applied.is_ok() && !self.room.admits(request, unwritten) {
            applied = Err(RequestError::NoSpace);
        }
        Ok((RequestId::new(id), applied))
    }
}

/// A request whose transaction reads nothing.
fn without_reads(request: &InternalRaftRequest) -> InternalRaftRequest {
    use trilith_proto::etcdserverpb::request_op::Request;
    let mut request = request.clone();
    if let Some(txn) = &mut request.txn {
        let writes = |step: &trilith_proto::etcdserverpb::RequestOp| {
            !matches!(step.request, Some(Request::RequestRange(_)))
        };
        txn.success.retain(writes);
        txn.failure.retain(writes);
    }
    request
}

/// What can end the apply of one request: an answer for the client, or the member's stop.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The client is refused; the entry is consumed.
    Refused(RequestError),
    /// The state cannot be read.
    State(crate::mvcc::MvccError),
    /// The request is of no kind that we know.
    Unknown,
    /// A request of a known kind says what no sound log says.
    Invalid(String),
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::Refused(error)
    }
}

impl From<crate::mvcc::MvccError> for Failure {
    fn from(error: crate::mvcc::MvccError) -> Self {
        use crate::mvcc::MvccError;
        match error {
            MvccError::Compacted { .. } => Self::Refused(RequestError::Compacted),
            MvccError::FutureRevision { .. } => Self::Refused(RequestError::FutureRevision),
            other => Self::State(other),
        }
    }
}

fn unknown(entry: &Entry, error: impl std::fmt::Display) -> ApplyError {
    ApplyError::UnknownRequest {
        index: entry.index,
        reason: error.to_string(),
    }
}

fn stop(index: Index, failure: Failure) -> ApplyError {
    match failure {
        Failure::State(error) => ApplyError::Mvcc(error),
        Failure::Refused(error) => ApplyError::UnknownRequest {
            index,
            reason: error.text().to_owned(),
        },
        Failure::Invalid(reason) => ApplyError::UnknownRequest { index, reason },
        Failure::Unknown => ApplyError::UnknownRequest {
            index,
            reason: "none of its fields is one of etcd 3.7's requests".to_owned(),
        },
    }
}
