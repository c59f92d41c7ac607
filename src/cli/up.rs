//! `overlay up`: every process of a configuration that belongs to this host.
//!
//! Nodes are child processes (`children`), of which no orphan survives, or run inside this one. A node that
//! was told to stop has ended, and the others go on. One that ended badly is not started again, which is for whoever
//! watches over processes, such as systemd: `up` says how, and fails at its own end.

mod children;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::process::Command;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use self::children::{Children, Event};
use super::embedded::Embedded;
use super::node::{Signals, cannot_listen, failure};
use super::output::counted;
use super::tell::tell_with_help;
use super::{Failure, ProfileName, check_dataset_root, dataset_root, read_overlay, runtime, tell};
use crate::config::{NodeId, Overlay, Process};
use crate::outside::{ConnectTcp, channel};
use crate::security::Security;

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
  overlay up --embedded --profile balanced --dataset-root DIR

Prints `ready: A at HOST:PORT` when all answer healthy. Ctrl-C or SIGTERM stops them all; a second \
one ends them at once. A node that is told to stop, as by `overlay shutdown`, leaves the others running. One that dies \
does so too and is not started again: a warning says how to. Exits 1 if a node could not start or ended badly.")]
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
    /// Go on looking for new and changed files, and take their data when they are whole
    #[arg(long)]
    watch: bool,
    /// Write each node's log to a file here instead of to standard error
    #[arg(long, value_name = "DIR", conflicts_with = "embedded")]
    log_dir: Option<PathBuf>,
}

impl Up {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let overlay = read_overlay(&self.config, self.profile)?;
        let local = local_processes(&overlay, self.host.as_deref())?;
        let root = dataset_root(self.dataset_root.clone(), &overlay);
        if local.iter().any(|process| overlay.leader().id != process.id) {
            let help = "give --dataset-root DIR, or dataset_root in the configuration; fixtures/airnow has a small one";
            check_dataset_root(root.as_ref().ok_or_else(|| Failure::usage("no dataset root", help))?)?;
        }
        check_addresses(&local)?;
        let endings = Endings::new(self.start_again(root.as_deref()));
        let runtime = runtime()?;
        let result = match self.embedded {
            true => runtime.block_on(embedded(overlay, local, root, self.watch, endings)),
            false => runtime.block_on(self.children(&overlay, &local, root, endings)),
        };
        runtime.shutdown_background();
        result
    }

    async fn children(
        &self,
        overlay: &Overlay,
        local: &[Process],
        root: Option<PathBuf>,
        mut endings: Endings,
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
        let mut children = Children::new();
        for process in local {
            let command = self.command(process, root.as_ref())?;
            children.start(command, &process.id, self.log_dir.as_deref())?;
        }
        let served = serve(overlay, local, &mut children, &mut signals, &mut endings).await;
        endings.start_again = None;
        children.stop(overlay.limits.grace() + BEYOND_GRACE, &mut signals, &mut endings).await;
        served.and(endings.outcome())
    }

    fn command(&self, process: &Process, root: Option<&PathBuf>) -> std::io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(self.node_arguments(root.map(|root| &**root)));
        command.args(["--stop-with-stdin", "--id", process.id.as_str()]);
        Ok(command)
    }

    /// What a person types to start a node again, but for its id.
    fn start_again(&self, root: Option<&Path>) -> String {
        let arguments = self.node_arguments(root);
        let words: Vec<_> = arguments.iter().map(|argument| quoted(&argument.to_string_lossy())).collect();
        format!("overlay {} --id", words.join(" "))
    }

    fn node_arguments(&self, root: Option<&Path>) -> Vec<OsString> {
        let mut arguments = vec!["node".into(), "--config".into(), self.config.clone().into_os_string()];
        if let Some(root) = root {
            arguments.extend(["--dataset-root".into(), root.as_os_str().to_owned()]);
        }
        if self.watch {
            arguments.push("--watch".into());
        }
        if let Some(profile) = self.profile {
            arguments.extend(["--profile".into(), profile.name().into()]);
        }
        arguments
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

/// Refuses addresses that cannot be had: all at once, and before any node starts.
fn check_addresses(local: &[Process]) -> Result<(), Failure> {
    let refused = local.iter().filter_map(|process| {
        let error = std::net::TcpListener::bind(process.address()).err()?;
        Some((format!("{} ({})", process.address(), process.id), error))
    });
    let (addresses, mut errors): (Vec<_>, Vec<_>) = refused.unzip();
    let Some(error) = errors.pop() else { return Ok(()) };
    let help = match error.kind() {
        ErrorKind::AddrInUse => {
            "an overlay may run there already: `overlay shutdown --all` stops it; or choose other ports in the configuration"
        }
        _ => cannot_listen(error.kind()),
    };
    Err(Failure::with_help(format!("cannot listen on {}: {error}", addresses.join(", ")), help))
}

/// Says when all children are ready, and waits until a signal comes or none is left.
async fn serve(
    overlay: &Overlay,
    local: &[Process],
    children: &mut Children,
    signals: &mut Signals,
    endings: &mut Endings,
) -> Result<(), Failure> {
    tokio::select! {
        biased;
        () = signals.recv() => return Ok(()),
        ready = ready(local, overlay, children) => ready?,
    }
    announce(overlay, local)?;
    while !children.is_empty() {
        tokio::select! {
            biased;
            () = signals.recv() => break,
            event = children.next() => if let Event::Exited(id, status) = event {
                endings.exited(&id, status);
            },
        }
    }
    Ok(())
}

/// Waits until every child has loaded its data and answers.
async fn ready(local: &[Process], overlay: &Overlay, children: &mut Children) -> Result<(), Failure> {
    let mut loading = Loading::new(loading_bar(local.len()));
    while loading.ready.len() < local.len() {
        match children.next().await {
            Event::Said(id, line) => loading.note(id, &line),
            Event::Exited(id, status) => {
                let error = format!("node `{id}` could not start: {status}");
                let help = "its messages stand above, or in --log-dir; the other nodes were stopped";
                return Err(Failure::with_help(error, help));
            }
        }
    }
    loading.bar.finish_and_clear();
    healthy(local, overlay).await
}

/// How far the children have come, from what they say.
struct Loading {
    rows: BTreeMap<NodeId, u64>,
    ready: BTreeSet<NodeId>,
    bar: ProgressBar,
}

impl Loading {
    fn new(bar: ProgressBar) -> Self {
        Loading { rows: BTreeMap::new(), ready: BTreeSet::new(), bar }
    }

    fn note(&mut self, id: NodeId, line: &serde_json::Value) {
        if let Some(rows) = line["rows"].as_u64() {
            self.rows.insert(id, rows);
        } else if line["ready"] == true {
            self.ready.insert(id);
        }
        self.bar.set_position(self.ready.len() as u64);
        self.bar.set_message(rows_loaded(self.rows.values().sum()));
    }
}

/// What the bar says behind the nodes that are ready.
pub(super) fn rows_loaded(rows: u64) -> String {
    format!("{} loaded", counted(rows, "row"))
}

/// What became of nodes that were to serve until they are told to stop.
struct Endings {
    badly: Vec<String>,
    /// The command that starts a node again, but for its id; none once all are to stop.
    start_again: Option<String>,
}

impl Endings {
    fn new(start_again: String) -> Self {
        Endings { badly: Vec::new(), start_again: Some(start_again) }
    }

    /// Says that a node has ended, and keeps in mind if it ended badly.
    fn note(&mut self, id: &NodeId, ended: Result<(), String>) {
        match ended {
            Ok(()) => tell(format!("note: node `{id}` has ended")),
            Err(why) => {
                let help =
                    self.start_again.as_ref().map(|command| format!("start it again with `{command} {id}`"));
                tell_with_help(
                    "warning",
                    &format!("node `{id}` has ended badly: {why}"),
                    &[],
                    help.as_deref(),
                );
                self.badly.push(format!("`{id}` ({why})"));
            }
        }
    }

    fn exited(&mut self, id: &NodeId, status: ExitStatus) {
        self.note(id, if status.success() { Ok(()) } else { Err(status.to_string()) });
    }

    fn outcome(self) -> Result<(), Failure> {
        match self.badly.is_empty() {
            true => Ok(()),
            false => Err(Failure::from(format!("nodes that ended badly: {}", self.badly.join(", ")))),
        }
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

/// Waits until every node says by the health service, which needs no token, that it is ready.
async fn healthy(local: &[Process], overlay: &Overlay) -> Result<(), Failure> {
    let tls = overlay.security.as_ref().and_then(|files| files.tls.as_ref());
    let security = Security::of_client(tls.map(|tls| tls.ca.as_path()), None)?;
    let deadline = tokio::time::Instant::now() + HEALTHY_WITHIN;
    for process in local {
        let address = process.address();
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let connect = security.connect(Arc::new(ConnectTcp));
        let mut health = HealthClient::new(channel(endpoint, connect, &address, HEALTHY_WITHIN));
        loop {
            let asked = health.check(HealthCheckRequest::default());
            match tokio::time::timeout_at(deadline, asked).await {
                Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => break,
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(_) => {
                    let error = format!("node `{}` at {address} does not answer healthy", process.id);
                    let help = "check host and port in the configuration, and the firewall";
                    return Err(Failure::with_help(error, help));
                }
            }
        }
    }
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

async fn embedded(
    overlay: Arc<Overlay>,
    local: Vec<Process>,
    root: Option<PathBuf>,
    watch: bool,
    mut endings: Endings,
) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let ids: Vec<NodeId> = local.iter().map(|process| process.id.clone()).collect();
    let mut nodes = Embedded::start(overlay.clone(), &ids, root, watch).await?;
    tokio::select! {
        biased;
        () = signals.recv() => return Ok(()),
        ready = nodes.ready() => ready.map_err(failure)?,
    }
    announce(&overlay, &local)?;
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            () = signals.recv() => {
                if stopping {
                    break;
                }
                stopping = true;
                endings.start_again = None;
                nodes.stop();
            }
            ended = nodes.next_ended() => match ended {
                Some((id, ended)) => endings.note(&id, ended.map_err(|error| error.to_string())),
                None => break,
            },
        }
    }
    endings.outcome()
}

/// A word as a shell takes it for one.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_adds_up_what_children_say() {
        let mut loading = Loading::new(ProgressBar::hidden());
        for (id, line) in [
            ("B", r#"{"node":"B","address":"127.0.0.1:60052"}"#),
            ("B", r#"{"node":"B","rows":1000}"#),
            ("C", r#"{"node":"C","rows":234}"#),
            ("B", r#"{"node":"B","rows":2000}"#),
            ("B", r#"{"node":"B","ready":true}"#),
        ] {
            loading.note(NodeId::from(id), &serde_json::from_str(line).unwrap());
        }
        assert_eq!((loading.bar.position(), &*loading.bar.message()), (1, "2,234 rows loaded"));
    }
}
