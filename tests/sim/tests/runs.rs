//! Runs of the simulation: the short form of what `make sim` does.

use trilith_sim::{Report, run_many};

/// The first seed, and how many: few without being asked, since this is part of the suite.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str, default| match std::env::var(name) {
        Ok(text) => text.parse().expect("a number"),
        Err(_unset) => default,
    };
    let first = number("TRILITH_SIM_SEED", 0);
    first..first + number("TRILITH_SIM_SEEDS", 24)
}

fn sum(reports: &[Report], of: impl Fn(&Report) -> u64) -> u64 {
    reports.iter().map(of).sum()
}

#[test]
fn members_agree_and_clients_are_told_the_truth_whatever_goes_wrong() {
    let seeds = seeds();
    let count = seeds.end - seeds.start;
    let reports = run_many(seeds, |_| {}).unwrap_or_else(|error| panic!("{error}"));
    // What never happens proves nothing.
    assert!(sum(&reports, |report| report.faults) >= 5 * count);
    assert!(sum(&reports, |report| report.answered) >= 300 * count);
    assert!(sum(&reports, |report| report.elections) >= 2 * count);
    assert!(sum(&reports, |report| report.expired) >= count);
    assert!(sum(&reports, |report| report.events) >= 100 * count);
    if count >= 24 {
        assert!(sum(&reports, |report| report.joined) > 0);
        assert!(sum(&reports, |report| report.left) > 0);
        // The state takes the place of another in a good part of the runs.
        let with = reports.iter().filter(|report| report.installed > 0).count() as u64;
        assert!(8 * with >= count, "{}", trilith_sim::summary(&reports));
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let one = trilith_sim::run(7).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(trilith_sim::run(7), Ok(one.clone()));
    assert_ne!(trilith_sim::run(8).map(|other| other.trace), Ok(one.trace));
}
