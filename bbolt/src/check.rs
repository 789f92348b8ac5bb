//! The consistency check of a whole file: what bbolt's own check looks at, and more.

use crate::bucket::{Bucket, Entry};
use crate::error::{Error, Problem};
use crate::file::File;
use crate::page::{FREELIST_FLAG, HEADER_BYTES, Page};

/// What a file holds that has passed its check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Buckets, nested ones included.
    pub buckets: u64,
    /// Keys with a value, in all buckets.
    pub pairs: u64,
    /// Pages of the file.
    pub pages: u64,
    /// Those that hold nothing.
    pub free_pages: u64,
}

impl File {
    /// Reads everything: each page is used once or free, and everything that is used is sound.
    /// One bit for each page is all the memory that grows with the file.
    pub fn check(&self) -> Result<Summary, Error> {
        let meta = *self.meta();
        let mut check = Check {
            file: self,
            used: PageSet::new(meta.pages)
                .map_err(|problem| Error::new(&self.path().into(), None, problem))?,
            summary: Summary {
                pages: meta.pages,
                ..Summary::default()
            },
        };
        check.used.insert(0);
        check.used.insert(1);
        check.bucket(&self.root(), 0)?;
        if let Some(freelist) = meta.freelist {
            check.freelist(freelist)?;
            if let Some(lost) = check.used.first_absent() {
                return Err(self.error(lost, Problem::Lost));
            }
        } else {
            // Without a list, what nothing refers to is free.
            check.summary.free_pages = meta.pages - check.used.count;
        }
        Ok(check.summary)
    }
}

struct Check<'a> {
    file: &'a File,
    /// Pages that were met, free ones included.
    used: PageSet,
    summary: Summary,
}

impl Check<'_> {
    fn bucket(&mut self, bucket: &Bucket, nesting: usize) -> Result<(), Error> {
        let file = self.file;
        let mut entries = bucket.entries();
        while let Some(entry) = entries.step(&mut |page| mark(file, &mut self.used, page)) {
            match entry? {
                Entry::Pair(..) => self.summary.pairs += 1,
                Entry::Bucket(..) if nesting == NESTING_MAX => {
                    return Err(entries.fail(Problem::Depth(NESTING_MAX)));
                }
                Entry::Bucket(_, inner) => {
                    self.summary.buckets += 1;
                    self.bucket(&inner, nesting + 1)?;
                }
            }
        }
        Ok(())
    }

    /// The list's own pages are used, and those that it names are free.
    fn freelist(&mut self, id: u64) -> Result<(), Error> {
        self.read_freelist(id)
            .map_err(|(page, problem)| self.file.error(page, problem))
    }

    fn read_freelist(&mut self, id: u64) -> Result<(), (u64, Problem)> {
        let here = |problem| (id, problem);
        let (header, first) = self.file.first_of_run(id).map_err(here)?;
        if header.flags != FREELIST_FLAG {
            let (flags, expected) = (header.flags, "a free list");
            return Err(here(Problem::WrongKind { flags, expected }));
        }
        let run = u64::from(header.overflow) + 1;
        self.used.insert_run(id, run).map_err(here)?;
        // A count that does not fit into the header is the first number of the list.
        let is_long = header.count == u16::MAX;
        let count = match first[HEADER_BYTES..].first_chunk() {
            Some(word) if is_long => u64::from_le_bytes(*word),
            _ => header.count.into(),
        };
        let room = (run * u64::from(self.file.page_size()) - HEADER_BYTES as u64) / WORD_BYTES;
        if count > room - u64::from(is_long) {
            return Err(here(Problem::Count(count)));
        }
        let mut skip = HEADER_BYTES + if is_long { 8 } else { 0 };
        let mut left = count;
        let mut buffer = [0; READ_BYTES];
        while left > 0 {
            let bytes =
                usize::try_from(left * WORD_BYTES).map_or(READ_BYTES, |b| b.min(READ_BYTES));
            self.file
                .read_at(id, skip, &mut buffer[..bytes])
                .map_err(here)?;
            let (words, _) = buffer[..bytes].as_chunks();
            for word in words {
                let free = u64::from_le_bytes(*word);
                if !(2..self.summary.pages).contains(&free) {
                    let last = self.summary.pages - 1;
                    return Err((free, Problem::OutOfBounds { last }));
                }
                if !self.used.insert(free) {
                    return Err((free, Problem::UsedTwice));
                }
            }
            self.summary.free_pages += words.len() as u64;
            skip += bytes;
            left -= words.len() as u64;
        }
        Ok(())
    }
}

fn mark(file: &File, used: &mut PageSet, page: &Page) -> Result<(), Error> {
    used.insert_run(page.id(), page.run())
        .map_err(|problem| file.error(page.id(), problem))
}

/// A bit for each page of the file.
struct PageSet {
    words: Vec<u64>,
    pages: u64,
    count: u64,
}

impl PageSet {
    fn new(pages: u64) -> Result<Self, Problem> {
        if pages > CHECKED_PAGES_MAX {
            let max = CHECKED_PAGES_MAX;
            return Err(Problem::TooManyPages { pages, max });
        }
        let words = usize::try_from(pages.div_ceil(64)).expect("below the bound just checked");
        Ok(Self {
            words: vec![0; words],
            pages,
            count: 0,
        })
    }

    /// Adds a page below the number of pages; false if it is in already.
    fn insert(&mut self, page: u64) -> bool {
        let word = usize::try_from(page / 64).expect("pages are below the bound of new()");
        let bit = 1 << (page % 64);
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(is_new);
        is_new
    }

    fn insert_run(&mut self, first: u64, run: u64) -> Result<(), Problem> {
        let all_new = (first..first + run).all(|page| self.insert(page));
        all_new.then_some(()).ok_or(Problem::UsedTwice)
    }

    fn first_absent(&self) -> Option<u64> {
        let word = self.words.iter().position(|word| *word != u64::MAX)?;
        let page = word as u64 * 64 + u64::from(self.words[word].trailing_ones());
        (page < self.pages).then_some(page)
    }
}

/// 128 MiB of bits: a file of 4 TiB with pages of 4 KiB.
const CHECKED_PAGES_MAX: u64 = 1 << 30;

/// Buckets in buckets. Nothing nests that deep, and a page may not be used twice on the way.
const NESTING_MAX: usize = 32;

const WORD_BYTES: u64 = 8;

/// Of the free list at a time. A multiple of a word.
const READ_BYTES: usize = 16 << 10;
