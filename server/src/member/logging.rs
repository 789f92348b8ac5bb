//! Hands the log records of raft-rs to `tracing`.

use std::fmt;

use slog::{Drain, KV, Key, Logger, Never, OwnedKVList, Record, Serializer, o};

/// A logger for raft-rs.
pub(crate) fn logger() -> Logger {
    Logger::root(ToTracing, o!())
}

struct ToTracing;

impl Drain for ToTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        use slog::Level;
        // Written out only for a level that is logged: raft-rs passes whole messages along with
        // records that hardly anybody wants.
        let (message, fields) = (record.msg(), Fields(record, values));
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", %fields, "{message}"),
            Level::Warning => tracing::warn!(target: "raft", %fields, "{message}"),
            Level::Info => tracing::info!(target: "raft", %fields, "{message}"),
            Level::Debug => tracing::debug!(target: "raft", %fields, "{message}"),
            Level::Trace => tracing::trace!(target: "raft", %fields, "{message}"),
        }
        Ok(())
    }
}

/// What a record has beside its message, as `key=value` pairs.
struct Fields<'a>(&'a Record<'a>, &'a OwnedKVList);

impl fmt::Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(record, values) = *self;
        let mut pairs = Pairs { to: f, between: "" };
        let written = record.kv().serialize(record, &mut pairs);
        let written = written.and_then(|()| values.serialize(record, &mut pairs));
        written.map_err(|_failed| fmt::Error)
    }
}

struct Pairs<'a, 'b> {
    to: &'a mut fmt::Formatter<'b>,
    between: &'static str,
}

impl Serializer for Pairs<'_, '_> {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.to, "{}{key}={value}", self.between)?;
        self.between = " ";
        Ok(())
    }
}
