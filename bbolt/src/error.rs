//! What can be wrong with a file, and where.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Why a file cannot be read, with its name and the page.
#[derive(Debug)]
pub struct Error {
    path: Arc<Path>,
    page: Option<u64>,
    problem: Problem,
}

impl Error {
    pub(crate) fn new(path: &Arc<Path>, page: Option<u64>, problem: Problem) -> Self {
        Self {
            path: Arc::clone(path),
            page,
            problem,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The page, if it is about one.
    pub fn page(&self) -> Option<u64> {
        self.page
    }

    /// What is wrong.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        if let Some(page) = self.page {
            write!(f, "page {page}: ")?;
        }
        self.problem.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// What is wrong with a file or one of its pages.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The operating system could not do it.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Neither of the two meta pages is sound: what is wrong with each.
    #[error("not a bbolt file, or both of its meta pages are damaged ({0}; {1})")]
    NoMeta(MetaProblem, MetaProblem),
    /// The file is shorter than its pages.
    #[error("the file is cut: it has {file_bytes} bytes, and its {pages} pages take {page_bytes}")]
    Cut {
        /// What the file has.
        file_bytes: u64,
        /// How many pages the meta page names.
        pages: u64,
        /// What they take.
        page_bytes: u64,
    },
    /// A reference to a page that cannot be.
    #[error("referred to, but pages of data are 2 to {last}")]
    OutOfBounds {
        /// The last page of the file.
        last: u64,
    },
    /// The page says that it is another one.
    #[error("it says that it is page {0}")]
    WrongId(u64),
    /// A page of this kind does not belong here.
    #[error("its flags are {flags:#06x} where {expected} was expected")]
    WrongKind {
        /// What stands in the page.
        flags: u16,
        /// What was looked for.
        expected: &'static str,
    },
    /// The pages that it says it goes on over.
    #[error("it goes on over {overflow} more pages, beyond the last one, {last}")]
    Overflow {
        /// What stands in the page.
        overflow: u32,
        /// The last page of the file.
        last: u64,
    },
    /// Larger than this reader takes into memory.
    #[error("it is {bytes} bytes long with the pages that it goes on over; at most {max} are read")]
    TooLarge {
        /// What the page says.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// More elements than the page has room for, or none where there must be some.
    #[error("it cannot have {0} elements")]
    Count(u64),
    /// An element that is not inside its page.
    #[error("element {0} points outside of the page")]
    Element(usize),
    /// An element with flags that bbolt does not have.
    #[error("element {index} has unknown flags {flags:#x}")]
    ElementFlags {
        /// Which one.
        index: usize,
        /// What stands there.
        flags: u32,
    },
    /// Keys that do not ascend within the page.
    #[error("the key of element {0} is not above the one before it")]
    Order(usize),
    /// Keys that do not fit between the keys of the page above.
    #[error("its keys are outside of the bounds that the page above it gives")]
    Misplaced,
    /// More levels than a tree can have.
    #[error("it is more than {0} levels deep: pages refer to each other in a circle")]
    Depth(usize),
    /// A page that two places refer to, or that is both used and free.
    #[error("it is used twice")]
    UsedTwice,
    /// A page that is neither used nor free.
    #[error("it is neither used nor free")]
    Lost,
    /// A file that claims to come in order has a page that does not.
    #[error("it is not what follows from the pages before it")]
    OutOfOrder,
    /// An entry that is marked as a bucket and does not hold one.
    #[error("the entry of bucket {0:?} is not a bucket")]
    BadBucket(String),
    /// A bucket where a value should be.
    #[error("there is a bucket {0:?} where a value was expected")]
    UnexpectedBucket(String),
    /// A value where only buckets are.
    #[error("there is a value at {0:?} where only buckets are expected")]
    UnexpectedValue(String),
    /// More pages than the check keeps account of.
    #[error("{pages} pages are more than the {max} that a check keeps account of")]
    TooManyPages {
        /// What the meta page names.
        pages: u64,
        /// The bound.
        max: u64,
    },
}

/// What is wrong with one meta page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetaProblem {
    /// There is nothing there.
    #[error("the file is too short")]
    Short,
    /// It is not marked as one.
    #[error("it is not marked as a meta page")]
    Kind,
    /// It does not begin as one.
    #[error("the magic number is {0:#010x}")]
    Magic(u32),
    /// A version that is not known here.
    #[error("the version is {0}, not 2")]
    Version(u32),
    /// The checksum over it.
    #[error("the checksum does not match")]
    Checksum,
    /// A page size that no system has.
    #[error("the page size is {0}")]
    PageSize(u32),
    /// Pages that it names cannot be.
    #[error("its page numbers contradict each other")]
    Bounds,
}

/// A name from the file for an error text: short, and without what a terminal would obey.
pub(crate) fn shown(name: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 64;
    let shown = &name[..name.len().min(SHOWN_BYTES_MAX)];
    shown.escape_ascii().to_string()
}
