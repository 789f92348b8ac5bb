//! The rows of a store against the model, when no compaction is under way.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::model::{Model, ModelKv};
use crate::{
    mvcc::{KeyValue, ReadTxn, Row, count::BUCKET_KEYS_MAX},
    storage::{
        Family,
        schema::{old_key, parse_revision_key},
    },
};

pub(super) fn check_rows(read: &ReadTxn, model: &Model) {
    let kept = model.kept();
    let revisions = rows(read, Family::Revision);
    let addresses = revisions
        .iter()
        .map(|(key, _)| parse_revision_key(key).expect("own row"));
    assert_eq!(
        Vec::from_iter(addresses),
        Vec::from_iter(kept.iter().copied())
    );
    let mut old = BTreeMap::new();
    let mut living = BTreeMap::new();
    for (key, changes) in &model.keys {
        let (last, before) = changes.split_last().expect("a change");
        for (main, sub, kv) in before.iter().chain(last.2.is_none().then_some(last)) {
            if kept.contains(&(*main, *sub)) {
                let mark = if kv.is_none() { vec![1] } else { Vec::new() };
                old.insert(old_key(key, *main, *sub), mark);
            }
        }
        if let Some(kv) = &last.2 {
            living.insert(key.clone(), kv.clone());
        }
    }
    assert_eq!(rows(read, Family::Old), Vec::from_iter(old));
    let current = rows(read, Family::Current).into_iter().map(|(key, value)| {
        let (_, row) = Row::parse_current(&value).expect("own row");
        (key, model_kv(&Bytes::copy_from_slice(row.kv)))
    });
    assert_eq!(Vec::from_iter(current), Vec::from_iter(living.clone()));
    check_buckets(&rows(read, Family::Count), &living);
}

fn check_buckets(buckets: &[(Vec<u8>, Vec<u8>)], living: &BTreeMap<Vec<u8>, ModelKv>) {
    assert!(
        buckets[0].0.is_empty(),
        "the first bucket begins with the empty key"
    );
    for (place, (start, count)) in buckets.iter().enumerate() {
        let after = living.range(start.clone()..);
        let end = buckets.get(place + 1).map(|(end, _)| end);
        let within = after
            .take_while(|(key, _)| end.is_none_or(|end| *key < end))
            .count();
        let count = u32::from_be_bytes(count[..].try_into().expect("4 bytes"));
        assert_eq!(count as usize, within);
        assert!(count <= BUCKET_KEYS_MAX);
    }
}

pub(super) fn rows(read: &ReadTxn, family: Family) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut scan = read.view().scan(family, &[], None);
    let mut rows = Vec::new();
    while let Some((key, value)) = scan.next().expect("scan") {
        rows.push((key.to_vec(), value.to_vec()));
    }
    rows
}

pub(super) fn model_kv(encoded: &Bytes) -> ModelKv {
    let kv = KeyValue::decode(encoded).expect("a stored KeyValue");
    ModelKv {
        key: kv.key.to_vec(),
        value: kv.value.to_vec(),
        create: kv.create_revision.get(),
        modified: kv.mod_revision.get(),
        version: kv.version,
        lease: kv.lease.get(),
    }
}
