//! The meta page: where everything else is. There are two, and the newer sound one counts.
//!
//! | bytes after the page header | what |
//! |---|---|
//! | 4 | magic number |
//! | 4 | version, 2 |
//! | 4 | page size |
//! | 4 | flags, 0 |
//! | 8, 8 | root page and sequence of the bucket of all buckets |
//! | 8 | page of the free list, or all ones if none is kept |
//! | 8 | high-water mark: the number of pages |
//! | 8 | transaction that wrote it |
//! | 8 | FNV-1a over the 56 bytes before |
//!
//! Numbers are little-endian, as on every machine that etcd runs on.

use crate::error::MetaProblem;
use crate::page::{HEADER_BYTES, Header, META_FLAG};

/// Bytes of a meta page that mean something, with the page header.
pub(crate) const META_BYTES: usize = HEADER_BYTES + 64;

/// The page sizes of all systems that Go runs on, and those that tests of bbolt use.
pub(crate) const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=65_536;

const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
const NO_FREELIST: u64 = u64::MAX;
/// Pages 0 and 1 are the metas.
const FIRST_DATA_PAGE: u64 = 2;

/// A sound meta page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub page_size: u32,
    /// Invariant: a page of data, below `pages`.
    pub root: u64,
    /// Invariant: a page of data, below `pages`; none if the free pages are those that nothing
    /// refers to.
    pub freelist: Option<u64>,
    /// How many pages the file has: one above the last.
    pub pages: u64,
    pub transaction: u64,
}

impl Meta {
    /// The meta page in `bytes`, which begin with its page header.
    pub(crate) fn parse(bytes: &[u8], index: u64) -> Result<Self, MetaProblem> {
        let bytes: &[u8; META_BYTES] = bytes.first_chunk().ok_or(MetaProblem::Short)?;
        let (header, body) = bytes.split_at(HEADER_BYTES);
        let header = Header::parse(header.try_into().expect("split after the header"));
        let u32_at = |at| u32::from_le_bytes(chunk(body, at));
        let u64_at = |at| u64::from_le_bytes(chunk(body, at));
        if u32_at(0) != MAGIC {
            return Err(MetaProblem::Magic(u32_at(0)));
        }
        if u32_at(4) != VERSION {
            return Err(MetaProblem::Version(u32_at(4)));
        }
        if u64_at(56) != fnv1a(&body[..56]) {
            return Err(MetaProblem::Checksum);
        }
        if header.flags != META_FLAG || header.id != index {
            return Err(MetaProblem::Kind);
        }
        let page_size = u32_at(8);
        if !page_size.is_power_of_two() || !PAGE_SIZES.contains(&page_size) {
            return Err(MetaProblem::PageSize(page_size));
        }
        let freelist = u64_at(32);
        let meta = Self {
            page_size,
            root: u64_at(16),
            freelist: (freelist != NO_FREELIST).then_some(freelist),
            pages: u64_at(40),
            transaction: u64_at(48),
        };
        let data = FIRST_DATA_PAGE..meta.pages;
        let is_within = data.contains(&meta.root)
            && meta.freelist.is_none_or(|page| data.contains(&page))
            && meta.pages.checked_mul(page_size.into()).is_some();
        is_within.then_some(meta).ok_or(MetaProblem::Bounds)
    }

    /// The meta page with its page header; the rest of the page means nothing.
    pub(crate) fn encode(&self, index: u64) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        let header = Header {
            id: index,
            flags: META_FLAG,
            count: 0,
            overflow: 0,
        };
        let (head, body) = bytes.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(&header.encode());
        for (at, word) in [(0, MAGIC), (4, VERSION), (8, self.page_size)] {
            body[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        let freelist = self.freelist.unwrap_or(NO_FREELIST);
        let words = [(16, self.root), (32, freelist), (40, self.pages)];
        for (at, word) in words.into_iter().chain([(48, self.transaction)]) {
            body[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        let checksum = fnv1a(&body[..56]);
        body[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

fn chunk<const N: usize>(body: &[u8], at: usize) -> [u8; N] {
    body[at..at + N]
        .try_into()
        .expect("offsets are below the 64 bytes of the body")
}

/// The 64-bit FNV-1a hash, which Go calls `fnv.New64a`.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
