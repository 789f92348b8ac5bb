//! Keys, values and ready-made requests.

use bytes::Bytes;
use rand::{Rng, RngCore as _, SeedableRng as _, rngs::SmallRng};
use serde_json::json;
use trilith_proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, compare, request_op,
};

use crate::client::frame;

/// Every key of a load starts with this.
pub(crate) const PREFIX: &str = "/bench/objects/";
/// The first key after all of them.
pub(crate) const PREFIX_END: &str = "/bench/objects0";
/// Values are windows of one random buffer, so that making one costs a copy and no two neighbors
/// in a block compress against each other.
const NOISE: usize = 1 << 20;

/// The key of object `number`.
pub(crate) fn key(number: u64) -> Bytes {
    format!("{PREFIX}{number:010}").into()
}

/// Where the values of a load come from.
pub(crate) struct Values {
    noise: Vec<u8>,
    size: usize,
}

impl Values {
    /// Random values of `size` bytes, at most a mebibyte.
    pub(crate) fn new(size: usize, seed: u64) -> Self {
        let mut noise = vec![0; NOISE + size];
        SmallRng::seed_from_u64(seed).fill_bytes(&mut noise);
        Self { noise, size }
    }

    pub(crate) fn pick(&self, random: &mut impl Rng) -> Bytes {
        let start = random.random_range(0..NOISE);
        Bytes::copy_from_slice(&self.noise[start..start + self.size])
    }
}

/// A framed put of object `number`.
pub(crate) fn put(number: u64, value: Bytes) -> Bytes {
    frame(&put_request(key(number), value))
}

/// A framed get of object `number`.
pub(crate) fn get(number: u64, serializable: bool) -> Bytes {
    frame(&RangeRequest {
        key: key(number),
        serializable,
        ..RangeRequest::default()
    })
}

/// Kubernetes' update: put when the object still has `mod_revision` (0: absent), get otherwise.
pub(crate) fn update(number: u64, mod_revision: i64, value: Bytes) -> Bytes {
    let key = key(number);
    let guard = Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(compare::TargetUnion::ModRevision(mod_revision)),
        ..Compare::default()
    };
    let get = RangeRequest {
        key: key.clone(),
        ..RangeRequest::default()
    };
    frame(&TxnRequest {
        compare: vec![guard],
        success: vec![operation(request_op::Request::RequestPut(put_request(
            key, value,
        )))],
        failure: vec![operation(request_op::Request::RequestRange(get))],
    })
}

/// One framed txn that puts all of `entries`.
pub(crate) fn batch(entries: impl Iterator<Item = (Bytes, Bytes)>) -> Bytes {
    let put = |(key, value)| operation(request_op::Request::RequestPut(put_request(key, value)));
    frame(&TxnRequest {
        success: entries.map(put).collect(),
        ..TxnRequest::default()
    })
}

/// A JSON document of close to `size` bytes, shaped like a Kubernetes pod: fixed field names, some
/// repeated values, and names, ids, addresses and times that differ in every object.
pub(crate) fn json(random: &mut impl Rng, size: usize) -> Bytes {
    const APPS: [&str; 8] = [
        "checkout", "catalog", "payments", "search", "frontend", "session", "ledger", "mailer",
    ];
    const PHASES: [&str; 4] = ["Running", "Running", "Pending", "Succeeded"];
    let app = APPS[random.random_range(0..APPS.len())];
    let hash = format!("{:08x}", random.random::<u32>());
    let (day, hour, minute) = (
        random.random_range(1..29),
        random.random_range(0..24),
        random.random_range(0..60),
    );
    let time = format!("2026-03-{day:02}T{hour:02}:{minute:02}:07Z");
    let version: [u8; 2] = random.random();
    let address: [u8; 4] = random.random();
    let mut pod = json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": format!("{app}-{hash}"),
            "namespace": format!("team-{}", random.random_range(0..60)),
            "uid": format!("{:032x}", random.random::<u128>()),
            "creationTimestamp": time,
            "labels": { "app": app, "pod-template-hash": hash, "tier": "backend" },
        },
        "spec": {
            "nodeName": format!("node-{:03}", random.random_range(0..400)),
            "image": format!("registry.example.com/{app}:1.{}.{}", version[0], version[1]),
            "requests": {
                "cpu": format!("{}m", random.random_range(1..40) * 50),
                "memory": format!("{}Mi", random.random_range(1..64) * 32),
            },
            "env": [],
        },
        "status": {
            "phase": PHASES[random.random_range(0..PHASES.len())],
            "hostIP": format!("10.{}.{}.12", address[0], address[1]),
            "podIP": format!("10.{}.{}.77", address[2], address[3]),
            "startTime": time,
        },
    });
    let mut left = size.saturating_sub(pod.to_string().len());
    let mut settings = Vec::new();
    loop {
        let value = random.random::<u64>() >> random.random_range(0..48);
        let name = format!("SETTING_{}", settings.len());
        let setting = json!({ "name": name, "value": format!("{value:x}") });
        // One byte for the comma.
        let Some(rest) = left.checked_sub(setting.to_string().len() + 1) else {
            break;
        };
        left = rest;
        settings.push(setting);
    }
    pod["spec"]["env"] = settings.into();
    pod.to_string().into()
}

fn put_request(key: Bytes, value: Bytes) -> PutRequest {
    PutRequest {
        key,
        value,
        ..PutRequest::default()
    }
}

fn operation(request: request_op::Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_values_parse_and_have_their_size() {
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..200 {
            let value = json(&mut random, 1024);
            assert!((960..=1024).contains(&value.len()), "{} bytes", value.len());
            serde_json::from_slice::<serde_json::Value>(&value).expect("is JSON");
        }
    }
}
