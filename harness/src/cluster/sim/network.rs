//! The simulated network: hosts, connections between them, what is under way, the faults that are in force.
//!
//! One task hands over what arrives, and puts what arrives at one instant in the order of connections. So what
//! the runtime leaves to chance within an instant, such as whom a `watch` wakes first, does not show in the next.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt;
use futures::future::BoxFuture;
use overlay::outside::{Accepted, Connect, Incoming, Stream};
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::conditions;
use super::liar::Listener;
use super::pipe::{self, Arrival, Direction, Segment};
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
    started: Instant,
    state: Arc<Mutex<State>>,
    /// There is more under way, or a fault began or ended.
    changed: Arc<Notify>,
}

struct State {
    random: fastrand::Rng,
    listeners: BTreeMap<String, Listener>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    under_way: BTreeMap<Arrival, Segment>,
    faults: Vec<Fault>,
    trace: Vec<TraceLine>,
}

struct Connection {
    /// Who opened it, and to whom.
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
            under_way: BTreeMap::new(),
            faults: Vec::new(),
            trace: Vec::new(),
        };
        Network {
            hosts: Arc::new(hosts),
            started: Instant::now(),
            state: Arc::new(Mutex::new(state)),
            changed: Arc::default(),
        }
    }

    /// Hands over what arrives, for ever.
    pub(super) async fn carry(self) {
        loop {
            let changed = self.changed.notified();
            let next = self.arrive();
            tokio::select! {
                biased;
                () = changed => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// Hands over what has arrived by now, and gives the instant when there will be more.
    fn arrive(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state();
        let State { under_way, faults, trace, .. } = &mut *state;
        let due = under_way.iter().take_while(|(arrival, _)| arrival.at <= now);
        let free = due.filter(|(_, segment)| !conditions::hold(faults, &segment.direction));
        let arrivals: Vec<Arrival> = free.map(|(arrival, _)| *arrival).collect();
        for arrival in arrivals {
            if let Some(segment) = under_way.remove(&arrival) {
                trace.push(TraceLine::of(now - self.started, &segment));
                segment.hand_over();
            }
        }
        let later = under_way.iter().find(|(_, segment)| !conditions::hold(faults, &segment.direction));
        later.map(|(arrival, _)| arrival.at)
    }

    pub(super) fn address(&self, id: &str) -> SocketAddr {
        self.hosts[id]
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
        self.state().listeners.remove(id);
        self.drop_connections(|ends| ends.iter().any(|end| **end == *id));
    }

    fn drop_connections(&self, is_dropped: impl Fn(&[Arc<str>; 2]) -> bool) {
        let mut state = self.state();
        let State { connections, under_way, .. } = &mut *state;
        connections.retain(|_, connection| {
            let stays = !is_dropped(&connection.ends);
            if !stays {
                connection.pumping.abort();
            }
            stays
        });
        under_way.retain(|arrival, _| connections.contains_key(&arrival.connection));
    }

    /// Puts somebody else before a node: gives the connections to come, and where the node takes its own from. `None` if
    /// nobody listens. Connections to the node are gone.
    pub(super) fn put_before(&self, id: &str) -> Option<(Incoming, Listener)> {
        let node = self.state().listeners.get(id).cloned()?;
        self.disconnect_from_others(id);
        Some((self.listen(id), node))
    }

    /// Takes away what was put before a node. Connections to it are gone.
    pub(super) fn take_away_from(&self, id: &str, node: Listener) {
        self.disconnect_from_others(id);
        self.state().listeners.insert(id.to_owned(), node);
    }

    /// Ends the connections that others opened to a node.
    fn disconnect_from_others(&self, id: &str) {
        self.drop_connections(|[_, to]| **to == *id);
    }

    pub(super) fn begin(&self, fault: &Fault) {
        self.state().faults.push(fault.clone());
        self.changed.notify_waiters();
    }

    pub(super) fn end(&self, fault: &Fault) {
        self.state().faults.retain(|other| other != fault);
        self.changed.notify_waiters();
    }

    pub(super) fn trace(&self) -> Vec<TraceLine> {
        self.state().trace.clone()
    }

    /// Puts a segment under way; it arrives when its key says.
    pub(super) fn send(&self, arrival: Arrival, segment: Segment) {
        self.state().under_way.insert(arrival, segment);
        self.changed.notify_waiters();
    }

    /// What the faults in force make of something.
    pub(super) fn under<T>(&self, look: impl FnOnce(&[Fault]) -> T) -> T {
        look(&self.state().faults)
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
        loop {
            let changed = self.changed.notified();
            if !self.under(|faults| conditions::cut(faults, &from, &to)) {
                break;
            }
            changed.await;
        }
        let one_way = self.under(|faults| conditions::latency(&mut random, faults, &from, &to));
        tokio::time::sleep(one_way * 2).await;
        let (near, near_inside) = tokio::io::duplex(SOCKET_BYTES);
        let (far_inside, far) = tokio::io::duplex(SOCKET_BYTES);
        let mut state = self.state();
        let port = 32_768 + (connection % 28_000) as u16;
        let accepted = Accepted::new(Box::new(far), Some(SocketAddr::new(ip, port)));
        let listener = state.listeners.get(&*to);
        if listener.is_none_or(|listener| listener.try_send(Ok(accepted)).is_err()) {
            return Err(io::Error::new(ErrorKind::ConnectionRefused, format!("connection to {to} refused")));
        }
        let there = Direction { connection, is_back: false, from: from.clone(), to: to.clone() };
        let back = Direction { connection, is_back: true, from: to.clone(), to: from.clone() };
        let (network, back_random) = (self.clone(), random.fork());
        let pumping = tokio::spawn(async move {
            let (near_read, near_write) = tokio::io::split(near_inside);
            let (far_read, far_write) = tokio::io::split(far_inside);
            futures::future::join(
                pipe::pump(&network, there, random, near_read, far_write),
                pipe::pump(&network, back, back_random, far_read, near_write),
            )
            .await;
            network.state().connections.remove(&connection);
        });
        let connected = Connection { ends: [from, to], pumping: pumping.abort_handle() };
        state.connections.insert(connection, connected);
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

async fn sleep_until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
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
