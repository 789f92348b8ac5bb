//! What RocksDB tells of itself: in the member's log, and as the reason why it gave up.
//!
//! By itself RocksDB writes this to a file in the directory of the state, which nobody can do when
//! the disk is full.

use std::sync::{Arc, OnceLock};

use rocksdb::{InfoLogger, LogLevel};

/// Hears one database; clones share what was heard.
#[derive(Clone, Debug, Default)]
pub(super) struct Notices {
    /// The first failure of a flush or a merge that RocksDB began by itself.
    failure: Arc<OnceLock<String>>,
}

impl Notices {
    /// Where the database has to write to.
    pub(super) fn logger(&self) -> InfoLogger {
        let notices = self.clone();
        InfoLogger::new_callback_logger(LogLevel::Warn, move |level, line| {
            notices.hear(level, line);
        })
    }

    /// Why RocksDB failed in the background. It is told before the failure is counted.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    fn hear(&self, level: LogLevel, line: &str) {
        match level {
            // Headers are all options, at every start.
            LogLevel::Debug | LogLevel::Info | LogLevel::Header => return,
            LogLevel::Warn => tracing::warn!(line, "RocksDB warns"),
            LogLevel::Error | LogLevel::Fatal => tracing::error!(line, "RocksDB has failed"),
        }
        if let Some(failure) = background_failure(line) {
            let _ = self.failure.set(failure.to_owned());
        }
    }
}

/// The error in a line that tells of a failure in the background.
fn background_failure(line: &str) -> Option<&str> {
    let (_place, rest) = line.split_once(FAILURE_BEGINS)?;
    let end = rest.rfind(FAILURE_ENDS).unwrap_or(rest.len());
    Some(&rest[..end])
}

const FAILURE_BEGINS: &str = "Background IO error ";

/// After it stands the number of what RocksDB was doing.
const FAILURE_ENDS: &str = ", reason ";

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::storage::{Backend, BackendOptions, Family, StorageError};

    #[test]
    fn the_first_failure_in_the_background_is_kept() {
        let notices = Notices::default();
        let place = "[/db_impl/db_impl_write.cc:1] ";
        notices.hear(LogLevel::Warn, &format!("{place}Stalling writes"));
        assert_eq!(notices.failure(), None);
        for file in ["12", "13"] {
            let error = format!("IO error: No space left on device: {file}.sst, reason why");
            let line = format!("{place}Background IO error {error}, reason 6");
            notices.hear(LogLevel::Warn, &line);
        }
        let first = "IO error: No space left on device: 12.sst, reason why";
        assert_eq!(notices.failure(), Some(first));
    }

    #[test]
    fn a_flush_that_fails_by_itself_closes_the_state_with_its_error() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let state = dir.path().join("state");
        let backend = Backend::open(&state, &BackendOptions::within(Some(0))).expect("a new state");
        std::fs::remove_dir_all(&state).expect("remove");
        // So much that RocksDB flushes without being told to.
        for number in 0..64_u32 {
            let mut batch = backend.batch();
            batch.put(Family::Current, number.to_be_bytes(), [b'v'; 64 << 10]);
            if backend.write(batch).is_err() {
                break;
            }
        }
        let given_up = Instant::now() + Duration::from_secs(60);
        let error = loop {
            match backend.check() {
                Err(error) => break error,
                Ok(()) => assert!(Instant::now() < given_up, "nothing has failed"),
            }
            std::thread::yield_now();
        };
        let StorageError::Latched(reason) = error else {
            panic!("{error}")
        };
        assert!(reason.contains("No such file or directory"), "{reason}");
    }
}
