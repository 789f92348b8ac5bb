//! Makes the services of the API out of a running member's parts.

use std::sync::Arc;

use tokio::sync::{Mutex, watch};

use super::super::state_endpoints::Asked;
use super::Node;
use crate::api::{
    ClusterService, KvService, LeaseService, MaintenanceService, Scrape, Services, SnapshotSlots,
    WatchService,
};
use crate::apply::State;
use crate::config::Config;
use crate::corruption::Checks;
use crate::metrics::Standing;
use crate::primary::Primary;
use crate::reconfigure::Reconfigurer;
use crate::transfer::Transfer;

impl Node {
    pub(super) fn reconfigurer(&self, config: &Config) -> Reconfigurer {
        Reconfigurer {
            id: self.id,
            proposer: self.proposer.clone(),
            member: self.member.clone(),
            membership: self.state.membership.clone(),
            peers: self.peers.clone(),
            is_strict: config.strict_reconfig_check,
            server: self.metrics.server.clone(),
        }
    }

    pub(super) fn transfer(&self) -> Transfer {
        Transfer {
            id: self.id,
            member: self.member.clone(),
            membership: self.state.membership.clone(),
            peers: self.peers.clone(),
            proposer: self.proposer.clone(),
        }
    }

    pub(super) fn asked(&self) -> Asked {
        Asked {
            cluster_id: self.header.cluster_id(),
            hashing: self.hasher.hashing.clone(),
            membership: self.state.membership.clone(),
            reader: self.reader.clone(),
        }
    }

    pub(super) fn checks(&self) -> Checks {
        Checks {
            hasher: self.hasher.clone(),
            member: self.member.clone(),
            reader: self.reader.clone(),
            proposer: self.proposer.clone(),
        }
    }

    pub(super) fn primary(&self) -> Primary {
        Primary {
            id: self.id,
            member: self.member.clone(),
            lessor: self.state.lessor.clone(),
            store: self.state.store.clone(),
            reader: self.reader.clone(),
            proposer: self.proposer.clone(),
            peers: self.peers.clone(),
        }
    }

    /// What is counted, with what the member is when it is asked.
    fn scrape(&self) -> Scrape {
        let (id, member, metrics) = (self.id, self.member.clone(), self.metrics.clone());
        let membership = self.state.membership.clone();
        Arc::new(move || {
            let table = membership.table();
            let known = table.members().map(|member| member.id());
            metrics.network.know(id, known, table.removed());
            let status = member.status();
            metrics.server.stand(Standing {
                id,
                leader: status.leader,
                is_learner: status.is_learner,
            });
            metrics.text()
        })
    }

    pub(super) fn services(&self, config: &Config, stopping: watch::Receiver<bool>) -> Services {
        let (header, proposer, reader) = (
            self.header.clone(),
            self.proposer.clone(),
            self.reader.clone(),
        );
        let State {
            store,
            lessor,
            alarms,
            auth,
            membership,
        } = self.state.clone();
        let failures = self.metrics.network.stream_failures();
        Services {
            auth: auth.clone(),
            scrape: self.scrape(),
            kv: KvService {
                header: header.clone(),
                proposer: proposer.clone(),
                space: self.space.clone(),
                reader: reader.clone(),
                store: store.clone(),
                compaction: self.compacted.clone(),
                txn_operations_max: config.max_txn_ops,
                request_bytes_max: config.max_request_bytes,
            },
            watch: WatchService {
                auth: auth.clone(),
                header: header.clone(),
                hub: self.hub.clone(),
                failures: failures.watch,
                progress_interval: config.watch_progress_notify_interval,
                request_bytes_max: config.max_request_bytes,
            },
            lease: LeaseService {
                auth,
                header: header.clone(),
                proposer: proposer.clone(),
                space: self.space.clone(),
                lessor,
                primary: self.primary(),
                failures: failures.keep_alive,
            },
            cluster: ClusterService {
                header: header.clone(),
                reader: reader.clone(),
                membership: membership.clone(),
                reconfigurer: self.reconfigurer(config),
            },
            maintenance: MaintenanceService {
                header,
                proposer,
                reader,
                hashing: self.hasher.hashing.clone(),
                backend: store.backend().clone(),
                store,
                alarms,
                membership,
                member: self.member.clone(),
                quota: self.space.quota.clone(),
                defragmenting: Arc::new(Mutex::new(())),
                compacted: self.compacted.clone(),
                transfer: self.transfer(),
                stopping,
                snapshots: SnapshotSlots::default(),
            },
        }
    }
}
