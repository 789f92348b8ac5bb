//! The threads that keep the state in shape: flush and log truncation, and the deletion of what was
//! compacted.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokio::sync::watch;

use super::fatal::fatal;
use super::snapshots::LogHold;
use crate::ids::{Index, Revision};
use crate::member::MemberHandle;
use crate::mvcc::compaction::{self, CompactionOptions, CompactionReport};
use crate::mvcc::{MvccError, Store};
use crate::progress::{LOG_EVERY, estimate, percent};
use crate::storage::{Backend, FlushPolicy};

/// Flushes the state in time and lets the log forget what the flushed state holds.
pub(super) struct Flusher {
    /// The state.
    pub(super) backend: Backend,
    /// Knows what is applied and what of it is durable.
    pub(super) store: Store,
    /// Whose log is cut.
    pub(super) member: MemberHandle,
    /// `--snapshot-count`: how many more entries must be durable before the log is cut again.
    pub(super) entries_between_cuts: u64,
    /// Says when the log must not be cut.
    pub(super) hold: LogHold,
    /// Closed when the server stops.
    pub(super) stop: Receiver<()>,
}

impl Flusher {
    /// Runs until the server stops, then flushes once more, so that the next start replays nothing.
    pub(super) fn run(self) {
        let mut cut = Index::default();
        let mut policy = FlushPolicy::default();
        loop {
            let stopping =
                self.stop.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Disconnected);
            if let Err(error) = self.backend.check() {
                fatal("the state cannot be written any more", &error);
            }
            self.backend.pace_merges();
            let unflushed = self.backend.unflushed();
            let (applied, _term) = self.store.applied();
            let due = policy.is_due(Instant::now(), applied, self.durable(), unflushed);
            if unflushed.rows > 0 && stopping {
                let (rows, bytes) = (unflushed.rows, unflushed.bytes);
                tracing::info!(rows, bytes, "flushing the state before the end");
            }
            if unflushed.rows > 0 && (due || stopping) {
                if let Err(error) = self.backend.flush() {
                    fatal("cannot flush the state", &error);
                }
                policy.flushed();
            }
            self.cut_log(&mut cut);
            if stopping {
                return;
            }
        }
    }

    /// Lets the log go up to what a crash would leave in the state.
    fn cut_log(&self, cut: &mut Index) {
        let durable = self.durable();
        let due = durable.get() >= cut.get() + self.entries_between_cuts;
        if due && !self.hold.is_held() {
            self.member.compact_log(durable);
            *cut = durable;
        }
    }

    /// The last applied entry that a crash would leave.
    fn durable(&self) -> Index {
        match self.store.persisted_applied() {
            Ok((index, _term)) => index,
            Err(error) => fatal("cannot read the durable applied index", &error),
        }
    }
}

/// Deletes what accepted compactions left unreachable, one compaction after the other.
pub(super) struct Compactor {
    /// Knows which compactions are to be done; one may be left from before the last stop.
    pub(super) store: Store,
    /// Hears when a compaction was accepted; closed when the server stops.
    pub(super) accepted: Receiver<()>,
    /// Tells how far the deletion has come, to those who asked for a physical compaction.
    pub(super) finished: watch::Sender<Revision>,
    /// How a compaction runs.
    pub(super) options: CompactionOptions,
    /// `--compaction-sleep-interval`: pause between two batches.
    pub(super) pause: Duration,
    /// Closed when the server stops; the rest is done after the next start.
    pub(super) stop: Receiver<()>,
}

impl Compactor {
    /// Runs until the server stops.
    pub(super) fn run(self) {
        loop {
            while let Some(target) = self.store.next_compaction() {
                if !self.compact(target) {
                    return;
                }
            }
            if self.accepted.recv().is_err() {
                return;
            }
        }
    }

    /// Compacts to `target`. False when the server stops before it is done.
    fn compact(&self, target: Revision) -> bool {
        let begun = Instant::now();
        let mut course = Course::to(target);
        let mut pause = |at| {
            course.come_to(at);
            match self.stop.recv_timeout(self.pause) {
                Err(RecvTimeoutError::Disconnected) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        let report = match compaction::run(&self.store, target, &self.options, &mut pause) {
            Ok(report) => report,
            Err(MvccError::Stopped) => return false,
            Err(error) => fatal("cannot compact the state", &error),
        };
        self.finished.send_replace(target);
        let sizes = self.store.backend().sizes();
        tracing::info!(
            "compact-revision" = target.get(),
            "took" = ?begun.elapsed(),
            "rows-seen" = report.rows_seen,
            "number-of-keys-compacted" = report.revisions_removed,
            "hash" = report.hash.map(|hash| hash.hash),
            "current-db-size-bytes" = sizes.total_bytes,
            "current-db-size-in-use-bytes" = sizes.in_use_bytes,
            "finished scheduled compaction"
        );
        self.tell_hash(&report);
        true
    }

    fn tell_hash(&self, report: &CompactionReport) {
        match report.hash {
            Some(kept) => tracing::info!(
                "hash" = kept.hash,
                "revision" = kept.revision.get(),
                "compact-revision" = kept.compact_revision.get(),
                "storing new hash"
            ),
            None if self.options.hash => tracing::info!(
                "previous compaction was interrupted, skip storing compaction hash value"
            ),
            None => {}
        }
    }
}

/// Tells the log how far a long compaction has come.
struct Course {
    target: Revision,
    /// Where it was first heard of, and when.
    from: Option<(Revision, Instant)>,
    /// When the log was last told.
    told: Instant,
}

impl Course {
    fn to(target: Revision) -> Self {
        Self {
            target,
            from: None,
            told: Instant::now(),
        }
    }

    fn come_to(&mut self, at: Revision) {
        let now = Instant::now();
        let (from, since) = *self.from.get_or_insert((at, now));
        if now - self.told < LOG_EVERY {
            return;
        }
        self.told = now;
        let revisions = |to: Revision| to.get().abs_diff(from.get());
        let (done, total, took) = (revisions(at), revisions(self.target), now - since);
        tracing::info!(
            "compact-revision" = self.target.get(),
            revision = at.get(),
            percent = percent(done, total),
            "revisions-per-second" = (done as f64 / took.as_secs_f64()) as u64,
            "seconds-left" = estimate(done, total, took).as_secs(),
            "scheduled compaction goes on"
        );
    }
}

/// How often the flusher looks; it is off every request's path.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
