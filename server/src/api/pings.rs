//! Turns away clients that ping too often, by grpc-go's rules (`handlePing` in its
//! `http2_server.go`): a ping too soon after the last one is a strike, the third strike ends the
//! connection, and whatever the server sent of an answer in between wipes them out.
//!
//! hyper answers pings and tells nobody. So the heads of frames are looked at as they pass by.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// What a connection has heard of pings.
pub(super) struct Pings {
    /// `--grpc-keepalive-min-time`, between two pings while there are calls.
    min_time: Duration,
    calls: Calls,
    /// How many bytes of [`PREFACE`] have come; `None` for a client that does not speak HTTP/2.
    preface: Option<usize>,
    received: Frames,
    sent: Frames,
    /// The greatest stream that the client has opened.
    last_stream: u32,
    /// Whether a part of an answer was sent since the last ping.
    has_answered: bool,
    last_ping: Option<Instant>,
    strikes: u32,
}

/// The calls of a connection that are under way; each keeps a clone.
#[derive(Clone, Default)]
pub(super) struct Calls(Arc<()>);

impl Pings {
    pub(super) fn new(min_time: Duration, calls: Calls) -> Self {
        let min_time = if min_time.is_zero() {
            UNSET_MIN_TIME
        } else {
            min_time
        };
        Self {
            min_time,
            calls,
            preface: Some(0),
            received: Frames::default(),
            sent: Frames::default(),
            last_stream: 0,
            has_answered: false,
            last_ping: None,
            strikes: 0,
        }
    }

    /// Looks at what came from the client.
    pub(super) fn received(&mut self, bytes: &[u8], now: impl Fn() -> Instant) {
        let Some(seen) = self.preface else { return };
        let (preface, mut bytes) = bytes.split_at(bytes.len().min(PREFACE.len() - seen));
        if !PREFACE[seen..].starts_with(preface) {
            self.preface = None;
            return;
        }
        self.preface = Some(seen + preface.len());
        while let Some(head) = self.received.next(&mut bytes) {
            match head.kind {
                HEADERS => self.last_stream = self.last_stream.max(head.stream),
                PING if head.flags & ACK == 0 => self.ping(now()),
                _ => {}
            }
        }
    }

    /// Looks at what goes to the client.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        if self.preface.is_none() {
            return;
        }
        while let Some(head) = self.sent.next(&mut bytes) {
            self.has_answered |= matches!(head.kind, HEADERS | DATA);
        }
    }

    /// The frame to part with, once the client has pinged too often and no other frame is half
    /// sent.
    pub(super) fn goodbye(&self) -> Option<Vec<u8>> {
        if self.strikes <= STRIKES_MAX || !self.sent.is_between() {
            return None;
        }
        let length = 8 + TOO_MANY_PINGS.len() as u8;
        let mut frame = vec![0, 0, length, GOAWAY, 0, 0, 0, 0, 0];
        frame.extend_from_slice(&self.last_stream.to_be_bytes());
        frame.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
        frame.extend_from_slice(TOO_MANY_PINGS);
        Some(frame)
    }

    fn ping(&mut self, now: Instant) {
        let last = self.last_ping.replace(now);
        if std::mem::take(&mut self.has_answered) {
            self.strikes = 0;
            return;
        }
        let least = if self.calls.is_empty() {
            IDLE_MIN_TIME
        } else {
            self.min_time
        };
        if last.is_some_and(|last| now.duration_since(last) < least) {
            self.strikes += 1;
        }
    }
}

/// The body of an answer: its call is under way until it has gone.
pub(super) struct Counted {
    body: Body,
    _call: Calls,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Calls {
    /// Counts the call that is answered with `body` until that has gone.
    pub(super) fn count(self, body: Body) -> Counted {
        Counted { body, _call: self }
    }

    /// Whether only the connection itself holds one: none is under way.
    fn is_empty(&self) -> bool {
        Arc::strong_count(&self.0) <= HOLDERS
    }
}

/// Walks over the frames of one direction.
#[derive(Default)]
struct Frames {
    head: [u8; HEAD_BYTES],
    /// How many bytes of `head` have passed.
    filled: usize,
    /// How many bytes of the frame behind the last head have not passed yet.
    left: usize,
}

struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frames {
    /// Takes bytes up to and with the next head.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let passed = self.left.min(bytes.len());
        self.left -= passed;
        *bytes = &bytes[passed..];
        let wanted = (HEAD_BYTES - self.filled).min(bytes.len());
        let (head, rest) = bytes.split_at(wanted);
        self.head[self.filled..self.filled + wanted].copy_from_slice(head);
        self.filled += wanted;
        *bytes = rest;
        if self.filled < HEAD_BYTES {
            return None;
        }
        self.filled = 0;
        let [long, longer, length, kind, flags, stream @ ..] = self.head;
        self.left = u32::from_be_bytes([0, long, longer, length]) as usize;
        let stream = u32::from_be_bytes(stream) & !RESERVED_BIT;
        Some(Head {
            kind,
            flags,
            stream,
        })
    }

    /// Whether the last frame has passed as a whole.
    fn is_between(&self) -> bool {
        self.filled == 0 && self.left == 0
    }
}

/// What a client begins HTTP/2 with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length (24 bits), kind, flags, stream (31 bits and a reserved one).
const HEAD_BYTES: usize = 9;
const RESERVED_BIT: u32 = 1 << 31;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";

/// grpc-go's `maxPingStrikes`.
const STRIKES_MAX: u32 = 2;

/// grpc-go's `defaultKeepalivePolicyMinTime`: what it takes for a time of 0.
const UNSET_MIN_TIME: Duration = Duration::from_secs(300);

/// grpc-go's `defaultPingTimeout`: without calls a client has no reason to ping.
const IDLE_MIN_TIME: Duration = Duration::from_secs(2 * 3600);

/// Clones of [`Calls`] that are no calls: the one that new calls are cloned from, and ours.
const HOLDERS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    struct Rig {
        pings: Pings,
        calls: Calls,
        now: Instant,
    }

    impl Rig {
        fn new() -> Self {
            let calls = Calls::default();
            let mut pings = Pings::new(Duration::from_secs(5), calls.clone());
            pings.received(PREFACE, Instant::now);
            Self {
                pings,
                calls,
                now: Instant::now(),
            }
        }

        fn ping(&mut self, after: u64) -> bool {
            self.now += Duration::from_secs(after);
            let now = self.now;
            let ping = frame(PING, 0, 0, &[0; 8]);
            self.pings.received(&ping, || now);
            self.pings.goodbye().is_some()
        }
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    #[test]
    fn the_third_strike_ends_the_connection() {
        let mut rig = Rig::new();
        let call = rig.calls.clone();
        assert!(!rig.ping(0), "the first ping of all is none too soon");
        assert!(!rig.ping(5), "nor is one after the time");
        assert!(!rig.ping(4) && !rig.ping(4) && rig.ping(4));
        drop(call);
    }

    #[test]
    fn an_answer_in_between_wipes_strikes_out_and_what_is_none_does_not() {
        let mut rig = Rig::new();
        let call = rig.calls.clone();
        assert!(!rig.ping(0) && !rig.ping(1) && !rig.ping(1));
        rig.pings.sent(&frame(DATA, 0, 1, b"part of an answer"));
        assert!(!rig.ping(1) && !rig.ping(1) && !rig.ping(1));
        rig.pings.sent(&frame(PING, ACK, 0, &[0; 8]));
        assert!(rig.ping(1));
        drop(call);
    }

    #[test]
    fn without_calls_pings_are_hours_apart() {
        let mut rig = Rig::new();
        assert!(!rig.ping(0) && !rig.ping(7200) && !rig.ping(7199) && !rig.ping(7199));
        assert!(rig.ping(7199));
    }

    #[test]
    fn frames_are_told_apart_wherever_they_are_cut() {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(HEADERS, 4, 5, b"PRI * HTTP/2.0"));
        bytes.extend(frame(DATA, 1, 5, &[PING; 40]));
        for _ in 0..5 {
            bytes.extend(frame(PING, ACK, 0, &[0; 8]));
        }
        for _ in 0..4 {
            bytes.extend(frame(PING, 0, 0, &[0; 8]));
        }
        for cut in 1..bytes.len() {
            let mut pings = Pings::new(Duration::from_secs(5), Calls::default());
            let now = Instant::now();
            for part in bytes.chunks(cut) {
                pings.received(part, || now);
            }
            let expected = [&[0, 0, 0, 5, 0, 0, 0, 11][..], TOO_MANY_PINGS].concat();
            assert_eq!(pings.goodbye(), Some(frame(GOAWAY, 0, 0, &expected)));
            pings.sent(&frame(DATA, 0, 5, &[0; 40])[..20]);
            assert!(pings.goodbye().is_none(), "in the midst of a frame");
        }
    }

    #[test]
    fn http_1_has_no_frames() {
        let mut pings = Pings::new(Duration::ZERO, Calls::default());
        pings.received(b"POST /v3/kv/put HTTP/1.1\r\n", Instant::now);
        for _ in 0..9 {
            pings.received(&frame(PING, 0, 0, &[0; 8]), Instant::now);
        }
        assert!(pings.goodbye().is_none());
    }
}
