//! Gathers what a connection writes, so that one system call carries many replies.
//!
//! HTTP/2 writes each data frame by itself, and the connection is polled for each reply that is
//! ready. Half the CPU time of a small read went into `writev`. Here the frames of one poll stay in
//! a buffer, and the connection lets the other tasks that are ready run once before it is written.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pings::Pings;

/// The stream as the connection sees it: flushing it leaves the work to [`Outlet`].
pub(super) struct Gathered<S> {
    shared: Arc<Mutex<Gathering<S>>>,
}

/// Drives a connection, and writes out what it has gathered.
pub(super) struct Outlet<S> {
    shared: Arc<Mutex<Gathering<S>>>,
    /// Whether the other tasks have had their turn since the buffer began to fill.
    yielded: bool,
}

struct Gathering<S> {
    stream: S,
    buffer: BytesMut,
    /// Kept for the connection's next write: it is the one to end.
    failed: Option<io::Error>,
    pings: Pings,
}

/// Splits `stream` into what the connection gets and what drives it. `pings` hears of all that
/// passes.
pub(super) fn gather<S>(stream: S, pings: Pings) -> (Gathered<S>, Outlet<S>) {
    let gathering = Gathering {
        stream,
        buffer: BytesMut::new(),
        failed: None,
        pings,
    };
    let shared = Arc::new(Mutex::new(gathering));
    let outlet = Outlet {
        shared: shared.clone(),
        yielded: false,
    };
    (Gathered { shared }, outlet)
}

impl<S: AsyncWrite + Unpin> Outlet<S> {
    /// Polls the connection, then writes what it left, at the second poll after it left something.
    /// `None` when the client is to be turned away: then [`Outlet::drain`] says so to it.
    pub(super) fn poll<F: Future>(
        &mut self,
        connection: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<F::Output>> {
        if let Poll::Ready(ended) = connection.poll(cx) {
            return Poll::Ready(Some(ended));
        }
        let mut gathering = self.shared.lock();
        if let Some(goodbye) = gathering.pings.goodbye() {
            gathering.buffer.extend_from_slice(&goodbye);
            return Poll::Ready(None);
        }
        if gathering.buffer.is_empty() {
            self.yielded = false;
        } else if !self.yielded {
            self.yielded = true;
            // A task that wakes itself goes behind all that are ready now.
            cx.waker().wake_by_ref();
        } else {
            match gathering.poll_drain(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.yielded = false,
                Poll::Ready(Err(error)) => {
                    gathering.failed = Some(error);
                    gathering.buffer.clear();
                    cx.waker().wake_by_ref();
                }
            }
        }
        Poll::Pending
    }

    /// Writes out what is left when the connection has ended.
    pub(super) async fn drain(&self) -> io::Result<()> {
        poll_fn(|cx| self.shared.lock().poll_drain(cx)).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Outlet<S> {
    /// Writes out what is left and lets the client close. A connection that is closed with
    /// something unread is reset, and the last words may be lost with it.
    pub(super) async fn part(&self) -> io::Result<()> {
        self.drain().await?;
        poll_fn(|cx| Pin::new(&mut self.shared.lock().stream).poll_shutdown(cx)).await?;
        let mut unread = [0; UNREAD_BYTES];
        loop {
            let mut into = ReadBuf::new(&mut unread);
            poll_fn(|cx| Pin::new(&mut self.shared.lock().stream).poll_read(cx, &mut into)).await?;
            if into.filled().is_empty() {
                return Ok(());
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
        }
        // A connection that is idle, or whose burst is over, holds no memory.
        self.buffer = BytesMut::new();
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut gathering = self.shared.lock();
        let before = into.filled().len();
        ready!(Pin::new(&mut gathering.stream).poll_read(cx, into))?;
        let received = &into.filled()[before..];
        gathering.pings.received(received, Instant::now);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathering = self.shared.lock();
        if let Some(error) = gathering.failed.take() {
            return Poll::Ready(Err(error));
        }
        let size = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if gathering.buffer.len() + size > GATHERED_BYTES_MAX {
            ready!(gathering.poll_drain(cx))?;
        }
        if size > GATHERED_BYTES_MAX {
            let stream = Pin::new(&mut gathering.stream);
            let written = ready!(stream.poll_write_vectored(cx, slices))?;
            let mut left = written;
            for slice in slices {
                let passed = &slice[..slice.len().min(left)];
                gathering.pings.sent(passed);
                left -= passed.len();
            }
            return Poll::Ready(Ok(written));
        }
        for slice in slices {
            gathering.buffer.extend_from_slice(slice);
            gathering.pings.sent(slice);
        }
        Poll::Ready(Ok(size))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.shared.lock().failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            // The outlet writes it once this poll of the connection is over.
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathering = self.shared.lock();
        ready!(gathering.poll_drain(cx))?;
        Pin::new(&mut gathering.stream).poll_shutdown(cx)
    }
}

/// What a client still sends after the last words is read in pieces of this size.
const UNREAD_BYTES: usize = 4 * 1024;

/// Gathered at most before it is written, per connection; more is written at once and without a
/// copy. A list's data frames of 16 KiB pass by; hundreds of small replies fit.
const GATHERED_BYTES_MAX: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::api::pings::Calls;

    /// Keeps each write by itself; fails all of them when it is broken.
    #[derive(Default)]
    struct Writes {
        seen: Vec<Vec<u8>>,
        is_broken: bool,
    }

    impl AsyncWrite for Writes {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.is_broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            self.seen.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Drives `connection`, which must end, and gives what it returned.
    async fn drive<F: Future>(outlet: &mut Outlet<Writes>, connection: F) -> F::Output {
        tokio::pin!(connection);
        let ended = poll_fn(|cx| outlet.poll(connection.as_mut(), cx)).await;
        ended.expect("it does not ping")
    }

    fn pings() -> Pings {
        Pings::new(Duration::ZERO, Calls::default())
    }

    #[tokio::test]
    async fn what_one_turn_writes_leaves_as_one() {
        let (mut stream, mut outlet) = gather(Writes::default(), pings());
        let connection = async {
            for part in [b"one ", b"two "] {
                stream.write_all(part).await.expect("gathered");
                stream.flush().await.expect("gathered");
            }
            tokio::task::yield_now().await;
            stream.write_all(b"three").await.expect("gathered");
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        };
        drive(&mut outlet, connection).await;
        assert_eq!(outlet.shared.lock().stream.seen, [b"one two three"]);
    }

    #[tokio::test]
    async fn what_is_large_passes_in_order_and_without_a_copy() {
        let (mut stream, mut outlet) = gather(Writes::default(), pings());
        let large = vec![7; GATHERED_BYTES_MAX + 1];
        let connection = async {
            stream.write_all(b"before").await.expect("gathered");
            stream.write_all(&large).await.expect("written");
            stream.write_all(b"after").await.expect("gathered");
        };
        drive(&mut outlet, connection).await;
        outlet.drain().await.expect("written");
        let sent = outlet.shared.lock().stream.seen.clone();
        assert_eq!(sent, [b"before".to_vec(), large, b"after".to_vec()]);
    }

    #[tokio::test]
    async fn a_failed_write_ends_the_connection_at_its_next_one() {
        let broken = Writes {
            is_broken: true,
            ..Writes::default()
        };
        let (mut stream, mut outlet) = gather(broken, pings());
        let connection = async {
            loop {
                stream.write_all(b"reply").await?;
                tokio::task::yield_now().await;
            }
        };
        let ended: io::Result<()> = drive(&mut outlet, connection).await;
        assert_eq!(ended.expect_err("broken").kind(), io::ErrorKind::BrokenPipe);
    }
}
