//! Writes a file from its first byte to its last, in two walks over the same sorted input.
//!
//! The meta pages come first and name pages that come last. So the first walk, with a [`Measure`],
//! looks at lengths only and finds out how many pages there are; the second, with a [`Writer`],
//! writes them. Neither holds more than one page of each level of the tree.

use std::io::{self, Sink as NoOutput, Write};

use crate::error::shown;
use crate::in_order::Largest;
use crate::meta::{Meta, PAGE_SIZES};
use crate::page::{BUCKET_BYTES, BUCKET_FLAG};
use crate::tree::{PageError, Pages, Tree, TreeRoot};

/// Takes buckets in the order of their names, and the pairs of each in the order of their keys.
pub trait Sink {
    /// Begins a bucket; its name is above those of all buckets before.
    fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError>;
    /// Adds a pair to the bucket begun last; its key is above those of all pairs before.
    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError>;
}

/// Finds out what a file will look like, without writing it.
#[derive(Debug)]
pub struct Measure {
    body: Body<NoOutput>,
}

/// What a [`Measure`] found out: the size of a file and where its tree begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    meta: Meta,
    /// None if no bucket has pages of its own.
    largest: Option<Largest>,
}

/// Writes a file as it was measured.
#[derive(Debug)]
pub struct Writer<W> {
    body: Body<W>,
    plan: Plan,
}

/// Why a file cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The output did not take it.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No system has such pages.
    #[error("a page size of {0} is not a power of two between 512 and 65536")]
    PageSize(u32),
    /// bbolt has no empty names and keys.
    #[error("bucket {0:?}: a name or key is empty")]
    EmptyKey(String),
    /// Longer than bbolt takes.
    #[error("bucket {bucket:?}: a key of {bytes} bytes; bbolt takes at most {KEY_BYTES_MAX}")]
    KeyTooLong {
        /// Where.
        bucket: String,
        /// Its length.
        bytes: usize,
    },
    /// Longer than bbolt takes.
    #[error("bucket {bucket:?}: a value of {bytes} bytes; bbolt takes at most {VALUE_BYTES_MAX}")]
    ValueTooLong {
        /// Where.
        bucket: String,
        /// Its length.
        bytes: usize,
    },
    /// The input is not sorted.
    #[error("bucket {bucket:?}: {key:?} is not above the one before it")]
    Order {
        /// Where.
        bucket: String,
        /// The name or key.
        key: String,
    },
    /// A pair before the first bucket.
    #[error("there is no bucket for a pair")]
    NoBucket,
    /// The second walk is not over what was measured.
    #[error("what is written is not what was measured")]
    Changed,
}

impl Measure {
    /// For a file with pages of this size.
    pub fn new(page_size: u32) -> Result<Self, WriteError> {
        if !page_size.is_power_of_two() || !PAGE_SIZES.contains(&page_size) {
            return Err(WriteError::PageSize(page_size));
        }
        let body = Body::new(page_size, u64::MAX / u64::from(page_size), None);
        Ok(Self { body })
    }

    /// What was found out.
    pub fn finish(self) -> Result<Plan, WriteError> {
        let page_size = self.body.page_size;
        let End {
            root,
            pages,
            largest,
            ..
        } = self.body.finish()?;
        let meta = Meta {
            page_size,
            root,
            freelist: None,
            pages,
            transaction: FIRST_TRANSACTION,
        };
        Ok(Plan { meta, largest })
    }
}

impl Plan {
    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.meta.pages * u64::from(self.meta.page_size)
    }
}

impl<W: Write> Writer<W> {
    /// Writes the meta pages. Each page is a few writes of its parts, so `out` should buffer.
    pub fn new(plan: Plan, mut out: W) -> Result<Self, WriteError> {
        let (page_size, pages) = (plan.meta.page_size, plan.meta.pages);
        // Two transactions with the same state: bbolt uses the newer and overwrites the older.
        for index in 0..META_PAGES {
            let mut meta = plan.meta;
            meta.transaction = FIRST_TRANSACTION + index;
            let mut page = meta.encode(index).to_vec();
            if index == 0
                && let Some(largest) = &plan.largest
            {
                // bbolt looks at nothing behind the meta. Whoever takes the file while it comes
                // learns from this that it comes in order.
                page.extend(largest.encode(page_size as usize).unwrap_or_default());
            }
            page.resize(page_size as usize, 0);
            out.write_all(&page)?;
        }
        let body = Body::new(page_size, pages, Some(out));
        Ok(Self { body, plan })
    }

    /// Writes what is left. The output is complete if this succeeds, and only then.
    pub fn finish(self) -> Result<W, WriteError> {
        let Self { body, plan } = self;
        let end = body.finish()?;
        let is_as_measured = (end.root, end.pages) == (plan.meta.root, plan.meta.pages);
        // While measuring, keys are lengths only; names of buckets are not.
        if !is_as_measured || end.largest != plan.largest {
            return Err(WriteError::Changed);
        }
        let mut out = end.out.expect("a writer has an output");
        out.flush()?;
        Ok(out)
    }
}

impl Sink for Measure {
    fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.body.bucket(name)
    }

    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.body.pair(key, value)
    }
}

impl<W: Write> Sink for Writer<W> {
    fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.body.bucket(name)
    }

    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        self.body.pair(key, value)
    }
}

/// The pages of data, which both walks make alike.
#[derive(Debug)]
struct Body<W> {
    page_size: u32,
    pages: Pages<W>,
    /// The bucket of all buckets.
    root: Tree,
    /// The bucket begun last.
    current: Option<Current>,
    /// Of the buckets before it.
    largest: Option<Largest>,
}

/// What all pages together are.
struct End<W> {
    root: u64,
    pages: u64,
    largest: Option<Largest>,
    out: Option<W>,
}

#[derive(Debug)]
struct Current {
    name: Vec<u8>,
    /// The number of its first page, if it comes to have one.
    first: u64,
    tree: Tree,
    /// The key added last; empty before the first one.
    last_key: Vec<u8>,
}

impl<W: Write> Body<W> {
    fn new(page_size: u32, end: u64, out: Option<W>) -> Self {
        let size = page_size as usize;
        Self {
            page_size,
            pages: Pages::new(size, META_PAGES, end, out),
            root: Tree::new(size),
            current: None,
            largest: None,
        }
    }

    fn bucket(&mut self, name: &[u8]) -> Result<(), WriteError> {
        let last = self.current.as_ref().map(|current| &current.name[..]);
        check_key(b"", last.unwrap_or_default(), name)?;
        self.close_bucket()?;
        self.current = Some(Current {
            name: name.to_vec(),
            first: self.pages.next(),
            tree: Tree::new(self.page_size as usize),
            last_key: Vec::new(),
        });
        Ok(())
    }

    fn pair(&mut self, key: &[u8], value: &[u8]) -> Result<(), WriteError> {
        let current = self.current.as_mut().ok_or(WriteError::NoBucket)?;
        check_key(&current.name, &current.last_key, key)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(WriteError::ValueTooLong {
                bucket: shown(&current.name),
                bytes: value.len(),
            });
        }
        let (key_part, value) = (self.pages.part(key), self.pages.part(value));
        current.tree.push(&mut self.pages, key_part, value, 0)?;
        current.last_key.clear();
        current.last_key.extend_from_slice(key);
        Ok(())
    }

    /// Writes the rest of the bucket begun last and makes its entry in the bucket of all buckets.
    fn close_bucket(&mut self) -> Result<(), WriteError> {
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        let Current {
            name, first, tree, ..
        } = current;
        // Root page and sequence, which nothing counts; then the page itself if the root is 0.
        let mut entry = vec![0; BUCKET_BYTES];
        match tree.finish(&mut self.pages)? {
            TreeRoot::Page(root) => {
                entry[..8].copy_from_slice(&root.to_le_bytes());
                let is_larger = |other: &Largest| root - first > other.root - other.first;
                if self.largest.as_ref().is_none_or(is_larger) {
                    let name = name.clone();
                    self.largest = Some(Largest { name, first, root });
                }
            }
            TreeRoot::Inline(node) => self.pages.write_inline(&node, &mut entry)?,
        }
        let (name, entry) = (self.pages.part(&name), self.pages.part(&entry));
        self.root.push(&mut self.pages, name, entry, BUCKET_FLAG)?;
        Ok(())
    }

    fn finish(mut self) -> Result<End<W>, WriteError> {
        self.close_bucket()?;
        let root = self.root.finish_page(&mut self.pages)?;
        Ok(End {
            root,
            pages: self.pages.next(),
            largest: self.largest,
            out: self.pages.into_out(),
        })
    }
}

fn check_key(bucket: &[u8], last: &[u8], key: &[u8]) -> Result<(), WriteError> {
    if key.is_empty() {
        return Err(WriteError::EmptyKey(shown(bucket)));
    }
    if key.len() > KEY_BYTES_MAX {
        let (bucket, bytes) = (shown(bucket), key.len());
        return Err(WriteError::KeyTooLong { bucket, bytes });
    }
    // Every key is above the empty one that stands for none.
    if key <= last {
        let (bucket, key) = (shown(bucket), shown(key));
        return Err(WriteError::Order { bucket, key });
    }
    Ok(())
}

impl From<PageError> for WriteError {
    fn from(error: PageError) -> Self {
        match error {
            PageError::Io(error) => Self::Io(error),
            PageError::TooMany => Self::Changed,
        }
    }
}

/// bbolt's bound of a key.
const KEY_BYTES_MAX: usize = 32_768;

/// bbolt's bound of a value.
const VALUE_BYTES_MAX: usize = (1 << 31) - 2;

/// Pages before those of data.
const META_PAGES: u64 = 2;

/// As in a file that bbolt has just made.
const FIRST_TRANSACTION: u64 = 0;
