//! The same wrong flags, variables and config files for etcd 3.7.3 and Trilith: the same refusal.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

/// A refusal takes milliseconds; a server that is still there after this has accepted the flags.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps etcd off the default ports in the cases that it finds out only after listening.
const PORTS: [&str; 3] = [
    "--listen-peer-urls=http://127.0.0.1:0",
    "--listen-client-urls=http://127.0.0.1:0",
    "--advertise-client-urls=http://127.0.0.1:2379",
];

/// What a process left behind.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn etcd() -> PathBuf {
    let tools = std::env::var_os("TRILITH_TOOLS").map(PathBuf::from);
    let tools = tools.unwrap_or_else(|| workspace().join("tests/go/bin"));
    let path = std::env::var_os("TRILITH_ETCD").map_or_else(|| tools.join("etcd"), PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing; `make test` builds it",
        path.display()
    );
    path
}

fn trilith() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let built = target
        .unwrap_or_else(|| workspace().join("target"))
        .join("debug/trilith");
    let path = std::env::var_os("TRILITH_BIN").map_or(built, PathBuf::from);
    assert!(
        path.exists(),
        "{} is missing; `make test` builds it",
        path.display()
    );
    path
}

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a server in an empty folder that has `conf.yml` with `file` in it, until it ends.
fn run(program: &PathBuf, args: &[&str], env: &[(&str, &str)], file: &str) -> Ended {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("conf.yml"), file).expect("the config file");
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let (done, ended) = mpsc::channel();
    let mut stdout = child.stdout.take().expect("a pipe was asked for");
    let mut stderr = child.stderr.take().expect("a pipe was asked for");
    let out = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let err = std::thread::spawn(move || {
        let mut text = String::new();
        let read = stderr.read_to_string(&mut text).map(|_| text);
        let _the_test_gave_up = done.send(());
        read
    });
    let in_time = ended.recv_timeout(PATIENCE).is_ok();
    if !in_time {
        child.kill().expect("the child is ours to end");
    }
    let code = child.wait().expect("the child is ours to wait for").code();
    let stdout = out
        .join()
        .expect("the reader does not panic")
        .expect("text");
    let stderr = err
        .join()
        .expect("the reader does not panic")
        .expect("text");
    assert!(
        in_time,
        "{} {args:?} was not refused: {stderr}",
        program.display()
    );
    Ended {
        code,
        stdout,
        stderr,
    }
}

/// The sentence that says why: the first line, unless it is a log; then the last log line's error.
fn reason(ended: &Ended) -> String {
    let first = ended.stderr.lines().next().unwrap_or_default();
    if !first.starts_with('{') {
        return first.to_owned();
    }
    let lines = ended
        .stderr
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut told = lines.filter_map(|line| {
        let told = if line["error"].is_string() {
            &line["error"]
        } else {
            &line["msg"]
        };
        let worth = line["error"].is_string() || line["level"] == "fatal";
        worth.then(|| told.as_str().unwrap_or_default().to_owned())
    });
    let text = told
        .next_back()
        .unwrap_or_else(|| panic!("no reason in {ended:?}"));
    // etcd adds what it compared after resolving names, which is the machine's affair.
    let marks = [" (resolved urls", " (len("];
    let end = marks.iter().filter_map(|mark| text.find(mark)).min();
    text[..end.unwrap_or(text.len())].to_owned()
}

fn check(args: &[&str], env: &[(&str, &str)], file: &str) {
    let etcd = run(&etcd(), args, env, file);
    let trilith = run(&trilith(), args, env, file);
    let context = format!("args {args:?}, env {env:?}, file {file:?}");
    assert_eq!(trilith.code, etcd.code, "{context}\n{trilith:?}\n{etcd:?}");
    assert_eq!(reason(&trilith), reason(&etcd), "{context}");
}

#[test]
fn command_lines_that_do_not_parse_get_gos_text_and_code_2() {
    let cases: &[&[&str]] = &[
        &["--foo"],
        &["-foo=1"],
        &["--experimental-initial-corrupt-check"],
        // Discovery of version 2.
        &["--discovery=http://127.0.0.1:1"],
        &["--discovery-proxy=http://127.0.0.1:1"],
        &["---x"],
        &["--=3"],
        &["--data-dir"],
        &["--heartbeat-interval", "abc"],
        &["--heartbeat-interval=-1"],
        &["--heartbeat-interval=99999999999999999999"],
        &["--pre-vote=maybe"],
        &["--max-learners=x"],
        &["--max-concurrent-streams=abc"],
        &["--max-concurrent-streams=5000000000"],
        &["--corrupt-check-time=5"],
        &["--initial-cluster-state=x"],
        &["--discovery-fallback=x"],
        &["--v2-deprecation=not-yet"],
        &["--feature-gates=Foo=true"],
        &["--feature-gates=CompactHashCheck"],
        &["--feature-gates=CompactHashCheck=x"],
        &["--listen-client-urls=abc"],
        &["--listen-client-urls=127.0.0.1:2379"],
        &["--listen-client-urls=localhost:2379"],
        &["--listen-client-urls=http://localhost"],
        &["--listen-client-urls=http://localhost:abc"],
        &["--listen-client-urls=http://localhost:1/"],
        &["--listen-client-urls=http://localhost:1/x"],
        &["--listen-client-urls=http://127.0.0.1:1,,x"],
        &["--listen-peer-urls=http://a b:1"],
        &["--listen-metrics-urls=x"],
    ];
    for args in cases {
        check(args, &[], "");
    }
}

#[test]
fn settings_that_etcd_refuses_are_refused_alike() {
    let cases: &[&[&str]] = &[
        &["foo"],
        &["-"],
        &["--pre-vote", "false"],
        &["--heartbeat-interval=0"],
        &["--election-timeout=0"],
        &["--heartbeat-interval=300"],
        &["--election-timeout=60000"],
        &["--listen-client-urls=http://foo:2379"],
        &["--listen-client-urls=http://:2379"],
        &["--listen-client-urls=http://127.0.0.1:2379"],
        &["--listen-client-urls="],
        &["--listen-peer-urls=http://example.com:2380"],
        &["--advertise-client-urls=http://:2379"],
        &["--auto-compaction-mode=foo"],
        &["--auto-compaction-mode="],
        &["--compact-hash-check-time=0s"],
        &["--compact-hash-check-time=-1m"],
        &["--discovery-fallback=proxy"],
        &["--discovery-token=t"],
        &["--discovery-endpoints=127.0.0.1:1"],
        &["--discovery-token=t", "--discovery-endpoints="],
        &["--discovery-token=t", "--discovery-endpoints=,127.0.0.1:1"],
        &["--discovery-token=t", "--discovery-endpoints= "],
        &[
            "--discovery-token=t",
            "--initial-cluster=default=http://127.0.0.1:1",
        ],
        &[
            "--discovery-endpoints=a:1",
            "--initial-cluster=default=http://127.0.0.1:1",
        ],
        &["--discovery-endpoints=a:1", "--discovery-srv=nothing.test"],
        &[
            "--discovery-endpoints=a:1",
            "--discovery-token=t",
            "--heartbeat-interval=0",
        ],
        &["--feature-gates=LeaseCheckpointPersist=true"],
        &["--feature-gates=AllAlpha=true,LeaseCheckpoint=false"],
        &["--logger=capnslog"],
        &["--logger=x"],
        &["--log-format=x"],
        &["--log-outputs=default,stderr"],
        &["--log-outputs=/nonexistent/x"],
        &["--tls-min-version=x"],
        &["--config-file=/nonexistent"],
    ];
    for args in cases {
        check(args, &[], "");
    }
}

#[test]
fn settings_of_a_first_start_are_refused_alike() {
    for setting in [
        "--initial-cluster=a=http://localhost:2380",
        "--initial-cluster=default=http://localhost:2381",
        "--initial-cluster=default=http://localhost:2380,default=http://localhost:2381",
        "--initial-cluster=default=http://localhost:2380,b=http://localhost:2380",
        "--initial-cluster=default=http://127.0.0.1:2380",
        "--initial-cluster=default=foo",
        "--initial-cluster=",
        "--name=",
        "--auto-compaction-retention=-1",
        "--auto-compaction-retention=abc",
        "--auto-compaction-retention=5x",
    ] {
        check(&[&[setting], &PORTS[..]].concat(), &[], "");
    }
    let existing = [
        "--discovery-token=t",
        "--discovery-endpoints=127.0.0.1:1",
        "--initial-cluster-state=existing",
    ];
    check(&[&existing, &PORTS[..]].concat(), &[], "");
}

#[test]
fn a_port_out_of_range_is_refused_alike() {
    let url = "--listen-client-urls=http://127.0.0.1:99999";
    check(&[PORTS[0], url, PORTS[2]], &[], "");
}

#[test]
fn variables_are_refused_alike() {
    type Case = (
        &'static [&'static str],
        &'static [(&'static str, &'static str)],
    );
    let cases: &[Case] = &[
        (&["--name=a"], &[("ETCD_NAME", "b")]),
        (&["--name=a"], &[("ETCD_NAME", "a")]),
        (&["--name=a"], &[("ETCD_NAME", "")]),
        (&[], &[("ETCD_HEARTBEAT_INTERVAL", "abc")]),
        (
            &[],
            &[("ETCD_HEARTBEAT_INTERVAL", "300"), ("ETCD_FOO", "1")],
        ),
        (&[], &[("ETCD_PRE_VOTE", "maybe"), ("ETCD_VERSION", "3")]),
        (
            &["--name=a"],
            &[("ETCD_CONFIG_FILE", "/nonexistent"), ("ETCD_NAME", "a")],
        ),
    ];
    for (args, env) in cases {
        check(args, env, "");
    }
}

#[test]
fn config_files_are_refused_alike() {
    let cases = [
        "heartbeat-interval: 300",
        "election-timeout: 60000",
        "initial-cluster-state: x",
        "feature-gates: Foo=true",
        "listen-client-urls: abc",
        "listen-peer-urls: http://foo:1",
        "auto-compaction-mode: foo",
        "log-format: x",
        "compact-hash-check-time: 0",
        "discovery-config: {token: t}",
        "discovery-config: {client: {endpoints: [\"a:1\"]}}",
        "discovery-config: {token: t, client: {endpoints: [\"\"]}}",
    ];
    for file in cases {
        check(
            &["--config-file=conf.yml", "--heartbeat-interval=0"],
            &[],
            file,
        );
    }
}

#[test]
fn values_of_a_wrong_type_in_a_config_file_are_refused_with_their_key() {
    for (file, key) in [
        ("heartbeat-interval: abc", "heartbeat-interval"),
        (
            "watch-progress-notify-interval: 10m",
            "watch-progress-notify-interval",
        ),
        ("log-outputs: stderr", "log-outputs"),
        ("pre-vote: 5", "pre-vote"),
        ("name: 5", "name"),
        ("auto-compaction-retention: 1", "auto-compaction-retention"),
        ("pre-vote: \"true\"", "pre-vote"),
        ("max-txn-ops: -1", "max-txn-ops"),
        ("peer-transport-security: 5", "peer-transport-security"),
    ] {
        for program in [etcd(), trilith()] {
            let ended = run(&program, &["--config-file=conf.yml"], &[], file);
            assert_eq!(ended.code, Some(1), "{file}: {ended:?}");
            let text = reason(&ended);
            assert!(
                text.contains("cannot unmarshal") && text.contains(key),
                "{file}: {text}"
            );
        }
    }
}

#[test]
fn help_and_version_go_where_etcds_go() {
    for args in [["-h"], ["--help"], ["--version"]] {
        let (etcd, trilith) = (
            run(&etcd(), &args, &[], ""),
            run(&trilith(), &args, &[], ""),
        );
        assert_eq!(trilith.code, etcd.code, "{args:?}");
        assert_eq!(
            trilith.stdout.is_empty(),
            etcd.stdout.is_empty(),
            "{args:?}"
        );
        assert_eq!(
            trilith.stderr.is_empty(),
            etcd.stderr.is_empty(),
            "{args:?}"
        );
        let key = |line: &str| line.split(": ").next().unwrap_or_default().to_owned();
        if args == ["--version"] {
            let ours: Vec<_> = trilith.stdout.lines().take(4).map(key).collect();
            let theirs: Vec<_> = etcd.stdout.lines().map(key).collect();
            assert_eq!(ours, theirs);
            assert_eq!(trilith.stdout.lines().next(), etcd.stdout.lines().next());
        }
    }
}

#[test]
fn every_flag_that_etcds_help_names_is_known() {
    let help = run(&etcd(), &["-h"], &[], "").stdout;
    let ours = run(&trilith(), &["-h"], &[], "").stdout;
    // etcd's help names two flags that it does not have.
    let gone = ["discovery", "discovery-proxy"];
    let names = help.lines().filter_map(|line| line.strip_prefix("  --"));
    let names = names.filter_map(|line| line.split(' ').next());
    let missing: Vec<_> = names
        .filter(|name| !gone.contains(name) && !ours.contains(&format!("\n  --{name} ")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    for name in gone {
        check(&[&format!("--{name}=x")], &[], "");
    }
}

#[test]
fn what_trilith_cannot_do_yet_is_refused_by_name_wherever_it_is_set() {
    /// Arguments, variables, and the text of the configuration file.
    type Settings<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let sources: [Settings<'_>; 3] = [
        (&["--cert-file=x"], &[], ""),
        (&[], &[("ETCD_CERT_FILE", "x")], ""),
        (
            &["--config-file=conf.yml"],
            &[],
            "client-transport-security: {cert-file: x}",
        ),
    ];
    for (args, env, file) in sources {
        let ended = run(&trilith(), args, env, file);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let text = reason(&ended);
        assert!(
            text.starts_with("--cert-file is not supported yet: "),
            "{text}"
        );
    }
}

#[test]
fn log_lines_have_zaps_shape() {
    let args = ["--name=a", "--heartbeat-interval=0"];
    for program in [etcd(), trilith()] {
        let ended = run(&program, &args, &[("ETCD_FOO", "1")], "");
        assert_eq!(ended.stdout, "");
        for line in ended.stderr.lines() {
            let json: Value = serde_json::from_str(line).expect("every line is JSON");
            let at = |key: &str| {
                line.find(&format!("\"{key}\":"))
                    .expect("every line has it")
            };
            assert!(at("level") < at("ts") && at("ts") < at("caller") && at("caller") < at("msg"));
            let shape: String = json["ts"]
                .as_str()
                .expect("a text")
                .chars()
                .map(digit)
                .collect();
            assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
            let caller = json["caller"].as_str().expect("a text");
            assert_eq!(caller.matches('/').count(), 1, "{caller}");
        }
        let levels = ["info", "warn"];
        assert!(
            levels
                .iter()
                .all(|level| ended.stderr.contains(&format!("\"level\":\"{level}\"")))
        );
    }
}

fn digit(c: char) -> char {
    if c.is_ascii_digit() { '0' } else { c }
}
