//! The handle to users and roles that `apply` and the API share.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::row;
use super::table::{AuthError, Table};
use crate::storage::{Backend, Batch, StorageError, View};

/// Handle to users, roles and permissions; clones share them. Only `apply` changes them.
#[derive(Clone, Debug)]
pub struct AuthStore {
    table: Arc<ArcSwap<Table>>,
}

impl AuthStore {
    /// Writes the revision that a member begins with, if it has none.
    ///
    /// etcd does that at every start too, before and outside of any entry.
    ///
    /// # Errors
    ///
    /// A failure of the state.
    pub fn begin(backend: &Backend) -> Result<(), StorageError> {
        if row::revision(&backend.view())?.is_some_and(|revision| revision > 0) {
            return Ok(());
        }
        let mut batch = backend.batch();
        row::put_revision(&mut batch, row::FIRST_REVISION);
        backend.write(batch)
    }

    /// Reads the rows.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or one of them is not what etcd writes.
    pub fn load(view: &View) -> Result<Self, StorageError> {
        Ok(Self {
            table: Arc::new(ArcSwap::from_pointee(Table::load(view)?)),
        })
    }

    /// Users and roles as they are now.
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Whether authentication is on.
    pub fn is_enabled(&self) -> bool {
        self.table.load().is_enabled()
    }

    /// Makes a change, all of it or, when it is refused, nothing. For `apply` only.
    ///
    /// # Errors
    ///
    /// What `change` returned.
    pub fn change(
        &self,
        batch: &mut Batch,
        change: impl FnOnce(&mut Table, &mut Batch) -> Result<(), AuthError>,
    ) -> Result<(), AuthError> {
        let mut table = Table::clone(&self.table.load());
        change(&mut table, batch)?;
        self.table.store(Arc::new(table));
        Ok(())
    }
}
