//! A stream of chunks that gives back what it holds when its client takes nothing of it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

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
                let why = format!("the client took no chunk for {ms} ms (limits.idle_stream_ms)");
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
