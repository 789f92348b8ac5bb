//! The keys that came and went of late, in memory: what a count of the recent past undoes. Without
//! it a count reads every change since, and most changes neither create a key nor delete one.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;

use crate::mvcc::interval::Interval;

/// Creates and deletes after some revision, as many as [`BYTES_MAX`] holds. One thread adds to it,
/// any number looks.
#[derive(Debug)]
pub(super) struct Churn {
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// Invariant: every create and delete after this revision is here.
    since: i64,
    /// Full pieces, the oldest first.
    sealed: VecDeque<Piece>,
    /// What comes after them.
    open: Vec<u8>,
}

/// Records one after another, in order of revisions.
#[derive(Clone, Debug)]
struct Piece {
    records: Arc<[u8]>,
    /// The revision of its last record.
    last: i64,
}

/// Creates and deletes of a round, not part of a [`Churn`] yet.
#[derive(Debug, Default)]
pub(super) struct Turnover {
    records: Vec<u8>,
    /// The revision of the last one.
    last: i64,
    /// There are more of them than anybody keeps.
    is_too_much: bool,
}

/// What a [`Churn`] knew at some moment.
#[derive(Debug)]
pub(super) struct Recent {
    /// It has every create and delete after this revision.
    pub(super) since: i64,
    pieces: Vec<Piece>,
}

impl Churn {
    /// Knows what comes after `revision`.
    pub(super) fn since(revision: i64) -> Self {
        Self {
            kept: Mutex::new(Kept {
                since: revision,
                sealed: VecDeque::new(),
                open: Vec::new(),
            }),
        }
    }

    /// Adds those of a round. To be called before any reader sees the round.
    pub(super) fn add(&self, turnover: &Turnover) {
        if turnover.last == 0 {
            return;
        }
        let mut kept = self.kept.lock();
        if turnover.is_too_much {
            kept.since = turnover.last;
            kept.sealed.clear();
            kept.open.clear();
            return;
        }
        kept.open.extend_from_slice(&turnover.records);
        if kept.open.len() < PIECE_BYTES {
            return;
        }
        let piece = Piece {
            records: kept.open.as_slice().into(),
            last: turnover.last,
        };
        kept.open.clear();
        kept.sealed.push_back(piece);
        let bytes = |kept: &Kept| kept.sealed.iter().map(|it| it.records.len()).sum::<usize>();
        while bytes(&kept) > BYTES_MAX
            && let Some(oldest) = kept.sealed.pop_front()
        {
            kept.since = oldest.last;
        }
    }

    /// What it knows of the time after `revision`. Does not hold up the one that adds.
    pub(super) fn after(&self, revision: i64) -> Recent {
        let kept = self.kept.lock();
        let later = kept.sealed.iter().filter(|piece| piece.last > revision);
        let open = Piece {
            records: kept.open.as_slice().into(),
            last: i64::MAX,
        };
        Recent {
            since: kept.since,
            pieces: later.cloned().chain([open]).collect(),
        }
    }
}

impl Turnover {
    /// Adds a key that was created, or else deleted, at `main`, which never falls.
    pub(super) fn push(&mut self, main: i64, key: &[u8], is_created: bool) {
        self.last = main;
        self.is_too_much |= self.records.len() > BYTES_MAX;
        if self.is_too_much {
            self.records = Vec::new();
            return;
        }
        let length = u32::try_from(key.len()).expect("a request is smaller");
        self.records.extend_from_slice(&main.to_le_bytes());
        self.records.push(u8::from(is_created));
        self.records.extend_from_slice(&length.to_le_bytes());
        self.records.extend_from_slice(key);
    }
}

impl Recent {
    /// How many more keys of `interval` lived at `from` than at `to`, a later revision, as far as
    /// it knows.
    pub(super) fn undone(&self, interval: &Interval, from: i64, to: i64) -> i64 {
        let mut more = 0;
        for piece in &self.pieces {
            let mut rest = &piece.records[..];
            while let Some((main, is_created, key)) = take(&mut rest) {
                if main > to {
                    return more;
                }
                if main > from && interval.contains(key) {
                    more += if is_created { -1 } else { 1 };
                }
            }
        }
        more
    }
}

/// Takes the first record off: its revision, whether the key was created, and the key.
fn take<'a>(records: &mut &'a [u8]) -> Option<(i64, bool, &'a [u8])> {
    let (main, rest) = records.split_first_chunk()?;
    let (is_created, rest) = rest.split_first()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *records = rest;
    Some((i64::from_le_bytes(*main), *is_created != 0, key))
}

/// Some 25,000 keys of usual length. Tests come to its end sooner.
const BYTES_MAX: usize = if cfg!(test) { 4 << 10 } else { 1 << 20 };

/// What is forgotten at once, and copied by who looks, at most.
const PIECE_BYTES: usize = BYTES_MAX / 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn turnover(mains: std::ops::RangeInclusive<i64>, is_created: bool) -> Turnover {
        let mut turnover = Turnover::default();
        for main in mains {
            turnover.push(main, format!("{main:09}").as_bytes(), is_created);
        }
        turnover
    }

    fn undone(churn: &Churn, from: i64, to: i64) -> i64 {
        let recent = churn.after(from);
        assert!(recent.since <= from);
        recent.undone(&Interval::everything(), from, to)
    }

    #[test]
    fn creates_and_deletes_between_two_revisions_are_undone() {
        let churn = Churn::since(4);
        churn.add(&turnover(5..=7, true));
        churn.add(&Turnover::default());
        churn.add(&turnover(9..=9, false));
        assert_eq!(undone(&churn, 4, 9), -2);
        assert_eq!(undone(&churn, 4, 8), -3);
        assert_eq!(undone(&churn, 6, 7), -1);
        assert_eq!(undone(&churn, 8, 20), 1);
        let one = Interval::single("000000006".into());
        assert_eq!(churn.after(4).undone(&one, 4, 9), -1);
    }

    #[test]
    fn the_oldest_are_forgotten_and_it_says_so() {
        let churn = Churn::since(1);
        for main in 2..=1_000 {
            churn.add(&turnover(main..=main, true));
        }
        let recent = churn.after(1);
        assert!(recent.since > 1, "{recent:?}");
        let known = 1_000 - recent.since;
        assert!(known as usize * 22 > BYTES_MAX / 2, "{known}");
        assert_eq!(undone(&churn, recent.since, 1_000), -known);
        assert_eq!(undone(&churn, 990, 995), -5);
    }

    #[test]
    fn a_round_that_is_too_large_is_forgotten_whole() {
        let churn = Churn::since(1);
        churn.add(&turnover(2..=2, true));
        churn.add(&turnover(3..=1_000, false));
        assert_eq!(churn.after(1).since, 1_000);
        churn.add(&turnover(1_001..=1_001, true));
        assert_eq!(undone(&churn, 1_000, 1_001), -1);
    }
}
