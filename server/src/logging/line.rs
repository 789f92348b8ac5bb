//! From a tracing event to one line in zap's JSON or console form.

use std::fmt::{self, Write as _};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::sink::Sinks;
use super::{FATAL, LogFormat, LogLevel, PANIC};

/// etcd's time stamp, in UTC: `2006-01-02T15:04:05.000000Z`.
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// Writes each event as a line.
#[derive(Debug)]
pub(super) struct ZapLayer {
    least: LogLevel,
    format: LogFormat,
    sinks: Sinks,
}

impl ZapLayer {
    pub(super) fn new(least: LogLevel, format: LogFormat, sinks: Sinks) -> Self {
        Self {
            least,
            format,
            sinks,
        }
    }
}

impl<S: Subscriber> Layer<S> for ZapLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let level = level_of(metadata.target(), *metadata.level());
        let Some(level) = level.filter(|level| *level >= self.least) else {
            return;
        };
        let mut line = Line::default();
        event.record(&mut line);
        // Other crates are talkative below info: their wire protocols are not our debug log.
        let origin = line.log_target.as_deref().unwrap_or(metadata.target());
        if level == LogLevel::Debug && !origin.starts_with("trilith") {
            return;
        }
        let file = line
            .log_file
            .take()
            .or_else(|| metadata.file().map(str::to_owned));
        let number = line.log_line.or(metadata.line());
        let caller = caller(&file.unwrap_or_default(), number);
        let now = OffsetDateTime::now_utc().format(&TIME).unwrap_or_default();
        let text = match self.format {
            LogFormat::Json => line.json(level, &now, &caller),
            LogFormat::Console => line.console(level, &now, &caller),
        };
        self.sinks.write(text.as_bytes());
    }
}

/// zap's level; None for what zap has no level for.
fn level_of(target: &str, level: Level) -> Option<LogLevel> {
    match target {
        FATAL => return Some(LogLevel::Fatal),
        PANIC => return Some(LogLevel::Panic),
        _ => {}
    }
    match level {
        Level::ERROR => Some(LogLevel::Error),
        Level::WARN => Some(LogLevel::Warn),
        Level::INFO => Some(LogLevel::Info),
        Level::DEBUG => Some(LogLevel::Debug),
        _ => None,
    }
}

/// The last folder and the file, as zap shortens them: `config/flags.rs:86`.
fn caller(file: &str, line: Option<u32>) -> String {
    let start = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{}", &file[start..], line.unwrap_or(0))
}

/// What an event says: its message and its fields in their order.
#[derive(Default)]
struct Line {
    message: String,
    fields: Vec<(&'static str, Value)>,
    /// Where an event of the `log` crate really comes from.
    log_target: Option<String>,
    log_file: Option<String>,
    log_line: Option<u32>,
}

impl Line {
    fn json(&self, level: LogLevel, now: &str, caller: &str) -> String {
        let mut text = format!(
            "{{\"level\":\"{}\",\"ts\":\"{now}\",\"caller\":{},\"msg\":{}",
            level.name(),
            quoted(caller),
            quoted(&self.message)
        );
        for (name, value) in &self.fields {
            let _infallible = write!(text, ",{}:{value}", quoted(name));
        }
        text.push_str("}\n");
        text
    }

    fn console(&self, level: LogLevel, now: &str, caller: &str) -> String {
        let mut text = format!("{now}\t{}\t{caller}\t{}", level.name(), self.message);
        for (at, (name, value)) in self.fields.iter().enumerate() {
            let before = if at == 0 { "\t{" } else { ", " };
            let _infallible = write!(text, "{before}{}: {value}", quoted(name));
        }
        text.push_str(if self.fields.is_empty() { "\n" } else { "}\n" });
        text
    }

    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), &value) {
            ("message", Value::String(text)) => self.message.clone_from(text),
            ("log.target", Value::String(text)) => self.log_target = Some(text.clone()),
            ("log.file", Value::String(text)) => self.log_file = Some(text.clone()),
            ("log.line", value) => {
                self.log_line = value.as_u64().and_then(|line| u32::try_from(line).ok());
            }
            ("log.module_path", _) => {}
            (name, _) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        // Lists and quoted texts in Rust's notation are JSON as well, and zap writes them as such.
        let is_json = field.name() != "message" && text.starts_with(['[', '"']);
        let parsed = if is_json {
            serde_json::from_str(&text).ok()
        } else {
            None
        };
        self.add(field, parsed.unwrap_or(Value::String(text)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, Value::String(value.to_string()));
    }
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}
