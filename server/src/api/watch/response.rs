//! From deliveries of the hub to the messages that clients get.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use prost::{Message, encoding::encoded_len_varint};
use trilith_proto::etcdserverpb::ResponseHeader;
use trilith_proto::wire::WatchResponse;

use crate::error::RequestError;
use crate::ids::{Revision, WatchId};
use crate::mvcc::watch::{Delivery, Recipients, WatchRefused};

/// A delivery on its way to the client: one message per watcher, made when it is asked for, since
/// a thousand watchers may share the delivery.
pub(super) struct Outgoing {
    watchers: Recipients,
    position: usize,
    /// All but the watcher's id and the events.
    template: WatchResponse,
    events: Arc<Vec<Bytes>>,
    /// A response of this many bytes is cut into fragments; `None` if the client did not ask.
    fragment_bytes: Option<usize>,
    /// Fragments of the current watcher's response that are still to be sent.
    fragments: VecDeque<WatchResponse>,
}

impl Outgoing {
    /// Takes a delivery apart. `header` makes the header of a revision; `bytes_max` is the size
    /// at which fragmenting watchers get a response in parts.
    pub(super) fn new(
        delivery: Delivery,
        header: impl Fn(i64) -> ResponseHeader,
        bytes_max: usize,
    ) -> Self {
        let at = |revision: Revision| WatchResponse {
            header: Some(header(revision.get())),
            ..WatchResponse::default()
        };
        match delivery {
            Delivery::Created { id, revision, .. } => Self::control(
                id,
                WatchResponse {
                    created: true,
                    ..at(revision)
                },
            ),
            Delivery::Refused { reason, revision } => {
                let cancel_reason = refused_text(reason).to_owned();
                let response = WatchResponse {
                    created: true,
                    canceled: true,
                    cancel_reason,
                    ..at(revision)
                };
                Self::control(NO_WATCHER, response)
            }
            Delivery::Canceled { id, revision } => Self::control(
                id,
                WatchResponse {
                    canceled: true,
                    ..at(revision)
                },
            ),
            // etcd leaves the revision of this one header 0.
            Delivery::Compacted {
                watchers,
                compact_revision,
            } => Self::plain(
                watchers,
                WatchResponse {
                    canceled: true,
                    compact_revision: compact_revision.get(),
                    ..at(Revision::new(0))
                },
            ),
            Delivery::Progress { watchers, revision } => Self::plain(watchers, at(revision)),
            Delivery::StreamProgress { revision } => Self::control(NO_WATCHER, at(revision)),
            Delivery::Events {
                watchers,
                options,
                revision,
                events,
            } => Self {
                events,
                fragment_bytes: options.fragment.then_some(bytes_max),
                ..Self::plain(watchers, at(revision))
            },
        }
    }

    fn control(id: WatchId, template: WatchResponse) -> Self {
        Self::plain(Recipients::One(id), template)
    }

    fn plain(watchers: Recipients, template: WatchResponse) -> Self {
        Self {
            watchers,
            position: 0,
            template,
            events: Arc::default(),
            fragment_bytes: None,
            fragments: VecDeque::new(),
        }
    }

    /// The next message.
    pub(super) fn next(&mut self) -> Option<WatchResponse> {
        if let Some(fragment) = self.fragments.pop_front() {
            return Some(fragment);
        }
        let id = self.watchers.get(self.position)?;
        self.position += 1;
        let response = WatchResponse {
            watch_id: id.get(),
            events: self.events.to_vec(),
            ..self.template.clone()
        };
        match self.fragment_bytes {
            Some(bytes_max) => {
                self.fragments = fragment(response, bytes_max);
                self.fragments.pop_front()
            }
            None => Some(response),
        }
    }
}

/// Cuts a response between events, so that each part stays under `bytes_max` unless a single event
/// is larger; all parts but the last are marked.
fn fragment(response: WatchResponse, bytes_max: usize) -> VecDeque<WatchResponse> {
    if response.events.len() < 2 || response.encoded_len() < bytes_max {
        return VecDeque::from([response]);
    }
    let part = WatchResponse {
        fragment: true,
        events: Vec::new(),
        ..response.clone()
    };
    let part_bytes = part.encoded_len();
    let mut parts = VecDeque::from([part.clone()]);
    let mut bytes = part_bytes;
    for event in response.events {
        let event_bytes = 1 + encoded_len_varint(event.len() as u64) + event.len();
        let mut last = parts.back_mut().expect("there is one from the start");
        if !last.events.is_empty() && bytes + event_bytes >= bytes_max {
            parts.push_back(part.clone());
            last = parts.back_mut().expect("pushed just now");
            bytes = part_bytes;
        }
        last.events.push(event);
        bytes += event_bytes;
    }
    if let Some(last) = parts.back_mut() {
        last.fragment = false;
    }
    parts
}

/// etcd's texts.
fn refused_text(reason: WatchRefused) -> &'static str {
    match reason {
        WatchRefused::NegativeStart => RequestError::Compacted.text(),
        WatchRefused::EmptyRange => "mvcc: watcher range is empty",
        WatchRefused::DuplicateId => "mvcc: duplicate watch ID provided on the WatchStream",
    }
}

/// What etcd puts where a response is not about one watcher.
const NO_WATCHER: WatchId = WatchId::new(-1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::watch::WatchOptions;

    fn header(revision: i64) -> ResponseHeader {
        ResponseHeader {
            revision,
            ..ResponseHeader::default()
        }
    }

    fn responses(delivery: Delivery, bytes_max: usize) -> Vec<WatchResponse> {
        let mut outgoing = Outgoing::new(delivery, header, bytes_max);
        std::iter::from_fn(|| outgoing.next()).collect()
    }

    fn events(ids: &[i64], sizes: &[usize], fragment: bool) -> Delivery {
        let ids = ids.iter().map(|id| WatchId::new(*id)).collect();
        let events = sizes
            .iter()
            .map(|size| Bytes::from(vec![b'e'; *size]))
            .collect();
        Delivery::Events {
            watchers: Recipients::Many(Arc::new(ids)),
            options: WatchOptions {
                fragment,
                ..WatchOptions::default()
            },
            revision: Revision::new(9),
            events: Arc::new(events),
        }
    }

    #[test]
    fn each_watcher_gets_a_response_of_its_own() {
        let responses = responses(events(&[3, 5], &[10, 20], false), 1);
        let ids: Vec<i64> = responses.iter().map(|response| response.watch_id).collect();
        assert_eq!(ids, [3, 5]);
        assert!(responses.iter().all(|response| response.events.len() == 2));
        assert!(
            responses
                .iter()
                .all(|response| response.header == Some(header(9)))
        );
    }

    #[test]
    fn a_large_response_is_cut_between_events_and_all_parts_but_the_last_say_so() {
        let parts = responses(events(&[3, 5], &[400, 400, 10, 2000, 10], true), 1000);
        let cut: Vec<(i64, usize, bool)> = parts
            .iter()
            .map(|part| (part.watch_id, part.events.len(), part.fragment))
            .collect();
        let one = |id| [(id, 3, true), (id, 1, true), (id, 1, false)];
        assert_eq!(cut, [one(3), one(5)].concat());
        for part in &parts {
            assert!(part.events.len() == 1 || part.encoded_len() < 1000);
        }
    }

    #[test]
    fn a_response_below_the_bound_or_with_one_event_stays_whole() {
        for sizes in [&[100, 100][..], &[5000]] {
            let parts = responses(events(&[1], sizes, true), 1000);
            assert_eq!(parts.len(), 1);
            assert!(!parts[0].fragment);
        }
    }

    #[test]
    fn a_compacted_watcher_has_no_revision_in_its_header_and_no_reason() {
        let watchers = Recipients::One(WatchId::new(2));
        let compacted = Delivery::Compacted {
            watchers,
            compact_revision: Revision::new(7),
        };
        let expected = WatchResponse {
            header: Some(header(0)),
            watch_id: 2,
            canceled: true,
            compact_revision: 7,
            ..WatchResponse::default()
        };
        assert_eq!(responses(compacted, 1), [expected]);
    }

    #[test]
    fn a_refused_watcher_is_created_and_canceled_under_no_id() {
        let refused = Delivery::Refused {
            reason: WatchRefused::NegativeStart,
            revision: Revision::new(4),
        };
        let [response] = &responses(refused, 1)[..] else {
            panic!("one response")
        };
        assert!(response.created && response.canceled);
        assert_eq!(response.watch_id, -1);
        let text = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(response.cancel_reason, text);
    }
}
