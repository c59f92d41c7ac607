//! A connection that ends when its other end does not begin to speak, or does not take what is sent to it.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::places::counted_as;
use crate::outside::{Accepted, Peer};

/// What a client of HTTP/2 begins with. Whoever begins otherwise speaks HTTP/1.1, whose heads have a time of their own.
///
/// Source: RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes with which it begins: the preface, and the head of its settings.
const FIRST_BYTES: usize = PREFACE.len() + 9;

/// A connection, watched while it is read from or written to.
pub struct Watched {
    stream: Accepted,
    connection: Connection,
    /// Bytes still to come before the client has begun.
    first_bytes: usize,
    untaken: Duration,
    /// Since when nothing can be written: the other end takes nothing, be it an answer, a head without one, or a ping.
    blocked_since: Option<Instant>,
    /// When to look next.
    look: Pin<Box<Sleep>>,
}

/// What requests know about the connection that they came on.
#[derive(Clone)]
pub struct Connection {
    /// Who is at the other end.
    pub peer: Peer,
    /// Who the messages on their way count for: the node that showed a certificate, or the address; nobody has neither but in a
    /// simulation.
    pub(super) counted_for: Arc<str>,
    answers: Arc<Mutex<Answers>>,
}

/// Since when each part of an answer that is on its way waits to be taken.
#[derive(Default)]
struct Answers {
    next: u64,
    waiting_since: BTreeMap<u64, Instant>,
}

/// A part of an answer on its way over a connection, which the other end is to take; dropping it says that it is written.
pub(super) struct Waiting {
    number: u64,
    answers: Arc<Mutex<Answers>>,
}

impl Watched {
    /// Watches `stream`, which must begin within `handshake`, and take each part of an answer within `untaken`.
    ///
    /// Must be called inside a runtime.
    pub fn new(stream: Accepted, handshake: Duration, untaken: Duration) -> Self {
        let peer = stream.peer().clone();
        let address = || peer.address.map(|address| counted_as(address.ip()).to_string());
        let node = peer.node.as_ref().map(|node| format!("node {node}"));
        let counted_for = node.or_else(address).unwrap_or_default().into();
        let connection = Connection { peer, counted_for, answers: Arc::default() };
        let look = Box::pin(sleep_until(Instant::now() + handshake));
        Watched { stream, connection, first_bytes: FIRST_BYTES, untaken, blocked_since: None, look }
    }

    /// What requests know about it.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Takes in bytes with which the client begins; whether it has begun.
    fn begins(&mut self, bytes: &[u8]) -> bool {
        let place = PREFACE.len().min(FIRST_BYTES - self.first_bytes);
        let is_http2 = PREFACE[place..].iter().zip(bytes).all(|(expected, byte)| expected == byte);
        self.first_bytes = if is_http2 { self.first_bytes.saturating_sub(bytes.len()) } else { 0 };
        self.first_bytes == 0
    }

    /// Looks whether time is up, if it is time to look.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.look.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let answer = lock(&self.connection.answers).waiting_since.values().min().copied();
            let oldest = answer.into_iter().chain(self.blocked_since).min();
            let ends = oldest.unwrap_or(now) + self.untaken;
            if self.first_bytes > 0 || ends <= now {
                let peer = &self.connection.peer;
                let why =
                    if self.first_bytes > 0 { "it did not begin" } else { "it did not take what was sent" };
                tracing::debug!(?peer, why, "a connection is closed");
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            self.look.as_mut().reset(ends);
        }
        Ok(())
    }
}

impl Connection {
    /// A part of an answer: the time to take it runs.
    pub(super) fn part(&self) -> Waiting {
        let mut answers = lock(&self.answers);
        let number = answers.next;
        answers.next += 1;
        answers.waiting_since.insert(number, Instant::now());
        Waiting { number, answers: self.answers.clone() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.answers).waiting_since.remove(&self.number);
    }
}

fn lock(answers: &Mutex<Answers>) -> MutexGuard<'_, Answers> {
    answers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_time(cx)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.first_bytes > 0 && self.begins(&buffer.filled()[before..]) {
            let ends = Instant::now() + self.untaken;
            self.look.as_mut().reset(ends);
            self.poll_time(cx)?;
        }
        read
    }
}

impl Watched {
    /// Writes, unless time is up, and remembers since when that is of no use.
    fn poll_writing<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Accepted>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        // A client of HTTP/1.1 that has sent its next request is not read from while it takes an answer.
        self.poll_time(cx)?;
        let written = write(Pin::new(&mut self.stream), cx);
        self.blocked_since = match written {
            Poll::Ready(_) => None,
            Poll::Pending => self.blocked_since.or_else(|| Some(Instant::now())),
        };
        written
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |stream, cx| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_writing(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_writing(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}
