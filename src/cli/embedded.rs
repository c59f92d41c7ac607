//! Several nodes inside this process, on real listeners: for `overlay demo` and `overlay up --embedded`.

use std::path::PathBuf;
use std::sync::Arc;

use super::Failure;
use super::node::{failure, listen};
use super::up::{loading_bar, rows_loaded};
use crate::config::{NodeId, Overlay};
use crate::node::{Loading, Node, NodeError, Setup};
use crate::outside::{Incoming, Outside};
use crate::state::Stop;

/// Nodes that run until they are stopped or dropped.
pub(crate) struct Embedded {
    nodes: Vec<Node>,
}

impl Embedded {
    /// Starts the processes `ids` of a configuration at their configured addresses.
    pub(crate) async fn start(
        overlay: Arc<Overlay>,
        ids: &[NodeId],
        root: Option<PathBuf>,
        watch: bool,
    ) -> Result<Self, Failure> {
        let mut listeners = Vec::new();
        for id in ids {
            let address = overlay.process(id).map(|process| process.address()).unwrap_or_default();
            listeners.push((id.clone(), listen(&address).await?.0));
        }
        Self::start_on(overlay, listeners, root, watch).map_err(failure)
    }

    /// Starts the processes of a configuration on free loopback ports, which it then names.
    pub(crate) async fn start_on_free_ports(
        mut overlay: Overlay,
        root: Option<PathBuf>,
    ) -> Result<(Self, Arc<Overlay>), Failure> {
        let mut listeners = Vec::new();
        for (id, process) in &mut overlay.processes {
            let (incoming, bound) = listen("127.0.0.1:0").await?;
            process.host = bound.ip().to_string();
            process.port = bound.port();
            listeners.push((id.clone(), incoming));
        }
        let overlay = Arc::new(overlay);
        let nodes = Self::start_on(overlay.clone(), listeners, root, false).map_err(failure)?;
        Ok((nodes, overlay))
    }

    fn start_on(
        overlay: Arc<Overlay>,
        listeners: Vec<(NodeId, Incoming)>,
        root: Option<PathBuf>,
        watch: bool,
    ) -> Result<Self, NodeError> {
        let start = |(id, incoming)| {
            Node::start(Setup {
                overlay: overlay.clone(),
                id,
                dataset_root: root.clone(),
                strict: false,
                load_threads: 1,
                watch,
                outside: Outside::system(),
                incoming,
            })
        };
        Ok(Embedded { nodes: listeners.into_iter().map(start).collect::<Result<_, _>>()? })
    }

    /// Waits until every node has loaded its data, with a progress bar on a terminal.
    pub(crate) async fn ready(&self) -> Result<(), NodeError> {
        let bar = loading_bar(self.nodes.len());
        for node in &self.nodes {
            let ready = node.ready();
            tokio::pin!(ready);
            loop {
                tokio::select! {
                    ready = &mut ready => {
                        ready?;
                        bar.inc(1);
                        break;
                    }
                    () = tokio::time::sleep(std::time::Duration::from_millis(50)) => {
                        bar.set_message(rows_loaded(self.rows()));
                    }
                }
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn rows(&self) -> u64 {
        let rows = |node: &Node| match &*node.loading().borrow() {
            Loading::Running(progress) => progress.rows,
            _ => node.state().holder.store().map_or(0, |store| store.row_count()),
        };
        self.nodes.iter().map(rows).sum()
    }

    /// Tells every node to finish what runs and to stop.
    pub(crate) fn stop(&self) {
        for node in &self.nodes {
            node.stop(Stop::Graceful);
        }
    }

    /// Waits for the next node to end; `None` once none is left.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next_ended(&mut self) -> Option<(NodeId, Result<(), NodeError>)> {
        if self.nodes.is_empty() {
            return None;
        }
        let ends = self.nodes.iter_mut().map(|node| Box::pin(node.finished()));
        let (ended, index, _) = futures::future::select_all(ends).await;
        let node = self.nodes.remove(index);
        Some((node.state().process.id.clone(), ended))
    }
}
