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
        let mut fields = Fields(String::new());
        // The serializer only appends to a string, which does not fail.
        let _ = record.kv().serialize(record, &mut fields);
        let _ = values.serialize(record, &mut fields);
        let (message, fields) = (record.msg(), fields.0.trim_end());
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "raft", fields, "{message}"),
            Level::Warning => tracing::warn!(target: "raft", fields, "{message}"),
            Level::Info => tracing::info!(target: "raft", fields, "{message}"),
            Level::Debug => tracing::debug!(target: "raft", fields, "{message}"),
            Level::Trace => tracing::trace!(target: "raft", fields, "{message}"),
        }
        Ok(())
    }
}

/// Collects `key=value` pairs.
struct Fields(String);

impl Serializer for Fields {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        use fmt::Write;
        write!(self.0, "{key}={value} ")?;
        Ok(())
    }
}
