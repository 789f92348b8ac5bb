//! Users, roles and permissions through the log, and what authentication forbids other requests.

use trilith_proto::etcdserverpb as pb;
use trilith_proto::etcdserverpb::InternalRaftRequest;
use trilith_proto::etcdserverpb::request_op::Request;

use super::kv::header;
use super::reply::{AuthReply, Reply};
use super::{Failure, State};
use crate::auth::{Access, AuthError, Caller, Table};
use crate::error::RequestError;
use crate::ids::{Index, LeaseId};
use crate::mvcc::{Interval, Round};
use crate::storage::Batch;

impl From<AuthError> for Failure {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Refused(error) => Self::Refused(error),
            AuthError::PlainPassword => Self::Invalid(
                "it holds a password without its hash, as etcd before 3.5 wrote it, which members \
                 cannot apply alike; take a snapshot with that etcd and restore it"
                    .to_owned(),
            ),
        }
    }
}

/// Applies a request that concerns users and roles, if it is one.
pub(super) fn apply(
    state: &State,
    round: &mut Round,
    index: Index,
    request: &InternalRaftRequest,
) -> Option<Result<Reply, Failure>> {
    let header = Some(header(round.revision()));
    if let Some(made) = change(state, round.batch(), request) {
        let changed = |()| AuthReply::Changed(header);
        return Some(made.map(changed).map_err(Failure::from).map(Reply::Auth));
    }
    let answered = answer(&state.auth.table(), index, request, header)?;
    Some(answered.map(Reply::Auth).map_err(Failure::Refused))
}

fn change(
    state: &State,
    batch: &mut Batch,
    request: &InternalRaftRequest,
) -> Option<Result<(), AuthError>> {
    macro_rules! make {
        ($table:ident, $batch:ident => $change:expr) => {
            Some(state.auth.change(batch, |$table, $batch| $change))
        };
    }
    if request.auth_enable.is_some() {
        return make!(table, batch => table.enable(batch));
    }
    if request.auth_disable.is_some() {
        return make!(table, batch => table.disable(batch));
    }
    if let Some(add) = &request.auth_user_add {
        return make!(table, batch => table.add_user(add, batch));
    }
    if let Some(delete) = &request.auth_user_delete {
        return make!(table, batch => table.delete_user(&delete.name, batch));
    }
    if let Some(new) = &request.auth_user_change_password {
        return make!(table, batch => table.change_password(new, batch));
    }
    if let Some(grant) = &request.auth_user_grant_role {
        return make!(table, batch => table.grant_role(&grant.user, &grant.role, batch));
    }
    if let Some(revoke) = &request.auth_user_revoke_role {
        return make!(table, batch => table.revoke_role(&revoke.name, &revoke.role, batch));
    }
    if let Some(add) = &request.auth_role_add {
        return make!(table, batch => table.add_role(&add.name, batch));
    }
    if let Some(delete) = &request.auth_role_delete {
        return make!(table, batch => table.delete_role(&delete.role, batch));
    }
    if let Some(grant) = &request.auth_role_grant_permission {
        return make!(table, batch => table.grant_permission(grant, batch));
    }
    if let Some(revoke) = &request.auth_role_revoke_permission {
        return make!(table, batch => table.revoke_permission(revoke, batch));
    }
    None
}

/// What a request only asks. It stands in the log so that the answer has a place among changes.
fn answer(
    table: &Table,
    index: Index,
    request: &InternalRaftRequest,
    header: Option<pb::ResponseHeader>,
) -> Option<Result<AuthReply, RequestError>> {
    if let Some(authenticate) = &request.authenticate {
        let token = table.authenticate(authenticate, index.get());
        let answer = |token| AuthReply::Authenticated(pb::AuthenticateResponse { header, token });
        return Some(token.map(answer));
    }
    if request.auth_status.is_some() {
        return Some(Ok(AuthReply::Status(pb::AuthStatusResponse {
            header,
            enabled: table.is_enabled(),
            auth_revision: table.revision(),
        })));
    }
    if let Some(get) = &request.auth_user_get {
        let roles = table.user_roles(&get.name);
        let answer = |roles| AuthReply::User(pb::AuthUserGetResponse { header, roles });
        return Some(roles.map(answer));
    }
    if request.auth_user_list.is_some() {
        let users = table.user_names();
        return Some(Ok(AuthReply::Users(pb::AuthUserListResponse {
            header,
            users,
        })));
    }
    if let Some(get) = &request.auth_role_get {
        let perm = table.role_permissions(&get.role);
        let answer = |perm| AuthReply::Role(pb::AuthRoleGetResponse { header, perm });
        return Some(perm.map(answer));
    }
    if request.auth_role_list.is_some() {
        let roles = table.role_names();
        return Some(Ok(AuthReply::Roles(pb::AuthRoleListResponse {
            header,
            roles,
        })));
    }
    None
}

/// Refuses what the user in whose name the request stands may not do.
///
/// What no keys are named in, as grants and compactions, the API of the proposer has checked: etcd
/// does not look at it again.
pub(super) fn check(
    state: &State,
    round: &mut Round,
    request: &InternalRaftRequest,
) -> Result<(), Failure> {
    // Almost always authentication is off, and every entry asks.
    if !state.auth.is_enabled() {
        return Ok(());
    }
    let stamp = request.header.as_ref();
    let caller = stamp.map_or(Caller::default(), |stamp| Caller {
        name: &stamp.username,
        revision: stamp.auth_revision,
    });
    let table = &*state.auth.table();
    if needs_root(request) {
        return Ok(table.check_root(caller)?);
    }
    if let Some(get) = &request.auth_user_get {
        let own = get.name == caller.name;
        return Ok(table
            .check_root(caller)
            .or_else(|e| own.then_some(()).ok_or(e))?);
    }
    if let Some(get) = &request.auth_role_get {
        let own = table.has_role(caller.name, &get.role);
        return Ok(table
            .check_root(caller)
            .or_else(|e| own.then_some(()).ok_or(e))?);
    }
    let mut check = Check {
        table,
        caller,
        round,
    };
    if let Some(range) = &request.range {
        check.range(&range.key, &range.range_end)?;
    }
    if let Some(put) = &request.put {
        check.put(put)?;
    }
    if let Some(delete) = &request.delete_range {
        check.delete_range(delete)?;
    }
    if let Some(txn) = &request.txn {
        check.txn(txn)?;
    }
    if let Some(revoke) = &request.lease_revoke {
        check.lease(revoke.id)?;
    }
    Ok(())
}

fn needs_root(request: &InternalRaftRequest) -> bool {
    request.auth_enable.is_some()
        || request.auth_disable.is_some()
        || request.auth_user_add.is_some()
        || request.auth_user_delete.is_some()
        || request.auth_user_change_password.is_some()
        || request.auth_user_grant_role.is_some()
        || request.auth_user_revoke_role.is_some()
        || request.auth_user_list.is_some()
        || request.auth_role_add.is_some()
        || request.auth_role_delete.is_some()
        || request.auth_role_grant_permission.is_some()
        || request.auth_role_revoke_permission.is_some()
        || request.auth_role_list.is_some()
}

/// The checks of one request.
struct Check<'a, 'r> {
    table: &'a Table,
    caller: Caller<'a>,
    round: &'r mut Round,
}

impl Check<'_, '_> {
    fn keys(&self, access: Access, interval: &Interval) -> Result<(), Failure> {
        Ok(self
            .table
            .check_keys(self.caller, access, &interval.bounds())?)
    }

    fn range(&self, key: &bytes::Bytes, range_end: &bytes::Bytes) -> Result<(), Failure> {
        let interval = Interval::from_request(key.clone(), range_end.clone());
        self.keys(Access::Read, &interval)
    }

    fn put(&mut self, put: &pb::PutRequest) -> Result<(), Failure> {
        let key = Interval::single(put.key.clone());
        self.keys(Access::Write, &key)?;
        // Whoever hangs a key on a lease must be able to revoke it.
        self.lease(put.lease)?;
        if put.prev_kv {
            self.keys(Access::Read, &key)?;
        }
        Ok(())
    }

    fn delete_range(&self, delete: &pb::DeleteRangeRequest) -> Result<(), Failure> {
        let interval = Interval::from_request(delete.key.clone(), delete.range_end.clone());
        self.keys(Access::Write, &interval)?;
        if delete.prev_kv {
            self.keys(Access::Read, &interval)?;
        }
        Ok(())
    }

    /// Both branches, whichever is taken.
    fn txn(&mut self, txn: &pb::TxnRequest) -> Result<(), Failure> {
        for compare in &txn.compare {
            self.range(&compare.key, &compare.range_end)?;
        }
        let operations = txn.success.iter().chain(&txn.failure);
        for operation in operations.filter_map(|operation| operation.request.as_ref()) {
            match operation {
                Request::RequestRange(range) => self.range(&range.key, &range.range_end)?,
                Request::RequestPut(put) => self.put(put)?,
                Request::RequestDeleteRange(delete) => self.delete_range(delete)?,
                Request::RequestTxn(nested) => self.txn(nested)?,
            }
        }
        Ok(())
    }

    /// All keys of a lease, if it has any, have to be the caller's to write; root's revision is not
    /// looked at here.
    fn lease(&mut self, id: i64) -> Result<(), Failure> {
        if id == 0 || self.table.check_root(self.caller).is_ok() {
            return Ok(());
        }
        let keys = self.round.txn().lease_keys(LeaseId::new(id))?;
        for key in keys {
            self.keys(Access::Write, &Interval::single(key))?;
        }
        Ok(())
    }
}
