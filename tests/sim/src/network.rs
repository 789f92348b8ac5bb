//! The network between members: loses, doubles, delays, and is cut.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::SmallRng;
use trilith_proto::raftpb::{Message, MessageType};

use crate::settings::Settings;

/// Who reaches whom, and how well.
#[derive(Default)]
pub(crate) struct Network {
    /// Ways that are cut, each from one to another, with who has cut them.
    cuts: BTreeMap<u64, BTreeSet<(u64, u64)>>,
    /// When the last message on each way arrives: those that are not late keep their order.
    last: BTreeMap<(u64, u64), u64>,
    /// Of a thousand messages, how many are lost beside what the settings say.
    pub(crate) storm: u32,
}

/// What becomes of a message: when it arrives, as often as it does.
pub(crate) type Arrivals = Vec<u64>;

impl Network {
    /// Cuts ways until [`Self::heal`] is called with the same number.
    pub(crate) fn cut(&mut self, number: u64, ways: BTreeSet<(u64, u64)>) {
        self.cuts.insert(number, ways);
    }

    pub(crate) fn heal(&mut self, number: u64) {
        self.cuts.remove(&number);
    }

    pub(crate) fn heal_all(&mut self) {
        self.cuts.clear();
        self.storm = 0;
    }

    pub(crate) fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cuts.values().any(|ways| ways.contains(&(from, to)))
    }

    /// Sends a message at `now`.
    pub(crate) fn send(
        &mut self,
        message: &Message,
        now: u64,
        settings: &Settings,
        rng: &mut SmallRng,
    ) -> Arrivals {
        let way = (message.from, message.to);
        let latency = now + rng.random_range(settings.latency / 10..=settings.latency);
        let late = latency + rng.random_range(0..20 * settings.latency);
        let lost = rng.random_range(0..1000) < settings.lost + self.storm;
        let is_late = rng.random_range(0..1000) < settings.late;
        // Connections do not double, and raft has no defence against a doubled proposal. All other
        // messages it must bear.
        let proposes = message.r#type == MessageType::MsgProp as i32;
        let doubled = rng.random_range(0..1000) < settings.doubled && !proposes;
        if lost || self.is_cut(way.0, way.1) {
            return Vec::new();
        }
        let last = self.last.entry(way).or_insert(0);
        let mut arrivals = Vec::new();
        if is_late && !proposes {
            arrivals.push(late);
        } else {
            *last = (*last + 1).max(latency);
            arrivals.push(*last);
        }
        if doubled {
            arrivals.push(late + 1);
        }
        arrivals
    }
}
