//! What apply answers to the request that waits, if one does on this member.

use trilith_proto::etcdserverpb as pb;
use trilith_proto::wire;

use crate::error::RequestError;

/// The result of one applied entry.
pub type Applied = Result<Reply, RequestError>;

/// The answer of one applied entry. Headers carry the revision only; `api` fills in the rest.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing but that it was applied.
    Done,
    /// Answer to a put.
    Put(wire::PutResponse),
    /// Answer to a delete.
    DeleteRange(wire::DeleteRangeResponse),
    /// Answer to a transaction.
    Txn(wire::TxnResponse),
    /// Answer to a compaction: the current revision.
    Compact(pb::CompactionResponse),
    /// Answer to a lease grant.
    LeaseGrant(pb::LeaseGrantResponse),
    /// Answer to a lease revoke.
    LeaseRevoke(pb::LeaseRevokeResponse),
    /// Answer to a lease checkpoint.
    LeaseCheckpoint(pb::LeaseCheckpointResponse),
    /// Answer to an alarm request.
    Alarm(pb::AlarmResponse),
    /// Answer to what concerns users and roles.
    Auth(AuthReply),
}

/// The answer of an applied entry that concerns users and roles.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthReply {
    /// Something was changed; all answers that say no more are alike.
    Changed(Option<pb::ResponseHeader>),
    /// The token of a user.
    Authenticated(pb::AuthenticateResponse),
    /// Whether authentication is on.
    Status(pb::AuthStatusResponse),
    /// The roles of a user.
    User(pb::AuthUserGetResponse),
    /// The names of all users.
    Users(pb::AuthUserListResponse),
    /// The permissions of a role.
    Role(pb::AuthRoleGetResponse),
    /// The names of all roles.
    Roles(pb::AuthRoleListResponse),
}
