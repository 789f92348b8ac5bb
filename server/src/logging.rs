//! The log in the shape that etcd's zap logger has, so that the same tools read it.
//!
//! A line is `{"level":..,"ts":..,"caller":..,"msg":..,<fields>}`, or the same as console text.
//! Levels that tracing does not have are written through a target: see [`FATAL`].

mod line;
mod sink;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Target of the last line before the process ends: `error!(target: FATAL, ..)`.
pub const FATAL: &str = "trilith::fatal";

/// Target of the line that a panic leaves.
pub const PANIC: &str = "trilith::panic";

/// Least level that is logged, by zap's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are zap's")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
    Panic,
    Fatal,
}

impl LogLevel {
    /// By zap's name, in small letters or capitals; an empty name is info.
    pub fn parse(name: &str) -> Option<Self> {
        if name != name.to_lowercase() && name != name.to_uppercase() {
            return None;
        }
        Some(match name.to_lowercase().as_str() {
            "debug" => Self::Debug,
            "info" | "" => Self::Info,
            "warn" | "warning" => Self::Warn,
            "error" => Self::Error,
            "dpanic" | "panic" => Self::Panic,
            "fatal" => Self::Fatal,
            _ => return None,
        })
    }

    /// As it stands in a line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Fatal => "fatal",
        }
    }
}

/// Form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the flag's values")]
pub enum LogFormat {
    Json,
    Console,
}

impl LogFormat {
    /// By its name; an empty name is JSON.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "json" | "" => Some(Self::Json),
            "console" => Some(Self::Console),
            _ => None,
        }
    }
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the flag's values")]
pub enum LogOutput {
    Stderr,
    Stdout,
    File(String),
}

impl LogOutput {
    /// "default" is standard error, and what is no name is the path of a file.
    pub fn parse(name: &str) -> Self {
        match name {
            "default" | "stderr" => Self::Stderr,
            "stdout" => Self::Stdout,
            path => Self::File(path.to_owned()),
        }
    }
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Least level that is logged.
    pub level: LogLevel,
    /// Form of a line.
    pub format: LogFormat,
    /// Where lines go; none means standard error.
    pub outputs: Vec<LogOutput>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            format: LogFormat::Json,
            outputs: vec![LogOutput::Stderr],
        }
    }
}

/// Why the log cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file cannot be opened for appending; the text is zap's.
    #[error("open sink {path:?}: open {path}: {reason}")]
    Open {
        /// Its path.
        path: String,
        /// What the operating system said.
        reason: String,
    },
    /// There is a log already.
    #[error("the log is set up twice in one process")]
    Twice,
}

/// Sets up the log of this process; before it, nothing is logged.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let sinks = sink::Sinks::open(&config.outputs)?;
    let filter = match config.level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Panic | LogLevel::Fatal => LevelFilter::ERROR,
    };
    let layer = line::ZapLayer::new(config.level, config.format, sinks);
    let set = tracing_subscriber::registry()
        .with(layer)
        .with(filter)
        .try_init();
    set.map_err(|_| LogError::Twice)
}

/// From now on a panic in any thread is logged, and then the process is aborted.
///
/// A replica that goes on after a broken invariant is worse than one that stops, and an executor
/// would swallow the panic of a task.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let backtrace = std::backtrace::Backtrace::force_capture().to_string();
        let text = text.unwrap_or("panic without a text");
        tracing::error!(target: PANIC, place, thread, stacktrace = backtrace, "{text}");
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    /// Set in the process that is to panic.
    const MARK: &str = "TRILITH_TEST_PANICS";

    #[test]
    fn a_panic_in_any_thread_is_logged_and_aborts_the_process() {
        if std::env::var_os(MARK).is_some() {
            init(&LogConfig::default()).unwrap();
            abort_on_panic();
            let thread = std::thread::Builder::new().name("apply".to_owned());
            let panicking = thread
                .spawn(|| panic!("applied {} after {}", 3, 5))
                .unwrap();
            panicking.join().unwrap_err();
            return;
        }
        let name = "logging::tests::a_panic_in_any_thread_is_logged_and_aborts_the_process";
        let program = std::env::current_exe().unwrap();
        let args = ["--exact", name, "--nocapture"];
        let ended = Command::new(program)
            .args(args)
            .env(MARK, "1")
            .output()
            .unwrap();
        assert_eq!(ended.status.signal(), Some(6), "SIGABRT");
        let stderr = String::from_utf8(ended.stderr).unwrap();
        let line = stderr
            .lines()
            .find(|line| line.starts_with("{\"level\":\"panic\""))
            .unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&line["msg"], &line["thread"]),
            (&"applied 3 after 5".into(), &"apply".into())
        );
        assert!(line["place"].as_str().unwrap().contains("logging.rs:"));
    }

    #[test]
    fn levels_have_zaps_names() {
        for name in ["debug", "info", "warn", "error", "panic", "fatal"] {
            assert_eq!(LogLevel::parse(name).map(LogLevel::name), Some(name));
            assert!(LogLevel::parse(&name.to_uppercase()).is_some());
        }
        assert_eq!(LogLevel::parse(""), Some(LogLevel::Info));
        assert_eq!(LogLevel::parse("Info"), None);
        assert_eq!(LogLevel::parse("trace"), None);
    }
}
