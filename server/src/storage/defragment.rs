//! Rewrites the tables without what was removed, a slice at a time, while reads and writes go on.

use std::ops::ControlFlow;

use rocksdb::{BottommostLevelCompaction, CompactOptions, LiveFile};

use super::{Backend, Family, StorageError, options};
use crate::progress::{Audience, Progress};

/// Tables of the lowest level rewritten in one go; a stop waits for one slice at most. The levels
/// above are rewritten down into it, and the upper ones of them at every slice, since each of their
/// tables covers much of the keys: smaller slices would write several times as much in all.
const SLICE_BYTES: u64 = 128 << 20;

/// A range of one family's keys, ends included, and about how much is to be rewritten for it.
#[derive(Debug, PartialEq, Eq)]
struct Slice {
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
    bytes: u64,
}

impl Backend {
    /// Flushes, then rewrites the tables so that removed rows give their space back. Reads and
    /// writes go on. Rows that a view still shows stay. Ends early where `go_on` says so; what is
    /// rewritten by then stays so.
    ///
    /// # Errors
    ///
    /// As [`Backend::flush`].
    pub fn defragment(&self, go_on: &dyn Fn() -> bool) -> Result<ControlFlow<()>, StorageError> {
        self.flush()?;
        for &family in Family::ALL {
            self.collect_blobs_up_to(family, "1.0")?;
        }
        let ended = self.rewrite(go_on);
        for &family in Family::ALL {
            self.collect_blobs_up_to(family, options::BLOB_AGE_CUTOFF)?;
        }
        self.measure();
        self.check()?;
        ended
    }

    fn rewrite(&self, go_on: &dyn Fn() -> bool) -> Result<ControlFlow<()>, StorageError> {
        let files = self
            .db()
            .live_files()
            .map_err(|error| StorageError::database("list the tables", &error))?;
        let mut work = Vec::new();
        for &family in Family::ALL {
            let own = |file: &&LiveFile| file.column_family_name == family.name();
            let blobs = self.blob_bytes(family);
            let slices = slices(files.iter().filter(own).collect(), blobs);
            work.extend(slices.into_iter().map(|slice| (family, slice)));
        }
        let total = work.iter().map(|(_, slice)| slice.bytes).sum();
        let mut progress = Progress::new(Audience::Log, "defragmenting", total);
        let mut how = CompactOptions::default();
        how.set_exclusive_manual_compaction(false);
        how.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        for (family, slice) in work {
            if !go_on() {
                return Ok(ControlFlow::Break(()));
            }
            let (from, to) = (slice.from.as_deref(), slice.to.as_deref());
            self.db()
                .compact_range_cf_opt(self.handle(family), from, to, &how);
            progress.add(usize::try_from(slice.bytes).unwrap_or(usize::MAX));
        }
        progress.finish();
        Ok(ControlFlow::Continue(()))
    }

    /// Lets compactions rewrite blob files that are not younger than this part of them.
    fn collect_blobs_up_to(&self, family: Family, part: &str) -> Result<(), StorageError> {
        if !matches!(family, Family::Revision | Family::Current) {
            return Ok(());
        }
        let cutoff = [("blob_garbage_collection_age_cutoff", part)];
        self.db()
            .set_options_cf(self.handle(family), &cutoff)
            .map_err(|error| StorageError::database("set an option", &error))
    }
}

/// Divides a family's tables into ranges, along the borders of the lowest level's tables. Together
/// the ranges cover all keys, so no table of the levels above is missed.
fn slices(files: Vec<&LiveFile>, blob_bytes: u64) -> Vec<Slice> {
    let table_bytes: u64 = files.iter().map(|file| file.size as u64).sum();
    let all_bytes = u128::from(table_bytes + blob_bytes);
    let Some(lowest) = files.iter().map(|file| file.level).max() else {
        return Vec::new();
    };
    let mut lowest: Vec<_> = files.iter().filter(|file| file.level == lowest).collect();
    lowest.sort_by(|one, other| one.start_key.cmp(&other.start_key));
    let lowest_bytes: u128 = lowest.iter().map(|file| file.size as u128).sum();
    let mut slices = Vec::new();
    let mut from = None;
    let mut bytes = 0;
    for file in lowest {
        // Tables above and blobs are taken to be spread evenly.
        let share = file.size as u128 * all_bytes / lowest_bytes.max(1);
        bytes += u64::try_from(share).unwrap_or(u64::MAX);
        // Tables of level 0 overlap: a border in one of them is no border.
        if bytes >= SLICE_BYTES && file.level > 0 && file.end_key.is_some() {
            let to = file.end_key.clone();
            let next = to.clone().map(|mut key| {
                key.push(0);
                key
            });
            slices.push(Slice { from, to, bytes });
            (from, bytes) = (next, 0);
        }
    }
    let to = None;
    slices.push(Slice { from, to, bytes });
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(level: i32, from: &str, to: &str, size: u64) -> LiveFile {
        LiveFile {
            column_family_name: String::new(),
            name: String::new(),
            size: usize::try_from(size).expect("small"),
            level,
            start_key: Some(from.into()),
            end_key: Some(to.into()),
            num_entries: 1,
            num_deletions: 0,
        }
    }

    #[test]
    fn slices_cover_every_key_and_all_bytes() {
        let half = SLICE_BYTES / 2;
        let files = [
            file(6, "c", "d", half),
            file(6, "a", "b", half),
            file(6, "e", "f", half),
            file(1, "a", "z", half),
        ];
        let cut = slices(files.iter().collect(), 0);
        let slice = |from: Option<&[u8]>, to: Option<&[u8]>, bytes| Slice {
            from: from.map(Into::into),
            to: to.map(Into::into),
            bytes,
        };
        let third = 4 * half / 3;
        assert_eq!(
            cut,
            [
                slice(None, Some(b"d"), 2 * third),
                slice(Some(b"d\0"), None, third)
            ]
        );
        assert_eq!(slices(Vec::new(), 5), []);
        let above = [file(0, "a", "z", SLICE_BYTES), file(0, "b", "c", half)];
        let whole = slice(None, None, SLICE_BYTES + half);
        assert_eq!(slices(above.iter().collect(), 0), [whole]);
    }
}
