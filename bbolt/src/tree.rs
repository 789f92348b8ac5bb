//! A bucket's tree while it is written from the bottom up.
//!
//! Pages get their numbers when they are complete, a leaf before the branch that refers to it. So
//! a walk over the same lengths gives the same pages, and only one page of each level is held.

use std::io::{self, Write};

use crate::node::{FirstKey, Node, Part};
use crate::page::Kind;

/// Where complete pages go.
#[derive(Debug)]
pub(crate) struct Pages<W> {
    page_size: usize,
    /// The number of the next page.
    next: u64,
    /// No page may have this number or one above.
    end: u64,
    /// Where they are written; nowhere while a file is measured.
    out: Option<W>,
}

/// Why a page was not written.
#[derive(Debug)]
pub(crate) enum PageError {
    Io(io::Error),
    /// There are more of them than was measured.
    TooMany,
}

impl<W: Write> Pages<W> {
    pub(crate) fn new(page_size: usize, first: u64, end: u64, out: Option<W>) -> Self {
        Self {
            page_size,
            next: first,
            end,
            out,
        }
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    pub(crate) fn into_out(self) -> Option<W> {
        self.out
    }

    /// What a node keeps of `bytes`: all if they are written, their length if they are measured.
    pub(crate) fn part<'a>(&self, bytes: &'a [u8]) -> Part<'a> {
        match self.out {
            Some(_) => Part::of(bytes),
            None => Part::measured(bytes.len()),
        }
    }

    /// Appends to a bucket's entry the page that is part of it; only its length when measuring.
    pub(crate) fn write_inline(&self, node: &Node, entry: &mut Vec<u8>) -> Result<(), PageError> {
        if self.out.is_none() {
            entry.resize(entry.len() + node.size(), 0);
            return Ok(());
        }
        node.write_first(node.count(), 0, 0, entry)
            .map_err(PageError::Io)
    }

    /// Writes the first `count` elements of a node as one page and removes them from it.
    fn write(&mut self, node: &mut Node, count: usize) -> Result<(FirstKey, u64), PageError> {
        let first_key = node.first_key();
        let id = self.write_keeping(node, count)?;
        node.remove_first(count);
        Ok((first_key, id))
    }

    fn write_keeping(&mut self, node: &Node, count: usize) -> Result<u64, PageError> {
        let bytes = node.size_of_first(count);
        let run = bytes.div_ceil(self.page_size);
        let id = self.next;
        let next = id + run as u64;
        if next > self.end {
            return Err(PageError::TooMany);
        }
        if let Some(out) = &mut self.out {
            let overflow = u32::try_from(run - 1).expect("values have at most 2 GiB");
            node.write_first(count, id, overflow, out)
                .map_err(PageError::Io)?;
            let mut rest = run * self.page_size - bytes;
            while rest > 0 {
                let zeros = &ZEROS[..rest.min(ZEROS.len())];
                out.write_all(zeros).map_err(PageError::Io)?;
                rest -= zeros.len();
            }
        }
        self.next = next;
        Ok(id)
    }
}

/// The tree of one bucket.
#[derive(Debug)]
pub(crate) struct Tree {
    page_size: usize,
    leaf: Node,
    /// From the level above the leaves up.
    branches: Vec<Branch>,
}

#[derive(Debug)]
struct Branch {
    node: Node,
    /// How many of the elements fill a page, if there is one more. The page is written when a
    /// second one follows, so that no branch is left with a single child: bbolt makes none.
    full: Option<usize>,
}

/// Where a tree begins.
#[derive(Debug)]
pub(crate) enum TreeRoot {
    Page(u64),
    /// All of it is this leaf, which is small enough to be part of the bucket's entry.
    Inline(Node),
}

impl Tree {
    pub(crate) fn new(page_size: usize) -> Self {
        Self {
            page_size,
            leaf: Node::new(Kind::Leaf),
            branches: Vec::new(),
        }
    }

    /// Adds a pair above all others.
    pub(crate) fn push(
        &mut self,
        pages: &mut Pages<impl Write>,
        key: Part<'_>,
        value: Part<'_>,
        flags: u32,
    ) -> Result<(), PageError> {
        let count = self.leaf.count();
        if count >= ELEMENTS_MIN && self.leaf.size_with(key, value) > self.page_size {
            let (first_key, id) = pages.write(&mut self.leaf, count)?;
            self.push_child(pages, 0, &first_key, id)?;
        }
        self.leaf.push_pair(key, value, flags);
        Ok(())
    }

    fn push_child(
        &mut self,
        pages: &mut Pages<impl Write>,
        level: usize,
        first_key: &FirstKey,
        child: u64,
    ) -> Result<(), PageError> {
        if level == self.branches.len() {
            self.branches.push(Branch {
                node: Node::new(Kind::Branch),
                full: None,
            });
        }
        if let Some(count) = self.branches[level].full.take() {
            let written = pages.write(&mut self.branches[level].node, count)?;
            self.push_child(pages, level + 1, &written.0, written.1)?;
        }
        let branch = &mut self.branches[level];
        let count = branch.node.count();
        branch.node.push_child(first_key.part(), child);
        if count >= ELEMENTS_MIN && branch.node.size() > self.page_size {
            branch.full = Some(count);
        }
        Ok(())
    }

    /// Writes what is left, unless all of it is small.
    pub(crate) fn finish(self, pages: &mut Pages<impl Write>) -> Result<TreeRoot, PageError> {
        if self.branches.is_empty() && self.leaf.size() <= self.page_size / INLINE_PART {
            return Ok(TreeRoot::Inline(self.leaf));
        }
        self.finish_page(pages).map(TreeRoot::Page)
    }

    /// Writes what is left, level by level, and gives the page where the tree begins.
    pub(crate) fn finish_page(mut self, pages: &mut Pages<impl Write>) -> Result<u64, PageError> {
        let count = self.leaf.count();
        if self.branches.is_empty() {
            return pages.write_keeping(&self.leaf, count);
        }
        let (first_key, id) = pages.write(&mut self.leaf, count)?;
        self.push_child(pages, 0, &first_key, id)?;
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.branches.len();
            let Branch { node, full } = &mut self.branches[level];
            // One element too many: the last two make a page of their own, unless that leaves a
            // single child behind. Then all three are one page that goes on over more.
            let split = full.take().filter(|count| *count > ELEMENTS_MIN);
            if let Some(count) = split {
                let (first_key, id) = pages.write(node, count - 1)?;
                self.push_child(pages, level + 1, &first_key, id)?;
            }
            let node = &mut self.branches[level].node;
            let count = node.count();
            let (first_key, id) = pages.write(node, count)?;
            if is_top && split.is_none() {
                return Ok(id);
            }
            self.push_child(pages, level + 1, &first_key, id)?;
            level += 1;
        }
    }
}

/// bbolt's least number of elements of a page that others stand beside. Of values that are larger
/// than half a page, less room is lost at the ends of pages that way.
const ELEMENTS_MIN: usize = 2;

/// bbolt keeps a bucket in its entry up to this part of a page.
const INLINE_PART: usize = 4;

const ZEROS: [u8; 4096] = [0; 4096];
