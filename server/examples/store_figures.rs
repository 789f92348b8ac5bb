//! Figures of the store alone: what a put, a get and a list cost, without raft or network.
//!
//! `cargo run --release -p trilith-server --example store_figures -- [keys] [value bytes]`

use std::{
    io::Write as _,
    num::NonZeroUsize,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use trilith_server::{
    ids::{Index, LeaseId, Revision, Term},
    mvcc::{
        Interval, RangeQuery, Store,
        compaction::{self, CompactionOptions},
    },
    storage::{Backend, BackendOptions},
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let keys = arguments
        .next()
        .map_or(Ok(1_000_000), |text| text.parse())?;
    let value_bytes = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let seed = rand::rng().random();
    let dir = std::env::temp_dir().join(format!("store-figures-{}", std::process::id()));
    say(&format!(
        "{keys} keys of {value_bytes} bytes, seed {seed}, in {}",
        dir.display()
    ));
    let backend = Backend::open(&dir, &BackendOptions::default())?;
    let store = Store::open(backend)?;
    say(&format!("fresh: {} MB resident", resident_mb()));
    let mut figures = Figures {
        store,
        index: 0,
        keys,
        value_bytes,
        rng: SmallRng::seed_from_u64(seed),
    };
    figures.all()?;
    drop(figures);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

struct Figures {
    store: Store,
    index: u64,
    keys: u64,
    value_bytes: usize,
    rng: SmallRng,
}

impl Figures {
    fn all(&mut self) -> anyhow::Result<()> {
        let keys = self.keys;
        self.puts("create in order, 64 a round", keys, 64, |at, _| at)?;
        self.settle("after creates")?;
        let overwrites = (keys / 2).min(200_000);
        for round in [1, 16, 64, 256] {
            let name = format!("overwrite at random, {round} a round");
            self.puts(&name, overwrites, round, |_, rng| rng.random_range(0..keys))?;
        }
        self.settle("after overwrites")?;
        self.puts(
            "overwrite 1000 hot keys, 64 a round",
            overwrites,
            64,
            |at, _| at % 1000,
        )?;
        self.reads()?;
        self.compact()?;
        self.puts(
            "overwrite after compaction, 64 a round",
            overwrites,
            64,
            |_, rng| rng.random_range(0..keys),
        )?;
        self.settle("at the end")
    }

    fn puts(
        &mut self,
        name: &str,
        count: u64,
        round_entries: u64,
        mut next: impl FnMut(u64, &mut SmallRng) -> u64,
    ) -> anyhow::Result<()> {
        // Half random, half text: it compresses about as well as what people store.
        let mut value: Vec<u8> = (0..self.value_bytes)
            .map(|at| b'a' + (at % 7) as u8)
            .collect();
        let random_bytes = value.len() / 2;
        let clock = Clock::start();
        let mut at = 0;
        while at < count {
            let mut round = self.store.begin_round();
            for _ in 0..round_entries.min(count - at) {
                let key = key(next(at, &mut self.rng));
                self.rng.fill(&mut value[..random_bytes]);
                let mut txn = round.txn();
                txn.put(key, &value, LeaseId::new(0))?;
                txn.end()?;
                at += 1;
            }
            self.index += 1;
            round.commit(Index::new(self.index), Term::new(1))?;
        }
        clock.report(name, count);
        Ok(())
    }

    fn reads(&mut self) -> anyhow::Result<()> {
        let keys = self.keys;
        let gets = 200_000.min(keys);
        let clock = Clock::start();
        for _ in 0..gets {
            let key = Interval::single(key(self.rng.random_range(0..keys)));
            let found = self.store.read().range(&RangeQuery::new(key))?;
            anyhow::ensure!(found.count == 1, "a key is missing");
        }
        clock.report("get at random", gets);
        let clock = Clock::start();
        for _ in 0..gets {
            let key = Interval::single(key(keys + self.rng.random_range(0..keys)));
            anyhow::ensure!(self.store.read().range(&RangeQuery::new(key))?.count == 0);
        }
        clock.report("get what is not there", gets);
        for _ in 0..2 {
            let clock = Clock::start();
            let found = self
                .store
                .read()
                .range(&RangeQuery::new(Interval::everything()))?;
            anyhow::ensure!(found.count == i64::try_from(keys)?);
            clock.report("list of all, per key", keys);
            say(&format!("{} MB resident with the answer", resident_mb()));
        }
        let now = self.store.read().revision().get();
        let ago = i64::try_from(keys / 100)?;
        for (name, revision) in [
            ("now", 0),
            ("a while ago", now - ago),
            ("long ago", i64::try_from(keys)? + ago),
        ] {
            self.pages(&format!("page of 500 {name}"), revision)?;
        }
        let clock = Clock::start();
        for _ in 0..100 {
            let everything = RangeQuery::new(Interval::everything());
            self.store.read().range(&RangeQuery {
                count_only: true,
                ..everything
            })?;
        }
        clock.report("count of all", 100);
        Ok(())
    }

    fn pages(&mut self, name: &str, revision: i64) -> anyhow::Result<()> {
        let pages = 100;
        let clock = Clock::start();
        for _ in 0..pages {
            let from = key(self.rng.random_range(0..self.keys / 2));
            let interval = Interval::from_request(from, Bytes::from_static(b"\0"));
            let query = RangeQuery {
                limit: 500,
                revision,
                ..RangeQuery::new(interval)
            };
            self.store.read().range(&query)?;
        }
        clock.report(name, pages);
        let clock = Clock::start();
        for _ in 0..pages {
            let from = key(self.rng.random_range(0..self.keys / 2));
            let interval = Interval::from_request(from, Bytes::from_static(b"\0"));
            let query = RangeQuery {
                limit: 500,
                revision,
                skip_count: true,
                ..RangeQuery::new(interval)
            };
            self.store.read().range(&query)?;
        }
        clock.report(&format!("{name}, uncounted"), pages);
        Ok(())
    }

    fn compact(&mut self) -> anyhow::Result<()> {
        for hash in [true, false] {
            let target = self.store.read().revision();
            let target = if hash {
                Revision::new(target.get() / 2)
            } else {
                target
            };
            let mut round = self.store.begin_round();
            round.set_compact(target)?;
            self.index += 1;
            round.commit(Index::new(self.index), Term::new(1))?;
            let batch_rows = NonZeroUsize::new(1000).expect("not zero");
            let options = CompactionOptions { batch_rows, hash };
            let clock = Clock::start();
            let mut pause = |_| ControlFlow::Continue(());
            let report = compaction::run(&self.store, target, &options, &mut pause)?;
            clock.report(
                &format!("compaction, hash {hash}, per row"),
                report.rows_seen,
            );
        }
        self.settle("after compaction")?;
        let clock = Clock::start();
        let _done = self.store.defragment(&|| true)?;
        clock.report("defragment", 1);
        self.settle("after defragment")
    }

    fn settle(&mut self, when: &str) -> anyhow::Result<()> {
        let clock = Clock::start();
        self.store.backend().flush()?;
        clock.report("flush", 1);
        let sizes = self.store.backend().sizes();
        say(&format!(
            "{when}: {} MB on disk, {} MB in use, {} MB resident",
            sizes.total_bytes >> 20,
            sizes.in_use_bytes >> 20,
            resident_mb()
        ));
        Ok(())
    }
}

/// Wall time, time of this thread on a CPU, and CPU time of the whole process.
struct Clock {
    wall: Instant,
    thread: Duration,
    process: Duration,
}

impl Clock {
    fn start() -> Self {
        Self {
            wall: Instant::now(),
            thread: thread_time(),
            process: process_time(),
        }
    }

    fn report(&self, name: &str, count: u64) {
        let per = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        let (wall, thread) = (
            self.wall.elapsed(),
            thread_time().saturating_sub(self.thread),
        );
        let process = process_time().saturating_sub(self.process);
        say(&format!(
            "{name:42} {count:9} x {:9.2} us wall {:9.2} us thread {:9.2} us process",
            per(wall),
            per(thread),
            per(process)
        ));
    }
}

fn thread_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn process_time() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = text
        .split(' ')
        .skip(13)
        .take(2)
        .filter_map(|t| t.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

fn resident_mb() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) >> 10
}

fn key(number: u64) -> Bytes {
    format!("/registry/things/default/{number:012}").into()
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
