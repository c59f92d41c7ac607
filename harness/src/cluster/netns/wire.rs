//! The wire between two hosts: a TUN device on each, and a thread that carries packets from one to the other.
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

use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio_tun::Tun;

use super::super::{ClusterError, io_error};
use super::host::{self, Host};
use super::line::Line;
use crate::fault::Fault;

/// The network device that leads to the other host.
const DEVICE: &str = "wire";

/// Both hosts are in one network of this mask.
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

/// The longest packet: what the kernel gives a TUN device.
const PACKET_BYTES: usize = 1500;

/// Decides which packets a lossy wire loses.
const SEED: u64 = 0x7769;

/// What joins two hosts. Dropping it takes both devices away.
pub(super) struct Wire {
    /// The faults in force, by the host that sends.
    faults: BTreeMap<Ipv4Addr, watch::Sender<Vec<Fault>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// One end, to be made on the thread.
struct End {
    ip: Ipv4Addr,
    namespace: Arc<File>,
    faults: watch::Receiver<Vec<Fault>>,
}

impl Wire {
    /// Joins two hosts and gives each its address.
    pub(super) fn between(hosts: [&Host; 2]) -> Result<Self, ClusterError> {
        let mut faults = BTreeMap::new();
        let ends = hosts.map(|host| {
            let (sender, receiver) = watch::channel(Vec::new());
            faults.insert(host.ip(), sender);
            End { ip: host.ip(), namespace: host.namespace(), faults: receiver }
        });
        let (up, is_up) = channel();
        let thread = std::thread::spawn(move || carry(ends, up));
        match is_up.recv() {
            Ok(()) => Ok(Wire { faults, thread: Some(thread) }),
            Err(_) => {
                let ended = thread.join().expect("the wire does not panic");
                Err(io_error("join two hosts by a wire")(ended.err().unwrap_or(io::ErrorKind::Other.into())))
            }
        }
    }

    /// Begins a fault in what a host sends.
    pub(super) fn begin(&self, from: Ipv4Addr, fault: &Fault) {
        self.faults[&from].send_modify(|faults| faults.push(fault.clone()));
    }

    /// Ends a fault in what a host sends.
    pub(super) fn end(&self, from: Ipv4Addr, fault: &Fault) {
        self.faults[&from].send_modify(|faults| faults.retain(|other| other != fault));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The thread ends when nobody can begin a fault any more.
        self.faults.clear();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Makes both devices, says so, and carries packets until the wire is dropped. If it breaks before, it says so at once.
fn carry(ends: [End; 2], up: Sender<()>) -> io::Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let [left, right] = ends;
        let (left_device, right_device) = (open(&left)?, open(&right)?);
        let _ = up.send(());
        let carried = tokio::try_join!(
            carry_one_way(&left_device, &right_device, left.faults, Line::new(SEED)),
            carry_one_way(&right_device, &left_device, right.faults, Line::new(SEED + 1)),
        );
        carried.map(drop).inspect_err(|error| eprintln!("the wire between the hosts broke: {error}"))
    })
}

/// Makes a host's device. The thread has to be there for it, and stays, as the device does.
fn open(end: &End) -> io::Result<Tun> {
    host::enter(&end.namespace)?;
    let device = Tun::builder().name(DEVICE).address(end.ip).netmask(NETMASK).up().build();
    device.map_err(io::Error::other)?.pop().ok_or_else(|| io::Error::other("no device was made"))
}

async fn carry_one_way(
    from: &Tun,
    to: &Tun,
    mut faults: watch::Receiver<Vec<Fault>>,
    mut line: Line,
) -> io::Result<()> {
    let mut packet = [0; PACKET_BYTES];
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
            length = from.recv(&mut packet) => line.send(&packet[..length?]),
        }
    }
}
