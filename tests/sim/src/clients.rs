//! The clients: each makes one request after the other, or follows what it watches.

use rand::Rng;

use crate::client::{self, Call, Known, Outcome};
use crate::world::{Check, Event, World};

impl World {
    pub(crate) fn latency(&mut self) -> u64 {
        self.rng.random_range(50..1_000)
    }

    pub(crate) fn request(&mut self, client: usize) -> Check {
        if self.is_settling {
            return Ok(());
        }
        while self
            .fault_after
            .last()
            .is_some_and(|next| *next <= self.made)
        {
            self.fault_after.pop();
            self.fault()?;
        }
        if self.settings.spares > 0 && self.rng.random_range(0..100) == 0 {
            self.reconfigure()?;
        }
        if self.made.is_multiple_of(100) {
            self.agree_on_version()?;
        }
        self.made += 1;
        let tag = self.made;
        let leases = self.leases.ids();
        let known = Known {
            keys: self.settings.keys,
            revision: self.model.revision(),
            leases: &leases,
            is_about_leases: self.settings.leases,
            ttls: if self.settings.is_long {
                301..500
            } else {
                1..4
            },
            next_lease: 1 + leases.last().copied().unwrap_or(0),
        };
        let call = client::draw(&mut self.rng, tag, &known);
        if let Call::Propose(request) = &call {
            self.leases.asked(request);
        }
        let at = self.rng.random_range(0..self.nodes.len());
        self.history.invoke(tag, client, call, self.now);
        let latency = self.latency();
        self.schedule(latency, Event::Request(at, tag));
        self.schedule(CLIENT_TIMEOUT, Event::GiveUp(tag));
        Ok(())
    }

    pub(crate) fn serve(&mut self, at: usize, tag: u64) -> Check {
        let Some(call) = self.history.call(tag) else {
            return Ok(());
        };
        if !self.nodes[at].is_up() {
            let latency = self.latency();
            self.schedule(latency, Event::Response(tag, Box::new(Outcome::Lost)));
            return Ok(());
        }
        self.nodes[at].serving.push(tag);
        self.with(at, |running| client::serve(running, tag, call))
    }

    /// Somebody without another request under way renews a lease, once.
    pub(crate) fn renew(&mut self, at: usize, lease: i64) -> Check {
        self.made += 1;
        let tag = self.made;
        self.history.invoke(tag, ONCE, Call::Renew(lease), self.now);
        self.schedule(CLIENT_TIMEOUT, Event::GiveUp(tag));
        self.serve(at, tag)
    }

    /// A watching client connects where it can, and takes what there is; some take their time.
    pub(crate) fn watch(&mut self, number: usize) -> Check {
        let again = [2_000, 20_000, 400_000][number % 3] * self.settings.stretch().pow(2);
        let again = self.rng.random_range(again / 2..again * 2);
        self.schedule(again, Event::Watch(number));
        let watcher = &mut self.watchers[number];
        let (at, start) = watcher.at;
        let node = &self.nodes[at];
        let is_gone = node.start != start || !node.is_up() || self.rng.random_bool(0.01);
        if is_gone {
            watcher.disconnect();
        }
        if !watcher.is_connected() {
            let at = self.rng.random_range(0..self.nodes.len());
            if let Some(running) = &self.nodes[at].running {
                watcher.connect((at, self.nodes[at].start), running);
            }
            return Ok(());
        }
        let node = &mut self.nodes[at];
        if node.paused_until > self.now {
            return Ok(());
        }
        let running = node.running.as_mut().expect("it is connected to it");
        for _ in 0..self.rng.random_range(0..4) {
            running.catch_up.step();
        }
        if self.rng.random_bool(0.1) {
            watcher.ask_progress();
        }
        let most = self.rng.random_range(1..20);
        watcher.take(most, &self.model)?;
        Ok(())
    }

    pub(crate) fn respond(&mut self, tag: u64, outcome: Outcome) -> Check {
        let answered = self
            .history
            .respond(tag, outcome, &self.model, &mut self.leases)?;
        if let Some(client) = answered.filter(|client| *client != ONCE) {
            let rest = self.rng.random_range(0..self.settings.rest);
            self.schedule(rest, Event::Client(client));
        }
        Ok(())
    }
}

/// The client of requests that none other follows.
const ONCE: usize = usize::MAX;

/// A client gives a request up, whose outcome it then never learns.
pub(crate) const CLIENT_TIMEOUT: u64 = 12_000_000;
