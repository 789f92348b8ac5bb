//! Pages of data: the tree's leaves and branches.
//!
//! ```text
//! page    := id: u64, flags: u16, count: u16, overflow: u32, element[count], keys and values
//! branch  := pos: u32, ksize: u32, page: u64
//! leaf    := flags: u32, pos: u32, ksize: u32, vsize: u32
//! ```
//!
//! `pos` counts from the element itself. A page with `overflow` goes on over as many pages behind
//! it, which have no header. Numbers are little-endian.

use bytes::Bytes;

use crate::error::Problem;

pub(crate) const HEADER_BYTES: usize = 16;
pub(crate) const ELEMENT_BYTES: usize = 16;

pub(crate) const BRANCH_FLAG: u16 = 0x01;
pub(crate) const LEAF_FLAG: u16 = 0x02;
pub(crate) const META_FLAG: u16 = 0x04;
pub(crate) const FREELIST_FLAG: u16 = 0x10;

/// The flag of a leaf's element whose value is a bucket.
pub(crate) const BUCKET_FLAG: u32 = 0x01;

/// Root page and sequence number of a bucket.
pub(crate) const BUCKET_BYTES: usize = 16;

/// What every page begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub id: u64,
    pub flags: u16,
    pub count: u16,
    /// How many pages it goes on over.
    pub overflow: u32,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
        Self {
            id: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            flags: u16::from_le_bytes([i, j]),
            count: u16::from_le_bytes([k, l]),
            overflow: u32::from_le_bytes([m, n, o, p]),
        }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }
}

/// A leaf or a branch whose elements are all inside of it and whose keys ascend. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    id: u64,
    kind: Kind,
    count: usize,
    /// How many pages of the file it takes; 0 if it is part of an element of another one.
    run: u64,
    bytes: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Leaf,
    Branch,
}

impl Page {
    /// Checks `bytes`, all of the page with what it goes on over.
    pub(crate) fn parse(bytes: Bytes) -> Result<Self, Problem> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(Problem::Count(0))?;
        let header = Header::parse(header);
        let kind = Kind::of(header.flags)?;
        let count = usize::from(header.count);
        // Only the root of an empty bucket may be empty, and that is a leaf.
        let table_end = HEADER_BYTES + count * ELEMENT_BYTES;
        if table_end > bytes.len() || (count == 0 && kind == Kind::Branch) {
            return Err(Problem::Count(header.count.into()));
        }
        let page = Self {
            id: header.id,
            kind,
            count,
            run: u64::from(header.overflow) + 1,
            bytes,
        };
        let mut last: &[u8] = &[];
        for index in 0..count {
            let element = page.element(index);
            if element.start < table_end || element.end > page.bytes.len() {
                return Err(Problem::Element(index));
            }
            if element.flags & !BUCKET_FLAG != 0 {
                let flags = element.flags;
                return Err(Problem::ElementFlags { index, flags });
            }
            let key = &page.bytes[element.start..element.key_end];
            if index > 0 && key <= last {
                return Err(Problem::Order(index));
            }
            last = key;
        }
        Ok(page)
    }

    /// The page that the value of a bucket's entry holds itself, if the bucket is small.
    pub(crate) fn parse_inline(bytes: Bytes) -> Result<Self, Problem> {
        let mut page = Self::parse(bytes)?;
        if page.kind != Kind::Leaf {
            let (flags, expected) = (BRANCH_FLAG, "a leaf inside of an entry");
            return Err(Problem::WrongKind { flags, expected });
        }
        page.run = 0;
        Ok(page)
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn run(&self) -> u64 {
        self.run
    }

    pub(crate) fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// The key of an element below `count`.
    pub(crate) fn key(&self, index: usize) -> &[u8] {
        let element = self.element(index);
        &self.bytes[element.start..element.key_end]
    }

    /// As [`Page::key`], sharing the page's memory.
    pub(crate) fn key_bytes(&self, index: usize) -> Bytes {
        let element = self.element(index);
        self.bytes.slice(element.start..element.key_end)
    }

    /// The value of a leaf's element.
    pub(crate) fn value(&self, index: usize) -> &[u8] {
        let element = self.element(index);
        &self.bytes[element.key_end..element.end]
    }

    /// As [`Page::value`], sharing the page's memory.
    pub(crate) fn value_bytes(&self, index: usize) -> Bytes {
        let element = self.element(index);
        self.bytes.slice(element.key_end..element.end)
    }

    /// Whether the value of a leaf's element is a bucket.
    pub(crate) fn is_bucket(&self, index: usize) -> bool {
        self.element(index).flags & BUCKET_FLAG != 0
    }

    /// The page that a branch's element refers to.
    pub(crate) fn child(&self, index: usize) -> u64 {
        let at = HEADER_BYTES + index * ELEMENT_BYTES;
        let bytes = &self.bytes[at + 8..at + ELEMENT_BYTES];
        u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken"))
    }

    /// How many elements have a key below `key`.
    pub(crate) fn below(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn element(&self, index: usize) -> Element {
        let at = HEADER_BYTES + index * ELEMENT_BYTES;
        let word = |at: usize| {
            let bytes = &self.bytes[at..at + 4];
            u32::from_le_bytes(bytes.try_into().expect("four bytes were taken"))
        };
        let size = |at| usize::try_from(word(at)).expect("a u32 fits into a usize");
        // Four numbers below 2^32 do not overflow a usize of 64 bits.
        match self.kind {
            Kind::Branch => {
                let start = at + size(at);
                let key_end = start + size(at + 4);
                Element {
                    flags: 0,
                    start,
                    key_end,
                    end: key_end,
                }
            }
            Kind::Leaf => {
                let start = at + size(at + 4);
                let key_end = start + size(at + 8);
                Element {
                    flags: word(at),
                    start,
                    key_end,
                    end: key_end + size(at + 12),
                }
            }
        }
    }
}

const _: () = assert!(
    usize::BITS >= 64,
    "offsets in a page are added without a check"
);

impl Kind {
    pub(crate) fn of(flags: u16) -> Result<Self, Problem> {
        match flags {
            LEAF_FLAG => Ok(Self::Leaf),
            BRANCH_FLAG => Ok(Self::Branch),
            _ => Err(Problem::WrongKind {
                flags,
                expected: "a leaf or a branch",
            }),
        }
    }
}

/// Where an element's key and value are, counted from the beginning of the page.
struct Element {
    flags: u32,
    start: usize,
    key_end: usize,
    end: usize,
}
