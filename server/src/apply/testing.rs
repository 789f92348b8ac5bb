//! A state machine of its own for the tests of this folder.

use tempfile::TempDir;

use super::State;
use crate::auth::AuthStore;
use crate::mvcc::{RevisionEvents, Round, Store};
use crate::storage::{Backend, BackendOptions};

/// An empty state, leading, in a folder that goes with it.
pub(super) struct Fixture {
    pub(super) state: State,
    _dir: TempDir,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = Backend::open(dir.path(), &BackendOptions::default()).expect("a new state");
        AuthStore::begin(&backend).expect("a new state");
        let store = Store::open(backend).expect("a new store");
        let state = State::load(store, 2, 1).expect("a new state");
        state.lessor.promote(std::time::Duration::ZERO);
        Self { state, _dir: dir }
    }

    /// Runs one round of entries and writes it.
    pub(super) fn round(&self, entries: impl FnOnce(&mut Round)) -> Vec<RevisionEvents> {
        let mut round = self.state.store.begin_round();
        entries(&mut round);
        let (applied, term) = self.state.store.applied();
        round
            .commit(applied.next(), term)
            .expect("a write to a new state")
    }
}
