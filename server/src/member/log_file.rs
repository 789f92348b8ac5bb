//! The log's files: filled before they are written, fatal when they cannot be synced.
//!
//! raft-engine writes through this file system of ours, for three reasons:
//!
//! - It asks for space 2 MiB ahead, and by default gets it from `fallocate`. fdatasync of such
//!   space still pays for the file system's journal at every write. Zeros written ahead make later
//!   writes overwrite blocks that are there, and fdatasync then costs one write to the device.
//!   Recycled files are full from the start.
//! - A failed fsync must end the process with a text that says which file it was.
//! - Opening a log cuts a torn tail off. The cut is put off until the log is known to be good, so
//!   that one that is refused for missing entries lies there as it was found. It must then not be
//!   put off any longer: the engine may go on in a new file, and only in the last one does it
//!   tolerate a torn tail.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use raft_engine::env::{FileSystem, Handle, Permission, WriteExt};

use super::fatal::fatal;
use super::log_damage::has_whole_batch;

const FILE_MODE: u32 = 0o600;

/// Zeros are written in pieces of this size.
const FILL_BYTES: usize = 128 * 1024;
static ZEROS: [u8; FILL_BYTES] = [0; FILL_BYTES];

/// Means that a file ends where the system says.
const NOT_CUT: u64 = u64::MAX;

/// Opens the log's files.
pub(crate) struct LogFiles {
    /// Whether files are synced: false only under `--unsafe-no-fsync`.
    fsync: bool,
    /// Files that were cut while the log was opened; at most one in each of the engine's queues.
    cuts: Arc<Mutex<Vec<Arc<Cuttable>>>>,
}

/// One file.
pub(crate) struct LogFile {
    cuttable: Arc<Cuttable>,
    path: PathBuf,
    fsync: bool,
    cuts: Arc<Mutex<Vec<Arc<Cuttable>>>>,
}

/// A file whose cut may be put off.
struct Cuttable {
    file: File,
    /// Where the file is to be cut, or [`NOT_CUT`].
    cut: AtomicU64,
}

/// A place in a file.
pub(crate) struct Cursor {
    file: Arc<LogFile>,
    offset: u64,
}

impl FileSystem for LogFiles {
    type Handle = LogFile;
    type Reader = Cursor;
    type Writer = Cursor;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<LogFile> {
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE);
        self.handle(options.open(&path)?, path.as_ref())
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<LogFile> {
        let write = permission == Permission::ReadWrite;
        self.handle(
            File::options().read(true).write(write).open(&path)?,
            path.as_ref(),
        )
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn new_reader(&self, file: Arc<LogFile>) -> io::Result<Cursor> {
        Ok(Cursor { file, offset: 0 })
    }

    fn new_writer(&self, file: Arc<LogFile>) -> io::Result<Cursor> {
        Ok(Cursor { file, offset: 0 })
    }
}

impl LogFiles {
    /// `fsync` is false only under `--unsafe-no-fsync`.
    pub(crate) fn new(fsync: bool) -> Self {
        Self {
            fsync,
            cuts: Arc::default(),
        }
    }

    /// Carries out the cuts that opening the log has put off.
    ///
    /// # Errors
    ///
    /// When a file cannot be cut: one that is not the last is opened for reading only.
    pub(crate) fn carry_out_cuts(&self) -> io::Result<()> {
        for file in self.cuts.lock().drain(..) {
            file.carry_out_cut()?;
            if self.fsync {
                file.file.sync_data()?;
            }
        }
        Ok(())
    }

    fn handle(&self, file: File, path: &Path) -> io::Result<LogFile> {
        let cut = AtomicU64::new(NOT_CUT);
        Ok(LogFile {
            cuttable: Arc::new(Cuttable { file, cut }),
            path: path.to_path_buf(),
            fsync: self.fsync,
            cuts: self.cuts.clone(),
        })
    }
}

impl Handle for LogFile {
    /// Called only when the log is opened and has a tail that cannot be read.
    fn truncate(&self, offset: usize) -> io::Result<()> {
        self.refuse_damage(offset)?;
        let (path, found) = (self.path.display().to_string(), self.file_size()?);
        tracing::info!(path, offset, found, "the log ends before its file does");
        self.cuttable.cut.store(offset as u64, Ordering::Relaxed);
        self.cuts.lock().push(self.cuttable.clone());
        Ok(())
    }

    fn file_size(&self) -> io::Result<usize> {
        let size = self
            .cuttable
            .file
            .metadata()?
            .len()
            .min(self.cuttable.cut.load(Ordering::Relaxed));
        usize::try_from(size).map_err(io::Error::other)
    }

    fn sync(&self) -> io::Result<()> {
        if !self.fsync || self.cuttable.cut.load(Ordering::Relaxed) != NOT_CUT {
            return Ok(());
        }
        if let Err(error) = self.cuttable.file.sync_data() {
            fatal(&format!(
                "cannot sync the raft log {}: {error}",
                self.path.display()
            ));
        }
        Ok(())
    }
}

impl LogFile {
    /// Fails if what cannot be read at `offset` was not torn by a crash. Unless files are synced,
    /// that cannot be told.
    fn refuse_damage(&self, offset: usize) -> io::Result<()> {
        // Only appended files are synced write by write.
        let name = self.path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".raftlog")?.parse::<u32>().ok());
        let Some(number) = number.filter(|_| self.fsync) else {
            return Ok(());
        };
        let mut tail = vec![0; self.file_size()?.saturating_sub(offset)];
        self.cuttable.file.read_exact_at(&mut tail, offset as u64)?;
        if has_whole_batch(&tail, number) {
            let path = self.path.display();
            let text = format!("{path} is damaged at byte {offset}, before entries that are whole");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(())
    }
}

impl Cuttable {
    /// Carries out a cut that was put off. What lay behind it must not be found behind new
    /// batches.
    fn carry_out_cut(&self) -> io::Result<()> {
        let cut = self.cut.load(Ordering::Relaxed);
        if cut != NOT_CUT {
            self.file.set_len(cut)?;
            self.cut.store(NOT_CUT, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.cuttable.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Write for Cursor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.cuttable.carry_out_cut()?;
        let written = self.file.cuttable.file.write_at(bytes, self.offset)?;
        self.offset += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let offset = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
            SeekFrom::End(by) => (self.file.file_size()? as u64).checked_add_signed(by),
        };
        self.offset = offset.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.offset)
    }
}

impl WriteExt for Cursor {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        self.file.cuttable.carry_out_cut()?;
        self.file.cuttable.file.set_len(offset as u64)?;
        self.offset = offset as u64;
        Ok(())
    }

    fn allocate(&mut self, offset: usize, size: usize) -> io::Result<()> {
        self.file.cuttable.carry_out_cut()?;
        let end = (offset + size) as u64;
        let mut at = (offset as u64).max(self.file.cuttable.file.metadata()?.len());
        while at < end {
            let piece = ZEROS
                .len()
                .min(usize::try_from(end - at).unwrap_or(usize::MAX));
            self.file.cuttable.file.write_all_at(&ZEROS[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }
}
