//! `overlay node`: one process of a configuration.
//!
//! Once it listens it prints one line, `{"node":"A","address":"127.0.0.1:60051"}`, while it loads one with
//! the `"rows"` so far now and then, and one with `"ready":true` when its data are loaded, so that whoever
//! started it need not poll.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Failure, check_dataset_root, dataset_root, read_overlay, runtime};
use crate::config::{NodeId, Overlay};
use crate::node::{Loading, Node, NodeError, Setup};
use crate::outside::{Outside, incoming_tcp};
use crate::state::Stop;

/// Between two lines that say how far loading has come.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Run one process of a configuration.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay node --config configs/one_host_config.json --id A
  overlay node --config configs/two_hosts_config.json --id D --dataset-root DIR --bind 0.0.0.0

SIGTERM and Ctrl-C stop it gracefully: it takes no query any more, finishes what runs within \
limits.grace_ms, and exits 0. A second signal ends it at once.")]
pub(crate) struct NodeArguments {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "configs/one_host_config.json")]
    config: PathBuf,
    /// Which of its processes to run
    #[arg(long, value_name = "ID")]
    id: String,
    /// Where the day folders are (default: dataset_root of the configuration)
    #[arg(long, value_name = "DIR")]
    dataset_root: Option<PathBuf>,
    /// The address to listen on, with or without a port (default: the process's host and port)
    #[arg(long, value_name = "ADDR")]
    bind: Option<String>,
    /// Rows of a chunk of the fixed strategy
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    chunk_size: Option<u32>,
    /// Seconds that a result set stays after its last touch
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    result_ttl: Option<u64>,
    /// The strategies, instead of the configuration's
    #[arg(long)]
    profile: Option<super::ProfileName>,
    /// Refuse to start if any row does not parse
    #[arg(long)]
    strict: bool,
    /// Go on looking for new and changed files, and take their data when they are whole
    #[arg(long)]
    watch: bool,
    /// Stop when standard input ends: whoever holds it open has died
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

impl NodeArguments {
    /// Which process it is.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut overlay = Arc::unwrap_or_clone(read_overlay(&self.config, self.profile)?);
        if let Some(rows) = self.chunk_size {
            overlay.strategies.chunk_size = rows;
        }
        if let Some(seconds) = self.result_ttl {
            overlay.limits.result_ttl_ms = seconds * 1000;
            overlay.limits.result_max_age_ms = overlay.limits.result_max_age_ms.max(seconds * 1000);
        }
        // Dropping the runtime must not wait for a piece of work that still loads.
        let runtime = runtime()?;
        let result = runtime.block_on(self.serve(Arc::new(overlay)));
        runtime.shutdown_background();
        result
    }

    async fn serve(self, overlay: Arc<Overlay>) -> Result<(), Failure> {
        let id = NodeId::from(self.id.as_str());
        // Installed first, so that no signal after the line below ends the process halfway.
        let mut signals = Signals::new()?;
        let address = bind_address(&overlay, &self.id, self.bind.as_deref())?;
        let root = dataset_root(self.dataset_root, &overlay);
        if let Some(root) = root.as_ref().filter(|_| overlay.leader().id != id) {
            check_dataset_root(root)?;
        }
        let (incoming, bound) = listen(&address).await?;
        say(&json!({"node": self.id, "address": bound.to_string()}))?;
        let mut node = Node::start(Setup {
            dataset_root: root,
            overlay,
            id,
            strict: self.strict,
            load_threads: 1,
            watch: self.watch,
            outside: Outside::system(),
            incoming,
        })
        .map_err(failure)?;
        let state = node.state().clone();
        let progress = tell_progress(&self.id, node.loading(), say);
        tokio::pin!(progress);
        let mut told = false;
        let stdin_ends = stdin_ends(self.stop_with_stdin);
        tokio::pin!(stdin_ends);
        let mut orphaned = false;
        loop {
            tokio::select! {
                biased;
                ended = node.finished() => return ended.map_err(failure),
                () = signals.recv() => {
                    let how = if *state.stop.borrow() == Stop::Running { Stop::Graceful } else { Stop::AtOnce };
                    state.stop(how);
                }
                () = &mut stdin_ends, if !orphaned => {
                    orphaned = true;
                    state.stop(Stop::Graceful);
                }
                done = &mut progress, if !told => {
                    told = true;
                    done?;
                }
            }
        }
    }
}

/// The failure of a command that runs nodes, with the next step.
pub(super) fn failure(error: NodeError) -> Failure {
    match error {
        NodeError::UnknownProcess { .. } => Failure::usage(error, "choose one with --id"),
        NodeError::NoDatasetRoot(_) => Failure::usage(error, "fixtures/airnow has a small dataset"),
        NodeError::Security(_) => Failure::usage(
            error,
            "a node reads its certificate and key, the CA and the tokens as the user that it runs as: `chown USER FILE`; `overlay check-config`, run as that user, checks them all",
        ),
        NodeError::Load { .. } => Failure::with_help(
            error,
            "mend that file, or move it out of the dataset; `overlay verify-data-loading` names all that keep nodes from starting",
        ),
        NodeError::Serve { .. } => Failure::from(error),
    }
}

/// Says how far loading has come until the node is ready, which it says at once.
async fn tell_progress(
    id: &str,
    mut loading: watch::Receiver<Loading>,
    mut say: impl FnMut(&Value) -> std::io::Result<()>,
) -> std::io::Result<()> {
    loop {
        let ended = loading.wait_for(|loading| !matches!(loading, Loading::Running(_)));
        // Whether it ended, in what and why: the value tells.
        let _ = tokio::time::timeout(PROGRESS_EVERY, ended).await;
        let line = match &*loading.borrow() {
            Loading::Running(progress) => json!({"node": id, "rows": progress.rows}),
            Loading::Ready => json!({"node": id, "ready": true}),
            Loading::Failed(_) => return Ok(()),
        };
        say(&line)?;
        if line["ready"] == true {
            return Ok(());
        }
    }
}

/// Where a process listens: its configured address, or another one whose port may be left out.
fn bind_address(overlay: &Overlay, id: &str, bind: Option<&str>) -> Result<String, Failure> {
    let Some(process) = overlay.process(id) else {
        let known: Vec<String> = overlay.processes.keys().map(NodeId::to_string).collect();
        let error = NodeError::UnknownProcess { id: id.to_owned(), known: known.join(", ") };
        return Err(failure(error));
    };
    Ok(match bind {
        None => process.address(),
        Some(address) if address.parse::<SocketAddr>().is_ok() => address.to_owned(),
        Some(address) => match address.parse::<std::net::IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, process.port).to_string(),
            Err(_) if address.contains(':') => address.to_owned(),
            Err(_) => format!("{address}:{}", process.port),
        },
    })
}

/// Binds a listener, or says which address could not be had and what to do.
pub(crate) async fn listen(address: &str) -> Result<(crate::outside::Incoming, SocketAddr), Failure> {
    let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| {
        let help = cannot_listen(error.kind());
        let error = std::io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        Failure::with_help(error, help)
    })?;
    let bound = listener.local_addr()?;
    Ok((incoming_tcp(listener), bound))
}

/// What to do about an address that could not be had.
pub(super) fn cannot_listen(why: ErrorKind) -> &'static str {
    match why {
        ErrorKind::AddrInUse => "another process listens there: stop it, or choose another port",
        ErrorKind::AddrNotAvailable => {
            "this host has no such address: give --bind, or --host to `overlay up`, or correct the configuration"
        }
        _ => "check host and port in the configuration",
    }
}

/// Prints one line and makes sure that it is out.
fn say(line: &Value) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

async fn stdin_ends(watched: bool) {
    if !watched {
        return std::future::pending().await;
    }
    // A thread of its own: the runtime's reader of standard input cannot be cancelled.
    let (ended, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    });
    let _ = wait.await;
}

/// The signals that ask a process to stop.
pub(crate) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Installs the handlers.
    pub(crate) fn new() -> std::io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Signals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Signals {})
    }

    /// Waits for the next signal.
    pub(crate) async fn recv(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::LoadProgress;

    #[tokio::test(start_paused = true)]
    async fn progress_is_told_now_and_then_and_the_end_at_once() {
        let running = |rows| Loading::Running(LoadProgress { files_done: 1, files_total: 2, rows });
        let (sender, loading) = watch::channel(running(0));
        let started = tokio::time::Instant::now();
        let loads = async {
            for rows in 1..=8 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                sender.send_replace(running(rows));
            }
            sender.send_replace(Loading::Ready);
        };
        let mut said = Vec::new();
        let say = |line: &Value| {
            said.push((started.elapsed().as_millis(), line.to_string()));
            Ok(())
        };
        let (told, ()) = tokio::join!(tell_progress("B", loading, say), loads);
        told.unwrap();
        let lines = said.iter().map(|(at, line)| format!("{at} {line}")).collect::<Vec<_>>();
        assert_eq!(
            lines,
            [
                r#"100 {"node":"B","rows":3}"#,
                r#"200 {"node":"B","rows":6}"#,
                r#"240 {"node":"B","ready":true}"#,
            ]
        );
    }
}
