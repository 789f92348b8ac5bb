//! Whether a leader sends its heartbeats on time: one that does not is overloaded, or its disk is
//! slow.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use trilith_proto::raftpb::{Message, MessageType};

use crate::metrics::Server;

/// Looks at the heartbeats as they are sent.
pub(super) struct Heartbeats {
    interval: Duration,
    /// When each peer was sent one last, in this term.
    last: Mutex<BTreeMap<u64, Instant>>,
    server: Server,
}

impl Heartbeats {
    /// `interval` is `--heartbeat-interval`; late ones are counted by `server`.
    pub(super) fn new(interval: Duration, server: Server) -> Self {
        Self {
            interval,
            last: Mutex::default(),
            server,
        }
    }

    /// The leader or its term has changed: nobody was sent any yet.
    pub(super) fn reset(&self) {
        self.last.lock().clear();
    }

    /// These messages are about to be sent.
    pub(super) fn sending(&self, messages: &[Message], now: Instant) {
        for message in messages {
            if message.r#type != MessageType::MsgHeartbeat as i32 {
                continue;
            }
            let last = self.last.lock().insert(message.to, now);
            let late = last.and_then(|last| (now - last).checked_sub(self.interval * 2));
            if let Some(late) = late.filter(|late| !late.is_zero()) {
                self.server.heartbeat_failures.inc();
                tracing::warn!(
                    to = format!("{:x}", message.to),
                    "heartbeat-interval" = ?self.interval,
                    "expected-duration" = ?(self.interval * 2),
                    "exceeded-duration" = ?late,
                    "leader failed to send out heartbeat on time; took too long, leader is \
                     overloaded likely from slow disk"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_heartbeat_is_late_after_two_intervals_and_not_in_a_new_term() {
        let server = Metrics::new().server;
        let heartbeats = Heartbeats::new(Duration::from_millis(100), server.clone());
        let beat = |to| Message {
            r#type: MessageType::MsgHeartbeat as i32,
            to,
            ..Message::default()
        };
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        heartbeats.sending(&[beat(2), beat(3), Message::default()], begun);
        heartbeats.sending(&[beat(2)], at(200));
        assert_eq!(server.heartbeat_failures.get(), 0);
        heartbeats.sending(&[beat(2), beat(3)], at(250));
        assert_eq!(server.heartbeat_failures.get(), 1);
        heartbeats.reset();
        heartbeats.sending(&[beat(2), beat(3)], at(900));
        assert_eq!(server.heartbeat_failures.get(), 1);
    }
}
