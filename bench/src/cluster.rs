//! Three members of one cluster on loopback, started alike whichever program they run.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use trilith_proto::etcdserverpb::{StatusRequest, StatusResponse};

use crate::{
    client::{Connection, STATUS},
    process::Server,
};

const NAMES: [&str; 3] = ["bench1", "bench2", "bench3"];
/// Founding a cluster, or an election, takes seconds; a minute is a cluster that hangs.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two looks at the members.
const PAUSE: Duration = Duration::from_millis(20);
/// A member that is busy with an election answers soon after it.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Dropping it kills all members.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Server>,
}

impl Cluster {
    /// Founds a cluster of three members that run `program`, each with `flags` and else defaults.
    pub(crate) async fn start(program: &Path, base: &Path, flags: &[&str]) -> Result<Self> {
        let prepare = |name| Server::prepare(program, base, name, flags);
        let members = NAMES.map(prepare).into_iter().collect::<Result<_>>()?;
        let mut cluster = Self { members };
        let founders = cluster.as_members();
        let mut begins = Vec::new();
        for member in &mut cluster.members {
            member.found(&founders, "new");
            begins.push(member.spawn()?);
        }
        for (member, begin) in cluster.members.iter_mut().zip(begins) {
            member.ready(begin, TIMEOUT).await?;
        }
        Ok(cluster)
    }

    /// All members as `--initial-cluster` wants them.
    pub(crate) fn as_members(&self) -> String {
        let members: Vec<String> = self.members.iter().map(Server::as_member).collect();
        members.join(",")
    }

    /// Client addresses of all members.
    pub(crate) fn endpoints(&self) -> Vec<&str> {
        self.members.iter().map(|it| it.endpoint.as_str()).collect()
    }

    /// The processes of the members that run.
    pub(crate) fn pids(&self) -> Result<Vec<u32>> {
        let running = self.members.iter().filter(|member| member.is_running());
        running.map(Server::pid).collect()
    }

    /// Waits until all members that run name the same leader, which is one of them; gives its
    /// place among the members.
    pub(crate) async fn leader(&self) -> Result<usize> {
        let begin = Instant::now();
        while begin.elapsed() < TIMEOUT {
            if let Some(leader) = self.agreed_leader().await {
                return Ok(leader);
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("the members agree on no leader");
    }

    /// The place of some member that does not lead.
    pub(crate) async fn follower(&self) -> Result<usize> {
        Ok((self.leader().await? + 1) % self.members.len())
    }

    async fn agreed_leader(&self) -> Option<usize> {
        let mut named = None;
        let mut place = None;
        for (number, member) in self.members.iter().enumerate() {
            if !member.is_running() {
                continue;
            }
            let status = status(&member.endpoint).await.ok()?;
            if status.leader == 0 || named.is_some_and(|leader| leader != status.leader) {
                return None;
            }
            named = Some(status.leader);
            if status.header?.member_id == status.leader {
                place = Some(number);
            }
        }
        place
    }

    /// Ends all members, which must be running still: a member that died on the way has made the
    /// figures those of a smaller cluster.
    pub(crate) fn finish(mut self) -> Result<()> {
        for member in &mut self.members {
            member.check()?;
            member.pid()?;
        }
        for member in &mut self.members {
            member.kill()?;
        }
        Ok(())
    }
}

/// What the member at `endpoint` says of itself.
pub(crate) async fn status(endpoint: &str) -> Result<StatusResponse> {
    let ask = async {
        let connection = Connection::open(endpoint).await?;
        connection.ask(STATUS, &StatusRequest::default()).await
    };
    let answer = tokio::time::timeout(ATTEMPT, ask).await;
    answer.with_context(|| format!("{endpoint} does not tell its status"))?
}
