//! Refuses malformed key-value requests with etcd's errors, before anything is proposed.
//!
//! The rules and their order are those of etcd's `api/v3rpc/key.go`.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

use bytes::Bytes;
use trilith_proto::etcdserverpb::request_op::Request;
use trilith_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use crate::apply::range_query;
use crate::error::RequestError;
use crate::limits::TXN_DEPTH_MAX;
use crate::mvcc::{RangeQuery, SortOrder, SortTarget};

/// Checks a range request and parses it.
pub(super) fn range(request: &RangeRequest) -> Result<RangeQuery, RequestError> {
    range_query(request)
}

/// Checks a request for a streamed range: no order but the natural one, no revision filter.
pub(super) fn range_stream(request: &RangeRequest) -> Result<RangeQuery, RequestError> {
    let query = range_query(request)?;
    let natural = query.order == SortOrder::None
        || (query.target == SortTarget::Key && query.order == SortOrder::Ascend);
    if !natural {
        return Err(RequestError::StreamUnsortedOnly);
    }
    if query.min_mod != 0 || query.max_mod != 0 || query.min_create != 0 || query.max_create != 0 {
        return Err(RequestError::StreamUnfilteredOnly);
    }
    Ok(query)
}

/// Checks a put.
pub(super) fn put(request: &PutRequest) -> Result<(), RequestError> {
    if request.key.is_empty() {
        return Err(RequestError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(RequestError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(RequestError::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete.
pub(super) fn delete_range(request: &DeleteRangeRequest) -> Result<(), RequestError> {
    if request.key.is_empty() {
        Err(RequestError::EmptyKey)
    } else {
        Ok(())
    }
}

/// Checks a transaction with all that is nested in it.
pub(super) fn txn(request: &TxnRequest, operations_max: usize) -> Result<(), RequestError> {
    operations(request, operations_max, TXN_DEPTH_MAX)?;
    overlaps(&request.success)?;
    overlaps(&request.failure)?;
    Ok(())
}

/// Each level may hold as many operations as its parents left over.
fn operations(request: &TxnRequest, budget: usize, depth: usize) -> Result<(), RequestError> {
    let widest = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    if widest > budget || depth == 0 {
        return Err(RequestError::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(RequestError::EmptyKey);
    }
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            Some(Request::RequestRange(nested)) => range(nested).map(|_query| ())?,
            Some(Request::RequestPut(nested)) => put(nested)?,
            Some(Request::RequestDeleteRange(nested)) => delete_range(nested)?,
            Some(Request::RequestTxn(nested)) => operations(nested, budget - widest, depth - 1)?,
            // etcd answers an operation without content with this text.
            None => return Err(RequestError::KeyNotFound),
        }
    }
    Ok(())
}

/// What one branch puts and deletes, nested transactions included.
#[derive(Default)]
struct Touched {
    puts: HashSet<Bytes>,
    deletes: Intervals,
}

/// Refuses a key that is put twice in a branch, or put within what the branch deletes.
///
/// etcd misses a delete whose range end is "\0" (all keys from the first on); the overlap makes its
/// store panic after a compaction, so it is refused here.
fn overlaps(branch: &[RequestOp]) -> Result<Touched, RequestError> {
    let mut touched = Touched::default();
    for operation in branch {
        if let Some(Request::RequestDeleteRange(delete)) = &operation.request {
            touched.deletes.add(delete.key.clone(), range_end(delete));
        }
    }
    for operation in branch {
        if let Some(Request::RequestTxn(nested)) = &operation.request {
            let success = overlaps(&nested.success)?;
            let failure = overlaps(&nested.failure)?;
            merge(&mut touched, success, failure)?;
        }
    }
    for operation in branch {
        if let Some(Request::RequestPut(put)) = &operation.request
            && (touched.deletes.contains(&put.key) || !touched.puts.insert(put.key.clone()))
        {
            return Err(RequestError::DuplicateKey);
        }
    }
    Ok(touched)
}

/// Adds a nested transaction's branches, which exclude each other and so may share keys.
fn merge(into: &mut Touched, success: Touched, failure: Touched) -> Result<(), RequestError> {
    let clash = |key: &Bytes| into.puts.contains(key) || into.deletes.contains(key);
    if success.puts.iter().chain(&failure.puts).any(clash) {
        return Err(RequestError::DuplicateKey);
    }
    into.puts.extend(success.puts);
    into.puts.extend(failure.puts);
    into.deletes.extend(success.deletes);
    into.deletes.extend(failure.deletes);
    Ok(())
}

fn range_end(delete: &DeleteRangeRequest) -> Option<Bytes> {
    match &delete.range_end[..] {
        [] => {
            let mut after = Vec::with_capacity(delete.key.len() + 1);
            after.extend_from_slice(&delete.key);
            after.push(0);
            Some(Bytes::from(after))
        }
        [0] => None,
        _ => Some(delete.range_end.clone()),
    }
}

/// A set of keys as half-open intervals, so that a transaction of many deletes is checked quickly.
#[derive(Default)]
struct Intervals {
    /// Start to end, `None` for no end. Invariant: they neither overlap nor touch.
    by_start: BTreeMap<Bytes, Option<Bytes>>,
}

impl Intervals {
    fn add(&mut self, mut start: Bytes, mut end: Option<Bytes>) {
        if end.as_ref().is_some_and(|end| *end <= start) {
            return;
        }
        let before = self.by_start.range(..=start.clone()).next_back();
        if let Some((first, last)) = before.map(|(first, last)| (first.clone(), last.clone()))
            && last.as_ref().is_none_or(|last| *last >= start)
        {
            self.by_start.remove(&first);
            start = first;
            end = later(end, last);
        }
        let from = (Bound::Included(start.clone()), Bound::Unbounded);
        while let Some((first, last)) = self
            .by_start
            .range(from.clone())
            .next()
            .map(|(f, l)| (f.clone(), l.clone()))
        {
            if end.as_ref().is_some_and(|end| first > *end) {
                break;
            }
            self.by_start.remove(&first);
            end = later(end, last);
        }
        self.by_start.insert(start, end);
    }

    fn extend(&mut self, other: Self) {
        for (start, end) in other.by_start {
            self.add(start, end);
        }
    }

    fn contains(&self, key: &Bytes) -> bool {
        let interval = self.by_start.range(..=key.clone()).next_back();
        interval.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < end))
    }
}

/// The later of two ends; no end is the latest.
fn later(a: Option<Bytes>, b: Option<Bytes>) -> Option<Bytes> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;
    use prost::Message;

    use super::*;
    use crate::mutate;

    fn put_op(key: &'static str) -> RequestOp {
        let put = PutRequest {
            key: Bytes::from(key),
            ..PutRequest::default()
        };
        RequestOp {
            request: Some(Request::RequestPut(put)),
        }
    }

    fn delete_op(key: &'static str, end: &'static str) -> RequestOp {
        let delete = DeleteRangeRequest {
            key: Bytes::from(key),
            range_end: Bytes::from(end),
            ..DeleteRangeRequest::default()
        };
        RequestOp {
            request: Some(Request::RequestDeleteRange(delete)),
        }
    }

    fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        let nested = TxnRequest {
            success,
            failure,
            ..TxnRequest::default()
        };
        RequestOp {
            request: Some(Request::RequestTxn(nested)),
        }
    }

    fn check(success: Vec<RequestOp>) -> Result<(), RequestError> {
        txn(
            &TxnRequest {
                success,
                ..TxnRequest::default()
            },
            128,
        )
    }

    #[test]
    fn a_branch_puts_a_key_once_and_not_within_what_it_deletes() {
        let duplicate = Err(RequestError::DuplicateKey);
        assert_eq!(check(vec![put_op("a"), put_op("b")]), Ok(()));
        assert_eq!(check(vec![put_op("a"), put_op("a")]), duplicate);
        assert_eq!(check(vec![put_op("b"), delete_op("a", "c")]), duplicate);
        assert_eq!(check(vec![put_op("c"), delete_op("a", "c")]), Ok(()));
        assert_eq!(check(vec![put_op("b"), delete_op("a", "\0")]), duplicate);
        assert_eq!(check(vec![delete_op("a", ""), delete_op("a", "c")]), Ok(()));
    }

    #[test]
    fn branches_of_one_nested_transaction_may_share_a_key_and_two_transactions_may_not() {
        let either = txn_op(vec![put_op("a")], vec![put_op("a")]);
        assert_eq!(check(vec![either.clone()]), Ok(()));
        assert_eq!(
            check(vec![either.clone(), either.clone()]),
            Err(RequestError::DuplicateKey)
        );
        assert_eq!(
            check(vec![either, put_op("a")]),
            Err(RequestError::DuplicateKey)
        );
    }

    #[test]
    fn a_later_nested_delete_does_not_clash_with_an_earlier_nested_put_as_in_etcd() {
        let put = txn_op(vec![put_op("a")], vec![]);
        let delete = txn_op(vec![delete_op("a", "")], vec![]);
        assert_eq!(check(vec![put.clone(), delete.clone()]), Ok(()));
        assert_eq!(check(vec![delete, put]), Err(RequestError::DuplicateKey));
    }

    #[test]
    fn nested_levels_share_the_budget_of_operations() {
        let wide = txn_op(vec![put_op("a"), put_op("b")], vec![]);
        let request = TxnRequest {
            success: vec![wide],
            ..TxnRequest::default()
        };
        assert_eq!(txn(&request, 3), Ok(()));
        assert_eq!(txn(&request, 2), Err(RequestError::TooManyOps));
    }

    #[test]
    fn intervals_that_overlap_or_touch_become_one() {
        let mut intervals = Intervals::default();
        intervals.add(Bytes::from("c"), Some(Bytes::from("e")));
        intervals.add(Bytes::from("a"), Some(Bytes::from("b")));
        intervals.add(Bytes::from("b"), Some(Bytes::from("d")));
        assert_eq!(intervals.by_start.len(), 1);
        intervals.add(Bytes::from("x"), None);
        assert!(intervals.contains(&Bytes::from("zz")));
        assert!(intervals.contains(&Bytes::from("d")));
        assert!(!intervals.contains(&Bytes::from("e")));
    }

    fn a_request_is_judged(bytes: &[u8]) {
        if let Ok(request) = TxnRequest::decode(bytes)
            && txn(&request, 4).is_ok()
        {
            assert!(request.success.len().max(request.failure.len()) <= 4);
            assert_eq!(txn(&request, 128), Ok(()));
        }
        if let Ok(request) = RangeRequest::decode(bytes)
            && range_stream(&request).is_ok()
        {
            assert!(range(&request).is_ok());
        }
        if let Ok(request) = PutRequest::decode(bytes) {
            assert!(put(&request).is_err() || !request.key.is_empty());
        }
        if let Ok(request) = DeleteRangeRequest::decode(bytes) {
            assert_eq!(delete_range(&request).is_err(), request.key.is_empty());
        }
    }

    fn sound() -> Vec<Vec<u8>> {
        let branch = vec![put_op("a"), delete_op("b", "d"), delete_op("c", "\0")];
        let nested = txn_op(branch.clone(), vec![put_op("b")]);
        let outer = TxnRequest {
            success: vec![nested, delete_op("e", ""), put_op("f")],
            failure: branch,
            ..TxnRequest::default()
        };
        let range = RangeRequest {
            key: Bytes::from("a"),
            range_end: Bytes::from("b"),
            sort_order: 1,
            ..RangeRequest::default()
        };
        vec![outer.encode_to_vec(), range.encode_to_vec()]
    }

    proptest! {
        #[test]
        fn no_junk_for_a_request_panics(bytes in mutate::near(select(sound()))) {
            a_request_is_judged(&bytes);
        }
    }
}
