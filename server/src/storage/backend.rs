//! The database itself: open, read, write one batch, flush, measure, and stop for good on failure.

use std::{
    fmt,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{ColumnFamily, DB, ReadOptions, ReadTier, WriteOptions, properties};
use self_cell::self_cell;

#[cfg(feature = "simulation")]
use super::memory::{Memory, MemoryDisk};

use super::directory::{FORMAT_FILE, is_marked, prepare_directory, sync_directory};
use super::merges::Merges;
use super::notices::Notices;
use crate::quiet;
use crate::storage::{BackendOptions, Batch, Family, StorageError, View, options};

/// Handle to the open database; clones share it. The database closes with the last handle,
/// view or batch.
#[derive(Clone)]
pub struct Backend {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    engine: Engine,
    read_newest: ReadOptions,
    read_persisted: ReadOptions,
    write: WriteOptions,
    /// The reason of the first failed write or flush. Invariant: once set, nothing is written.
    latch: OnceLock<String>,
    notices: Notices,
    pub(super) merges: Merges,
    /// Rows written since the last flush, and their bytes: the average size of what is unflushed.
    pub(super) written_rows: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    /// Held while the two are corrected, so that nothing is taken off twice.
    pub(super) measuring: Mutex<()>,
    /// Tables and blobs when they were last asked for.
    pub(super) files_bytes: AtomicU64,
    /// The last field, so that it is dropped after the database is closed.
    closed: MarkClosed,
}

/// Tells whether a database is closed, without keeping it open.
#[derive(Clone, Debug)]
pub struct Closed(Arc<AtomicBool>);

struct MarkClosed(Closed);

impl Closed {
    /// Whether its last handle is gone, and with it its lock on the directory.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for MarkClosed {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::SeqCst);
    }
}

/// What keeps the rows.
enum Engine {
    RocksDb(OpenDatabase),
    #[cfg(feature = "simulation")]
    Memory(Memory),
}

struct Handles<'a>(Vec<&'a ColumnFamily>);

self_cell! {
    struct OpenDatabase {
        owner: DB,
        #[covariant]
        dependent: Handles,
    }
}

impl Backend {
    /// Refuses what [`Backend::open`] would refuse of `dir` before it looks into the database.
    /// Writes nothing.
    ///
    /// # Errors
    ///
    /// For a directory that holds something else, or a newer format.
    pub fn check_directory(dir: &Path) -> Result<(), StorageError> {
        is_marked(dir).map(drop)
    }

    /// Opens the state in `dir`, or makes an empty one if `dir` is empty or missing.
    ///
    /// # Errors
    ///
    /// A directory that holds something else, or a newer format, is refused untouched.
    pub fn open(dir: &Path, options: &BackendOptions) -> Result<Self, StorageError> {
        prepare_directory(dir)?;
        quiet::start_merges(|| options::start_merging(options))?;
        let notices = Notices::default();
        let merges = Merges::unbounded();
        let mut database = options::database(options, &notices);
        merges.install(&mut database);
        let db = DB::open_cf_descriptors(&database, dir, options::families(options)).map_err(
            |error| StorageError::Directory {
                action: "open the state in",
                path: dir.to_owned(),
                reason: error.to_string(),
            },
        )?;
        sync_directory(dir)?;
        Self::around(db, notices, merges)
    }

    /// Opens the state in `dir` for reading alone. Writes nothing into it; a write fails.
    ///
    /// # Errors
    ///
    /// A directory that holds no state, or one of a newer format.
    pub fn open_to_read(dir: &Path) -> Result<Self, StorageError> {
        let options = BackendOptions::default();
        if !is_marked(dir)? {
            let reason = format!("it has no file {FORMAT_FILE}");
            return Err(StorageError::Foreign {
                path: dir.to_owned(),
                reason,
            });
        }
        let notices = Notices::default();
        let database = options::database(&options, &notices);
        let families = options::families(&options);
        let fail_if_log = false;
        let db = DB::open_cf_descriptors_read_only(&database, dir, families, fail_if_log);
        let db = db.map_err(|error| StorageError::Directory {
            action: "open the state in",
            path: dir.to_owned(),
            reason: error.to_string(),
        })?;
        // There are none.
        Self::around(db, notices, Merges::unbounded())
    }

    fn around(db: DB, notices: Notices, merges: Merges) -> Result<Self, StorageError> {
        let open = OpenDatabase::try_new(db, |db| {
            let handles = Family::ALL.iter().map(|family| {
                db.cf_handle(family.name())
                    .ok_or_else(|| StorageError::Database {
                        action: "open the state",
                        reason: format!("family {} is missing", family.name()),
                    })
            });
            handles.collect::<Result<Vec<_>, _>>().map(Handles)
        })?;
        let backend = Self::over(Engine::RocksDb(open), notices, merges);
        backend.measure();
        Ok(backend)
    }

    fn over(engine: Engine, notices: Notices, merges: Merges) -> Self {
        let mut read_persisted = ReadOptions::default();
        read_persisted.set_read_tier(ReadTier::Persisted);
        Self {
            shared: Arc::new(Shared {
                engine,
                read_newest: ReadOptions::default(),
                read_persisted,
                write: options::write(),
                latch: OnceLock::new(),
                notices,
                merges,
                written_rows: AtomicU64::new(0),
                written_bytes: AtomicU64::new(0),
                measuring: Mutex::new(()),
                files_bytes: AtomicU64::new(0),
                closed: MarkClosed(Closed(Arc::default())),
            }),
        }
    }

    /// Opens what `disk` holds; it must not be open already.
    #[cfg(feature = "simulation")]
    pub fn open_in_memory(disk: &MemoryDisk) -> Self {
        let engine = Engine::Memory(Memory::open(disk));
        Self::over(engine, Notices::default(), Merges::unbounded())
    }

    /// The state in memory, if it is one of the simulation.
    #[cfg(feature = "simulation")]
    pub(super) fn memory(&self) -> Option<&Memory> {
        match &self.shared.engine {
            Engine::Memory(memory) => Some(memory),
            Engine::RocksDb(_) => None,
        }
    }

    /// A sum over all rows in which members must not differ that have applied the same entries,
    /// and over all history there ever was.
    ///
    /// # Panics
    ///
    /// When the state is not in memory.
    #[cfg(feature = "simulation")]
    pub fn digest(&self) -> u64 {
        self.memory()
            .expect("the simulation asks its own states")
            .digest()
    }

    /// The newest value of a row, flushed or not.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        #[cfg(feature = "simulation")]
        if let Some(memory) = self.memory() {
            return Ok(memory.now().get(family, key));
        }
        self.get_with(family, key, &self.shared.read_newest)
    }

    /// The value a crash at this moment would leave.
    pub fn get_persisted(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        #[cfg(feature = "simulation")]
        if let Some(memory) = self.memory() {
            return Ok(memory.persisted(family, key));
        }
        self.get_with(family, key, &self.shared.read_persisted)
    }

    /// Tells later whether the database is closed.
    pub fn closed(&self) -> Closed {
        self.shared.closed.0.clone()
    }

    /// A consistent moment: now.
    pub fn view(&self) -> View {
        View::new(self.clone())
    }

    /// An empty batch for this database.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// Applies a batch as one: in memory at once, on disk with the next flush.
    ///
    /// # Errors
    ///
    /// The first failure closes the state for writing; all later calls return it.
    pub fn write(&self, batch: Batch) -> Result<(), StorageError> {
        self.check_latch()?;
        #[cfg(feature = "simulation")]
        if let Some(memory) = self.memory() {
            memory.write(&batch.in_memory);
            return Ok(());
        }
        let (rows, bytes) = (batch.changes.len() as u64, batch.bytes() as u64);
        self.shared.written_rows.fetch_add(rows, Ordering::Relaxed);
        self.shared
            .written_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        self.db()
            .write_opt(batch.changes, &self.shared.write)
            .map_err(|error| self.latch("write the state", &error))
    }

    /// Brings every batch written so far to disk, all families as one. Blocks until durable.
    ///
    /// # Errors
    ///
    /// As [`Backend::write`].
    pub fn flush(&self) -> Result<(), StorageError> {
        self.check_latch()?;
        #[cfg(feature = "simulation")]
        if let Some(memory) = self.memory() {
            memory.flush();
            return Ok(());
        }
        let handles = &self.opened().borrow_dependent().0;
        self.db()
            .flush_cfs_opt(handles, &options::flush())
            .map_err(|error| self.latch("flush the state", &error))?;
        self.measure();
        Ok(())
    }

    /// Fails if the state is closed for writing, or if RocksDB failed in the background.
    pub fn check(&self) -> Result<(), StorageError> {
        self.check_latch()?;
        #[cfg(feature = "simulation")]
        if self.memory().is_some() {
            return Ok(());
        }
        let failures = self
            .db()
            .property_int_value(properties::BACKGROUND_ERRORS)
            .map_err(|error| StorageError::database("read a property", &error))?
            .unwrap_or(0);
        if failures > 0 {
            let known = self.shared.notices.failure();
            let error = known.unwrap_or("what RocksDB has told is in the log of this member");
            let reason = format!("RocksDB failed in the background: {error}");
            let _ = self.shared.latch.set(reason);
        }
        self.check_latch()
    }

    /// Copies the files into the new directory `to`, as kill -9 at this moment would leave them.
    #[cfg(test)]
    pub(crate) fn crash_image(&self, to: &Path) {
        use std::fs;
        use std::io::ErrorKind;

        self.db().disable_file_deletions().expect("hold the files");
        fs::create_dir(to).expect("create");
        // The manifest goes first: every table that it names by now exists when the directory is
        // listed for the rest.
        for manifests in [true, false] {
            for file in fs::read_dir(self.db().path()).expect("list") {
                let file = file.expect("list");
                let name = file.file_name();
                if name.to_string_lossy().starts_with("MANIFEST") != manifests {
                    continue;
                }
                match fs::copy(file.path(), to.join(name)) {
                    // Renamed, or given up before deletions were held: the manifest, which is
                    // younger, does not name it. If it did, opening the image would fail.
                    Err(error) if !manifests && error.kind() == ErrorKind::NotFound => {}
                    copied => drop(copied.expect("copy")),
                }
            }
        }
        self.db()
            .enable_file_deletions()
            .expect("release the files");
    }

    pub(super) fn db(&self) -> &DB {
        self.opened().borrow_owner()
    }

    fn opened(&self) -> &OpenDatabase {
        match &self.shared.engine {
            Engine::RocksDb(open) => open,
            #[cfg(feature = "simulation")]
            Engine::Memory(_) => unreachable!("a state in memory has no files"),
        }
    }

    pub(super) fn handle(&self, family: Family) -> &ColumnFamily {
        self.opened().borrow_dependent().0[family as usize]
    }

    pub(super) fn get_with(
        &self,
        family: Family,
        key: &[u8],
        read: &ReadOptions,
    ) -> Result<Option<Bytes>, StorageError> {
        self.db()
            .get_pinned_cf_opt(self.handle(family), key, read)
            .map(|value| value.map(|value| Bytes::copy_from_slice(&value)))
            .map_err(|error| StorageError::database("read the state", &error))
    }

    fn check_latch(&self) -> Result<(), StorageError> {
        match self.shared.latch.get() {
            Some(reason) => Err(StorageError::Latched(reason.clone())),
            None => Ok(()),
        }
    }

    fn latch(&self, action: &str, error: &rocksdb::Error) -> StorageError {
        let reason = self
            .shared
            .latch
            .get_or_init(|| format!("{action}: {error}"));
        StorageError::Latched(reason.clone())
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("latch", &self.shared.latch.get())
            .finish_non_exhaustive()
    }
}
