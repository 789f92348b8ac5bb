//! What clients ask for, and how a member serves it: through the same parts, in the same order, as
//! the server's API does.

use std::ops::Range;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;
use trilith_proto::etcdserverpb as pb;
use trilith_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use trilith_proto::etcdserverpb::request_op::Request;
use trilith_server::apply::{Reply, range_query};
use trilith_server::error::RequestError;

use crate::answer::Answer;
use crate::model::{COMPACTED, FUTURE};
use crate::node::Running;
use crate::settings::lease;

/// A request.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Propose(Box<pb::InternalRaftRequest>),
    Read(pb::RangeRequest),
    Renew(i64),
}

/// What became of it, as far as the client knows.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Proposed(Result<Reply, RequestError>),
    Read(Box<Seen>),
    ReadFailed,
    Renewed(Result<Option<i64>, RequestError>),
    /// The connection broke, or the client gave up.
    Lost,
}

/// What a read has seen.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The last entry that it could see the effect of.
    pub(crate) applied: u64,
    pub(crate) revision: i64,
    pub(crate) result: Result<Answer, &'static str>,
}

/// What a client may know when it draws its next request.
pub(crate) struct Known<'a> {
    pub(crate) keys: usize,
    pub(crate) revision: i64,
    pub(crate) leases: &'a [i64],
    pub(crate) next_lease: i64,
    /// Most requests are about leases, and how long these live, in seconds.
    pub(crate) is_about_leases: bool,
    pub(crate) ttls: Range<i64>,
}

/// Draws a request.
pub(crate) fn draw(rng: &mut SmallRng, tag: u64, known: &Known<'_>) -> Call {
    let mut request = pb::InternalRaftRequest::default();
    let of = match known.is_about_leases && rng.random_bool(0.6) {
        true => 87..98,
        false => 0..100,
    };
    match rng.random_range(of) {
        0..38 => request.put = Some(put(rng, tag, known)),
        38..62 => return Call::Read(read(rng, known)),
        62..78 => request.txn = Some(txn(rng, tag, known)),
        78..84 => request.delete_range = Some(delete(rng, known)),
        84..87 => {
            request.compaction = Some(pb::CompactionRequest {
                revision: (known.revision - rng.random_range(0..20)).max(1),
                physical: false,
            });
        }
        87..91 => {
            request.lease_grant = Some(pb::LeaseGrantRequest {
                ttl: rng.random_range(known.ttls.clone()),
                id: known.next_lease,
            });
        }
        91..98 => match pick(rng, known.leases) {
            Some(id) => return Call::Renew(id),
            None => request.put = Some(put(rng, tag, known)),
        },
        _ => match pick(rng, known.leases) {
            Some(id) => request.lease_revoke = Some(pb::LeaseRevokeRequest { id }),
            None => request.put = Some(put(rng, tag, known)),
        },
    }
    request.header = Some(pb::RequestHeader {
        username: tag.to_string(),
        ..Default::default()
    });
    Call::Propose(Box::new(request))
}

/// Most often one of the last few, which are renewed again and again; some of those that change
/// their leader in between are older.
fn pick(rng: &mut SmallRng, leases: &[i64]) -> Option<i64> {
    let late = [4, 4, 40][rng.random_range(0..3)];
    let late = leases.len().saturating_sub(late);
    let late = &leases[late..];
    late.get(rng.random_range(0..late.len().max(1))).copied()
}

fn key(rng: &mut SmallRng, known: &Known<'_>) -> Bytes {
    Bytes::from(format!("k{:02}", rng.random_range(0..known.keys)))
}

fn put(rng: &mut SmallRng, tag: u64, known: &Known<'_>) -> pb::PutRequest {
    let lease = pick(rng, known.leases).filter(|_| rng.random_bool(0.2));
    pb::PutRequest {
        key: key(rng, known),
        value: Bytes::from(format!("v{tag}")),
        lease: lease.unwrap_or(0),
        prev_kv: rng.random_bool(0.3),
        ..Default::default()
    }
}

/// A key alone, some neighbors, or everything.
fn range(rng: &mut SmallRng, known: &Known<'_>) -> (Bytes, Bytes) {
    match rng.random_range(0..4) {
        0 => (key(rng, known), key(rng, known)),
        1 => (Bytes::from_static(b"k"), Bytes::from_static(b"l")),
        _ => (key(rng, known), Bytes::new()),
    }
}

fn delete(rng: &mut SmallRng, known: &Known<'_>) -> pb::DeleteRangeRequest {
    let (key, range_end) = match rng.random_bool(0.7) {
        true => (key(rng, known), Bytes::new()),
        false => range(rng, known),
    };
    pb::DeleteRangeRequest {
        key,
        range_end,
        prev_kv: rng.random_bool(0.3),
    }
}

fn read(rng: &mut SmallRng, known: &Known<'_>) -> pb::RangeRequest {
    let (key, range_end) = range(rng, known);
    let revision = match rng.random_range(0..5) {
        0 => (known.revision - rng.random_range(0..30)).max(1),
        _ => 0,
    };
    pb::RangeRequest {
        key,
        range_end,
        revision,
        limit: [0, 0, 0, 2][rng.random_range(0..4)],
        count_only: rng.random_bool(0.1),
        serializable: rng.random_bool(0.2),
        ..Default::default()
    }
}

fn txn(rng: &mut SmallRng, tag: u64, known: &Known<'_>) -> pb::TxnRequest {
    let (first, second) = (key(rng, known), key(rng, known));
    let compare = match rng.random_range(0..4) {
        0 => {
            let back = rng.random_range(0..5);
            (
                CompareTarget::Mod,
                TargetUnion::ModRevision(known.revision - back),
            )
        }
        1 => (CompareTarget::Create, TargetUnion::CreateRevision(0)),
        2 => (
            CompareTarget::Version,
            TargetUnion::Version(rng.random_range(0..3)),
        ),
        _ => (
            CompareTarget::Value,
            TargetUnion::Value(Bytes::from_static(b"v5")),
        ),
    };
    let result = [
        CompareResult::Equal,
        CompareResult::NotEqual,
        CompareResult::Less,
        CompareResult::Greater,
    ][rng.random_range(0..4)];
    let compare = pb::Compare {
        result: result as i32,
        target: compare.0 as i32,
        key: first.clone(),
        range_end: Bytes::new(),
        target_union: Some(compare.1),
    };
    let step = |request| pb::RequestOp {
        request: Some(request),
    };
    let revision = match rng.random_bool(0.2) {
        true => (known.revision - rng.random_range(0..30)).max(1),
        false => 0,
    };
    let read = |key: &Bytes| {
        step(Request::RequestRange(pb::RangeRequest {
            key: key.clone(),
            revision,
            ..Default::default()
        }))
    };
    let put = step(Request::RequestPut(pb::PutRequest {
        key: first.clone(),
        value: Bytes::from(format!("t{tag}")),
        ..Default::default()
    }));
    let mut success = vec![read(&first), put];
    if second != first {
        success.push(step(Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key: second.clone(),
            prev_kv: true,
            ..Default::default()
        })));
    }
    success.push(read(&second));
    pb::TxnRequest {
        compare: vec![compare],
        success,
        failure: vec![read(&first)],
    }
}

/// Lets a member serve a request; what becomes of it is in its outbox.
pub(crate) fn serve(running: &Running, tag: u64, call: Call) {
    match call {
        Call::Propose(request) => {
            let proposer = running.proposer.clone();
            running.spawn(tag, async move {
                Outcome::Proposed(proposer.propose(*request).await)
            });
        }
        Call::Renew(id) => {
            let primary = running.primary.clone();
            running.spawn(tag, async move {
                Outcome::Renewed(match primary.renew_now(lease(id)) {
                    Some(ttl) => Ok(Some(ttl)),
                    None => primary.renew_here(lease(id)).await,
                })
            });
        }
        Call::Read(request) => {
            let (reader, store) = (running.reader.clone(), running.store.clone());
            running.spawn(tag, async move {
                if !request.serializable && reader.linearizable().await.is_err() {
                    return Outcome::ReadFailed;
                }
                let query = range_query(&request).expect("a sound request");
                let read = store.read();
                let result = read.range(&query).map(Answer::of_range);
                Outcome::Read(Box::new(Seen {
                    applied: read.applied().get(),
                    revision: read.revision().get(),
                    result: result.map_err(|error| refusal(&error)),
                }))
            });
        }
    }
}

fn refusal(error: &trilith_server::mvcc::MvccError) -> &'static str {
    use trilith_server::mvcc::MvccError;
    match error {
        MvccError::Compacted { .. } => COMPACTED,
        MvccError::FutureRevision { .. } => FUTURE,
        _ => "the state cannot be read",
    }
}

/// All pairs of a store.
pub(crate) fn all(store: &trilith_server::mvcc::Store) -> Vec<trilith_proto::mvccpb::KeyValue> {
    let query = trilith_server::mvcc::RangeQuery::new(trilith_server::mvcc::Interval::everything());
    match store.read().range(&query).map(Answer::of_range) {
        Ok(Answer::Range { kvs, .. }) => kvs,
        _ => Vec::new(),
    }
}
