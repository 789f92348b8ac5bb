//! Bounds that more than one module must agree on, each with its reason.

/// Longest gap between committed and applied before proposals are refused as "too many requests".
///
/// etcd's number (`server/etcdserver/v3_server.go`, `maxGapBetweenApplyAndCommitIndex`).
pub const COMMITTED_UNAPPLIED_MAX: u64 = 5000;

/// The same for lease revokes, with the feature gate `PriorityRequest`: etcd's number.
pub const PRIORITY_UNAPPLIED_MAX: u64 = 10_000;

/// Bytes that a gRPC message may have beyond `--max-request-bytes`, for its envelope: etcd's
/// number.
pub const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;

/// Entries that one apply round takes into one RocksDB write at most, so that the first of them
/// does not wait for more than a few milliseconds of others.
pub const APPLY_ROUND_ENTRIES_MAX: usize = 1024;

/// Bytes of entries after which an apply round is written, for the same reason.
pub const APPLY_ROUND_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How deep a transaction may nest. etcd allows as many levels as `--max-txn-ops`; prost refuses to
/// decode more than 100 nested messages, of which a level takes two, and an entry that was accepted
/// must be readable at every later start.
pub const TXN_DEPTH_MAX: usize = 40;

/// grpc-go's bound on a message that is sent: what a signed 32-bit length holds.
pub const GRPC_SEND_BYTES_MAX: usize = i32::MAX as usize;
