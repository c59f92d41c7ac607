//! What a node takes from outside: clock, randomness, network, computing.
//!
//! The same node runs as a process, beside five others in one process, and under simulated time, because nothing
//! else in this crate reads the date, draws a random number, opens a connection, looks up a name, counts cores or
//! starts a thread while serving. Instants are the runtime's.

mod fresh;
mod memory;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};

use self::fresh::Fresh;
pub use self::fresh::NeverUsed;
pub use self::memory::give_back_memory;

/// Everything that a node takes from outside but its listener and its data.
#[derive(Clone)]
pub struct Outside {
    /// Time.
    pub clock: Clock,
    /// Random bits for ids.
    pub random: Random,
    /// Opens connections to neighbours.
    pub connect: Arc<dyn Connect>,
    /// Runs scans and encodings.
    pub compute: Compute,
    /// Scans and encodings that can run at once; at least 1.
    pub cores: usize,
}

impl Outside {
    /// The real things: system time, system entropy, TCP, a pool of threads.
    pub fn system() -> Self {
        Outside {
            clock: Clock::system(),
            random: Random::seeded(fastrand::u64(..)),
            connect: Arc::new(ConnectTcp),
            compute: Compute::Pool,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Wall-clock time that advances with the runtime's clock, which a test may pause.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    started_unix_ms: u64,
}

impl Clock {
    /// Starts at the system's time.
    pub fn system() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::starting_at(since_epoch.as_millis() as u64)
    }

    /// Starts at a given time, in milliseconds since 1970.
    pub fn starting_at(started_unix_ms: u64) -> Self {
        Clock { started: Instant::now(), started_unix_ms }
    }

    /// The present instant.
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// Milliseconds since 1970.
    pub fn unix_ms(&self) -> u64 {
        self.started_unix_ms + self.started.elapsed().as_millis() as u64
    }

    /// The time as HTTP writes it: `Thu, 24 Sep 2020 23:59:59 GMT`.
    pub fn http_date(&self) -> String {
        let now = chrono::DateTime::from_timestamp_millis(self.unix_ms() as i64).unwrap_or_default();
        now.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }
}

/// A seeded source of random bits.
#[derive(Clone, Debug)]
pub struct Random(Arc<Mutex<fastrand::Rng>>);

impl Random {
    /// The sequence that a seed decides.
    pub fn seeded(seed: u64) -> Self {
        Random(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// The next 64 bits.
    pub fn bits(&self) -> u64 {
        self.0.lock().expect("drawing bits does not panic").u64(..)
    }
}

/// A byte stream to a neighbour.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens connections.
pub trait Connect: Send + Sync {
    /// Opens a connection to `address`, written `host:port`.
    ///
    /// # Errors
    /// Whatever the network reports.
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>>;

    /// The addresses of a host that is written as a name; none where names mean nothing.
    fn resolve(&self, _host: &str) -> BoxFuture<'static, Vec<IpAddr>> {
        Box::pin(std::future::ready(Vec::new()))
    }
}

/// Connects by TCP, without delaying small segments.
pub struct ConnectTcp;

impl Connect for ConnectTcp {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let address = address.to_owned();
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn resolve(&self, host: &str) -> BoxFuture<'static, Vec<IpAddr>> {
        let host = host.to_owned();
        Box::pin(async move {
            match tokio::net::lookup_host((host.as_str(), 0)).await {
                Ok(addresses) => addresses.map(|address| address.ip()).collect(),
                Err(error) => {
                    tracing::debug!(host, %error, "the name of a neighbour's host has no address");
                    Vec::new()
                }
            }
        })
    }
}

/// What a peer may send of one request or answer before it hears that some was taken: twice what a chunk has by default.
pub const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// Likewise of all on one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// The largest piece of an answer: a system call for each of the usual 16 KiB costs a third of forwarding, and behind larger ones
/// small answers wait.
pub const HTTP2_FRAME_BYTES: u32 = 64 << 10;

/// Requests of a connection that were given up and whose late answers are still dropped in silence.
const ABANDONED_REQUESTS: usize = 1024;

/// The HTTP library forgets them by the system's clock, after a second unless told otherwise, and wakes those
/// that wait in an order that depends on it. They are bounded by their number instead.
const ABANDONED_FOR: Duration = Duration::from_secs(3600);

/// A channel to `address` over whatever `connect` opens; it connects when it is first needed, each time within
/// `connect_within`. A request fails if it finds no connection, and the next one is another attempt.
///
/// The connector knows where to go: the endpoint's URI only names the authority of requests.
/// Must be called inside a runtime.
pub fn channel(
    endpoint: Endpoint,
    connect: Arc<dyn Connect>,
    address: &str,
    connect_within: Duration,
) -> Channel {
    let address = address.to_owned();
    bounded(endpoint).connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let connecting = attempt(connect.connect(&address), connect_within);
        async move { connecting.await.map(TokioIo::new) }
    }))
}

/// Like [`channel`], for many requests at once: no request fails by itself for want of a connection, but all that wait
/// can learn from [`ConnectAttempts`] that an attempt has failed.
///
/// The HTTP library fails one waiting request for each attempt, and makes another attempt for the next request: a hundred
/// requests to a host that does not answer would wait for a hundred attempts, one after the other. It also looks at an
/// attempt only while somebody waits; this one goes on, so that nobody is told what was true a while ago.
pub fn channel_with_attempts(
    endpoint: Endpoint,
    connect: Arc<dyn Connect>,
    address: &str,
    connect_within: Duration,
) -> (Channel, ConnectAttempts) {
    let address = address.to_owned();
    let attempts = ConnectAttempts(Arc::default());
    let attempting = attempts.0.clone();
    let channel = bounded(endpoint).connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (connect, address, attempting) = (connect.clone(), address.clone(), attempting.clone());
        let connecting = AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                // Whoever wants a connection by now waits for this attempt.
                let _ = attempting.wanted.notified().now_or_never();
                let begun = Instant::now();
                match attempt(connect.connect(&address), connect_within).await {
                    Ok(stream) => return Fresh::new(stream),
                    Err(error) => attempting.fail(begun, error.to_string()),
                }
                attempting.wanted.notified().await;
            }
        }));
        async move { connecting.await.map(TokioIo::new) }
    }));
    (channel, attempts)
}

/// The attempts of a channel to connect.
#[derive(Clone)]
pub struct ConnectAttempts(Arc<Attempting>);

#[derive(Default)]
struct Attempting {
    wanted: Notify,
    /// Wakes those who wait in the order in which they came, unlike a channel that keeps a last value.
    failed: Notify,
    /// When the last attempt that failed was begun, and why it failed.
    last_failure: Mutex<Option<(Instant, String)>>,
}

impl Attempting {
    fn fail(&self, begun: Instant, why: String) {
        *self.lock() = Some((begun, why));
        self.failed.notify_waiters();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, String)>> {
        self.last_failure.lock().expect("storing a failure does not panic")
    }
}

impl ConnectAttempts {
    /// Says that a connection is wanted, and completes when an attempt fails that was begun from now on, with the reason.
    pub fn failure(&self) -> impl Future<Output = String> + use<> {
        let (arrived, attempting) = (Instant::now(), self.0.clone());
        attempting.wanted.notify_one();
        async move {
            loop {
                let failed = attempting.failed.notified();
                tokio::pin!(failed);
                failed.as_mut().enable();
                if let Some((_, why)) = attempting.lock().as_ref().filter(|(begun, _)| *begun >= arrived) {
                    return why.clone();
                }
                failed.await;
            }
        }
    }
}

fn bounded(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .tcp_nodelay(true)
        .http2_max_concurrent_reset_streams(ABANDONED_REQUESTS)
        .http2_reset_stream_duration(ABANDONED_FOR)
}

async fn attempt(
    connecting: BoxFuture<'static, io::Result<Box<dyn Stream>>>,
    within: Duration,
) -> io::Result<Box<dyn Stream>> {
    match tokio::time::timeout(within, connecting).await {
        Ok(connected) => connected,
        Err(_) => {
            let why = format!("no connection within {} ms", within.as_millis());
            Err(io::Error::new(io::ErrorKind::TimedOut, why))
        }
    }
}

/// One accepted connection, whatever carries it.
pub struct Accepted {
    stream: Box<dyn Stream>,
    peer: Peer,
    _held: Option<Box<dyn Send>>,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it is; `None` where the network has no addresses.
    pub address: Option<SocketAddr>,
    /// The node that its certificate names, if it has shown one.
    pub node: Option<Arc<str>>,
}

impl Accepted {
    /// A connection from `address`; `None` where the network has no addresses.
    pub fn new(stream: Box<dyn Stream>, address: Option<SocketAddr>) -> Self {
        Self::certified(stream, Peer { address, node: None })
    }

    /// A connection on which certificates were checked.
    pub fn certified(stream: Box<dyn Stream>, peer: Peer) -> Self {
        Accepted { stream, peer, _held: None }
    }

    /// The same connection, which drops `held` when it ends.
    pub fn holding(self, held: impl Send + 'static) -> Self {
        Accepted { _held: Some(Box::new(held)), ..self }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// The connections of a bound listener.
pub type Incoming = Pin<Box<dyn tokio_stream::Stream<Item = io::Result<Accepted>> + Send>>;

/// What the listener waits after an error that it would meet again at once, such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Accepts connections from a bound TCP listener, without delaying small segments.
pub fn incoming_tcp(listener: tokio::net::TcpListener) -> Incoming {
    Box::pin(futures::stream::unfold(listener, async |listener| Some((accept(&listener).await, listener))))
}

/// The address is the one that came with the connection: asked for later, it is unknown once the other end has reset the
/// connection, and who comes from nowhere would be taken for this host.
async fn accept(listener: &tokio::net::TcpListener) -> io::Result<Accepted> {
    let (stream, address) = match listener.accept().await {
        Ok(accepted) => accepted,
        // Its client has given up; the next one has nothing to do with that.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => return Err(error),
        Err(error) => {
            tracing::warn!(%error, "no connection can be accepted");
            tokio::time::sleep(ACCEPT_AGAIN).await;
            return Err(error);
        }
    };
    stream.set_nodelay(true)?;
    Ok(Accepted::new(Box::new(stream), Some(address)))
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where scans and encodings run. What bounds them are the compute slots, not this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    /// In the caller, which then lets others run: deterministic, for simulation.
    Inline,
    /// On the runtime's blocking threads.
    Pool,
    /// In the runtime's time: a piece lasts by its rows, and then is done in no time. As on a thread, it goes on to its
    /// end when nobody waits for it any more.
    Simulated {
        /// Nanoseconds that a row takes.
        ns_per_row: u64,
    },
}

impl Compute {
    /// Runs a piece of work that is done sooner than another thread would begin it.
    ///
    /// Units: as [`Compute::run`] has them.
    pub async fn run_here<T: Send + 'static>(
        self,
        rows: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        match self {
            Compute::Pool => work(),
            Compute::Inline | Compute::Simulated { .. } => self.run(rows, work).await,
        }
    }

    /// Runs one piece of work, of at most a quantum of rows, to its end.
    ///
    /// Units: `rows` is what the piece is charged with, in rows to scan; only simulated computing looks at it.
    ///
    /// # Cancel safety
    /// A dropped future's piece may still finish on its thread; its result goes nowhere.
    pub async fn run<T: Send + 'static>(self, rows: u64, work: impl FnOnce() -> T + Send + 'static) -> T {
        let ended = match self {
            Compute::Inline => {
                let result = work();
                tokio::task::yield_now().await;
                Ok(result)
            }
            Compute::Pool => {
                let yielding = || {
                    yield_to_others();
                    work()
                };
                tokio::task::spawn_blocking(yielding).await
            }
            Compute::Simulated { ns_per_row } => {
                let lasts = Duration::from_nanos(rows.saturating_mul(ns_per_row));
                tokio::spawn(tokio::time::sleep(lasts).map(|()| work())).await
            }
        };
        match ended {
            Ok(result) => result,
            Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
            // The runtime is shutting down and drops this future at its next suspension.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Lets the threads that answer run before this one, from now on, here and in other processes: a scan lasts long enough
/// to keep the answers of a busy machine waiting. Where that cannot be had, they take turns.
#[cfg(target_os = "linux")]
fn yield_to_others() {
    /// Of 19: with it a thread gets a tenth of what one that answers gets, where both want to run.
    const NICE: i32 = 10;
    thread_local! {
        // Whether the system refuses changes nothing.
        static YIELDS: bool = rustix::process::setpriority_process(None, NICE).is_ok();
    }
    YIELDS.with(|_| ());
}

#[cfg(not(target_os = "linux"))]
fn yield_to_others() {}

/// What is left until `deadline`.
pub fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_date_is_written_as_rfc_9110_has_it() {
        let clock = Clock::starting_at(1_600_991_999_000);
        assert_eq!(clock.http_date(), "Thu, 24 Sep 2020 23:59:59 GMT");
    }

    /// Goal: nobody hides where he comes from. Method: a connection is reset before it is accepted.
    #[tokio::test]
    async fn connection_that_was_reset_keeps_its_address() {
        use futures::StreamExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let address = stream.local_addr().unwrap();
        stream.set_zero_linger().unwrap();
        drop(stream);
        let accepted = incoming_tcp(listener).next().await.unwrap();
        // Some systems do not hand out a connection that is gone.
        if let Ok(accepted) = accepted {
            assert_eq!(accepted.peer().address, Some(address));
        }
    }
}
