//! A file is the same whether it is read while it comes or once it is there.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::{Measure, Sink, Writer};

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Two buckets of which `b` is the larger one, between two small ones.
fn content(keys: u32) -> BTreeMap<&'static str, Pairs> {
    let pairs = |count: u32, bytes: usize| -> Pairs {
        let pair = |key: u32| (key.to_be_bytes().to_vec(), vec![7; bytes]);
        (0..count).map(pair).collect()
    };
    BTreeMap::from([
        ("a", pairs(keys / 3, 30)),
        ("b", pairs(keys, 40)),
        ("b small", pairs(2, 3)),
        ("c", Pairs::new()),
    ])
}

fn feed(content: &BTreeMap<&str, Pairs>, sink: &mut impl Sink) {
    for (name, pairs) in content {
        sink.bucket(name.as_bytes()).expect("in order");
        for (key, value) in pairs {
            sink.pair(key, value).expect("in order");
        }
    }
}

fn written(content: &BTreeMap<&str, Pairs>) -> Vec<u8> {
    let mut measure = Measure::new(512).expect("a page size");
    feed(content, &mut measure);
    let plan = measure.finish().expect("measured");
    let mut writer = Writer::new(plan, Vec::new()).expect("written");
    feed(content, &mut writer);
    writer.finish().expect("written")
}

/// Pairs of the largest bucket, and all other pages at their places, with holes for its leaves.
fn taken(bytes: &[u8], piece: usize) -> Option<Result<(Pairs, Vec<u8>), Error>> {
    let head = &bytes[..bytes.len().min(InOrder::HEAD_BYTES)];
    let mut stream = InOrder::recognize(Path::new("db"), head)?;
    let mut pairs = Pairs::new();
    let mut others = Vec::new();
    let mut take = |stream: &mut InOrder| -> Result<(), Error> {
        while let Some(arrived) = stream.next_page()? {
            match arrived {
                Arrived::Largest(leaf) => pairs.extend(
                    leaf.pairs()
                        .map(|(key, value)| (key.to_vec(), value.to_vec())),
                ),
                Arrived::Other(at, bytes) => {
                    let at = usize::try_from(at).expect("small");
                    others.resize(at, 0);
                    others.extend_from_slice(&bytes);
                }
            }
        }
        Ok(())
    };
    for piece in bytes.chunks(piece) {
        stream.push(piece);
        if let Err(error) = take(&mut stream) {
            return Some(Err(error));
        }
    }
    Some(stream.finish().map(|()| (pairs, others)))
}

#[test]
fn what_comes_in_pieces_is_what_was_written() {
    for keys in [20, 100, 1_000] {
        let content = content(keys);
        let bytes = written(&content);
        for piece in [1, 511, 100_000] {
            let taken = taken(&bytes, piece).expect("our own file comes in order");
            let (pairs, others) = taken.expect("our own file");
            assert_eq!(pairs, content["b"], "{keys} keys");
            let on_disk = tempfile::NamedTempFile::new().expect("a temporary file");
            std::fs::write(on_disk.path(), others).expect("room for it");
            let file = crate::File::open(on_disk.path()).expect("its meta pages came");
            for name in ["a", "b small", "c"] {
                let bucket = file.bucket(name.as_bytes()).expect("readable");
                let found: Result<Pairs, Error> = bucket
                    .expect("it is there")
                    .pairs()
                    .map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
                    .collect();
                assert_eq!(found.expect("readable"), content[name], "{name}");
            }
        }
    }
}

#[test]
fn a_file_without_the_mark_is_left_to_the_other_reader() {
    let mut bytes = written(&content(100));
    assert!(taken(&bytes, 1000).is_some());
    bytes[META_BYTES] ^= 1;
    assert!(taken(&bytes, 1000).is_none());
    let small = BTreeMap::from([("all inline", Pairs::from([(vec![1], vec![2])]))]);
    assert!(taken(&written(&small), 1000).is_none());
}

#[test]
fn a_file_that_is_cut_is_refused_wherever_it_is_cut() {
    let bytes = written(&content(100));
    for length in (InOrder::HEAD_BYTES.min(512)..bytes.len()).step_by(97) {
        let taken = taken(&bytes[..length], 256).expect("the mark came");
        assert!(taken.is_err(), "{length} of {}", bytes.len());
    }
}

#[test]
fn pages_that_are_not_where_their_tree_has_them_are_refused() {
    let bytes = written(&content(600));
    let pages: Vec<&[u8]> = bytes.chunks(512).collect();
    for first in 2..pages.len() - 1 {
        let mut swapped: Vec<Vec<u8>> = pages.iter().map(|page| page.to_vec()).collect();
        swapped.swap(first, first + 1);
        // Each page names itself by its place.
        for at in [first, first + 1] {
            swapped[at][..8].copy_from_slice(&(at as u64).to_le_bytes());
        }
        let taken = taken(&swapped.concat(), 4096).expect("the mark is there");
        assert!(taken.is_err(), "pages {first} and the one behind it");
    }
}

proptest! {
    /// What a damaged file gives is an error, or what the reader of whole files finds in it.
    #[test]
    fn damage_is_found_or_harmless(place: Index, bit in 0_u8..8) {
        let mut bytes = written(&content(60));
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        if let Some(Ok((pairs, _))) = taken(&bytes, 4096) {
            let on_disk = tempfile::NamedTempFile::new().expect("a temporary file");
            std::fs::write(on_disk.path(), &bytes).expect("room for it");
            let file = crate::File::open(on_disk.path()).expect("both find it sound");
            file.check().expect("both find it sound");
            let bucket = file.bucket(b"b").expect("readable").expect("there");
            let whole: Result<Pairs, Error> = bucket
                .pairs()
                .map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect();
            prop_assert_eq!(whole.expect("readable"), pairs);
        }
    }
}
