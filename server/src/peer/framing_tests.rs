//! The bytes that etcd 3.7.3's encoders write (taken from a run of them), and everything else that
//! may stand on a stream.

use proptest::prelude::*;

use super::*;
use crate::mutate;

const LIMIT: usize = 1024 * 1024;

/// A heartbeat; entries 8 and 9 after 7 of another term; entry 10; a commit alone; a new term.
const ETCD_MSG_APP: [&str; 5] = [
    "00",
    "0200000000000000250803100218012003280230073a090800100318082201613a0a08001003180922026263\
     4006",
    "010000000000000001000000000000000908001003180a2201640000000000000008",
    "010000000000000000000000000000000a",
    "02000000000000001808031002180120042803300a3a0808001004180b2200400a",
];

/// A link heartbeat, a heartbeat of raft's, a proposal.
const ETCD_MESSAGE: [&str; 3] = [
    "00000000000000020808",
    "000000000000000f080810021801200340096203637478",
    "000000000000000b0802100218013a03220170",
];

fn bytes(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    let digits = hex.as_bytes().chunks(2);
    let digits = digits.map(|pair| std::str::from_utf8(pair).expect("text"));
    digits
        .map(|pair| u8::from_str_radix(pair, 16).expect("two digits"))
        .collect()
}

fn entry(term: u64, index: u64, data: &'static str) -> Entry {
    Entry {
        term,
        index,
        data: Bytes::from(data),
        ..Entry::default()
    }
}

fn append(position: (u64, u64, u64), commit: u64, entries: Vec<Entry>) -> Message {
    let (term, log_term, index) = position;
    Message {
        r#type: MessageType::MsgApp as i32,
        from: 1,
        to: 2,
        term,
        log_term,
        index,
        commit,
        entries,
        ..Message::default()
    }
}

fn appends() -> Vec<Message> {
    vec![
        append((3, 2, 7), 6, vec![entry(3, 8, "a"), entry(3, 9, "bc")]),
        append((3, 3, 9), 8, vec![entry(3, 10, "d")]),
        append((3, 3, 10), 10, vec![]),
        append((4, 3, 10), 10, vec![entry(4, 11, "")]),
    ]
}

fn messages() -> Vec<Message> {
    let heartbeat = Message {
        r#type: MessageType::MsgHeartbeat as i32,
        from: 1,
        to: 2,
        term: 3,
        commit: 9,
        context: Bytes::from("ctx"),
        ..Message::default()
    };
    let proposal = Message {
        r#type: MessageType::MsgProp as i32,
        from: 1,
        to: 2,
        entries: vec![entry(0, 0, "p")],
        ..Message::default()
    };
    vec![heartbeat, proposal]
}

fn decoder(kind: StreamKind, limit: usize) -> Decoder {
    Decoder::new(kind, MemberId::new(2), MemberId::new(1), limit)
}

fn read_all(decoder: &mut Decoder, stream: &[u8]) -> Result<Vec<Frame>, FrameError> {
    decoder.push(stream);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next()? {
        frames.push(frame);
    }
    Ok(frames)
}

fn frames(messages: Vec<Message>) -> Vec<Frame> {
    let messages = messages.into_iter().map(Frame::Message);
    std::iter::once(Frame::Heartbeat).chain(messages).collect()
}

fn write_all(kind: StreamKind, messages: &[Message]) -> BytesMut {
    let mut encoder = Encoder::new(kind);
    let mut out = BytesMut::new();
    encoder.heartbeat(&mut out);
    for message in messages {
        encoder.message(message, &mut out);
    }
    out
}

#[test]
fn what_etcd_writes_is_read_whole_and_in_any_pieces() {
    let msg_app = bytes(&ETCD_MSG_APP.concat());
    let message = bytes(&ETCD_MESSAGE.concat());
    for (kind, stream, expected) in [
        (StreamKind::MsgApp, msg_app, frames(appends())),
        (StreamKind::Message, message, frames(messages())),
    ] {
        let mut whole = decoder(kind, LIMIT);
        assert_eq!(read_all(&mut whole, &stream).as_ref(), Ok(&expected));
        for size in 1..stream.len() {
            let mut pieces = decoder(kind, LIMIT);
            let mut read = Vec::new();
            for piece in stream.chunks(size) {
                read.extend(read_all(&mut pieces, piece).expect("etcd's bytes"));
            }
            assert_eq!(read, expected, "pieces of {size} bytes");
        }
    }
}

#[test]
fn what_is_written_is_what_etcd_writes() {
    // etcd writes an entry's type even when it is zero, and empty data, which protobuf leaves out.
    let without_zeros = ETCD_MSG_APP.concat();
    let without_zeros = without_zeros
        .replace("0200000000000000250803100218012003280230073a09080010", {
            "0200000000000000210803100218012003280230073a0710"
        })
        .replace("3a0a080010", "3a0810")
        .replace("0000000000000009080010", "000000000000000710")
        .replace("020000000000000018", "020000000000000014")
        .replace("3a08080010", "3a0410")
        .replace("0b2200", "0b");
    let written = write_all(StreamKind::MsgApp, &appends());
    assert_eq!(&written[..], bytes(&without_zeros));
    let written = write_all(StreamKind::Message, &messages());
    assert_eq!(&written[..], bytes(&ETCD_MESSAGE.concat()));
}

#[test]
fn lengths_are_refused_before_anything_is_made_room_for() {
    let huge = u64::MAX.to_be_bytes();
    let mut messages = decoder(StreamKind::Message, LIMIT);
    assert_eq!(
        read_all(&mut messages, &huge),
        Err(FrameError::TooLarge(u64::MAX))
    );
    let mut appends = decoder(StreamKind::MsgApp, LIMIT);
    let stream = [&[MSG_APP][..], &huge].concat();
    assert_eq!(
        read_all(&mut appends, &stream),
        Err(FrameError::TooLarge(u64::MAX))
    );
    let mut entries = decoder(StreamKind::MsgApp, LIMIT);
    let stream = [&[APP_ENTRIES][..], &huge, &huge].concat();
    assert_eq!(
        read_all(&mut entries, &stream),
        Err(FrameError::TooLarge(u64::MAX))
    );
}

#[test]
fn entries_without_content_count_too() {
    let mut decoder = decoder(StreamKind::MsgApp, 1000);
    let empty = [0; LENGTH_BYTES];
    let mut stream = vec![APP_ENTRIES];
    stream.extend(1_000_000_u64.to_be_bytes());
    for _ in 0..1000 {
        stream.extend(empty);
    }
    let read = read_all(&mut decoder, &stream);
    assert!(matches!(read, Err(FrameError::TooLarge(_))), "{read:?}");
}

#[test]
fn an_unknown_type_of_frame_is_refused() {
    let mut decoder = decoder(StreamKind::MsgApp, LIMIT);
    assert_eq!(read_all(&mut decoder, &[3]), Err(FrameError::Type(3)));
}

fn sound(kind: StreamKind) -> Vec<u8> {
    match kind {
        StreamKind::MsgApp => write_all(kind, &appends()).to_vec(),
        StreamKind::Message => write_all(kind, &messages()).to_vec(),
    }
}

proptest! {
    #[test]
    fn no_junk_on_a_stream_panics(
        append in mutate::near_any(&[&sound(StreamKind::MsgApp)]),
        message in mutate::near_any(&[&sound(StreamKind::Message)]),
        piece in 1_usize..40,
    ) {
        for (kind, stream) in [(StreamKind::MsgApp, append), (StreamKind::Message, message)] {
            let whole = read_all(&mut decoder(kind, LIMIT), &stream);
            let mut pieces = decoder(kind, LIMIT);
            let read: Result<Vec<_>, _> = stream
                .chunks(piece)
                .map(|piece| read_all(&mut pieces, piece))
                .collect();
            if let Ok(whole) = whole {
                prop_assert_eq!(Ok(whole), read.map(|read| read.into_iter().flatten().collect()));
            }
        }
    }

    #[test]
    fn appends_come_out_as_they_went_in(
        steps in proptest::collection::vec((0_u64..3, 0_u64..3, 0_u64..4, 0_usize..4), 1..20),
    ) {
        let mut sent = Vec::new();
        let (mut term, mut index) = (1, 0);
        for (new_term, skip, log_term, count) in steps {
            term += new_term;
            index += skip;
            let position = (term, term.saturating_sub(log_term), index);
            let entries = (1..=count as u64).map(|at| entry(term, index + at, "x")).collect();
            sent.push(append(position, index, entries));
            index += count as u64;
        }
        let stream = write_all(StreamKind::MsgApp, &sent);
        let read = read_all(&mut decoder(StreamKind::MsgApp, LIMIT), &stream);
        prop_assert_eq!(read, Ok(frames(sent)));
    }
}
