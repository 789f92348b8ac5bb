//! The events of one revision as watchers get them, each encoded at most once per form.

use std::{cell::OnceCell, collections::HashMap};

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

use super::delivery::WatchOptions;
use crate::{
    ids::Revision,
    mvcc::{Event, EventKind, RevisionEvents, record::Fields},
};

/// Events of one revision.
pub(super) struct Feed {
    pub(super) revision: Revision,
    pub(super) events: Vec<FeedEvent>,
    /// Whether watchers that want previous pairs have to read this revision from history.
    pub(super) lacks_previous: bool,
}

/// One event, and its encodings as far as somebody has asked for them.
pub(super) struct FeedEvent {
    kind: EventKind,
    pub(super) key: Bytes,
    kv: Bytes,
    /// The pair before this revision; absent when the event created the key.
    previous: Option<Bytes>,
    plain: OnceCell<Bytes>,
    with_previous: OnceCell<Bytes>,
}

impl Feed {
    pub(super) fn new(events: RevisionEvents) -> Self {
        let RevisionEvents {
            revision,
            mut events,
            lacks_previous,
        } = events;
        if events.len() > 1 {
            settle_previous(&mut events);
        }
        Self {
            revision,
            events: events.into_iter().map(FeedEvent::new).collect(),
            lacks_previous,
        }
    }

    /// About what it takes in memory, in bytes, once encoded.
    pub(super) fn bytes(&self) -> usize {
        let event = |event: &FeedEvent| {
            let previous = event.previous.as_ref().map_or(0, Bytes::len);
            size_of::<FeedEvent>() + event.key.len() + 2 * (event.kv.len() + previous)
        };
        self.events.iter().map(event).sum()
    }
}

/// A transaction can change a key more than once. etcd takes the previous pair as it was at the
/// revision before, so all events of the key have the same one, and a put that created the key
/// (create revision = mod revision) has none.
fn settle_previous(events: &mut [Event]) {
    let mut first: HashMap<Bytes, Option<Bytes>> = HashMap::with_capacity(events.len());
    for event in events {
        match first.get(&event.key) {
            None => {
                first.insert(event.key.clone(), event.previous.clone());
            }
            Some(before) if is_create(event) || before.is_none() => event.previous = None,
            Some(before) => event.previous = before.clone(),
        }
    }
}

fn is_create(event: &Event) -> bool {
    // A record that does not decode is found out where it is read; here it just has no previous.
    event.kind == EventKind::Put
        && Fields::parse(&event.kv)
            .map_or(true, |fields| fields.create_revision == fields.mod_revision)
}

impl FeedEvent {
    fn new(event: Event) -> Self {
        let Event {
            kind,
            key,
            kv,
            previous,
        } = event;
        Self {
            kind,
            key,
            kv,
            previous,
            plain: OnceCell::new(),
            with_previous: OnceCell::new(),
        }
    }

    /// The encoded `mvccpb.Event` in the form of these options; nothing when they filter it out.
    pub(super) fn encoded(&self, options: WatchOptions) -> Option<Bytes> {
        let filtered = match self.kind {
            EventKind::Put => options.no_put,
            EventKind::Delete => options.no_delete,
        };
        if filtered {
            return None;
        }
        Some(match &self.previous {
            Some(previous) if options.prev_kv => self
                .with_previous
                .get_or_init(|| encode(self.kind, &self.kv, Some(previous)))
                .clone(),
            _ => self
                .plain
                .get_or_init(|| encode(self.kind, &self.kv, None))
                .clone(),
        })
    }
}

/// Splices an `mvccpb.Event` from encoded pairs: 1 = type (PUT is 0 and left out), 2 = kv,
/// 3 = prev_kv.
fn encode(kind: EventKind, kv: &[u8], previous: Option<&[u8]>) -> Bytes {
    let field = |value: &[u8]| 1 + encoded_len_varint(value.len() as u64) + value.len();
    let mut out = BytesMut::with_capacity(2 + field(kv) + previous.map_or(0, field));
    if kind == EventKind::Delete {
        out.put_slice(&[0x08, 0x01]);
    }
    for (tag, value) in [(0x12, Some(kv)), (0x1a, previous)] {
        if let Some(value) = value {
            out.put_u8(tag);
            encode_varint(value.len() as u64, &mut out);
            out.put_slice(value);
        }
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use trilith_proto::mvccpb::{self, KeyValue};

    use super::*;

    fn pair(create_revision: i64, mod_revision: i64) -> Bytes {
        let key = Bytes::from_static(b"k");
        let pair = KeyValue {
            key,
            create_revision,
            mod_revision,
            ..KeyValue::default()
        };
        pair.encode_to_vec().into()
    }

    fn event(kind: EventKind, kv: Bytes, previous: Option<Bytes>) -> Event {
        Event {
            kind,
            key: Bytes::from_static(b"k"),
            kv,
            previous,
        }
    }

    fn decoded(feed: &Feed) -> Vec<mvccpb::Event> {
        let options = WatchOptions {
            prev_kv: true,
            ..WatchOptions::default()
        };
        let encoded = feed
            .events
            .iter()
            .filter_map(|event| event.encoded(options));
        encoded
            .map(|bytes| mvccpb::Event::decode(bytes).expect("our own encoding"))
            .collect()
    }

    #[test]
    fn an_event_is_spliced_as_prost_would_encode_it() {
        let kv = KeyValue {
            value: Bytes::from(vec![7; 300]),
            ..KeyValue::default()
        };
        for (kind, number) in [(EventKind::Put, 0), (EventKind::Delete, 1)] {
            for prev_kv in [
                None,
                Some(KeyValue {
                    version: 3,
                    ..kv.clone()
                }),
            ] {
                let previous = prev_kv.as_ref().map(|kv| Bytes::from(kv.encode_to_vec()));
                let spliced = encode(kind, &kv.encode_to_vec(), previous.as_deref());
                let event = mvccpb::Event {
                    r#type: number,
                    kv: Some(kv.clone()),
                    prev_kv,
                };
                assert_eq!(spliced, event.encode_to_vec());
            }
        }
    }

    #[test]
    fn a_key_changed_twice_has_the_pair_before_the_revision_as_previous() {
        let old = pair(3, 3);
        let events = vec![
            event(EventKind::Put, pair(3, 5), Some(old.clone())),
            event(EventKind::Delete, pair(0, 5), Some(pair(3, 5))),
            event(EventKind::Put, pair(5, 5), None),
            event(EventKind::Put, pair(5, 5), Some(pair(5, 5))),
        ];
        let feed = Feed::new(RevisionEvents {
            revision: Revision::new(5),
            events,
            lacks_previous: false,
        });
        let previous: Vec<_> = decoded(&feed)
            .into_iter()
            .map(|event| event.prev_kv)
            .collect();
        let old = KeyValue::decode(old).ok();
        assert_eq!(previous, [old.clone(), old, None, None]);
    }

    #[test]
    fn a_key_created_and_deleted_in_one_revision_has_no_previous() {
        let events = vec![
            event(EventKind::Put, pair(5, 5), None),
            event(EventKind::Delete, pair(0, 5), Some(pair(5, 5))),
        ];
        let feed = Feed::new(RevisionEvents {
            revision: Revision::new(5),
            events,
            lacks_previous: false,
        });
        assert!(decoded(&feed).iter().all(|event| event.prev_kv.is_none()));
    }
}
