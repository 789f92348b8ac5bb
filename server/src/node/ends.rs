//! Why a member ends, and what is done before it does.

use std::time::Duration;

use tokio::sync::watch;

use crate::mvcc::watch::WatchHub;
use crate::storage::Backend;
use crate::transfer::Transfer;

/// How those who find a reason tell that the member ends.
pub(super) struct Ends {
    pub(super) removed: watch::Sender<bool>,
    pub(super) snapshot: watch::Sender<bool>,
}

/// Whether there is one.
pub(super) struct EndsHeard {
    pub(super) removed: watch::Receiver<bool>,
    pub(super) snapshot: watch::Receiver<bool>,
}

impl Ends {
    pub(super) fn new() -> (Self, EndsHeard) {
        let (removed, is_removed) = watch::channel(false);
        let (snapshot, has_snapshot) = watch::channel(false);
        let heard = EndsHeard {
            removed: is_removed,
            snapshot: has_snapshot,
        };
        (Self { removed, snapshot }, heard)
    }
}

/// Waits for a reason to end, and has clients served no more.
pub(super) async fn stop_serving(
    mut stop: watch::Receiver<bool>,
    mut ended: EndsHeard,
    hub: WatchHub,
    transfer: Transfer,
    backend: Backend,
    stopping: watch::Sender<bool>,
) {
    let for_snapshot = tokio::select! {
        () = turns_true(&mut stop) => false,
        () = turns_true(&mut ended.removed) => false,
        () = turns_true(&mut ended.snapshot) => true,
    };
    if !for_snapshot {
        // As long as clients are served here: what they write goes to the next leader.
        transfer.before_stop().await;
    }
    // Streams that never end by themselves would hold the drain up.
    hub.stop();
    stopping.send_replace(true);
    backend.hurry_merges();
}

/// The guard that a channel resolves to holds a lock, and must not be kept over an await.
async fn turns_true(channel: &mut watch::Receiver<bool>) {
    drop(channel.wait_for(|is_true| *is_true).await);
}

/// Resolves some time after a snapshot has arrived: what clients wait for here may need entries
/// that will never come.
pub(super) async fn cut_short(mut arrived: watch::Receiver<bool>) {
    turns_true(&mut arrived).await;
    tokio::time::sleep(FINISH_FOR_SNAPSHOT).await;
}

/// How long answers that are on their way may take when a snapshot waits.
const FINISH_FOR_SNAPSHOT: Duration = Duration::from_millis(250);
