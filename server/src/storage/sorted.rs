//! Rows that come in the order of their keys, made into tables at once: they are neither held in
//! memory, nor written a second time where tables are merged.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use bytes::Bytes;
use rocksdb::{IngestExternalFileOptions, SstFileWriter};

#[cfg(feature = "simulation")]
use super::Batch;
use super::options::{self, TABLE_BYTES};
use super::{Backend, Family, StorageError};

/// Fills a family that is empty. Its rows are there, and durable, after [`SortedRows::finish`], and
/// none of them before. If it is dropped instead, the files that it leaves in the directory of the
/// state are known to nobody: to be used only where a state that is not whole is thrown away.
pub struct SortedRows {
    backend: Backend,
    family: Family,
    chunk: Vec<Row>,
    chunk_bytes: usize,
    work: Work,
}

type Row = (Box<[u8]>, Bytes);

/// Who makes the tables.
enum Work {
    /// A thread of its own, since that takes as long as everything else that a load has to do.
    Going {
        queue: SyncSender<Vec<Row>>,
        thread: JoinHandle<Result<Vec<PathBuf>, StorageError>>,
    },
    /// Nobody any more.
    Ended,
    /// Nobody, after this.
    Failed(StorageError),
    /// Nobody: the state is one of the simulation.
    #[cfg(feature = "simulation")]
    InMemory(Batch),
}

impl Backend {
    /// Begins to fill a family, whose rows nothing else may write meanwhile.
    ///
    /// # Errors
    ///
    /// That the system has no thread left.
    pub fn sorted_rows(&self, family: Family) -> Result<SortedRows, StorageError> {
        Ok(SortedRows {
            backend: self.clone(),
            family,
            chunk: Vec::new(),
            chunk_bytes: 0,
            work: self.begin(family)?,
        })
    }

    fn begin(&self, family: Family) -> Result<Work, StorageError> {
        #[cfg(feature = "simulation")]
        if self.memory().is_some() {
            return Ok(Work::InMemory(self.batch()));
        }
        let dir = self.db().path().to_path_buf();
        let (queue, chunks) = sync_channel(QUEUED_CHUNKS);
        let worker = thread::Builder::new().name("load".to_owned());
        let made = dir.clone();
        let thread = worker
            .spawn(move || write_tables(&made, family, &chunks))
            .map_err(|error| StorageError::directory("start a thread that fills", dir, &error))?;
        Ok(Work::Going { queue, thread })
    }
}

impl SortedRows {
    /// Adds a row, whose key is above all those before.
    ///
    /// # Errors
    ///
    /// Failed writes, and a key that is not above the last one; those of earlier rows included.
    pub fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), StorageError> {
        #[cfg(feature = "simulation")]
        if let Work::InMemory(batch) = &mut self.work {
            batch.put(self.family, key, value);
            return Ok(());
        }
        self.chunk_bytes += key.len() + value.len();
        self.chunk.push((key.into(), value));
        match self.chunk_bytes >= CHUNK_BYTES {
            true => self.hand_over(),
            false => Ok(()),
        }
    }

    /// Makes all rows part of the state. Nothing can be added afterwards.
    ///
    /// # Errors
    ///
    /// As [`SortedRows::put`].
    pub fn finish(&mut self) -> Result<(), StorageError> {
        #[cfg(feature = "simulation")]
        if let Work::InMemory(batch) = &mut self.work {
            let batch = std::mem::replace(batch, self.backend.batch());
            return self.backend.write(batch);
        }
        self.hand_over()?;
        let tables = self.end()?;
        if tables.is_empty() {
            return Ok(());
        }
        let mut how = IngestExternalFileOptions::default();
        how.set_move_files(true);
        self.backend
            .db()
            .ingest_external_file_cf_opts(self.backend.handle(self.family), &how, tables)
            .map_err(|error| StorageError::database("take up the tables of a load", &error))
    }

    fn hand_over(&mut self) -> Result<(), StorageError> {
        let chunk = std::mem::take(&mut self.chunk);
        self.chunk_bytes = 0;
        match &self.work {
            // Where nobody takes it, the thread has ended early, for a reason that it tells.
            Work::Going { queue, .. } if queue.send(chunk).is_ok() => Ok(()),
            _ => self.end().map(drop),
        }
    }

    /// Waits until what was handed over is in tables, and gives their paths.
    fn end(&mut self) -> Result<Vec<PathBuf>, StorageError> {
        match std::mem::replace(&mut self.work, Work::Ended) {
            Work::Going { queue, thread } => {
                drop(queue);
                let ended = thread.join();
                let ended = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                if let Err(error) = &ended {
                    self.work = Work::Failed(error.clone());
                }
                ended
            }
            Work::Failed(error) => {
                self.work = Work::Failed(error.clone());
                Err(error)
            }
            _ => Err(StorageError::Database {
                action: "fill a family",
                reason: "it is filled already".to_owned(),
            }),
        }
    }
}

impl Drop for SortedRows {
    /// Whoever throws the directory away finds nobody who still writes into it.
    fn drop(&mut self) {
        if let Work::Going { queue, thread } = std::mem::replace(&mut self.work, Work::Ended) {
            drop(queue);
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for SortedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SortedRows")
            .field("family", &self.family)
            .finish_non_exhaustive()
    }
}

/// Writes tables into `dir` until nothing more comes; gives their paths, in order. Each of them is
/// durable.
fn write_tables(
    dir: &Path,
    family: Family,
    chunks: &Receiver<Vec<Row>>,
) -> Result<Vec<PathBuf>, StorageError> {
    let failed = |error| StorageError::database("write a table", &error);
    let options = options::tables(family);
    let mut writer = SstFileWriter::create(&options);
    let mut tables: Vec<PathBuf> = Vec::new();
    let mut is_open = false;
    for (key, value) in chunks.iter().flatten() {
        if !is_open {
            // No name that RocksDB gives to a file of its own.
            let path = dir.join(format!("load-{}-{}", family.name(), tables.len()));
            writer.open(&path).map_err(failed)?;
            tables.push(path);
            is_open = true;
        }
        writer.put(key, value).map_err(failed)?;
        if writer.file_size() >= TABLE_BYTES {
            writer.finish().map_err(failed)?;
            is_open = false;
        }
    }
    if is_open {
        writer.finish().map_err(failed)?;
    }
    Ok(tables)
}

/// Rows handed over at once.
const CHUNK_BYTES: usize = 256 << 10;

/// How many of these wait for the thread at most.
const QUEUED_CHUNKS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::BackendOptions;

    fn open(dir: &Path) -> Backend {
        Backend::open(dir, &BackendOptions::default()).expect("open")
    }

    fn key(number: u32) -> [u8; 4] {
        number.to_be_bytes()
    }

    fn value(number: u32) -> Bytes {
        let random = |at: u32| number.wrapping_mul(2_654_435_761).rotate_left(at) as u8;
        (0..4_000).map(random).collect()
    }

    fn put(rows: &mut SortedRows, number: u32) -> Result<(), StorageError> {
        rows.put(&key(number), value(number))
    }

    #[test]
    fn rows_of_several_tables_are_there_after_the_end_and_a_crash() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let state = dir.path().join("state");
        let image = dir.path().join("image");
        // Some that stand behind a border of tables and of chunks.
        let count = 3 * (TABLE_BYTES / 4_000) as u32 / 2;
        let backend = open(&state);
        let mut rows = backend.sorted_rows(Family::Revision).expect("begin");
        for number in 0..count {
            put(&mut rows, number).expect("put");
        }
        let before = backend.get(Family::Revision, &key(0)).expect("get");
        assert_eq!(before, None);
        rows.finish().expect("finish");
        backend.crash_image(&image);
        for backend in [backend, open(&image)] {
            let view = backend.view();
            let mut rows = view.scan(Family::Revision, &[], None);
            for number in 0..count {
                let row = rows.next().expect("scan").expect("a row");
                assert_eq!(row, (&key(number)[..], &value(number)[..]));
            }
            assert_eq!(rows.next().expect("scan"), None);
        }
        let left = std::fs::read_dir(&state).expect("list");
        let left = left.filter(|file| {
            let name = file.as_ref().expect("list").file_name();
            name.to_string_lossy().starts_with("load-")
        });
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn no_rows_are_no_error_and_rows_out_of_order_are_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let backend = open(dir.path());
        let mut none = backend.sorted_rows(Family::Revision).expect("begin");
        none.finish().expect("finish");
        let again = none.finish().expect_err("once is all").to_string();
        assert_eq!(again, "fill a family: it is filled already");
        let mut rows = backend.sorted_rows(Family::Revision).expect("begin");
        put(&mut rows, 2).expect("it waits");
        put(&mut rows, 1).expect("it waits");
        let error = rows.finish().expect_err("out of order").to_string();
        assert!(error.starts_with("write a table: "), "{error}");
        let again = rows.finish().expect_err("it stays so").to_string();
        assert_eq!(again, error);
        let first = backend.get(Family::Revision, &key(2)).expect("get");
        assert_eq!(first, None);
    }

    #[test]
    fn whoever_gives_up_leaves_no_thread_behind() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let backend = open(dir.path());
        let closed = backend.closed();
        let mut rows = backend.sorted_rows(Family::Revision).expect("begin");
        for number in 0..1_000 {
            put(&mut rows, number).expect("put");
        }
        drop(rows);
        drop(backend);
        assert!(closed.get());
    }
}
