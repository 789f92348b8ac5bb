//! How messages stand on a stream: etcd's two framings, as state machines without I/O.
//!
//! A `message` stream carries each message behind its length, eight bytes big-endian. A `msgapp`
//! stream carries appends only and leaves out what both ends can work out: each frame begins with
//! one byte for its type, and an append that goes on where the last one ended is sent as nothing
//! but its entries and the commit index.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;
use trilith_proto::raftpb::{Entry, Message, MessageType};

use crate::ids::MemberId;

/// Which of the two streams from one member to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamKind {
    /// Appends.
    MsgApp,
    /// Everything else.
    Message,
}

impl StreamKind {
    /// As it stands in the path and in the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MsgApp => "msgapp",
            Self::Message => "message",
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        [Self::MsgApp, Self::Message]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// What comes out of a stream.
#[derive(Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are messages, on the hot path"
)]
pub(super) enum Frame {
    /// The other end is alive and has nothing to say.
    Heartbeat,
    /// For raft.
    Message(Message),
}

/// Where the last append on a stream ended; both ends keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    term: u64,
    index: u64,
}

impl Position {
    /// Whether `message` can be told from here by its entries alone.
    fn continues_with(self, message: &Message) -> bool {
        let at = Self {
            term: message.log_term,
            index: message.index,
        };
        self == at && message.log_term == message.term
    }

    fn after(message: &Message) -> Self {
        let index = message.entries.last().map(|entry| entry.index);
        Self {
            term: message.term,
            index: index.unwrap_or(message.index),
        }
    }
}

/// Writes the frames of one stream.
pub(super) struct Encoder {
    kind: StreamKind,
    position: Position,
}

impl Encoder {
    pub(super) fn new(kind: StreamKind) -> Self {
        Self {
            kind,
            position: Position::default(),
        }
    }

    pub(super) fn heartbeat(&self, out: &mut BytesMut) {
        match self.kind {
            StreamKind::MsgApp => out.put_u8(HEARTBEAT),
            StreamKind::Message => put_sized(&link_heartbeat(), out),
        }
    }

    pub(super) fn message(&mut self, message: &Message, out: &mut BytesMut) {
        if self.kind == StreamKind::Message {
            put_sized(message, out);
            return;
        }
        if !self.position.continues_with(message) {
            out.put_u8(MSG_APP);
            put_sized(message, out);
            self.position = Position::after(message);
            return;
        }
        out.put_u8(APP_ENTRIES);
        out.put_u64(message.entries.len() as u64);
        for entry in &message.entries {
            put_sized(entry, out);
        }
        out.put_u64(message.commit);
        self.position.index += message.entries.len() as u64;
    }
}

fn put_sized(message: &impl prost::Message, out: &mut BytesMut) {
    out.put_u64(message.encoded_len() as u64);
    message
        .encode(out)
        .expect("a growing buffer takes every message");
}

fn link_heartbeat() -> Message {
    Message {
        r#type: MessageType::MsgHeartbeat as i32,
        ..Message::default()
    }
}

fn is_link_heartbeat(message: &Message) -> bool {
    message.r#type == MessageType::MsgHeartbeat as i32 && message.from == 0 && message.to == 0
}

/// Reads the frames of one stream, from pieces of any size.
pub(super) struct Decoder {
    kind: StreamKind,
    local: MemberId,
    remote: MemberId,
    /// Bytes that one message may take.
    limit: usize,
    position: Position,
    buffer: BytesMut,
    /// An append whose entries have not all come yet.
    begun: Option<Append>,
}

struct Append {
    message: Message,
    entries_left: u64,
    /// What the entries so far cost of the limit.
    cost: usize,
}

impl Decoder {
    pub(super) fn new(kind: StreamKind, local: MemberId, remote: MemberId, limit: usize) -> Self {
        Self {
            kind,
            local,
            remote,
            limit,
            position: Position::default(),
            buffer: BytesMut::new(),
            begun: None,
        }
    }

    /// Takes what has come.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame; `None` until more has come.
    ///
    /// # Errors
    ///
    /// When it is not what an encoder writes, or too large. The stream cannot be read any further.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.kind == StreamKind::Message {
            let Some(bytes) = take_sized(&mut self.buffer, self.limit)? else {
                return Ok(None);
            };
            let message = Message::decode(bytes)?;
            return Ok(Some(if is_link_heartbeat(&message) {
                Frame::Heartbeat
            } else {
                Frame::Message(message)
            }));
        }
        if self.begun.is_some() {
            return self.entries();
        }
        match self.buffer.first() {
            None => Ok(None),
            Some(&HEARTBEAT) => {
                self.buffer.advance(1);
                Ok(Some(Frame::Heartbeat))
            }
            Some(&APP_ENTRIES) => {
                let Some(count) = peek_u64(&self.buffer[1..]) else {
                    return Ok(None);
                };
                self.buffer.advance(1 + LENGTH_BYTES);
                self.begun = Some(self.begin(count));
                self.entries()
            }
            Some(&MSG_APP) => self.whole_append(),
            Some(other) => Err(FrameError::Type(*other)),
        }
    }

    fn whole_append(&mut self) -> Result<Option<Frame>, FrameError> {
        match sized_len(&self.buffer[1..], self.limit)? {
            Some(len) if self.buffer.len() > len + LENGTH_BYTES => {
                self.buffer.advance(1);
            }
            _ => return Ok(None),
        }
        let bytes = take_sized(&mut self.buffer, self.limit)?.expect("it was just seen whole");
        let message = Message::decode(bytes)?;
        self.position = Position::after(&message);
        Ok(Some(Frame::Message(message)))
    }

    fn begin(&self, entries_left: u64) -> Append {
        Append {
            message: Message {
                r#type: MessageType::MsgApp as i32,
                from: self.remote.get(),
                to: self.local.get(),
                term: self.position.term,
                log_term: self.position.term,
                index: self.position.index,
                ..Message::default()
            },
            entries_left,
            cost: 0,
        }
    }

    /// Goes on with an append that was begun.
    fn entries(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(append) = &mut self.begun else {
            return Ok(None);
        };
        while append.entries_left > 0 {
            let Some(bytes) = take_sized(&mut self.buffer, self.limit - append.cost)? else {
                return Ok(None);
            };
            // Entries without content cost memory too.
            append.cost += bytes.len().max(size_of::<Entry>());
            if append.cost > self.limit {
                return Err(FrameError::TooLarge(append.cost as u64));
            }
            append.message.entries.push(Entry::decode(bytes)?);
            append.entries_left -= 1;
            let next = self.position.index.checked_add(1);
            self.position.index = next.ok_or(FrameError::Index)?;
        }
        let Some(commit) = peek_u64(&self.buffer) else {
            return Ok(None);
        };
        self.buffer.advance(LENGTH_BYTES);
        append.message.commit = commit;
        Ok(self
            .begun
            .take()
            .map(|append| Frame::Message(append.message)))
    }
}

fn peek_u64(buffer: &[u8]) -> Option<u64> {
    buffer.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// The length that `buffer` begins with, checked before anything is made room for.
fn sized_len(buffer: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
    let Some(len) = peek_u64(buffer) else {
        return Ok(None);
    };
    match usize::try_from(len) {
        Ok(len) if len <= limit => Ok(Some(len)),
        _ => Err(FrameError::TooLarge(len)),
    }
}

/// Takes the bytes behind a length off the buffer, once they are all there.
fn take_sized(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, FrameError> {
    match sized_len(buffer, limit)? {
        Some(len) if buffer.len() >= len + LENGTH_BYTES => {
            buffer.advance(LENGTH_BYTES);
            Ok(Some(buffer.split_to(len).freeze()))
        }
        _ => Ok(None),
    }
}

const LENGTH_BYTES: usize = size_of::<u64>();

/// etcd's types of frames on a `msgapp` stream.
const HEARTBEAT: u8 = 0;
const APP_ENTRIES: u8 = 1;
const MSG_APP: u8 = 2;

/// Why a stream cannot be read.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum FrameError {
    /// More than one message may take.
    #[error("a message of {0} bytes is too large")]
    TooLarge(u64),
    /// A type that etcd has not got.
    #[error("a frame of type {0} is not known")]
    Type(u8),
    /// The log has no such place.
    #[error("the index of an entry runs over")]
    Index,
    /// No message.
    #[error("a message cannot be read: {0}")]
    Decode(#[from] prost::DecodeError),
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
