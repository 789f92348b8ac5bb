//! Hashes of the state, off the async threads and few at a time: each reads every kept row.
//!
//! Clients, other members and this member's own checks take turns, so that no number of them
//! holds up reads and writes by more than a few scans do.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::ids::Revision;
use crate::mvcc::{KvHash, MvccError, Store};
use crate::quiet;

/// Hashes one member's state; clones share the turns.
#[derive(Clone)]
pub struct Hashing {
    store: Store,
    turns: Arc<Semaphore>,
}

impl Hashing {
    /// Nobody has to wait yet.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            turns: Arc::new(Semaphore::new(AT_ONCE_MAX)),
        }
    }

    /// As [`Store::hash_kv`].
    ///
    /// # Errors
    ///
    /// Its errors; [`MvccError::Stopped`] when the server stops.
    pub async fn kv(&self, revision: Revision) -> Result<KvHash, MvccError> {
        self.run(move |store| store.hash_kv(revision)).await
    }

    /// As [`Store::hash_all`].
    ///
    /// # Errors
    ///
    /// As [`Self::kv`].
    pub async fn all(&self) -> Result<(u32, Revision), MvccError> {
        self.run(Store::hash_all).await
    }

    /// Who goes away while waiting gives up the turn; once begun, a hash is computed to its end.
    async fn run<T: Send + 'static>(
        &self,
        hash: impl FnOnce(&Store) -> Result<T, MvccError> + Send + 'static,
    ) -> Result<T, MvccError> {
        let turn = self.turns.clone().acquire_owned().await;
        let turn = turn.expect("the semaphore is never closed");
        let store = self.store.clone();
        let hashed = quiet::run("hash", move || {
            let _turn = turn;
            hash(&store)
        });
        hashed.await.unwrap_or(Err(MvccError::Stopped))
    }
}

/// Hashes computed at once: one for whoever asks often, one for everybody else.
const AT_ONCE_MAX: usize = 2;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, mpsc};

    use super::*;
    use crate::storage::{Backend, BackendOptions};

    #[tokio::test]
    async fn a_few_hash_at_once_and_the_others_wait() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = Backend::open(dir.path(), &BackendOptions::default()).expect("a new state");
        let hashing = Hashing::new(Store::open(backend).expect("an empty state"));
        let running = Arc::new(AtomicUsize::new(0));
        let both = Arc::new(Barrier::new(AT_ONCE_MAX));
        let asked = (0..4 * AT_ONCE_MAX).map(|_| {
            let (running, both) = (running.clone(), both.clone());
            hashing.run(move |store| {
                let before = running.fetch_add(1, Ordering::SeqCst);
                // Returns only when so many are here, which shows that they run at once.
                both.wait();
                let hashed = store.hash_kv(Revision::default());
                running.fetch_sub(1, Ordering::SeqCst);
                hashed.map(|_| before)
            })
        });
        for before in futures::future::join_all(asked).await {
            assert!(before.expect("a hash") < AT_ONCE_MAX);
        }
    }

    #[tokio::test]
    async fn who_goes_away_gives_up_the_turn() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = Backend::open(dir.path(), &BackendOptions::default()).expect("a new state");
        let hashing = Hashing::new(Store::open(backend).expect("an empty state"));
        let (release, held) = mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        let busy: Vec<_> = (0..AT_ONCE_MAX)
            .map(|_| {
                let (hashing, held) = (hashing.clone(), held.clone());
                tokio::spawn(async move {
                    let hold = move |_: &Store| {
                        let _released = held.lock().expect("nobody panics").recv();
                        Ok(())
                    };
                    hashing.run(hold).await
                })
            })
            .collect();
        while hashing.turns.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let waiting = tokio::spawn({
            let hashing = hashing.clone();
            async move { hashing.all().await }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err_and(|error| error.is_cancelled()));
        drop(release);
        for done in busy {
            done.await.expect("no panic").expect("no error");
        }
        assert_eq!(hashing.turns.available_permits(), AT_ONCE_MAX);
        hashing.all().await.expect("a turn is free again");
    }
}
