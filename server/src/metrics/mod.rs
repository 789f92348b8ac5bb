//! What a member counts, for Prometheus, under etcd's names.
//!
//! One [`Metrics`] belongs to one member: nothing is global, so that several members of one process
//! count apart. There is one module for each part of the server that counts. A new family is a
//! field there, made from [`Families`]; whoever counts often takes its counter out of a family
//! once, with its labels, and not at each event.

mod families;
mod network;
mod server;

pub use network::{Network, PeerMetrics, SnapshotMetrics, StreamFailures};
pub use prometheus::IntCounter as Counter;
pub use server::{Server, Standing};

use prometheus::{Encoder, Registry, TextEncoder};

use self::families::Families;

/// All that one member counts; clones share it.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Between members, and towards clients.
    pub network: Network,
    /// Of the member itself.
    pub server: Server,
}

impl Metrics {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        let registry = Registry::new();
        let families = Families::new(&registry);
        Self {
            network: Network::new(&families),
            server: Server::new(&families),
            registry,
        }
    }

    /// All of it in Prometheus' text format.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("families with one type each are text, and memory takes it");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MemberId;

    #[test]
    fn members_of_one_process_count_apart() {
        let (one, other) = (Metrics::new(), Metrics::new());
        let peer = |metrics: &Metrics| metrics.network.peer(MemberId::new(1), MemberId::new(0xab));
        peer(&one).sent_bytes.inc_by(7);
        peer(&other).sent_bytes.inc_by(1);
        peer(&one).sent_bytes.inc_by(2);
        let text = String::from_utf8(one.text()).expect("text");
        let line = "etcd_network_peer_sent_bytes_total{To=\"ab\"} 9\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("# TYPE etcd_network_peer_sent_bytes_total counter\n"));
    }
}
