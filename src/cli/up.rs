//! `overlay up`: every process of a configuration that belongs to this host.
//!
//! The children hold one end of a pipe whose other end is ours. When we end, however we end, the pipe
//! closes and they stop: no orphan survives, not even a kill that we never see.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use super::embedded::Embedded;
use super::node::Signals;
use super::{Failure, ProfileName, dataset_root, read_overlay, runtime};
use crate::client::Client;
use crate::config::{NodeId, Overlay, Process};

/// How long the nodes may take to answer healthy once their data are loaded.
const HEALTHY_WITHIN: Duration = Duration::from_secs(10);

/// How long children may take beyond the grace time before they are killed.
const BEYOND_GRACE: Duration = Duration::from_secs(2);

/// Start every process of a configuration that belongs to this host.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay up --dataset-root DIR
  overlay up --config configs/two_hosts_config.json --host 192.168.1.1 --dataset-root DIR
  overlay up --embedded --profile balanced

Prints `ready: A at HOST:PORT` when all answer healthy. Ctrl-C or SIGTERM stops them all; a second
one ends them at once.")]
pub(crate) struct Up {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "configs/one_host_config.json")]
    config: PathBuf,
    /// Where the day folders are (default: dataset_root of the configuration)
    #[arg(long, value_name = "DIR")]
    dataset_root: Option<PathBuf>,
    /// The strategies, instead of the configuration's
    #[arg(long)]
    profile: Option<ProfileName>,
    /// Start the processes whose host is this one (default: all, where all are loopback)
    #[arg(long, value_name = "ADDR")]
    host: Option<String>,
    /// Run the nodes inside this process
    #[arg(long)]
    embedded: bool,
    /// Write each node's log to a file here instead of to standard error
    #[arg(long, value_name = "DIR", conflicts_with = "embedded")]
    log_dir: Option<PathBuf>,
}

impl Up {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let overlay = read_overlay(&self.config, self.profile)?;
        let local = local_processes(&overlay, self.host.as_deref())?;
        let root = dataset_root(self.dataset_root.clone(), &overlay);
        if root.is_none() && local.iter().any(|process| overlay.leader().id != process.id) {
            return Err(Failure::usage(
                "no dataset root",
                "give --dataset-root DIR, or dataset_root in the configuration; fixtures/airnow has a small one",
            ));
        }
        let runtime = runtime()?;
        let result = match self.embedded {
            true => runtime.block_on(embedded(overlay, local, root)),
            false => runtime.block_on(self.children(&overlay, &local, root)),
        };
        runtime.shutdown_background();
        result
    }

    async fn children(
        &self,
        overlay: &Overlay,
        local: &[Process],
        root: Option<PathBuf>,
    ) -> Result<(), Failure> {
        let mut signals = Signals::new()?;
        if let Some(folder) = &self.log_dir {
            std::fs::create_dir_all(folder).map_err(|error| {
                std::io::Error::new(
                    error.kind(),
                    format!("cannot create the log folder {}: {error}", folder.display()),
                )
            })?;
        }
        let (events, mut said) = mpsc::unbounded_channel();
        let mut children = Children::default();
        for process in local {
            children.start(
                self.command(process, root.as_ref()),
                &process.id,
                self.log_dir.as_ref(),
                &events,
            )?;
        }
        drop(events);
        let progress = loading_bar(local.len());
        let started = loop {
            if children.ready.len() == local.len() {
                break healthy(overlay, local).await;
            }
            tokio::select! {
                biased;
                () = signals.recv() => break Err(None),
                said = said.recv() => match said {
                    Some(Event::Exited(id, status)) => {
                        children.running.remove(&id);
                        let error = format!("node `{id}` could not start: {status}");
                        let help = "its messages stand above, or in --log-dir; the other nodes were stopped";
                        break Err(Some(Failure::with_help(error, help)));
                    }
                    Some(event) => children.note(event, &progress),
                    None => break Err(Some("no node runs".into())),
                },
            }
        };
        progress.finish_and_clear();
        let outcome = match started {
            Ok(()) => {
                announce(overlay, local)?;
                serve(&mut children, &mut said, &mut signals).await;
                Ok(())
            }
            Err(None) => Ok(()),
            Err(Some(failure)) => Err(failure),
        };
        children.stop(&mut said, &mut signals, overlay.limits.grace() + BEYOND_GRACE).await;
        outcome
    }

    fn command(&self, process: &Process, root: Option<&PathBuf>) -> std::io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("node").arg("--config").arg(&self.config).args(["--id", process.id.as_str()]);
        command.arg("--stop-with-stdin");
        if let Some(root) = root {
            command.arg("--dataset-root").arg(root);
        }
        if let Some(profile) = self.profile {
            command.args(["--profile", profile.name()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // Ctrl-C on the terminal is for us alone; we pass it on.
        #[cfg(unix)]
        command.process_group(0);
        Ok(command)
    }
}

/// The processes that belong to this host.
fn local_processes(overlay: &Overlay, host: Option<&str>) -> Result<Vec<Process>, Failure> {
    let is_loopback = |host: &str| {
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    };
    let mut hosts: Vec<&str> = overlay.processes.values().map(|process| process.host.as_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    let local = |process: &&Process| match host {
        Some(host) => process.host == host,
        None => true,
    };
    let processes: Vec<Process> = overlay.processes.values().filter(local).cloned().collect();
    match host {
        Some(host) if processes.is_empty() => Err(Failure::usage(
            format!("no process has host `{host}` (hosts: {})", hosts.join(", ")),
            "give one of these with --host",
        )),
        None if !hosts.iter().all(|host| is_loopback(host)) => Err(Failure::usage(
            format!("the configuration has processes on several hosts ({})", hosts.join(", ")),
            "give this host's address with --host",
        )),
        _ => Ok(processes),
    }
}

/// What a child said, or that it is no more.
enum Event {
    Said(NodeId, serde_json::Value),
    Exited(NodeId, ExitStatus),
}

/// The processes that we started.
#[derive(Default)]
struct Children {
    running: BTreeMap<NodeId, (Option<ChildStdin>, mpsc::UnboundedSender<()>)>,
    ready: BTreeMap<NodeId, ()>,
    rows: BTreeMap<NodeId, u64>,
}

impl Children {
    fn start(
        &mut self,
        command: std::io::Result<Command>,
        id: &NodeId,
        log_dir: Option<&PathBuf>,
        events: &mpsc::UnboundedSender<Event>,
    ) -> Result<(), Failure> {
        let mut child = command?.spawn()?;
        let stdin = child.stdin.take();
        let (kill, killed) = mpsc::unbounded_channel();
        let log: Box<dyn Write + Send> = match log_dir {
            Some(folder) => Box::new(std::fs::File::create(folder.join(format!("{id}.log")))?),
            None => Box::new(Prefixed(format!("[{id}] "))),
        };
        tokio::spawn(follow(child, id.clone(), log, events.clone(), killed));
        self.running.insert(id.clone(), (stdin, kill));
        Ok(())
    }

    fn note(&mut self, event: Event, progress: &ProgressBar) {
        match event {
            Event::Said(id, line) if line["ready"] == true => {
                self.ready.insert(id, ());
            }
            Event::Said(id, line) => {
                if let Some(rows) = line["rows"].as_u64() {
                    self.rows.insert(id, rows);
                }
            }
            Event::Exited(id, status) => {
                eprintln!("warning: node `{id}` has ended: {status}");
                self.running.remove(&id);
            }
        }
        progress.set_position(self.ready.len() as u64);
        progress.set_message(format!("{} rows", self.rows.values().sum::<u64>()));
    }

    /// Closes the pipes, so that every node finishes what runs; kills those that take too long.
    async fn stop(
        &mut self,
        said: &mut mpsc::UnboundedReceiver<Event>,
        signals: &mut Signals,
        within: Duration,
    ) {
        for (stdin, _) in self.running.values_mut() {
            stdin.take();
        }
        let late = tokio::time::sleep(within);
        tokio::pin!(late);
        let mut killed = false;
        while !self.running.is_empty() {
            tokio::select! {
                biased;
                event = said.recv() => match event {
                    Some(Event::Exited(id, _)) => drop(self.running.remove(&id)),
                    Some(Event::Said(..)) => {}
                    None => return,
                },
                () = signals.recv(), if !killed => {
                    killed = true;
                    self.kill();
                }
                () = &mut late, if !killed => {
                    killed = true;
                    self.kill();
                }
            }
        }
    }

    fn kill(&self) {
        for (_, kill) in self.running.values() {
            let _ = kill.send(());
        }
    }
}

/// Waits while the nodes serve, until a signal or until none is left.
async fn serve(children: &mut Children, said: &mut mpsc::UnboundedReceiver<Event>, signals: &mut Signals) {
    let quiet = ProgressBar::hidden();
    while !children.running.is_empty() {
        tokio::select! {
            biased;
            () = signals.recv() => return,
            event = said.recv() => match event {
                Some(event) => children.note(event, &quiet),
                None => return,
            },
        }
    }
}

/// Reads what a child says until it ends, and kills it if told to.
async fn follow(
    mut child: Child,
    id: NodeId,
    mut log: Box<dyn Write + Send>,
    events: mpsc::UnboundedSender<Event>,
    mut kill: mpsc::UnboundedReceiver<()>,
) {
    let stdout = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
    let stderr = child.stderr.take().map(|stderr| BufReader::new(stderr).lines());
    let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) else {
        return;
    };
    let (mut stdout_open, mut stderr_open) = (true, true);
    while stdout_open || stderr_open {
        tokio::select! {
            line = stdout.next_line(), if stdout_open => match line {
                Ok(Some(line)) => {
                    if let Ok(line) = serde_json::from_str(&line) {
                        let _ = events.send(Event::Said(id.clone(), line));
                    }
                }
                _ => stdout_open = false,
            },
            line = stderr.next_line(), if stderr_open => match line {
                Ok(Some(line)) => drop(writeln!(log, "{line}")),
                _ => stderr_open = false,
            },
            Some(()) = kill.recv() => drop(child.start_kill()),
        }
    }
    if let Ok(status) = child.wait().await {
        let _ = events.send(Event::Exited(id, status));
    }
}

/// Writes lines to standard error, each behind the node's name.
struct Prefixed(String);

impl Write for Prefixed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut stderr = std::io::stderr().lock();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if line != b"\n" {
                stderr.write_all(self.0.as_bytes())?;
            }
            stderr.write_all(line)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn loading_bar(nodes: usize) -> ProgressBar {
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(Some(nodes as u64), target);
    let style = ProgressStyle::with_template("loading {bar:30} {pos} of {len} nodes ready, {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Waits until every node answers that it is ready; `Err(None)` never.
async fn healthy(overlay: &Overlay, local: &[Process]) -> Result<(), Option<Failure>> {
    let deadline = tokio::time::Instant::now() + HEALTHY_WITHIN;
    for process in local {
        let client = Client::new(&process.address(), "overlay up").map_err(|error| Some(error.into()))?;
        loop {
            let answer = tokio::time::timeout_at(deadline, client.metrics()).await;
            match answer {
                Ok(Ok(metrics)) if metrics.ready => break,
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(_) => {
                    let error =
                        format!("node `{}` at {} does not answer healthy", process.id, process.address());
                    let help = "check host and port in the configuration, and the firewall";
                    return Err(Some(Failure::with_help(error, help)));
                }
            }
        }
    }
    let _ = overlay;
    Ok(())
}

/// Says where queries go: to the leader, or on a host without it to the node nearest to it.
fn announce(overlay: &Overlay, local: &[Process]) -> std::io::Result<()> {
    let nearest = local.iter().min_by_key(|process| (overlay.distance_from_leader(&process.id), &process.id));
    let mut stdout = std::io::stdout().lock();
    if let Some(process) = nearest {
        writeln!(stdout, "ready: {} at {}", process.id, process.address())?;
    }
    stdout.flush()
}

async fn embedded(overlay: Arc<Overlay>, local: Vec<Process>, root: Option<PathBuf>) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let ids: Vec<NodeId> = local.iter().map(|process| process.id.clone()).collect();
    let mut nodes = Embedded::start(overlay.clone(), &ids, root).await?;
    tokio::select! {
        biased;
        () = signals.recv() => return Ok(()),
        ready = nodes.ready() => ready?,
    }
    announce(&overlay, &local)?;
    tokio::select! {
        biased;
        () = signals.recv() => {}
        ended = nodes.any_failed() => return Err(ended.into()),
    }
    tokio::select! {
        biased;
        () = signals.recv() => {}
        () = nodes.stop() => {}
    }
    Ok(())
}
