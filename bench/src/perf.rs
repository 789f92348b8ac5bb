//! `perf record` on the server, or on all members, while a scenario measures.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

/// Samples per second: odd, so that it does not keep step with the servers' timers.
const FREQUENCY: &str = "499";

/// A profile that is being recorded.
pub(crate) struct Profile {
    recorder: Child,
    file: PathBuf,
}

impl Profile {
    /// Starts to record the processes `pids` into `file`.
    pub(crate) fn start(pids: &[u32], file: &Path) -> Result<Self> {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let recorder = Command::new("perf")
            .args(["record", "--quiet", "--call-graph", "fp", "-F", FREQUENCY])
            .args(["-p", &pids.join(","), "-o"])
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start perf")?;
        Ok(Self {
            recorder,
            file: file.to_owned(),
        })
    }

    /// Ends the recording and writes its report beside it, as text.
    pub(crate) fn finish(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.recorder), Signal::INT)?;
        self.recorder.wait()?;
        Command::new("perf")
            .args([
                "report",
                "--stdio",
                "--no-children",
                "-g",
                "none",
                "--percent-limit",
                "0.3",
            ])
            .args(["--sort", "comm,dso,symbol", "-i"])
            .arg(&self.file)
            .stdout(File::create(self.file.with_extension("txt"))?)
            .stderr(Stdio::null())
            .status()?;
        Ok(())
    }
}
