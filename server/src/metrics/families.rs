//! Makes families and puts them into the registry of their member.

use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

/// Where families are made. Names and labels are literals, and each is made once for a registry;
/// what is not so ends the process at its start.
pub(super) struct Families<'a> {
    registry: &'a Registry,
}

impl<'a> Families<'a> {
    pub(super) fn new(registry: &'a Registry) -> Self {
        Self { registry }
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    pub(super) fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// Seconds, in `count` buckets of which each is twice as wide as the one before; the narrowest
    /// ends at `first`.
    pub(super) fn seconds(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        (first, count): (f64, usize),
    ) -> HistogramVec {
        let buckets = exponential_buckets(first, 2.0, count).expect("the bounds are literals");
        let options = HistogramOpts::new(name, help).buckets(buckets);
        self.register(HistogramVec::new(options, labels))
    }

    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let family = made.expect("names and labels are literals");
        let registered = self.registry.register(Box::new(family.clone()));
        registered.expect("each name is made once");
        family
    }
}
