//! One host: a network namespace, the process that holds it, and ways in.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use overlay::outside::{Connect, Stream};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use super::super::{ClusterError, io_error};

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A network namespace, which lives as long as a process in it. Dropping it ends the one that holds it.
pub(super) struct Host {
    ip: Ipv4Addr,
    holder: Child,
    namespace: Arc<File>,
}

impl Host {
    /// Makes a host, with nothing but a loopback interface.
    pub(super) fn start(ip: Ipv4Addr) -> Result<Self, ClusterError> {
        let failed = || io_error(format!("make a network namespace for {ip}"));
        // It ends when its standard input does, which is when this process ends.
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec cat >/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed())?;
        let mut line = String::new();
        let read = holder.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        let namespace = match read {
            Some(Ok(1..)) => File::open(format!("/proc/{}/ns/net", holder.id())),
            _ => Err(io::Error::other("unshare or ip failed")),
        };
        match namespace {
            Ok(namespace) => Ok(Host { ip, holder, namespace: Arc::new(namespace) }),
            Err(error) => {
                let _ = holder.kill();
                let _ = holder.wait();
                Err(failed()(error))
            }
        }
    }

    pub(super) fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// The process that holds the namespace.
    pub(super) fn pid(&self) -> u32 {
        self.holder.id()
    }

    pub(super) fn namespace(&self) -> Arc<File> {
        self.namespace.clone()
    }

    /// What a command line begins with that is to run on this host. The process stays the same one.
    pub(super) fn launcher(&self) -> Vec<String> {
        ["nsenter", "--target", &self.pid().to_string(), "--net", "--"].map(str::to_owned).to_vec()
    }

    /// What a client on this host opens connections by.
    pub(super) fn dialer(&self) -> Arc<dyn Connect> {
        Arc::new(Dialer { namespace: self.namespace() })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A socket stays in the namespace of the thread that made it, so a thread goes there for each.
struct Dialer {
    namespace: Arc<File>,
}

impl Connect for Dialer {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (namespace, address) = (self.namespace.clone(), address.to_owned());
        let (sender, receiver) = oneshot::channel();
        std::thread::spawn(move || sender.send(connect(&namespace, &address)));
        async move {
            let stream = receiver.await.map_err(io::Error::other)??;
            Ok(Box::new(tokio::net::TcpStream::from_std(stream)?) as Box<dyn Stream>)
        }
        .boxed()
    }
}

fn connect(namespace: &File, address: &str) -> io::Result<TcpStream> {
    enter(namespace)?;
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let stream = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Moves the thread that calls it into a network namespace; what it opens there belongs there for good.
pub(super) fn enter(namespace: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}
