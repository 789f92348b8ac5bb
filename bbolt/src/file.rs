//! An open file: its meta page, and pages by their number.

use std::fmt;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::bucket::{Bucket, Entries, Entry};
use crate::error::{Error, MetaProblem, Problem, shown};
use crate::meta::{META_BYTES, Meta, PAGE_SIZES};
use crate::page::{HEADER_BYTES, Header, Kind, Page};

/// A bbolt file that is open for reading. Cheap to clone, and shared by threads.
#[derive(Clone)]
pub struct File {
    inner: Arc<Inner>,
}

struct Inner {
    path: Arc<Path>,
    file: fs::File,
    meta: Meta,
    /// Page `n` is kept, if at all, at `n` modulo the length. Invariant: none is larger than
    /// [`CACHED_PAGE_BYTES_MAX`].
    cache: Mutex<Vec<Option<Page>>>,
}

impl File {
    /// Opens a file and checks its meta pages. What follows the last page (the checksum of a
    /// snapshot, room that a live file has in advance) is not looked at.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path: Arc<Path> = path.as_ref().into();
        let fail = |problem| Error::new(&path, None, problem);
        let file = fs::File::open(&path).map_err(|error| fail(error.into()))?;
        let metadata = file.metadata().map_err(|error| fail(error.into()))?;
        let file_bytes = metadata.len();
        let meta = newer_meta(&file, file_bytes).map_err(fail)?;
        let page_bytes = meta.pages * u64::from(meta.page_size);
        if file_bytes < page_bytes {
            let pages = meta.pages;
            return Err(fail(Problem::Cut {
                file_bytes,
                pages,
                page_bytes,
            }));
        }
        let cache = Mutex::new(vec![None; CACHED_PAGES]);
        let inner = Inner {
            path,
            file,
            meta,
            cache,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Bytes of one page.
    pub fn page_size(&self) -> u32 {
        self.meta().page_size
    }

    /// Bytes of all pages: what bbolt calls the size of the database.
    pub fn size(&self) -> u64 {
        self.meta().pages * u64::from(self.meta().page_size)
    }

    /// Every bucket with its name, in order.
    pub fn buckets(&self) -> Buckets {
        Buckets {
            entries: self.root().entries(),
        }
    }

    /// A bucket by its name.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, Error> {
        self.root().bucket(name)
    }

    /// The bucket of all buckets.
    pub(crate) fn root(&self) -> Bucket {
        Bucket::at(self.clone(), self.meta().root)
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.inner.meta
    }

    pub(crate) fn error(&self, page: u64, problem: Problem) -> Error {
        Error::new(&self.inner.path, Some(page), problem)
    }

    /// A page of data, checked.
    pub(crate) fn page(&self, id: u64) -> Result<Page, Error> {
        let slot = usize::try_from(id % CACHED_PAGES as u64).expect("below a usize");
        let cached = self.inner.cache.lock()[slot].clone();
        if let Some(page) = cached.filter(|page| page.id() == id) {
            return Ok(page);
        }
        let page = self.load(id).map_err(|problem| self.error(id, problem))?;
        if page.bytes_len() <= CACHED_PAGE_BYTES_MAX {
            self.inner.cache.lock()[slot] = Some(page.clone());
        }
        Ok(page)
    }

    fn load(&self, id: u64) -> Result<Page, Problem> {
        let (header, mut bytes) = self.first_of_run(id)?;
        let max = run_bytes_max(Kind::of(header.flags)?);
        let run_bytes = (u64::from(header.overflow) + 1) * u64::from(self.page_size());
        if run_bytes > max {
            let bytes = run_bytes;
            return Err(Problem::TooLarge { bytes, max });
        }
        let first_bytes = bytes.len();
        bytes.resize(
            usize::try_from(run_bytes).expect("below the bound just checked"),
            0,
        );
        self.read_at(id, first_bytes, &mut bytes[first_bytes..])?;
        Page::parse(Bytes::from(bytes))
    }

    /// The header of a page that is where it says, and the first page of what it goes on over.
    pub(crate) fn first_of_run(&self, id: u64) -> Result<(Header, Vec<u8>), Problem> {
        let last = self.meta().pages - 1;
        if id < 2 || id > last {
            return Err(Problem::OutOfBounds { last });
        }
        let mut bytes = vec![0; self.page_size() as usize];
        self.read_at(id, 0, &mut bytes)?;
        let header = bytes.first_chunk::<HEADER_BYTES>();
        let header = Header::parse(header.expect("a page is larger than its header"));
        if header.id != id {
            return Err(Problem::WrongId(header.id));
        }
        if u64::from(header.overflow) > last - id {
            let overflow = header.overflow;
            return Err(Problem::Overflow { overflow, last });
        }
        Ok((header, bytes))
    }

    /// Reads from `skip` bytes after the beginning of a page, which is below the last one.
    pub(crate) fn read_at(&self, id: u64, skip: usize, into: &mut [u8]) -> Result<(), Problem> {
        let at = id * u64::from(self.page_size()) + skip as u64;
        Ok(self.inner.file.read_exact_at(into, at)?)
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("path", &self.inner.path)
            .field("meta", &self.inner.meta)
            .finish_non_exhaustive()
    }
}

/// Walks over all buckets of a file. After an error it is at its end.
#[derive(Debug)]
pub struct Buckets {
    entries: Entries,
}

impl Iterator for Buckets {
    type Item = Result<(Bytes, Bucket), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.entries.next()? {
            Ok(Entry::Bucket(name, bucket)) => Ok((name, bucket)),
            Ok(Entry::Pair(key, _)) => {
                Err(self.entries.fail(Problem::UnexpectedValue(shown(&key))))
            }
            Err(error) => Err(error),
        })
    }
}

/// The newer of the two meta pages that are sound.
fn newer_meta(file: &fs::File, file_bytes: u64) -> Result<Meta, Problem> {
    type Found = Result<Meta, MetaProblem>;
    let read = |at: u64, index| -> Result<Found, Problem> {
        let mut bytes = [0; META_BYTES];
        if file_bytes.saturating_sub(at) < META_BYTES as u64 {
            return Ok(Err(MetaProblem::Short));
        }
        file.read_exact_at(&mut bytes, at)?;
        Ok(Meta::parse(&bytes, index))
    };
    // The second one is where the first page of its own size ends.
    let second_of = |page_size: u32| -> Result<Found, Problem> {
        Ok(read(page_size.into(), 1)?.and_then(|meta| {
            let is_here = meta.page_size == page_size;
            is_here
                .then_some(meta)
                .ok_or(MetaProblem::PageSize(meta.page_size))
        }))
    };
    let first = read(0, 0)?;
    let mut second = second_of(first.map_or(USUAL_PAGE_SIZE, |meta| meta.page_size))?;
    let mut page_size = *PAGE_SIZES.start();
    while first.is_err() && second.is_err() && page_size <= *PAGE_SIZES.end() {
        second = second_of(page_size)?.or(second);
        page_size *= 2;
    }
    match (first, second) {
        (Ok(first), Ok(second)) if second.transaction > first.transaction => Ok(second),
        (Ok(meta), _) | (Err(_), Ok(meta)) => Ok(meta),
        (Err(first), Err(second)) => Err(Problem::NoMeta(first, second)),
    }
}

/// What a page may take with all that it goes on over.
pub(crate) fn run_bytes_max(kind: Kind) -> u64 {
    match kind {
        Kind::Leaf => LEAF_BYTES_MAX,
        Kind::Branch => BRANCH_BYTES_MAX,
    }
}

/// Of nearly all files.
const USUAL_PAGE_SIZE: u32 = 4096;

/// The branches of a large tree; 1 MiB of pages of 4 KiB.
const CACHED_PAGES: usize = 256;

/// The largest page of any system. What goes on over more is one large value, read once.
const CACHED_PAGE_BYTES_MAX: usize = 64 << 10;

/// bbolt leaves up to four pairs together however large they are.
const LEAF_BYTES_MAX: u64 = 512 << 20;

/// Keys have at most 32 KiB, and up to four are left together.
const BRANCH_BYTES_MAX: u64 = 1 << 20;
