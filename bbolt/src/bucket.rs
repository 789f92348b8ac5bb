//! Buckets, and the walk over their entries in order.

use bytes::Bytes;

use crate::error::{Error, Problem, shown};
use crate::file::File;
use crate::page::{BUCKET_BYTES, Kind, Page};

/// A tree of keys with values, or with buckets of their own. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    file: File,
    root: Root,
}

#[derive(Clone, Debug)]
pub(crate) enum Root {
    Page(u64),
    /// The bucket is part of an entry in the page of this number.
    Inline(Page, u64),
}

/// What a bucket holds at one key. Keys and values share the memory of the page that they are in:
/// whoever keeps small ones for long copies them.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A key and its value.
    Pair(Bytes, Bytes),
    /// A name and its bucket.
    Bucket(Bytes, Bucket),
}

impl Bucket {
    pub(crate) fn at(file: File, page: u64) -> Self {
        let root = Root::Page(page);
        Self { file, root }
    }

    /// The value of `key`; none if there is nothing or a bucket.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(match self.entries_from(key)?.next().transpose()? {
            Some(Entry::Pair(found, value)) if found == key => Some(value),
            _ => None,
        })
    }

    /// The bucket of that name inside of this one.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Self>, Error> {
        Ok(match self.entries_from(name)?.next().transpose()? {
            Some(Entry::Bucket(found, bucket)) if found == name => Some(bucket),
            _ => None,
        })
    }

    /// Every key with its value, in order. A bucket among them is an error.
    pub fn pairs(&self) -> Pairs {
        let entries = self.entries();
        Pairs { entries }
    }

    /// As [`Bucket::pairs`], from the first key on that is not below `key`.
    pub fn pairs_from(&self, key: &[u8]) -> Result<Pairs, Error> {
        let entries = self.entries_from(key)?;
        Ok(Pairs { entries })
    }

    /// Every entry in order.
    pub fn entries(&self) -> Entries {
        Entries {
            file: self.file.clone(),
            start: Some(self.root.clone()),
            stack: Vec::new(),
        }
    }

    /// Every entry in order, from the first key on that is not below `key`.
    pub fn entries_from(&self, key: &[u8]) -> Result<Entries, Error> {
        self.entries_at(|page| match page.kind() {
            Kind::Leaf => page.below(key),
            // The last child whose keys begin at or before it; it may turn out to end before it.
            Kind::Branch => {
                let below = page.below(key);
                let is_first_of = below < page.count() && page.key(below) == key;
                if is_first_of {
                    below
                } else {
                    below.saturating_sub(1)
                }
            }
        })
    }

    /// The last entry.
    pub fn last(&self) -> Result<Option<Entry>, Error> {
        let mut entries = self.entries_at(|page| page.count().saturating_sub(1))?;
        entries.next().transpose()
    }

    /// A walk that begins where `choose` says on each page on the way down.
    fn entries_at(&self, choose: impl Fn(&Page) -> usize) -> Result<Entries, Error> {
        let mut entries = self.entries();
        entries.enter_root(&mut |_| Ok(()))?;
        while let Some(frame) = entries.stack.last_mut() {
            frame.next = choose(&frame.page);
            if frame.page.kind() == Kind::Leaf {
                break;
            }
            entries.enter_child(&mut |_| Ok(()))?;
        }
        Ok(entries)
    }
}

/// Walks over a bucket's keys and values, which share the memory of their page as those of an
/// [`Entry`] do. After an error it is at its end.
#[derive(Debug)]
pub struct Pairs {
    entries: Entries,
}

impl Iterator for Pairs {
    type Item = Result<(Bytes, Bytes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.entries.next()? {
            Ok(Entry::Pair(key, value)) => Ok((key, value)),
            Ok(Entry::Bucket(name, _)) => {
                let problem = Problem::UnexpectedBucket(shown(&name));
                Err(self.entries.fail(problem))
            }
            Err(error) => Err(error),
        })
    }
}

/// Walks over a bucket's entries. After an error it is at its end.
#[derive(Debug)]
pub struct Entries {
    file: File,
    /// Where to begin, before the first step.
    start: Option<Root>,
    /// The pages from the root to where the walk stands. Invariant: no longer than [`DEPTH_MAX`].
    stack: Vec<Frame>,
}

#[derive(Debug)]
struct Frame {
    page: Page,
    /// The page of the file that it is in.
    id: u64,
    /// The element that comes next.
    next: usize,
    /// Every key is below this one; none if there is no bound.
    upper: Option<Bytes>,
}

impl Iterator for Entries {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(&mut |_| Ok(()))
    }
}

impl Entries {
    /// The next entry; `on_page` sees every page that is entered on the way.
    pub(crate) fn step(
        &mut self,
        on_page: &mut dyn FnMut(&Page) -> Result<(), Error>,
    ) -> Option<Result<Entry, Error>> {
        let result = self.try_step(on_page);
        if result.is_err() {
            self.stack.clear();
            self.start = None;
        }
        result.transpose()
    }

    /// Ends the walk with an error about the page where it stands.
    pub(crate) fn fail(&mut self, problem: Problem) -> Error {
        let page = self
            .stack
            .last()
            .map_or(self.file.meta().root, |top| top.id);
        self.stack.clear();
        self.file.error(page, problem)
    }

    fn try_step(
        &mut self,
        on_page: &mut dyn FnMut(&Page) -> Result<(), Error>,
    ) -> Result<Option<Entry>, Error> {
        self.enter_root(on_page)?;
        loop {
            let Some(top) = self.stack.last_mut() else {
                return Ok(None);
            };
            if top.next >= top.page.count() {
                self.stack.pop();
            } else if top.page.kind() == Kind::Branch {
                self.enter_child(on_page)?;
            } else {
                let index = top.next;
                top.next += 1;
                return self.entry(index).map(Some);
            }
        }
    }

    fn enter_root(
        &mut self,
        on_page: &mut dyn FnMut(&Page) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (page, id) = match self.start.take() {
            None => return Ok(()),
            Some(Root::Page(id)) => (self.file.page(id)?, id),
            Some(Root::Inline(page, id)) => (page, id),
        };
        on_page(&page)?;
        self.stack.push(Frame {
            page,
            id,
            next: 0,
            upper: None,
        });
        Ok(())
    }

    /// Goes down to the page of the next element of the branch where the walk stands.
    fn enter_child(
        &mut self,
        on_page: &mut dyn FnMut(&Page) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let depth = self.stack.len();
        let top = self.stack.last_mut().expect("the walk stands on a branch");
        let index = top.next;
        top.next += 1;
        let id = top.page.child(index);
        let lower = top.page.key_bytes(index);
        let upper = if index + 1 < top.page.count() {
            Some(top.page.key_bytes(index + 1))
        } else {
            top.upper.clone()
        };
        if depth == DEPTH_MAX {
            return Err(self.file.error(id, Problem::Depth(DEPTH_MAX)));
        }
        let page = self.file.page(id)?;
        // Keys between these bounds, ascending on each page, ascend over the whole tree: so no page
        // is met twice on a walk, and a walk ends.
        let Some(last) = page.count().checked_sub(1) else {
            return Err(self.file.error(id, Problem::Count(0)));
        };
        let is_below = upper.as_ref().is_none_or(|upper| page.key(last) < upper);
        if page.key(0) < lower.as_ref() || !is_below {
            return Err(self.file.error(id, Problem::Misplaced));
        }
        on_page(&page)?;
        self.stack.push(Frame {
            page,
            id,
            next: 0,
            upper,
        });
        Ok(())
    }

    /// An element of the leaf where the walk stands.
    fn entry(&self, index: usize) -> Result<Entry, Error> {
        let top = self.stack.last().expect("the walk stands on a leaf");
        let (key, value) = (top.page.key_bytes(index), top.page.value_bytes(index));
        if !top.page.is_bucket(index) {
            return Ok(Entry::Pair(key, value));
        }
        let root = parse_bucket(&value, top.id).map_err(|problem| {
            let problem = problem.unwrap_or_else(|| Problem::BadBucket(shown(&key)));
            self.file.error(top.id, problem)
        })?;
        let file = self.file.clone();
        Ok(Entry::Bucket(key, Bucket { file, root }))
    }
}

/// The value of a bucket's entry: root page and sequence, then the page itself if the root is 0.
pub(crate) fn parse_bucket(value: &Bytes, id: u64) -> Result<Root, Option<Problem>> {
    let head: &[u8; BUCKET_BYTES] = value.first_chunk().ok_or(None)?;
    let (root, _sequence) = head.split_at(8);
    let root = u64::from_le_bytes(root.try_into().expect("split after eight bytes"));
    match (root, value.len()) {
        (0, _) => {
            let page = Page::parse_inline(value.slice(BUCKET_BYTES..));
            Ok(Root::Inline(page.map_err(Some)?, id))
        }
        (root, BUCKET_BYTES) => Ok(Root::Page(root)),
        _ => Err(None),
    }
}

/// A page refers to at least two others, so a tree of 64-bit numbers is not deeper.
const DEPTH_MAX: usize = 64;
