//! The same state comes of a snapshot, whether its records are taken while it comes or afterwards.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::ids::{LeaseId, MemberId};
use crate::mvcc::{Interval, Store};
use crate::snapshot::Export;
use crate::storage::Family;

const OWN: MemberId = MemberId::new(0xab);
const APPLIED: (Index, Term) = (Index::new(5_000), Term::new(7));

/// The rows of each family.
type Families = Vec<Vec<(Bytes, Bytes)>>;

/// A snapshot of some thousand records with every kind among them.
fn snapshot(directory: &Path) -> Vec<u8> {
    let backend = Backend::open(&directory.join("sent"), &BackendOptions::default());
    let store = Store::open(backend.expect("a new state")).expect("a new store");
    for number in 0..3_000_u32 {
        let mut round = store.begin_round();
        let mut txn = round.txn();
        let key = Bytes::from(format!("key {}", number * 7 % 2_000));
        let value = vec![b'v'; number as usize % 300];
        txn.put(key.clone(), &value, LeaseId::new(i64::from(number % 3)))
            .expect("a put");
        if number % 11 == 0 {
            let deleted = txn.delete_range(&Interval::single(key), false);
            deleted.expect("a delete");
        }
        txn.end().expect("some changes");
        let index = store.applied().0.next();
        round.commit(index, APPLIED.1).expect("a write");
    }
    let mut round = store.begin_round();
    let batch = round.batch();
    let member = format!(
        r#"{{"id":{},"peerURLs":["http://a:1"],"name":"a"}}"#,
        OWN.get()
    );
    batch.put(Family::Member, OWN.to_string(), member);
    // Enough of them for pages of their own, with names that look like a record's key.
    for number in 0..200 {
        batch.put(
            Family::AuthUser,
            format!("user{number:04}_somebody"),
            "user",
        );
    }
    round.commit(APPLIED.0, APPLIED.1).expect("a write");
    let view = store.read().view().clone();
    let export = Export::measure(view, &mut |_| ControlFlow::Continue(()));
    let export = export.expect("measured");
    export.write(Vec::new()).expect("written")
}

/// Takes `bytes` in pieces; gives the rows of every family, and whether it came in order.
fn taken(
    directory: &Path,
    bytes: &[u8],
    named: (Index, Term),
) -> Result<(Families, bool), ImportError> {
    let (path, state) = (directory.join("db"), directory.join("state"));
    let file = fs::File::create(&path).expect("an empty file");
    let mut coming = ComingSnapshot::new(file, path, state.clone());
    for piece in bytes.chunks(10_007) {
        coming.push(piece)?;
    }
    assert_eq!(coming.bytes(), bytes.len() as u64);
    let received = coming.whole(named, OWN)?;
    let in_order = received.bytes_to_write() == 0;
    received.fill()?;
    let backend = Backend::open(&state, &BackendOptions::default()).expect("a state");
    let view = backend.view();
    let rows = |family: &Family| {
        let mut scan = view.scan(*family, &[], None);
        let mut rows = Vec::new();
        while let Some((key, value)) = scan.next().expect("readable") {
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        }
        rows
    };
    Ok((Family::ALL.iter().map(rows).collect(), in_order))
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn records_that_are_taken_while_they_come_make_the_same_state() {
    let mut bytes = snapshot(folder().path());
    let (in_order, was_in_order) = taken(folder().path(), &bytes, APPLIED).expect("sound");
    assert!(was_in_order);
    // Without the mark behind the first meta the file is one like etcd's.
    bytes[80..4096].fill(0);
    let (whole, was_in_order) = taken(folder().path(), &bytes, APPLIED).expect("sound");
    assert!(!was_in_order);
    assert_eq!(in_order, whole);
    assert!(whole[Family::Revision as usize].len() > 3_000);
    assert_eq!(whole[Family::AuthUser as usize].len(), 200);
}

#[test]
fn a_snapshot_in_order_that_is_cut_damaged_or_another_one_is_refused() {
    let bytes = snapshot(folder().path());
    for length in [0, 100, 4_096, bytes.len() / 2, bytes.len() - 1] {
        assert!(
            taken(folder().path(), &bytes[..length], APPLIED).is_err(),
            "{length}"
        );
    }
    let mut damaged = bytes.clone();
    // The number of a page in the middle.
    damaged[bytes.len() / 8192 * 4096] ^= 1;
    assert!(taken(folder().path(), &damaged, APPLIED).is_err());
    let other = (APPLIED.0.next(), APPLIED.1);
    let refused = taken(folder().path(), &bytes, other).expect_err("another state");
    assert!(
        refused
            .to_string()
            .contains("was sent as that of entry 5001"),
        "{refused}"
    );
}
