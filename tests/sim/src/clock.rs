//! Clocks of machines, none of which shows the time of another.

/// A clock that does not run as others do.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    /// Thousandths that it runs fast.
    pub(crate) drift: i64,
}

impl Clock {
    pub(crate) fn local(self, now: u64) -> u64 {
        let thousandths = u64::try_from(1000 + self.drift).expect("a drift is small");
        now * thousandths / 1000
    }

    /// How long `local` lasts.
    pub(crate) fn lasts(self, local: u64) -> u64 {
        let thousandths = u64::try_from(1000 + self.drift).expect("a drift is small");
        local * 1000 / thousandths
    }
}
