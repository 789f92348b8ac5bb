//! Transcripts of the core, one scenario a file in `testdata/`.
//!
//! A block is commands, `----`, and what they gave. `UPDATE_EXPECT=1` writes the files anew.
//!
//! ```text
//! open S                           a stream
//! create S KEY [END] [start=N] [id=N] [prev] [noput] [nodelete]    END * is "from KEY on"
//! cancel S ID · close S · progress S · tick S ID..
//! put K V · del K · txn K=V -K ..  one revision, fanned out; V of *N is N bytes
//! round OPS / OPS ..               several revisions fanned out together
//! compact N · forget               forget: nothing recent is left in memory
//! begin · end · pass               a catch-up pass: its begin, its end, all that are due
//! read S [N]                       N deliveries, or all there are
//! ```

use std::{collections::BTreeMap, fmt::Write, path::Path, sync::Arc};

use bytes::Bytes;

use super::{
    core::WatchRequest,
    delivery::{StreamEnd, StreamId, WatchOptions},
    mailbox::Mailbox,
    test_rig::{Op, Rig, render},
};
use crate::{
    ids::{Revision, WatchId},
    mvcc::Interval,
};

#[test]
fn transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mvcc/watch/testdata");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder is in the repository")
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let script = std::fs::read_to_string(&file).expect("a text file");
        expect_test::expect_file![&file].assert_eq(&play(&script));
    }
}

struct Stage {
    rig: Rig,
    streams: BTreeMap<String, (StreamId, Arc<Mailbox>)>,
    out: String,
}

/// Plays the commands of a transcript and gives the transcript with what came of them.
fn play(script: &str) -> String {
    let mut stage = Stage {
        rig: Rig::new(),
        streams: BTreeMap::new(),
        out: String::new(),
    };
    let mut transcript = String::new();
    let mut in_answer = false;
    for line in script.lines().chain([""]) {
        match line {
            "----" => {
                in_answer = true;
                transcript.push_str("----\n");
                transcript.push_str(&std::mem::take(&mut stage.out));
            }
            "" => {
                assert!(stage.out.is_empty(), "commands without ----: {}", stage.out);
                in_answer = false;
                transcript.push('\n');
            }
            _ if in_answer => {}
            _ => {
                transcript.push_str(line);
                transcript.push('\n');
                if !line.starts_with('#') {
                    stage.run(line);
                }
            }
        }
    }
    transcript.trim_end().to_owned() + "\n"
}

impl Stage {
    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, words) = words.split_first().expect("no empty lines here");
        match (*verb, words) {
            ("open", [name]) => {
                let stream = self.rig.open();
                self.streams.insert((*name).to_owned(), stream);
            }
            ("close", [name]) => {
                let (id, _) = self.streams.remove(*name).expect("an open stream");
                self.rig.core.close(id);
            }
            ("create", [name, words @ ..]) => {
                let request = request(words);
                self.rig.core.create(self.stream(name), request);
            }
            ("cancel", [name, id]) => self.rig.core.cancel(self.stream(name), watch_id(id)),
            ("progress", [name]) => self.rig.core.stream_progress(self.stream(name)),
            ("tick", [name, ids @ ..]) => {
                let ids = ids.iter().map(|id| watch_id(id));
                self.rig.core.progress(self.stream(name), ids);
            }
            ("put", [key, value]) => self.publish(&[&[Op::Put(bytes(key), bytes(value))]]),
            ("del", [key]) => self.publish(&[&[Op::Delete(bytes(key))]]),
            ("txn" | "round", words) => {
                let txns: Vec<Vec<Op>> = words.split(|word| *word == "/").map(ops).collect();
                let txns: Vec<&[Op]> = txns.iter().map(Vec::as_slice).collect();
                self.publish(&txns);
            }
            ("compact", [revision]) => self.rig.compacted = Revision::new(number(revision)),
            ("forget", []) => self.rig.core.recent.clear(),
            ("stop", []) => self.rig.core.end(StreamEnd::Stopped),
            ("begin", []) => self.begin(),
            ("end", []) => self.rig.end_pass(),
            ("pass", []) => {
                while !self.rig.core.due.is_empty() {
                    self.begin();
                    if self.rig.running.is_some() {
                        self.rig.end_pass();
                    }
                }
            }
            ("read", [name]) => self.read(name, usize::MAX),
            ("read", [name, max]) => self.read(name, max.parse().expect("a number")),
            _ => panic!("unknown command: {line}"),
        }
    }

    fn publish(&mut self, txns: &[&[Op]]) {
        let revisions = txns.iter().filter_map(|ops| self.rig.apply(ops)).collect();
        self.rig.core.notify(revisions);
    }

    fn begin(&mut self) {
        let began = self.rig.begin_pass();
        let text = match &self.rig.running {
            _ if !began => "nothing is due".to_owned(),
            None => "from memory".to_owned(),
            Some(pass) => format!("from disk [{}, {})", pass.from, pass.to),
        };
        writeln!(self.out, "pass {text}").expect("strings take everything");
    }

    fn read(&mut self, name: &str, max: usize) {
        let (id, mailbox) = self.streams[name].clone();
        for _ in 0..max {
            let Some(taken) = self.rig.take(id, &mailbox) else {
                return;
            };
            let text = match &taken {
                Ok(delivery) => render(delivery),
                Err(end) => format!("ended: {end:?}"),
            };
            writeln!(self.out, "{name} {text}").expect("strings take everything");
            if taken.is_err() {
                return;
            }
        }
    }

    fn stream(&self, name: &str) -> StreamId {
        self.streams[name].0
    }
}

fn request(words: &[&str]) -> WatchRequest {
    let mut keys = Vec::new();
    let (mut id, mut start, mut options) = (None, 0, WatchOptions::default());
    for word in words {
        match word.split_once('=') {
            Some(("start", value)) => start = number(value),
            Some(("id", value)) => id = Some(watch_id(value)),
            _ if *word == "prev" => options.prev_kv = true,
            _ if *word == "noput" => options.no_put = true,
            _ if *word == "nodelete" => options.no_delete = true,
            _ => keys.push(bytes(if *word == "*" { "\0" } else { word })),
        }
    }
    let end = keys.get(1).cloned().unwrap_or_default();
    WatchRequest {
        id,
        interval: Interval::from_request(keys[0].clone(), end),
        start,
        options,
    }
}

fn ops(words: &[&str]) -> Vec<Op> {
    let op = |word: &&str| match word.split_once('=') {
        Some((key, value)) => Op::Put(bytes(key), bytes(value)),
        None => Op::Delete(bytes(word.strip_prefix('-').expect("K=V or -K"))),
    };
    words.iter().map(op).collect()
}

fn bytes(word: &str) -> Bytes {
    match word.strip_prefix('*').and_then(|size| size.parse().ok()) {
        Some(size) => Bytes::from(vec![b'x'; size]),
        None => Bytes::copy_from_slice(word.as_bytes()),
    }
}

fn number(word: &str) -> i64 {
    word.parse().expect("a number")
}

fn watch_id(word: &str) -> WatchId {
    WatchId::new(number(word))
}
