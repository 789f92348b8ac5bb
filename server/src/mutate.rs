//! Bytes for tests of decoders: anything at all, and sound encodings with some damage.
//!
//! A test of this kind has `junk` in its name: `cargo test -p trilith-server --lib junk` runs them
//! all, and `PROPTEST_CASES` says how long. proptest prints the seed of a failure.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Long enough for several fields of every format here.
const RANDOM_BYTES_MAX: usize = 120;

/// Fewer than this: with more of them nothing sound is left to look at.
const DAMAGES_MAX: usize = 3;

/// Bytes that a decoder may meet: random ones, or one of `sound` that is damaged or left alone.
pub(crate) fn near<S>(sound: S) -> impl Strategy<Value = Vec<u8>>
where
    S: Strategy,
    S::Value: AsRef<[u8]>,
{
    let damaged = (sound, vec(damage(), 0..DAMAGES_MAX)).prop_map(|(sound, damages)| {
        let mut bytes = sound.as_ref().to_vec();
        for damage in &damages {
            damage.inflict(&mut bytes);
        }
        bytes
    });
    prop_oneof![
        1 => vec(any::<u8>(), 0..RANDOM_BYTES_MAX),
        4 => damaged,
    ]
}

/// As [`near`], around one of `samples`.
pub(crate) fn near_any<T: AsRef<[u8]> + ?Sized>(
    samples: &[&T],
) -> impl Strategy<Value = Vec<u8>> + use<T> {
    let samples = samples.iter().map(|sample| sample.as_ref().to_vec());
    near(proptest::sample::select(samples.collect::<Vec<_>>()))
}

#[derive(Clone, Debug)]
enum Damage {
    /// The end is missing.
    Cut(Index),
    /// One bit, given by its mask, is flipped.
    Flip(Index, u8),
    /// Something stands in between.
    Insert(Index, Vec<u8>),
    /// One byte is missing.
    Remove(Index),
    /// What stands at one place stands at another again.
    Repeat(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    // All ones and zeros are the edges of lengths and numbers.
    let inserted = prop_oneof![
        Just(vec![0]),
        Just(vec![0xff]),
        Just(vec![0xff; 9]),
        vec(any::<u8>(), 1..4),
    ];
    // Flips change numbers and leave lengths alone: most often something still decodes.
    prop_oneof![
        1 => any::<Index>().prop_map(Damage::Cut),
        8 => (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, 1 << bit)),
        1 => (any::<Index>(), inserted).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => any::<Index>().prop_map(Damage::Remove),
        1 => any::<[Index; 2]>().prop_map(|[from, to]| Damage::Repeat(from, to)),
    ]
}

impl Damage {
    fn inflict(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        match self {
            Self::Cut(at) => bytes.truncate(at.index(length)),
            Self::Flip(at, bits) => bytes[at.index(length)] ^= bits,
            Self::Insert(at, new) => {
                let at = at.index(length + 1);
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Remove(at) => {
                bytes.remove(at.index(length));
            }
            Self::Repeat(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let piece = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.splice(to..to, piece);
            }
        }
    }
}
