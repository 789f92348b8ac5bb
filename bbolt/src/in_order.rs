//! Reads a file of a [`Writer`](crate::Writer) while it comes, without keeping it.
//!
//! Such a file says in its first page which bucket has the most pages, and where they are. Every
//! page comes before the one that refers to it. So all that has to be remembered of the pages that
//! came are the ends of each tree that nothing refers to yet, which are a few branches' worth.

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::bucket::{Root, parse_bucket};
use crate::error::{Error, Problem, shown};
use crate::file::run_bytes_max;
use crate::meta::{META_BYTES, Meta, fnv1a};
use crate::page::{HEADER_BYTES, Header, Kind, Page};

/// The bucket with the most pages, as the first page of a file in order names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Largest {
    pub(crate) name: Vec<u8>,
    /// The first of its pages, all of which follow one another.
    pub(crate) first: u64,
    /// The last of them, where its tree begins.
    pub(crate) root: u64,
}

impl Largest {
    /// What stands in the first page behind the meta; none where a name or a page is too long or
    /// too short for that.
    pub(crate) fn encode(&self, page_size: usize) -> Option<Vec<u8>> {
        let length = u8::try_from(self.name.len()).ok()?;
        let mut bytes = MARK.to_vec();
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.extend_from_slice(&self.root.to_le_bytes());
        bytes.push(length);
        bytes.extend_from_slice(&self.name);
        bytes.extend_from_slice(&fnv1a(&bytes).to_le_bytes());
        (META_BYTES + bytes.len() <= page_size).then_some(bytes)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(MARK.len() + 2 * 8 + 1)?;
        let (mark, numbers) = head.split_at(MARK.len());
        let (name, rest) = rest.split_at_checked(usize::from(*head.last()?))?;
        let sum = u64::from_le_bytes(*rest.first_chunk()?);
        if mark != MARK || sum != fnv1a(&bytes[..head.len() + name.len()]) {
            return None;
        }
        Some(Self {
            name: name.to_vec(),
            first: u64::from_le_bytes(*numbers.first_chunk()?),
            root: u64::from_le_bytes(*numbers[8..].first_chunk()?),
        })
    }
}

/// Takes a file from its first byte to its last, and gives out its pages once they are whole.
///
/// All that [`File::check`](crate::File::check) finds out of a file has been found out of it when
/// [`InOrder::finish`] succeeds.
#[derive(Debug)]
pub struct InOrder {
    path: Arc<Path>,
    meta: Meta,
    largest: Largest,
    buffer: BytesMut,
    /// The page that `buffer` begins with.
    next: u64,
    /// Trees of pairs that nothing refers to yet, in the order of their leaves.
    trees: Vec<Tree>,
    /// The same of buckets.
    buckets: Vec<Tree>,
    /// Leaves of the largest bucket that were given out.
    given: u64,
    /// Whether the largest bucket was found under its name.
    found: bool,
}

/// A page with all that it refers to.
#[derive(Debug)]
struct Tree {
    root: u64,
    /// The lowest page of it.
    first: u64,
    leaves: u64,
    /// The first and the last key; none in an empty leaf.
    keys: Option<(Bytes, Bytes)>,
}

/// A page that came, with all that it goes on over.
#[derive(Debug)]
pub enum Arrived {
    /// A leaf of the largest bucket.
    Largest(Leaf),
    /// Any other page, for the place in the file where it begins.
    Other(u64, Bytes),
}

/// Pairs of a bucket, one after the other.
#[derive(Debug)]
pub struct Leaf {
    page: Page,
}

impl Leaf {
    /// Keys with their values, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..self.page.count()).map(|index| (self.page.key(index), self.page.value(index)))
    }
}

impl InOrder {
    /// For a file that begins with `head`, if it is one that comes in order. `path` is what errors
    /// call it.
    ///
    /// `head` has at least [`InOrder::HEAD_BYTES`] bytes, or all that there are; it is not taken.
    pub fn recognize(path: &Path, head: &[u8]) -> Option<Self> {
        let meta = Meta::parse(head, 0).ok()?;
        let largest = Largest::parse(head.get(META_BYTES..)?)?;
        let is_within = 2 <= largest.first && largest.first <= largest.root;
        let is_last = meta.root == meta.pages - 1 && meta.freelist.is_none();
        (is_within && largest.root < meta.root && is_last).then(|| Self {
            path: path.into(),
            meta,
            largest,
            buffer: BytesMut::new(),
            next: 0,
            trees: Vec::new(),
            buckets: Vec::new(),
            given: 0,
            found: false,
        })
    }

    /// What [`InOrder::recognize`] has to see.
    pub const HEAD_BYTES: usize = META_BYTES + MARK.len() + 2 * 8 + 1 + NAME_BYTES_MAX + 8;

    /// The bucket whose leaves are given out.
    pub fn largest(&self) -> &[u8] {
        &self.largest.name
    }

    /// Bytes of all pages.
    pub fn size(&self) -> u64 {
        self.meta.pages * u64::from(self.meta.page_size)
    }

    /// Takes what has come.
    pub fn push(&mut self, bytes: &[u8]) {
        // What follows the last page is not looked at.
        if self.next < self.meta.pages {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next page; `None` until more has come.
    ///
    /// # Errors
    ///
    /// When it is damaged, or not what comes next in order.
    pub fn next_page(&mut self) -> Result<Option<Arrived>, Error> {
        let id = self.next;
        let taken = if id == self.meta.pages {
            Ok(None)
        } else if id < META_PAGES {
            self.take_meta(id)
        } else {
            self.take(id)
        };
        taken.map_err(|problem| Error::new(&self.path, Some(id), problem))
    }

    /// Checks that all has come and is of one piece.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn finish(self) -> Result<(), Error> {
        let at = |page, problem| Err(Error::new(&self.path, page, problem));
        if self.next < self.meta.pages {
            let page_size = u64::from(self.meta.page_size);
            return at(
                None,
                Problem::Cut {
                    file_bytes: self.next * page_size + self.buffer.len() as u64,
                    pages: self.meta.pages,
                    page_bytes: self.size(),
                },
            );
        }
        let mut left = self.trees.iter().chain(&self.buckets);
        if let Some(lost) = left.find(|tree| tree.root != self.meta.root) {
            return at(Some(lost.root), Problem::Lost);
        }
        if !self.found {
            return at(Some(self.largest.root), Problem::Lost);
        }
        Ok(())
    }

    fn take_meta(&mut self, id: u64) -> Result<Option<Arrived>, Problem> {
        let page_size = self.meta.page_size as usize;
        if self.buffer.len() < page_size {
            return Ok(None);
        }
        let meta = Meta::parse(&self.buffer, id);
        let transaction = self.meta.transaction + id;
        // Whoever opens the file reads one of the two, and must find in it what was checked here.
        if meta
            != Ok(Meta {
                transaction,
                ..self.meta
            })
        {
            return Err(Problem::OutOfOrder);
        }
        let bytes = self.buffer.split_to(page_size).freeze();
        self.next = id + 1;
        Ok(Some(Arrived::Other(id * page_size as u64, bytes)))
    }

    fn take(&mut self, id: u64) -> Result<Option<Arrived>, Problem> {
        let Some(header) = self.buffer.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = Header::parse(header);
        if header.id != id {
            return Err(Problem::WrongId(header.id));
        }
        let (overflow, last) = (header.overflow, self.meta.pages - 1);
        if u64::from(overflow) > last - id {
            return Err(Problem::Overflow { overflow, last });
        }
        let page_size = u64::from(self.meta.page_size);
        let bytes = (u64::from(overflow) + 1) * page_size;
        let max = run_bytes_max(Kind::of(header.flags)?);
        if bytes > max {
            return Err(Problem::TooLarge { bytes, max });
        }
        let bytes = usize::try_from(bytes).expect("below the bound just checked");
        if self.buffer.len() < bytes {
            return Ok(None);
        }
        let bytes = self.buffer.split_to(bytes).freeze();
        let page = Page::parse(bytes.clone())?;
        self.next = id + page.run();
        self.plant(&page)?;
        let is_largest = (self.largest.first..=self.largest.root).contains(&id);
        if is_largest && page.kind() == Kind::Leaf {
            if let Some(bucket) = (0..page.count()).find(|index| page.is_bucket(*index)) {
                return Err(Problem::UnexpectedBucket(shown(page.key(bucket))));
            }
            self.given += 1;
            return Ok(Some(Arrived::Largest(Leaf { page })));
        }
        Ok(Some(Arrived::Other(id * page_size, bytes)))
    }

    /// Makes a tree of `page` and what it refers to.
    fn plant(&mut self, page: &Page) -> Result<(), Problem> {
        let mut tree = Tree {
            root: page.id(),
            first: page.id(),
            leaves: 1,
            keys: None,
        };
        // What is kept of a page must not keep all of it.
        let copied = |index| Bytes::copy_from_slice(page.key(index));
        if let Some(last) = page.count().checked_sub(1) {
            tree.keys = Some((copied(0), copied(last)));
        }
        if page.kind() == Kind::Branch {
            return self.plant_branch(page, tree);
        }
        let grove = if (0..page.count()).any(|index| page.is_bucket(index)) {
            self.take_buckets(page)?;
            &mut self.buckets
        } else {
            &mut self.trees
        };
        if grove.len() == TREES_MAX {
            return Err(Problem::OutOfOrder);
        }
        grove.push(tree);
        Ok(())
    }

    /// Puts a branch in the place of its children.
    fn plant_branch(&mut self, page: &Page, mut tree: Tree) -> Result<(), Problem> {
        let children: Vec<u64> = (0..page.count()).map(|index| page.child(index)).collect();
        let grove = [&mut self.trees, &mut self.buckets]
            .into_iter()
            .find_map(|grove| Some((place(grove, &children)?, grove)));
        let (at, grove) = grove.ok_or(Problem::OutOfOrder)?;
        let end = at + children.len();
        let children = &grove[at..end];
        tree.first = children[0].first;
        tree.leaves = children.iter().map(|child| child.leaves).sum();
        for (index, child) in children.iter().enumerate() {
            let (first, last) = child.keys.as_ref().ok_or(Problem::Count(0))?;
            let is_below = index + 1 == children.len() || last[..] < *page.key(index + 1);
            if first[..] < *page.key(index) || !is_below {
                return Err(Problem::Misplaced);
            }
            if let Some(keys) = &mut tree.keys {
                keys.1 = last.clone();
            }
        }
        grove.splice(at..end, [tree]);
        Ok(())
    }

    /// Takes the trees of the buckets that a leaf names.
    fn take_buckets(&mut self, page: &Page) -> Result<(), Problem> {
        let mut named = Vec::new();
        let mut roots = Vec::new();
        for index in (0..page.count()).filter(|index| page.is_bucket(*index)) {
            let name = page.key(index);
            let bad = |problem: Option<_>| problem.unwrap_or(Problem::BadBucket(shown(name)));
            match parse_bucket(&page.value_bytes(index), page.id()).map_err(bad)? {
                Root::Page(root) => {
                    named.push(name);
                    roots.push(root);
                }
                Root::Inline(..) => {}
            }
        }
        if roots.is_empty() {
            return Ok(());
        }
        let at = place(&self.trees, &roots).ok_or(Problem::OutOfOrder)?;
        for (tree, name) in self.trees.drain(at..at + roots.len()).zip(named) {
            let is_largest = tree.root == self.largest.root;
            if is_largest != (name == self.largest.name) {
                return Err(Problem::OutOfOrder);
            }
            if is_largest {
                // All leaves of it, and no others, are among the pages that were given out.
                if (tree.first, tree.leaves) != (self.largest.first, self.given) {
                    return Err(Problem::OutOfOrder);
                }
                self.found = true;
            }
        }
        Ok(())
    }
}

/// Where the trees that begin with these pages stand one after the other, of which there is at
/// least one. Few trees have come since.
fn place(grove: &[Tree], roots: &[u64]) -> Option<usize> {
    let at = grove.iter().rposition(|tree| tree.root == roots[0])?;
    let found = grove[at..].iter().map(|tree| &tree.root);
    found.take(roots.len()).eq(roots).then_some(at)
}

/// Trees that nothing refers to yet, each a few dozen bytes: several levels of the widest branches
/// that a page of 64 KiB has room for.
const TREES_MAX: usize = 1 << 16;

/// What the first page goes on with behind its meta: pages in order, form 1.
const MARK: [u8; 8] = *b"in order";

/// A length of one byte.
const NAME_BYTES_MAX: usize = u8::MAX as usize;

/// Pages before those of data.
const META_PAGES: u64 = 2;

#[cfg(test)]
#[path = "in_order_tests.rs"]
mod tests;
