//! A member that has lost its data is replaced, and gets all of it while puts go on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use prost::Message;
use trilith_proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberRemoveRequest, MemberRemoveResponse, RangeRequest,
    RangeResponse,
};

use super::{Env, MIB, Measures, bulk, cluster, list, steady};
use crate::{
    client::{Connection, MEMBER_ADD, MEMBER_REMOVE, RANGE},
    cluster::status,
    payload::Values,
    process::Server,
};

const KEYS: u64 = 2_000_000;
const VALUE: usize = 1_000;
/// A transfer of 2 GB takes a minute at most.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a change of members may be refused, because the others are not known to be well.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
const CHANGE_PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn run(env: &mut Env) -> Result<Measures> {
    let keys = env.size(KEYS);
    let values = Values::new(VALUE, env.seed);
    bulk::put(env, (0..keys).collect(), &|random| values.pick(random)).await?;
    env.settle(bulk::FLUSH_PERIOD).await?;
    let alone = steady::alone(env, keys).await?;
    env.settle(Duration::ZERO).await?;
    let leader = Connection::open(&env.endpoint).await?;
    let place = env.cluster()?.follower().await?;
    let members = env.cluster()?.as_members();
    let mut member = env.cluster_mut()?.members.remove(place);
    replace(&leader, &mut member).await?;
    member.found(&members, "existing");
    let catch_up = async {
        let begin = member.spawn()?;
        // A linearizable read waits until all that was written before it is there.
        member.ready(begin, CATCH_UP_TIMEOUT).await
    };
    let (took, puts) = steady::beside(env, keys, catch_up).await?;
    let found = count(&member).await?;
    ensure!(
        found == keys as i64,
        "the member has {found} of {keys} keys"
    );
    env.cluster_mut()?.members.insert(place, member);
    cluster::check_leader(env).await?;
    let seconds = took.as_secs_f64();
    let mut measures = vec![
        ("catch_up_s", seconds),
        ("mib_per_s", (keys * VALUE as u64) as f64 / MIB / seconds),
    ];
    measures.extend(steady::compared(&alone, &puts));
    Ok(measures)
}

/// Takes `member` out of the cluster, ends it, wipes it, and announces it as a new one.
async fn replace(leader: &Connection, member: &mut Server) -> Result<()> {
    let header = status(&member.endpoint).await?.header;
    let remove = MemberRemoveRequest {
        id: header.context("a status without a header")?.member_id,
    };
    change::<_, MemberRemoveResponse>(leader, MEMBER_REMOVE, &remove).await?;
    member.kill()?;
    member.wipe()?;
    let add = MemberAddRequest {
        peer_ur_ls: vec![member.peer_url()],
        ..MemberAddRequest::default()
    };
    change::<_, MemberAddResponse>(leader, MEMBER_ADD, &add).await?;
    Ok(())
}

/// Asks again while the change is refused: the members must have been connected for some seconds.
async fn change<Q: Message, A: Message + Default>(
    leader: &Connection,
    path: &str,
    request: &Q,
) -> Result<A> {
    let begin = Instant::now();
    loop {
        match leader.ask(path, request).await {
            Ok(done) => return Ok(done),
            Err(error) if begin.elapsed() > CHANGE_TIMEOUT => {
                return Err(error.context(path.to_owned()));
            }
            Err(_) => tokio::time::sleep(CHANGE_PAUSE).await,
        }
    }
}

/// The number of keys that `member` itself has.
async fn count(member: &Server) -> Result<i64> {
    let request = RangeRequest {
        serializable: true,
        count_only: true,
        ..list::all(0)
    };
    let connection = Connection::open(&member.endpoint).await?;
    let counted: RangeResponse = connection.ask(RANGE, &request).await?;
    Ok(counted.count)
}
