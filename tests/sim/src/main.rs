//! Runs many seeds, or one again: `trilith-sim FIRST COUNT`.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

fn main() -> ExitCode {
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
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("FAILED {error}"));
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    // Whoever closes the output does not want to hear more.
    let _closed = writeln!(std::io::stdout(), "{text}");
}
