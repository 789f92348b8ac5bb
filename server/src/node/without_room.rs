//! Raises the alarm for what was applied without room, then lets its clients know.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::api::SpaceGuard;
use crate::apply::Applied;
use crate::error::RequestError;
use crate::ids::RequestId;
use crate::wait::Wait;

/// Requests whose answers may wait for the alarm; more than that are answered at once.
pub(super) const WAITING_MAX: usize = 1024;

/// Answers what comes through `applied`, each after the alarm is raised, for as long as it is
/// polled.
pub(super) async fn answer(
    space: SpaceGuard,
    mut applied: mpsc::Receiver<RequestId>,
    wait: Arc<Wait<Applied>>,
) {
    while let Some(id) = applied.recv().await {
        tracing::warn!("message exceeded backend quota; raising alarm");
        space.raise().await;
        wait.trigger(id, Err(RequestError::NoSpace));
    }
}
