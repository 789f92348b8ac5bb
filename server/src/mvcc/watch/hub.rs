//! The hub as the rest of the server sees it: the core behind one lock, and the thread that reads
//! history for watchers that are behind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering, fence},
    },
    task::{Context, Poll, ready},
    thread,
};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Mutex, MutexGuard};

use super::{
    core::{Core, WatchRequest},
    cursor::Pass,
    delivery::{Delivery, StreamEnd, StreamId},
    history,
    mailbox::Mailbox,
};
use crate::{
    ids::WatchId,
    mvcc::{ReadTxn, RevisionEvents, Store},
};

/// All watches of this member. A handle; clones mean the same hub.
#[derive(Clone)]
pub struct WatchHub {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    /// Whether there are watchers. Written under the lock of `state`.
    active: AtomicBool,
    /// Locks: the mailboxes' are taken while this is held, never the other way round.
    state: Mutex<State>,
    catch_up: Mutex<Option<thread::JoinHandle<()>>>,
}

struct State {
    core: Core,
    /// Takes streams to the catch-up thread. A stream is in it at most once, which bounds it.
    /// `None` once the hub is stopped.
    due: Option<Sender<StreamId>>,
}

impl WatchHub {
    /// A hub over the history of `store`, without watchers.
    ///
    /// # Errors
    ///
    /// When the catch-up thread cannot be started.
    pub fn new(store: Store) -> Result<Self, std::io::Error> {
        let (shared, receiver) = Shared::new(store);
        let weak = Arc::downgrade(&shared);
        let run = move || catch_up(&receiver, || weak.upgrade());
        let thread = thread::Builder::new()
            .name("watch-catch-up".into())
            .spawn(run)?;
        *shared.catch_up.lock() = Some(thread);
        Ok(Self { shared })
    }

    /// A hub without a thread, which catches up when it is told to.
    #[cfg(feature = "simulation")]
    pub fn stepped(store: Store) -> (Self, CatchUp) {
        let (shared, due) = Shared::new(store);
        let catch_up = CatchUp {
            shared: Arc::clone(&shared),
            due,
            running: None,
        };
        (Self { shared }, catch_up)
    }

    /// Fans out revisions that have just been published; called by the apply thread, in order, for
    /// every revision. Costs an atomic load while there are no watchers, and never waits.
    pub fn notify(&self, revisions: Vec<RevisionEvents>) {
        // Pairs with the fence in `create`: either we see the watcher, or it sees the revisions
        // that the caller has published before.
        fence(Ordering::SeqCst);
        if revisions.is_empty() || !self.shared.active.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.shared.state.lock();
        // Settled under the lock: without watchers the core does not follow the revision.
        if self.shared.active.load(Ordering::Relaxed) {
            state.core.notify(revisions);
            state.dispatch();
        }
    }

    /// Opens a stream.
    pub fn open(&self) -> WatchStream {
        let (id, mailbox) = self.shared.state.lock().core.open();
        WatchStream {
            shared: Arc::clone(&self.shared),
            id,
            mailbox,
        }
    }

    /// Ends all streams, also those opened later, and waits for the catch-up thread.
    pub fn stop(&self) {
        let mut state = self.shared.state.lock();
        state.core.end(StreamEnd::Stopped);
        state.due = None;
        drop(state);
        if let Some(thread) = self.shared.catch_up.lock().take() {
            // A panic there has ended the process already, or is a test's own business.
            let _ = thread.join();
        }
    }
}

/// One client's stream of watches. Dropping it cancels them all.
pub struct WatchStream {
    shared: Arc<Shared>,
    id: StreamId,
    mailbox: Arc<Mailbox>,
}

impl WatchStream {
    /// Creates a watcher; the answer, `Created` or `Refused`, is delivered.
    pub fn create(&self, request: WatchRequest) {
        let mut state = self.shared.state.lock();
        if state.core.watchers() == 0 {
            self.shared.active.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let revision = self.shared.store.read().revision();
            state.core.restart_at(revision);
        }
        state.core.create(self.id, request);
        self.settle(state);
    }

    /// Cancels a watcher; `Canceled` is delivered if there was one.
    pub fn cancel(&self, id: WatchId) {
        let mut state = self.shared.state.lock();
        state.core.cancel(self.id, id);
        self.settle(state);
    }

    /// Asks for the progress of the whole stream; delivered if all its watchers are synced.
    pub fn request_progress(&self) {
        self.shared.state.lock().core.stream_progress(self.id);
    }

    /// Asks for the progress of some watchers; delivered for those that are synced.
    pub fn progress(&self, ids: impl Iterator<Item = WatchId>) {
        self.shared.state.lock().core.progress(self.id, ids);
    }

    /// The next delivery, or the end of the stream.
    pub fn poll_next(&self, context: &mut Context<'_>) -> Poll<Result<Delivery, StreamEnd>> {
        let taken = ready!(self.mailbox.poll(context))?;
        if taken.room {
            let mut state = self.shared.state.lock();
            state.core.schedule(self.id);
            state.dispatch();
        }
        Poll::Ready(Ok(taken.delivery))
    }

    fn settle(&self, mut state: MutexGuard<'_, State>) {
        if state.core.watchers() == 0 {
            self.shared.active.store(false, Ordering::Relaxed);
        }
        state.dispatch();
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.core.close(self.id);
        self.settle(state);
    }
}

impl State {
    /// Sends the streams that are due on their way.
    fn dispatch(&mut self) {
        for stream in self.core.due.drain(..) {
            if let Some(due) = &self.due {
                // Fails only when the thread is gone, and with it the need.
                let _ = due.send(stream);
            }
        }
    }
}

/// Runs catch-up passes until the hub is stopped or gone. One thread: passes are short and take
/// turns, and history must not crowd out the requests of the day.
fn catch_up(due: &Receiver<StreamId>, hub: impl Fn() -> Option<Arc<Shared>>) {
    while let Ok(stream) = due.recv() {
        let Some(shared) = hub() else { return };
        if let Some((txn, pass)) = shared.begin_pass(stream) {
            shared.end_pass(stream, &txn, pass);
        }
    }
}

impl Shared {
    fn new(store: Store) -> (Arc<Self>, Receiver<StreamId>) {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let shared = Self {
            store,
            active: AtomicBool::new(false),
            state: Mutex::new(State {
                core: Core::new(),
                due: Some(sender),
            }),
            catch_up: Mutex::new(None),
        };
        (Arc::new(shared), receiver)
    }

    fn begin_pass(&self, stream: StreamId) -> Option<(ReadTxn, Pass)> {
        let mut state = self.state.lock();
        // Under the lock, so that it holds every revision that the core has fanned out.
        let txn = self.store.read();
        let pass = state.core.begin_pass(stream, txn.compact_revision());
        state.dispatch();
        Some((txn, pass?))
    }

    fn end_pass(&self, stream: StreamId, txn: &ReadTxn, pass: Pass) {
        let history = history::read(txn, &pass);
        let mut state = self.state.lock();
        match history {
            Ok(history) => state.core.end_pass(pass, history),
            Err(error) => {
                tracing::error!(%error, "cannot read history for a watch stream");
                state.core.fail(stream, StreamEnd::HistoryUnreadable);
            }
        }
        state.dispatch();
    }
}

/// In place of the catch-up thread, for the simulation.
#[cfg(feature = "simulation")]
pub struct CatchUp {
    shared: Arc<Shared>,
    due: Receiver<StreamId>,
    running: Option<(StreamId, ReadTxn, Pass)>,
}

#[cfg(feature = "simulation")]
impl CatchUp {
    /// Begins a pass, or ends the one that was begun; false if there is nothing to do.
    pub fn step(&mut self) -> bool {
        if let Some((stream, txn, pass)) = self.running.take() {
            self.shared.end_pass(stream, &txn, pass);
            return true;
        }
        let Ok(stream) = self.due.try_recv() else {
            return false;
        };
        let pass = self.shared.begin_pass(stream);
        self.running = pass.map(|(txn, pass)| (stream, txn, pass));
        true
    }
}
