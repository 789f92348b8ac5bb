//! Claims about whole configurations: what is accepted, what it becomes, what is refused and how.

use std::time::Duration;

use super::table::{FLAGS, Support};
use super::*;

fn run_env(args: &[&str], env: &[(&str, &str)]) -> Loaded {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let env: Vec<_> = env
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    load(&args, &env)
}

fn run(args: &[&str]) -> Loaded {
    run_env(args, &[])
}

pub(super) fn accepted(args: &[&str]) -> Config {
    *run(args)
        .outcome
        .unwrap_or_else(|stop| panic!("{args:?} is refused: {stop:?}"))
}

/// The text of the refusal, be it logged or printed.
pub(super) fn refused(args: &[&str]) -> String {
    match run(args).outcome {
        Ok(_) => panic!("{args:?} is accepted"),
        Err(Stop::Refused(error)) => error.to_string(),
        Err(Stop::Print { stderr, .. }) => stderr.lines().next().unwrap_or_default().to_owned(),
    }
}

/// Loads a config file with this content.
fn file(content: &str) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("conf.yml");
    std::fs::write(&path, content).unwrap();
    run(&["--config-file", path.to_str().unwrap()])
}

fn file_accepted(content: &str) -> Config {
    *file(content)
        .outcome
        .unwrap_or_else(|stop| panic!("{content:?} is refused: {stop:?}"))
}

fn file_refused(content: &str) -> String {
    match file(content).outcome {
        Ok(_) => panic!("{content:?} is accepted"),
        Err(Stop::Refused(error)) => error.to_string(),
        Err(Stop::Print { stderr, code, .. }) => format!("{code} {stderr}"),
    }
}

#[test]
fn without_flags_everything_is_as_in_etcd() {
    let config = accepted(&[]);
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir.to_str(), Some("default.etcd"));
    assert_eq!(config.log_dir().to_str(), Some("default.etcd/member/log"));
    assert_eq!(
        (config.snapshot_count, config.snapshot_catchup_entries),
        (10_000, 5_000)
    );
    assert_eq!(config.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(config.election_ticks(), 10);
    assert_eq!(
        (config.max_txn_ops, config.max_request_bytes),
        (128, 1_572_864)
    );
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(
        config.grpc_keepalive_interval,
        Some(Duration::from_secs(7_200))
    );
    assert_eq!(
        config.watch_progress_notify_interval,
        Duration::from_secs(600)
    );
    assert_eq!(config.compaction_batch_limit, 1_000);
    assert_eq!(config.compaction_sleep_interval, Duration::from_millis(10));
    assert_eq!(config.corrupt_check_time, None);
    assert_eq!(config.log, LogConfig::default());
    assert!(config.pre_vote && config.strict_reconfig_check && !config.unsafe_no_fsync);
    let bootstrap = config.bootstrap().unwrap();
    assert_eq!(join(&bootstrap.members["default"]), "http://localhost:2380");
    assert_eq!(bootstrap.token, "etcd-cluster");
}

#[test]
fn a_name_alone_founds_a_cluster_of_that_name() {
    let config = accepted(&["--name=a"]);
    assert_eq!(config.initial_cluster, "a=http://localhost:2380");
    assert_eq!(config.data_dir.to_str(), Some("a.etcd"));
    assert_eq!(config.bootstrap().unwrap().members.len(), 1);
    let config = accepted(&["--name=a", "--initial-cluster=b=http://localhost:2380"]);
    let text = "couldn't find local name \"a\" in the initial cluster configuration";
    assert_eq!(config.bootstrap().unwrap_err().to_string(), text);
}

#[test]
fn the_settings_of_a_first_start_are_checked_as_etcd_does() {
    let cases = [
        (
            "default=http://localhost:2381",
            "--initial-cluster has default=http://localhost:2381 but missing from \
             --initial-advertise-peer-urls=http://localhost:2380",
        ),
        (
            "default=http://localhost:2380,b=http://localhost:2380",
            "initial cluster b=http://localhost:2380,default=http://localhost:2380 has duplicate \
             url",
        ),
        (
            "default=foo",
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            "",
            "couldn't find local name \"default\" in the initial cluster configuration",
        ),
        (
            "default=http://localhost:2380,other=https://a:2380",
            "--initial-cluster=other=https://a:2380 is not supported yet: Trilith has no TLS yet; \
             leave it out, and use http:// URLs in a network you trust or behind a TLS proxy",
        ),
    ];
    for (cluster, text) in cases {
        let config = accepted(&["--initial-cluster", cluster]);
        assert_eq!(config.bootstrap().unwrap_err().to_string(), text);
    }
}

#[test]
fn addresses_are_the_same_member_however_they_are_written_and_localhost_is_none_of_them() {
    let config = accepted(&[
        "--initial-advertise-peer-urls=http://[::1]:2380",
        "--initial-cluster=default=http://[0:0:0:0:0:0:0:1]:2380",
    ]);
    assert!(config.bootstrap().is_ok());
    let config = accepted(&["--initial-cluster=default=http://127.0.0.1:2380"]);
    assert!(matches!(
        config.bootstrap(),
        Err(ConfigError::NotAdvertised { .. })
    ));
}

/// Arguments that etcd refuses, and what it says.
const REFUSED: &[(&[&str], &str)] = &[
    (&["foo"], "\"foo\" is not a valid flag"),
    (
        &["--heartbeat-interval=0"],
        "--heartbeat-interval must be >0 (set to 0ms)",
    ),
    (
        &["--election-timeout=0"],
        "--election-timeout must be >0 (set to 0ms)",
    ),
    (
        &["--heartbeat-interval=300"],
        "--election-timeout[1000ms] should be at least as 5 times as \
             --heartbeat-interval[300ms]",
    ),
    (
        &["--election-timeout=60000"],
        "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
    ),
    (
        &["--listen-peer-urls=http://foo:1"],
        "expected IP in URL for binding (http://foo:1)",
    ),
    (
        &["--listen-client-urls=http://127.0.0.1:1"],
        "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    ),
    (
        &["--advertise-client-urls=http://:1"],
        "--advertise-client-urls \"http://:1\" must be in the format \"host:port\", \
             \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" \
             (unexpected empty host (http://:1))",
    ),
    (
        &["--auto-compaction-mode=foo"],
        "unknown auto-compaction-mode \"foo\"",
    ),
    (
        &["--auto-compaction-mode="],
        "undefined auto-compaction-mode",
    ),
    (
        &["--auto-compaction-retention=-1"],
        "error parsing CompactionRetention: time: missing unit in duration \"-1\"",
    ),
    (
        &["--compact-hash-check-time=0s"],
        "--compact-hash-check-time must be >0 (set to 0s)",
    ),
    (
        &["--feature-gates=LeaseCheckpointPersist=true"],
        "enabling feature gate LeaseCheckpointPersist requires enabling feature gate \
             LeaseCheckpoint",
    ),
    (
        &["--discovery-fallback=proxy"],
        "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
    ),
    (&["--logger=x"], "unknown logger option \"x\""),
    (
        &["--log-format=x"],
        "unknown log format: x, supported values json, console",
    ),
    (&["--log-level=x"], "unrecognized level: \"x\""),
    (
        &["--log-outputs=default,stderr"],
        "multi logoutput for \"default\" is not supported yet",
    ),
    (
        &["--tls-min-version=x"],
        "unexpected TLS version \"x\" (must be one of: TLS1.2, TLS1.3)",
    ),
    (
        &["--config-file=/nonexistent"],
        "open /nonexistent: no such file or directory",
    ),
];

#[test]
fn what_etcd_refuses_is_refused_with_its_text() {
    for (args, text) in REFUSED {
        assert_eq!(refused(args), *text);
    }
}

#[test]
fn what_is_not_there_yet_is_refused_by_name_unless_it_has_its_default() {
    for flag in FLAGS {
        let Support::Later(missing) = flag.support else {
            continue;
        };
        let other = match flag.kind {
            value::Kind::Bool if flag.default == "true" => "false",
            value::Kind::Bool => "true",
            value::Kind::Duration => "17s",
            value::Kind::Urls => "http://127.0.0.1:17",
            _ if flag.name.starts_with("tls-m") => "TLS1.3",
            _ => "17",
        };
        let text = refused(&[&format!("--{}={other}", flag.name)]);
        let start = format!("--{} is not supported yet: {}; ", flag.name, missing.what);
        assert!(text.starts_with(&start), "{text}");
        accepted(&[&format!("--{}={}", flag.name, flag.default)]);
    }
}

#[test]
fn the_retention_of_auto_compaction_is_read_as_etcd_reads_it() {
    let read = |mode: &str, retention: &str| {
        let mode = format!("--auto-compaction-mode={mode}");
        accepted(&[&mode, "--auto-compaction-retention", retention]).auto_compaction
    };
    for off in ["", "0", "00", "0h", "0s"] {
        assert_eq!(read("revision", off), None);
        assert_eq!(read("periodic", off), None);
    }
    let time = |seconds| Some(AutoCompaction::Time(Duration::from_secs(seconds)));
    assert_eq!(read("periodic", "2"), time(7200));
    assert_eq!(read("periodic", "5m"), time(300));
    let revisions = |count| Some(AutoCompaction::Revisions(count));
    assert_eq!(read("revision", "1000"), revisions(1000));
    assert_eq!(read("revision", "1us"), revisions(1000));
    let text = "--auto-compaction-retention must not be negative (set to -1h)";
    assert_eq!(refused(&["--auto-compaction-retention=-1h"]), text);
}

#[test]
fn urls_that_cannot_be_served_yet_are_refused_by_name() {
    let listen = |url: &str| {
        let url = format!("--listen-client-urls={url}");
        refused(&[&url, "--advertise-client-urls=http://localhost:1"])
    };
    let text = listen("https://localhost:1");
    assert!(
        text.starts_with("--listen-client-urls=https://localhost:1 is not supported"),
        "{text}"
    );
    let text = listen("unix://sock:1");
    assert!(
        text.starts_with("--listen-client-urls=unix://sock:1 is not supported"),
        "{text}"
    );
    accepted(&["--advertise-client-urls=https://proxy.example:2379"]);
}

#[test]
fn what_tunes_etcds_own_parts_is_accepted_with_a_warning() {
    let loaded = run(&[
        "--max-wals=9",
        "--snapshot",
        "--backend-batch-limit=0",
        "--name=a",
    ]);
    assert!(loaded.outcome.is_ok());
    assert!(loaded.notes.contains(&Note::NoEffect { flag: "max-wals" }));
    assert!(!loaded.notes.contains(&Note::NoEffect {
        flag: "backend-batch-limit"
    }));
}

#[test]
fn small_and_zero_values_become_what_etcd_makes_of_them() {
    let config = accepted(&[
        "--snapshot-count=0",
        "--grpc-keepalive-interval=0s",
        "--watch-progress-notify-interval=1ms",
        "--raft-read-timeout=1s",
        "--warning-unary-request-duration=0s",
        "--wal-dir=w",
    ]);
    assert_eq!(config.snapshot_count, 10_000);
    assert_eq!(config.grpc_keepalive_interval, None);
    assert_eq!(
        config.watch_progress_notify_interval,
        Duration::from_millis(100)
    );
    assert_eq!(config.raft_read_timeout, Duration::from_secs(5));
    assert_eq!(
        config.warning_unary_request_duration,
        Duration::from_millis(300)
    );
    assert_eq!(config.log_dir().to_str(), Some("w"));
    let text = "--compaction-batch-limit must not be negative (set to -5)";
    assert_eq!(refused(&["--compaction-batch-limit=-5"]), text);
    let text = "--corrupt-check-time must not be negative (set to -1s)";
    assert_eq!(refused(&["--corrupt-check-time=-1s"]), text);
}

#[test]
fn help_and_version_are_printed_as_etcd_prints_them() {
    let Err(Stop::Print {
        stdout,
        stderr,
        code: 0,
    }) = run(&["-h"]).outcome
    else {
        panic!("help ends the process well");
    };
    assert!(stderr.starts_with("Usage:\n"));
    assert!(stdout.starts_with("\nMember:\n  --name 'default'\n"));
    for flag in FLAGS.iter().filter(|flag| !flag.section.is_empty()) {
        assert!(
            stdout.contains(&format!("\n  --{} '", flag.name)),
            "{}",
            flag.name
        );
    }
    let Err(Stop::Print {
        stdout, code: 0, ..
    }) = run(&["--name=a", "--version"]).outcome
    else {
        panic!("version ends the process well");
    };
    let starts: Vec<_> = stdout
        .lines()
        .filter_map(|line| line.split(": ").next())
        .collect();
    let expected = [
        "etcd Version",
        "Git SHA",
        "Go Version",
        "Go OS/Arch",
        "Trilith Version",
    ];
    assert_eq!(starts, expected);
}

#[test]
fn the_config_file_takes_all_settings_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("conf.yml");
    std::fs::write(
        &path,
        "name: from-file\nlisten-client-urls: http://127.0.0.1:1\n",
    )
    .unwrap();
    let path = path.to_str().unwrap();
    let by_flag = run_env(&["--name=x", "--config-file", path], &[("ETCD_NAME", "y")]);
    let by_variable = run_env(&["--heartbeat-interval=7"], &[("ETCD_CONFIG_FILE", path)]);
    for loaded in [by_flag, by_variable] {
        assert!(loaded.notes.contains(&Note::FileLoaded {
            path: path.to_owned()
        }));
        let config = loaded.outcome.unwrap();
        assert_eq!(config.name, "from-file");
        assert_eq!(config.heartbeat_interval, Duration::from_millis(100));
        assert_eq!(join(&config.advertise_client_urls), "http://localhost:2379");
    }
}

#[test]
fn the_config_file_is_read_by_etcds_rules() {
    let config = file_accepted(
        r#"{"name": "j", "max-txn-ops": 5, "warning-apply-duration": 5000000,
            "log-outputs": ["stderr"], "socket-options": {"reuse-port": true},
            "auto-compaction-retention": "0", "initial-cluster-state": "", "pre-vote": null,
            "feature-gates": "CompactHashCheck=true", "Snapshot-Count": 7}"#,
    );
    assert_eq!((config.name.as_str(), config.max_txn_ops), ("j", 5));
    assert_eq!(config.warning_apply_duration, Duration::from_millis(5));
    assert!(config.socket_reuse_port && config.pre_vote && config.feature_gates.compact_hash_check);
    assert_eq!(config.snapshot_count, 7);
    assert_eq!(file_accepted("").name, "default");
    assert!(!file_accepted("pre-vote: off").pre_vote);

    let loaded = file("cert-file: x\nfoo: 1\n");
    assert!(loaded.outcome.is_ok(), "flat TLS keys mean nothing to etcd");
    assert!(loaded.notes.contains(&Note::UnknownKey {
        key: "cert-file".into()
    }));
}

#[test]
fn a_bad_config_file_is_refused_with_its_key() {
    let cases = [
        (
            "heartbeat-interval: abc",
            "cannot unmarshal string into heartbeat-interval",
        ),
        (
            "watch-progress-notify-interval: 10m",
            "takes a whole number of nanoseconds",
        ),
        (
            "log-outputs: stderr",
            "cannot unmarshal string into log-outputs",
        ),
        ("- a", "must hold settings by name, but holds array"),
        ("a: [", "error converting YAML to JSON: "),
        ("name: a\nname: b", "error converting YAML to JSON: "),
        ("feature-gates: Foo=true", "unrecognized feature gate: Foo"),
        ("initial-cluster-state: x", "unexpected clusterState \"x\""),
        (
            "peer-transport-security: 5",
            "cannot unmarshal number into peer-transport-security",
        ),
        (
            "listen-peer-urls: abc",
            "1 unexpected error setting up listen-peer-urls: URL scheme",
        ),
        (
            "client-transport-security: {cert-file: x}",
            "--cert-file is not supported yet: Trilith has no TLS yet",
        ),
        (
            "discovery-config: {token: x}",
            "both --discovery-token and --discovery-endpoints must be set",
        ),
        ("heartbeat-interval: 0", "--heartbeat-interval must be >0"),
    ];
    for (content, text) in cases {
        let refusal = file_refused(content);
        assert!(refusal.contains(text), "{content}: {refusal}");
    }
}

#[test]
fn the_document_names_every_flag_that_does_not_work() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compatibility.md");
    let document = std::fs::read_to_string(path).unwrap();
    for flag in FLAGS {
        let works = matches!(flag.support, Support::Ready | Support::Legacy);
        let named = document.contains(&format!("`{}`", flag.name))
            || document.contains(&format!("`{}=", flag.name));
        assert!(
            works || named,
            "docs/compatibility.md does not mention {}",
            flag.name
        );
    }
}
