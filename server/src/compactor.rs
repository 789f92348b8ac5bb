//! Compacts by itself what is older than the operator wants to keep, while this member leads.
//!
//! When it compacts follows etcd's rules to the letter, since operators size their history by
//! them. The rules take the time from outside; [`AutoCompactor`] gives them the real one.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use trilith_proto::etcdserverpb::{CompactionRequest, InternalRaftRequest};

use crate::error::RequestError;
use crate::ids::{MemberId, Revision};
use crate::member::MemberHandle;
use crate::mvcc::Store;
use crate::propose::Proposer;

/// What to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Everything that was current during this time.
    Time(Duration),
    /// So many of the last revisions.
    Revisions(i64),
}

/// Proposes compactions for as long as it runs.
pub struct AutoCompactor {
    /// What to keep.
    pub retention: Retention,
    /// A retention in time as Go writes it, for the log.
    pub period: String,
    /// Takes compactions into the log.
    pub proposer: Proposer,
    /// Tells the current revision.
    pub store: Store,
    /// Tells who leads.
    pub member: MemberHandle,
    /// This member.
    pub id: MemberId,
}

/// How often revisions are counted: etcd's number.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

/// Revisions are noted so often in a retention, or in an hour of a longer one: etcd's number.
const NOTES_PER_RETENTION: u32 = 10;

/// A retention of a few nanoseconds makes etcd divide by zero; it shall not make a loop that never
/// sleeps either.
const NOTE_INTERVAL_MIN: Duration = Duration::from_millis(10);

const HOUR: Duration = Duration::from_secs(3600);

impl AutoCompactor {
    /// Runs until it is dropped, or the server stops.
    pub async fn run(self) {
        let started = Instant::now();
        let mut rule = Rule::new(self.retention);
        loop {
            rule.note(self.store.read().revision());
            tokio::time::sleep(rule.interval()).await;
            if self.member.status().leader != Some(self.id) {
                continue;
            }
            let current = self.store.read().revision();
            let Some(target) = rule.due(started.elapsed(), current) else {
                continue;
            };
            match self.compact(target).await {
                Ok(()) => rule.compacted(started.elapsed(), target),
                Err(RequestError::Stopped) => return,
                Err(_told) => {}
            }
        }
    }

    async fn compact(&self, target: Revision) -> Result<(), RequestError> {
        let begun = Instant::now();
        let (kind, period, kept) = match self.retention {
            Retention::Time(_) => ("periodic", Some(&self.period), None),
            Retention::Revisions(count) => ("revision", None, Some(count)),
        };
        let revision = target.get();
        tracing::info!(
            revision,
            "compact-period" = period,
            "revision-compaction-retention" = kept,
            "starting auto {kind} compaction"
        );
        let request = InternalRaftRequest {
            compaction: Some(CompactionRequest {
                revision,
                physical: false,
            }),
            ..Default::default()
        };
        match self.proposer.propose(request).await {
            // Somebody else has compacted as far or further.
            Ok(_) | Err(RequestError::Compacted) => {
                let took = begun.elapsed();
                tracing::info!(
                    revision,
                    "compact-period" = period,
                    "revision-compaction-retention" = kept,
                    ?took,
                    "completed auto {kind} compaction"
                );
                Ok(())
            }
            Err(error) => {
                tracing::warn!(
                    revision,
                    "compact-period" = period,
                    "revision-compaction-retention" = kept,
                    %error,
                    "failed auto {kind} compaction"
                );
                Err(error)
            }
        }
    }
}

/// When to compact, and to which revision.
#[derive(Debug)]
enum Rule {
    Periodic(Periodic),
    Revision { kept: i64, last: Revision },
}

impl Rule {
    fn new(retention: Retention) -> Self {
        match retention {
            Retention::Time(period) => Self::Periodic(Periodic::new(period)),
            Retention::Revisions(kept) => Self::Revision {
                kept,
                last: Revision::default(),
            },
        }
    }

    /// The pause between [`Rule::note`] and [`Rule::due`].
    fn interval(&self) -> Duration {
        match self {
            Self::Periodic(periodic) => periodic.interval(),
            Self::Revision { .. } => REVISION_INTERVAL,
        }
    }

    /// Remembers which revision was current at this time.
    fn note(&mut self, current: Revision) {
        if let Self::Periodic(periodic) = self {
            periodic.note(current);
        }
    }

    /// The revision to compact to, if it is time; `now` counts from the start.
    fn due(&mut self, now: Duration, current: Revision) -> Option<Revision> {
        match self {
            Self::Periodic(periodic) => periodic.due(now),
            Self::Revision { kept, last } => {
                let target = Revision::new(current.get().saturating_sub(*kept));
                (target.get() > 0 && target != *last).then_some(target)
            }
        }
    }

    /// The compaction that was due has been made.
    fn compacted(&mut self, now: Duration, target: Revision) {
        match self {
            Self::Periodic(periodic) => periodic.compacted(now, target),
            Self::Revision { last, .. } => *last = target,
        }
    }
}

/// Keeps what was current during the last period: notes the revision ten times in it and compacts
/// to the oldest note.
#[derive(Debug)]
struct Periodic {
    period: Duration,
    /// Revisions noted within the last period, oldest first.
    notes: VecDeque<Revision>,
    last: Revision,
    last_at: Duration,
    /// How long after the last compaction the next is due: first the whole period, then at most an
    /// hour.
    pause: Duration,
}

impl Periodic {
    fn new(period: Duration) -> Self {
        Self {
            period,
            notes: VecDeque::new(),
            last: Revision::default(),
            last_at: Duration::ZERO,
            pause: period,
        }
    }

    fn interval(&self) -> Duration {
        (self.period.min(HOUR) / NOTES_PER_RETENTION).max(NOTE_INTERVAL_MIN)
    }

    fn notes_max(&self) -> usize {
        let notes = self.period.as_nanos() / self.interval().as_nanos() + 1;
        usize::try_from(notes).unwrap_or(usize::MAX)
    }

    fn note(&mut self, current: Revision) {
        self.notes.push_back(current);
        if self.notes.len() > self.notes_max() {
            self.notes.pop_front();
        }
    }

    fn due(&mut self, now: Duration) -> Option<Revision> {
        let oldest = *self.notes.front()?;
        if now.saturating_sub(self.last_at) < self.pause || oldest == self.last {
            return None;
        }
        self.pause = self.period.min(HOUR);
        Some(oldest)
    }

    fn compacted(&mut self, now: Duration, target: Revision) {
        (self.last, self.last_at) = (target, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Runs a rule in virtual time, one revision written in each minute, and lists at which minute
    /// it compacted to which revision. `fails` says which tries fail.
    fn run(retention: Retention, minutes: u32, fails: impl Fn(usize) -> bool) -> Vec<(u64, i64)> {
        let mut rule = Rule::new(retention);
        let mut now = Duration::ZERO;
        let mut tries = Vec::new();
        let at = |now: Duration| Revision::new(1 + i64::try_from(now.as_secs() / 60).unwrap());
        while now < MINUTE * minutes {
            rule.note(at(now));
            now += rule.interval();
            if let Some(target) = rule.due(now, at(now)) {
                if !fails(tries.len()) {
                    rule.compacted(now, target);
                }
                tries.push((now.as_secs() / 60, target.get()));
            }
        }
        tries
    }

    // The expectations are what etcd does: the oldest note is one interval older than the period
    // when it is looked at, so a tenth more is kept than was asked for.

    #[test]
    fn an_hour_is_kept_and_compacted_every_hour_after_the_first() {
        let tries = run(Retention::Time(HOUR), 200, |_| false);
        assert_eq!(tries, [(60, 1), (120, 55), (180, 115)]);
    }

    #[test]
    fn a_day_is_kept_and_compacted_every_hour_after_the_first_day() {
        let tries = run(Retention::Time(24 * HOUR), 27 * 60, |_| false);
        assert_eq!(tries, [(1440, 1), (1500, 55), (1560, 115), (1620, 175)]);
    }

    #[test]
    fn less_than_an_hour_is_compacted_once_in_each_period() {
        let tries = run(Retention::Time(10 * MINUTE), 35, |_| false);
        assert_eq!(tries, [(10, 1), (20, 10), (30, 20)]);
    }

    #[test]
    fn a_failed_compaction_is_tried_again_after_a_tenth_of_the_period() {
        let tries = run(Retention::Time(HOUR), 130, |number| number == 0);
        assert_eq!(tries, [(60, 1), (66, 1), (126, 61)]);
    }

    #[test]
    fn nothing_is_compacted_twice() {
        let mut rule = Rule::new(Retention::Time(HOUR));
        let mut compactions = 0;
        for step in 1..100 {
            rule.note(Revision::new(5));
            let now = rule.interval() * step;
            if let Some(target) = rule.due(now, Revision::new(5)) {
                rule.compacted(now, target);
                compactions += 1;
            }
        }
        assert_eq!(compactions, 1);
    }

    #[test]
    fn revisions_are_counted_every_five_minutes() {
        let tries = run(Retention::Revisions(10), 25, |_| false);
        assert_eq!(tries, [(10, 1), (15, 6), (20, 11), (25, 16)]);
        assert_eq!(run(Retention::Revisions(100), 90, |_| false), []);
    }

    #[test]
    fn tiny_and_huge_periods_have_an_interval() {
        let interval = |period| Periodic::new(period).interval();
        assert_eq!(interval(Duration::from_nanos(1)), NOTE_INTERVAL_MIN);
        assert_eq!(interval(Duration::from_secs(5)), Duration::from_millis(500));
        assert_eq!(interval(Duration::MAX), 6 * MINUTE);
    }
}
