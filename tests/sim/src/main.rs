//! Runs many seeds, or one again: `trilith-sim FIRST COUNT`. Looks for all planted bugs:
//! `trilith-sim planted COUNT`.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("planted") {
        return look_for_all(std::env::args().nth(2).and_then(|text| text.parse().ok()));
    }
    let arguments: Vec<_> = std::env::args().skip(1).map(|text| text.parse()).collect();
    let [Ok(first), Ok(count)] = arguments[..] else {
        say("usage: trilith-sim FIRST COUNT, the first seed and how many");
        return ExitCode::FAILURE;
    };
    let done = AtomicU64::new(0);
    let tell = |report: &trilith_sim::Report| {
        let number = done.fetch_add(1, Ordering::Relaxed) + 1;
        if count <= 100 || number.is_multiple_of(100) {
            say(&format!("{number} of {count} done, last {report:?}"));
        }
    };
    match trilith_sim::run_many(first..first + count, tell) {
        Ok(reports) => {
            say(&trilith_sim::summary(&reports));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("FAILED {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells of each planted bug which seed finds it, out of `seeds`.
fn look_for_all(seeds: Option<u64>) -> ExitCode {
    let mut missed = false;
    let from = std::env::args().nth(3).and_then(|text| text.parse().ok());
    for bug in trilith_sim::Bug::ALL.into_iter().skip(from.unwrap_or(0)) {
        let found = trilith_sim::find(bug, 0..seeds.unwrap_or(200));
        missed |= found.is_none();
        say(&format!(
            "{bug:?}: {}",
            found.as_deref().unwrap_or("MISSED")
        ));
    }
    ExitCode::from(u8::from(missed))
}

fn say(text: &str) {
    // Whoever closes the output does not want to hear more.
    let _closed = writeln!(std::io::stdout(), "{text}");
}
