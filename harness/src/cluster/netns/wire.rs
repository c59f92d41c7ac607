//! The wires between hosts: a TUN device on each, and a thread that carries packets from one to the other.
//!
//! The thread is where a wire fails: what the faults of a direction mean is in `line`. Whoever sends sees only a
//! network device, so TCP behaves as it does over any bad wire. Nothing here knows nodes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use futures::future::try_join_all;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio_tun::Tun;

use super::super::{ClusterError, io_error};
use super::host::{self, Host};
use super::line::Line;
use crate::fault::Fault;

/// The network device that leads to the other hosts.
const DEVICE: &str = "wire";

/// All hosts are in one network of this mask.
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

/// The longest packet: what the kernel gives a TUN device.
const PACKET_BYTES: usize = 1500;

/// Where an IPv4 header has the receiver's address.
const RECEIVER: std::ops::Range<usize> = 16..20;

/// Packets between a device and a line, which takes them at once. One that finds no room is lost.
const HANDED_OVER: usize = 64;

/// Decides which packets a lossy wire loses.
const SEED: u64 = 0x7769;

/// From a host to another one.
pub(super) type Way = (Ipv4Addr, Ipv4Addr);

/// What joins hosts, each with each. Dropping it takes all devices away.
pub(super) struct Wire {
    /// The faults in force.
    faults: BTreeMap<Way, watch::Sender<Vec<Fault>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// The end at one host, to be made on the thread.
struct End {
    ip: Ipv4Addr,
    namespace: Arc<File>,
}

impl Wire {
    /// Joins hosts and gives each its address.
    pub(super) fn between<'a>(hosts: impl Iterator<Item = &'a Host>) -> Result<Self, ClusterError> {
        let ends: Vec<End> = hosts.map(|host| End { ip: host.ip(), namespace: host.namespace() }).collect();
        let ways = ends.iter().flat_map(|from| ends.iter().map(move |to| (from.ip, to.ip)));
        let faults: BTreeMap<Way, watch::Sender<Vec<Fault>>> =
            ways.filter(|(from, to)| from != to).map(|way| (way, watch::Sender::default())).collect();
        let watched = faults.iter().map(|(way, faults)| (*way, faults.subscribe())).collect();
        let (up, is_up) = channel();
        let thread = std::thread::spawn(move || carry(&ends, watched, &up));
        match is_up.recv() {
            Ok(()) => Ok(Wire { faults, thread: Some(thread) }),
            Err(_) => {
                let ended = thread.join().expect("the wire does not panic");
                Err(io_error("join hosts by a wire")(ended.err().unwrap_or(io::ErrorKind::Other.into())))
            }
        }
    }

    /// The ways that lead from a host.
    pub(super) fn from(&self, host: Ipv4Addr) -> Vec<Way> {
        self.faults.keys().filter(|(from, _)| *from == host).copied().collect()
    }

    /// Begins a fault in what goes one way.
    pub(super) fn begin(&self, way: Way, fault: &Fault) {
        self.faults[&way].send_modify(|faults| faults.push(fault.clone()));
    }

    /// Ends a fault in what goes one way.
    pub(super) fn end(&self, way: Way, fault: &Fault) {
        self.faults[&way].send_modify(|faults| faults.retain(|other| other != fault));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The thread ends when nobody can begin a fault any more.
        self.faults.clear();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Makes the devices, says so, and carries packets until the wire is dropped. If it breaks before, it says so at once.
fn carry(
    ends: &[End],
    faults: BTreeMap<Way, watch::Receiver<Vec<Fault>>>,
    up: &Sender<()>,
) -> io::Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let devices: BTreeMap<Ipv4Addr, Tun> =
            ends.iter().map(|end| Ok((end.ip, open(end)?))).collect::<io::Result<_>>()?;
        let _ = up.send(());
        let (mut senders, mut lines) = (BTreeMap::new(), Vec::new());
        for ((way, faults), seed) in faults.into_iter().zip(SEED..) {
            let (sender, packets) = mpsc::channel(HANDED_OVER);
            senders.insert(way, sender);
            lines.push(carry_one_way(packets, &devices[&way.1], faults, Line::new(seed)));
        }
        let takers = devices.iter().map(|(from, device)| take(*from, device, &senders));
        tokio::select! {
            biased;
            // All lines end when the wire is dropped.
            carried = try_join_all(lines) => carried.map(drop),
            taken = try_join_all(takers) => taken.map(drop),
        }
        .inspect_err(|error| eprintln!("the wire between the hosts broke: {error}"))
    })
}

/// Makes a host's device. The thread has to be there for it, and stays, as the device does.
fn open(end: &End) -> io::Result<Tun> {
    host::enter(&end.namespace)?;
    let device = Tun::builder().name(DEVICE).address(end.ip).netmask(NETMASK).up().build();
    device.map_err(io::Error::other)?.pop().ok_or_else(|| io::Error::other("no device was made"))
}

/// Takes what a host sends to the line that leads to the receiver; what is for nobody is lost.
async fn take(from: Ipv4Addr, device: &Tun, lines: &BTreeMap<Way, mpsc::Sender<Vec<u8>>>) -> io::Result<()> {
    let mut packet = [0; PACKET_BYTES];
    loop {
        let length = device.recv(&mut packet).await?;
        let receiver = packet[..length].get(RECEIVER).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        if let Some(line) = receiver.and_then(|to| lines.get(&(from, Ipv4Addr::from(to)))) {
            let _ = line.try_send(packet[..length].to_vec());
        }
    }
}

async fn carry_one_way(
    mut packets: mpsc::Receiver<Vec<u8>>,
    to: &Tun,
    mut faults: watch::Receiver<Vec<Fault>>,
    mut line: Line,
) -> io::Result<()> {
    loop {
        let next = line.next_arrival(&faults.borrow());
        tokio::select! {
            biased;
            changed = faults.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep_until(next.unwrap_or_else(tokio::time::Instant::now)), if next.is_some() => {
                let arrived = line.arrive(&faults.borrow());
                if let Some(packet) = arrived
                    && let Err(error) = to.send(&packet).await
                {
                    // One packet lost, which whoever sent it sends again.
                    eprintln!("the wire between the hosts lost a packet: {error}");
                }
            }
            Some(packet) = packets.recv() => line.send(packet),
        }
    }
}
