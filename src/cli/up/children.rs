//! The child processes of `overlay up`: started, listened to, stopped.
//!
//! Each holds one end of a pipe whose other end is ours. When we end, however we end, the pipe closes and
//! it stops.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Endings;
use crate::cli::node::Signals;
use crate::cli::tell::{is_json, of_process};
use crate::config::NodeId;

/// Events that wait for us; beyond them children wait with what they say.
const EVENTS_WAITING: usize = 64;

/// Where the lines of a log go, and what a line of a node becomes there.
type Log = (Box<dyn Write + Send>, fn(&str, &str) -> String);

/// What a child said, or that it is no more.
pub(super) enum Event {
    Said(NodeId, Value),
    Exited(NodeId, ExitStatus),
}

/// The processes that we started and that still run. Dropping it ends them.
pub(super) struct Children {
    /// Taking a pipe away tells its node to stop.
    running: BTreeMap<NodeId, Option<ChildStdin>>,
    events: mpsc::Receiver<Event>,
    /// What the tasks that follow the children send on.
    sender: mpsc::Sender<Event>,
    kill: CancellationToken,
}

impl Children {
    pub(super) fn new() -> Self {
        let (sender, events) = mpsc::channel(EVENTS_WAITING);
        Children { running: BTreeMap::new(), events, sender, kill: CancellationToken::new() }
    }

    /// Starts one; its log goes to a file in `log_dir`, or else to standard error with its name.
    pub(super) fn start(
        &mut self,
        mut command: Command,
        id: &NodeId,
        log_dir: Option<&Path>,
    ) -> io::Result<()> {
        let log: Log = match log_dir {
            Some(folder) => {
                (Box::new(File::create(folder.join(format!("{id}.log")))?), |_, line| line.to_owned())
            }
            None if is_json() => (Box::new(io::stderr()), of_process),
            None => (Box::new(io::stderr()), |id, line| format!("[{id}] {line}")),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // Ctrl-C on the terminal is for us alone; we pass it on.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn()?;
        self.running.insert(id.clone(), child.stdin.take());
        tokio::spawn(follow(child, id.clone(), log, self.sender.clone(), self.kill.clone()));
        Ok(())
    }

    /// Whether none runs.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// Waits for what comes next.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Event {
        let event = self.events.recv().await.expect("we hold a sender ourselves");
        if let Event::Exited(id, _) = &event {
            self.running.remove(id);
        }
        event
    }

    /// Closes the pipes, so that every node finishes what runs. Kills those that take longer than `within`,
    /// and at a signal all, which is no bad end then.
    pub(super) async fn stop(&mut self, within: Duration, signals: &mut Signals, endings: &mut Endings) {
        for stdin in self.running.values_mut() {
            stdin.take();
        }
        let late = tokio::time::sleep(within);
        tokio::pin!(late);
        let (mut told_again, mut killed) = (false, false);
        while !self.is_empty() {
            tokio::select! {
                biased;
                event = self.next() => match event {
                    Event::Exited(id, status) if !told_again => endings.exited(&id, status),
                    _ => {}
                },
                () = signals.recv(), if !told_again => {
                    told_again = true;
                    self.kill.cancel();
                }
                () = &mut late, if !killed => {
                    killed = true;
                    self.kill.cancel();
                }
            }
        }
    }
}

/// Reads what a child says until it ends, and kills it if told to.
async fn follow(
    mut child: Child,
    id: NodeId,
    (mut log, shown): Log,
    events: mpsc::Sender<Event>,
    kill: CancellationToken,
) {
    let stdout = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
    let stderr = child.stderr.take().map(|stderr| BufReader::new(stderr).lines());
    let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) else {
        return;
    };
    let (mut stdout_open, mut stderr_open, mut killed) = (true, true, false);
    while stdout_open || stderr_open {
        tokio::select! {
            line = stdout.next_line(), if stdout_open => match line {
                Ok(Some(line)) => {
                    if let Ok(line) = serde_json::from_str(&line) {
                        let _ = events.send(Event::Said(id.clone(), line)).await;
                    }
                }
                _ => stdout_open = false,
            },
            line = stderr.next_line(), if stderr_open => match line {
                Ok(Some(line)) => drop(log.write_all((shown(&id, &line) + "\n").as_bytes())),
                _ => stderr_open = false,
            },
            () = kill.cancelled(), if !killed => {
                killed = true;
                drop(child.start_kill());
            }
        }
    }
    if let Ok(status) = child.wait().await {
        let _ = events.send(Event::Exited(id, status)).await;
    }
}
