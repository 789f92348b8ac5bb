//! Where a permission stands among those of its role: part of the row, and so of etcd's bytes.

use trilith_proto::authpb::Permission;

/// Puts `permission` among those of a role, or changes the kind of the one with its range.
///
/// Only the first one with the key is looked at, as etcd does: with two ranges that begin at one
/// key, granting the other again leaves it there twice.
pub(super) fn insert_permission(held: &mut Vec<Permission>, permission: &Permission) {
    let at = held.partition_point(|other| other.key < permission.key);
    match held.get_mut(at) {
        Some(found) if found.key == permission.key && found.range_end == permission.range_end => {
            found.perm_type = permission.perm_type;
        }
        _ => {
            held.push(permission.clone());
            held.sort_by(|one, other| one.key.cmp(&other.key));
        }
    }
}
