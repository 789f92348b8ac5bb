//! What a request can be refused with: etcd's texts and codes, in one table.
//!
//! Clients map these errors by their exact text (etcd `api/v3rpc/rpctypes/error.go`), so neither
//! the text nor the code may drift. A text starts with "etcdserver: " unless etcd sends it bare.

/// gRPC status codes by number, so that only `api` has to know tonic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[expect(missing_docs, reason = "the names are gRPC's own")]
pub enum Code {
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

macro_rules! request_errors {
    ($($name:ident, $code:ident, $text:literal;)*) => {
        /// Why a request was refused or failed; the client reads the text and the code.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each variant is named after the text beside it")]
        pub enum RequestError {
            $($name,)*
            /// An error with a text of its own.
            Other(Code, String),
        }

        impl RequestError {
            /// The gRPC code that etcd sends with this error.
            pub fn code(&self) -> Code {
                match self {
                    $(Self::$name => Code::$code,)*
                    Self::Other(code, _) => *code,
                }
            }

            /// The text that etcd sends, to the letter.
            pub fn text(&self) -> &str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(_, text) => text,
                }
            }
        }
    };
}

request_errors! {
    EmptyKey, InvalidArgument, "etcdserver: key is not provided";
    KeyNotFound, InvalidArgument, "etcdserver: key not found";
    ValueProvided, InvalidArgument, "etcdserver: value is provided";
    LeaseProvided, InvalidArgument, "etcdserver: lease is provided";
    TooManyOps, InvalidArgument, "etcdserver: too many operations in txn request";
    DuplicateKey, InvalidArgument, "etcdserver: duplicate key given in txn request";
    InvalidClientApiVersion, InvalidArgument, "etcdserver: invalid client api version";
    InvalidSortOption, InvalidArgument, "etcdserver: invalid sort option";
    MemberBadUrls, InvalidArgument, "etcdserver: given member URLs are invalid";
    RequestTooLarge, InvalidArgument, "etcdserver: request is too large";
    Compacted, OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FutureRevision, OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    LeaseTtlTooLarge, OutOfRange, "etcdserver: too large lease TTL";
    NoSpace, ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    LeaseNotFound, NotFound, "etcdserver: requested lease not found";
    MemberNotFound, NotFound, "etcdserver: member not found";
    LeaseExist, FailedPrecondition, "etcdserver: lease already exists";
    MemberExist, FailedPrecondition, "etcdserver: member ID already exist";
    PeerUrlExist, FailedPrecondition, "etcdserver: Peer URLs already exists";
    // etcd maps the next two to its client-side error type, so they travel as Unknown.
    MemberNotEnoughStarted, Unknown,
        "etcdserver: re-configuration failed due to not enough started members";
    TooManyRequests, Unknown, "etcdserver: too many requests";
    MemberNotLearner, FailedPrecondition, "etcdserver: can only promote a learner member";
    LearnerNotReady, FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners, FailedPrecondition, "etcdserver: too many learner members in cluster";
    ClusterIdMismatch, FailedPrecondition, "etcdserver: cluster ID mismatch";
    NotLeader, FailedPrecondition, "etcdserver: not leader";
    NotCapable, FailedPrecondition, "etcdserver: not capable";
    NotSupportedForLearner, FailedPrecondition, "etcdserver: rpc not supported for learner";
    BadLeaderTransferee, FailedPrecondition, "etcdserver: bad leader transferee";
    ClusterVersionUnavailable, FailedPrecondition,
        "etcdserver: cluster version not found during downgrade";
    WrongDowngradeFormat, InvalidArgument, "etcdserver: wrong downgrade target version format";
    InvalidDowngradeTarget, InvalidArgument, "etcdserver: invalid downgrade target version";
    DowngradeInProgress, FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    NoInflightDowngrade, FailedPrecondition, "etcdserver: no inflight downgrade job";
    AuthNotEnabled, FailedPrecondition, "etcdserver: authentication is not enabled";
    RootUserNotExist, FailedPrecondition, "etcdserver: root user does not exist";
    RootRoleNotExist, FailedPrecondition, "etcdserver: root user does not have root role";
    UserAlreadyExist, FailedPrecondition, "etcdserver: user name already exists";
    UserEmpty, InvalidArgument, "etcdserver: user name is empty";
    UserNotFound, FailedPrecondition, "etcdserver: user name not found";
    RoleAlreadyExist, FailedPrecondition, "etcdserver: role name already exists";
    RoleNotFound, FailedPrecondition, "etcdserver: role name not found";
    RoleEmpty, InvalidArgument, "etcdserver: role name is empty";
    AuthFailed, InvalidArgument,
        "etcdserver: authentication failed, invalid user ID or password";
    PermissionNotGiven, InvalidArgument, "etcdserver: permission not given";
    PermissionDenied, PermissionDenied, "etcdserver: permission denied";
    RoleNotGranted, FailedPrecondition, "etcdserver: role is not granted to the user";
    PermissionNotGranted, FailedPrecondition,
        "etcdserver: permission is not granted to the role";
    InvalidAuthMgmt, InvalidArgument, "etcdserver: invalid auth management";
    AuthOldRevision, InvalidArgument, "etcdserver: revision of auth store is old";
    NoLeader, Unavailable, "etcdserver: no leader";
    LeaderChanged, Unavailable, "etcdserver: leader changed";
    Stopped, Unavailable, "etcdserver: server stopped";
    Timeout, Unavailable, "etcdserver: request timed out";
    TimeoutDueToLeaderFail, Unavailable,
        "etcdserver: request timed out, possibly due to previous leader failure";
    TimeoutDueToConnectionLost, Unavailable,
        "etcdserver: request timed out, possibly due to connection lost";
    TimeoutWaitAppliedIndex, Unavailable,
        "etcdserver: request timed out, waiting for the applied index took too long";
    Unhealthy, Unavailable, "etcdserver: unhealthy cluster";
    Corrupt, DataLoss, "etcdserver: corrupt cluster";
    WatchCanceled, Canceled, "etcdserver: watch canceled";
    LeaderTransferTimeout, Unknown, "etcdserver: request timed out, leader transfer took too long";
    // etcd has no text for clients for this one, so it travels bare.
    LeaseNotPrimary, Unknown, "not a primary lessor";
    UnknownMethod, Unknown, "etcdserver: unknown method";
    StreamUnsortedOnly, Unimplemented, "RangeStream does not support custom sort orders";
    StreamUnfilteredOnly, Unimplemented, "RangeStream does not support revision filters";
}

impl std::fmt::Display for RequestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for RequestError {}
