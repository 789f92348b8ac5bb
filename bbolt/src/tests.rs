//! What the writer writes is what the reader reads, and damaged files do no harm.

use std::collections::BTreeMap;
use std::io::Write;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;
use tempfile::NamedTempFile;

use crate::{Entry, Error, File, Measure, Problem, Sink, WriteError, Writer};

type Bytes = Vec<u8>;
type Content = BTreeMap<Bytes, BTreeMap<Bytes, Bytes>>;

fn feed(content: &Content, sink: &mut impl Sink) -> Result<(), WriteError> {
    for (name, pairs) in content {
        sink.bucket(name)?;
        for (key, value) in pairs {
            sink.pair(key, value)?;
        }
    }
    Ok(())
}

/// The bytes of a file, whose number is as measured.
fn written(content: &Content, page_size: u32) -> Bytes {
    let mut measure = Measure::new(page_size).expect("a page size");
    feed(content, &mut measure).expect("measured");
    let plan = measure.finish().expect("measured");
    let mut writer = Writer::new(plan.clone(), Vec::new()).expect("written");
    feed(content, &mut writer).expect("written");
    let bytes = writer.finish().expect("written as measured");
    assert_eq!(plan.size(), bytes.len() as u64);
    bytes
}

fn file_of(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    file
}

fn read(file: &File) -> Result<Content, Error> {
    let mut content = Content::new();
    for bucket in file.buckets() {
        let (name, bucket) = bucket?;
        let pairs = bucket.pairs().map(|pair| {
            let (key, value) = pair?;
            Ok((key.to_vec(), value.to_vec()))
        });
        content.insert(name.to_vec(), pairs.collect::<Result<_, Error>>()?);
    }
    Ok(content)
}

fn one_bucket(pairs: impl IntoIterator<Item = (Bytes, Bytes)>) -> Content {
    let pairs = pairs.into_iter().collect();
    Content::from([(b"key".to_vec(), pairs)])
}

/// Writes, checks and reads back; how many pages the file has.
fn round_trip(content: &Content, page_size: u32) -> u64 {
    let on_disk = file_of(&written(content, page_size));
    let file = File::open(on_disk.path()).expect("our own file");
    let summary = file.check().expect("our own file");
    assert_eq!(summary.free_pages, 0);
    assert_eq!(summary.buckets, content.len() as u64);
    assert_eq!(
        summary.pairs,
        content
            .values()
            .map(|pairs| pairs.len() as u64)
            .sum::<u64>()
    );
    assert_eq!(read(&file).expect("our own file"), *content);
    summary.pages
}

#[test]
fn nothing_and_empty_buckets_come_back() {
    // Two meta pages and the root.
    assert_eq!(round_trip(&Content::new(), 4096), 3);
    let names = ["alarm", "auth", "key"].map(|name| (name.as_bytes().to_vec(), BTreeMap::new()));
    assert_eq!(round_trip(&Content::from(names), 4096), 3);
}

#[test]
fn a_leaf_is_filled_to_its_last_byte() {
    // Page header, element and key of one byte leave this much for the value.
    let room = 1024 - 16 - 16 - 1;
    for (value, pages) in [
        (room - 1, 4),
        (room, 4),
        (room + 1, 5),
        (room + 1024, 5),
        (9999, 13),
    ] {
        let content = one_bucket([(b"k".to_vec(), vec![7; value])]);
        assert_eq!(
            round_trip(&content, 1024),
            pages,
            "a value of {value} bytes"
        );
    }
}

#[test]
fn every_number_of_keys_around_page_and_branch_borders_comes_back() {
    for count in (0_u32..80).chain(440..470).chain(900..930) {
        let pairs = (0..count).map(|n| (n.to_be_bytes().to_vec(), vec![1; 30]));
        round_trip(&one_bucket(pairs), 512);
    }
}

#[test]
fn keys_of_any_size_up_to_the_largest_come_back_and_no_branch_has_a_single_child() {
    for count in 0_u8..12 {
        let pairs = (0..count).map(|n| ([&[n], &[0; 32_767][..]].concat(), vec![n]));
        round_trip(&one_bucket(pairs), 4096);
    }
    // Every branch is read, and a branch of one would make a tree deeper than its keys need.
    let pairs = (0..200_u8).map(|n| ([&[n], &[0; 400][..]].concat(), vec![n; 200]));
    let content = one_bucket(pairs);
    let bytes = written(&content, 512);
    for page in bytes.chunks(512) {
        let (flags, count) = (page[8], page[10]);
        assert!(flags != 1 || page[9] != 0 || count != 1, "a branch of one");
    }
    round_trip(&content, 512);
}

#[test]
fn a_huge_value_among_small_ones_comes_back() {
    let content = one_bucket([
        (b"a".to_vec(), b"small".to_vec()),
        (b"b".to_vec(), vec![7; 3 << 20]),
        (b"c".to_vec(), b"small".to_vec()),
    ]);
    round_trip(&content, 4096);
}

#[test]
fn keys_are_found_and_walks_begin_where_they_are_told() {
    let pairs = (0..3000_u32).map(|n| ((n * 2).to_be_bytes().to_vec(), n.to_le_bytes().to_vec()));
    let content = one_bucket(pairs);
    let on_disk = file_of(&written(&content, 512));
    let file = File::open(on_disk.path()).expect("our own file");
    let bucket = file.bucket(b"key").expect("readable").expect("written");
    assert!(file.bucket(b"kez").expect("readable").is_none());
    for n in 0..6001_u32 {
        let key = n.to_be_bytes();
        let found = bucket
            .get(&key)
            .expect("readable")
            .map(|value| value.to_vec());
        assert_eq!(found, content[&b"key"[..]].get(&key[..]).cloned());
        let next = bucket.pairs_from(&key).expect("readable").next();
        let next = next.map(|pair| pair.expect("readable").0.to_vec());
        let above = content[&b"key"[..]].range(key.to_vec()..).next();
        assert_eq!(next, above.map(|(key, _)| key.clone()));
    }
    let last = bucket.last().expect("readable");
    assert!(matches!(last, Some(Entry::Pair(key, _)) if key == 5998_u32.to_be_bytes()[..]));
}

#[test]
fn input_that_bbolt_would_not_take_is_refused() {
    let mut measure = Measure::new(4096).expect("a page size");
    assert!(matches!(measure.pair(b"a", b""), Err(WriteError::NoBucket)));
    measure.bucket(b"b").expect("the first one");
    assert!(matches!(
        measure.bucket(b"b"),
        Err(WriteError::Order { .. })
    ));
    assert!(matches!(measure.bucket(b""), Err(WriteError::EmptyKey(_))));
    measure.pair(b"k", b"").expect("the first one");
    assert!(matches!(
        measure.pair(b"k", b""),
        Err(WriteError::Order { .. })
    ));
    assert!(matches!(
        measure.pair(b"j", b""),
        Err(WriteError::Order { .. })
    ));
    let long = vec![b'l'; 32_769];
    assert!(matches!(
        measure.pair(&long, b""),
        Err(WriteError::KeyTooLong { .. })
    ));
    assert!(matches!(
        Measure::new(1000),
        Err(WriteError::PageSize(1000))
    ));
}

#[test]
fn a_second_walk_over_something_else_is_noticed_before_it_is_too_long() {
    let pairs = |count: u32| one_bucket((0..count).map(|n| (n.to_be_bytes().to_vec(), vec![0; 9])));
    let mut measure = Measure::new(512).expect("a page size");
    feed(&pairs(100), &mut measure).expect("measured");
    let plan = measure.finish().expect("measured");
    for count in [50, 1000] {
        let mut out = Vec::new();
        let mut writer = Writer::new(plan.clone(), &mut out).expect("written");
        let fed = feed(&pairs(count), &mut writer);
        let result = fed.and_then(|()| writer.finish().map(|_| ()));
        assert!(matches!(result, Err(WriteError::Changed)), "{count}");
        assert!(out.len() as u64 <= plan.size());
    }
}

#[test]
fn a_cut_file_is_refused_and_one_with_something_behind_it_is_not() {
    let mut bytes = written(&one_bucket([(b"k".to_vec(), vec![1; 5000])]), 4096);
    bytes.extend_from_slice(&[9; 32]);
    let on_disk = file_of(&bytes);
    File::open(on_disk.path()).expect("the checksum of a snapshot is no page");
    for length in [0, 15, 79, 4095, 4096, bytes.len() - 33] {
        let on_disk = file_of(&bytes[..length]);
        let error = File::open(on_disk.path()).expect_err("it is cut");
        assert!(
            error
                .to_string()
                .starts_with(&on_disk.path().display().to_string())
        );
        let is_cut = matches!(error.problem(), Problem::Cut { .. });
        assert_eq!(is_cut, length >= 80, "{length} bytes: {error}");
    }
}

#[test]
fn the_newer_meta_counts_and_one_of_them_is_enough() {
    let content = one_bucket([(b"k".to_vec(), b"v".to_vec())]);
    let bytes = written(&content, 4096);
    for page in 0..2 {
        let mut damaged = bytes.clone();
        damaged[page * 4096 + 30] ^= 1;
        let on_disk = file_of(&damaged);
        let file = File::open(on_disk.path()).expect("one meta is sound");
        assert_eq!(file.meta().transaction, 1 - page as u64);
        assert_eq!(read(&file).expect("sound"), content);
    }
    for exponent in 9..=16 {
        let mut damaged = written(&content, 1 << exponent);
        damaged[20] ^= 1;
        let on_disk = file_of(&damaged);
        let file = File::open(on_disk.path()).expect("the second meta is sound");
        assert_eq!(file.page_size(), 1 << exponent);
    }
}

#[test]
fn a_second_meta_of_another_page_size_does_not_count() {
    let mut bytes = written(&one_bucket([(b"k".to_vec(), b"v".to_vec())]), 4096);
    bytes[4096 + 16 + 8..4096 + 16 + 12].copy_from_slice(&8192_u32.to_le_bytes());
    reseal(&mut bytes, 4096);
    let on_disk = file_of(&bytes);
    let file = File::open(on_disk.path()).expect("the first meta is sound");
    assert_eq!((file.meta().transaction, file.page_size()), (0, 4096));
}

#[test]
fn a_file_that_claims_to_be_huge_is_read_without_the_memory_for_it() {
    const PAGES: u64 = 1 << 31;
    let content = one_bucket([(b"k".to_vec(), vec![1; 5000])]);
    let mut bytes = written(&content, 512);
    for meta in [0, 512] {
        bytes[meta + 16 + 40..meta + 16 + 48].copy_from_slice(&PAGES.to_le_bytes());
        reseal(&mut bytes, meta);
    }
    let on_disk = file_of(&bytes);
    let file = File::open(on_disk.path()).expect_err("it has no such pages");
    assert!(matches!(file.problem(), Problem::Cut { .. }), "{file}");
    // A hole in a file has a length and takes no room.
    on_disk
        .as_file()
        .set_len(PAGES * 512)
        .expect("a sparse file");
    let file = File::open(on_disk.path()).expect("it is long enough");
    assert_eq!(read(&file).expect("readable"), content);
    let error = file.check().expect_err("a bit for each page is too much");
    assert!(
        matches!(error.problem(), Problem::TooManyPages { .. }),
        "{error}"
    );
    // The leaf says that it goes on over a terabyte of the hole.
    let leaf = 2 * 512;
    bytes[leaf + 12..leaf + 16].copy_from_slice(&(PAGES as u32 - 10).to_le_bytes());
    let on_disk = file_of(&bytes);
    on_disk
        .as_file()
        .set_len(PAGES * 512)
        .expect("a sparse file");
    let file = File::open(on_disk.path()).expect("it is long enough");
    let error = read(&file).expect_err("a page of a terabyte");
    assert!(
        matches!(error.problem(), Problem::TooLarge { .. }),
        "{error}"
    );
}

fn contents() -> impl Strategy<Value = Content> {
    let name = vec(any::<u8>(), 1..12);
    let value = prop_oneof![
        4 => vec(any::<u8>(), 0..40),
        1 => vec(any::<u8>(), 0..3000),
    ];
    let key = prop_oneof![
        4 => vec(any::<u8>(), 1..12),
        1 => vec(any::<u8>(), 1..1500),
    ];
    btree_map(name, btree_map(key, value, 0..40), 0..6)
}

/// Everything that a reader can be asked for. What it answers may be wrong if a value was damaged,
/// but it must answer.
fn read_all(file: &File) {
    let _ = file.check();
    for bucket in file.buckets().flatten() {
        let (_, bucket) = bucket;
        let _ = (bucket.entries().count(), bucket.last().is_ok());
        let _ = bucket.get(b"key").is_ok();
        let _ = bucket.bucket(b"key").is_ok();
    }
}

/// Some damage to a file whose pages have 512 bytes: mostly where the structure is.
fn damage(bytes: &mut [u8], page: Index, at: usize, new: &[u8]) {
    let start = page.index(bytes.len() / 512) * 512 + at;
    for (byte, new) in bytes[start..].iter_mut().zip(new) {
        *byte = *new;
    }
    // A meta page with the right checksum is believed.
    for meta in [0, 512] {
        reseal(bytes, meta);
    }
}

/// Makes the checksum of the meta page at `meta` match what is in it.
fn reseal(bytes: &mut [u8], meta: usize) {
    let sum = crate::meta::fnv1a(&bytes[meta + 16..meta + 72]);
    bytes[meta + 72..meta + 80].copy_from_slice(&sum.to_le_bytes());
}

proptest! {
    #[test]
    fn what_is_written_is_read(content in contents(), size in 9..14_u32) {
        round_trip(&content, 1 << size);
    }

    #[test]
    fn no_junk_in_a_file_panics(
        content in contents(),
        damages in vec((any::<Index>(), 0..80_usize, vec(any::<u8>(), 1..9)), 1..4),
        small in any::<bool>(),
    ) {
        let mut bytes = written(&content, 512);
        for (page, at, new) in &damages {
            // Small numbers are more often pages and lengths that exist.
            let new: Bytes = new.iter().map(|byte| if small { byte % 8 } else { *byte }).collect();
            damage(&mut bytes, *page, *at, &new);
        }
        let on_disk = file_of(&bytes);
        if let Ok(file) = File::open(on_disk.path()) {
            read_all(&file);
        }
    }

    #[test]
    fn no_junk_that_is_no_file_panics(bytes in vec(any::<u8>(), 0..3000)) {
        let on_disk = file_of(&bytes);
        prop_assert!(File::open(on_disk.path()).is_err());
    }
}

#[test]
fn a_page_that_refers_to_itself_ends_the_walk() {
    let pairs = (0..3000_u32).map(|n| (n.to_be_bytes().to_vec(), vec![1; 30]));
    let mut bytes = written(&one_bucket(pairs), 512);
    let mut branches = (2..bytes.len() / 512).rev();
    let page = branches
        .find(|page| bytes[page * 512 + 8] == 1)
        .expect("many keys have a branch above them");
    // The root, which is the last branch, has one child: itself.
    let (count, child) = (page * 512 + 10, page * 512 + 16 + 8);
    bytes[count..count + 2].copy_from_slice(&[1, 0]);
    bytes[child..child + 8].copy_from_slice(&(page as u64).to_le_bytes());
    let on_disk = file_of(&bytes);
    let file = File::open(on_disk.path()).expect("the metas are sound");
    let error = file.check().expect_err("a circle");
    assert!(matches!(error.problem(), Problem::UsedTwice), "{error}");
    let error = read(&file).expect_err("a circle");
    assert!(matches!(error.problem(), Problem::Depth(_)), "{error}");
}
