//! How RocksDB is tuned, and why each figure is what it is.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, Env,
    FlushOptions, Options, WriteOptions,
};

use super::notices::Notices;
use crate::storage::{Family, StorageError};

/// What an operator may change about the state. The defaults keep memory modest: it is a promise
/// that it does not grow with the number of keys.
#[derive(Clone, Debug)]
pub struct BackendOptions {
    /// Uncompressed blocks, indexes and filters kept in memory, bytes.
    pub block_cache_bytes: usize,
    /// Records not flushed yet, over all families, bytes; RocksDB flushes by itself beyond it.
    /// Small quotas want it small, since `dbSize` counts unflushed records.
    pub write_buffer_bytes: usize,
    /// Threads that flush and compact.
    pub background_jobs: i32,
    /// Tables that a family has flushed when they are merged into one level: fewer make reads
    /// quicker, more make writes cheaper.
    pub fresh_tables: i32,
    /// The same in bytes, of `revision` and `current`.
    pub fresh_bytes: u64,
}

impl BackendOptions {
    /// The defaults, with less in memory where `quota_bytes` is small.
    pub fn within(quota_bytes: Option<u64>) -> Self {
        let defaults = Self::default();
        let quota = usize::try_from(quota_bytes.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        Self {
            write_buffer_bytes: (quota / 4).clamp(WRITE_BUFFER_MIN, defaults.write_buffer_bytes),
            ..defaults
        }
    }

    /// For a state that is filled in one go, and opened with others of these options afterwards:
    /// what is filled is hardly merged meanwhile, which would be half of the work.
    pub fn to_fill() -> Self {
        Self {
            write_buffer_bytes: 128 << 20,
            fresh_tables: FILLED_TABLES,
            fresh_bytes: u64::MAX,
            ..Self::default()
        }
    }
}

/// Reads look into each of them; with eight a get costs a fifth more, and a list two fifths.
pub(super) const FRESH_TABLES: i32 = 4;

/// Tables of half a write buffer, so 2.5 GB of `current`, which are merged once somebody serves
/// them. Each is looked into by every read until then.
const FILLED_TABLES: i32 = 40;

/// Below this RocksDB would flush after every few puts.
const WRITE_BUFFER_MIN: usize = 1 << 20;

impl Default for BackendOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 48 << 20,
            write_buffer_bytes: 32 << 20,
            background_jobs: 2,
            fresh_tables: FRESH_TABLES,
            fresh_bytes: 128 << 20,
        }
    }
}

/// Starts the threads that merge tables: they belong to the process, and take the priority of the
/// thread that starts them. Opening the database would otherwise start them with its own.
pub(super) fn start_merging(options: &BackendOptions) -> Result<(), StorageError> {
    let mut environment =
        Env::new().map_err(|error| StorageError::database("reach RocksDB's threads", &error))?;
    environment.set_background_threads(options.background_jobs);
    Ok(())
}

pub(super) fn database(options: &BackendOptions, notices: &Notices) -> Options {
    let mut db = Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    // The raft log is the only log. Without the WAL only an atomic flush keeps the families
    // at one and the same batch.
    db.set_atomic_flush(true);
    db.set_paranoid_checks(true);
    db.set_db_write_buffer_size(options.write_buffer_bytes);
    db.set_max_background_jobs(options.background_jobs);
    // One thread applies; a concurrent memtable would only add atomics to each insert.
    db.set_allow_concurrent_memtable_write(false);
    db.set_enable_write_thread_adaptive_yield(false);
    // Keeping every table open would make memory grow with the database.
    db.set_max_open_files(MAX_OPEN_FILES);
    // The directory is walked once at start otherwise, which costs seconds on large states.
    db.set_skip_stats_update_on_db_open(true);
    db.set_bytes_per_sync(1 << 20);
    db.set_info_logger(notices.logger());
    db.set_stats_dump_period_sec(0);
    db.set_stats_persist_period_sec(0);
    db.set_max_manifest_file_size(16 << 20);
    db.set_manifest_preallocation_size(64 << 10);
    db
}

pub(super) fn families(options: &BackendOptions) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(options.block_cache_bytes);
    Family::ALL
        .iter()
        .map(|&family| ColumnFamilyDescriptor::new(family.name(), of(family, &cache, options)))
        .collect()
}

/// Of tables that are written beside the database, to be taken up by it.
pub(super) fn tables(family: Family) -> Options {
    let nothing_is_read = Cache::new_lru_cache(0);
    of(family, &nothing_is_read, &BackendOptions::default())
}

fn of(family: Family, cache: &Cache, options: &BackendOptions) -> Options {
    let mut of = Options::default();
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_format_version(6);
    // Indexes and filters live in the cache, cut in pieces, so that they too are bounded.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(4 << 10);
    table.set_cache_index_and_filter_blocks(true);
    table.set_cache_index_and_filter_blocks_with_high_priority(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_pin_top_level_index_and_filter(true);
    of.set_compression_type(DBCompressionType::Lz4);
    of.set_max_write_buffer_number(4);
    of.set_level_zero_file_num_compaction_trigger(options.fresh_tables);
    // Above what a state has that was just filled: its first writes would be held up otherwise.
    of.set_level_zero_slowdown_writes_trigger(FILLED_TABLES + FILLED_TABLES / 4);
    of.set_level_zero_stop_writes_trigger(FILLED_TABLES + FILLED_TABLES / 2);
    match family {
        Family::Revision | Family::Current => {
            table.set_block_size(block_bytes(family));
            of.set_write_buffer_size(options.write_buffer_bytes / 2);
            of.set_target_file_size_base(TABLE_BYTES);
            of.set_max_bytes_for_level_base(options.fresh_bytes);
            of.set_max_compaction_bytes(MAX_COMPACTION_BYTES);
            // A value this large is cheaper to leave in place than to rewrite at every level.
            of.set_enable_blob_files(true);
            of.set_min_blob_size(MIN_BLOB_BYTES);
            of.set_blob_file_size(64 << 20);
            of.set_blob_compression_type(DBCompressionType::Lz4);
            of.set_enable_blob_gc(true);
            of.set_blob_gc_age_cutoff(BLOB_AGE_CUTOFF.parse().expect("the constant is a number"));
            of.set_blob_gc_force_threshold(0.5);
        }
        Family::Old => {
            table.set_block_size(8 << 10);
            of.set_write_buffer_size(options.write_buffer_bytes / 4);
        }
        _ => {
            table.set_block_size(4 << 10);
            of.set_write_buffer_size((options.write_buffer_bytes / 8).min(4 << 20));
        }
    }
    if family == Family::Current {
        // Creates ask for keys that do not exist: the filters spare them every level, and every
        // read of a key that is not in the memtable the walk through it.
        table.set_bloom_filter(10.0, false);
        of.set_memtable_whole_key_filtering(true);
        of.set_memtable_prefix_bloom_ratio(0.02);
    }
    of.set_block_based_table_factory(&table);
    of
}

/// `revision` is read in long runs. `current` is also read at single keys, once by every put: there
/// a smaller block is less to read and to decompress. Of 200,000 keys of 256 bytes, with blocks of
/// 16, 8 and 4 KiB: overwrite at random 10.5, 9.7 and 7.9 us on the applying thread, get at random
/// 6.0, 4.6 and 4.1 us, list 0.25, 0.28 and 0.34 us a key; 3 % more space.
fn block_bytes(family: Family) -> usize {
    match family {
        Family::Current => 4 << 10,
        _ => 16 << 10,
    }
}

pub(super) fn write() -> WriteOptions {
    let mut write = WriteOptions::default();
    write.disable_wal(true);
    write
}

pub(super) fn flush() -> FlushOptions {
    let mut flush = FlushOptions::default();
    flush.set_wait(true);
    flush
}

/// Size of a table of `revision` or `current` once it is merged.
pub(super) const TABLE_BYTES: u64 = 32 << 20;

/// About how much is merged in one go. RocksDB ends a table where those below it reach this size:
/// with the default of 25 tables a new table of few keys covers a quarter of a large state, and
/// whatever takes it down a level rewrites all of that.
const MAX_COMPACTION_BYTES: u64 = 96 << 20;

/// 512 tables of 32 MiB are 16 GiB open at once; beyond that they are opened on demand.
const MAX_OPEN_FILES: i32 = 512;

/// The older half of the blob files is looked through in passing; a defragmentation takes all.
/// Text, since options of an open database are set as text.
pub(super) const BLOB_AGE_CUTOFF: &str = "0.5";

/// Below this a value is cheaper inside the tables, where lists read it in passing.
const MIN_BLOB_BYTES: u64 = 16 << 10;
