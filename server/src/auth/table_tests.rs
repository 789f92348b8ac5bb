//! The table's changes in etcd's order of checks, and the rows that they leave, byte for byte.

use bytes::Bytes;
use tempfile::TempDir;
use trilith_proto::authpb::permission::Type;
use trilith_proto::authpb::{Permission, UserAddOptions};
use trilith_proto::etcdserverpb as pb;

use super::{Access, AuthError, AuthStore, Caller, KeyRange, Table};
use crate::error::RequestError;
use crate::storage::{Backend, BackendOptions, Batch, Family};

/// A store in a folder that goes with it.
struct Fixture {
    backend: Backend,
    auth: AuthStore,
    _dir: TempDir,
}

type Made = Result<(), AuthError>;

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = Backend::open(dir.path(), &BackendOptions::default()).expect("a new state");
        AuthStore::begin(&backend).expect("a new state");
        let auth = AuthStore::load(&backend.view()).expect("no users yet");
        Self {
            backend,
            auth,
            _dir: dir,
        }
    }

    /// Makes one change, and finds that the rows say the same as memory does afterwards.
    fn change(&self, change: impl FnOnce(&mut Table, &mut Batch) -> Made) -> Made {
        let mut batch = self.backend.batch();
        let before = format!("{:?}", self.auth.table());
        let made = self.auth.change(&mut batch, change);
        if made.is_err() {
            assert!(batch.is_empty(), "a refusal leaves rows");
            assert_eq!(before, format!("{:?}", self.auth.table()));
        }
        self.backend.write(batch).expect("a write to a new state");
        let loaded = AuthStore::load(&self.backend.view()).expect("our own rows");
        let (found, known) = (loaded.table(), self.auth.table());
        assert_eq!(format!("{found:?}"), format!("{known:?}"));
        made
    }

    fn user(&self, name: &str, no_password: bool) -> Made {
        let request = pb::AuthUserAddRequest {
            name: name.to_owned(),
            hashed_password: if no_password { "" } else { "aGFzaA==" }.to_owned(),
            options: no_password.then_some(UserAddOptions { no_password }),
            ..Default::default()
        };
        self.change(|table, batch| table.add_user(&request, batch))
    }

    fn role(&self, name: &str) -> Made {
        self.change(|table, batch| table.add_role(name, batch))
    }

    fn grant_role(&self, user: &str, role: &str) -> Made {
        self.change(|table, batch| table.grant_role(user, role, batch))
    }

    fn grant(&self, role: &str, kind: Type, key: &str, range_end: &str) -> Made {
        let request = pb::AuthRoleGrantPermissionRequest {
            name: role.to_owned(),
            perm: Some(Permission {
                perm_type: kind as i32,
                key: Bytes::from(key.to_owned()),
                range_end: Bytes::from(range_end.to_owned()),
            }),
        };
        self.change(|table, batch| table.grant_permission(&request, batch))
    }

    fn revoke(&self, role: &str, key: &str, range_end: &str) -> Made {
        let request = pb::AuthRoleRevokePermissionRequest {
            role: role.to_owned(),
            key: Bytes::from(key.to_owned()),
            range_end: Bytes::from(range_end.to_owned()),
        };
        self.change(|table, batch| table.revoke_permission(&request, batch))
    }

    fn password(&self, name: &str, password: &str, hashed_password: &str) -> Made {
        let request = pb::AuthUserChangePasswordRequest {
            name: name.to_owned(),
            password: password.to_owned(),
            hashed_password: hashed_password.to_owned(),
        };
        self.change(|table, batch| table.change_password(&request, batch))
    }

    fn enable(&self) -> Made {
        self.change(Table::enable)
    }

    fn revision(&self) -> u64 {
        self.auth.table().revision()
    }

    fn row(&self, family: Family, key: &str) -> Option<Bytes> {
        self.backend
            .get(family, key.as_bytes())
            .expect("a sound disk")
    }

    /// Root, and a user "u" with the role "r".
    fn with_users() -> Self {
        let fixture = Self::new();
        fixture.user("root", false).expect("a new user");
        fixture
            .grant_role("root", "root")
            .expect("it need not exist");
        fixture.user("u", false).expect("a new user");
        fixture.role("r").expect("a new role");
        fixture.grant_role("u", "r").expect("both exist");
        fixture
    }
}

fn refused(error: RequestError) -> Made {
    Err(AuthError::Refused(error))
}

fn point(key: &str) -> KeyRange {
    let key = Bytes::from(key.to_owned());
    let end = [&key[..], &[0]].concat();
    (key, Some(end.into()))
}

#[test]
fn a_first_start_writes_revision_one_and_later_ones_nothing() {
    let fixture = Fixture::new();
    let revision = || fixture.row(Family::Auth, "authRevision");
    assert_eq!(revision().as_deref(), Some(&[0, 0, 0, 0, 0, 0, 0, 1][..]));
    assert_eq!(fixture.row(Family::Auth, "authEnabled"), None);
    fixture.role("r").expect("a new role");
    AuthStore::begin(&fixture.backend).expect("a sound disk");
    assert_eq!(revision().as_deref(), Some(&[0, 0, 0, 0, 0, 0, 0, 2][..]));
}

#[test]
fn rows_are_etcds_byte_for_byte() {
    let fixture = Fixture::with_users();
    fixture.user("cert", true).expect("a new user");
    fixture.role("a").expect("a new role");
    fixture.grant_role("u", "a").expect("both exist");
    fixture
        .grant("r", Type::Readwrite, "k", "\0")
        .expect("a range");
    fixture.grant("r", Type::Read, "b", "").expect("a key");
    let user = |name| fixture.row(Family::AuthUser, name).expect("a user");
    assert_eq!(
        &user("u")[..],
        b"\x0a\x01u\x12\x04hash\x1a\x01a\x1a\x01r\x22\x00"
    );
    assert_eq!(&user("cert")[..], b"\x0a\x04cert\x22\x02\x08\x01");
    let role = |name| fixture.row(Family::AuthRole, name).expect("a role");
    assert_eq!(&role("a")[..], b"\x0a\x01a");
    let permissions = b"\x0a\x01r\x12\x03\x12\x01b\x12\x08\x08\x02\x12\x01k\x1a\x01\x00";
    assert_eq!(&role("r")[..], permissions);
    fixture.enable().expect("root has its role");
    assert_eq!(
        fixture.row(Family::Auth, "authEnabled").as_deref(),
        Some(&[1][..])
    );
    fixture.change(Table::disable).expect("never refused");
    assert_eq!(
        fixture.row(Family::Auth, "authEnabled").as_deref(),
        Some(&[0][..])
    );
}

#[test]
fn every_change_counts_and_what_changes_nothing_does_not() {
    let fixture = Fixture::with_users();
    let mut revision = fixture.revision();
    assert_eq!(revision, 6, "three users and roles, two grants, from 1 on");
    let mut counts = |made: Made, steps| {
        made.expect("not refused");
        revision += steps;
        assert_eq!(fixture.revision(), revision);
    };
    counts(fixture.grant_role("u", "r"), 0);
    counts(fixture.change(Table::disable), 0);
    counts(fixture.grant("r", Type::Read, "a", "b"), 1);
    counts(fixture.grant("r", Type::Read, "a", "b"), 1);
    counts(fixture.revoke("r", "a", "b"), 1);
    counts(fixture.password("u", "", "aA=="), 1);
    counts(fixture.enable(), 0);
    counts(fixture.enable(), 0);
    counts(fixture.change(Table::disable), 1);
    counts(fixture.change(|t, b| t.revoke_role("u", "r", b)), 1);
    counts(fixture.change(|t, b| t.delete_role("r", b)), 1);
    counts(fixture.change(|t, b| t.delete_user("u", b)), 1);
}

#[test]
fn users_are_refused_in_etcds_words() {
    use RequestError::*;
    let fixture = Fixture::new();
    assert_eq!(fixture.enable(), refused(RootUserNotExist));
    assert_eq!(fixture.user("", false), refused(UserEmpty));
    assert_eq!(fixture.user("root", false), Ok(()));
    assert_eq!(fixture.user("root", true), refused(UserAlreadyExist));
    assert_eq!(fixture.enable(), refused(RootRoleNotExist));
    assert_eq!(fixture.grant_role("nobody", "none"), refused(UserNotFound));
    assert_eq!(fixture.grant_role("root", "none"), refused(RoleNotFound));
    assert_eq!(fixture.grant_role("root", "root"), Ok(()));
    assert_eq!(fixture.enable(), Ok(()));
    let delete = |name| fixture.change(|t, b| t.delete_user(name, b));
    assert_eq!(delete("root"), refused(InvalidAuthMgmt));
    assert_eq!(delete("nobody"), refused(UserNotFound));
    let revoke = |user, role| fixture.change(|t, b| t.revoke_role(user, role, b));
    assert_eq!(revoke("root", "root"), refused(InvalidAuthMgmt));
    assert_eq!(revoke("nobody", "root"), refused(UserNotFound));
    assert_eq!(revoke("root", "none"), refused(RoleNotGranted));
    assert_eq!(fixture.password("nobody", "", ""), refused(UserNotFound));
    let undecodable = fixture.password("root", "", "no base64");
    let Err(AuthError::Refused(Other(_, text))) = undecodable else {
        panic!("{undecodable:?}");
    };
    assert!(text.starts_with("auth: "), "{text}");
    assert_eq!(
        fixture.password("root", "plain", ""),
        Err(AuthError::PlainPassword)
    );
}

#[test]
fn roles_are_refused_in_etcds_words() {
    use RequestError::*;
    let fixture = Fixture::with_users();
    assert_eq!(fixture.role(""), refused(RoleEmpty));
    assert_eq!(fixture.role("r"), refused(RoleAlreadyExist));
    assert_eq!(fixture.role("root"), Ok(()));
    let delete = |name| fixture.change(|t, b| t.delete_role(name, b));
    assert_eq!(delete("none"), refused(RoleNotFound));
    assert_eq!(fixture.enable(), Ok(()));
    assert_eq!(delete("root"), refused(InvalidAuthMgmt));
    for (key, range_end) in [("", ""), ("", "\0"), ("b", "a"), ("b", "b")] {
        let granted = fixture.grant("none", Type::Read, key, range_end);
        assert_eq!(granted, refused(InvalidAuthMgmt), "{key:?} {range_end:?}");
    }
    assert_eq!(
        fixture.grant("none", Type::Read, "a", ""),
        refused(RoleNotFound)
    );
    let nothing = pb::AuthRoleGrantPermissionRequest::default();
    let granted = fixture.change(|t, b| t.grant_permission(&nothing, b));
    assert_eq!(granted, refused(PermissionNotGiven));
    assert_eq!(fixture.revoke("none", "a", ""), refused(RoleNotFound));
    assert_eq!(fixture.revoke("r", "a", ""), refused(PermissionNotGranted));
}

#[test]
fn a_user_without_password_keeps_none_and_cannot_authenticate() {
    let fixture = Fixture::with_users();
    fixture.user("cert", true).expect("a new user");
    fixture
        .password("cert", "", "aGFzaA==")
        .expect("it is no error");
    let row = fixture.row(Family::AuthUser, "cert").expect("a user");
    assert_eq!(&row[..], b"\x0a\x04cert\x22\x02\x08\x01");
    let authenticate = |name: &str| {
        let request = pb::InternalAuthenticateRequest {
            name: name.to_owned(),
            simple_token: "abc".to_owned(),
            ..Default::default()
        };
        fixture.auth.table().authenticate(&request, 77)
    };
    assert_eq!(authenticate("u"), Err(RequestError::AuthNotEnabled));
    fixture.enable().expect("root has its role");
    assert_eq!(authenticate("u"), Ok("abc.77".to_owned()));
    for name in ["cert", "nobody"] {
        assert_eq!(authenticate(name), Err(RequestError::AuthFailed));
    }
}

#[test]
fn callers_are_checked_by_revision_name_and_roles() {
    let fixture = Fixture::with_users();
    fixture.grant("r", Type::Write, "a", "c").expect("a range");
    let check = |name, revision, access, key| {
        let caller = Caller { name, revision };
        let table = fixture.auth.table();
        table.check_keys(caller, access, &point(key))
    };
    assert_eq!(
        check("", 0, Access::Read, "z"),
        Ok(()),
        "nothing is checked"
    );
    fixture.enable().expect("root has its role");
    let now = fixture.revision();
    assert_eq!(
        check("u", 0, Access::Write, "a"),
        Err(RequestError::UserEmpty)
    );
    assert_eq!(
        check("u", now - 1, Access::Write, "a"),
        Err(RequestError::AuthOldRevision)
    );
    assert_eq!(check("u", now, Access::Write, "a"), Ok(()));
    assert_eq!(check("u", now + 1, Access::Write, "b"), Ok(()));
    assert_eq!(check("root", now, Access::Read, "z"), Ok(()));
    for (name, access, key) in [
        ("u", Access::Write, "c"),
        ("u", Access::Read, "a"),
        ("nobody", Access::Write, "a"),
    ] {
        assert_eq!(
            check(name, now, access, key),
            Err(RequestError::PermissionDenied)
        );
    }
    fixture
        .change(|t, b| t.delete_role("r", b))
        .expect("a role");
    let gone = check("u", fixture.revision(), Access::Write, "a");
    assert_eq!(gone, Err(RequestError::PermissionDenied));
    let root = |name, revision| fixture.auth.table().check_root(Caller { name, revision });
    assert_eq!(root("", 9), Err(RequestError::UserEmpty));
    assert_eq!(root("nobody", 9), Err(RequestError::UserNotFound));
    assert_eq!(root("u", 9), Err(RequestError::PermissionDenied));
    assert_eq!(root("root", 0), Ok(()), "its revision is not looked at");
}

#[test]
fn lists_are_in_order_and_root_may_do_everything() {
    let fixture = Fixture::with_users();
    fixture.role("root").expect("a new role");
    fixture.role("a").expect("a new role");
    let table = fixture.auth.table();
    assert_eq!(table.user_names(), ["root", "u"]);
    assert_eq!(table.role_names(), ["a", "r", "root"]);
    assert_eq!(table.user_roles("u"), Ok(vec!["r".to_owned()]));
    assert_eq!(table.user_roles("nobody"), Err(RequestError::UserNotFound));
    assert!(table.has_role("u", "r") && !table.has_role("u", "a"));
    let everything = Permission {
        perm_type: Type::Readwrite as i32,
        key: Bytes::new(),
        range_end: Bytes::from_static(b"\0"),
    };
    assert_eq!(table.role_permissions("root"), Ok(vec![everything]));
    assert_eq!(
        table.role_permissions("none"),
        Err(RequestError::RoleNotFound)
    );
}
