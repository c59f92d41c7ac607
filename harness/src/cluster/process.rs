//! Every node as a process of its own: the command, a configuration file, signals.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use overlay::client::{Client, ClientError, OldClient};
use overlay::config::Overlay;
use serde_json::Value;
use tempfile::TempDir;

use super::{Cluster, ClusterError, ClusterSpec, READY_WITHIN, addresses_of, bind_listeners, io_error};
use crate::fault::Fault;
use crate::scratch;

/// Lines of a node's standard error that a failure shows.
const LOG_LINES_SHOWN: usize = 40;

/// What the command says when it cannot have its port.
const PORT_TAKEN: &str = "cannot listen on";

/// An overlay of processes. Dropping it kills every one; if the test itself is killed, each ends by itself
/// when its standard input ends. A test that panics shows what the nodes wrote to standard error.
#[must_use = "dropping a cluster ends it"]
pub struct ProcessCluster {
    binary: PathBuf,
    dataset_root: PathBuf,
    watch: bool,
    overlay: Overlay,
    folder: TempDir,
    addresses: BTreeMap<String, SocketAddr>,
    /// What the command line of a node begins with, where it is not the binary.
    launchers: BTreeMap<String, Vec<String>>,
    environment: BTreeMap<String, String>,
    nodes: BTreeMap<String, RunningNode>,
}

impl ProcessCluster {
    /// Starts every node and waits until all are ready.
    ///
    /// `binary` takes the arguments of `overlay`; tests of this package have it as `CARGO_BIN_EXE_overlay-node`.
    ///
    /// Ports are found by binding port 0 and letting go again, because the configuration must name them
    /// before any node runs. Another program can take one in that instant; then everything is started once
    /// more, with other ports.
    ///
    /// # Errors
    /// [`ClusterError`] if a node is not ready in time, with its standard error.
    pub fn start(binary: impl AsRef<Path>, spec: ClusterSpec) -> Result<Self, ClusterError> {
        match Self::start_once(binary.as_ref(), spec.clone()) {
            Err(ClusterError::Process { log, .. }) if log.contains(PORT_TAKEN) => {
                Self::start_once(binary.as_ref(), spec)
            }
            started => started,
        }
    }

    fn start_once(binary: &Path, spec: ClusterSpec) -> Result<Self, ClusterError> {
        let addresses = addresses_of(&bind_listeners(&spec.ids())?)?;
        Self::start_at(binary, spec, addresses, BTreeMap::new())
    }

    /// Starts every node at an address that is known to be free, each by its launcher if it has one.
    pub(super) fn start_at(
        binary: &Path,
        spec: ClusterSpec,
        addresses: BTreeMap<String, SocketAddr>,
        launchers: BTreeMap<String, Vec<String>>,
    ) -> Result<Self, ClusterError> {
        let folder = scratch::folder().map_err(io_error("make a folder for the cluster"))?;
        let config = folder.path().join("config.json");
        let text = spec.config_text(&addresses);
        fs::write(&config, &text).map_err(io_error("write the configuration"))?;
        let mut cluster = ProcessCluster {
            binary: binary.to_owned(),
            dataset_root: spec.dataset_root,
            watch: spec.watch,
            overlay: Overlay::parse(&text, "cluster")?.overlay,
            folder,
            addresses,
            launchers,
            environment: spec.environment,
            nodes: BTreeMap::new(),
        };
        let ids: Vec<String> = cluster.addresses.keys().cloned().collect();
        for id in &ids {
            cluster.spawn(id)?;
        }
        for node in cluster.nodes.values_mut() {
            node.wait_ready(spec.ready_within)?;
        }
        Ok(cluster)
    }

    /// Where a node listens, as `HOST:PORT`.
    ///
    /// # Panics
    /// If the cluster has no such node.
    pub fn address(&self, id: &str) -> String {
        self.address_of(id).to_string()
    }

    pub(crate) fn address_of(&self, id: &str) -> SocketAddr {
        self.addresses[id]
    }

    /// The configuration file that its nodes read.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }

    /// The process that runs a node, or ran it last.
    ///
    /// # Panics
    /// If the cluster has no such node.
    pub fn node(&mut self, id: &str) -> &mut RunningNode {
        self.nodes.get_mut(id).unwrap_or_else(|| panic!("the cluster has no node `{id}`"))
    }

    /// The process ids of all nodes.
    pub fn pids(&self) -> BTreeMap<String, u32> {
        self.nodes.iter().map(|(id, node)| (id.clone(), node.pid())).collect()
    }

    fn spawn(&mut self, id: &str) -> Result<(), ClusterError> {
        let mut arguments = vec![
            OsString::from("--config"),
            self.config().into_os_string(),
            OsString::from("--dataset-root"),
            self.dataset_root.clone().into_os_string(),
        ];
        arguments.extend(self.watch.then(|| OsString::from("--watch")));
        let mut command = match self.launchers.get(id).map(Vec::as_slice) {
            Some([launcher, words @ ..]) => {
                let mut command = Command::new(launcher);
                command.args(words).arg(&self.binary);
                command
            }
            _ => Command::new(&self.binary),
        };
        command.envs(&self.environment);
        let node = RunningNode::spawn_by(command, id, arguments, self.folder.path())?;
        self.nodes.insert(id.to_owned(), node);
        Ok(())
    }
}

/// Some methods block their thread while they wait for a process: run a body on a runtime of several.
#[tonic::async_trait(?Send)]
impl Cluster for ProcessCluster {
    fn driver(&self) -> &'static str {
        "processes"
    }

    fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    fn client(&self, id: &str, client_id: &str) -> Result<Client, ClientError> {
        Client::new(&self.address(id), client_id)
    }

    fn old_client(&self, id: &str) -> Result<OldClient, ClientError> {
        OldClient::new(&self.address(id))
    }

    async fn crash(&mut self, id: &str) -> Result<(), ClusterError> {
        self.node(id).kill();
        Ok(())
    }

    async fn stop(&mut self, id: &str) -> Result<(), ClusterError> {
        let node = self.node(id);
        node.signal("TERM")?;
        match node.wait(READY_WITHIN)? {
            status if status.success() => Ok(()),
            status => Err(node.failed(format!("ended with {status} when it was told to stop"))),
        }
    }

    async fn restart(&mut self, id: &str) -> Result<(), ClusterError> {
        self.node(id).kill();
        self.spawn(id)?;
        self.node(id).wait_ready(READY_WITHIN)
    }

    async fn inject(&mut self, fault: &Fault) -> Result<(), ClusterError> {
        match fault {
            Fault::Crash { node } => self.crash(node).await,
            Fault::Hang { node } => self.node(node).signal("STOP"),
            other => Err(unsupported(other)),
        }
    }

    async fn heal(&mut self, fault: &Fault) -> Result<(), ClusterError> {
        match fault {
            Fault::Crash { node } => self.restart(node).await,
            Fault::Hang { node } => self.node(node).signal("CONT"),
            other => Err(unsupported(other)),
        }
    }
}

fn unsupported(fault: &Fault) -> ClusterError {
    let why = match fault {
        Fault::Lie { .. } => "processes speak to each other without anyone between them",
        Fault::Revise { .. } | Fault::Replace { .. } => "all processes are started over the same data",
        _ => "all processes share one loopback interface",
    };
    ClusterError::Unsupported { driver: "processes", fault: fault.clone(), why }
}

impl Drop for ProcessCluster {
    fn drop(&mut self) {
        for node in self.nodes.values_mut() {
            node.kill();
        }
        if std::thread::panicking() {
            for node in self.nodes.values() {
                eprintln!("--- node {} (last lines of standard error)\n{}", node.id, node.log());
            }
        }
    }
}

/// One process of `overlay node`. Dropping it kills the process.
#[must_use = "dropping a node kills it"]
pub struct RunningNode {
    id: String,
    child: Child,
    lines: Receiver<String>,
    stderr: PathBuf,
}

impl RunningNode {
    /// Starts `overlay node --id ID` with more arguments; its standard error goes to a file in `folder`,
    /// behind what an earlier process of that id wrote there.
    ///
    /// # Errors
    /// [`ClusterError::Io`] if the process cannot be started.
    pub fn spawn(
        binary: &Path,
        id: &str,
        arguments: impl IntoIterator<Item = OsString>,
        folder: &Path,
    ) -> Result<Self, ClusterError> {
        Self::spawn_by(Command::new(binary), id, arguments, folder)
    }

    fn spawn_by(
        mut command: Command,
        id: &str,
        arguments: impl IntoIterator<Item = OsString>,
        folder: &Path,
    ) -> Result<Self, ClusterError> {
        let stderr = folder.join(format!("{id}.stderr"));
        let log = File::options().create(true).append(true).open(&stderr);
        let log = log.map_err(io_error(format!("open `{}`", stderr.display())))?;
        let mut child = command
            .args(["node", "--stop-with-stdin", "--id", id])
            .args(arguments)
            // The child keeps the other end open as long as this process lives, and stops when it ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(io_error(format!("start `{}`", command.get_program().display())))?;
        let (send, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            // Reads on after the ready line, or the pipe would fill and the node would block.
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = send.send(line);
                }
            });
        }
        Ok(RunningNode { id: id.to_owned(), child, lines, stderr })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of its standard error.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(&self.stderr).unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    /// The next line of its standard output, which is JSON; `None` once it has ended.
    ///
    /// # Errors
    /// [`ClusterError::Process`] if none comes in time, or it is not JSON.
    pub fn next_line(&self, within: Duration) -> Result<Option<Value>, ClusterError> {
        match self.lines.recv_timeout(within) {
            Ok(line) => {
                let json = serde_json::from_str(&line);
                json.map(Some).map_err(|_| self.failed(format!("wrote `{line}`, which is not JSON")))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => Err(self.failed(format!("wrote nothing within {within:?}"))),
        }
    }

    /// Waits for the ready line.
    ///
    /// # Errors
    /// [`ClusterError::Process`] if the process ends before, or the time does.
    pub fn wait_ready(&mut self, within: Duration) -> Result<(), ClusterError> {
        let end = Instant::now() + within;
        loop {
            match self.next_line(end.saturating_duration_since(Instant::now()))? {
                Some(line) if line["ready"] == true => return Ok(()),
                Some(_) => {}
                None => {
                    let status = self.child.wait().map_err(io_error("wait for a node"))?;
                    return Err(self.failed(format!("ended before it was ready: {status}")));
                }
            }
        }
    }

    /// Kills it with signal 9 and waits until it is gone. One that has ended already stays as it is.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// [`ClusterError::Process`] if it does not end in time.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus, ClusterError> {
        let end = Instant::now() + within;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().map_err(io_error("wait for a node"))? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(self.failed(format!("still runs after {within:?}")))
    }

    /// Closes its standard input, as the death of this process does.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Sends a signal by name: `TERM`, `STOP`, `CONT`.
    ///
    /// # Errors
    /// [`ClusterError::Io`] if it cannot be sent, or the system has no signals.
    pub fn signal(&self, name: &str) -> Result<(), ClusterError> {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        let sent = sent.and_then(|status| match status.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("kill ended with {status}"))),
        });
        sent.map_err(io_error(format!("send {name} to node `{}`", self.id)))
    }

    fn failed(&self, what: String) -> ClusterError {
        ClusterError::Process { id: self.id.clone(), what, log: self.log() }
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        self.kill();
    }
}
