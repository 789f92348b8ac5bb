//! A short queue from a thread that makes the pieces of an answer to the connection that sends it.
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

/// A pipe for at most `room` pieces at a time, of which one has to be taken every `stall_max`.
pub fn pipe<T, E>(room: usize, stall_max: Duration) -> (Inlet<T, E>, Outlet<T, E>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            pieces: VecDeque::with_capacity(room),
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
    (inlet, Outlet { shared })
}

struct Shared<T, E> {
    state: Mutex<State<T, E>>,
    /// A piece was taken, or the stream is gone.
    changed: Condvar,
}

struct State<T, E> {
    /// Invariant: no more than the pipe's room.
    pieces: VecDeque<T>,
    /// How it ends once the pieces are taken; none while there may be more.
    end: Option<Result<(), E>>,
    /// Whether the stream is gone.
    is_abandoned: bool,
    /// The connection that waits for a piece.
    reader: Option<Waker>,
}

/// Where pieces go in. Dropping it ends the stream.
pub struct Inlet<T, E> {
    shared: Arc<Shared<T, E>>,
    room: usize,
    stall_max: Duration,
}

impl<T, E> Inlet<T, E> {
    /// Adds a piece; waits on this thread until there is room.
    ///
    /// # Errors
    ///
    /// `BrokenPipe` when the stream is gone, `TimedOut` when nothing was taken for too long.
    pub fn send(&self, piece: T) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        let is_full =
            |state: &mut State<T, E>| state.pieces.len() >= self.room && !state.is_abandoned;
        self.shared
            .changed
            .wait_while_for(&mut state, is_full, self.stall_max);
        if state.is_abandoned {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if state.pieces.len() >= self.room {
            let text = format!("the client has taken nothing for {:?}", self.stall_max);
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        state.pieces.push_back(piece);
        state.wake();
        Ok(())
    }

    /// Whether the stream is gone.
    pub fn is_abandoned(&self) -> bool {
        self.shared.state.lock().is_abandoned
    }

    /// Ends the stream with an error, after the pieces that are in it.
    pub fn fail(self, error: E) {
        self.shared.state.lock().end = Some(Err(error));
    }
}

impl<T, E> Drop for Inlet<T, E> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.end.get_or_insert(Ok(()));
        state.wake();
    }
}

impl<T, E> State<T, E> {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Where pieces come out.
pub struct Outlet<T, E> {
    shared: Arc<Shared<T, E>>,
}

impl<T, E> Stream for Outlet<T, E> {
    type Item = Result<T, E>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.shared.state.lock();
        if let Some(piece) = state.pieces.pop_front() {
            self.shared.changed.notify_one();
            return Poll::Ready(Some(Ok(piece)));
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

impl<T, E> Drop for Outlet<T, E> {
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
        let (inlet, stream) = pipe::<_, &str>(3, LONG);
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
        let (inlet, stream) = pipe::<_, &str>(3, LONG);
        inlet.send(1).expect("room");
        inlet.fail("broken");
        let all: Vec<_> = stream.collect().await;
        assert_eq!(all, [Ok(1), Err("broken")]);
    }

    #[test]
    fn a_stream_that_is_gone_or_stalls_is_told_to_the_sender() {
        let (inlet, stream) = pipe::<_, ()>(1, LONG);
        inlet.send(1).expect("room");
        let waiting = thread::spawn(move || inlet.send(2));
        drop(stream);
        let gone = waiting.join().expect("it does not panic");
        assert_eq!(gone.expect_err("gone").kind(), io::ErrorKind::BrokenPipe);

        let (inlet, _stream) = pipe::<_, ()>(1, Duration::from_millis(1));
        inlet.send(1).expect("room");
        assert_eq!(
            inlet.send(2).expect_err("full").kind(),
            io::ErrorKind::TimedOut
        );
        assert!(!inlet.is_abandoned());
    }
}
