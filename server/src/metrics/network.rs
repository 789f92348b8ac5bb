//! What goes between members, and the streams of clients: etcd's subsystem `network`.

use std::future::Future;
use std::time::Instant;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::families::Families;
use crate::ids::MemberId;

/// The families with the other member in a label.
#[derive(Clone, Debug)]
pub struct Network {
    known: IntGaugeVec,
    active: IntGaugeVec,
    disconnected: IntCounterVec,
    sent_bytes: IntCounterVec,
    received_bytes: IntCounterVec,
    sent_failures: IntCounterVec,
    received_failures: IntCounterVec,
    round_trip: HistogramVec,
    snapshot_sent: Snapshots,
    snapshot_received: Snapshots,
    stream_failures: IntCounterVec,
}

/// Snapshots in one direction.
#[derive(Clone, Debug)]
struct Snapshots {
    success: IntCounterVec,
    failures: IntCounterVec,
    inflight: IntGaugeVec,
    seconds: HistogramVec,
}

/// What is counted of one other member, from when it is known on.
#[derive(Clone, Debug)]
pub struct PeerMetrics {
    /// 1 while it is reachable.
    pub active: IntGauge,
    /// How often it became unreachable.
    pub disconnected: IntCounter,
    /// Bytes of messages and snapshots to it.
    pub sent_bytes: IntCounter,
    /// The same from it.
    pub received_bytes: IntCounter,
    /// Messages and snapshots that did not get to it.
    pub sent_failures: IntCounter,
    /// Those from it that could not be read or taken.
    pub received_failures: IntCounter,
    /// How long it took to answer, smoothed.
    pub round_trip: Histogram,
    /// Snapshots to it.
    pub snapshot_sent: SnapshotMetrics,
    /// Snapshots from it.
    pub snapshot_received: SnapshotMetrics,
}

/// What is counted of the snapshots in one direction.
#[derive(Clone, Debug)]
pub struct SnapshotMetrics {
    /// Those that were taken.
    pub success: IntCounter,
    /// Those that were not.
    pub failures: IntCounter,
    /// Those that are on their way now.
    pub inflight: IntGauge,
    /// How long those that were taken took.
    pub seconds: Histogram,
}

impl SnapshotMetrics {
    /// Counts a transfer from its beginning to its end. One that nobody waits for any more, since
    /// its connection has broken, has failed.
    ///
    /// # Errors
    ///
    /// Those of the transfer.
    pub async fn count<T, E>(&self, transfer: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let begun = Instant::now();
        let mut under_way = UnderWay::new(self);
        let ended = transfer.await;
        if ended.is_ok() {
            under_way.has_failed = false;
            self.success.inc();
            self.seconds.observe(begun.elapsed().as_secs_f64());
        }
        ended
    }
}

/// A transfer until it is dropped, which tells how it ended.
struct UnderWay<'a> {
    metrics: &'a SnapshotMetrics,
    has_failed: bool,
}

impl<'a> UnderWay<'a> {
    fn new(metrics: &'a SnapshotMetrics) -> Self {
        metrics.inflight.inc();
        Self {
            metrics,
            has_failed: true,
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.metrics.inflight.dec();
        if self.has_failed {
            self.metrics.failures.inc();
        }
    }
}

/// Streams of clients that ended by what the transport says, and not by the client.
#[derive(Clone, Debug)]
pub struct StreamFailures {
    /// Requests of watch streams that could not be read.
    pub watch: IntCounter,
    /// The same of streams of keep-alives.
    pub keep_alive: IntCounter,
}

impl Network {
    pub(super) fn new(families: &Families<'_>) -> Self {
        const ENDS: &[&str] = &["Local", "Remote"];
        let count = |name: &str, help: &str, label: &str| {
            let name = format!("etcd_network_{name}");
            families.counters(&name, &format!("{help}."), &[label])
        };
        Self {
            known: families.gauges(
                "etcd_network_known_peers",
                "The current number of known peers.",
                ENDS,
            ),
            active: families.gauges(
                "etcd_network_active_peers",
                "The current number of active peer connections.",
                ENDS,
            ),
            disconnected: families.counters(
                "etcd_network_disconnected_peers_total",
                "The total number of disconnected peers.",
                ENDS,
            ),
            sent_bytes: count(
                "peer_sent_bytes_total",
                "The total number of bytes sent to peers",
                TO,
            ),
            received_bytes: count(
                "peer_received_bytes_total",
                "The total number of bytes received from peers",
                FROM,
            ),
            sent_failures: count(
                "peer_sent_failures_total",
                "The total number of send failures from peers",
                TO,
            ),
            received_failures: count(
                "peer_received_failures_total",
                "The total number of receive failures from peers",
                FROM,
            ),
            round_trip: families.seconds(
                "etcd_network_peer_round_trip_time_seconds",
                "Round-Trip-Time histogram between peers",
                &[TO],
                (0.0001, 16),
            ),
            snapshot_sent: Snapshots::new(families, "send", TO),
            snapshot_received: Snapshots::new(families, "receive", FROM),
            stream_failures: families.counters(
                "etcd_network_server_stream_failures_total",
                "The total number of stream failures from the local server.",
                &["Type", "API"],
            ),
        }
    }

    /// The counters of another member, each with its labels.
    pub fn peer(&self, own: MemberId, other: MemberId) -> PeerMetrics {
        let (own, other) = (own.to_string(), other.to_string());
        let ends = [own.as_str(), other.as_str()];
        let other = &[other.as_str()];
        PeerMetrics {
            active: self.active.with_label_values(&ends),
            disconnected: self.disconnected.with_label_values(&ends),
            sent_bytes: self.sent_bytes.with_label_values(other),
            received_bytes: self.received_bytes.with_label_values(other),
            sent_failures: self.sent_failures.with_label_values(other),
            received_failures: self.received_failures.with_label_values(other),
            round_trip: self.round_trip.with_label_values(other),
            snapshot_sent: self.snapshot_sent.of(other),
            snapshot_received: self.snapshot_received.of(other),
        }
    }

    /// The counters of the streams that clients open.
    pub fn stream_failures(&self) -> StreamFailures {
        let of = |api| self.stream_failures.with_label_values(&["receive", api]);
        StreamFailures {
            watch: of("watch"),
            keep_alive: of("lease-keepalive"),
        }
    }

    /// Says who is in the membership now, this member among them, and who was.
    pub fn know(
        &self,
        own: MemberId,
        members: impl Iterator<Item = MemberId>,
        removed: impl Iterator<Item = MemberId>,
    ) {
        let own = own.to_string();
        let told = members.map(|id| (id, 1)).chain(removed.map(|id| (id, 0)));
        for (id, known) in told {
            let ends = [own.as_str(), &id.to_string()];
            self.known.with_label_values(&ends).set(known);
        }
    }
}

impl Snapshots {
    fn new(families: &Families<'_>, way: &str, label: &str) -> Self {
        let name = |what: &str| format!("etcd_network_snapshot_{way}_{what}");
        let help = |what: &str| format!("Total number of {what}");
        let labels = &[label];
        Self {
            success: families.counters(
                &name("success"),
                &help(&format!("successful snapshot {way}s")),
                labels,
            ),
            failures: families.counters(
                &name("failures"),
                &help(&format!("snapshot {way} failures")),
                labels,
            ),
            inflight: families.gauges(
                &name("inflights_total"),
                &help(&format!("inflight snapshot {way}s")),
                labels,
            ),
            seconds: families.seconds(
                &name("total_duration_seconds"),
                &format!("Total latency distributions of v3 snapshot {way}s"),
                labels,
                (0.1, 10),
            ),
        }
    }

    fn of(&self, other: &[&str; 1]) -> SnapshotMetrics {
        SnapshotMetrics {
            success: self.success.with_label_values(other),
            failures: self.failures.with_label_values(other),
            inflight: self.inflight.with_label_values(other),
            seconds: self.seconds.with_label_values(other),
        }
    }
}

const TO: &str = "To";
const FROM: &str = "From";

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn a_transfer_that_breaks_off_has_failed() {
        let peer = Metrics::new()
            .network
            .peer(MemberId::new(1), MemberId::new(2));
        let counts = peer.snapshot_received;
        let told = || {
            (
                counts.success.get(),
                counts.failures.get(),
                counts.inflight.get(),
            )
        };
        {
            let mut broken = pin!(counts.count(pending::<Result<(), ()>>()));
            let mut context = Context::from_waker(Waker::noop());
            assert!(broken.as_mut().poll(&mut context).is_pending());
            assert_eq!(told(), (0, 0, 1));
        }
        assert_eq!(told(), (0, 1, 0));
        assert_eq!(counts.count(ready(Err::<(), _>(7))).await, Err(7));
        assert_eq!(told(), (0, 2, 0));
        assert_eq!(counts.count(ready(Ok::<_, ()>(7))).await, Ok(7));
        assert_eq!(told(), (1, 2, 0));
        assert_eq!(counts.seconds.get_sample_count(), 1);
    }
}
