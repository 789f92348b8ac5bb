//! Put, delete and compaction, outside of transactions.

use trilith_proto::etcdserverpb as pb;
use trilith_proto::wire;

use super::{Failure, Outcome, State};
use crate::error::RequestError;
use crate::ids::{LeaseId, Revision};
use crate::lease::Lessor;
use crate::mvcc::{Interval, RangeQuery, Round, SortOrder, SortTarget, WriteTxn};

/// Applies a put of its own.
pub(super) fn put(
    state: &State,
    round: &mut Round,
    request: &pb::PutRequest,
) -> Result<wire::PutResponse, Failure> {
    let mut txn = round.txn();
    check_put(&state.lessor, &txn, request)?;
    let response = put_in(&mut txn, request)?;
    txn.end()?;
    Ok(response)
}

/// Refuses a put whose lease is unknown, or that keeps what a missing key does not have.
pub(super) fn check_put(
    lessor: &Lessor,
    rows: &impl super::txn::Rows,
    request: &pb::PutRequest,
) -> Result<(), Failure> {
    if request.lease != 0 && !lessor.contains(LeaseId::new(request.lease)) {
        return Err(RequestError::LeaseNotFound.into());
    }
    if (request.ignore_value || request.ignore_lease) && rows.get(&request.key)?.is_none() {
        return Err(RequestError::KeyNotFound.into());
    }
    Ok(())
}

/// The put itself, after [`check_put`].
pub(super) fn put_in(
    txn: &mut WriteTxn<'_>,
    request: &pb::PutRequest,
) -> Result<wire::PutResponse, Failure> {
    let (mut value, mut lease) = (request.value.clone(), LeaseId::new(request.lease));
    if request.ignore_value || request.ignore_lease {
        let kept = txn.get(&request.key)?.ok_or(RequestError::KeyNotFound)?;
        if request.ignore_value {
            value = kept.value;
        }
        if request.ignore_lease {
            lease = kept.lease;
        }
    }
    let previous = txn.put(request.key.clone(), &value, lease)?;
    Ok(wire::PutResponse {
        header: Some(header(txn.revision())),
        prev_kv: previous.filter(|_| request.prev_kv),
    })
}

/// Applies a delete of its own.
pub(super) fn delete_range(
    round: &mut Round,
    request: &pb::DeleteRangeRequest,
) -> Result<wire::DeleteRangeResponse, Failure> {
    let mut txn = round.txn();
    let response = delete_in(&mut txn, request)?;
    txn.end()?;
    Ok(response)
}

/// The delete itself.
pub(super) fn delete_in(
    txn: &mut WriteTxn<'_>,
    request: &pb::DeleteRangeRequest,
) -> Result<wire::DeleteRangeResponse, Failure> {
    let interval = Interval::from_request(request.key.clone(), request.range_end.clone());
    let deleted = txn.delete_range(&interval, request.prev_kv)?;
    Ok(wire::DeleteRangeResponse {
        header: Some(header(txn.revision())),
        deleted: i64::try_from(deleted.keys).expect("a count of keys in memory fits"),
        prev_kvs: deleted.previous,
    })
}

/// Records a compaction; the deletion itself runs in the background.
pub(super) fn compact(
    round: &mut Round,
    request: &pb::CompactionRequest,
    outcome: &mut Outcome,
) -> Result<pb::CompactionResponse, Failure> {
    let target = Revision::new(request.revision);
    round.set_compact(target)?;
    outcome.compacted = outcome.compacted.max(Some(target));
    Ok(pb::CompactionResponse {
        header: Some(header(round.revision())),
    })
}

/// A header that says no more than the revision.
pub(super) fn header(revision: Revision) -> pb::ResponseHeader {
    pb::ResponseHeader {
        revision: revision.get(),
        ..pb::ResponseHeader::default()
    }
}

/// The query that a range request asks.
///
/// # Errors
///
/// `InvalidSortOption` for numbers that name no order or target; `EmptyKey` without a key.
pub fn range_query(request: &pb::RangeRequest) -> Result<RangeQuery, RequestError> {
    if request.key.is_empty() {
        return Err(RequestError::EmptyKey);
    }
    let order = match request.sort_order {
        0 => SortOrder::None,
        1 => SortOrder::Ascend,
        2 => SortOrder::Descend,
        _ => return Err(RequestError::InvalidSortOption),
    };
    let target = match request.sort_target {
        0 => SortTarget::Key,
        1 => SortTarget::Version,
        2 => SortTarget::Create,
        3 => SortTarget::Mod,
        4 => SortTarget::Value,
        _ => return Err(RequestError::InvalidSortOption),
    };
    let interval = Interval::from_request(request.key.clone(), request.range_end.clone());
    Ok(RangeQuery {
        revision: request.revision,
        limit: request.limit,
        order,
        target,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod: request.min_mod_revision,
        max_mod: request.max_mod_revision,
        min_create: request.min_create_revision,
        max_create: request.max_create_revision,
        ..RangeQuery::new(interval)
    })
}
