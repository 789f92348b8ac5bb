//! Replies that carry stored key-values, spliced instead of encoded.
//!
//! The state keeps each `mvccpb.KeyValue` encoded. In protobuf, a message inside a message and a
//! bytes field look the same, so these structs declare such members as bytes and pass through
//! what is stored. Names, numbers and the encoding are those of the messages of the same name in
//! [`crate::etcdserverpb`]; the tests hold them to that.

use bytes::Bytes;
use prost::Message;

use crate::etcdserverpb::ResponseHeader;

/// `etcdserverpb.RangeResponse` with encoded key-values.
#[derive(Clone, PartialEq, Message)]
pub struct RangeResponse {
    /// Who answered, and at which revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Encoded `mvccpb.KeyValue`, in the order asked for.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub kvs: Vec<Bytes>,
    /// The limit cut the result.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// Keys in the range, whatever the limit.
    #[prost(int64, tag = "4")]
    pub count: i64,
}

/// `etcdserverpb.RangeStreamResponse` with encoded key-values.
#[derive(Clone, PartialEq, Message)]
pub struct RangeStreamResponse {
    /// The next part of the answer.
    #[prost(message, optional, tag = "1")]
    pub range_response: Option<RangeResponse>,
}

/// `etcdserverpb.PutResponse` with an encoded key-value.
#[derive(Clone, PartialEq, Message)]
pub struct PutResponse {
    /// Who answered, and at which revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Encoded `mvccpb.KeyValue` that the put replaced, if it was asked for and there was one.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub prev_kv: Option<Bytes>,
}

/// `etcdserverpb.DeleteRangeResponse` with encoded key-values.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteRangeResponse {
    /// Who answered, and at which revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// How many keys there were.
    #[prost(int64, tag = "2")]
    pub deleted: i64,
    /// Encoded `mvccpb.KeyValue` of each, if asked for.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub prev_kvs: Vec<Bytes>,
}

/// `etcdserverpb.ResponseOp` with encoded key-values.
#[derive(Clone, PartialEq, Message)]
pub struct ResponseOp {
    /// The answer to the operation at the same place in the txn.
    #[prost(oneof = "response_op::Response", tags = "1, 2, 3, 4")]
    pub response: Option<response_op::Response>,
}

/// The kinds of [`ResponseOp`].
pub mod response_op {
    use prost::Oneof;

    /// One kind for each kind of operation.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Response {
        /// Answer to a range.
        #[prost(message, tag = "1")]
        ResponseRange(super::RangeResponse),
        /// Answer to a put.
        #[prost(message, tag = "2")]
        ResponsePut(super::PutResponse),
        /// Answer to a delete.
        #[prost(message, tag = "3")]
        ResponseDeleteRange(super::DeleteRangeResponse),
        /// Answer to a nested txn.
        #[prost(message, tag = "4")]
        ResponseTxn(super::TxnResponse),
    }
}

/// `etcdserverpb.TxnResponse` with encoded key-values.
#[derive(Clone, PartialEq, Message)]
pub struct TxnResponse {
    /// Who answered, and at which revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// All comparisons held, and `success` ran.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    /// One for each operation that ran.
    #[prost(message, repeated, tag = "3")]
    pub responses: Vec<ResponseOp>,
}

/// `etcdserverpb.WatchResponse` with encoded events.
#[derive(Clone, PartialEq, Message)]
pub struct WatchResponse {
    /// Who answered, and at which revision.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The watcher; -1 when the response is about the whole stream.
    #[prost(int64, tag = "2")]
    pub watch_id: i64,
    /// First response of the watcher.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// Last response of the watcher.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// Oldest revision that can be watched, when the start was compacted away; else 0.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// Why the watcher was canceled.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// More of the same revision follows.
    #[prost(bool, tag = "7")]
    pub fragment: bool,
    /// Encoded `mvccpb.Event`.
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub events: Vec<Bytes>,
}
