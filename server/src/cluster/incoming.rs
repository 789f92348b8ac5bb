//! A snapshot of another member on its way into the place of the state.
//!
//! ```text
//! member/incoming/db          the file, while it comes and is checked
//! member/incoming/state/      the state made of it
//! member/incoming/whole       the state is whole and durable; which snapshot it is
//! member/incoming/install     it takes the place of the other one; what the log begins with
//! member/incoming/replaced/   the state whose place it has taken
//! ```
//!
//! Without `whole` or `install` all of it is litter. `whole` is written while the member runs, when
//! everything was checked. The next start decides, with log and state at rest, whether the snapshot
//! is still needed, and says so in `install`. From then on every start does what is left of these
//! steps before anything else, each of which may be done again: the state moves to `replaced`, the
//! new one takes its name, the log is begun anew, `install` goes.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::datadir::{DIRECTORY_MODE, DataDirError, FILE_MODE, sync_directory, write_file};
use crate::ids::{Index, MemberId, Term};

/// The directory of a snapshot that comes in.
#[derive(Clone, Debug)]
pub struct Incoming {
    root: PathBuf,
    state: PathBuf,
}

/// What an install ends with: the log begins with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Install {
    /// The last entry that the snapshot has applied, and its term.
    pub base: (Index, Term),
    /// The term that the member knows.
    pub term: Term,
    /// Whom it voted for in that term; 0 for nobody.
    pub vote: MemberId,
    /// How often it was started.
    pub boot_epoch: u64,
}

/// How far a snapshot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// Nothing that counts.
    Nothing,
    /// A whole state, of which it is to be decided whether it is needed.
    Whole(Index, Term),
    /// It is being installed.
    Install(Install),
}

impl Incoming {
    /// In a member's directory, beside its `state`.
    pub(super) fn new(member: &Path, state: PathBuf) -> Self {
        Self {
            root: member.join("incoming"),
            state,
        }
    }

    /// Where the state is made.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Where the file lies.
    pub fn file(&self) -> PathBuf {
        self.root.join("db")
    }

    /// Makes the empty directory, and an empty file in it for what comes.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`].
    pub fn begin(&self) -> Result<File, DataDirError> {
        self.clear()?;
        let made = DirBuilder::new().mode(DIRECTORY_MODE).create(&self.root);
        made.map_err(|error| DataDirError::io("create", &self.root, error))?;
        let path = self.file();
        let mut options = File::options();
        let file = options.write(true).create_new(true).mode(FILE_MODE);
        let file = file.open(&path);
        file.map_err(|error| DataDirError::io("create", &path, error))
    }

    /// The state is filled and flushed: from now on it counts, also after a crash.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`].
    pub fn whole(&self, index: Index, term: Term) -> Result<(), DataDirError> {
        sync_directory(&self.state())?;
        sync_directory(&self.root)?;
        self.note(WHOLE, &[index.get(), term.get()])?;
        sync_directory(self.member())
    }

    /// How far it has come.
    ///
    /// # Errors
    ///
    /// When a note in it is damaged.
    pub fn arrived(&self) -> Result<Arrived, DataDirError> {
        if let Some([index, term, known, vote, boot_epoch]) = self.noted(INSTALL)? {
            return Ok(Arrived::Install(Install {
                base: (Index::new(index), Term::new(term)),
                term: Term::new(known),
                vote: MemberId::new(vote),
                boot_epoch,
            }));
        }
        Ok(match self.noted(WHOLE)? {
            Some([index, term]) => Arrived::Whole(Index::new(index), Term::new(term)),
            None => Arrived::Nothing,
        })
    }

    /// Decides that it is needed: there is no way back from here.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`].
    pub fn decide(&self, install: &Install) -> Result<(), DataDirError> {
        let (index, term) = install.base;
        let numbers = [
            index.get(),
            term.get(),
            install.term.get(),
            install.vote.get(),
            install.boot_epoch,
        ];
        self.note(INSTALL, &numbers)
    }

    /// Lets the new state take the place of the old one, durably. May be repeated.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`].
    pub fn replace_state(&self) -> Result<(), DataDirError> {
        let (fresh, replaced) = (self.state(), self.root.join("replaced"));
        // While the new state is here, what has its name is the old one.
        if !fresh.exists() {
            return Ok(());
        }
        for (from, to) in [(&self.state, &replaced), (&fresh, &self.state)] {
            if from.exists() {
                fs::rename(from, to).map_err(|error| DataDirError::io("rename", from, error))?;
                sync_directory(&self.root)?;
                sync_directory(self.member())?;
            }
        }
        Ok(())
    }

    /// Removes all of it. The notes go first: what is left of the rest then counts for nothing.
    ///
    /// # Errors
    ///
    /// [`DataDirError::Io`].
    pub fn clear(&self) -> Result<(), DataDirError> {
        if !self.root.exists() {
            return Ok(());
        }
        // A state whose install is done must not be taken for one that waits for it, so that the
        // older note goes before the one that stands above it.
        for name in [WHOLE, INSTALL] {
            let path = self.root.join(name);
            match fs::remove_file(&path) {
                Ok(()) => sync_directory(&self.root)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(DataDirError::io("remove", &path, error)),
            }
        }
        let removed = fs::remove_dir_all(&self.root);
        removed.map_err(|error| DataDirError::io("remove", &self.root, error))?;
        sync_directory(self.member())
    }

    fn member(&self) -> &Path {
        let parent = self.root.parent();
        parent.expect("it was made of a member's directory and a name")
    }

    /// Writes numbers under a name, durably.
    fn note(&self, name: &str, numbers: &[u64]) -> Result<(), DataDirError> {
        write_file(&self.root.join(name), &encode(name, numbers))?;
        sync_directory(&self.root)
    }

    fn noted<const N: usize>(&self, name: &str) -> Result<Option<[u64; N]>, DataDirError> {
        let path = self.root.join(name);
        let mut text = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(NOTE_BYTES_MAX).read_to_end(&mut text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        }
        .map_err(|error| DataDirError::io("read", &path, error))?;
        let numbers = decode(name, &text);
        numbers.map(Some).ok_or(DataDirError::Note(path))
    }
}

/// The name, the numbers and a checksum of all bytes before it, each on a line.
fn encode(name: &str, numbers: &[u64]) -> Vec<u8> {
    let mut text = format!("{TITLE}{name} {FORMAT}\n");
    for number in numbers {
        text.push_str(&format!("{number:016x}\n"));
    }
    let sum = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("{sum:08x}\n"));
    text.into_bytes()
}

/// Only what [`encode`] writes.
fn decode<const N: usize>(name: &str, bytes: &[u8]) -> Option<[u64; N]> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut numbers = [0; N];
    for (number, line) in numbers.iter_mut().zip(text.lines().skip(1)) {
        *number = u64::from_str_radix(line, 16).ok()?;
    }
    (encode(name, &numbers) == bytes).then_some(numbers)
}

const WHOLE: &str = "whole";
const INSTALL: &str = "install";

const TITLE: &str = "trilith snapshot ";

/// Of the notes; it goes up with every change that an older program cannot read.
const FORMAT: u32 = 1;

/// More than any note has.
const NOTE_BYTES_MAX: u64 = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutate;

    const INSTALLED: Install = Install {
        base: (Index::new(300), Term::new(7)),
        term: Term::new(8),
        vote: MemberId::new(0xab),
        boot_epoch: 3,
    };

    const GOLDEN: &str = "trilith snapshot whole 1\n000000000000012c\n0000000000000007\n";

    fn member(root: &Path) -> Incoming {
        let state = root.join("state");
        fs::create_dir(&state).expect("a folder");
        fs::write(state.join("old"), "").expect("a file");
        Incoming::new(root, state)
    }

    fn with_state(incoming: &Incoming) {
        incoming.begin().expect("a place for the file");
        fs::create_dir(incoming.state()).expect("a folder");
        fs::write(incoming.state().join("new"), "").expect("a file");
    }

    #[test]
    fn it_counts_once_it_is_whole_and_again_once_it_is_decided() {
        let root = tempfile::tempdir().expect("a folder");
        let incoming = member(root.path());
        let arrived = || incoming.arrived().expect("our own notes");
        assert_eq!(arrived(), Arrived::Nothing);
        with_state(&incoming);
        assert_eq!(arrived(), Arrived::Nothing);
        incoming
            .whole(Index::new(300), Term::new(7))
            .expect("written");
        assert_eq!(arrived(), Arrived::Whole(Index::new(300), Term::new(7)));
        incoming.decide(&INSTALLED).expect("written");
        assert_eq!(arrived(), Arrived::Install(INSTALLED));
        incoming.clear().expect("removed");
        assert_eq!(arrived(), Arrived::Nothing);
        assert!(!incoming.root.exists());
    }

    /// After a crash between any two steps the new state takes its place.
    #[test]
    fn the_state_is_replaced_from_wherever_it_was_left() {
        for steps in 0..3 {
            let root = tempfile::tempdir().expect("a folder");
            let incoming = member(root.path());
            with_state(&incoming);
            let replaced = incoming.root.join("replaced");
            let renames = [
                (incoming.state.clone(), replaced.clone()),
                (incoming.state(), incoming.state.clone()),
            ];
            for (from, to) in &renames[..steps] {
                fs::rename(from, to).expect("renamed");
            }
            for _again in 0..2 {
                incoming.replace_state().expect("replaced");
                assert!(incoming.state.join("new").exists(), "{steps}");
                assert!(replaced.join("old").exists(), "{steps}");
            }
        }
    }

    #[test]
    fn a_note_that_is_damaged_is_refused() {
        let root = tempfile::tempdir().expect("a folder");
        let incoming = member(root.path());
        with_state(&incoming);
        incoming
            .whole(Index::new(300), Term::new(7))
            .expect("written");
        let path = incoming.root.join(WHOLE);
        let whole = fs::read(&path).expect("the note");
        assert!(whole.starts_with(GOLDEN.as_bytes()));
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            for bad in [&changed[..], &whole[..at]] {
                fs::write(&path, bad).expect("written");
                let refused = incoming.arrived();
                assert!(matches!(refused, Err(DataDirError::Note(_))), "{at}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_junk_for_a_note_panics(bytes in mutate::near_any(&[GOLDEN])) {
            if let Some(numbers) = decode::<2>(WHOLE, &bytes) {
                prop_assert_eq!(encode(WHOLE, &numbers), bytes);
            }
        }
    }
}
