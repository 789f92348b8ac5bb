//! Known bugs of this kind of server, each to be put back on purpose where it would be made, so
//! that the simulation proves that it finds it.
//!
//! Others of that kind have no place where they could be made here:
//!
//! - A watch that goes back in time after a snapshot (etcd #15271): no watcher outlives an install,
//!   which is a restart. Clients resume, and what they are then given is checked.
//! - A progress of one stream that counts for another, starved watchers: each has a cursor.
//! - Two owners of one database file (etcd #14685, #20271): the state's file is RocksDB's, and
//!   not simulated; the crash tests of `storage` have.
//! - Caches of rights that differ after a snapshot: no request of the simulation is authenticated.
//!
//! Without the feature `simulation` no bug can be planted: the places then cost nothing.

/// A bug, named by what is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A follower says that it has entries, or votes, before they are durable.
    AnswerBeforeSync,
    /// Entries come to be applied before they are durable here (etcd #14370).
    ApplyBeforeSync,
    /// The applied index runs ahead of the data (etcd #13766).
    AppliedIndexAhead,
    /// The log is cut up to what is applied, not up to what is durable.
    CutUnflushedLog,
    /// A read is answered by whoever thinks that it leads, without asking the others.
    UnconfirmedRead,
    /// The context of a ReadIndex round is used again for the next one (etcd #20418).
    RepeatedReadContext,
    /// A member on which nobody waits skips the reads of a transaction (etcd #18667).
    SkipUnawaitedReads,
    /// A compaction removes a deletion at its very revision (etcd #18089, #19179).
    CompactTombstone,
    /// A watcher that was behind is in step one revision too early (etcd #17529).
    WatcherSkips,
    /// A watcher that was behind gets the last event twice (etcd #17247).
    WatcherRepeats,
    /// Progress is told to a watcher that is behind (etcd #15220).
    ProgressOvertakes,
    /// A watcher for a future revision gets events before it (etcd #20221).
    FutureWatcherEarly,
    /// The hard state is written by itself, ahead of the entries that came with it (raft-rs #492).
    HardStateApart,
    /// After a start the revision is that of the newest change that compactions have left (etcd
    /// #17780).
    RevisionFromRows,
    /// A leader that was deposed without knowing it revokes what has expired in its view (etcd
    /// #15247).
    StaleRevoke,
    /// A lease that is about to be revoked for its time is renewed (etcd #20616).
    RenewExpired,
    /// A new leader does not add the election timeout to the time of leases.
    NoLeaseExtension,
    /// A checkpoint of a lease is not kept with the state (etcd #13508).
    CheckpointNotKept,
    /// A checkpoint of a lease counts for one leader only (etcd #13508).
    CheckpointCountsOnce,
    /// A lease is renewed while a checkpoint of less than that is on its way into the log.
    RenewUnderCheckpoint,
    /// The state of a snapshot counts as whole before it is durable.
    InstallMarksEarly,
    /// What is left of an install is forgotten before the log is begun anew.
    InstallForgottenEarly,
    /// A log that is begun anew has forgotten whom its member voted for.
    InstallForgetsVote,
    /// A snapshot is taken also when the log has what it has, such as the second of two that come
    /// one soon after the other (etcd #18055).
    SnapshotTakenAnyway,
}

#[cfg(feature = "simulation")]
impl Bug {
    /// Every bug.
    pub const ALL: [Self; 24] = [
        Self::AnswerBeforeSync,
        Self::ApplyBeforeSync,
        Self::AppliedIndexAhead,
        Self::CutUnflushedLog,
        Self::UnconfirmedRead,
        Self::RepeatedReadContext,
        Self::SkipUnawaitedReads,
        Self::CompactTombstone,
        Self::WatcherSkips,
        Self::WatcherRepeats,
        Self::ProgressOvertakes,
        Self::FutureWatcherEarly,
        Self::HardStateApart,
        Self::RevisionFromRows,
        Self::StaleRevoke,
        Self::RenewExpired,
        Self::NoLeaseExtension,
        Self::CheckpointNotKept,
        Self::CheckpointCountsOnce,
        Self::RenewUnderCheckpoint,
        Self::InstallMarksEarly,
        Self::InstallForgottenEarly,
        Self::InstallForgetsVote,
        Self::SnapshotTakenAnyway,
    ];
}

#[cfg(feature = "simulation")]
thread_local! {
    static SIMULATED: std::cell::Cell<Option<Option<Bug>>> = const { std::cell::Cell::new(None) };
}

/// Marks everything that runs on this thread as simulated, with a bug or without.
#[cfg(feature = "simulation")]
pub fn simulate(bug: Option<Bug>) {
    SIMULATED.set(Some(bug));
}

/// Whether this thread is a simulation's: what ends the process elsewhere ends the run.
#[cfg(feature = "simulation")]
pub(crate) fn is_simulated() -> bool {
    SIMULATED.get().is_some()
}

/// Whether a bug is planted.
#[cfg(feature = "simulation")]
pub(crate) fn is_planted(bug: Bug) -> bool {
    SIMULATED.get() == Some(Some(bug))
}

/// Whether this thread is a simulation's: none is.
#[cfg(not(feature = "simulation"))]
pub(crate) const fn is_simulated() -> bool {
    false
}

/// Whether a bug is planted: none is.
#[cfg(not(feature = "simulation"))]
pub(crate) const fn is_planted(_bug: Bug) -> bool {
    false
}
