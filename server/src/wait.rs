//! Joins a request that waits with the result that apply, or a read round, brings.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::ids::{Index, RequestId};

/// Requests that wait for the result of their proposal, by request id.
///
/// Ids are spread over shards by their low bits, which count up, so that client threads that
/// register and the apply thread that triggers seldom meet on one lock.
#[derive(Debug)]
pub struct Wait<T> {
    shards: [Mutex<HashMap<u64, oneshot::Sender<T>>>; SHARDS],
}

impl<T> Default for Wait<T> {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl<T> Wait<T> {
    /// Announces that somebody waits for `id`; the registration ends with the returned guard.
    ///
    /// # Panics
    ///
    /// When the id is registered already: ids are ours and never repeat within a process.
    pub fn register(&self, id: RequestId) -> Registration<'_, T> {
        let (sender, receiver) = oneshot::channel();
        let previous = self.shard(id).lock().insert(id.get(), sender);
        assert!(previous.is_none(), "request id {id} is registered twice");
        Registration {
            wait: self,
            id,
            receiver,
        }
    }

    /// Hands `value` to whoever waits for `id`. Returns whether somebody did.
    pub fn trigger(&self, id: RequestId, value: T) -> bool {
        let waiter = self.shard(id).lock().remove(&id.get());
        waiter.is_some_and(|sender| sender.send(value).is_ok())
    }

    /// Whether somebody waits for `id`.
    pub fn is_registered(&self, id: RequestId) -> bool {
        self.shard(id).lock().contains_key(&id.get())
    }

    fn shard(&self, id: RequestId) -> &Mutex<HashMap<u64, oneshot::Sender<T>>> {
        &self.shards[(id.get() % SHARDS as u64) as usize]
    }
}

/// One registration in a [`Wait`]; dropping it forgets the request, so nothing leaks when a client
/// goes away.
#[derive(Debug)]
pub struct Registration<'a, T> {
    wait: &'a Wait<T>,
    id: RequestId,
    receiver: oneshot::Receiver<T>,
}

impl<T> Registration<'_, T> {
    /// Waits for the result. `None` when the server drops it, which it does only when it stops.
    pub async fn result(&mut self) -> Option<T> {
        (&mut self.receiver).await.ok()
    }
}

impl<T> Drop for Registration<'_, T> {
    fn drop(&mut self) {
        self.wait.shard(self.id).lock().remove(&self.id.get());
    }
}

/// Waiters for "everything up to this index is applied and published".
#[derive(Debug, Default)]
pub struct AppliedWait {
    /// A copy of what `state` says is applied, for those who only look.
    published: AtomicU64,
    state: Mutex<AppliedState>,
}

#[derive(Debug, Default)]
struct AppliedState {
    /// Invariant: never goes back.
    applied: Index,
    /// Invariant: every key is greater than `applied`.
    waiters: BTreeMap<Index, Vec<oneshot::Sender<()>>>,
}

impl AppliedWait {
    /// Whether `index` is applied and published, without taking the lock.
    pub fn is_applied(&self, index: Index) -> bool {
        index.get() <= self.published.load(Ordering::Acquire)
    }

    /// Passes `waiters` on once `index` is applied, which may be at once.
    pub fn when_applied(&self, index: Index, mut waiters: Vec<oneshot::Sender<()>>) {
        let mut state = self.state.lock();
        if index > state.applied {
            state.waiters.entry(index).or_default().append(&mut waiters);
            return;
        }
        drop(state);
        wake(waiters);
    }

    /// Says that everything up to `index` is applied and published.
    ///
    /// # Panics
    ///
    /// When `index` goes back.
    pub fn applied(&self, index: Index) {
        let mut state = self.state.lock();
        assert!(
            index >= state.applied,
            "applied index went from {} to {index}",
            state.applied
        );
        state.applied = index;
        self.published.store(index.get(), Ordering::Release);
        if state.waiters.is_empty() {
            return;
        }
        let later = state.waiters.split_off(&index.next());
        let ready = std::mem::replace(&mut state.waiters, later);
        drop(state);
        ready.into_values().for_each(wake);
    }
}

fn wake(waiters: Vec<oneshot::Sender<()>>) {
    for waiter in waiters {
        // A reader that gave up has dropped its end, and there is nobody left to tell.
        let _gone = waiter.send(());
    }
}

/// Enough that two cores' threads seldom collide; each shard is one small map.
const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_result_reaches_the_request_that_waits_for_it() {
        let wait = Wait::default();
        let mut registration = wait.register(RequestId::new(7));
        assert!(!wait.trigger(RequestId::new(8), 1));
        assert!(wait.trigger(RequestId::new(7), 2));
        assert_eq!(registration.result().await, Some(2));
    }

    #[test]
    fn a_request_that_goes_away_is_forgotten() {
        let wait = Wait::<()>::default();
        drop(wait.register(RequestId::new(7)));
        assert!(!wait.is_registered(RequestId::new(7)));
        assert!(!wait.trigger(RequestId::new(7), ()));
    }

    #[tokio::test]
    async fn readers_wake_when_their_index_is_applied_and_not_before() {
        let wait = AppliedWait::default();
        wait.applied(Index::new(4));
        let (now_sender, now) = oneshot::channel();
        let (later_sender, mut later) = oneshot::channel();
        wait.when_applied(Index::new(4), vec![now_sender]);
        wait.when_applied(Index::new(6), vec![later_sender]);
        assert_eq!(now.await, Ok(()));
        wait.applied(Index::new(5));
        assert!(later.try_recv().is_err());
        wait.applied(Index::new(7));
        assert_eq!(later.await, Ok(()));
    }
}
