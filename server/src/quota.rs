//! The space quota: what a request would add to the state, and whether there is room for it.
//!
//! It is asked twice, as in etcd: before a request is proposed, and again when it is applied, since
//! others may have filled the room meanwhile. The second time only the answer changes and never the
//! state, because sizes differ from member to member.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trilith_proto::etcdserverpb::request_op::Request;
use trilith_proto::etcdserverpb::{InternalRaftRequest, PutRequest, RequestOp, TxnRequest};

use crate::apply::Room;
use crate::storage::Backend;

/// What `--quota-backend-bytes 0` means: etcd's number.
const DEFAULT_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// What a put takes beside its key and value: etcd's number.
const PUT_OVERHEAD_BYTES: u64 = 256;

/// What a lease takes: etcd's number.
pub const LEASE_BYTES: u64 = 64;

/// Whether a disk of this member is nearly full; clones share it.
#[derive(Clone, Debug, Default)]
pub struct DiskLow(Arc<AtomicBool>);

impl DiskLow {
    /// Whether it is.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes whether it is.
    pub fn set(&self, is_low: bool) {
        self.0.store(is_low, Ordering::Relaxed);
    }
}

/// The quota of this member; clones share the state that they measure.
#[derive(Clone, Debug)]
pub struct Quota {
    backend: Backend,
    setting: i64,
    disk_low: DiskLow,
}

impl Quota {
    /// `setting` is `--quota-backend-bytes`: 0 is the default, negative is none. A disk that is
    /// nearly full has no room either, whatever the quota is.
    pub fn new(backend: Backend, setting: i64, disk_low: DiskLow) -> Self {
        Self {
            backend,
            setting,
            disk_low,
        }
    }

    /// The bytes that the state may take; `None` without a quota.
    pub fn limit(&self) -> Option<u64> {
        limit(self.setting)
    }

    /// The figure that `Status` reports: etcd shows a quota that is off as it was set.
    pub fn reported(&self) -> i64 {
        match self.limit() {
            Some(limit) => i64::try_from(limit).unwrap_or(i64::MAX),
            None => self.setting,
        }
    }

    /// Whether the state takes less than `percent` of the quota, and the disks have room. Without a
    /// quota only the disks count.
    pub fn is_below(&self, percent: u64) -> bool {
        let is_below = |limit: u64| {
            let mark = u128::from(limit) * u128::from(percent) / 100;
            u128::from(self.backend.total_bytes()) < mark
        };
        !self.disk_low.get() && self.limit().is_none_or(is_below)
    }

    /// Whether there is room for what costs `cost`, beside `unwritten` bytes that are about to be
    /// written. What costs nothing always passes.
    pub fn admits(&self, cost: u64, unwritten: u64) -> bool {
        if cost == 0 {
            return true;
        }
        if self.disk_low.get() {
            return false;
        }
        let Some(limit) = self.limit() else {
            return true;
        };
        let added = unwritten.saturating_add(cost);
        // The estimate is never far below the truth, and cheap; it is above it once RocksDB has
        // flushed by itself, so a refusal measures first.
        self.backend.total_bytes_estimate().saturating_add(added) < limit
            || self.backend.total_bytes().saturating_add(added) < limit
    }
}

impl Room for Quota {
    fn admits(&self, request: &InternalRaftRequest, unwritten: u64) -> bool {
        self.admits(cost(request), unwritten)
    }
}

/// The bytes that the setting of `--quota-backend-bytes` allows; `None` for a negative one.
pub fn limit(setting: i64) -> Option<u64> {
    match u64::try_from(setting) {
        Ok(0) => Some(DEFAULT_BYTES),
        Ok(bytes) => Some(bytes),
        Err(_negative) => None,
    }
}

/// What etcd takes `request` to add. Requests of other kinds always pass.
fn cost(request: &InternalRaftRequest) -> u64 {
    if let Some(put) = &request.put {
        put_cost(put)
    } else if let Some(txn) = &request.txn {
        txn_cost(txn)
    } else if request.lease_grant.is_some() {
        LEASE_BYTES
    } else {
        0
    }
}

/// What etcd takes a put to add.
pub fn put_cost(put: &PutRequest) -> u64 {
    PUT_OVERHEAD_BYTES + put.key.len() as u64 + put.value.len() as u64
}

/// What etcd takes a transaction to add: the costlier branch, since which of them runs is only
/// known at apply.
pub fn txn_cost(txn: &TxnRequest) -> u64 {
    let branch = |operations: &[RequestOp]| -> u64 {
        let costs = operations.iter().map(|operation| match &operation.request {
            Some(Request::RequestPut(put)) => put_cost(put),
            Some(Request::RequestTxn(nested)) => txn_cost(nested),
            _ => 0,
        });
        costs.sum()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::BackendOptions;

    fn put(value_bytes: usize) -> PutRequest {
        PutRequest {
            key: b"key".as_slice().into(),
            value: vec![b'x'; value_bytes].into(),
            ..Default::default()
        }
    }

    fn op(request: Request) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    #[test]
    fn costs_are_etcds_and_see_nested_transactions() {
        let nested = TxnRequest {
            failure: vec![op(Request::RequestPut(put(1000)))],
            ..Default::default()
        };
        let txn = TxnRequest {
            success: vec![
                op(Request::RequestPut(put(10))),
                op(Request::RequestTxn(nested)),
                op(Request::RequestDeleteRange(Default::default())),
            ],
            failure: vec![op(Request::RequestPut(put(500)))],
            ..Default::default()
        };
        assert_eq!(put_cost(&put(10)), 269);
        assert_eq!(txn_cost(&txn), 269 + 1259);
        let grant = InternalRaftRequest {
            lease_grant: Some(Default::default()),
            ..Default::default()
        };
        assert_eq!(cost(&grant), 64);
        let delete = InternalRaftRequest {
            delete_range: Some(Default::default()),
            ..Default::default()
        };
        assert_eq!(cost(&delete), 0);
    }

    #[test]
    fn the_limit_itself_is_not_reached_and_zero_and_negative_settings_mean_what_they_do_in_etcd() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = Backend::open(dir.path(), &BackendOptions::default()).expect("a new state");
        let quota = |setting| Quota::new(backend.clone(), setting, DiskLow::default());
        let size = i64::try_from(backend.total_bytes()).expect("a new state is small");
        assert!(!quota(size + 269).admits(269, 0));
        assert!(quota(size + 270).admits(269, 0));
        assert!(
            !quota(size + 270).admits(269, 1),
            "what is about to be written counts"
        );
        assert!(quota(1).admits(0, 0), "what costs nothing passes");
        assert!(quota(-1).admits(269, u64::MAX));
        assert_eq!(quota(-1).reported(), -1);
        assert_eq!(quota(0).reported(), 2_147_483_648);
        assert_eq!(quota(53_248).limit(), Some(53_248));
    }

    #[test]
    fn a_disk_that_is_nearly_full_has_no_room_whatever_the_quota_is() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = Backend::open(dir.path(), &BackendOptions::default()).expect("a new state");
        let low = DiskLow::default();
        for setting in [0, -1] {
            let quota = Quota::new(backend.clone(), setting, low.clone());
            low.set(true);
            assert!(!quota.admits(1, 0) && quota.admits(0, 0));
            low.set(false);
            assert!(quota.admits(1, 0));
        }
    }
}
