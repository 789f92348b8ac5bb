//! Counts the calls that make files durable, with strace: the same for any program, and allowed
//! to the user who has started it.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Every call that waits for a disk.
const CALLS: &str = "trace=fsync,fdatasync,sync_file_range,msync,sync,syncfs";
/// Attaching to a few dozen threads takes milliseconds.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(5);

/// How often the processes `pids` sync during `length`; slows them down meanwhile.
pub(crate) async fn count(pids: &[u32], length: Duration) -> Result<u64> {
    let directory = tempfile::tempdir()?;
    let calls = directory.path().join("calls");
    let mut tracer = Tracer::attach(pids, &calls, directory.path())?;
    tracer.wait_until_attached(pids, directory.path()).await?;
    tokio::time::sleep(length).await;
    tracer.detach()?;
    Ok(count_calls(&fs::read_to_string(calls)?))
}

struct Tracer {
    strace: Option<Child>,
}

impl Tracer {
    fn attach(pids: &[u32], calls: &Path, directory: &Path) -> Result<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", CALLS, "-o"]).arg(calls);
        for pid in pids {
            command.args(["-p", &pid.to_string()]);
        }
        let strace = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(complaints(directory))?)
            .spawn()
            .context("cannot start strace, which counts syncs: install it")?;
        Ok(Self {
            strace: Some(strace),
        })
    }

    /// Waits until every thread of every process is traced.
    async fn wait_until_attached(&mut self, pids: &[u32], directory: &Path) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < ATTACH_TIMEOUT {
            if pids.iter().all(|&pid| is_traced(pid).unwrap_or(false)) {
                return Ok(());
            }
            let ended = self.strace.as_mut().map(Child::try_wait).transpose()?;
            if ended.flatten().is_some() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let complaints = fs::read_to_string(complaints(directory)).unwrap_or_default();
        bail!(
            "strace, which counts syncs, cannot attach to the servers: {}",
            complaints.trim()
        );
    }

    fn detach(&mut self) -> Result<()> {
        if let Some(mut strace) = self.strace.take() {
            kill_process(Pid::from_child(&strace), Signal::INT)?;
            strace.wait()?;
        }
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Only on the way of another error, which is the one to tell.
        drop(self.detach());
    }
}

fn complaints(directory: &Path) -> std::path::PathBuf {
    directory.join("complaints")
}

fn is_traced(pid: u32) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let tracer = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        if tracer.context("no TracerPid in status")?.trim() == "0" {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Calls in what strace has written; one that others interrupt has a second line, not counted.
fn count_calls(lines: &str) -> u64 {
    let call = |line: &&str| {
        let text = line.split_whitespace().nth(1).unwrap_or_default();
        text.contains('(')
    };
    lines.lines().filter(call).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_call_counts_once() {
        let lines = "\
            11 fdatasync(7)                      = 0\n\
            12 fsync(9 <unfinished ...>\n\
            11 fdatasync(7)                      = 0\n\
            12 <... fsync resumed>)              = 0\n\
            11 --- SIGURG {si_signo=SIGURG, si_code=SI_TKILL} ---\n\
            12 +++ exited with 0 +++\n";
        assert_eq!(count_calls(lines), 3);
    }
}
