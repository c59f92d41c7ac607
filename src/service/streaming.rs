//! Streams of chunks, of which a client has one after the other. They give back what they hold when it takes nothing.

use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::admission::ClientKey;
use crate::coordinator::ChunkRead;
use crate::error::QueryError;
use crate::result_set::Owner;
use crate::state::NodeState;
use crate::trace;

/// Which chunks of which result are streamed, and to whom.
pub(crate) struct Reading {
    /// The result set.
    pub(crate) uid: String,
    /// Who reads.
    pub(crate) owner: Owner,
    /// Who pays.
    pub(crate) client: ClientKey,
    /// Some of the result's chunks.
    pub(crate) chunks: Range<u32>,
    /// When the client stops waiting for the stream. The node's own time is for each chunk.
    pub(crate) until: Option<Instant>,
}

/// Reads the chunks in order, each with its index, up to the first failure.
///
/// Each is read when it is asked for, by a task: it ends and gives its permit back even if the client takes nothing any more.
/// The coordinator reads ahead for who reads in order.
pub(crate) fn reads(
    state: &Arc<NodeState>,
    reading: Reading,
) -> impl Stream<Item = (u32, Result<ChunkRead, QueryError>)> + Send + use<> {
    let Reading { uid, owner, client, chunks, until } = reading;
    let (reader, orphans) = (state.clone(), state.metrics.orphans().clone());
    let read = move |index: u32| {
        let (state, uid, owner, client) = (reader.clone(), uid.clone(), owner.clone(), client.clone());
        let (tied, work) = orphans.tie();
        let reading = AbortOnDropHandle::new(tokio::spawn(trace::along(async move {
            let _work = work;
            let own = state.deadline(None);
            let deadline = until.map_or(own, |until| until.min(own));
            state.coordinator.chunk(&uid, i64::from(index), &owner, &client, deadline).await
        })));
        async move {
            let _owner = tied;
            let read = match reading.await {
                Ok(read) => read,
                Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
                // The runtime is shutting down and drops this future at its next suspension.
                Err(_) => std::future::pending().await,
            };
            (index, read)
        }
    };
    futures::stream::iter(chunks).then(read).scan(false, |failed, (index, read)| {
        let ended = std::mem::replace(failed, read.is_err());
        futures::future::ready((!ended).then_some((index, read)))
    })
}

/// The messages that `messages` makes of each chunk, in order, until the first error.
///
/// Must be called inside a runtime.
///
/// # Errors
/// [`QueryError::Overloaded`] if all places for streams are taken.
pub(crate) fn chunks<T: Send + 'static>(
    state: &Arc<NodeState>,
    reading: Reading,
    messages: impl Fn(u32, ChunkRead) -> Vec<Result<T, Status>> + Send + 'static,
) -> Result<BoxStream<'static, Result<T, Status>>, QueryError> {
    let address = reading.owner.address.clone();
    let messages = move |(index, read): (u32, Result<ChunkRead, QueryError>)| {
        futures::stream::iter(match read {
            Ok(chunk) => messages(index, chunk),
            Err(error) => vec![Err(error.to_status())],
        })
    };
    held(state, &address, reads(state, reading).flat_map(messages))
}

/// Items until the first error, as long as a client of this address takes them.
///
/// Must be called inside a runtime.
///
/// # Errors
/// [`QueryError::Overloaded`] if all places for streams are taken.
pub(crate) fn held<T: Send + 'static>(
    state: &NodeState,
    address: &str,
    items: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Result<BoxStream<'static, Result<T, Status>>, QueryError> {
    let place = state.streams.try_acquire_for(address, 1)?;
    // The place is given back when the client has taken everything, is gone, or takes nothing any more.
    let items = until_error(items).map(move |item| {
        let _held = &place;
        item
    });
    Ok(until_idle(items.boxed(), state.overlay.limits.idle_stream()).boxed())
}

/// Ends a stream after its first error.
fn until_error<T>(stream: impl Stream<Item = Result<T, Status>>) -> impl Stream<Item = Result<T, Status>> {
    stream.scan(false, |failed, item| {
        let ended = std::mem::replace(failed, item.is_err());
        futures::future::ready((!ended).then_some(item))
    })
}

/// Items as `inner` gives them, until the client has taken none for `idle`: then `inner` is dropped, whoever waits for it, and
/// the stream ends with DEADLINE_EXCEEDED as soon as something is taken again. While an item is awaited the client waits,
/// and not the stream.
///
/// Must be called inside a runtime.
pub(crate) fn until_idle<T: Send + 'static>(
    inner: BoxStream<'static, Result<T, Status>>,
    idle: Duration,
) -> impl Stream<Item = Result<T, Status>> {
    let given = Arc::new(Mutex::new(Given { inner: Some(inner), waits_since: Some(Instant::now()) }));
    let watching = AbortOnDropHandle::new(tokio::spawn(watch(given.clone(), idle)));
    UntilIdle { given, idle, _watching: watching, ended: false }
}

struct UntilIdle<T> {
    given: Arc<Mutex<Given<T>>>,
    idle: Duration,
    _watching: AbortOnDropHandle<()>,
    ended: bool,
}

struct Given<T> {
    /// `None` once nobody took anything of it for too long.
    inner: Option<BoxStream<'static, Result<T, Status>>>,
    /// Since when the client is to take something; `None` while an item is awaited.
    waits_since: Option<Instant>,
}

async fn watch<T>(given: Arc<Mutex<Given<T>>>, idle: Duration) {
    loop {
        let now = Instant::now();
        let ends = {
            let mut given = lock(&given);
            let ends = given.waits_since.map_or(now, |since| since) + idle;
            if ends <= now {
                given.inner = None;
                return;
            }
            ends
        };
        sleep_until(ends).await;
    }
}

fn lock<T>(given: &Mutex<Given<T>>) -> MutexGuard<'_, Given<T>> {
    given.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Stream for UntilIdle<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = {
            let mut given = lock(&self.given);
            given.waits_since = None;
            let polled = given.inner.as_mut().map(|inner| inner.poll_next_unpin(cx));
            if let Some(Poll::Ready(_)) = polled {
                given.waits_since = Some(Instant::now());
            }
            polled
        };
        match polled {
            Some(polled) => polled,
            None => {
                self.ended = true;
                let ms = self.idle.as_millis();
                let why = format!("the client took nothing for {ms} ms (limits.idle_stream_ms)");
                Poll::Ready(Some(Err(Status::deadline_exceeded(why))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    /// An endless stream, and what counts who holds it.
    fn endless(every: Duration) -> (BoxStream<'static, Result<u32, Status>>, Arc<()>) {
        let held = Arc::new(());
        let holding = held.clone();
        let items = futures::stream::unfold(0, move |number| {
            let holding = holding.clone();
            async move {
                tokio::time::sleep(every).await;
                let _held = &holding;
                Some((Ok(number), number + 1))
            }
        });
        (items.boxed(), held)
    }

    #[tokio::test(start_paused = true)]
    async fn stream_that_nobody_takes_from_holds_nothing_and_ends() {
        let (inner, held) = endless(Duration::ZERO);
        let mut stream = Box::pin(until_idle(inner, IDLE));
        assert_eq!(stream.next().await.unwrap().unwrap(), 0);
        tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
        assert_eq!(stream.next().await.unwrap().unwrap(), 1, "in time");
        assert_eq!(Arc::strong_count(&held), 2);
        tokio::time::sleep(IDLE + Duration::from_secs(1)).await;
        assert_eq!(Arc::strong_count(&held), 1, "nothing is held, though nobody has polled");
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn stream_whose_client_waits_goes_on() {
        let (inner, _) = endless(IDLE * 3);
        let mut stream = Box::pin(until_idle(inner, IDLE));
        assert_eq!(stream.next().await.unwrap().unwrap(), 0);
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
    }
}
