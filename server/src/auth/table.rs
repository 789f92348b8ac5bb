//! The table of users and roles: every change that an entry can ask for, in etcd's order of checks.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use trilith_proto::authpb::permission::Type;
use trilith_proto::authpb::{Permission, Role, User, UserAddOptions};
use trilith_proto::etcdserverpb as pb;

use super::order::insert_permission;
use super::permission::{Access, KeyRange, Permissions, is_valid_range};
use super::row;
use crate::error::{Code, RequestError};
use crate::storage::{Batch, Family, StorageError, View};

/// Users and roles at one moment.
#[derive(Clone, Debug, Default)]
pub struct Table {
    enabled: bool,
    /// Counts changes; what was decided at an older one is decided anew.
    revision: u64,
    users: BTreeMap<String, Arc<Account>>,
    roles: BTreeMap<String, Arc<Role>>,
}

/// A user, and what its roles allow it.
#[derive(Clone, Debug)]
struct Account {
    row: User,
    permissions: Permissions,
}

/// In whose name an entry stands, as its proposer has stamped it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller<'a> {
    /// The user; empty when nobody has authenticated.
    pub name: &'a str,
    /// The auth revision at which the proposer looked; 0 without a user.
    pub revision: u64,
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// The client is refused.
    Refused(RequestError),
    /// The entry holds a password and no hash, as etcd before 3.5 wrote it. Each member would hash
    /// it with a salt of its own, so that their states would differ.
    PlainPassword,
}

impl From<RequestError> for AuthError {
    fn from(error: RequestError) -> Self {
        Self::Refused(error)
    }
}

type Changed = Result<(), AuthError>;

impl Table {
    pub(super) fn load(view: &View) -> Result<Self, StorageError> {
        let mut table = Self {
            enabled: row::enabled(view)?,
            revision: row::revision(view)?.unwrap_or(0),
            ..Self::default()
        };
        for (name, role) in row::all::<Role>(view, Family::AuthRole)? {
            table.roles.insert(name, Arc::new(role));
        }
        for (name, user) in row::all::<User>(view, Family::AuthUser)? {
            table.set_account(name, user);
        }
        Ok(table)
    }

    /// Whether authentication is on.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The revision of users and roles.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Turns authentication on; that it is on already is no error. The revision stays.
    pub fn enable(&mut self, batch: &mut Batch) -> Changed {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(RequestError::RootUserNotExist)?;
        if !root.is_root() {
            return Err(RequestError::RootRoleNotExist.into());
        }
        self.enabled = true;
        row::put_enabled(batch, true);
        Ok(())
    }

    /// Turns authentication off; that it is off already is no error, and no change.
    pub fn disable(&mut self, batch: &mut Batch) -> Changed {
        if self.enabled {
            self.enabled = false;
            row::put_enabled(batch, false);
            self.next_revision(batch);
        }
        Ok(())
    }

    /// Adds a user.
    pub fn add_user(&mut self, request: &pb::AuthUserAddRequest, batch: &mut Batch) -> Changed {
        if request.name.is_empty() {
            return Err(RequestError::UserEmpty.into());
        }
        if self.users.contains_key(&request.name) {
            return Err(RequestError::UserAlreadyExist.into());
        }
        // etcd stores options that are all default, too.
        let options = request.options.unwrap_or_default();
        let password = if options.no_password {
            Bytes::new()
        } else {
            password(&request.password, &request.hashed_password)?
        };
        let user = User {
            name: Bytes::from(request.name.clone()),
            password,
            roles: Vec::new(),
            options: Some(options),
        };
        self.put_user(&request.name, user, batch);
        self.next_revision(batch);
        Ok(())
    }

    /// Deletes a user; not root, while authentication is on.
    pub fn delete_user(&mut self, name: &str, batch: &mut Batch) -> Changed {
        if self.enabled && name == ROOT {
            return Err(RequestError::InvalidAuthMgmt.into());
        }
        if self.users.remove(name).is_none() {
            return Err(RequestError::UserNotFound.into());
        }
        row::delete_user(batch, name);
        self.next_revision(batch);
        Ok(())
    }

    /// Gives a user another password; a user without one keeps none.
    pub fn change_password(
        &mut self,
        request: &pb::AuthUserChangePasswordRequest,
        batch: &mut Batch,
    ) -> Changed {
        let mut user = self.user(&request.name)?.row.clone();
        user.password = if has_no_password(&user) {
            Bytes::new()
        } else {
            password(&request.password, &request.hashed_password)?
        };
        self.put_user(&request.name, user, batch);
        self.next_revision(batch);
        Ok(())
    }

    /// Grants a role to a user. One that it has already is no error, and no change.
    ///
    /// The role root need not exist: etcd looks at its name only.
    pub fn grant_role(&mut self, name: &str, role: &str, batch: &mut Batch) -> Changed {
        let mut user = self.user(name)?.row.clone();
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(RequestError::RoleNotFound.into());
        }
        if user.roles.iter().any(|held| held == role) {
            return Ok(());
        }
        user.roles.push(role.to_owned());
        user.roles.sort();
        self.put_user(name, user, batch);
        self.next_revision(batch);
        Ok(())
    }

    /// Takes a role from a user; not root's own, while authentication is on.
    pub fn revoke_role(&mut self, name: &str, role: &str, batch: &mut Batch) -> Changed {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(RequestError::InvalidAuthMgmt.into());
        }
        let mut user = self.user(name)?.row.clone();
        if !drop_role(&mut user, role) {
            return Err(RequestError::RoleNotGranted.into());
        }
        self.put_user(name, user, batch);
        self.next_revision(batch);
        Ok(())
    }

    /// Adds a role that allows nothing.
    pub fn add_role(&mut self, name: &str, batch: &mut Batch) -> Changed {
        if name.is_empty() {
            return Err(RequestError::RoleEmpty.into());
        }
        if self.roles.contains_key(name) {
            return Err(RequestError::RoleAlreadyExist.into());
        }
        let role = Role {
            name: Bytes::from(name.to_owned()),
            key_permission: Vec::new(),
        };
        self.put_role(name, role, batch);
        self.next_revision(batch);
        Ok(())
    }

    /// Deletes a role and takes it from all users; not root, while authentication is on.
    pub fn delete_role(&mut self, name: &str, batch: &mut Batch) -> Changed {
        if self.enabled && name == ROOT {
            return Err(RequestError::InvalidAuthMgmt.into());
        }
        if self.roles.remove(name).is_none() {
            return Err(RequestError::RoleNotFound.into());
        }
        row::delete_role(batch, name);
        for (holder, mut user) in self.holders(name) {
            drop_role(&mut user, name);
            self.put_user(&holder, user, batch);
        }
        self.next_revision(batch);
        Ok(())
    }

    /// Lets a role do something with a range, or something else if it has that range already.
    pub fn grant_permission(
        &mut self,
        request: &pb::AuthRoleGrantPermissionRequest,
        batch: &mut Batch,
    ) -> Changed {
        let Some(permission) = &request.perm else {
            return Err(RequestError::PermissionNotGiven.into());
        };
        if !is_valid_range(&permission.key, &permission.range_end) {
            return Err(RequestError::InvalidAuthMgmt.into());
        }
        let mut role = self.role(&request.name)?.clone();
        insert_permission(&mut role.key_permission, permission);
        self.change_role(&request.name, role, batch);
        Ok(())
    }

    /// Takes a range from a role.
    pub fn revoke_permission(
        &mut self,
        request: &pb::AuthRoleRevokePermissionRequest,
        batch: &mut Batch,
    ) -> Changed {
        let mut role = self.role(&request.role)?.clone();
        let before = role.key_permission.len();
        role.key_permission
            .retain(|held| held.key != request.key || held.range_end != request.range_end);
        if role.key_permission.len() == before {
            return Err(RequestError::PermissionNotGranted.into());
        }
        self.change_role(&request.role, role, batch);
        Ok(())
    }

    /// The token of a user that the proposer has authenticated: a name that it made up, and the
    /// index of the entry.
    pub fn authenticate(
        &self,
        request: &pb::InternalAuthenticateRequest,
        index: u64,
    ) -> Result<String, RequestError> {
        if !self.enabled {
            return Err(RequestError::AuthNotEnabled);
        }
        match self.users.get(&request.name) {
            Some(user) if !has_no_password(&user.row) => {
                Ok(format!("{}.{index}", request.simple_token))
            }
            _ => Err(RequestError::AuthFailed),
        }
    }

    /// The roles of a user.
    pub fn user_roles(&self, name: &str) -> Result<Vec<String>, RequestError> {
        Ok(self.user(name)?.row.roles.clone())
    }

    /// All names of users, in order.
    pub fn user_names(&self) -> Vec<String> {
        self.users.keys().cloned().collect()
    }

    /// All names of roles, in order.
    pub fn role_names(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    /// What a role allows; root, everything, whatever its row says.
    pub fn role_permissions(&self, name: &str) -> Result<Vec<Permission>, RequestError> {
        let role = self.role(name)?;
        if name != ROOT {
            return Ok(role.key_permission.clone());
        }
        Ok(vec![Permission {
            perm_type: Type::Readwrite as i32,
            key: Bytes::new(),
            range_end: Bytes::from_static(&[0]),
        }])
    }

    /// Whether a user has a role.
    pub fn has_role(&self, user: &str, role: &str) -> bool {
        let user = self.users.get(user);
        user.is_some_and(|user| user.row.roles.iter().any(|held| held == role))
    }

    /// Refuses whoever is not root, while authentication is on. The caller's revision is not looked
    /// at: that is etcd's way.
    pub fn check_root(&self, caller: Caller<'_>) -> Result<(), RequestError> {
        if !self.enabled {
            return Ok(());
        }
        if caller.name.is_empty() {
            return Err(RequestError::UserEmpty);
        }
        if self.user(caller.name)?.is_root() {
            Ok(())
        } else {
            Err(RequestError::PermissionDenied)
        }
    }

    /// The stamp of an entry that the server makes by itself while authentication is on: root's, at
    /// the revision of now.
    pub fn root_stamp(&self) -> Option<pb::RequestHeader> {
        self.enabled.then(|| pb::RequestHeader {
            username: ROOT.to_owned(),
            auth_revision: self.revision,
            ..Default::default()
        })
    }

    /// Refuses a caller who may not do this with all of these keys, while authentication is on.
    pub fn check_keys(
        &self,
        caller: Caller<'_>,
        access: Access,
        range: &KeyRange,
    ) -> Result<(), RequestError> {
        if !self.enabled {
            return Ok(());
        }
        if caller.revision == 0 {
            return Err(RequestError::UserEmpty);
        }
        if caller.revision < self.revision {
            return Err(RequestError::AuthOldRevision);
        }
        match self.users.get(caller.name) {
            Some(user) if user.is_root() || user.permissions.allow(access, range) => Ok(()),
            _ => Err(RequestError::PermissionDenied),
        }
    }

    fn user(&self, name: &str) -> Result<&Account, RequestError> {
        let user = self.users.get(name);
        user.map(Arc::as_ref).ok_or(RequestError::UserNotFound)
    }

    fn role(&self, name: &str) -> Result<&Role, RequestError> {
        let role = self.roles.get(name);
        role.map(Arc::as_ref).ok_or(RequestError::RoleNotFound)
    }

    fn holders(&self, role: &str) -> Vec<(String, User)> {
        let holds = |user: &User| user.roles.iter().any(|held| held == role);
        self.users
            .iter()
            .filter(|(_, account)| holds(&account.row))
            .map(|(name, account)| (name.clone(), account.row.clone()))
            .collect()
    }

    fn put_user(&mut self, name: &str, user: User, batch: &mut Batch) {
        row::put_user(batch, name, &user);
        self.set_account(name.to_owned(), user);
    }

    fn set_account(&mut self, name: String, row: User) {
        let roles = row.roles.iter().filter_map(|role| self.roles.get(role));
        let permissions = Permissions::merge(roles.flat_map(|role| &role.key_permission));
        let account = Account { row, permissions };
        self.users.insert(name, Arc::new(account));
    }

    fn put_role(&mut self, name: &str, role: Role, batch: &mut Batch) {
        row::put_role(batch, name, &role);
        self.roles.insert(name.to_owned(), Arc::new(role));
    }

    /// Puts a role that allows something else than before.
    fn change_role(&mut self, name: &str, role: Role, batch: &mut Batch) {
        self.put_role(name, role, batch);
        for (holder, user) in self.holders(name) {
            self.set_account(holder, user);
        }
        self.next_revision(batch);
    }

    fn next_revision(&mut self, batch: &mut Batch) {
        self.revision = self.revision.wrapping_add(1);
        row::put_revision(batch, self.revision);
    }
}

impl Account {
    fn is_root(&self) -> bool {
        self.row.roles.iter().any(|role| role == ROOT)
    }
}

/// Takes a role from a user. False if it does not have it.
fn drop_role(user: &mut User, role: &str) -> bool {
    let before = user.roles.len();
    user.roles.retain(|held| held != role);
    user.roles.len() < before
}

fn has_no_password(user: &User) -> bool {
    let options: Option<&UserAddOptions> = user.options.as_ref();
    options.is_some_and(|options| options.no_password)
}

/// The hash to store: the proposer has made it and put it into base64.
fn password(plain: &str, hashed: &str) -> Result<Bytes, AuthError> {
    if hashed.is_empty() && !plain.is_empty() {
        return Err(AuthError::PlainPassword);
    }
    // Go's decoder passes over line ends.
    let encoded: Vec<u8> = hashed.bytes().filter(|b| !b"\r\n".contains(b)).collect();
    match BASE64.decode(encoded) {
        Ok(hash) => Ok(Bytes::from(hash)),
        // etcd has no gRPC error for it, and so sends its inner text.
        Err(_) => Err(RequestError::Other(Code::Unknown, NO_PASSWORD_USER.to_owned()).into()),
    }
}

/// Go's `base64.StdEncoding`: padded, and lenient about the bits behind the last byte.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

const NO_PASSWORD_USER: &str =
    "auth: authentication failed, password was given for no password user";

/// The user and the role that etcd treats apart.
const ROOT: &str = "root";
