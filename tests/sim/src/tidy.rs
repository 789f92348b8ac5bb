//! What members do beside serving: they flush their state, cut their log and compact.

use rand::Rng;
use trilith_server::ids::Index;

use crate::node::Running;
use crate::world::{Check, Event, World};

impl World {
    /// Flushes the state, lets the log forget what the flushed state holds, and removes some of
    /// what was compacted.
    pub(crate) fn tidy(&mut self, at: usize) -> Check {
        let start = self.nodes[at].start;
        let every = self.settings.flush_every;
        let next = self.rng.random_range(every / 2..every * 2);
        self.schedule(next, Event::Tidy(at, start));
        let flushes = self.rng.random_bool(0.7);
        let batches = self.rng.random_range(1..5);
        let rows = self.settings.compaction_rows;
        let (floor, count) = (self.cut_floor(), self.settings.snapshot_count);
        let may_cut = !self.is_log_held(at);
        let mut result = Ok(());
        self.with(at, |running| {
            result = running.compact(rows, batches).and_then(|_more| {
                if flushes {
                    running.flush()?;
                }
                match may_cut {
                    true => cut(running, count, floor),
                    false => Ok(()),
                }
            });
        })?;
        result
    }

    /// Up to where logs may be cut. In some runs members that are behind get entries, never the
    /// state; a leader may also have to go back to find where their logs part.
    fn cut_floor(&self) -> Index {
        if self.settings.snapshots {
            return Index::new(u64::MAX);
        }
        let everywhere = self.nodes.iter().map(|node| node.applied_max).min();
        Index::new(everywhere.unwrap_or(0).saturating_sub(KEPT))
    }
}

impl Running {
    /// Makes durable what is applied.
    pub(crate) fn flush(&self) -> Check {
        let flushed = self.store.backend().flush();
        flushed.map_err(|error| error.to_string())
    }
}

/// As the server's flusher does it.
fn cut(running: &mut Running, count: u64, floor: Index) -> Check {
    let durable = running.store.persisted_applied();
    let (durable, _) = durable.map_err(|error| error.to_string())?;
    if durable.get() >= running.cut.get() + count {
        running.handle.compact_log(durable.min(floor));
        running.cut = durable;
    }
    Ok(())
}

/// Entries that all members have and that are kept all the same.
const KEPT: u64 = 50;
