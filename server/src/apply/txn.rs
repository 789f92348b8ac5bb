//! Transactions: compare against the state before, check every operation, then execute.

use bytes::Bytes;
use trilith_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use trilith_proto::etcdserverpb::request_op::Request;
use trilith_proto::etcdserverpb::{Compare, RangeRequest, RequestOp, ResponseHeader, TxnRequest};
use trilith_proto::wire::{self, response_op::Response};

use super::kv::{self, header, range_query};
use super::{Failure, State};
use crate::error::RequestError;
use crate::ids::Revision;
use crate::lease::Lessor;
use crate::mvcc::{
    End, Interval, KeyValue, MvccError, RangeQuery, RangeResult, ReadTxn, Round, WriteTxn,
};

/// What a transaction reads from: a published revision, or the round that is being built.
pub(super) trait Rows {
    /// The latest state of one key.
    fn get(&self, key: &Bytes) -> Result<Option<KeyValue>, MvccError>;
    /// A range, as the API's Range means it.
    fn range(&self, query: &RangeQuery) -> Result<RangeResult, MvccError>;
    /// The current revision, with what this transaction has changed so far.
    fn revision(&self) -> Revision;
    /// The compacted revision; -1 before the first compaction.
    fn compact_revision(&self) -> Revision;
}

impl Rows for ReadTxn {
    fn get(&self, key: &Bytes) -> Result<Option<KeyValue>, MvccError> {
        self.get(key)
    }

    fn range(&self, query: &RangeQuery) -> Result<RangeResult, MvccError> {
        self.range(query)
    }

    fn revision(&self) -> Revision {
        self.revision()
    }

    fn compact_revision(&self) -> Revision {
        self.compact_revision()
    }
}

impl Rows for WriteTxn<'_> {
    fn get(&self, key: &Bytes) -> Result<Option<KeyValue>, MvccError> {
        self.get(key)
    }

    fn range(&self, query: &RangeQuery) -> Result<RangeResult, MvccError> {
        self.range(query)
    }

    fn revision(&self) -> Revision {
        self.revision()
    }

    fn compact_revision(&self) -> Revision {
        self.compact_revision()
    }
}

/// Applies a transaction from the log.
pub(super) fn txn(
    state: &State,
    round: &mut Round,
    request: &TxnRequest,
) -> Result<wire::TxnResponse, Failure> {
    let mut txn = round.txn();
    let path = chosen_path(&txn, request)?;
    check(&state.lessor, &txn, request, &mut path.iter().copied())?;
    check_kept_keys(request, &path)?;
    let mut steps = path.iter().copied();
    let mut response = execute(&mut txn, request, &mut steps)?;
    response.header = Some(header(txn.revision()));
    txn.end()?;
    Ok(response)
}

/// Runs a transaction that only reads, at a published revision.
///
/// # Errors
///
/// When one of its ranges asks for a revision that is compacted or not there yet.
pub fn read_only_txn(
    rows: &ReadTxn,
    request: &TxnRequest,
) -> Result<wire::TxnResponse, RequestError> {
    let run = || -> Result<wire::TxnResponse, Failure> {
        let path = chosen_path(rows, request)?;
        let succeeded = path[0];
        let operations = branch(request, succeeded);
        for operation in operations {
            if let Some(Request::RequestRange(range)) = &operation.request {
                check_range(rows, range)?;
            }
        }
        let mut responses = Vec::with_capacity(operations.len());
        for operation in operations {
            if let Some(Request::RequestRange(range)) = &operation.request {
                responses.push(response_op(Response::ResponseRange(execute_range(
                    rows, range,
                )?)));
            }
        }
        let header = Some(header(rows.revision()));
        Ok(wire::TxnResponse {
            header,
            succeeded,
            responses,
        })
    };
    run().map_err(|failure| match failure {
        Failure::Refused(error) => error,
        Failure::State(error) => {
            RequestError::Other(crate::error::Code::DataLoss, error.to_string())
        }
        Failure::Unknown | Failure::Invalid(_) => RequestError::UnknownMethod,
    })
}

/// Whether `request` holds nothing but top-level ranges; then it needs no log entry.
pub fn is_read_only(request: &TxnRequest) -> bool {
    ranges_only(request, |_| true)
}

/// Whether every operation is a serializable range; then it needs no confirmed leader either.
pub fn is_serializable(request: &TxnRequest) -> bool {
    ranges_only(request, |range| range.serializable)
}

fn ranges_only(request: &TxnRequest, accept: impl Fn(&RangeRequest) -> bool) -> bool {
    request.success.iter().chain(&request.failure).all(|operation| {
        matches!(&operation.request, Some(Request::RequestRange(range)) if accept(range))
    })
}

/// Which branch each transaction takes, this one first, then the nested ones of that branch in
/// order. All compare against the state before the first write.
fn chosen_path(rows: &impl Rows, request: &TxnRequest) -> Result<Vec<bool>, Failure> {
    let mut path = vec![compare_all(rows, &request.compare)?];
    for operation in branch(request, path[0]) {
        if let Some(Request::RequestTxn(nested)) = &operation.request {
            path.extend(chosen_path(rows, nested)?);
        }
    }
    Ok(path)
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded {
        &request.success
    } else {
        &request.failure
    }
}

fn compare_all(rows: &impl Rows, compares: &[Compare]) -> Result<bool, Failure> {
    for compare in compares {
        if !compare_one(rows, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Every key of the compare's range must pass; a range without keys compares as an absent key.
fn compare_one(rows: &impl Rows, compare: &Compare) -> Result<bool, Failure> {
    let interval = Interval::from_request(compare.key.clone(), compare.range_end.clone());
    if interval.end == End::Single {
        return Ok(match rows.get(&compare.key)? {
            Some(found) => passes(compare, &found),
            None => absent_passes(compare),
        });
    }
    let found = rows.range(&RangeQuery::new(interval))?;
    if found.kvs.is_empty() {
        return Ok(absent_passes(compare));
    }
    for encoded in &found.kvs {
        let found = KeyValue::decode(encoded).map_err(MvccError::from)?;
        if !passes(compare, &found) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A missing key has no value to compare with; everything else of it is 0.
fn absent_passes(compare: &Compare) -> bool {
    compare.target != CompareTarget::Value as i32 && passes(compare, &KeyValue::default())
}

fn passes(compare: &Compare, found: &KeyValue) -> bool {
    let number = |actual: i64, wanted: Option<i64>| actual.cmp(&wanted.unwrap_or(0));
    let union = compare.target_union.as_ref();
    let ordering = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => {
            let wanted = match union {
                Some(TargetUnion::Value(value)) => &value[..],
                _ => &[],
            };
            found.value[..].cmp(wanted)
        }
        Ok(CompareTarget::Create) => number(
            found.create_revision.get(),
            union.and_then(|u| match u {
                TargetUnion::CreateRevision(revision) => Some(*revision),
                _ => None,
            }),
        ),
        Ok(CompareTarget::Mod) => number(
            found.mod_revision.get(),
            union.and_then(|u| match u {
                TargetUnion::ModRevision(revision) => Some(*revision),
                _ => None,
            }),
        ),
        Ok(CompareTarget::Version) => number(
            found.version,
            union.and_then(|u| match u {
                TargetUnion::Version(version) => Some(*version),
                _ => None,
            }),
        ),
        Ok(CompareTarget::Lease) => number(
            found.lease.get(),
            union.and_then(|u| match u {
                TargetUnion::Lease(lease) => Some(*lease),
                _ => None,
            }),
        ),
        // etcd leaves the result at "equal" for a target that it does not know.
        Err(_) => std::cmp::Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        // etcd lets a result that it does not know pass.
        Err(_) => true,
    }
}

/// Refuses the transaction as a whole before anything is written.
fn check(
    lessor: &Lessor,
    rows: &impl Rows,
    request: &TxnRequest,
    steps: &mut impl Iterator<Item = bool>,
) -> Result<(), Failure> {
    let succeeded = steps
        .next()
        .expect("the path has a step for each transaction on it");
    for operation in branch(request, succeeded) {
        match &operation.request {
            Some(Request::RequestRange(range)) => check_range(rows, range)?,
            Some(Request::RequestPut(put)) => kv::check_put(lessor, rows, put)?,
            Some(Request::RequestDeleteRange(_)) | None => {}
            Some(Request::RequestTxn(nested)) => check(lessor, rows, nested, steps)?,
        }
    }
    Ok(())
}

/// etcd compares the raw number here, so that a negative one is "compacted" once anything is.
fn check_range(rows: &impl Rows, range: &RangeRequest) -> Result<(), RequestError> {
    if range.revision == 0 {
        return Ok(());
    }
    if range.revision > rows.revision().get() {
        return Err(RequestError::FutureRevision);
    }
    if range.revision < rows.compact_revision().get() {
        return Err(RequestError::Compacted);
    }
    Ok(())
}

/// Refuses a put that keeps the value or lease of a key which the same transaction deletes before.
///
/// The API refuses such an overlap; etcd's does not see it when the delete is a from-key one, and
/// its apply then panics at every start. An entry of a Go leader's log must not do that to us.
fn check_kept_keys(request: &TxnRequest, path: &[bool]) -> Result<(), Failure> {
    let mut deleted = Vec::new();
    walk(
        request,
        &mut path.iter().copied(),
        &mut |operation| match operation {
            Request::RequestDeleteRange(delete) => {
                deleted.push(Interval::from_request(
                    delete.key.clone(),
                    delete.range_end.clone(),
                ));
                Ok(())
            }
            Request::RequestPut(put) if put.ignore_value || put.ignore_lease => {
                let gone = deleted.iter().any(|interval| interval.contains(&put.key));
                if gone {
                    Err(RequestError::KeyNotFound.into())
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        },
    )
}

fn walk(
    request: &TxnRequest,
    steps: &mut impl Iterator<Item = bool>,
    visit: &mut impl FnMut(&Request) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let succeeded = steps
        .next()
        .expect("the path has a step for each transaction on it");
    for operation in branch(request, succeeded)
        .iter()
        .filter_map(|o| o.request.as_ref())
    {
        match operation {
            Request::RequestTxn(nested) => walk(nested, steps, visit)?,
            other => visit(other)?,
        }
    }
    Ok(())
}

fn execute(
    txn: &mut WriteTxn<'_>,
    request: &TxnRequest,
    steps: &mut impl Iterator<Item = bool>,
) -> Result<wire::TxnResponse, Failure> {
    let succeeded = steps
        .next()
        .expect("the path has a step for each transaction on it");
    let operations = branch(request, succeeded);
    let mut responses = Vec::with_capacity(operations.len());
    for operation in operations {
        responses.push(match &operation.request {
            Some(Request::RequestRange(range)) => {
                response_op(Response::ResponseRange(execute_range(txn, range)?))
            }
            Some(Request::RequestPut(put)) => {
                response_op(Response::ResponsePut(kv::put_in(txn, put)?))
            }
            Some(Request::RequestDeleteRange(delete)) => {
                response_op(Response::ResponseDeleteRange(kv::delete_in(txn, delete)?))
            }
            Some(Request::RequestTxn(nested)) => {
                response_op(Response::ResponseTxn(execute(txn, nested, steps)?))
            }
            None => wire::ResponseOp::default(),
        });
    }
    // A nested answer has a header without a revision, as etcd's has; the outermost gets its own.
    Ok(wire::TxnResponse {
        header: Some(ResponseHeader::default()),
        succeeded,
        responses,
    })
}

fn execute_range(rows: &impl Rows, range: &RangeRequest) -> Result<wire::RangeResponse, Failure> {
    let query = range_query(range)?;
    let found = rows.range(&query)?;
    Ok(wire::RangeResponse {
        header: Some(header(found.revision)),
        kvs: found.kvs,
        more: found.more,
        count: found.count,
    })
}

fn response_op(response: Response) -> wire::ResponseOp {
    wire::ResponseOp {
        response: Some(response),
    }
}
