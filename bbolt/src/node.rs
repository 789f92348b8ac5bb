//! A page of data while it is filled.

use std::io::{self, Write};

use crate::page::{BRANCH_FLAG, ELEMENT_BYTES, HEADER_BYTES, Header, Kind, LEAF_FLAG};

/// Bytes that are written, or while a file is measured only how many they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    /// Invariant: empty, or `length` long.
    bytes: &'a [u8],
    length: usize,
}

impl<'a> Part<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        let length = bytes.len();
        Self { bytes, length }
    }

    pub(crate) fn measured(length: usize) -> Self {
        Self { bytes: &[], length }
    }
}

/// The first key of a page that is written, for the page above it.
#[derive(Debug)]
pub(crate) struct FirstKey {
    bytes: Vec<u8>,
    length: usize,
}

impl FirstKey {
    pub(crate) fn part(&self) -> Part<'_> {
        Part {
            bytes: &self.bytes,
            length: self.length,
        }
    }
}

/// The elements of a page, in order.
#[derive(Debug)]
pub(crate) struct Node {
    kind: Kind,
    elements: Vec<Element>,
    /// Keys and values one after the other; nothing while a file is measured.
    data: Vec<u8>,
    /// How long `data` is, or would be.
    data_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Element {
    key_bytes: usize,
    value_bytes: usize,
    tag: Tag,
}

#[derive(Clone, Copy, Debug)]
enum Tag {
    Flags(u32),
    Child(u64),
}

impl Node {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            elements: Vec::new(),
            data: Vec::new(),
            data_bytes: 0,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.elements.len()
    }

    /// Bytes of the page.
    pub(crate) fn size(&self) -> usize {
        HEADER_BYTES + self.count() * ELEMENT_BYTES + self.data_bytes
    }

    /// Bytes of the page with one more pair.
    pub(crate) fn size_with(&self, key: Part<'_>, value: Part<'_>) -> usize {
        self.size() + ELEMENT_BYTES + key.length + value.length
    }

    /// Adds an element of a leaf.
    pub(crate) fn push_pair(&mut self, key: Part<'_>, value: Part<'_>, flags: u32) {
        self.push(key, value, Tag::Flags(flags));
    }

    /// Adds an element of a branch.
    pub(crate) fn push_child(&mut self, first_key: Part<'_>, page: u64) {
        self.push(first_key, Part::measured(0), Tag::Child(page));
    }

    fn push(&mut self, key: Part<'_>, value: Part<'_>, tag: Tag) {
        self.data.extend_from_slice(key.bytes);
        self.data.extend_from_slice(value.bytes);
        self.data_bytes += key.length + value.length;
        self.elements.push(Element {
            key_bytes: key.length,
            value_bytes: value.length,
            tag,
        });
    }

    /// The first of at least one key.
    pub(crate) fn first_key(&self) -> FirstKey {
        let length = self.elements[0].key_bytes;
        let bytes = self.data.get(..length).unwrap_or_default().to_vec();
        FirstKey { bytes, length }
    }

    /// A page with the first `count` elements and number `id`, without what fills up its end.
    pub(crate) fn write_first(
        &self,
        count: usize,
        id: u64,
        overflow: u32,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let flags = match self.kind {
            Kind::Leaf => LEAF_FLAG,
            Kind::Branch => BRANCH_FLAG,
        };
        let elements = &self.elements[..count];
        let mut head = Vec::with_capacity(HEADER_BYTES + count * ELEMENT_BYTES);
        let header = Header {
            id,
            flags,
            count: u16::try_from(count).expect("pages of 64 KiB have fewer elements"),
            overflow,
        };
        head.extend_from_slice(&header.encode());
        let mut data_bytes = 0;
        for (index, element) in elements.iter().enumerate() {
            // From the element to the end of the table, and on to its key.
            let position = (count - index) * ELEMENT_BYTES + data_bytes;
            let (position, key) = (word(position), word(element.key_bytes));
            match element.tag {
                Tag::Flags(flags) => {
                    let value = word(element.value_bytes);
                    for number in [flags, position, key, value] {
                        head.extend_from_slice(&number.to_le_bytes());
                    }
                }
                Tag::Child(page) => {
                    head.extend_from_slice(&position.to_le_bytes());
                    head.extend_from_slice(&key.to_le_bytes());
                    head.extend_from_slice(&page.to_le_bytes());
                }
            }
            data_bytes += element.key_bytes + element.value_bytes;
        }
        out.write_all(&head)?;
        out.write_all(&self.data[..data_bytes])
    }

    /// Bytes of a page with the first `count` elements.
    pub(crate) fn size_of_first(&self, count: usize) -> usize {
        let elements = self.elements[..count].iter();
        let data: usize = elements.map(|e| e.key_bytes + e.value_bytes).sum();
        HEADER_BYTES + count * ELEMENT_BYTES + data
    }

    /// Removes the first `count` elements.
    pub(crate) fn remove_first(&mut self, count: usize) {
        let data_bytes = self.size_of_first(count) - HEADER_BYTES - count * ELEMENT_BYTES;
        self.elements.drain(..count);
        self.data.drain(..data_bytes.min(self.data.len()));
        self.data_bytes -= data_bytes;
        // One large value must not be remembered as room for the rest of the file.
        self.data.shrink_to(ROOM_KEPT_BYTES);
    }
}

fn word(number: usize) -> u32 {
    u32::try_from(number).expect("a page has at most a few values of less than 2 GiB")
}

/// The largest page that is not one value.
const ROOM_KEPT_BYTES: usize = 64 << 10;
