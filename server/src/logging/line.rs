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

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::logging::LogOutput;

    /// What `events` leave in a log file of this level and form, time and line numbers cut out.
    fn logged(least: LogLevel, format: LogFormat, events: impl FnOnce()) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let sinks = Sinks::open(&[LogOutput::File(path.to_str().unwrap().to_owned())]).unwrap();
        let layer = ZapLayer::new(least, format, sinks);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), events);
        let text = std::fs::read_to_string(path).unwrap();
        let plain = |line: &str| {
            let start = line.find("20").unwrap();
            let stamp = &line[start..start + "2006-01-02T15:04:05.000000Z".len()];
            let number = line.split_once("line.rs:").unwrap().1;
            let digits = number.bytes().take_while(u8::is_ascii_digit).count();
            line.replace(stamp, "T")
                .replace(&format!("line.rs:{}", &number[..digits]), "line.rs:N")
        };
        text.lines().map(|line| plain(line) + "\n").collect()
    }

    #[test]
    fn a_line_has_zaps_keys_in_zaps_order_and_values_by_their_type() {
        let text = logged(LogLevel::Info, LogFormat::Json, || {
            let urls = vec!["http://a:1".to_owned()];
            tracing::info!(
                { "data-dir" } = "x",
                count = 3_u64,
                ok = true,
                ?urls,
                "it \"runs\""
            );
            tracing::error!(target: FATAL, error = %"no \u{1}", "gone");
        });
        let expected = "\
{\"level\":\"info\",\"ts\":\"T\",\"caller\":\"logging/line.rs:N\",\"msg\":\"it \\\"runs\\\"\",\
\"data-dir\":\"x\",\"count\":3,\"ok\":true,\"urls\":[\"http://a:1\"]}
{\"level\":\"fatal\",\"ts\":\"T\",\"caller\":\"logging/line.rs:N\",\"msg\":\"gone\",\
\"error\":\"no \\u0001\"}
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_console_form_is_zaps() {
        let text = logged(LogLevel::Info, LogFormat::Console, || {
            tracing::warn!(a = 1, b = "c", "two");
            tracing::info!("none");
        });
        let expected = "T\twarn\tlogging/line.rs:N\ttwo\t{\"a\": 1, \"b\": \"c\"}\n\
                        T\tinfo\tlogging/line.rs:N\tnone\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_level_keeps_out_what_is_below_it_and_the_debug_lines_of_other_crates() {
        let events = || {
            tracing::trace!("trace");
            tracing::debug!(target: "h2::proto", "frames");
            tracing::debug!("debug");
            tracing::info!("info");
            tracing::error!("error");
            tracing::error!(target: PANIC, "panic");
        };
        let count = |least| logged(least, LogFormat::Json, events).lines().count();
        assert_eq!(count(LogLevel::Debug), 4);
        assert_eq!(count(LogLevel::Info), 3);
        assert_eq!(count(LogLevel::Warn), 2);
        assert_eq!(count(LogLevel::Panic), 1);
        assert_eq!(count(LogLevel::Fatal), 0);
    }

    #[test]
    fn several_outputs_get_each_line_once_and_dev_null_silences_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let file = LogOutput::File(path.to_str().unwrap().to_owned());
        Sinks::open(&[file.clone(), file.clone()])
            .unwrap()
            .write(b"once\n");
        let null = LogOutput::File("/dev/null".to_owned());
        Sinks::open(&[file, null]).unwrap().write(b"never\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "once\n");
        let missing = LogOutput::File("/nonexistent/x".to_owned());
        let text = "open sink \"/nonexistent/x\": open /nonexistent/x: no such file or directory";
        assert_eq!(Sinks::open(&[missing]).unwrap_err().to_string(), text);
    }
}
