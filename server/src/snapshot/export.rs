//! The state of one moment as a bbolt file that etcd opens, while writes go on.
//!
//! The file begins with what is only known at its end, so the state is walked twice through one
//! view: first to measure, then to write. No copy of the data is made, in memory or on disk.

use std::io::Write;
use std::ops::ControlFlow;

use trilith_bbolt::{Measure, Plan, Sink, WriteError, Writer};

use crate::mvcc::{self, BucketSink};
use crate::storage::{StorageError, View};

/// A state that is measured and can be written, as often as wanted.
#[derive(Debug)]
pub struct Export {
    view: View,
    plan: Plan,
    storage_version: Option<String>,
}

/// Why a state was not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It was told to stop.
    #[error("stopped before the state was measured")]
    Stopped,
    /// The state cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The output failed, or there is something in the state that bbolt does not take.
    #[error("cannot write the snapshot: {0}")]
    Write(#[from] WriteError),
}

impl Export {
    /// Reads all of `view` to find out how large the file is. `watch` is told from time to time how
    /// many pairs there are so far, and may end it. Not for async threads.
    ///
    /// # Errors
    ///
    /// [`ExportError::Stopped`] if `watch` ended it, or a failure of the state.
    pub fn measure(
        view: View,
        watch: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Self, ExportError> {
        let mut measure = Measure::new(PAGE_BYTES)?;
        let mut feed = Feed {
            sink: &mut measure,
            pairs: 0,
            watch,
        };
        mvcc::walk_buckets(&view, &mut feed)?;
        let plan = measure.finish()?;
        let storage_version = mvcc::storage_version(&view)?;
        Ok(Self {
            view,
            plan,
            storage_version,
        })
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.plan.size()
    }

    /// The version of etcd's that the file has the form of; none before the cluster has one.
    pub fn storage_version(&self) -> Option<&str> {
        self.storage_version.as_deref()
    }

    /// Writes the file from its first byte to its last. An error of `out` ends it. Not for async
    /// threads.
    ///
    /// # Errors
    ///
    /// What `out` returned, or a failure of the state. The output is then incomplete.
    pub fn write<W: Write>(&self, out: W) -> Result<W, ExportError> {
        let mut writer = Writer::new(self.plan.clone(), out)?;
        let mut feed = Feed {
            sink: &mut writer,
            pairs: 0,
            watch: &mut |_| ControlFlow::Continue(()),
        };
        mvcc::walk_buckets(&self.view, &mut feed)?;
        Ok(writer.finish()?)
    }
}

/// Hands etcd's buckets on to a bbolt file.
struct Feed<'a, S> {
    sink: &'a mut S,
    pairs: u64,
    watch: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
}

impl<S: Sink> BucketSink for Feed<'_, S> {
    type Error = ExportError;

    fn bucket(&mut self, name: &'static str) -> Result<(), ExportError> {
        Ok(self.sink.bucket(name.as_bytes())?)
    }

    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), ExportError> {
        self.pairs += 1;
        if self.pairs.is_multiple_of(WATCHED_PAIRS) && (self.watch)(self.pairs).is_break() {
            return Err(ExportError::Stopped);
        }
        Ok(self.sink.pair(key, value)?)
    }
}

/// etcd's files have the page size of the system, which is this almost everywhere.
const PAGE_BYTES: u32 = 4096;

/// About a millisecond of work.
const WATCHED_PAIRS: u64 = 1024;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;

    use bytes::Bytes;
    use trilith_bbolt::File;

    use super::*;
    use crate::ids::{Index, LeaseId, Revision, Term};
    use crate::mvcc::{Interval, Store};
    use crate::storage::{Backend, BackendOptions, Family, schema::meta};

    struct Fixture {
        store: Store,
        dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a folder for the test");
            let options = BackendOptions::default();
            let backend = Backend::open(&dir.path().join("state"), &options).expect("a new state");
            let store = Store::open(backend).expect("a new store");
            Self { store, dir }
        }

        /// Puts each key, with a value of so many bytes, in an entry of its own.
        fn put(&self, keys: std::ops::Range<u32>, value_bytes: usize) {
            for number in keys {
                let mut round = self.store.begin_round();
                let mut txn = round.txn();
                let key = Bytes::from(format!("key {number}"));
                let value = vec![b'v'; value_bytes];
                txn.put(key, &value, LeaseId::new(0)).expect("a put");
                txn.end().expect("one change");
                let index = self.store.applied().0.next();
                round.commit(index, Term::new(7)).expect("a write");
            }
        }

        fn view(&self) -> View {
            self.store.read().view().clone()
        }

        fn export(&self, view: View) -> File {
            let export = Export::measure(view, &mut |_| ControlFlow::Continue(()));
            let export = export.expect("measured");
            let bytes = export.write(Vec::new()).expect("written");
            assert_eq!(bytes.len() as u64, export.size());
            let path = self.dir.path().join("export.db");
            fs::write(&path, bytes).expect("room for it");
            let file = File::open(&path).expect("our own file");
            file.check().expect("our own file");
            file
        }
    }

    fn get(file: &File, bucket: &str, key: &[u8]) -> Option<Vec<u8>> {
        let bucket = file.bucket(bucket.as_bytes()).expect("readable");
        let value = bucket.expect("all ten exist").get(key).expect("readable");
        value.map(|value| value.to_vec())
    }

    #[test]
    fn an_empty_state_has_all_ten_buckets() {
        let fixture = Fixture::new();
        let file = fixture.export(fixture.view());
        let names: Vec<String> = file
            .buckets()
            .map(|bucket| String::from_utf8_lossy(&bucket.expect("readable").0).into_owned())
            .collect();
        let expected = [
            "alarm",
            "auth",
            "authRoles",
            "authUsers",
            "cluster",
            "key",
            "lease",
            "members",
            "members_removed",
            "meta",
        ];
        assert_eq!(names, expected);
        assert_eq!(get(&file, "meta", b"consistent_index"), None);
    }

    #[test]
    fn an_export_is_of_the_moment_of_its_view_and_names_its_index() {
        let fixture = Fixture::new();
        fixture.put(0..300, 100);
        let mut round = fixture.store.begin_round();
        let mut txn = round.txn();
        let one = Interval::single(Bytes::from_static(b"key 1"));
        txn.delete_range(&one, false).expect("a delete");
        txn.end().expect("one change");
        round.set_compact(Revision::new(3)).expect("a revision");
        let batch = round.batch();
        batch.put(Family::Cluster, b"clusterVersion", b"3.7.0");
        batch.put(Family::Meta, meta::CONF_STATE, [8, 5]);
        round
            .commit(Index::new(400), Term::new(8))
            .expect("a write");
        let view = fixture.view();
        fixture.put(300..400, 100);

        let file = fixture.export(view);
        assert_eq!(
            get(&file, "meta", b"consistent_index"),
            Some(400_u64.to_be_bytes().to_vec())
        );
        assert_eq!(
            get(&file, "meta", b"term"),
            Some(8_u64.to_be_bytes().to_vec())
        );
        assert_eq!(
            get(&file, "meta", b"storageVersion"),
            Some(b"3.7.0".to_vec())
        );
        let conf_state = br#"{"voters":[5],"auto_leave":false}"#;
        assert_eq!(get(&file, "meta", b"confState"), Some(conf_state.to_vec()));
        let compacted = b"\0\0\0\0\0\0\0\x03_\0\0\0\0\0\0\0\0";
        assert_eq!(
            get(&file, "meta", b"scheduledCompactRev"),
            Some(compacted.to_vec())
        );
        let records = file
            .bucket(b"key")
            .expect("readable")
            .expect("it exists")
            .pairs();
        let records: Vec<_> = records.map(|pair| pair.expect("readable")).collect();
        assert_eq!(records.len(), 301);
        let (key, value) = &records[300];
        assert_eq!(key, &b"\0\0\0\0\0\0\x01\x2e_\0\0\0\0\0\0\0\0t"[..]);
        assert_eq!(value, &b"\x0a\x05key 1"[..]);
    }

    #[test]
    fn a_version_that_knows_no_storage_version_leaves_it_out() {
        let fixture = Fixture::new();
        let mut round = fixture.store.begin_round();
        round
            .batch()
            .put(Family::Cluster, b"clusterVersion", b"3.5.0");
        round.commit(Index::new(1), Term::new(1)).expect("a write");
        let file = fixture.export(fixture.view());
        assert_eq!(get(&file, "meta", b"storageVersion"), None);
    }

    #[test]
    fn measuring_ends_when_it_is_told_to() {
        let fixture = Fixture::new();
        fixture.put(0..1100, 1);
        let mut told = Vec::new();
        let measured = Export::measure(fixture.view(), &mut |pairs| {
            told.push(pairs);
            ControlFlow::Break(())
        });
        assert!(matches!(measured, Err(ExportError::Stopped)));
        assert_eq!(told, [WATCHED_PAIRS]);
    }

    #[test]
    fn an_output_that_fails_ends_the_writing() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self
                    .0
                    .checked_sub(bytes.len())
                    .ok_or(io::ErrorKind::BrokenPipe)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let fixture = Fixture::new();
        fixture.put(0..100, 1000);
        let export = Export::measure(fixture.view(), &mut |_| ControlFlow::Continue(()));
        let written = export.expect("measured").write(Full(50_000));
        let Err(ExportError::Write(WriteError::Io(error))) = written.map(|_| ()) else {
            panic!("it was written into an output that is full");
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
