//! Takes a checked request into the raft log and waits for what apply makes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use trilith_proto::etcdserverpb::{InternalRaftRequest, RequestHeader};

use crate::apply::{Applied, Reply};
use crate::error::RequestError;
use crate::ids::{MemberId, RequestId};
use crate::limits::{COMMITTED_UNAPPLIED_MAX, PRIORITY_UNAPPLIED_MAX};
use crate::member::{MemberHandle, Proposal, ProposeRefused};
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
    ids: RequestIds,
    leader: watch::Receiver<Option<MemberId>>,
    request_bytes_max: usize,
    timeout: Duration,
}

impl Proposer {
    /// Joins the member that takes proposals with the table of those who wait.
    ///
    /// A request waits 5 s plus two election timeouts, as etcd's does (`ServerConfig.ReqTimeout`);
    /// `request_bytes_max` bounds its encoded size.
    pub fn new(
        member: MemberHandle,
        wait: Arc<Wait<Applied>>,
        id: MemberId,
        leader: watch::Receiver<Option<MemberId>>,
        request_bytes_max: usize,
        election_timeout: Duration,
    ) -> Self {
        let timeout = Duration::from_secs(5) + 2 * election_timeout;
        let ids = RequestIds::new(id, SystemTime::now());
        Self {
            shared: Arc::new(Shared {
                member,
                wait,
                ids,
                leader,
                request_bytes_max,
                timeout,
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

    /// Proposes `request`, with its header stamped here, and returns what its apply answered.
    ///
    /// # Errors
    ///
    /// Too large, too many in flight, or without an answer in time: after a timeout the request may
    /// still take effect. Otherwise the error of the apply itself.
    pub async fn propose(&self, mut request: InternalRaftRequest) -> Result<Reply, RequestError> {
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
        request.header = Some(RequestHeader {
            id: id.get(),
            ..RequestHeader::default()
        });
        let data = request.encode_to_vec();
        if data.len() > shared.request_bytes_max {
            return Err(RequestError::RequestTooLarge);
        }
        let proposal = Proposal {
            id,
            data: Bytes::from(data),
            decoded: Some(Arc::new(request)),
        };
        match tokio::time::timeout(shared.timeout, self.until_applied(proposal)).await {
            Ok(applied) => applied,
            Err(_elapsed) => Err(self.timed_out()),
        }
    }

    /// A fresh id of the kind that requests get; leases without an id of their own take one too.
    pub fn next_id(&self) -> RequestId {
        self.shared.ids.next()
    }

    /// How long a request of this server waits at most.
    pub fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// Proposes as often as it takes: a proposal that raft did not take, since nobody led, never
    /// comes into the log, so it is safe to propose it again.
    async fn until_applied(&self, proposal: Proposal) -> Applied {
        let shared = &*self.shared;
        loop {
            let mut registration = shared.wait.register(proposal.id);
            shared
                .member
                .propose(proposal.clone())
                .map_err(|refused| match refused {
                    ProposeRefused::QueueFull => RequestError::TooManyRequests,
                    ProposeRefused::Stopped => RequestError::Stopped,
                })?;
            match registration.result().await {
                Some(Err(RequestError::NoLeader)) => {}
                Some(applied) => return applied,
                None => return Err(RequestError::Stopped),
            }
            let mut leader = shared.leader.clone();
            if leader.wait_for(Option::is_some).await.is_err() {
                return Err(RequestError::Stopped);
            }
        }
    }

    /// Which of etcd's texts a timeout gets: without a leader the connection to it was lost.
    fn timed_out(&self) -> RequestError {
        match self.shared.member.status().leader {
            Some(_) => RequestError::Timeout,
            None => RequestError::TimeoutDueToConnectionLost,
        }
    }
}

/// Request ids as etcd makes them: the member's low 16 bits, five bytes of milliseconds since the
/// epoch at start, and one byte that counts, which runs over into the milliseconds.
///
/// They must never repeat in the cluster, since every member looks its waiters up by them.
#[derive(Debug)]
struct RequestIds {
    prefix: u64,
    suffix: AtomicU64,
}

impl RequestIds {
    fn new(member: MemberId, now: SystemTime) -> Self {
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = u64::try_from(since_epoch.as_millis()).unwrap_or(0);
        Self {
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
    fn request_ids_carry_member_time_and_count_and_never_repeat() {
        let now = UNIX_EPOCH + Duration::from_millis(0x12_3456_789a);
        let ids = RequestIds::new(MemberId::new(0xabcd_ef01), now);
        assert_eq!(ids.next().get(), 0xef01_1234_5678_9a01);
        assert_eq!(ids.next().get(), 0xef01_1234_5678_9a02);
    }
}
