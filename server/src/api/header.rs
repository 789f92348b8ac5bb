//! Fills in who answers: cluster, member, term, and the revision where apply left it open.

use trilith_proto::etcdserverpb::ResponseHeader;

use crate::ids::{ClusterId, MemberId};
use crate::member::MemberHandle;
use crate::mvcc::Store;

/// Source of response headers; cheap to clone.
#[derive(Clone)]
pub struct HeaderSource {
    cluster_id: ClusterId,
    member_id: MemberId,
    member: MemberHandle,
    store: Store,
}

impl HeaderSource {
    /// Headers of `member_id` in `cluster_id`; the term is `member`'s, the revision `store`'s.
    pub fn new(
        cluster_id: ClusterId,
        member_id: MemberId,
        member: MemberHandle,
        store: Store,
    ) -> Self {
        Self {
            cluster_id,
            member_id,
            member,
            store,
        }
    }

    /// Completes `header`; a revision of 0 becomes the current one, as etcd's `header.fill` does.
    pub fn fill(&self, header: &mut Option<ResponseHeader>) {
        let header = header.get_or_insert_default();
        if header.revision == 0 {
            header.revision = self.store.read().revision().get();
        }
        self.fill_without_revision(header);
    }

    /// Completes everything but the revision, for answers that carry a revision of their own or
    /// none.
    pub fn fill_without_revision(&self, header: &mut ResponseHeader) {
        header.cluster_id = self.cluster_id.get();
        header.member_id = self.member_id.get();
        header.raft_term = self.member.status().term.get();
    }

    /// A header of the current revision.
    pub fn now(&self) -> ResponseHeader {
        let mut header = None;
        self.fill(&mut header);
        header.unwrap_or_default()
    }

    /// A header that carries `revision`, which may be 0.
    pub fn at(&self, revision: i64) -> ResponseHeader {
        let mut header = ResponseHeader {
            revision,
            ..ResponseHeader::default()
        };
        self.fill_without_revision(&mut header);
        header
    }

    /// Whether this member knows who leads.
    pub fn has_leader(&self) -> bool {
        self.member.status().leader.is_some()
    }

    /// Whether this member has no vote yet.
    pub fn is_learner(&self) -> bool {
        self.member.status().is_learner
    }

    /// The cluster it belongs to.
    pub fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// The member that answers.
    pub fn member_id(&self) -> MemberId {
        self.member_id
    }
}
