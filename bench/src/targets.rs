//! The figures to reach, against etcd in the same run: the one table of them.

/// A bound on one measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// Times the baseline's value.
    AtLeast(f64),
    /// Times the baseline's value.
    AtMost(f64),
    /// In the measure's own unit, whatever the baseline takes.
    Under(f64),
}

/// Scenario, measure, bound.
pub(crate) const TARGETS: &[(&str, &str, Bound)] = &[
    ("put-1000", "rate_per_s", Bound::AtLeast(1.5)),
    ("put-1000", "cpu_us_per_op", Bound::AtMost(0.6)),
    ("put-1000", "p99_us", Bound::AtMost(0.85)),
    ("put-100", "rate_per_s", Bound::AtLeast(1.7)),
    ("put-100", "cpu_us_per_op", Bound::AtMost(0.5)),
    ("put-100", "p99_us", Bound::AtMost(0.6)),
    ("put-1", "p50_us", Bound::AtMost(0.85)),
    ("put-1", "cpu_us_per_op", Bound::AtMost(0.65)),
    ("txn-100", "rate_per_s", Bound::AtLeast(1.7)),
    ("txn-100", "cpu_us_per_op", Bound::AtMost(0.5)),
    ("get-lin-100", "rate_per_s", Bound::AtLeast(1.5)),
    ("get-lin-100", "cpu_us_per_op", Bound::AtMost(0.5)),
    ("get-ser-100", "rate_per_s", Bound::AtLeast(1.3)),
    ("get-ser-100", "cpu_us_per_op", Bound::AtMost(0.55)),
    ("mixed", "p99_us", Bound::AtMost(0.5)),
    ("list", "range_mib_per_s", Bound::AtLeast(2.5)),
    ("list", "range_extra_mib", Bound::AtMost(0.5)),
    ("list", "stream_mib_per_s", Bound::AtLeast(2.5)),
    ("list", "stream_extra_mib", Bound::Under(16.0)),
    ("watch", "cpu_us_per_event", Bound::AtMost(0.4)),
    ("watch", "p99_us", Bound::AtMost(0.5)),
    ("watch", "bytes_per_watcher", Bound::AtMost(0.5)),
    ("lease", "cpu_us_per_keep_alive", Bound::AtMost(0.4)),
    ("resident", "fresh_mib", Bound::AtMost(1.0)),
    ("resident", "after_puts_mib", Bound::AtMost(1.0)),
    ("million", "load_cpu_us_per_key", Bound::AtMost(0.8)),
    ("million", "overwrite_cpu_us_per_key", Bound::AtMost(1.0)),
    ("million", "page_us", Bound::AtMost(0.1)),
    ("million", "resident_after_list_mib", Bound::AtMost(0.33)),
    ("million", "start_clean_ms", Bound::AtMost(0.2)),
    ("million", "start_crash_ms", Bound::AtMost(0.2)),
    ("disk", "bytes_per_key", Bound::AtMost(0.6)),
    ("history", "count_us", Bound::AtMost(0.05)),
    ("history", "page_us", Bound::AtMost(0.05)),
    ("history", "past_count_us", Bound::AtMost(0.1)),
    ("history", "past_page_us", Bound::AtMost(0.1)),
    ("history", "hash_rows_per_s", Bound::AtLeast(1.0)),
    ("history", "hash_p99_times_alone", Bound::Under(2.0)),
    ("history", "catch_up_rows_per_s", Bound::AtLeast(1.0)),
    ("history", "catch_up_p99_times_alone", Bound::Under(2.0)),
    ("snapshot", "mib_per_s", Bound::AtLeast(1.0)),
    ("snapshot", "p99_times_alone", Bound::Under(2.0)),
    ("snapshot", "extra_mib", Bound::Under(64.0)),
    ("defragment", "worst_ms", Bound::Under(50.0)),
    ("defragment", "p99_times_alone", Bound::Under(2.0)),
    ("compaction", "p99_times_alone", Bound::Under(1.5)),
    ("huge", "compact_times_small", Bound::Under(2.0)),
    ("huge", "peak_mib", Bound::AtMost(0.25)),
    ("huge", "start_clean_ms", Bound::Under(1000.0)),
    ("huge", "start_crash_ms", Bound::Under(1000.0)),
    ("cluster-put", "rate_per_s", Bound::AtLeast(1.8)),
    ("cluster-put", "cpu_us_per_op", Bound::AtMost(0.5)),
    ("cluster-put", "p99_us", Bound::AtMost(0.6)),
    ("cluster-put-leader", "rate_per_s", Bound::AtLeast(1.8)),
    ("cluster-put-leader", "cpu_us_per_op", Bound::AtMost(0.5)),
    ("cluster-put-leader", "p99_us", Bound::AtMost(0.6)),
    ("cluster-put-1", "leader_p50_us", Bound::AtMost(0.8)),
    ("cluster-put-1", "leader_p99_us", Bound::AtMost(0.8)),
    ("cluster-put-1", "follower_p50_us", Bound::AtMost(0.8)),
    ("cluster-put-1", "follower_p99_us", Bound::AtMost(0.8)),
    ("cluster-get", "rate_per_s", Bound::AtLeast(1.4)),
    ("cluster-get", "cpu_us_per_op", Bound::AtMost(0.55)),
    ("cluster-failover", "gap_ms", Bound::AtMost(1.15)),
    ("cluster-idle", "cpu_ms_per_s", Bound::AtMost(0.5)),
    ("cluster-idle", "syncs_per_s", Bound::AtMost(0.5)),
    ("cluster-idle", "network_bytes_per_s", Bound::AtMost(0.5)),
    ("cluster-catch-up", "catch_up_s", Bound::AtMost(1.0)),
    ("cluster-catch-up", "p99_times_alone", Bound::Under(2.0)),
];

impl Bound {
    /// The bound of `measure` in `scenario`, when the table has one.
    pub(crate) fn find(scenario: &str, measure: &str) -> Option<Self> {
        let is_it = |row: &&(&str, &str, Self)| row.0 == scenario && row.1 == measure;
        TARGETS.iter().find(is_it).map(|row| row.2)
    }

    /// Whether `value`, `ratio` times the baseline's, is within the bound.
    pub(crate) fn is_met(self, value: f64, ratio: f64) -> bool {
        match self {
            Self::AtLeast(bound) => ratio >= bound,
            Self::AtMost(bound) => ratio <= bound,
            Self::Under(bound) => value < bound,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(formatter, ">= {bound}"),
            Self::AtMost(bound) => write!(formatter, "<= {bound}"),
            Self::Under(bound) => write!(formatter, "under {bound}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::SCENARIOS;

    #[test]
    fn every_target_names_a_scenario() {
        for (name, measure, _) in TARGETS {
            assert!(
                SCENARIOS.iter().any(|one| one.name == *name),
                "{name} of {measure}"
            );
        }
    }

    #[test]
    fn bounds_include_their_edge() {
        assert!(Bound::AtLeast(1.5).is_met(0.0, 1.5));
        assert!(Bound::AtMost(0.6).is_met(0.0, 0.6));
        assert!(!Bound::Under(16.0).is_met(16.0, 0.1));
    }
}
