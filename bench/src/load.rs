//! Key-value loads in closed and open loop, with latency percentiles.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{sync::Semaphore, task::JoinSet};
use trilith_proto::etcdserverpb::{TxnResponse, response_op::Response};

use crate::{
    client::{Connection, PUT, RANGE, TXN, Target},
    payload::{self, Values},
};

/// What the clients of a load do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Put,
    /// Kubernetes' update: compare mod revision, put, else get.
    Update,
    GetLinearizable,
    GetSerializable,
    /// 80 % linearizable gets, 20 % puts.
    Mixed,
}

/// A load: who sends what, how much of it.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) operation: Operation,
    pub(crate) clients: u64,
    pub(crate) connections: u64,
    /// Operations in all; the load ends with the first of this and `time_limit`.
    pub(crate) total: u64,
    pub(crate) time_limit: Duration,
    /// Operations per second of an open loop; `None`: each client sends when it has its answer.
    pub(crate) rate: Option<f64>,
    /// Objects that the load spreads over.
    pub(crate) keys: u64,
    pub(crate) value_size: usize,
    pub(crate) seed: u64,
    /// Ends the load before its time once it is set.
    pub(crate) stop: Option<Arc<AtomicBool>>,
}

impl Load {
    /// Whether the load, begun at `begin`, is over whatever is left to do.
    fn is_over(&self, begin: Instant) -> bool {
        let is_stopped = |stop: &Arc<AtomicBool>| stop.load(Ordering::Relaxed);
        begin.elapsed() > self.time_limit || self.stop.as_ref().is_some_and(is_stopped)
    }
}

/// What came of a load.
pub(crate) struct Outcome {
    pub(crate) operations: u64,
    pub(crate) elapsed: Duration,
    /// Microseconds; in an open loop from the moment the operation was due, so that waiting for
    /// a slow answer before it counts too (no coordinated omission).
    pub(crate) latency: Histogram<u64>,
}

impl Outcome {
    pub(crate) fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// Latency in microseconds that the share `quantile` of all operations did not exceed.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64
    }
}

/// What all clients of one load share.
struct Shared {
    load: Load,
    values: Values,
    /// Operations handed out so far.
    next: AtomicU64,
    begin: Instant,
    /// Open loop: one permit for each operation that is due.
    due: Option<Semaphore>,
}

/// One client: its connection, and what it remembers between operations.
struct Client {
    connection: Connection,
    put: Target,
    range: Target,
    txn: Target,
    random: SmallRng,
    /// Objects of this client alone, with their mod revision as of its last update.
    own: Vec<(u64, i64)>,
}

/// Runs `load` against `endpoint`; any failed operation fails it.
pub(crate) async fn run(endpoint: &str, load: &Load) -> Result<Outcome> {
    run_over(&[endpoint], load).await
}

/// As [`run`], with the connections, and so the clients, dealt out to `endpoints` in turn.
pub(crate) async fn run_over(endpoints: &[&str], load: &Load) -> Result<Outcome> {
    ensure!(
        load.clients >= 1 && load.connections >= 1 && !endpoints.is_empty(),
        "a load needs clients, connections and endpoints"
    );
    let mut connections = Vec::new();
    for (_, endpoint) in (0..load.connections).zip(endpoints.iter().cycle()) {
        connections.push(Connection::open(endpoint).await?);
    }
    let shared = Arc::new(Shared {
        values: Values::new(load.value_size, load.seed),
        next: AtomicU64::new(0),
        begin: Instant::now(),
        due: load.rate.map(|_| Semaphore::new(0)),
        load: load.clone(),
    });
    let pacer = load.rate.map(|rate| {
        let shared = shared.clone();
        std::thread::spawn(move || pace(&shared, rate))
    });
    let mut clients = JoinSet::new();
    for number in 0..load.clients {
        let connection = &connections[(number % load.connections) as usize];
        let client = Client::new(connection.clone(), number, load)?;
        clients.spawn(client.run(shared.clone()));
    }
    let mut latency = Histogram::new(3)?;
    let mut operations = 0;
    while let Some(samples) = clients.join_next().await {
        for sample in samples?? {
            latency.record(sample.into())?;
            operations += 1;
        }
    }
    let elapsed = shared.begin.elapsed();
    if let Some(pacer) = pacer {
        pacer.join().ok().context("the pacer panicked")?;
    }
    Ok(Outcome {
        operations,
        elapsed,
        latency,
    })
}

/// Opens `count` connections.
pub(crate) async fn connect(endpoint: &str, count: u64) -> Result<Vec<Connection>> {
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(Connection::open(endpoint).await?);
    }
    Ok(connections)
}

impl Client {
    fn new(connection: Connection, number: u64, load: &Load) -> Result<Self> {
        let own = (number..load.keys.max(load.clients)).step_by(load.clients as usize);
        Ok(Self {
            put: connection.target(PUT)?,
            range: connection.target(RANGE)?,
            txn: connection.target(TXN)?,
            connection,
            random: SmallRng::seed_from_u64(load.seed.wrapping_add(number)),
            own: own.map(|number| (number, 0)).collect(),
        })
    }

    /// Operates until the load is over; gives each operation's latency in microseconds.
    async fn run(mut self, shared: Arc<Shared>) -> Result<Vec<u32>> {
        let load = &shared.load;
        let mut samples = Vec::with_capacity((2 * load.total / load.clients) as usize);
        loop {
            if let Some(due) = &shared.due {
                // Closed by the pacer once it has let the last operation go.
                let Ok(permit) = due.acquire().await else {
                    break;
                };
                permit.forget();
            }
            let number = shared.next.fetch_add(1, Ordering::Relaxed);
            if number >= load.total || load.is_over(shared.begin) {
                break;
            }
            let begin = match load.rate {
                Some(rate) => shared.begin + Duration::from_secs_f64(number as f64 / rate),
                None => Instant::now(),
            };
            self.operate(&shared).await?;
            samples.push(begin.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
        }
        Ok(samples)
    }

    async fn operate(&mut self, shared: &Shared) -> Result<()> {
        let load = &shared.load;
        let number = self.random.random_range(0..load.keys);
        match load.operation {
            Operation::Put => self.put(number, shared).await,
            Operation::GetLinearizable => self.get(number, false, load).await,
            Operation::GetSerializable => self.get(number, true, load).await,
            Operation::Mixed if self.random.random_ratio(4, 5) => {
                self.get(number, false, load).await
            }
            Operation::Mixed => self.put(number, shared).await,
            Operation::Update => self.update(shared).await,
        }
    }

    async fn put(&mut self, number: u64, shared: &Shared) -> Result<()> {
        let request = payload::put(number, shared.values.pick(&mut self.random));
        self.connection.unary(&self.put, request).await.map(drop)
    }

    async fn get(&self, number: u64, serializable: bool, load: &Load) -> Result<()> {
        let reply = self
            .connection
            .unary(&self.range, payload::get(number, serializable))
            .await?;
        ensure!(
            reply.len() >= load.value_size,
            "get of {} found nothing",
            number
        );
        Ok(())
    }

    async fn update(&mut self, shared: &Shared) -> Result<()> {
        let index = self.random.random_range(0..self.own.len());
        let (number, revision) = self.own[index];
        let value = shared.values.pick(&mut self.random);
        let request = payload::update(number, revision, value);
        let reply: Bytes = self.connection.unary(&self.txn, request).await?;
        let reply = TxnResponse::decode(reply)?;
        self.own[index].1 = if reply.succeeded {
            reply.header.context("no header")?.revision
        } else {
            found_revision(&reply).context("an update failed and its get found nothing")?
        };
        Ok(())
    }
}

/// The object's mod revision that the get of a failed update has found: it was there before.
fn found_revision(reply: &TxnResponse) -> Option<i64> {
    match reply.responses.first()?.response.as_ref()? {
        Response::ResponseRange(range) => Some(range.kvs.first()?.mod_revision),
        _ => None,
    }
}

/// Lets operations go at the times they are due, then ends the load.
///
/// A thread of its own: the runtime's timers tick in milliseconds, which at these rates would be
/// bursts of dozens.
fn pace(shared: &Shared, rate: f64) {
    /// Shortest sleep worth its system calls.
    const STEP: Duration = Duration::from_micros(100);
    let Some(due) = &shared.due else { return };
    let mut released = 0;
    while released < shared.load.total {
        if shared.load.is_over(shared.begin) {
            break;
        }
        let elapsed = shared.begin.elapsed();
        let target = ((elapsed.as_secs_f64() * rate) as u64).min(shared.load.total);
        due.add_permits((target - released) as usize);
        released = target;
        std::thread::sleep(STEP);
    }
    // Permits that are still there are operations that are late: they must not be dropped.
    while due.available_permits() > 0 && !shared.load.is_over(shared.begin) {
        std::thread::sleep(STEP);
    }
    due.close();
}
