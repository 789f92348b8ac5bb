//! What the threads that merge tables have written.

use std::fs;

/// The name that RocksDB gives to its threads that merge tables.
const THREAD: &str = "rocksdb:low";

/// Bytes that the threads that merge tables have written to disk since the process began. Zero
/// where the system does not tell.
///
/// RocksDB counts them only with its statistics on, which every request would pay for.
pub(super) fn written() -> u64 {
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return 0;
    };
    threads
        .filter_map(|thread| {
            let path = thread.ok()?.path();
            let name = fs::read_to_string(path.join("comm")).ok()?;
            let counted = fs::read_to_string(path.join("io")).ok()?;
            (name.trim_end() == THREAD).then(|| write_bytes(&counted))?
        })
        .sum()
}

fn write_bytes(counted: &str) -> Option<u64> {
    let line = |line: &str| line.strip_prefix("write_bytes: ")?.parse().ok();
    counted.lines().find_map(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_what_a_thread_has_written() {
        let told = "rchar: 1\nwchar: 2\nread_bytes: 0\nwrite_bytes: 40960\n";
        assert_eq!(write_bytes(told), Some(40960));
        assert_eq!(write_bytes("rchar: 1\n"), None);
        let own = fs::read_to_string("/proc/thread-self/io").expect("Linux counts");
        assert!(write_bytes(&own).is_some(), "{own}");
    }
}
