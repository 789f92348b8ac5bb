//! Takes a checked request into the raft log and waits for what apply makes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use trilith_proto::etcdserverpb::InternalRaftRequest;

use crate::apply::{Applied, Reply};
use crate::error::RequestError;
use crate::ids::{MemberId, RequestId, Term};
use crate::limits::{COMMITTED_UNAPPLIED_MAX, PRIORITY_UNAPPLIED_MAX};
use crate::member::{ConfChange, MemberHandle, Proposal, ProposeRefused};
use crate::peer::Peers;
use crate::wait::Wait;

/// Proposes requests; cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    shared: Arc<Shared>,
    prioritize_revokes: bool,
}

struct Shared {
    member: MemberHandle,
    wait: Arc<Wait<Applied>>,
    id: MemberId,
    ids: RequestIds,
    leader: watch::Receiver<Led>,
    peers: Peers,
    request_bytes_max: usize,
    election_timeout: Duration,
    /// Held by the first of those who wait for a leader to propose again: the order stays.
    again: tokio::sync::Mutex<()>,
}

/// Who leads, as far as is known, and since when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Led {
    /// The leader.
    pub by: Option<MemberId>,
    /// When a leader was last elected, as this member learned of it.
    pub elected: Option<Instant>,
}

impl Proposer {
    /// Joins the member that takes proposals with the table of those who wait.
    ///
    /// `request_bytes_max` bounds the encoded size of a request.
    pub fn new(
        member: MemberHandle,
        wait: Arc<Wait<Applied>>,
        ids: RequestIds,
        leader: watch::Receiver<Led>,
        peers: Peers,
        request_bytes_max: usize,
        election_timeout: Duration,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                member,
                wait,
                id: ids.member,
                ids,
                leader,
                peers,
                request_bytes_max,
                election_timeout,
                again: tokio::sync::Mutex::default(),
            }),
            prioritize_revokes: false,
        }
    }

    /// With the gate `PriorityRequest`, lease revokes are still taken when others are refused.
    #[must_use]
    pub fn with_priority(mut self, prioritize_revokes: bool) -> Self {
        self.prioritize_revokes = prioritize_revokes;
        self
    }

    /// Proposes `request`, with its id stamped here, and returns what its apply answered.
    ///
    /// In whose name it stands, if in anybody's, its header says already.
    ///
    /// # Errors
    ///
    /// Too large, too many in flight, or without an answer in time: after a timeout the request may
    /// still take effect. Otherwise the error of the apply itself.
    pub async fn propose(&self, request: InternalRaftRequest) -> Result<Reply, RequestError> {
        self.propose_only_in(None, request).await
    }

    /// As [`Self::propose`], for a request that this member makes as the leader of `term`: it comes
    /// into the log in that leadership or never.
    ///
    /// # Errors
    ///
    /// As [`Self::propose`]; [`RequestError::NoLeader`] when this member does not lead `term`.
    pub async fn propose_as_leader(
        &self,
        term: Term,
        request: InternalRaftRequest,
    ) -> Result<Reply, RequestError> {
        self.propose_only_in(Some(term), request).await
    }

    async fn propose_only_in(
        &self,
        only_in: Option<Term>,
        mut request: InternalRaftRequest,
    ) -> Result<Reply, RequestError> {
        let shared = &*self.shared;
        let status = shared.member.status();
        let unapplied_max = if self.prioritize_revokes && request.lease_revoke.is_some() {
            PRIORITY_UNAPPLIED_MAX
        } else {
            COMMITTED_UNAPPLIED_MAX
        };
        if status.committed.get() > status.applied.get() + unapplied_max {
            return Err(RequestError::TooManyRequests);
        }
        let id = shared.ids.next();
        request.header.get_or_insert_default().id = id.get();
        let data = request.encode_to_vec();
        if data.len() > shared.request_bytes_max {
            return Err(RequestError::RequestTooLarge);
        }
        let proposal = Proposal {
            id,
            data: Bytes::from(data),
            decoded: Some(Arc::new(request)),
            only_in,
        };
        let begun = now();
        match tokio::time::timeout(self.timeout(), self.until_applied(proposal)).await {
            Ok(applied) => applied,
            Err(_elapsed) => Err(self.timed_out(begun)),
        }
    }

    /// Proposes a change of the membership and waits until it is applied. Its id is stamped here.
    ///
    /// It is proposed once: what raft does not take, since another change is under way or nobody
    /// leads, ends with a timeout, as in etcd.
    ///
    /// # Errors
    ///
    /// As [`Self::propose`].
    pub async fn change_members(&self, mut change: ConfChange) -> Result<(), RequestError> {
        let shared = &*self.shared;
        let id = shared.ids.next();
        change.id = id.get();
        let mut registration = shared.wait.register(id);
        let begun = now();
        shared
            .member
            .propose_conf_change(&change)
            .map_err(refused)?;
        match tokio::time::timeout(self.timeout(), registration.result()).await {
            Ok(Some(applied)) => applied.map(|_| ()),
            Ok(None) => Err(RequestError::Stopped),
            Err(_elapsed) => Err(self.timed_out(begun)),
        }
    }

    /// A fresh id of the kind that requests get; leases without an id of their own take one too.
    pub fn next_id(&self) -> RequestId {
        self.shared.ids.next()
    }

    /// How long a request of this server waits at most.
    pub fn timeout(&self) -> Duration {
        request_timeout(self.shared.election_timeout)
    }

    /// Returns who leads once it is somebody who `fits`; never, if the server stops before.
    pub async fn led_by(&self, fits: impl Fn(MemberId) -> bool) -> MemberId {
        let mut led = self.shared.leader.clone();
        let found = led.wait_for(|led| led.by.is_some_and(&fits)).await;
        match found.map(|led| led.by) {
            Ok(Some(leader)) => leader,
            // The sender is gone with the member; whoever waits is dropped soon.
            _ => std::future::pending().await,
        }
    }

    /// Proposes as often as it takes: a proposal that raft did not take, since nobody led, never
    /// comes into the log, so it is safe to propose it again.
    async fn until_applied(&self, proposal: Proposal) -> Applied {
        let shared = &*self.shared;
        loop {
            let mut registration = shared.wait.register(proposal.id);
            shared.member.propose(proposal.clone()).map_err(refused)?;
            match registration.result().await {
                Some(Err(RequestError::NoLeader)) if proposal.only_in.is_none() => {}
                Some(applied) => return applied,
                None => return Err(RequestError::Stopped),
            }
            let mut leader = shared.leader.clone();
            if leader.borrow().by.is_some() {
                // A leader that hands over takes no proposals until the next one leads.
                tokio::time::sleep(DROPPED_PAUSE).await;
            }
            // A channel wakes those who wait for a change of it in any order.
            let _turn = shared.again.lock().await;
            if leader.wait_for(|led| led.by.is_some()).await.is_err() {
                return Err(RequestError::Stopped);
            }
        }
    }

    /// Which of etcd's texts the timeout of a request gets that was proposed at `begun`.
    fn timed_out(&self, begun: Instant) -> RequestError {
        let shared = &*self.shared;
        let led = *shared.leader.borrow();
        if was_lost(begun, led.elected, shared.election_timeout) {
            return RequestError::TimeoutDueToLeaderFail;
        }
        let connected = match led.by {
            // Then nothing is known about connections.
            None => true,
            Some(leader) if leader == shared.id => {
                let (reachable, others) = shared.peers.reachable_since(begun);
                reachable + 1 > others.div_ceil(2)
            }
            Some(leader) => {
                let since = shared.peers.active_since(leader);
                since.is_some_and(|since| since < begun)
            }
        };
        if connected {
            RequestError::Timeout
        } else {
            RequestError::TimeoutDueToConnectionLost
        }
    }
}

/// Pause before a proposal is made again that raft has not taken though somebody leads.
const DROPPED_PAUSE: Duration = Duration::from_millis(5);

/// How long a request waits at most, as etcd's does (`ServerConfig.ReqTimeout`).
pub fn request_timeout(election_timeout: Duration) -> Duration {
    Duration::from_secs(5) + 2 * election_timeout
}

/// What a client hears of a request that the member has not taken.
pub fn refused(refused: ProposeRefused) -> RequestError {
    match refused {
        ProposeRefused::QueueFull => RequestError::TooManyRequests,
        ProposeRefused::Stopped => RequestError::Stopped,
    }
}

/// On the runtime's clock, as all timeouts are.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Whether a request of `begun` was probably given to a leader that was then lost: not long before
/// the next one was elected.
fn was_lost(begun: Instant, elected: Option<Instant>, election_timeout: Duration) -> bool {
    elected.is_some_and(|elected| begun < elected && elected < begun + 2 * election_timeout)
}

/// Request ids as etcd makes them: the member's low 16 bits, five bytes of milliseconds since the
/// epoch at start, and one byte that counts, which runs over into the milliseconds.
///
/// They must never repeat in the cluster, since every member looks its waiters up by them.
#[derive(Debug)]
pub struct RequestIds {
    member: MemberId,
    prefix: u64,
    suffix: AtomicU64,
}

impl RequestIds {
    /// Ids of a start of `member` at `now`.
    pub fn new(member: MemberId, now: SystemTime) -> Self {
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = u64::try_from(since_epoch.as_millis()).unwrap_or(0);
        Self {
            member,
            prefix: member.get() << SUFFIX_BITS,
            suffix: AtomicU64::new((milliseconds << COUNT_BITS) & SUFFIX_MASK),
        }
    }

    fn next(&self) -> RequestId {
        let suffix = self.suffix.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        RequestId::new(self.prefix | (suffix & SUFFIX_MASK))
    }
}

const SUFFIX_BITS: u32 = 48;
const COUNT_BITS: u32 = 8;
const SUFFIX_MASK: u64 = (1 << SUFFIX_BITS) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_was_lost_when_the_next_one_came_within_two_election_timeouts() {
        let (begun, timeout) = (Instant::now(), Duration::from_secs(1));
        let after = |millis| Some(begun + Duration::from_millis(millis));
        assert!(was_lost(begun, after(1), timeout));
        assert!(was_lost(begun, after(1999), timeout));
        assert!(!was_lost(begun, after(2000), timeout));
        assert!(!was_lost(begun, Some(begun), timeout));
        assert!(!was_lost(begun, None, timeout));
    }

    #[test]
    fn request_ids_carry_member_time_and_count_and_never_repeat() {
        let now = UNIX_EPOCH + Duration::from_millis(0x12_3456_789a);
        let ids = RequestIds::new(MemberId::new(0xabcd_ef01), now);
        assert_eq!(ids.next().get(), 0xef01_1234_5678_9a01);
        assert_eq!(ids.next().get(), 0xef01_1234_5678_9a02);
    }
}
