//! The state as a stream of blobs: etcd's `Snapshot`.
//!
//! A thread walks over the state and waits wherever the client is slow: the pipe between them
//! holds a few blobs. Nothing else waits for it, since it reads from a view of its own. But what
//! compactions remove stays on disk as long as the view, so a client that has stopped for good is
//! given up.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tonic::Status;
use trilith_bbolt::WriteError;
use trilith_proto::etcdserverpb::SnapshotResponse;

use super::status::status;
use crate::error::RequestError;
use crate::pipe::{Inlet, pipe};
use crate::quiet;
use crate::snapshot::{Export, ExportError};
use crate::storage::View;

/// The stream that the RPC answers with.
pub(super) type SnapshotStream =
    Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send + 'static>>;

/// The receiving end of a snapshot, as its thread sees it.
type Client = Inlet<SnapshotResponse, Status>;

/// Room for the snapshots that may be sent at once; clones share it.
#[derive(Clone, Debug)]
pub struct SnapshotSlots {
    free: Arc<Semaphore>,
    /// How long a client may take nothing before it is given up.
    stall_max: Duration,
}

impl Default for SnapshotSlots {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
            stall_max: STALL_MAX,
        }
    }
}

impl SnapshotSlots {
    /// Sends the state of one moment; it ends when the client ends the call.
    pub(super) fn send(&self, view: View) -> Result<SnapshotStream, Status> {
        let slot = self.free.clone().try_acquire_owned();
        let slot = slot.map_err(|_none_left| status(RequestError::TooManyRequests))?;
        let (client, stream) = pipe(BLOBS_IN_FLIGHT_MAX, self.stall_max);
        quiet::spawn("snapshot", move || {
            run(view, client);
            drop(slot);
        })
        .map_err(|error| Status::unavailable(format!("no thread for a snapshot: {error}")))?;
        Ok(Box::pin(stream))
    }
}

fn run(view: View, client: Client) {
    let Err(error) = send(view, &client) else {
        return;
    };
    if client.is_abandoned() {
        tracing::info!("the client has ended the call before it had the database snapshot");
        return;
    }
    tracing::warn!(%error, "failed to send database snapshot to client");
    let text = format!("trilith: {error}");
    client.fail(match error {
        ExportError::Storage(_) => Status::data_loss(text),
        ExportError::Write(WriteError::Io(_)) => Status::deadline_exceeded(text),
        _ => Status::internal(text),
    });
}

fn send(view: View, client: &Client) -> Result<(), ExportError> {
    let begun = Instant::now();
    let mut progress = Progress::new();
    let export = Export::measure(view, &mut |pairs| {
        if progress.is_due() {
            tracing::info!(pairs, "took" = ?begun.elapsed(), "measuring database for a snapshot");
        }
        match client.is_abandoned() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    let total = export.size();
    let size = human_bytes(total);
    let version = export.storage_version().unwrap_or_default();
    tracing::info!(
        "total-bytes" = total,
        size,
        "storage-version" = version,
        "sending database snapshot to client"
    );
    let blobs = Blobs {
        client,
        version,
        total,
        sent: 0,
        blob: Vec::with_capacity(BLOB_BYTES),
        digest: Sha256::new(),
        begun: Instant::now(),
        progress,
    };
    let checksum = export.write(blobs)?.digest.finalize();
    tracing::info!(
        "total-bytes" = total,
        "checksum-size" = checksum.len(),
        "sending database sha256 checksum to client"
    );
    let response = SnapshotResponse {
        remaining_bytes: 0,
        blob: checksum.to_vec().into(),
        version: version.to_owned(),
        ..SnapshotResponse::default()
    };
    client.send(response).map_err(WriteError::from)?;
    let took = begun.elapsed();
    tracing::info!(
        "total-bytes" = total,
        size,
        ?took,
        rate = rate(total, took),
        "storage-version" = version,
        "successfully sent database snapshot to client"
    );
    Ok(())
}

/// Cuts what is written into blobs, and waits until the client has room for each.
struct Blobs<'a> {
    client: &'a Client,
    version: &'a str,
    total: u64,
    sent: u64,
    /// Invariant: less than [`BLOB_BYTES`] between writes.
    blob: Vec<u8>,
    /// Over everything that was sent.
    digest: Sha256,
    begun: Instant,
    progress: Progress,
}

impl Blobs<'_> {
    fn send(&mut self) -> io::Result<()> {
        let blob = std::mem::replace(&mut self.blob, Vec::with_capacity(BLOB_BYTES));
        self.digest.update(&blob);
        self.sent += blob.len() as u64;
        let response = SnapshotResponse {
            remaining_bytes: self.total - self.sent,
            blob: blob.into(),
            version: self.version.to_owned(),
            ..SnapshotResponse::default()
        };
        self.client.send(response)?;
        if self.progress.is_due() {
            let took = self.begun.elapsed();
            let left = took.mul_f64(self.total as f64 / self.sent as f64) - took;
            tracing::info!(
                "sent-bytes" = self.sent,
                "total-bytes" = self.total,
                rate = rate(self.sent, took),
                ?took,
                ?left,
                "sending database snapshot to client goes on"
            );
        }
        Ok(())
    }
}

impl Write for Blobs<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOB_BYTES - self.blob.len());
        self.blob.extend_from_slice(&bytes[..taken]);
        if self.blob.len() == BLOB_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    /// Sends the last, shorter blob: the end of the file, and of nothing else.
    fn flush(&mut self) -> io::Result<()> {
        if self.blob.is_empty() {
            return Ok(());
        }
        self.send()
    }
}

/// When to say again how far it is.
struct Progress {
    said: Instant,
}

impl Progress {
    fn new() -> Self {
        let said = Instant::now();
        Self { said }
    }

    fn is_due(&mut self) -> bool {
        let is_due = self.said.elapsed() >= PROGRESS_INTERVAL;
        if is_due {
            self.said = Instant::now();
        }
        is_due
    }
}

fn rate(bytes: u64, took: Duration) -> String {
    let per_second = bytes as f64 / took.as_secs_f64().max(1e-6);
    format!("{}/s", human_bytes(per_second as u64))
}

/// A number of bytes as etcd's logs have it: two digits at least, in units of powers of 1000.
fn human_bytes(bytes: u64) -> String {
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let rounded = (value * 10.0 + 0.5).floor() / 10.0;
    let digits = if rounded < 10.0 { 1 } else { 0 };
    format!("{rounded:.digits$} {}", UNITS[unit])
}

const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/// etcd's size of a blob.
const BLOB_BYTES: usize = 32 * 1024;

/// Blobs between the walk and the connection: enough that neither waits for a thread switch.
const BLOBS_IN_FLIGHT_MAX: usize = 4;

/// Each holds a thread and keeps what compactions remove on disk. More are refused.
const SNAPSHOTS_MAX: usize = 16;

/// A client on a slow line takes a blob within seconds, and an operator who has suspended etcdctl
/// may come back.
pub(super) const STALL_MAX: Duration = Duration::from_secs(10 * 60);

/// How often a long transfer is told in the log.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;
    use crate::storage::{Backend, BackendOptions, Family};

    fn backend(dir: &tempfile::TempDir, leases: u32) -> Backend {
        let backend = Backend::open(dir.path(), &BackendOptions::default()).expect("a new state");
        let mut batch = backend.batch();
        for number in 0..leases {
            batch.put(Family::Lease, number.to_be_bytes(), [7; 1000]);
        }
        backend.write(batch).expect("a write");
        backend
    }

    #[test]
    fn sizes_are_worded_as_in_etcds_logs() {
        let words = [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (24_576, "25 kB"),
            (9_940, "9.9 kB"),
            (9_960, "10 kB"),
            (82_854_982, "83 MB"),
            (2_147_483_648, "2.1 GB"),
            (u64::MAX, "18 EB"),
        ];
        for (bytes, word) in words {
            assert_eq!(human_bytes(bytes), word);
        }
    }

    #[tokio::test]
    async fn blobs_are_32_kib_and_what_remains_counts_down_to_the_checksum() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = backend(&dir, 1000);
        let mut stream = SnapshotSlots::default()
            .send(backend.view())
            .expect("a slot");
        let mut digest = Sha256::new();
        let mut sent = 0;
        let mut total = None;
        loop {
            let response = stream.next().await.expect("more").expect("sent");
            let left = response.remaining_bytes;
            if total == Some(sent) {
                assert_eq!((left, &response.blob[..]), (0, &digest.finalize()[..]));
                break;
            }
            sent += response.blob.len() as u64;
            digest.update(&response.blob);
            assert_eq!(*total.get_or_insert(sent + left), sent + left);
            assert!(response.blob.len() == BLOB_BYTES || left == 0);
        }
        assert!(sent > 1_000_000 && sent.is_multiple_of(4096));
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_client_that_is_gone_gives_its_slot_back_and_more_than_there_are_is_refused() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = backend(&dir, 1000);
        let slots = SnapshotSlots::default();
        let streams: Vec<_> = (0..SNAPSHOTS_MAX)
            .map(|_| slots.send(backend.view()).expect("a slot"))
            .collect();
        let refused = slots
            .send(backend.view())
            .map(|_| ())
            .expect_err("no slot is left");
        assert_eq!(refused.message(), RequestError::TooManyRequests.text());
        drop(streams);
        let all = u32::try_from(SNAPSHOTS_MAX).expect("a small number");
        let returned = slots.free.acquire_many(all).await;
        drop(returned.expect("never closed"));
        slots.send(backend.view()).map(|_| ()).expect("a slot");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up_and_told_so_if_it_comes_back() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = backend(&dir, 1000);
        let slots = SnapshotSlots {
            stall_max: Duration::from_millis(1),
            ..SnapshotSlots::default()
        };
        let stream = slots.send(backend.view()).expect("a slot");
        let all = u32::try_from(SNAPSHOTS_MAX).expect("a small number");
        drop(slots.free.acquire_many(all).await.expect("never closed"));
        let mut responses: Vec<_> = stream.collect().await;
        let last = responses.pop().expect("it is told");
        let error = last.expect_err("the snapshot is not complete");
        assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
        assert!(
            error
                .message()
                .ends_with("the client has taken nothing for 1ms"),
            "{error}"
        );
        assert_eq!(responses.len(), BLOBS_IN_FLIGHT_MAX);
    }

    #[tokio::test]
    async fn a_state_that_cannot_be_exported_is_an_error_for_the_client() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let backend = backend(&dir, 1);
        let mut batch = backend.batch();
        batch.put(Family::Revision, b"short", b"");
        backend.write(batch).expect("a write");
        let mut stream = SnapshotSlots::default()
            .send(backend.view())
            .expect("a slot");
        let error = stream
            .next()
            .await
            .expect("an answer")
            .expect_err("corrupt");
        assert_eq!(error.code(), tonic::Code::DataLoss);
        assert!(error.message().contains("corrupt revision row"), "{error}");
        assert!(stream.next().await.is_none());
    }
}
