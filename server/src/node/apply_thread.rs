//! The apply thread: takes committed entries in order, a round at a time.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::mpsc;

use super::fatal::fatal;
use crate::apply::{Applied, Applier, ApplyError, Entry, Payload};
use crate::error::RequestError;
use crate::ids::RequestId;
use crate::limits::{APPLY_ROUND_BYTES_MAX, APPLY_ROUND_ENTRIES_MAX};
use crate::member::MemberHandle;
use crate::wait::Wait;

/// What the apply thread works with.
pub(super) struct ApplyThread {
    /// The state machine.
    pub(super) applier: Applier,
    /// Committed entries, as the raft thread hands them out.
    pub(super) committed: Receiver<Vec<Entry>>,
    /// Hears how far apply has come.
    pub(super) member: MemberHandle,
    /// Hears that a compaction was accepted, for the background deletion.
    pub(super) compacted: Sender<()>,
    /// Takes requests that were applied without room, whose answers wait for the alarm.
    pub(super) without_room: mpsc::Sender<RequestId>,
    /// Answers those at once that do not fit in there any more.
    pub(super) wait: Arc<Wait<Applied>>,
    /// `--warning-apply-duration`: a round that takes longer is told in the log.
    pub(super) warn_after: Duration,
}

impl ApplyThread {
    /// Runs until the raft thread hangs up, or has stopped while a membership change asks for it.
    pub(super) fn run(mut self) {
        while let Ok(mut entries) = self.committed.recv() {
            // What has piled up meanwhile shares the round, and so the write and the wake-ups.
            while within_bounds(&entries) {
                match self.committed.try_recv() {
                    Ok(more) => entries.extend(more),
                    Err(_empty_or_closed) => break,
                }
            }
            if self.round(&entries).is_break() {
                return;
            }
        }
    }

    fn round(&mut self, entries: &[Entry]) -> ControlFlow<()> {
        let begun = Instant::now();
        let outcome = match self.applier.apply(entries) {
            Ok(outcome) => outcome,
            Err(ApplyError::Stopped) => return ControlFlow::Break(()),
            Err(error) => fatal("cannot apply a committed entry", &error),
        };
        self.member.applied(self.applier.applied());
        let took = begun.elapsed();
        if took > self.warn_after {
            tracing::warn!(
                ?took,
                { "expected-duration" } = ?self.warn_after,
                entries = entries.len(),
                "apply request took too long"
            );
        }
        if outcome.compacted.is_some() {
            // A full channel holds a word that the compactor has not heard yet: one is enough.
            let _heard = self.compacted.try_send(());
        }
        for id in outcome.without_room {
            if self.without_room.try_send(id).is_err() {
                self.wait.trigger(id, Err(RequestError::NoSpace));
            }
        }
        ControlFlow::Continue(())
    }
}

fn within_bounds(entries: &[Entry]) -> bool {
    let bytes: usize = entries
        .iter()
        .map(|entry| match &entry.payload {
            Payload::Request(data, _) | Payload::ConfChange(data) => data.len(),
        })
        .sum();
    entries.len() < APPLY_ROUND_ENTRIES_MAX && bytes < APPLY_ROUND_BYTES_MAX
}
