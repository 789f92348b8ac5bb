//! Answers of the server and of the model, in one form that can be compared.

use bytes::Bytes;
use prost::Message;
use trilith_proto::etcdserverpb as pb;
use trilith_proto::mvccpb::KeyValue;
use trilith_proto::wire::{self, response_op::Response};
use trilith_server::apply::Reply;
use trilith_server::mvcc::RangeResult;

/// What a client is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    Put {
        revision: i64,
        previous: Option<KeyValue>,
    },
    Delete {
        revision: i64,
        deleted: i64,
        previous: Vec<KeyValue>,
    },
    Range {
        kvs: Vec<KeyValue>,
        count: i64,
        more: bool,
    },
    Txn {
        revision: i64,
        succeeded: bool,
        parts: Vec<Self>,
    },
    Grant {
        id: i64,
        revision: i64,
    },
    /// Nothing but the revision.
    Revision(i64),
    Done,
}

impl Answer {
    /// What a range request is told that finds `kvs` without a limit.
    pub(crate) fn range(request: &pb::RangeRequest, mut kvs: Vec<KeyValue>) -> Self {
        let count = kvs.len() as i64;
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let more = limit > 0 && kvs.len() > limit && !request.count_only;
        if limit > 0 {
            kvs.truncate(limit);
        }
        if request.count_only {
            kvs.clear();
        }
        Self::Range { kvs, count, more }
    }

    /// As a part of a transaction, whose revision counts for all.
    pub(crate) fn without_revision(mut self) -> Self {
        match &mut self {
            Self::Put { revision, .. } | Self::Delete { revision, .. } => *revision = 0,
            _ => {}
        }
        self
    }

    pub(crate) fn of_reply(reply: Reply) -> Self {
        match reply {
            Reply::Put(put) => Self::of_put(put),
            Reply::DeleteRange(delete) => Self::of_delete(delete),
            Reply::Txn(txn) => Self::Txn {
                revision: revision(txn.header.as_ref()),
                succeeded: txn.succeeded,
                parts: txn.responses.into_iter().map(Self::of_part).collect(),
            },
            Reply::LeaseGrant(grant) => Self::Grant {
                id: grant.id,
                revision: revision(grant.header.as_ref()),
            },
            Reply::LeaseRevoke(revoke) => Self::Revision(revision(revoke.header.as_ref())),
            Reply::Compact(compact) => Self::Revision(revision(compact.header.as_ref())),
            _ => Self::Done,
        }
    }

    pub(crate) fn of_range(result: RangeResult) -> Self {
        Self::Range {
            kvs: pairs(result.kvs),
            count: result.count,
            more: result.more,
        }
    }

    fn of_put(put: wire::PutResponse) -> Self {
        Self::Put {
            revision: revision(put.header.as_ref()),
            previous: put.prev_kv.map(pair),
        }
    }

    fn of_delete(delete: wire::DeleteRangeResponse) -> Self {
        Self::Delete {
            revision: revision(delete.header.as_ref()),
            deleted: delete.deleted,
            previous: pairs(delete.prev_kvs),
        }
    }

    fn of_part(part: wire::ResponseOp) -> Self {
        let part = match part.response {
            Some(Response::ResponsePut(put)) => Self::of_put(put),
            Some(Response::ResponseDeleteRange(delete)) => Self::of_delete(delete),
            Some(Response::ResponseRange(range)) => Self::Range {
                kvs: pairs(range.kvs),
                count: range.count,
                more: range.more,
            },
            Some(Response::ResponseTxn(_)) | None => Self::Done,
        };
        part.without_revision()
    }
}

fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

fn pairs(kvs: Vec<Bytes>) -> Vec<KeyValue> {
    kvs.into_iter().map(pair).collect()
}

fn pair(encoded: Bytes) -> KeyValue {
    KeyValue::decode(encoded).expect("the server's own encoding")
}
