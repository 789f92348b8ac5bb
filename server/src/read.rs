//! Linearizable reads: one ReadIndex round confirms the leader for every reader that waits.
//!
//! Readers that come while a round is under way wait for the next one, since that round may have
//! read the commit index before they came. A round that gets no answer is asked again under a new
//! context (raft-rs keeps the older index for a repeated one), and readers give up after the
//! request timeout.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::error::RequestError;
use crate::ids::Index;
use crate::member::MemberHandle;
use crate::planted::{Bug, is_planted};
use crate::wait::AppliedWait;

/// Serves linearizable readers; cheap to clone.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

struct Shared {
    member: MemberHandle,
    applied: Arc<AppliedWait>,
    rounds: Mutex<Rounds>,
    /// A round was asked for.
    asked: Notify,
    timeout: Duration,
}

/// Who waits for which round.
#[derive(Debug, Default)]
struct Rounds {
    /// Context of the last round that was asked for; contexts only grow.
    context: u64,
    /// The round under way, and when it was last asked for.
    asked: Option<(Instant, Vec<oneshot::Sender<()>>)>,
    /// Those who came since; they start the next round.
    next: Vec<oneshot::Sender<()>>,
}

impl Reader {
    /// Joins the member that confirms with the wait for its apply.
    pub fn new(member: MemberHandle, applied: Arc<AppliedWait>, timeout: Duration) -> Self {
        let rounds = Mutex::default();
        Self {
            shared: Arc::new(Shared {
                member,
                applied,
                rounds,
                asked: Notify::new(),
                timeout,
            }),
        }
    }

    /// Returns once everything that was committed when it was called is applied and published.
    ///
    /// # Errors
    ///
    /// When no leader confirmed in time, changed meanwhile, or the server stops.
    pub async fn linearizable(&self) -> Result<(), RequestError> {
        let (sender, receiver) = oneshot::channel();
        match self.shared.member.sole_voter_read_index() {
            // Nobody else can commit, so there is nobody to ask.
            Some(index) if self.shared.applied.is_applied(index) => return Ok(()),
            Some(index) => self.shared.applied.when_applied(index, vec![sender]),
            None => self.join(sender),
        }
        match tokio::time::timeout(self.shared.timeout, receiver).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_dropped)) => Err(RequestError::LeaderChanged),
            Err(_elapsed) => Err(RequestError::Timeout),
        }
    }

    /// Waits for the next round, and starts it when none is under way.
    fn join(&self, reader: oneshot::Sender<()>) {
        let mut rounds = self.shared.rounds.lock();
        rounds.next.push(reader);
        if rounds.asked.is_none() {
            self.ask(&mut rounds);
        }
    }

    /// The leader confirmed the round of `context`: its readers may go once `index` is applied.
    pub fn confirmed(&self, context: u64, index: Index) {
        let mut rounds = self.shared.rounds.lock();
        if context != rounds.context {
            return;
        }
        let Some((_, readers)) = rounds.asked.take() else {
            return;
        };
        if !rounds.next.is_empty() {
            self.ask(&mut rounds);
        }
        drop(rounds);
        self.shared.applied.when_applied(index, readers);
    }

    /// A new leader answers no question that the old one was asked: its readers fail, as in etcd.
    pub fn leader_changed(&self) {
        let mut rounds = self.shared.rounds.lock();
        rounds.asked = None;
        rounds.next.clear();
    }

    /// Returns once a round was asked for since the last time: from then on [`Self::tick`] is to be
    /// called. For one caller.
    pub async fn asked(&self) {
        self.shared.asked.notified().await;
    }

    /// Asks again when the round under way got no answer for [`RETRY_AFTER`]. False if none is
    /// under way.
    pub fn tick(&self, now: Instant) -> bool {
        let mut rounds = self.shared.rounds.lock();
        let Some((asked_at, readers)) = &mut rounds.asked else {
            return false;
        };
        if now.duration_since(*asked_at) < RETRY_AFTER {
            return true;
        }
        readers.retain(|reader| !reader.is_closed());
        let waiting = std::mem::take(readers);
        rounds.asked = None;
        rounds.next.splice(0..0, waiting);
        if !rounds.next.is_empty() {
            self.ask(&mut rounds);
        }
        rounds.asked.is_some()
    }

    /// Starts a round for all who wait.
    fn ask(&self, rounds: &mut Rounds) {
        if !is_planted(Bug::RepeatedReadContext) {
            rounds.context += 1;
        }
        rounds.asked = Some((Instant::now(), std::mem::take(&mut rounds.next)));
        // A queue that is full is asked again by the next tick, under a new context.
        let _refused = self.shared.member.read_index(rounds.context);
        self.shared.asked.notify_one();
    }
}

/// etcd asks again after this long (`readIndexRetryTime`).
const RETRY_AFTER: Duration = Duration::from_millis(500);
