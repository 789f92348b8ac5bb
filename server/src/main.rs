//! The binary `trilith`: reads the flags, sets up the log, runs the member.

use std::ffi::OsString;
use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use trilith_server::command;
use trilith_server::config::{self, Config, ConfigError, Stop};
use trilith_server::logging::{self, FATAL, LogConfig};
use trilith_server::node::{self, NodeError};

/// One allocator for Rust and C++: it gives memory back, which a long-lived server needs.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args: Result<Vec<String>, _> = std::env::args_os().map(OsString::into_string).collect();
    let args = match args {
        Ok(args) => args,
        Err(bad) => return print("", &format!("the argument {bad:?} is not valid UTF-8\n"), 2),
    };
    let mut env = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else {
            continue;
        };
        match value.into_string() {
            Ok(value) => env.push((name, value)),
            Err(_) if name.starts_with("ETCD_") => {
                return print("", &format!("the variable {name} is not valid UTF-8\n"), 2);
            }
            Err(_) => {}
        }
    }
    if let Some(printed) = command::run(args.get(1..).unwrap_or_default()) {
        return print(&printed.stdout, &printed.stderr, printed.code);
    }
    let loaded = config::load(args.get(1..).unwrap_or_default(), &env);

    if let Err(Stop::Print {
        stdout,
        stderr,
        code,
    }) = &loaded.outcome
    {
        return print(stdout, stderr, *code);
    }
    let log = match &loaded.outcome {
        Ok(config) => config.log.clone(),
        Err(_) => LogConfig::default(),
    };
    let opened = logging::init(&log);
    if opened.is_err() {
        logging::init(&LogConfig::default()).expect("the log failed to open, so there is none yet");
    }
    logging::abort_on_panic();
    for note in &loaded.notes {
        note.log();
    }
    info!(args = ?config::loggable(&args), "Running: ");
    match (loaded.outcome, opened) {
        (_, Err(error)) => refuse(&error.to_string(), 1),
        (Err(Stop::Refused(error)), _) => refuse_config(&error),
        (Ok(config), Ok(())) => leave(run(*config)),
        (Err(Stop::Print { code, .. }), _) => ExitCode::from(code),
    }
}

/// Ends the process, and leaves out what is due at the end of one.
///
/// What has to be on disk is there. Threads may still read the state for clients that are gone: a
/// hash is computed to its end, and a snapshot's thread only notices at its next blob. RocksDB's
/// locks are among what an orderly end takes down, and a thread that then wants one aborts.
fn leave(code: u8) -> ! {
    signal_hook::low_level::exit(code.into())
}

/// Runs the member until it is told to stop; gives the exit code.
fn run(config: Config) -> u8 {
    // It only waits: the member has runtimes of its own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let discovery = config.discovery.clone();
    let ran = match runtime {
        Ok(runtime) => runtime.block_on(async {
            let shutdown = stop_signal()?;
            node::run(config, shutdown).await
        }),
        Err(error) => Err(NodeError::Thread(error)),
    };
    match ran {
        Ok(()) => 0,
        Err(error @ NodeError::Discovery(_)) => {
            let service = discovery.as_ref();
            warn!(
                "discovery-token" = service.map_or("", |service| &service.token),
                "discovery-endpoints" = ?service.map_or(&[][..], |service| &service.endpoints),
                %error,
                "failed to bootstrap; discovery token was already used"
            );
            warn!("do not reuse discovery token; generate a new one to bootstrap a cluster");
            1
        }
        Err(error) => {
            error!(target: FATAL, %error, "failed to start etcd");
            1
        }
    }
}

/// Resolves with the first SIGTERM or SIGINT; a second one ends the process at once.
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "terminated",
                _ = interrupt.recv() => "interrupt",
            }
        };
        let name = next().await;
        info!(signal = name, "received signal; shutting down");
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            warn!("received a second signal; exiting at once");
            leave(1);
        });
    })
}

fn refuse_config(error: &ConfigError) -> ExitCode {
    match error {
        ConfigError::Shadowed { variable } => {
            error!(target: FATAL, { "environment-variable" = variable }, "{error}");
            return ExitCode::FAILURE;
        }
        ConfigError::UnsetAdvertise => warn!(%error, "advertise client URLs are not set"),
        _ => {}
    }
    refuse(&error.to_string(), error.exit_code())
}

fn refuse(error: &str, code: u8) -> ExitCode {
    warn!(error, "failed to verify flags");
    ExitCode::from(code)
}

/// Prints what is not for the log.
fn print(stdout: &str, stderr: &str, code: u8) -> ExitCode {
    // A closed pipe is no reason to fail: whoever read it has seen enough.
    let _closed = std::io::stderr().write_all(stderr.as_bytes());
    let _closed = std::io::stdout().write_all(stdout.as_bytes());
    ExitCode::from(code)
}
