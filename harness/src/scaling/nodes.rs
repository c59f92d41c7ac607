//! Larger and larger overlays, simulated: how many messages a query takes, and what the leader keeps of it.
//!
//! Teams of three, each a team leader over two workers, lie below the leader, and own three days each, of which every member
//! answers one: an overlay of more nodes has more teams, and more days. Nothing is timed, so that equal plans come to equal
//! figures. Neighbours ask each other how they are so seldom that no such question falls between two counts of messages;
//! what they come to is counted for itself.

mod report;

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::Days;
use overlay::client::ClientError;
use overlay::coverage;
use overlay::day::Day;
use overlay::plan::Query;
use serde::Serialize;
use serde_json::json;
use tokio::runtime::Builder;

pub use self::report::Report;

use crate::calendar;
use crate::cluster::{Cluster, ClusterError, ClusterSpec, SimCluster, wait_until};
use crate::dataset::{DatasetError, DatasetSpec, evenly_spaced_hours};
use crate::oracle::TeamRange;
use crate::scratch;
use crate::topology::{Shape, TeamSpec, Topology, TopologyBuilder};

/// Members of a team, and its days.
const TEAM: usize = 3;

/// Stations of thin data: some ten rows a day. Dense data have ten times as many.
const THIN_SITES: u32 = 4;
const DENSE_SITES: u32 = 40;

/// Between two questions of the leader how the others are.
const PROBED_EVERY: Duration = Duration::from_secs(60);

/// The same for what neighbours ask each other on a connection.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Nodes of each overlay, four at least.
    pub nodes: Vec<usize>,
    /// Decides what the simulated network does.
    pub seed: u64,
}

/// What one overlay came to.
#[derive(Clone, Debug, Serialize)]
pub struct Size {
    /// Nodes.
    pub nodes: usize,
    /// Teams.
    pub teams: usize,
    /// Messages in which the leader asks once how all others are.
    pub probe_messages: u64,
    /// Rows of all days.
    pub rows: u64,
    /// Over thin data.
    pub thin: Vec<Asked>,
    /// Over ten times as many rows a day.
    pub dense: Vec<Asked>,
}

/// What one query came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// Teams whose days were wanted, the first ones.
    pub teams: usize,
    /// Days that were wanted.
    pub days: usize,
    /// Rows of the result.
    pub rows: u64,
    /// Nodes that a day was counted at.
    pub contributing: usize,
    /// Requests between nodes that days were counted with, as the answer has it.
    pub count_messages: u64,
    /// Chunks of the result.
    pub chunks: u32,
    /// All others until the last chunk was read, as the nodes' metrics have it.
    pub read_messages: u64,
    /// Bytes that the leader keeps under the lease.
    pub result_set_bytes: usize,
    /// Days of nodes whose statistics the leader knows, whatever was asked.
    pub known_days: usize,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    /// The data could not be made.
    #[error("make the data")]
    Data(#[from] DatasetError),
    /// There was no folder for them, or no runtime.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The overlay did not come up.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The leader did not hear of everybody.
    #[error("the leader of {nodes} nodes has not heard of all others after {PROBED_EVERY:?}")]
    Unheard {
        /// Nodes of the overlay.
        nodes: usize,
    },
    /// A query was not answered.
    #[error("ask for the days of {teams} teams")]
    Unanswered {
        /// Of the query.
        teams: usize,
        /// What came instead.
        source: Box<ClientError>,
    },
    /// Something else than a query was counted.
    #[error("{messages} messages passed between nodes while nobody asked anything")]
    Restless {
        /// How many.
        messages: u64,
    },
}

impl Plan {
    /// Measures every overlay; tells each as it begins.
    ///
    /// # Errors
    /// [`NodesError`] if the data cannot be made, an overlay does not start, or a query is not answered.
    pub fn run(&self, progress: impl Fn(&str)) -> Result<Report, NodesError> {
        let mut sizes = Vec::new();
        for &nodes in &self.nodes {
            progress(&format!("{nodes} nodes"));
            let topology = topology(nodes);
            let (thin, probe_messages) = self.measure(&topology, THIN_SITES)?;
            let (dense, _) = self.measure(&topology, DENSE_SITES)?;
            let rows = thin.last().map_or(0, |asked| asked.rows);
            let teams = topology.teams.len();
            sizes.push(Size { nodes, teams, probe_messages, rows, thin, dense });
        }
        Ok(Report::new(sizes))
    }

    /// What each query came to, and the messages of one probe of all nodes.
    fn measure(&self, topology: &Topology, sites: u32) -> Result<(Vec<Asked>, u64), NodesError> {
        let data = scratch::folder()?;
        let days = topology.teams.first().zip(topology.teams.last());
        let (first_day, last_day) = days.map_or((0, 0), |(first, last)| (first.first_day, last.last_day));
        let hours = evenly_spaced_hours(1);
        DatasetSpec { first_day, last_day, sites, hours, skipped_days: [].into(), ..DatasetSpec::default() }
            .write(data.path())?;
        let spec = ClusterSpec::of(topology, data.path()).with(json!({
            "strategies": {"forwarding": "parallel"},
            "limits": {
                "short_rows": 0, "probe_ms": PROBED_EVERY.as_millis() as u64, "keepalive_ms": KEEPALIVE.as_millis() as u64,
            },
        }));
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        runtime.block_on(async {
            let cluster = SimCluster::start(self.seed, spec).await?;
            let overlay = Simulated { cluster, topology };
            overlay.hears_of_all().await?;
            let before = overlay.messages();
            tokio::time::sleep(PROBED_EVERY).await;
            let probe_messages = overlay.messages() - before;
            let mut asked = Vec::new();
            for teams in questions(topology.teams.len()) {
                let unanswered = |source| NodesError::Unanswered { teams, source: Box::new(source) };
                asked.push(overlay.ask(teams).await.map_err(unanswered)?);
            }
            let before = overlay.messages();
            tokio::time::sleep(Duration::from_secs(1)).await;
            match overlay.messages() - before {
                0 => Ok((asked, probe_messages)),
                messages => Err(NodesError::Restless { messages }),
            }
        })
    }
}

/// One team, four and all, as far as there are so many.
fn questions(teams: usize) -> BTreeSet<usize> {
    [1, 4.min(teams), teams].into()
}

fn topology(nodes: usize) -> Topology {
    let members = nodes.saturating_sub(1).max(TEAM);
    let teams = members / TEAM;
    let first = calendar::date(DatasetSpec::default().first_day).expect("the generator's default");
    let day = |index: usize| calendar::number(first + Days::new(index as u64));
    let team = |index: usize| TeamSpec {
        range: TeamRange::new(&format!("team{index}"), day(index * TEAM), day((index + 1) * TEAM - 1)),
        // Those that are left over after division come to the first teams.
        weights: vec![1.0; members / teams + usize::from(index < members % teams)],
    };
    let teams = (0..teams).map(team).collect();
    TopologyBuilder { teams, ..TopologyBuilder::teams(&[1]) }.shape(Shape::Trees { fan_out: TEAM }).build()
}

struct Simulated<'a> {
    cluster: SimCluster,
    topology: &'a Topology,
}

impl Simulated<'_> {
    async fn hears_of_all(&self) -> Result<(), NodesError> {
        let nodes = self.topology.nodes.len();
        let relay = &self.cluster.node(self.topology.leader()).state().relay;
        let look = async || {
            let snapshot = relay.directory().snapshot();
            let serving = self.topology.ids().filter(|id| snapshot.serves(&(*id).into())).count();
            (serving + 1 >= nodes && snapshot.marked.is_empty()).then_some(())
        };
        wait_until(2 * PROBED_EVERY, look).await.ok_or(NodesError::Unheard { nodes })
    }

    /// Asks for all rows of the first teams, and reads them.
    async fn ask(&self, teams: usize) -> Result<Asked, ClientError> {
        let leader = self.topology.leader();
        let client = self.cluster.client(leader, "scaling")?;
        let day = |day: u32| Day::from_number(day.into()).ok();
        let query = Query { date_end: day(self.topology.teams[teams - 1].last_day), ..Query::default() };
        let before = self.messages();
        let result = client.query(&query).await?;
        let count_messages = result.statistics.iter().map(|hop| u64::from(hop.attempts)).sum();
        for index in 0..result.chunk_count() {
            client.chunk(&result, index).await?;
        }
        let state = self.cluster.node(leader).state();
        let known = &state.relay.directory().snapshot().inventories;
        let contributing: BTreeSet<&str> =
            coverage::rows_taken(&result.ledger).map(|(_, served)| served.node.as_str()).collect();
        let asked = Asked {
            teams,
            days: result.ledger.len(),
            rows: result.manifest.total_records,
            contributing: contributing.len(),
            count_messages,
            chunks: result.chunk_count(),
            read_messages: (self.messages() - before).saturating_sub(count_messages),
            result_set_bytes: state.coordinator.leases().bytes(),
            known_days: known.values().map(|inventory| inventory.days.len()).sum(),
        };
        client.cancel(&result).await?;
        Ok(asked)
    }

    /// Requests that all nodes have sent to neighbours so far, as their metrics have it.
    fn messages(&self) -> u64 {
        let sent = |id: &str| {
            let state = self.cluster.node(id).state();
            let exposition = state.metrics.exposition(&state.gauges());
            let requests = |line: &str| -> Option<u64> {
                line.strip_prefix("overlay_peer_requests_total{")?.rsplit(' ').next()?.parse().ok()
            };
            exposition.lines().filter_map(requests).sum::<u64>()
        };
        self.topology.ids().map(sent).sum()
    }
}
