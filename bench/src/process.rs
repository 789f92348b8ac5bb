//! One server under measurement: start on free ports, read its figures from /proc, stop by id.

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rand::Rng as _;
use rustix::process::{Pid, Signal, kill_process};
use trilith_proto::etcdserverpb::{RangeRequest, RangeResponse};

use crate::client::{Connection, RANGE};

/// A start with a million keys after kill -9 takes etcd seconds; a minute is a server that hangs.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time to finish flushes after SIGTERM before the run is called off.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause between two tries to reach a starting server: the resolution of the start times.
const READY_PAUSE: Duration = Duration::from_millis(2);
/// A request to a server that has no leader yet may hang; the next one will be answered.
const READY_ATTEMPT: Duration = Duration::from_secs(1);
/// Lines of the server's log that go into an error.
const LOG_TAIL: usize = 8;
/// Name of a server that is the only member.
const ALONE: &str = "bench";

/// A server process with a data directory of its own.
///
/// Dropping it kills the process; the directory goes with it.
pub(crate) struct Server {
    program: PathBuf,
    directory: tempfile::TempDir,
    name: &'static str,
    /// `host:port` of the client listener.
    pub(crate) endpoint: String,
    /// `host:port` of the peer listener.
    peer: String,
    /// Flags beside name, directory, addresses and membership.
    flags: Vec<String>,
    /// Flags that say which members the cluster has.
    membership: Vec<String>,
    child: Option<Child>,
}

/// What a process takes in memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) peak: u64,
}

/// Bytes that the file system has given to a data directory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Disk {
    /// etcd's `snap`, Trilith's `state`.
    pub(crate) state: u64,
    /// etcd's `wal`, Trilith's `log`, and everything else.
    pub(crate) log: u64,
}

impl Server {
    /// Starts `program` on an empty directory below `base`, with `flags` and else defaults.
    pub(crate) async fn start(program: &Path, base: &Path, flags: &[&str]) -> Result<Self> {
        let mut server = Self::prepare(program, base, ALONE, flags)?;
        server.found(&server.as_member(), "new");
        server.launch().await?;
        Ok(server)
    }

    /// A server with a directory and addresses, whose process is not started yet.
    pub(crate) fn prepare(
        program: &Path,
        base: &Path,
        name: &'static str,
        flags: &[&str],
    ) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("trilith-bench-")
            .tempdir_in(base)?;
        let [endpoint, peer] = free_addresses()?;
        Ok(Self {
            program: program.to_owned(),
            directory,
            name,
            endpoint,
            peer,
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            membership: Vec::new(),
            child: None,
        })
    }

    /// Its entry in `--initial-cluster`.
    pub(crate) fn as_member(&self) -> String {
        format!("{}={}", self.name, self.peer_url())
    }

    pub(crate) fn peer_url(&self) -> String {
        format!("http://{}", self.peer)
    }

    /// Sets the members of the cluster that an empty directory will belong to, and whether that
    /// is "new" or "existing".
    pub(crate) fn found(&mut self, members: &str, state: &str) {
        self.membership = vec![
            format!("--initial-cluster={members}"),
            format!("--initial-cluster-state={state}"),
        ];
    }

    /// Starts the stopped process again on its directory; gives the time from exec to the first
    /// answered linearizable read.
    pub(crate) async fn launch(&mut self) -> Result<Duration> {
        let begin = self.spawn()?;
        self.ready(begin, READY_TIMEOUT).await
    }

    /// Starts the process and does not wait for it; gives the moment.
    pub(crate) fn spawn(&mut self) -> Result<Instant> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let client_url = format!("http://{}", self.endpoint);
        let own = [
            ("--name", self.name),
            ("--data-dir", &self.data().display().to_string()),
            ("--listen-client-urls", &client_url),
            ("--advertise-client-urls", &client_url),
            ("--listen-peer-urls", &self.peer_url()),
            ("--initial-advertise-peer-urls", &self.peer_url()),
        ]
        .map(|(flag, value)| format!("{flag}={value}"));
        let begin = Instant::now();
        let child = Command::new(&self.program)
            .args(own.iter().chain(&self.membership).chain(&self.flags))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(begin)
    }

    /// Waits for the first answered linearizable read; gives the time since `begin`.
    pub(crate) async fn ready(&mut self, begin: Instant, limit: Duration) -> Result<Duration> {
        while begin.elapsed() < limit {
            let attempt = answers(&self.endpoint);
            if let Ok(Ok(())) = tokio::time::timeout(READY_ATTEMPT, attempt).await {
                return Ok(begin.elapsed());
            }
            self.check()?;
            tokio::time::sleep(READY_PAUSE).await;
        }
        bail!(
            "{} does not answer: {}",
            self.program.display(),
            self.log_tail()
        );
    }

    /// Fails when the process has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        let ended = self.child.as_mut().map(Child::try_wait).transpose()?;
        if let Some(status) = ended.flatten() {
            bail!(
                "{} ended with {status}: {}",
                self.program.display(),
                self.log_tail()
            );
        }
        Ok(())
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the server is stopped")?.id())
    }

    /// SIGTERM, then waits for the end.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let pid = Pid::from_child(&child);
        kill_process(pid, Signal::TERM)?;
        let begin = Instant::now();
        while child.try_wait()?.is_none() {
            if begin.elapsed() > STOP_TIMEOUT {
                child.kill()?;
                child.wait()?;
                bail!("{} did not stop after SIGTERM", self.program.display());
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
        Ok(())
    }

    /// SIGKILL: what a crash leaves.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Takes all data of the stopped server away.
    pub(crate) fn wipe(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "only a stopped server can be wiped");
        Ok(fs::remove_dir_all(self.data())?)
    }

    /// What the data directory takes on disk now, in allocated blocks.
    pub(crate) fn disk(&self) -> Result<Disk> {
        let mut disk = Disk::default();
        allocated(&self.data(), false, &mut disk)?;
        Ok(disk)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log_file()).unwrap_or_default();
        let mut lines: Vec<&str> = log.lines().rev().take(LOG_TAIL).collect();
        lines.reverse();
        lines.join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that outlives the run would disturb the next one; its end is all that matters.
        drop(self.kill());
    }
}

/// CPU time that the process has used so far, in user and kernel mode, all threads.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    /// USER_HZ is 100 on every Linux that we build for.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses and may hold spaces.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let field = |number: usize| -> Result<u32> {
        let text = fields
            .split_whitespace()
            .nth(number - 3)
            .context("stat is too short")?;
        Ok(text.parse()?)
    };
    Ok(TICK * (field(14)? + field(15)?))
}

/// The sum of [`cpu`] over `pids`.
pub(crate) fn cpu_of_all(pids: &[u32]) -> Result<Duration> {
    pids.iter().map(|&pid| cpu(pid)).sum()
}

pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.split_whitespace().next());
        Ok(value
            .with_context(|| format!("no {name} in status"))?
            .parse::<u64>()?
            * 1024)
    };
    Ok(Memory {
        resident: field("VmRSS:")?,
        peak: field("VmHWM:")?,
    })
}

/// Sets the peak of [`memory`] back to what is resident now.
pub(crate) fn reset_peak(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

async fn answers(endpoint: &str) -> Result<()> {
    let connection = Connection::open(endpoint).await?;
    let request = RangeRequest {
        key: "ready".into(),
        ..RangeRequest::default()
    };
    connection
        .ask::<_, RangeResponse>(RANGE, &request)
        .await
        .map(drop)
}

/// Two loopback addresses that were free a moment ago.
///
/// They are below the ports that Linux gives to outgoing connections by default: one of those
/// could otherwise take the port of a server that is about to start again.
fn free_addresses() -> Result<[String; 2]> {
    const PORTS: std::ops::Range<u16> = 16_384..32_768;
    const TRIES: usize = 1_000;
    let mut random = rand::rng();
    let mut listeners = Vec::new();
    for _ in 0..TRIES {
        match TcpListener::bind(("127.0.0.1", random.random_range(PORTS))) {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
        if let [one, other] = &listeners[..] {
            let address = |listener: &TcpListener| listener.local_addr().map(|it| it.to_string());
            return Ok([address(one)?, address(other)?]);
        }
    }
    bail!("no two free ports from {} to {}", PORTS.start, PORTS.end);
}

fn allocated(directory: &Path, is_state: bool, disk: &mut Disk) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    /// `st_blocks` counts in these, whatever the file system's own block.
    const BLOCK: u64 = 512;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // A file may go between the listing and the look at it: compactions run.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        let name = entry.file_name();
        let is_state = is_state || name == "state" || name == "snap";
        let total = if is_state {
            &mut disk.state
        } else {
            &mut disk.log
        };
        *total += metadata.blocks() * BLOCK;
        if metadata.is_dir() {
            allocated(&entry.path(), is_state, disk)?;
        }
    }
    Ok(())
}
