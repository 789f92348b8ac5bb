//! Tells how long work is getting on: lines in the log of a server, a bar on a terminal.

use std::fmt;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Whoever reads the server's log: a line every [`LOG_EVERY`].
    Log,
    /// Whoever runs a command: a bar, or nothing when the output is no terminal.
    Terminal,
}

/// Work under way, counted in bytes.
pub struct Progress {
    what: &'static str,
    /// About how much there is; work may turn out to be more or less.
    total: u64,
    done: u64,
    begun: Instant,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins to count. `what` names the work as an operator would ("importing keys"); `total` is
    /// about how many bytes there are.
    pub fn new(audience: Audience, what: &'static str, total: u64) -> Self {
        let now = Instant::now();
        let bar = (audience == Audience::Terminal).then(|| {
            let bar = ProgressBar::new(total).with_message(what);
            bar.with_style(style())
        });
        Self {
            what,
            total,
            done: 0,
            begun: now,
            told: now,
            bar,
        }
    }

    /// So many bytes more are done.
    pub fn add(&mut self, bytes: usize) {
        let before = self.done;
        self.done += bytes as u64;
        // A look at the clock costs more than a small record.
        if before / LOOK_BYTES == self.done / LOOK_BYTES {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.done.min(self.total));
            return;
        }
        let now = Instant::now();
        if now - self.told >= LOG_EVERY {
            self.told = now;
            self.tell(now - self.begun);
        }
    }

    /// Ends; the log hears of work that took long enough to have been told of before.
    pub fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        } else if self.told > self.begun {
            let took = self.begun.elapsed();
            tracing::info!(took = ?took, bytes = self.done, "finished {}", self.what);
        }
    }

    fn tell(&self, elapsed: Duration) {
        let estimate = estimate(self.done, self.total, elapsed);
        tracing::info!(
            percent = percent(self.done, self.total),
            "mib-per-second" = mib_per_second(self.done, elapsed),
            "seconds-left" = estimate.as_secs(),
            "{}",
            self.what
        );
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} of {} bytes", self.what, self.done, self.total)
    }
}

/// How far `done` of about `total` is; never more than 99 before the end.
pub fn percent(done: u64, total: u64) -> u64 {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    percent.min(99) as u64
}

fn mib_per_second(bytes: u64, elapsed: Duration) -> u64 {
    let per_second = bytes as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    (per_second / f64::from(1 << 20)) as u64
}

/// How long the rest takes at the rate so far.
pub fn estimate(done: u64, total: u64, elapsed: Duration) -> Duration {
    let left = total.saturating_sub(done) as f64;
    elapsed.mul_f64(left / done.max(1) as f64)
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        .expect("the template is fixed and well formed")
        .progress_chars("=> ")
}

/// Often enough to see that something moves, rare enough for a log.
pub const LOG_EVERY: Duration = Duration::from_secs(5);

/// Bytes between two looks at the clock.
const LOOK_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_estimate_follow_from_what_is_done() {
        let second = Duration::from_secs(1);
        assert_eq!(percent(50, 200), 25);
        assert_eq!(percent(300, 200), 99, "the total was only an estimate");
        assert_eq!(percent(0, 0), 0);
        assert_eq!(mib_per_second(30 << 20, second * 3), 10);
        assert_eq!(estimate(50, 200, second * 10), second * 30);
        assert_eq!(estimate(300, 200, second), Duration::ZERO);
    }
}
