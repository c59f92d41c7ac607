//! The node's own admission and compute slots under a workload.
//!
//! Each query is a task: it waits for its slots, then reads its pieces one after the other, each under a compute slot, as
//! a holder does. Estimates are exact, so nothing is trued up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use overlay::admission::{
    ClientKey, ComputeLimits, ComputeSlots, Order, QueryAdmission, QueryCost, QueryLimits, Requester, Weights,
};
use overlay::config::Fairness;
use tokio::time::Instant;

use super::{Arrival, NodeModel, Outcome, Policy, Run, Served, Workload};

/// Runs the workload under one of the node's strategies.
///
/// # Panics
/// Inside of a Tokio runtime: it has one of its own, whose clock it drives.
pub fn run(policy: Policy, fairness: Fairness, workload: &Workload) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O takes nothing from the system");
    runtime.block_on(async {
        let node = Arc::new(Node::new(fairness, workload));
        let tasks: Vec<_> = workload
            .arrivals
            .iter()
            .map(|arrival| tokio::spawn(node.clone().query(arrival.clone())))
            .collect();
        let mut queries = Vec::new();
        for task in tasks {
            queries.push(task.await.expect("a query does not panic"));
        }
        let served = std::mem::take(&mut *node.served.lock().expect("nobody panics"));
        Run { policy, queries, served }
    })
}

struct Node {
    model: NodeModel,
    admission: QueryAdmission,
    compute: ComputeSlots,
    began: Instant,
    served: Mutex<Vec<Served>>,
}

impl Node {
    fn new(fairness: Fairness, workload: &Workload) -> Self {
        let model = workload.node.clone();
        let weights =
            Weights { teams: workload.weights.teams.clone(), clients: workload.weights.clients.clone() };
        let limits = QueryLimits {
            max_active: model.max_active,
            per_team_limit: model.per_team_limit,
            queue_length: model.queue_length,
            max_bypass: model.max_bypass,
            fairness,
            weights: weights.clone(),
        };
        // A query has one piece at a time.
        let compute_limits = ComputeLimits {
            slots: model.compute_slots,
            queue_length: model.max_active,
            quantum_rows: model.quantum_rows,
            order: Order::InTurn,
            what: ["piece of work waiting", "pieces of work waiting"],
            limiting_factor: "compute_slots",
        };
        let compute = ComputeSlots::new(compute_limits, weights);
        Node {
            admission: QueryAdmission::new(limits),
            compute,
            model,
            began: Instant::now(),
            served: Mutex::default(),
        }
    }

    async fn query(self: Arc<Self>, arrival: Arrival) -> Outcome {
        let due = self.began + Duration::from_millis(arrival.at_ms);
        tokio::time::sleep_until(due).await;
        // All wait for equally long, so who came first is due first. Each client has an address of its own, so that its weight is its share.
        let client = ClientKey::new(arrival.client.as_str(), "");
        let teams = arrival.rows.iter().map(|(team, rows)| (Arc::from(team.as_str()), *rows)).collect();
        let cost = QueryCost { client: client.clone(), request_id: None, teams };
        let Ok(_permit) = self.admission.admit(cost).await else {
            return Outcome::Refused;
        };
        let mut started_ms = None;
        for (team, rows) in arrival.pieces(self.model.quantum_rows) {
            let requester = Requester { team: team.into(), client: client.clone(), due };
            let slot = self.compute.acquire(&requester, rows).await;
            let _slot = slot.expect("the queue has room for every running query");
            let from_ms = self.now_ms();
            started_ms.get_or_insert(from_ms);
            tokio::time::sleep(Duration::from_millis(self.model.piece_ms(rows))).await;
            let client = arrival.client.clone();
            let served = Served { client, team: team.to_owned(), from_ms, until_ms: self.now_ms(), rows };
            self.served.lock().expect("nobody panics").push(served);
        }
        let ended_ms = self.now_ms();
        Outcome::Answered { started_ms: started_ms.unwrap_or(ended_ms), ended_ms }
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}
