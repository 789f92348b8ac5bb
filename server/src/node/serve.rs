//! Starts one member from its configuration, serves, and stops.

#[path = "services.rs"]
mod services;

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::apply_thread::ApplyThread;
use super::background::{Compactor, Flusher};
use super::boot::{self, Opened};
use super::comparing;
use super::disk::Disks;
use super::endpoints::endpoints;
use super::ends::{Ends, cut_short, stop_serving};
use super::error::NodeError;
use super::heartbeats::Heartbeats;
use super::peers::{self, PeerRuntime, ToMember};
use super::publish;
use super::receive::SnapshotReceiver;
use super::run::Sockets;
use super::sink::{Sink, ToRaft};
use super::snapshots::{LogHold, SnapshotSender};
use super::without_room;
use crate::api::{ConnectionSettings, HeaderSource, SpaceGuard};
use crate::apply::{Applied, Applier, Entry, State};
use crate::compactor::{AutoCompactor, Retention};
use crate::config::duration::go_duration;
use crate::config::{AutoCompaction, Config};
use crate::corruption::Hasher;
use crate::expiry::Expiry;
use crate::ids::{MemberId, RequestId, Revision};
use crate::leadership::Leadership;
use crate::lease::min_ttl;
use crate::member::{ApplyWork, MemberHandle, MemberOptions};
use crate::metrics::Metrics;
use crate::mvcc::Store;
use crate::mvcc::compaction::CompactionOptions;
use crate::mvcc::watch::WatchHub;
use crate::peer::{self, Peers};
use crate::propose::{Led, Proposer, RequestIds};
use crate::quiet;
use crate::quota::{DiskLow, Quota};
use crate::read::Reader;
use crate::storage::Closed;
use crate::wait::{AppliedWait, Wait};

/// Why a member does not run any more.
pub(super) enum Ended {
    /// It was told to stop, or is no member any more.
    Stopped,
    /// A snapshot has arrived, which the next start puts in place; tells when what it replaces is
    /// closed.
    ForSnapshot(Closed),
}

/// Serves `config`'s member until `stop` turns true or a snapshot has arrived; then finishes what
/// is in flight and closes.
///
/// # Errors
///
/// When the member cannot start. Once it runs, what it cannot go on from ends the process.
pub(super) async fn serve(
    config: Arc<Config>,
    sockets: Sockets,
    peer_runtime: &PeerRuntime,
    metrics: Metrics,
    stop: watch::Receiver<bool>,
) -> Result<Ended, NodeError> {
    let opening = config.clone();
    let told = stop.clone();
    let opened = tokio::task::spawn_blocking(move || boot::open(&opening, told)).await;
    let opened = opened.expect("opening does not panic")?;
    config.log_start(!opened.is_new);
    if config.unsafe_no_fsync {
        tracing::warn!("--unsafe-no-fsync is set: a power cut loses acknowledged writes");
    }
    let (ends, ended) = Ends::new();
    let mut node = Node::start(&config, opened, peer_runtime, ends, metrics).await?;
    let endpoints = endpoints(
        &node.state,
        node.reconfigurer(&config),
        node.primary(),
        node.asked(),
        Handle::current(),
    );
    let serve_peers = peer::serve(sockets.peers, node.peers.clone(), endpoints);
    peer_runtime.handle().spawn(serve_peers);
    let (stopper, stopping) = watch::channel(false);
    let mut tasks = node.spawn_tasks(&config);
    let serving = crate::api::serve(
        sockets.clients,
        node.services(&config, stopping.clone()),
        connection_settings(&config),
        stopping,
    );
    let snapshot = ended.snapshot.clone();
    let stopper = tokio::spawn(stop_serving(
        stop,
        ended,
        node.hub.clone(),
        node.transfer(),
        node.state.store.backend().clone(),
        stopper,
    ));
    tokio::select! {
        () = serving => {}
        () = cut_short(snapshot.clone()) => {}
    }
    stopper.abort();
    tasks.shutdown().await;
    let closed = node.state.store.backend().closed();
    // Until here the peers were served, since what is in flight needs them to be committed.
    tokio::task::spawn_blocking(move || node.stop())
        .await
        .expect("stopping does not panic");
    let arrived = *snapshot.borrow();
    Ok(if arrived {
        Ended::ForSnapshot(closed)
    } else {
        Ended::Stopped
    })
}

fn connection_settings(config: &Config) -> ConnectionSettings {
    ConnectionSettings {
        request_bytes_max: config.max_request_bytes,
        warn_after: config.warning_unary_request_duration,
        election_timeout: config.election_timeout,
        concurrent_streams_max: config.max_concurrent_streams,
        ping_min_time: config.grpc_keepalive_min_time,
        keepalive_interval: config.grpc_keepalive_interval,
        keepalive_timeout: config.grpc_keepalive_timeout,
    }
}

/// A running member.
struct Node {
    id: MemberId,
    header: HeaderSource,
    state: State,
    member: MemberHandle,
    peers: Peers,
    hasher: Hasher,
    proposer: Proposer,
    reader: Reader,
    hub: WatchHub,
    compacted: watch::Receiver<Revision>,
    space: SpaceGuard,
    disks: Disks,
    wait: Arc<Wait<Applied>>,
    /// Requests that were applied without room; taken by the task that answers them.
    without_room: Option<mpsc::Receiver<RequestId>>,
    /// Dropped to stop the background threads.
    stop: Option<Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    opened: boot::Kept,
    metrics: Metrics,
}

impl Node {
    async fn start(
        config: &Config,
        opened: Opened,
        peer_runtime: &PeerRuntime,
        ends: Ends,
        metrics: Metrics,
    ) -> Result<Self, NodeError> {
        let receiver = SnapshotReceiver::new(&opened, Handle::current(), ends.snapshot);
        let (identity, store, log) = (opened.identity, opened.store, opened.log);
        let id = identity.member_id;
        let state = load_state(config, &store)?;
        let membership = state.membership.clone();
        let to_member = Arc::new(ToMember::new(membership, receiver, ends.removed));
        let (network, port) = (metrics.network.clone(), to_member.clone());
        let peers = peers::connect(config, &identity, peer_runtime, network, port);
        let hasher = comparing::hasher(config, id, &state, &peers);
        comparing::before_start(config, opened.is_new, &hasher).await?;
        let snapshots = SnapshotSender::new(&store, &peers, &to_member, Handle::current());
        let hold = snapshots.hold.clone();
        let wait = Arc::new(Wait::<Applied>::default());
        let applied_wait = Arc::new(AppliedWait::default());
        let (committed, entries) = bounded(ApplyWork::UNAPPLIED_MAX);
        let (leader, led) = watch::channel(Led::default());
        let reader_cell = Arc::new(OnceLock::new());
        let sink = Sink {
            committed,
            leadership: leadership(config, id, &state, &reader_cell, &wait, leader),
            peers: peers.clone(),
            snapshots,
            heartbeats: Heartbeats::new(config.heartbeat_interval, metrics.server.clone()),
            server: metrics.server.clone(),
        };
        let options = member_options(config, id, opened.is_new);
        let member = log.start(options, store.applied(), opened.conf_state, Arc::new(sink))?;
        to_member.member.get_or_init(|| member.clone());
        peers::meet(&peers, &state.membership, opened.others);
        let proposer = proposer(config, id, &member, &wait, led, &peers);
        let reader = Reader::new(member.clone(), applied_wait.clone(), proposer.timeout());
        assert!(
            reader_cell.set(reader.clone()).is_ok(),
            "the reader is set once"
        );
        let space = space_guard(config, opened.disks.low(), id, &state, &proposer);
        let header = HeaderSource::new(identity.cluster_id, id, member.clone(), store);
        let mut node = Self {
            id,
            header,
            hub: WatchHub::new(state.store.clone())?,
            state,
            member,
            peers,
            hasher,
            proposer,
            reader,
            compacted: watch::channel(Revision::default()).1,
            space,
            disks: opened.disks,
            wait,
            without_room: None,
            stop: None,
            threads: Vec::new(),
            opened: opened.kept,
            metrics,
        };
        let applier = node.applier(applied_wait);
        node.spawn_threads(config, applier, entries, hold)?;
        Ok(node)
    }

    fn applier(&self, applied_wait: Arc<AppliedWait>) -> Applier {
        let conf_changer = ToRaft {
            member: self.member.clone(),
            membership: self.state.membership.clone(),
            peers: self.peers.clone(),
        };
        Applier::new(
            self.state.clone(),
            self.hub.clone(),
            self.wait.clone(),
            applied_wait,
            Box::new(conf_changer),
            Box::new(self.space.quota.clone()),
        )
    }

    fn spawn_threads(
        &mut self,
        config: &Config,
        applier: Applier,
        entries: Receiver<Vec<Entry>>,
        hold: LogHold,
    ) -> Result<(), NodeError> {
        let (stop, stopping) = bounded(0);
        self.stop = Some(stop);
        let (accepted, to_compact) = bounded(1);
        let (finished, compacted) = watch::channel(Revision::default());
        self.compacted = compacted;
        let (without_room, to_answer) = mpsc::channel(without_room::WAITING_MAX);
        self.without_room = Some(to_answer);
        let apply = ApplyThread {
            applier,
            committed: entries,
            member: self.member.clone(),
            compacted: accepted,
            without_room,
            wait: self.wait.clone(),
            warn_after: config.warning_apply_duration,
        };
        let flusher = Flusher {
            backend: self.state.store.backend().clone(),
            store: self.state.store.clone(),
            member: self.member.clone(),
            entries_between_cuts: config.snapshot_count,
            hold,
            stop: stopping.clone(),
        };
        let compactor = Compactor {
            store: self.state.store.clone(),
            accepted: to_compact,
            finished,
            options: CompactionOptions {
                batch_rows: NonZeroUsize::new(config.compaction_batch_limit)
                    .expect("the configuration was checked to allow at least one row"),
                hash: config.feature_gates.compact_hash_check,
            },
            pause: config.compaction_sleep_interval,
            stop: stopping,
        };
        self.threads.push(spawn("apply", move || apply.run())?);
        self.threads
            .push(quiet::spawn("compaction", move || compactor.run())?);
        self.threads.push(spawn("flush", move || flusher.run())?);
        Ok(())
    }

    fn spawn_tasks(&mut self, config: &Config) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let reader = self.reader.clone();
        tasks.spawn(async move {
            loop {
                reader.asked().await;
                loop {
                    tokio::time::sleep(READ_RETRY_LOOK).await;
                    if !reader.tick(tokio::time::Instant::now()) {
                        break;
                    }
                }
            }
        });
        if config.initial_election_tick_advance {
            let ticks = config.election_ticks().saturating_sub(ELECTION_TICKS_LEFT);
            tasks.spawn(peers::hasten_election(
                self.peers.clone(),
                self.member.clone(),
                ticks,
            ));
        }
        tasks.spawn(self.disks.clone().watch(self.space.clone()));
        if let Some(percent) = config.quota_auto_disarm_percent {
            tasks.spawn(self.space.clone().disarm_below(percent));
        }
        let without_room = self.without_room.take();
        tasks.spawn(without_room::answer(
            self.space.clone(),
            without_room.expect("the tasks are spawned once, after the threads"),
            self.wait.clone(),
        ));
        let expiry = Expiry {
            lessor: self.state.lessor.clone(),
            auth: self.state.auth.clone(),
            proposer: self.proposer.clone(),
            reader: self.reader.clone(),
            member: self.member.clone(),
        };
        tasks.spawn(expiry.run());
        if let Some(kept) = config.auto_compaction {
            tasks.spawn(self.auto_compactor(kept).run());
        }
        comparing::spawn_checks(config, || self.checks(), &mut tasks);
        let urls = config
            .advertise_client_urls
            .iter()
            .map(ToString::to_string)
            .collect();
        let publish =
            publish::attributes(self.proposer.clone(), self.id, config.name.clone(), urls);
        tasks.spawn(async move {
            publish.await;
            tracing::info!("ready to serve client requests");
        });
        tasks.spawn(publish::cluster_version(
            self.proposer.clone(),
            self.member.clone(),
            self.id,
            self.state.membership.clone(),
            self.peers.clone(),
        ));
        tasks
    }

    fn auto_compactor(&self, kept: AutoCompaction) -> AutoCompactor {
        AutoCompactor {
            retention: match kept {
                AutoCompaction::Time(time) => Retention::Time(time),
                AutoCompaction::Revisions(count) => Retention::Revisions(count),
            },
            period: match kept {
                AutoCompaction::Time(time) => {
                    go_duration(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
                }
                AutoCompaction::Revisions(_) => String::new(),
            },
            proposer: self.proposer.clone(),
            store: self.state.store.clone(),
            member: self.member.clone(),
            id: self.id,
        }
    }

    /// Closes the log, applies what is committed, and flushes.
    fn stop(mut self) {
        self.member.stop();
        self.peers.stop();
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("a thread of the member ended by a panic");
            }
        }
        drop(self.opened);
        tracing::info!("the member has stopped");
    }
}

/// The replicated state that lives in memory beside its rows.
fn load_state(config: &Config, store: &Store) -> Result<State, NodeError> {
    let ticks = u32::try_from(config.election_ticks()).expect("at most 50,000 ticks");
    let min_ttl = min_ttl(ticks, config.heartbeat_interval);
    let state = State::load(store.clone(), min_ttl, config.max_learners)?;
    if config.feature_gates.lease_checkpoint {
        state.lessor.enable_checkpoints();
    }
    Ok(state)
}

fn leadership(
    config: &Config,
    id: MemberId,
    state: &State,
    reader: &Arc<OnceLock<Reader>>,
    wait: &Arc<Wait<Applied>>,
    leader: watch::Sender<Led>,
) -> Leadership {
    Leadership {
        id,
        reader: reader.clone(),
        wait: wait.clone(),
        lessor: state.lessor.clone(),
        lease_extension: config.election_timeout,
        leader,
    }
}

fn space_guard(
    config: &Config,
    disk_low: DiskLow,
    id: MemberId,
    state: &State,
    proposer: &Proposer,
) -> SpaceGuard {
    SpaceGuard {
        quota: Quota::new(
            state.store.backend().clone(),
            config.quota_backend_bytes,
            disk_low,
        ),
        alarms: state.alarms.clone(),
        proposer: proposer.clone(),
        member: id,
    }
}

fn proposer(
    config: &Config,
    id: MemberId,
    member: &MemberHandle,
    wait: &Arc<Wait<Applied>>,
    leader: watch::Receiver<Led>,
    peers: &Peers,
) -> Proposer {
    Proposer::new(
        member.clone(),
        wait.clone(),
        RequestIds::new(id, SystemTime::now()),
        leader,
        peers.clone(),
        config.max_request_bytes,
        config.election_timeout,
    )
    .with_priority(config.feature_gates.priority_request)
}

fn member_options(config: &Config, id: MemberId, is_new: bool) -> MemberOptions {
    MemberOptions {
        id,
        heartbeat: config.heartbeat_interval,
        election_ticks: config.election_ticks(),
        pre_vote: config.pre_vote,
        catch_up_entries: config.snapshot_catchup_entries,
        seed: id.get(),
        // A member that is made by this start has no cluster to leave.
        force_new_cluster: config.force_new_cluster && !is_new,
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(run)
}

/// Ticks that are left of the first election timeout when it is shortened, as in etcd: so many
/// may the word of a leader be late.
const ELECTION_TICKS_LEFT: usize = 2;

/// How often reads without an answer are looked for.
const READ_RETRY_LOOK: Duration = Duration::from_millis(100);
