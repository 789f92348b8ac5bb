//! Where finished lines go: standard error, standard output, files.

use std::fs::{File, OpenOptions};
use std::io::Write;

use parking_lot::Mutex;

use super::{LogError, LogOutput};

#[derive(Debug)]
enum Sink {
    Stderr,
    Stdout,
    File(File),
}

/// All places that get each line. Lines of different threads do not mix.
#[derive(Debug)]
pub(super) struct Sinks {
    sinks: Mutex<Vec<Sink>>,
}

impl Sinks {
    /// Opens the files for appending. As in zap, `/dev/null` among them silences the others.
    pub(super) fn open(outputs: &[LogOutput]) -> Result<Self, LogError> {
        let null = LogOutput::File("/dev/null".to_owned());
        let mut wanted: Vec<&LogOutput> = Vec::new();
        for output in outputs {
            if !wanted.contains(&output) {
                wanted.push(output);
            }
        }
        if wanted.contains(&&null) {
            return Ok(Self {
                sinks: Mutex::new(Vec::new()),
            });
        }
        if wanted.is_empty() {
            wanted.push(&LogOutput::Stderr);
        }
        let sinks = wanted.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self {
            sinks: Mutex::new(sinks),
        })
    }

    /// Writes one line, its line break included.
    ///
    /// A line that cannot be written is lost: there is nowhere to say so, and a full log disk must
    /// not stop the server.
    pub(super) fn write(&self, line: &[u8]) {
        for sink in self.sinks.lock().iter_mut() {
            let _lost = match sink {
                Sink::Stderr => std::io::stderr().write_all(line),
                Sink::Stdout => std::io::stdout().write_all(line),
                Sink::File(file) => file.write_all(line),
            };
        }
    }
}

fn open(output: &LogOutput) -> Result<Sink, LogError> {
    match output {
        LogOutput::Stderr => Ok(Sink::Stderr),
        LogOutput::Stdout => Ok(Sink::Stdout),
        LogOutput::File(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map(Sink::File).map_err(|error| LogError::Open {
                path: path.clone(),
                reason: match error.kind() {
                    std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
                    std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
                    _ => error.to_string(),
                },
            })
        }
    }
}
