//! Bounds how fast RocksDB merges tables, and changes the bound while it runs.
//!
//! RocksDB's limiter can do both, but not through its C API, and it counts flushes as well. So a
//! few lines of C++ stand here, and the only unsafe code of the workspace: the calls of them.

use std::ptr::NonNull;

use librocksdb_sys as ffi;
use rocksdb::{AsRawPtr, Options};

/// A bound on the bytes that merges write in a second. Flushes do not count, nor do merges that
/// writers are held up for.
#[derive(Debug)]
pub struct MergePace {
    limiter: NonNull<ffi::rocksdb_ratelimiter_t>,
}

impl MergePace {
    /// The greatest bound, and none in effect: more than disks do. What a refill of tokens has left
    /// over may still be used after the bound was lowered: 43 MB at this one.
    pub const RATE_MAX: u64 = 4 << 30;

    /// A bound of `rate` bytes in a second, at least one.
    pub fn new(rate: u64) -> Self {
        #[expect(unsafe_code, reason = "C++ has it")]
        // SAFETY: it allocates, and depends on nothing.
        let limiter = unsafe { trilith_merge_limiter_new(bounded(rate)) };
        let limiter = NonNull::new(limiter).expect("new does not return null");
        Self { limiter }
    }

    /// Has every database that is opened with `options` keep to the bound.
    pub fn install(&self, options: &mut Options) {
        #[expect(unsafe_code, reason = "the crate keeps the pointer to itself")]
        // SAFETY: the pointer is used while `options` is borrowed.
        let options = unsafe { options.as_raw_ptr() };
        #[expect(unsafe_code, reason = "C++ has it")]
        // SAFETY: both are alive; the options take a share of the limiter.
        unsafe {
            ffi::rocksdb_options_set_ratelimiter(options, self.limiter.as_ptr());
        }
    }

    /// Changes the bound to `rate` bytes in a second, at least one, from now on.
    pub fn set(&self, rate: u64) {
        #[expect(unsafe_code, reason = "C++ has it")]
        // SAFETY: the limiter is alive, and locks by itself.
        unsafe {
            trilith_merge_limiter_set(self.limiter.as_ptr(), bounded(rate));
        }
    }

    /// Bytes that merges have written within the bound.
    pub fn written(&self) -> u64 {
        #[expect(unsafe_code, reason = "C++ has it")]
        // SAFETY: the limiter is alive, and locks by itself.
        let through = unsafe { trilith_merge_limiter_through(self.limiter.as_ptr()) };
        through.unsigned_abs()
    }
}

impl Drop for MergePace {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "C++ has it")]
        // SAFETY: it is this one's share alone; databases have their own.
        unsafe {
            ffi::rocksdb_ratelimiter_destroy(self.limiter.as_ptr());
        }
    }
}

#[expect(unsafe_code, reason = "RocksDB's threads share it as well")]
// SAFETY: what it points to is shared between threads by RocksDB, and locks by itself.
unsafe impl Send for MergePace {}

#[expect(unsafe_code, reason = "RocksDB's threads share it as well")]
// SAFETY: as for `Send`.
unsafe impl Sync for MergePace {}

#[expect(unsafe_code, reason = "C++ has them")]
// SAFETY: as `limiter.cc` has them, which `build.rs` links.
unsafe extern "C" {
    fn trilith_merge_limiter_new(rate: i64) -> *mut ffi::rocksdb_ratelimiter_t;
    fn trilith_merge_limiter_set(limiter: *mut ffi::rocksdb_ratelimiter_t, rate: i64);
    fn trilith_merge_limiter_through(limiter: *const ffi::rocksdb_ratelimiter_t) -> i64;
}

/// A rate that RocksDB takes.
fn bounded(rate: u64) -> i64 {
    i64::try_from(rate.clamp(1, MergePace::RATE_MAX)).expect("it is far below")
}

#[cfg(test)]
mod tests {
    use rocksdb::DB;

    use super::*;

    /// Opens a database, fills it, and merges all of it.
    fn merge(pace: &MergePace) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_compression_type(rocksdb::DBCompressionType::None);
        pace.install(&mut options);
        let db = DB::open(&options, directory.path()).expect("open");
        for round in 0..2 {
            for key in 0..KEYS {
                db.put(u32::to_be_bytes(key), [round; VALUE]).expect("put");
            }
            db.flush().expect("flush");
        }
        db.compact_range::<&[u8], &[u8]>(None, None);
    }

    const KEYS: u32 = 1_000;
    const VALUE: usize = 1_000;

    #[test]
    fn merges_count_and_flushes_do_not() {
        let pace = MergePace::new(20_000_000);
        merge(&pace);
        // A megabyte is merged, and two are flushed.
        let written = pace.written();
        assert!((1_000_000..1_500_000).contains(&written), "{written}");
    }

    #[test]
    fn the_bound_is_changed_while_the_database_is_open() {
        let pace = MergePace::new(1);
        pace.set(u64::MAX);
        merge(&pace);
        assert!(pace.written() > 1_000_000);
    }
}
