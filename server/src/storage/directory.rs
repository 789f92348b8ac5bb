//! The directory of a state: marked as ours before RocksDB may touch it, and made durable.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    path::Path,
};

use super::StorageError;

/// Checks what lies in `dir` before RocksDB may touch it, and marks an empty one as ours.
pub(super) fn prepare_directory(dir: &Path) -> Result<(), StorageError> {
    if is_marked(dir)? {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(|error| StorageError::directory("create", dir, &error))?;
    let mark = dir.join(FORMAT_FILE);
    let temporary = dir.join(FORMAT_TEMPORARY);
    write_durably(&temporary, format!("{FORMAT_NAME} {FORMAT}\n").as_bytes())
        .and_then(|()| fs::rename(&temporary, &mark))
        .map_err(|error| StorageError::directory("write", &mark, &error))?;
    sync_directory(dir)?;
    match dir.parent() {
        Some(parent) if parent != Path::new("") => sync_directory(parent),
        _ => Ok(()),
    }
}

/// Whether `dir` is marked as a state that this program knows; if not, it is empty or missing.
pub(super) fn is_marked(dir: &Path) -> Result<bool, StorageError> {
    let mark = dir.join(FORMAT_FILE);
    match fs::read_to_string(&mark) {
        Ok(text) => return check_format(dir, &text).map(|()| true),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(StorageError::directory("read", mark, &error)),
    }
    let mut names = match fs::read_dir(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StorageError::directory("list", dir, &error)),
    };
    if names.any(|name| name.is_ok_and(|name| name.file_name() != FORMAT_TEMPORARY)) {
        let reason = format!("it is not empty and has no file {FORMAT_FILE}");
        return Err(StorageError::Foreign {
            path: dir.to_owned(),
            reason,
        });
    }
    Ok(false)
}

fn check_format(dir: &Path, text: &str) -> Result<(), StorageError> {
    let found = text
        .trim_end()
        .strip_prefix(FORMAT_NAME)
        .and_then(|version| version.trim_start().parse::<u32>().ok());
    match found {
        Some(FORMAT) => Ok(()),
        Some(found) => Err(StorageError::FutureFormat {
            path: dir.to_owned(),
            found,
            known: FORMAT,
        }),
        None => Err(StorageError::Foreign {
            path: dir.to_owned(),
            reason: format!("the file {FORMAT_FILE} does not name a format of ours"),
        }),
    }
}

fn write_durably(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

pub(super) fn sync_directory(dir: &Path) -> Result<(), StorageError> {
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| StorageError::directory("sync", dir, &error))
}

/// Names the format of the state; it stands beside RocksDB's own files, so that it can be read
/// before RocksDB opens, and writes, anything.
pub(super) const FORMAT_FILE: &str = "FORMAT";
const FORMAT_TEMPORARY: &str = "FORMAT.tmp";
const FORMAT_NAME: &str = "trilith-state";
/// Counts up with each change that an older program cannot read.
const FORMAT: u32 = 1;
