//! Changes of the membership: what is refused before it is proposed, and the way through the log.
//!
//! The checks here protect the quorum and are advice of the member that is asked; what every member
//! alike checks when a change is applied is in `cluster::MemberTable`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, Request, StatusCode};

use crate::cluster::bootstrap::member_id;
use crate::cluster::{Change, Member, Membership};
use crate::error::RequestError;
use crate::ids::MemberId;
use crate::member::{ConfChange, ConfChangeKind, MemberHandle, Progress};
use crate::metrics::Server;
use crate::peer::Peers;
use crate::propose::{Proposer, refused};

/// Changes the membership; cheap to clone.
#[derive(Clone)]
pub struct Reconfigurer {
    /// This member.
    pub id: MemberId,
    /// Takes changes into the log.
    pub proposer: Proposer,
    /// Knows how far the others' logs are, while this member leads.
    pub member: MemberHandle,
    /// Who is a member.
    pub membership: Membership,
    /// Who can be reached.
    pub peers: Peers,
    /// `--strict-reconfig-check`: refuse changes that could cost the quorum.
    pub is_strict: bool,
    /// Counts promotions.
    pub server: Server,
}

impl Reconfigurer {
    /// Adds a member with these peer URLs, which were checked, and gives its id.
    ///
    /// # Errors
    ///
    /// A change that could cost the quorum, one that the membership refuses, or no answer in time.
    pub async fn add(
        &self,
        mut urls: Vec<String>,
        is_learner: bool,
    ) -> Result<MemberId, RequestError> {
        urls.sort();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        // A clock before 1970 makes an id like any other: it only has to be new.
        let seconds = since_epoch.unwrap_or_default().as_secs();
        let id = member_id(&urls, "", Some(seconds));
        let member = Member {
            id: id.get(),
            peer_urls: Some(urls),
            is_learner,
            ..Member::default()
        };
        self.may_add(is_learner)?;
        let change = match is_learner {
            true => Change::AddLearner(member),
            false => Change::Add(member),
        };
        self.make(change).await?;
        Ok(id)
    }

    /// Removes a member for good.
    ///
    /// # Errors
    ///
    /// As [`Self::add`].
    pub async fn remove(&self, id: MemberId) -> Result<(), RequestError> {
        self.may_remove(id)?;
        self.make(Change::Remove(id)).await
    }

    /// Gives a member other peer URLs.
    ///
    /// # Errors
    ///
    /// As [`Self::add`].
    pub async fn update(&self, id: MemberId, urls: Vec<String>) -> Result<(), RequestError> {
        let member = Member {
            id: id.get(),
            peer_urls: Some(urls),
            ..Member::default()
        };
        self.make(Change::Update(member)).await
    }

    /// Lets a learner vote. Only the leader knows whether it has caught up, so others ask it.
    ///
    /// # Errors
    ///
    /// As [`Self::add`]; a learner that has not caught up.
    pub async fn promote(&self, id: MemberId) -> Result<(), RequestError> {
        let end = Instant::now() + self.proposer.timeout();
        loop {
            match self.promote_here(id).await {
                Err(RequestError::NotLeader) => {}
                done => return done,
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(RequestError::Timeout);
            }
            match self.member.status().leader {
                Some(leader) if leader != self.id => {
                    if let Some(done) = self.promote_there(leader, id, left).await {
                        return done;
                    }
                }
                _ => {}
            }
            tokio::time::sleep(PROMOTE_AGAIN).await;
        }
    }

    /// As [`Self::promote`], for this member as the leader.
    ///
    /// # Errors
    ///
    /// [`RequestError::NotLeader`] when it is not.
    pub async fn promote_here(&self, id: MemberId) -> Result<(), RequestError> {
        let promoted = self.try_to_promote(id).await;
        match &promoted {
            Ok(()) => self.server.promotions.inc(),
            Err(RequestError::NotLeader) => {}
            Err(error) => self.server.promotion_failed(error.text()),
        }
        promoted
    }

    async fn try_to_promote(&self, id: MemberId) -> Result<(), RequestError> {
        let member = self.member.clone();
        let progress = tokio::task::spawn_blocking(move || member.progress(id)).await;
        match progress.map_err(|_panicked| RequestError::Stopped)? {
            Err(error) => return Err(refused(error)),
            Ok(Progress::NotLeader) => return Err(RequestError::NotLeader),
            Ok(Progress::Unknown) => return Err(RequestError::MemberNotFound),
            Ok(Progress::Known { matched, leader }) => {
                if (matched.get() as f64) < READY_SHARE * leader.get() as f64 {
                    return Err(RequestError::LearnerNotReady);
                }
            }
        }
        if self.is_strict && !self.membership.table().is_promotion_safe(id) {
            return Err(RequestError::MemberNotEnoughStarted);
        }
        self.make(Change::Promote(id)).await
    }

    /// Asks the leader. `None` when it may be worth asking again.
    async fn promote_there(
        &self,
        leader: MemberId,
        id: MemberId,
        wait: Duration,
    ) -> Option<Result<(), RequestError>> {
        let mut request = Request::new(Bytes::new());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = format!("{PROMOTE_PATH}{}", id.get()).parse().ok()?;
        let answer = match self.peers.ask(leader, request, wait).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(%error, %leader, "cannot ask the leader to promote a member");
                return None;
            }
        };
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        match answer.status() {
            StatusCode::OK => Some(Ok(())),
            StatusCode::NOT_FOUND => Some(Err(RequestError::MemberNotFound)),
            // Both refusals have this code, and only their texts tell them apart.
            StatusCode::PRECONDITION_FAILED => Some(Err(
                if text.trim_end() == RequestError::LearnerNotReady.text() {
                    RequestError::LearnerNotReady
                } else {
                    RequestError::MemberNotLearner
                },
            )),
            _ => None,
        }
    }

    fn may_add(&self, is_learner: bool) -> Result<(), RequestError> {
        if !self.is_strict {
            return Ok(());
        }
        let table = self.membership.table();
        if !is_learner && !table.is_addition_safe() {
            return Err(RequestError::MemberNotEnoughStarted);
        }
        let voters: Vec<_> = table.voters().map(Member::id).collect();
        // The new one counts as not reachable. A lone member has nobody to be reached by.
        let needed = voters.len().div_ceil(2) + 1;
        if voters.len() > 1 && self.reachable(&voters) < needed {
            return Err(RequestError::Unhealthy);
        }
        Ok(())
    }

    fn may_remove(&self, id: MemberId) -> Result<(), RequestError> {
        let table = self.membership.table();
        let is_learner = table.member(id).is_some_and(|member| member.is_learner);
        if !self.is_strict || is_learner {
            return Ok(());
        }
        if !table.is_removal_safe(id) {
            return Err(RequestError::MemberNotEnoughStarted);
        }
        // One that is down is no part of the quorum that works now.
        if id != self.id && self.peers.active_since(id).is_none() {
            return Ok(());
        }
        let voters: Vec<_> = table.voters().map(Member::id).collect();
        let left = self.reachable(&voters).saturating_sub(1);
        if left < 1 + voters.len().saturating_sub(1) / 2 {
            return Err(RequestError::Unhealthy);
        }
        Ok(())
    }

    /// How many of `voters` have been reachable for long enough; this member is.
    fn reachable(&self, voters: &[MemberId]) -> usize {
        let now = Instant::now();
        let is_reachable = |id: &&MemberId| {
            let since = self.peers.active_since(**id);
            **id == self.id || since.is_some_and(|since| since + HEALTHY_FOR < now)
        };
        voters.iter().filter(is_reachable).count()
    }

    async fn make(&self, change: Change) -> Result<(), RequestError> {
        self.proposer.change_members(conf_change(&change)).await
    }
}

/// A change as raft is asked for it; its id is given where it is proposed.
pub fn conf_change(change: &Change) -> ConfChange {
    let kind = match change {
        Change::Add(_) | Change::Promote(_) => ConfChangeKind::AddNode,
        Change::AddLearner(_) => ConfChangeKind::AddLearnerNode,
        Change::Remove(_) => ConfChangeKind::RemoveNode,
        Change::Update(_) => ConfChangeKind::UpdateNode,
    };
    ConfChange {
        id: 0,
        kind,
        member: change.id(),
        context: change.context(),
    }
}

/// Where a leader takes requests to promote a member, whose id follows in decimal.
pub const PROMOTE_PATH: &str = "/members/promote/";

/// How long a peer must have been reachable to count: etcd's `HealthInterval`.
const HEALTHY_FOR: Duration = Duration::from_secs(5);

/// What share of the leader's log a learner needs: etcd's `readyPercentThreshold`.
const READY_SHARE: f64 = 0.9;

/// Pause before the leader is asked again.
const PROMOTE_AGAIN: Duration = Duration::from_millis(100);
