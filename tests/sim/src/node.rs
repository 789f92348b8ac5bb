//! One machine: its clock, its disks, and the member that runs on them, put together as the server
//! puts it together, with everything that has a thread there taking steps here.

use std::collections::VecDeque;
use std::future::Future;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::time::Instant;
use trilith_proto::raftpb;
use trilith_server::apply::{Applied, Applier, Entry, Payload, State};
use trilith_server::auth::AuthStore;
use trilith_server::cluster::Membership;
use trilith_server::expiry::Expiry;
use trilith_server::ids::{Index, MemberId};
use trilith_server::leadership::Leadership;
use trilith_server::lease::min_ttl;
use trilith_server::member::{
    ApplyWork, ConfState, EntryKind, FakeDisk, MemberHandle, MemberOptions, MemberStatus,
    SteppedMember,
};
use trilith_server::mvcc::compaction::{self, CompactionOptions};
use trilith_server::mvcc::watch::{CatchUp, WatchHub};
use trilith_server::mvcc::{MvccError, Store};
use trilith_server::primary::Primary;
use trilith_server::propose::{Led, Proposer, RequestIds};
use trilith_server::read::Reader;
use trilith_server::storage::schema::meta;
use trilith_server::storage::{Backend, Family, MemoryDisk};
use trilith_server::wait::{AppliedWait, Wait};

use crate::client::Outcome;
use crate::clock::Clock;
use crate::settings::Settings;
use crate::snapshots::OnDisk;
use crate::wiring::{Sink, ToMember, Unlimited, ask_again, peers};

/// A machine.
pub(crate) struct Node {
    pub(crate) id: MemberId,
    pub(crate) log: FakeDisk,
    pub(crate) state: MemoryDisk,
    pub(crate) clock: Clock,
    /// How often it was started; what was meant for an earlier start is dropped.
    pub(crate) start: u64,
    pub(crate) running: Option<Running>,
    /// Stopped by SIGSTOP until then.
    pub(crate) paused_until: u64,
    /// Its power is to go during one of the first writes after a start, while it catches up.
    pub(crate) tears: bool,
    /// The greatest index it has ever applied: its log holds everything up to there.
    pub(crate) applied_max: u64,
    /// Requests that it was given and that may still be under way.
    pub(crate) serving: Vec<u64>,
    /// Begins the cluster, rather than joining it.
    pub(crate) is_founder: bool,
    /// Whether it ever ran.
    pub(crate) has_run: bool,
    /// It is none of the cluster any more.
    pub(crate) is_removed: bool,
    /// A snapshot that has arrived, on its disk.
    pub(crate) incoming: OnDisk,
    /// Since its start one has arrived, and it is about to stop.
    pub(crate) has_arrived: bool,
    /// One is being taken.
    pub(crate) is_receiving: bool,
    /// How many snapshots it sends.
    pub(crate) sending: usize,
    /// Until when its log is not cut, for those who have got one.
    pub(crate) log_held_until: u64,
}

/// A member in memory.
pub(crate) struct Running {
    /// Taken out while it runs.
    runtime: Option<Runtime>,
    tasks: Handle,
    /// What the runtime's clock shows.
    local: u64,
    pub(crate) member: Arc<Mutex<SteppedMember>>,
    pub(crate) handle: MemberHandle,
    pub(crate) proposer: Proposer,
    pub(crate) reader: Reader,
    pub(crate) primary: Primary,
    pub(crate) store: Store,
    pub(crate) hub: WatchHub,
    pub(crate) catch_up: CatchUp,
    pub(crate) membership: Membership,
    pub(crate) to_apply: VecDeque<ApplyWork>,
    applier: Applier,
    outbox: Arc<Mutex<Outbox>>,
    /// Whether these are on their way already.
    pub(crate) round_due: bool,
    pub(crate) write_due: bool,
    pub(crate) apply_due: bool,
    pub(crate) committed_seen: u64,
    /// Up to where the log was cut last.
    pub(crate) cut: Index,
    /// Whether it kept deadlines of leases when somebody looked last.
    pub(crate) was_primary: bool,
}

/// What a member has given since somebody looked.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) messages: Vec<raftpb::Message>,
    pub(crate) works: Vec<ApplyWork>,
    pub(crate) done: Vec<(u64, Outcome)>,
}

impl Node {
    pub(crate) fn new(id: MemberId, is_founder: bool, drift: i64) -> Self {
        Self {
            id,
            log: FakeDisk::default(),
            state: MemoryDisk::default(),
            clock: Clock { drift },
            start: 0,
            running: None,
            paused_until: 0,
            tears: false,
            applied_max: 0,
            serving: Vec::new(),
            is_founder,
            has_run: false,
            is_removed: false,
            incoming: OnDisk::default(),
            has_arrived: false,
            is_receiving: false,
            sending: 0,
            log_held_until: 0,
        }
    }

    /// Starts the member on what the disks hold.
    ///
    /// # Errors
    ///
    /// When it would refuse to start.
    pub(crate) fn boot(
        &mut self,
        now: u64,
        settings: &Settings,
        rng: &mut SmallRng,
    ) -> Result<(), String> {
        self.start += 1;
        self.has_run = true;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .map_err(|error| error.to_string())?;
        let within = runtime.enter();
        let local = self.clock.local(now);
        let opened = self.open(settings)?;
        let parts = self.wire(opened, local, settings, rng.random(), &runtime)?;
        drop(within);
        self.running = Some(parts.with(runtime));
        Ok(())
    }

    fn open(&self, settings: &Settings) -> Result<State, String> {
        let text = |error: trilith_server::storage::StorageError| error.to_string();
        let backend = Backend::open_in_memory(&self.state);
        AuthStore::begin(&backend).map_err(text)?;
        let store = Store::open(backend).map_err(text)?;
        let ticks = u32::try_from(settings.election_ticks).expect("few ticks");
        let min_ttl = min_ttl(ticks, Duration::from_micros(settings.heartbeat));
        let state = State::load(store, min_ttl, 1).map_err(text)?;
        if settings.checkpoints {
            state.lessor.enable_checkpoints();
        }
        Ok(state)
    }

    fn conf_state(&self, store: &Store) -> Result<Option<ConfState>, String> {
        let row = store.backend().get(Family::Meta, meta::CONF_STATE);
        match row.map_err(|error| error.to_string())? {
            Some(row) => ConfState::decode(&row)
                .map(Some)
                .map_err(|error| error.to_string()),
            None if self.is_founder => Ok(None),
            // Whoever joins learns from the log who votes.
            None => Ok(Some(ConfState::default())),
        }
    }

    fn options(&self, settings: &Settings, seed: u64) -> MemberOptions {
        MemberOptions {
            id: self.id,
            heartbeat: Duration::from_micros(settings.heartbeat),
            election_ticks: settings.election_ticks,
            pre_vote: settings.pre_vote,
            catch_up_entries: settings.catch_up_entries,
            force_new_cluster: false,
            seed,
        }
    }

    /// Starts the member core; what it gives goes to the outbox and to those who wait.
    fn wire(
        &self,
        state: State,
        local: u64,
        settings: &Settings,
        seed: u64,
        runtime: &Runtime,
    ) -> Result<Parts, String> {
        let (leader, led) = watch::channel(Led::default());
        let (wait, outbox) = (Arc::new(Wait::default()), Arc::<Mutex<Outbox>>::default());
        let reader = Arc::new(OnceLock::new());
        let leadership = Leadership {
            id: self.id,
            reader: reader.clone(),
            wait: wait.clone(),
            lessor: state.lessor.clone(),
            lease_extension: Duration::from_micros(settings.election_timeout()),
            leader,
        };
        let sink = Sink {
            outbox: outbox.clone(),
            leadership,
        };
        let (member, handle) = SteppedMember::start(
            &self.options(settings, seed),
            &self.log,
            state.store.applied(),
            self.conf_state(&state.store)?,
            Arc::new(sink),
            Instant::now().into_std(),
        )?;
        let core = Core {
            member: Arc::new(Mutex::new(member)),
            handle,
            led,
            wait,
            outbox,
        };
        let parts = core.surround(self.id, state, local, settings, runtime);
        assert!(reader.set(parts.reader.clone()).is_ok(), "it is set once");
        Ok(parts)
    }

    /// The power goes, or the process is killed; what it had in memory is gone.
    pub(crate) fn crash(&mut self, power: bool, rng: &mut SmallRng) {
        let Some(running) = self.running.take() else {
            return;
        };
        if rng.random_bool(0.5) {
            running.member.lock().tear_write();
        }
        drop(running);
        (self.has_arrived, self.is_receiving) = (false, false);
        (self.sending, self.log_held_until) = (0, 0);
        if power {
            self.log.crash(rng);
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.running.is_some()
    }
}

impl Running {
    /// Lets the member do something at the time `local` of its clock, and whatever tasks follow
    /// from it.
    pub(crate) fn run<R>(&mut self, local: u64, act: impl FnOnce(&mut Self) -> R) -> R {
        let by = Duration::from_micros(local.saturating_sub(self.local));
        self.local = self.local.max(local);
        let runtime = self.runtime.take().expect("it does not run yet");
        let result = runtime.block_on(async {
            if !by.is_zero() {
                tokio::time::advance(by).await;
            }
            let result = act(self);
            // A task that is woken wakes another one at most, and that a third.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            result
        });
        self.runtime = Some(runtime);
        result
    }

    pub(crate) fn spawn(&self, tag: u64, request: impl Future<Output = Outcome> + Send + 'static) {
        let outbox = self.outbox.clone();
        self.tasks.spawn(async move {
            let outcome = request.await;
            outbox.lock().done.push((tag, outcome));
        });
    }

    /// One round of the raft thread.
    pub(crate) fn round(&mut self, tick: bool) {
        let now = Instant::now().into_std();
        self.member.lock().round(tick.then_some(now));
    }

    pub(crate) fn take_outbox(&mut self) -> Outbox {
        std::mem::take(&mut *self.outbox.lock())
    }

    pub(crate) fn status(&self) -> MemberStatus {
        self.member.lock().status()
    }

    /// One round of the apply thread. Tells whether something was compacted.
    ///
    /// # Errors
    ///
    /// When the member would stop.
    pub(crate) fn apply(&mut self, entries: &[Entry]) -> Result<bool, String> {
        let outcome = self
            .applier
            .apply(entries)
            .map_err(|error| error.to_string())?;
        self.handle.applied(self.applier.applied());
        Ok(outcome.compacted.is_some())
    }

    /// Deletes what compactions left, as many batches as there are, up to `batches`. Tells whether
    /// there is more to do.
    ///
    /// # Errors
    ///
    /// When the state cannot be read.
    pub(crate) fn compact(&mut self, rows: usize, batches: usize) -> Result<bool, String> {
        let Some(target) = self.store.next_compaction() else {
            return Ok(false);
        };
        let options = CompactionOptions {
            batch_rows: NonZeroUsize::new(rows).expect("at least one row"),
            hash: true,
        };
        let mut left = batches;
        let mut pause = |_| {
            left -= 1;
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        match compaction::run(&self.store, target, &options, &mut pause) {
            Ok(_) | Err(MvccError::Stopped) => Ok(true),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A member core, and those who hear from it.
struct Core {
    member: Arc<Mutex<SteppedMember>>,
    handle: MemberHandle,
    led: watch::Receiver<Led>,
    wait: Arc<Wait<Applied>>,
    outbox: Arc<Mutex<Outbox>>,
}

impl Core {
    /// Puts everything around it that serves requests.
    fn surround(
        self,
        id: MemberId,
        state: State,
        local: u64,
        settings: &Settings,
        runtime: &Runtime,
    ) -> Parts {
        let (store, applied_wait) = (state.store.clone(), Arc::new(AppliedWait::default()));
        let peers = peers(id, runtime);
        let started = SystemTime::UNIX_EPOCH + Duration::from_micros(local);
        let proposer = Proposer::new(
            self.handle.clone(),
            self.wait.clone(),
            RequestIds::new(id, started),
            self.led,
            peers.clone(),
            1 << 20,
            Duration::from_micros(settings.election_timeout()),
        );
        let reader = Reader::new(
            self.handle.clone(),
            applied_wait.clone(),
            proposer.timeout(),
        );
        let (hub, catch_up) = WatchHub::stepped(store.clone());
        let primary = Primary {
            id,
            member: self.handle.clone(),
            lessor: state.lessor.clone(),
            store: store.clone(),
            reader: reader.clone(),
            proposer: proposer.clone(),
            peers,
        };
        let expiry = Expiry {
            lessor: state.lessor.clone(),
            auth: state.auth.clone(),
            proposer: proposer.clone(),
            reader: reader.clone(),
            member: self.handle.clone(),
        };
        runtime.spawn(expiry.run());
        runtime.spawn(ask_again(reader.clone()));
        let membership = state.membership.clone();
        let changer = ToMember(self.member.clone());
        let applier = Applier::new(
            state,
            hub.clone(),
            self.wait,
            applied_wait,
            Box::new(changer),
            Box::new(Unlimited),
        );
        Parts {
            local,
            member: self.member,
            handle: self.handle,
            proposer,
            reader,
            primary,
            hub,
            catch_up,
            membership,
            committed_seen: store.applied().0.get(),
            applier,
            outbox: self.outbox,
            store,
        }
    }
}

/// A member but for its runtime.
struct Parts {
    local: u64,
    member: Arc<Mutex<SteppedMember>>,
    handle: MemberHandle,
    proposer: Proposer,
    reader: Reader,
    primary: Primary,
    hub: WatchHub,
    catch_up: CatchUp,
    membership: Membership,
    applier: Applier,
    outbox: Arc<Mutex<Outbox>>,
    committed_seen: u64,
    store: Store,
}

impl Parts {
    fn with(self, runtime: Runtime) -> Running {
        Running {
            tasks: runtime.handle().clone(),
            runtime: Some(runtime),
            local: self.local,
            member: self.member,
            handle: self.handle,
            proposer: self.proposer,
            reader: self.reader,
            primary: self.primary,
            store: self.store,
            hub: self.hub,
            catch_up: self.catch_up,
            membership: self.membership,
            to_apply: VecDeque::new(),
            applier: self.applier,
            outbox: self.outbox,
            round_due: false,
            write_due: false,
            apply_due: false,
            committed_seen: self.committed_seen,
            cut: Index::default(),
            was_primary: false,
        }
    }
}

/// An entry as apply takes it.
pub(crate) fn entries(work: ApplyWork) -> impl Iterator<Item = Entry> {
    work.entries.into_iter().map(|entry| Entry {
        index: entry.index,
        term: entry.term,
        payload: match entry.kind {
            EntryKind::Normal(data) => Payload::Request(data, entry.decoded),
            EntryKind::ConfChange(data) => Payload::ConfChange(data),
        },
    })
}
