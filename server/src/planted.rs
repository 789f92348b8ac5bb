//! Known bugs of this kind of server, each to be put back on purpose where it would be made, so
//! that the simulation proves that it finds it.
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
}

#[cfg(feature = "simulation")]
impl Bug {
    /// Every bug.
    pub const ALL: [Self; 12] = [
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
