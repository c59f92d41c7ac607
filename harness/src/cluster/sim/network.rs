//! The simulated network: hosts, connections between them, and the faults that are in force.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt;
use futures::future::BoxFuture;
use overlay::outside::{Accepted, Connect, Incoming, Stream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::pipe::{self, Direction};
use super::trace::TraceLine;
use crate::fault::Fault;

/// Bytes that a socket takes before whoever writes must wait: what Linux gives a fresh one, about.
const SOCKET_BYTES: usize = 64 << 10;

/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

/// A network. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub(super) struct Network {
    hosts: Arc<BTreeMap<String, SocketAddr>>,
    faults: watch::Sender<Vec<Fault>>,
    started: Instant,
    state: Arc<Mutex<State>>,
}

struct State {
    random: fastrand::Rng,
    listeners: BTreeMap<String, mpsc::Sender<io::Result<Accepted>>>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    trace: Vec<TraceLine>,
}

struct Connection {
    ends: [Arc<str>; 2],
    pumping: AbortHandle,
}

impl Network {
    /// A network of these hosts. `random` decides how long everything takes.
    pub(super) fn new(random: fastrand::Rng, hosts: BTreeMap<String, SocketAddr>) -> Self {
        let state = State {
            random,
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 1,
            trace: Vec::new(),
        };
        Network {
            hosts: Arc::new(hosts),
            faults: watch::Sender::new(Vec::new()),
            started: Instant::now(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    pub(super) fn address(&self, id: &str) -> SocketAddr {
        self.hosts[id]
    }

    pub(super) fn ip(&self, id: &str) -> IpAddr {
        self.address(id).ip()
    }

    /// Takes connections for a node from now on.
    pub(super) fn listen(&self, id: &str) -> Incoming {
        let (listener, incoming) = mpsc::channel(BACKLOG);
        self.state().listeners.insert(id.to_owned(), listener);
        Box::pin(tokio_stream::wrappers::ReceiverStream::new(incoming))
    }

    /// What `from` opens connections by.
    pub(super) fn dialer(&self, from: &str, ip: IpAddr) -> Arc<dyn Connect> {
        Arc::new(Dialer { network: self.clone(), from: from.into(), ip })
    }

    /// Nobody listens at a node any more, and its connections are gone, with what was under way.
    pub(super) fn disconnect(&self, id: &str) {
        let mut state = self.state();
        state.listeners.remove(id);
        state.connections.retain(|_, connection| {
            let stays = connection.ends.iter().all(|end| **end != *id);
            if !stays {
                connection.pumping.abort();
            }
            stays
        });
    }

    pub(super) fn begin(&self, fault: &Fault) {
        self.faults.send_modify(|faults| faults.push(fault.clone()));
    }

    pub(super) fn end(&self, fault: &Fault) {
        self.faults.send_modify(|faults| faults.retain(|other| other != fault));
    }

    /// The faults in force, to look at and to wait for.
    pub(super) fn faults(&self) -> watch::Receiver<Vec<Fault>> {
        self.faults.subscribe()
    }

    pub(super) fn trace(&self) -> Vec<TraceLine> {
        self.state().trace.clone()
    }

    /// Notes what was delivered.
    pub(super) fn delivered(&self, direction: &Direction, bytes: &[u8]) {
        self.state().trace.push(TraceLine {
            at: self.started.elapsed(),
            connection: direction.connection,
            from: direction.from.clone(),
            to: direction.to.clone(),
            bytes: bytes.len(),
            digest: xxhash_rust::xxh3::xxh3_64(bytes),
        });
    }

    /// Opens a connection as TCP does: a round trip, then refused if nobody listens. While the network is
    /// partitioned there is no answer at all.
    async fn open(self, from: Arc<str>, ip: IpAddr, address: String) -> io::Result<Box<dyn Stream>> {
        let host = self.hosts.iter().find(|(_, known)| known.to_string() == address);
        let to: Arc<str> = match host {
            Some((id, _)) => id.as_str().into(),
            None => return Err(io::Error::new(ErrorKind::HostUnreachable, format!("no host {address}"))),
        };
        let (connection, mut random) = self.number();
        pipe::until_connected(&mut self.faults(), &from, &to).await;
        let round_trip = pipe::latency(&mut random, &self.faults().borrow(), &from, &to) * 2;
        tokio::time::sleep(round_trip).await;
        let (near, near_inside) = tokio::io::duplex(SOCKET_BYTES);
        let (far_inside, far) = tokio::io::duplex(SOCKET_BYTES);
        let listener = self.state().listeners.get(&*to).cloned();
        let port = 32_768 + (connection % 28_000) as u16;
        let accepted = Accepted::new(Box::new(far), Some(SocketAddr::new(ip, port)));
        let sent = listener.is_some_and(|listener| listener.try_send(Ok(accepted)).is_ok());
        if !sent {
            return Err(io::Error::new(ErrorKind::ConnectionRefused, format!("{to} ({address}) refused")));
        }
        let there = Direction { connection, from: from.clone(), to: to.clone() };
        let back = Direction { connection, from: to.clone(), to: from.clone() };
        let (network, back_random) = (self.clone(), random.fork());
        let pumping = tokio::spawn(async move {
            let (near_read, near_write) = tokio::io::split(near_inside);
            let (far_read, far_write) = tokio::io::split(far_inside);
            futures::future::join(
                pipe::pump(&network, &there, random, near_read, far_write),
                pipe::pump(&network, &back, back_random, far_read, near_write),
            )
            .await;
            network.state().connections.remove(&connection);
        });
        let connected = Connection { ends: [from, to], pumping: pumping.abort_handle() };
        self.state().connections.insert(connection, connected);
        Ok(Box::new(near))
    }

    /// The next connection's number, and a source of randomness of its own.
    fn number(&self) -> (u64, fastrand::Rng) {
        let mut state = self.state();
        let connection = state.next_connection;
        state.next_connection += 1;
        (connection, state.random.fork())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the network")
    }
}

struct Dialer {
    network: Network,
    from: Arc<str>,
    ip: IpAddr,
}

impl Connect for Dialer {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        self.network.clone().open(self.from.clone(), self.ip, address.to_owned()).boxed()
    }
}
