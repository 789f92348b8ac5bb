//! What must hold of the members' logs and states after every step.

use std::collections::BTreeMap;

use trilith_proto::raftpb::{Message, MessageType};
use trilith_server::ids::{Index, MemberId};
use trilith_server::member::WrittenEntry;

use crate::node::Node;

/// All that was ever seen of logs, leaders and states.
#[derive(Default)]
pub(crate) struct RaftChecks {
    /// Who led which term.
    leaders: BTreeMap<u64, MemberId>,
    /// Of each entry that was written anywhere: the term of the one before it, and its content.
    entries: BTreeMap<(u64, u64), (u64, u64)>,
    /// The term of each entry that is known to be committed, from index 1 on.
    committed: Vec<u64>,
    /// By member and term: for whom it said that it votes.
    votes: BTreeMap<(u64, u64), u64>,
    /// A sum over the state at each index, and who had it.
    digests: BTreeMap<u64, (u64, MemberId)>,
}

impl RaftChecks {
    /// How many terms had a leader.
    pub(crate) fn elections(&self) -> usize {
        self.leaders.len()
    }

    /// Looks at a member that has just taken a step.
    ///
    /// # Errors
    ///
    /// What does not hold.
    pub(crate) fn check(&mut self, node: &mut Node) -> Result<(), String> {
        for entry in node.log.take_written() {
            self.match_logs(node.id, &entry)?;
        }
        let id = node.id;
        let Some(running) = &mut node.running else {
            return Ok(());
        };
        let status = running.status();
        let member = running.member.lock();
        for index in running.committed_seen + 1..=status.committed.get() {
            let Some(term) = member.term(Index::new(index)) else {
                continue;
            };
            let at = usize::try_from(index - 1).expect("an index fits");
            match self.committed.get(at) {
                Some(known) if *known != term.get() => {
                    return Err(format!(
                        "{id} has entry {index} of term {term} committed, others of term {known}"
                    ));
                }
                None if self.committed.len() == at => self.committed.push(term.get()),
                _ => {}
            }
        }
        running.committed_seen = status.committed.get();
        if !status.is_leader() {
            return Ok(());
        }
        let term = status.term.get();
        if let Some(leader) = self.leaders.get(&term) {
            if *leader != id {
                return Err(format!("{leader} and {id} lead term {term}"));
            }
            return Ok(());
        }
        self.leaders.insert(term, id);
        // Leader completeness: whatever was committed in earlier terms is there.
        let base = member.base().get();
        for (index, wanted) in (1..).zip(&self.committed) {
            let found = member.term(Index::new(index)).map(|term| term.get());
            if index > base && *wanted < term && found != Some(*wanted) {
                return Err(format!(
                    "{id} leads term {term} and has {found:?} for entry {index} of term {wanted}"
                ));
            }
        }
        Ok(())
    }

    /// A member votes for one candidate in a term, be it itself.
    ///
    /// # Errors
    ///
    /// When `message` says that it votes for another one.
    pub(crate) fn check_vote(&mut self, message: &Message) -> Result<(), String> {
        let candidate = match message.r#type() {
            MessageType::MsgVote => message.from,
            MessageType::MsgVoteResp if !message.reject => message.to,
            _ => return Ok(()),
        };
        let (from, term) = (MemberId::new(message.from), message.term);
        let vote = self.votes.entry((message.from, term)).or_insert(candidate);
        match *vote == candidate {
            true => Ok(()),
            false => Err(format!(
                "{from} votes for {vote} and {candidate} in term {term}"
            )),
        }
    }

    /// A member that starts knows whom it has voted for in the term that it knows, and no term
    /// before the last one that it has voted in.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub(crate) fn check_start(&self, node: &Node) -> Result<(), String> {
        let id = node.id.get();
        let Some(((_, term), vote)) = self.votes.range((id, 0)..=(id, u64::MAX)).next_back() else {
            return Ok(());
        };
        let known = node.log.vote();
        match known.0 > *term || known == (*term, *vote) {
            true => Ok(()),
            false => Err(format!(
                "{} has voted for {vote} in term {term} and starts with {known:?}",
                node.id
            )),
        }
    }

    /// Entries of the same index and term are the same, and so are all before them.
    fn match_logs(&mut self, id: MemberId, entry: &WrittenEntry) -> Result<(), String> {
        let found = (entry.term_before, entry.hash);
        let known = *self
            .entries
            .entry((entry.index, entry.term))
            .or_insert(found);
        if known != found {
            let (index, term) = (entry.index, entry.term);
            return Err(format!(
                "{id} writes another entry {index} of term {term} than others"
            ));
        }
        Ok(())
    }

    /// The state after an entry is the same on all members.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub(crate) fn check_state(
        &mut self,
        index: u64,
        digest: u64,
        id: MemberId,
    ) -> Result<(), String> {
        let (known, other) = *self.digests.entry(index).or_insert((digest, id));
        if known != digest {
            return Err(format!("after entry {index} {id} and {other} differ"));
        }
        Ok(())
    }
}
