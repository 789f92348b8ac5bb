//! Many watchers of one prefix: what an event costs, and how late it comes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use hdrhistogram::Histogram;
use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::task::JoinSet;
use trilith_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_request};

use super::{Env, MIB, Measures};
use crate::{
    client::{Call, Connection, Frames, PUT, Replies, WATCH, frame},
    load::connect,
    payload::{self, Values},
    wire,
};

const WATCHERS: u64 = 10_000;
const CONNECTIONS: u64 = 10;
/// Puts in all, and the pause from one to the next.
const PUTS: u64 = 200;
const PERIOD: Duration = Duration::from_millis(50);
const VALUE: usize = 256;
/// Before the number of the put at the end of each value: shows that the parser has found it.
const MARK: u64 = 0x7472_696c_6974_6821;
/// A server that is further behind than this at the end has failed.
const CATCH_UP: Duration = Duration::from_secs(60);

/// What the readers of all streams tell.
struct Shared {
    begin: Instant,
    /// When each put was sent, in microseconds after `begin`.
    sent: Vec<AtomicU64>,
    created: AtomicU64,
}

pub(super) async fn run(env: &mut Env) -> Result<Measures> {
    let watchers = env.size(WATCHERS).next_multiple_of(CONNECTIONS);
    let puts = env.size(PUTS).max(10);
    let shared = Arc::new(Shared {
        begin: Instant::now(),
        sent: (0..puts).map(|_| AtomicU64::new(0)).collect(),
        created: AtomicU64::new(0),
    });
    let connections = connect(&env.endpoint, CONNECTIONS).await?;
    env.settle(Duration::ZERO).await?;
    let before = env.memory()?;
    let mut streams = Vec::new();
    let mut readers = JoinSet::new();
    for connection in &connections {
        let call = watch(connection, watchers / CONNECTIONS).await?;
        streams.push(call.requests);
        readers.spawn(read(
            call.replies,
            shared.clone(),
            watchers / CONNECTIONS * puts,
        ));
    }
    all_created(&shared, watchers, &mut readers).await?;
    env.settle(Duration::ZERO).await?;
    let idle = env.memory()?;
    let meter = env.meter()?;
    put(env, &shared).await?;
    let all = async {
        let mut latency = Histogram::<u64>::new(3)?;
        while let Some(reader) = readers.join_next().await {
            latency.add(reader??)?;
        }
        anyhow::Ok(latency)
    };
    let latency = tokio::time::timeout(CATCH_UP, all)
        .await
        .context("events are missing")??;
    let cpu = meter.stop()?;
    let mut measures = vec![
        ("p50_us", latency.value_at_quantile(0.5) as f64),
        ("p99_us", latency.value_at_quantile(0.99) as f64),
    ];
    measures.extend(cpu.map(|cpu| ("cpu_us_per_event", cpu / (watchers * puts) as f64)));
    if let Some(((before, idle), end)) = before.zip(idle).zip(env.memory()?) {
        let taken = idle.resident.saturating_sub(before.resident) as f64;
        measures.push(("bytes_per_watcher", taken / watchers as f64));
        measures.push(("peak_mib", end.peak as f64 / MIB));
    }
    Ok(measures)
}

/// One stream with `count` watchers of the whole prefix.
async fn watch(connection: &Connection, count: u64) -> Result<Call> {
    let create = WatchCreateRequest {
        key: payload::PREFIX.into(),
        range_end: payload::PREFIX_END.into(),
        ..WatchCreateRequest::default()
    };
    let create = WatchRequest {
        request_union: Some(watch_request::RequestUnion::CreateRequest(create)),
    };
    let create = frame(&create);
    let mut call = connection
        .call(&connection.target(WATCH)?, create.clone(), false)
        .await?;
    for _ in 1..count {
        call.requests.send_data(create.clone(), false)?;
    }
    Ok(call)
}

/// Reads one stream until `expected` events have come.
async fn read(mut replies: Replies, shared: Arc<Shared>, expected: u64) -> Result<Histogram<u64>> {
    let mut latency = Histogram::new(3)?;
    let mut frames = Frames::default();
    let mut seen = 0;
    while seen < expected {
        let chunk = replies
            .chunk()
            .await?
            .context("the watch stream has ended")?;
        let now = shared.begin.elapsed().as_micros() as u64;
        frames.feed(&chunk, |message| {
            wire::fields(message, |field, value| match (field, value) {
                (wire::WATCH_CREATED, _) => {
                    shared.created.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                }
                (wire::WATCH_CANCELED, _) => bail!("a watch was canceled"),
                (wire::WATCH_EVENTS, wire::Value::Bytes(event)) => {
                    let sent = shared.sent[put_number(event)?].load(Ordering::Relaxed);
                    latency.record(now.saturating_sub(sent))?;
                    seen += 1;
                    Ok(())
                }
                _ => Ok(()),
            })
        })?;
    }
    Ok(latency)
}

/// Sends all puts, one per period, whatever the answers take.
async fn put(env: &Env, shared: &Arc<Shared>) -> Result<()> {
    let connection = Connection::open(&env.endpoint).await?;
    let values = Values::new(VALUE - size_of::<[u64; 2]>(), env.seed);
    let mut random = SmallRng::seed_from_u64(env.seed);
    let mut answers = JoinSet::new();
    let mut tick = tokio::time::interval(PERIOD);
    for (number, sent) in shared.sent.iter().enumerate() {
        tick.tick().await;
        let mut value = BytesMut::with_capacity(VALUE);
        value.put(values.pick(&mut random));
        value.put_u64(MARK);
        value.put_u64(number as u64);
        let request = payload::put(number as u64, value.freeze());
        let (connection, target) = (connection.clone(), connection.target(PUT)?);
        sent.store(shared.begin.elapsed().as_micros() as u64, Ordering::Relaxed);
        answers.spawn(async move { connection.unary(&target, request).await });
    }
    while let Some(answer) = answers.join_next().await {
        let _: Bytes = answer??;
    }
    Ok(())
}

/// Waits until the server has confirmed `watchers` watchers; a reader's error ends the wait.
async fn all_created(
    shared: &Shared,
    watchers: u64,
    readers: &mut JoinSet<Result<Histogram<u64>>>,
) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(5);
    let begin = Instant::now();
    loop {
        let created = shared.created.load(Ordering::Relaxed);
        if created >= watchers {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < CATCH_UP,
            "only {created} of {watchers} watchers exist"
        );
        if let Some(ended) = readers.try_join_next() {
            ended??;
            bail!("a watch stream ended before the first put");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The number of the put that `event` (an encoded `mvccpb.Event`) tells of.
///
/// The value is the last field of the event that is set.
fn put_number(event: &[u8]) -> Result<usize> {
    let tail = event
        .last_chunk::<16>()
        .context("an event without a value")?;
    let (mark, number) = tail.split_at(8);
    ensure!(
        mark == MARK.to_be_bytes(),
        "an event that is none of this load's"
    );
    Ok(u64::from_be_bytes(number.try_into()?) as usize)
}
