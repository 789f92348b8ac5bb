//! The rows, byte for byte those of etcd's buckets.
//!
//! ```text
//! family auth:       "authEnabled"   ->  one byte, 1 or 0; no row before it is first enabled
//!                    "authRevision"  ->  u64
//! family auth_user:  name            ->  authpb.User
//! family auth_role:  name            ->  authpb.Role
//! ```

use prost::Message;
use trilith_proto::authpb::{Role, User};

use crate::storage::{Batch, Family, StorageError, View};

/// The revision that a member writes when it has none: at its first start, outside of the log.
pub(super) const FIRST_REVISION: u64 = 1;

const ENABLED: &[u8] = b"authEnabled";
const REVISION: &[u8] = b"authRevision";

pub(super) fn put_enabled(batch: &mut Batch, enabled: bool) {
    batch.put(Family::Auth, ENABLED, [u8::from(enabled)]);
}

pub(super) fn put_revision(batch: &mut Batch, revision: u64) {
    batch.put(Family::Auth, REVISION, revision.to_be_bytes());
}

pub(super) fn put_user(batch: &mut Batch, name: &str, user: &User) {
    batch.put(Family::AuthUser, name, user.encode_to_vec());
}

pub(super) fn delete_user(batch: &mut Batch, name: &str) {
    batch.delete(Family::AuthUser, name);
}

pub(super) fn put_role(batch: &mut Batch, name: &str, role: &Role) {
    batch.put(Family::AuthRole, name, role.encode_to_vec());
}

pub(super) fn delete_role(batch: &mut Batch, name: &str) {
    batch.delete(Family::AuthRole, name);
}

/// Whether authentication is on. As in etcd, anything but a lone 1 is off.
pub(super) fn enabled(view: &View) -> Result<bool, StorageError> {
    let row = view.get(Family::Auth, ENABLED)?;
    Ok(row.is_some_and(|row| row[..] == [1]))
}

/// The revision; none before the first start has written it.
pub(super) fn revision(view: &View) -> Result<Option<u64>, StorageError> {
    let Some(row) = view.get(Family::Auth, REVISION)? else {
        return Ok(None);
    };
    let bytes = row[..].try_into().map_err(|_wrong_length| {
        StorageError::corrupt(Family::Auth, "the revision is not 8 bytes long")
    })?;
    Ok(Some(u64::from_be_bytes(bytes)))
}

/// Every user, or every role, with the name that its row has.
pub(super) fn all<M: Message + Default>(
    view: &View,
    family: Family,
) -> Result<Vec<(String, M)>, StorageError> {
    let mut found = Vec::new();
    let mut rows = view.scan(family, &[], None);
    while let Some((key, value)) = rows.next()? {
        let name = String::from_utf8(key.to_vec())
            .map_err(|_| StorageError::corrupt(family, "the name is no text"))?;
        let row = M::decode(value)
            .map_err(|error| StorageError::corrupt(family, format!("{name}: {error}")))?;
        found.push((name, row));
    }
    Ok(found)
}
