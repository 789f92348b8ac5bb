//! What clients were told, against what the log says: linearizability in linear time.
//!
//! The order of a linearizable history is known here, since the log is: a write stands at the index
//! of its entry, and a read right behind the last entry that it has seen. It is left to check that
//! this order explains every answer (by the model), that each request is in it at most once, and
//! that it goes along with real time: what was answered before a request was made stands before it.
//! With one number per request that is one comparison with the greatest number answered before.

use std::collections::BTreeMap;

use trilith_proto::etcdserverpb as pb;
use trilith_server::error::RequestError;

use crate::answer::Answer;
use crate::client::{Call, Outcome, Seen};
use crate::leases::Leases;
use crate::model::{COMPACTED, FUTURE, Model};

/// All requests of all clients.
#[derive(Default)]
pub(crate) struct History {
    open: BTreeMap<u64, Operation>,
    /// The greatest place in the order that a client was told of.
    told: u64,
    /// Requests that a member has refused before they could come into the log.
    refused: Vec<u64>,
    /// How many were answered with success.
    pub(crate) answered: u64,
    pub(crate) failed: u64,
}

/// A request that is under way.
pub(crate) struct Operation {
    pub(crate) call: Call,
    pub(crate) client: usize,
    pub(crate) invoked: u64,
    /// What was answered when it was made stands up to there.
    after: u64,
}

impl History {
    pub(crate) fn invoke(&mut self, tag: u64, client: usize, call: Call, now: u64) {
        let operation = Operation {
            call,
            client,
            invoked: now,
            after: self.told,
        };
        self.open.insert(tag, operation);
    }

    pub(crate) fn call(&self, tag: u64) -> Option<Call> {
        self.open.get(&tag).map(|operation| operation.call.clone())
    }

    pub(crate) fn is_open(&self, tag: u64) -> bool {
        self.open.contains_key(&tag)
    }

    /// A client hears what became of its request; gives the client.
    ///
    /// # Errors
    ///
    /// When it must not be told that.
    pub(crate) fn respond(
        &mut self,
        tag: u64,
        outcome: Outcome,
        model: &Model,
        leases: &mut Leases,
    ) -> Result<Option<usize>, String> {
        let Some(operation) = self.open.remove(&tag) else {
            return Ok(None);
        };
        let text = |what: String| format!("request {tag} ({:?}): {what}", operation.call);
        let place = match (&operation.call, outcome) {
            (Call::Propose(request), Outcome::Proposed(result)) => {
                let place = self.proposed(tag, result, model).map_err(text)?;
                if place.is_some() {
                    leases.told(request, operation.invoked);
                }
                place
            }
            (Call::Read(request), Outcome::Read(seen)) => {
                check_read(request, &seen, model).map_err(text)?;
                (!request.serializable).then_some(seen.applied)
            }
            (Call::Renew(id), Outcome::Renewed(Ok(Some(_)))) => {
                leases.renewed(*id, operation.invoked);
                None
            }
            _ => None,
        };
        if let Some(place) = place {
            let is_late = match operation.call {
                Call::Read(_) => place >= operation.after,
                _ => place > operation.after,
            };
            if !is_late {
                let after = operation.after;
                return Err(text(format!("it stands at {place}, not after {after}")));
            }
            self.told = self.told.max(place);
            self.answered += 1;
        } else {
            self.failed += 1;
        }
        Ok(Some(operation.client))
    }

    /// The place in the order, if it has one for sure.
    fn proposed(
        &mut self,
        tag: u64,
        result: Result<trilith_server::apply::Reply, RequestError>,
        model: &Model,
    ) -> Result<Option<u64>, String> {
        let applied = model.applied(tag);
        match (result, applied) {
            (Ok(reply), Some(applied)) => {
                let answer = Ok(Answer::of_reply(reply));
                if answer != applied.answer {
                    let (index, wanted) = (applied.index, &applied.answer);
                    return Err(format!(
                        "it is told {answer:?}, but entry {index} means {wanted:?}"
                    ));
                }
                Ok(Some(applied.index))
            }
            (Ok(reply), None) => Err(format!("it is told {reply:?} and is in no log")),
            (Err(error), applied) if is_of_apply(&error) => match applied {
                Some(applied) if applied.answer == Err(error.text()) => Ok(Some(applied.index)),
                other => Err(format!("it is told {error}, but it came to {other:?}")),
            },
            (Err(RequestError::TooManyRequests | RequestError::RequestTooLarge), applied) => {
                self.refused.push(tag);
                match applied {
                    None => Ok(None),
                    Some(applied) => Err(format!("it is refused, and stands at {}", applied.index)),
                }
            }
            (Err(_unknown), _) => Ok(None),
        }
    }

    /// In the end nothing may be in the log that was refused.
    pub(crate) fn check_refused(&self, model: &Model) -> Result<(), String> {
        let found = self
            .refused
            .iter()
            .find(|tag| model.applied(**tag).is_some());
        match found {
            Some(tag) => Err(format!("request {tag} was refused and is in the log")),
            None => Ok(()),
        }
    }
}

fn is_of_apply(error: &RequestError) -> bool {
    matches!(
        error,
        RequestError::LeaseNotFound
            | RequestError::LeaseExist
            | RequestError::Compacted
            | RequestError::FutureRevision
            | RequestError::KeyNotFound
    )
}

fn check_read(request: &pb::RangeRequest, seen: &Seen, model: &Model) -> Result<(), String> {
    let Some((revision, compacted)) = model.moment(seen.applied) else {
        return Err(format!(
            "it has seen entry {}, which is nowhere",
            seen.applied
        ));
    };
    if revision != seen.revision {
        return Err(format!(
            "it is told revision {}, but entry {} made it {revision}",
            seen.revision, seen.applied
        ));
    }
    let at = if request.revision > 0 {
        request.revision
    } else {
        revision
    };
    let wanted = if at > revision {
        Err(FUTURE)
    } else if at < compacted {
        Err(COMPACTED)
    } else {
        let pairs = model.range(&request.key, &request.range_end, at);
        Ok(Answer::range(request, pairs))
    };
    if wanted != seen.result {
        return Err(format!(
            "at entry {} it is told {:?} and not {wanted:?}",
            seen.applied, seen.result
        ));
    }
    Ok(())
}
