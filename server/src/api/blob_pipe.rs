//! A short queue from a thread that makes responses to the connection that sends them.
//!
//! The thread waits for room, but not for ever. A channel of tokio's can be waited for with a
//! timeout by tasks of the runtime only, and must not be by a thread that may outlive it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::Stream;
use parking_lot::{Condvar, Mutex};
use tonic::Status;

/// A pipe for at most `room` responses at a time, of which one is taken every `stall_max`.
pub(super) fn pipe<T>(room: usize, stall_max: Duration) -> (Inlet<T>, PipeStream<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            responses: VecDeque::with_capacity(room),
            end: None,
            is_abandoned: false,
            reader: None,
        }),
        changed: Condvar::new(),
    });
    let inlet = Inlet {
        shared: shared.clone(),
        room,
        stall_max,
    };
    (inlet, PipeStream { shared })
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// A response was taken, or the stream is gone.
    changed: Condvar,
}

struct State<T> {
    /// Invariant: no more than the pipe's room.
    responses: VecDeque<T>,
    /// How it ends once the responses are taken; none while there may be more.
    end: Option<Result<(), Status>>,
    /// Whether the stream is gone.
    is_abandoned: bool,
    /// The connection that waits for a response.
    reader: Option<Waker>,
}

/// Where responses go in. Dropping it ends the stream.
pub(super) struct Inlet<T> {
    shared: Arc<Shared<T>>,
    room: usize,
    stall_max: Duration,
}

impl<T> Inlet<T> {
    /// Adds a response; waits on this thread until there is room.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` when the stream is gone, `TimedOut` when nothing was taken for too long.
    pub(super) fn send(&self, response: T) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let is_full =
            |state: &mut State<T>| state.responses.len() >= self.room && !state.is_abandoned;
        let waited = self
            .shared
            .changed
            .wait_while_for(&mut state, is_full, self.stall_max);
        if state.is_abandoned {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if waited.timed_out() {
            let text = format!("the client has taken nothing for {:?}", self.stall_max);
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        state.responses.push_back(response);
        state.wake();
        Ok(())
    }

    /// Whether the stream is gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.shared.state.lock().is_abandoned
    }

    /// Ends the stream with an error, after the responses that are in it.
    pub(super) fn fail(self, status: Status) {
        self.shared.state.lock().end = Some(Err(status));
    }
}

impl<T> Drop for Inlet<T> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.end.get_or_insert(Ok(()));
        state.wake();
    }
}

impl<T> State<T> {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Where responses come out.
pub(super) struct PipeStream<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Stream for PipeStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.state.lock();
        if let Some(response) = state.responses.pop_front() {
            self.shared.changed.notify_one();
            return Poll::Ready(Some(Ok(response)));
        }
        match &mut state.end {
            Some(end) => Poll::Ready(std::mem::replace(end, Ok(())).err().map(Err)),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for PipeStream<T> {
    fn drop(&mut self) {
        self.shared.state.lock().is_abandoned = true;
        self.shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use futures::StreamExt as _;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn everything_comes_out_in_order_whoever_is_slower() {
        let (inlet, stream) = pipe(3, LONG);
        let sender = thread::spawn(move || {
            for number in 0..1000 {
                inlet.send(number).expect("the stream is read to its end");
            }
        });
        let all: Vec<i32> = stream
            .map(|number| number.expect("no error"))
            .collect()
            .await;
        assert!(all.iter().copied().eq(0..1000));
        sender.join().expect("it sends all");
    }

    #[tokio::test]
    async fn an_error_comes_after_what_was_sent_and_ends_it() {
        let (inlet, stream) = pipe(3, LONG);
        inlet.send(1).expect("room");
        inlet.fail(Status::data_loss("broken"));
        let all: Vec<_> = stream.collect().await;
        assert!(matches!(&all[..], [Ok(1), Err(status)] if status.message() == "broken"));
    }

    #[test]
    fn a_stream_that_is_gone_or_stalls_is_told_to_the_sender() {
        let (inlet, stream) = pipe(1, LONG);
        inlet.send(1).expect("room");
        let waiting = thread::spawn(move || inlet.send(2));
        drop(stream);
        let gone = waiting.join().expect("it does not panic");
        assert_eq!(gone.expect_err("gone").kind(), io::ErrorKind::BrokenPipe);

        let (inlet, _stream) = pipe(1, Duration::from_millis(1));
        inlet.send(1).expect("room");
        assert_eq!(
            inlet.send(2).expect_err("full").kind(),
            io::ErrorKind::TimedOut
        );
        assert!(!inlet.is_abandoned());
    }
}
